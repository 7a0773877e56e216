// tiles.h: work in tiles of a fixed size, in parallel, with sums that are added in the same order on any number of threads.
//
// A number has kWidth reals, 1 (real) or 2 (complex, interleaved). Inner loops run over the reals of a tile with unit
// stride, so the compiler vectorises them; `fold` and `expand` go between the reals and the numbers.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <new>

#include "isa.h"
#include "parallel.h"
#include "scalar_math.h"

// Calls kernel<kWidth, T> for the code of a real or complex type.
#define FASTRECON_SHRINKAGE(dtype, kernel, arguments)          \
  switch (dtype) {                                             \
    case kFloat32: return kernel<1, float> arguments;          \
    case kFloat64: return kernel<1, double> arguments;         \
    case kComplex64: return kernel<2, float> arguments;        \
    case kComplex128: return kernel<2, double> arguments;      \
  }

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
constexpr std::int64_t kTile = 256;            // pixels: 32 channels x 256 floats = 32 KiB, one first-level cache

FR_INLINE std::int64_t tiles_of(std::int64_t n, std::int64_t tile = kTile) { return (n + tile - 1) / tile; }
FR_INLINE std::int64_t smaller_of(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Memory that lives as long as one kernel call, from a whole cache line on.
template <typename T>
struct Scratch {
  T* data;
  FR_INLINE explicit Scratch(std::int64_t n) : data(static_cast<T*>(std::aligned_alloc(64, (n * sizeof(T) + 127) / 64 * 64))) {
    if (!data) throw std::bad_alloc();
  }
  FR_INLINE ~Scratch() { std::free(data); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

// The same, but a thread keeps up to kMostKept bytes for its next call: the system has to clear every page it gives anew,
// which takes longer than filling it. Uses that overlap differ in kUse.
constexpr std::size_t kMostKept = std::size_t(64) << 20;
constexpr int kRescaled = 100;  // the use of `Groups`; those of one file begin at 0

struct Block {
  void* data = nullptr;
  std::size_t size = 0;
  ~Block() { std::free(data); }
  void reserve(std::size_t bytes) {
    if (bytes <= size) return;
    std::free(data);
    size = 0;
    data = std::aligned_alloc(64, bytes);
    if (!data) throw std::bad_alloc();
    size = bytes;
  }
};

template <int kUse>
FR_INLINE Block& kept_block() {
  static thread_local Block block;
  return block;
}

template <typename T, int kUse>
struct Kept {
  T* data;
  FR_INLINE explicit Kept(std::int64_t n) {
    const std::size_t bytes = (n * sizeof(T) + 127) / 64 * 64;
    Block& block = bytes > kMostKept ? own_ : kept_block<kUse>();
    block.reserve(bytes);
    data = static_cast<T*>(block.data);
  }
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;

 private:
  Block own_;
};

// As many numbers as a vector of doubles has: what is computed in T and added up in double.
template <typename T>
struct NarrowOf {
  typedef T type __attribute__((vector_size(kLanes<double> * sizeof(T))));
};
template <typename T>
using Narrow = typename NarrowOf<T>::type;

template <typename T>
FR_INLINE Narrow<T> load_narrow(const T* p) {
  return get<Narrow<T>>(p);
}
template <typename V>
FR_INLINE Vec<double> widen(V v) {
  return __builtin_convertvector(v, Vec<double>);
}
FR_INLINE double sum_of_lanes(Vec<double> v) {
  double result = 0;
  for (int k = 0; k < kLanes<double>; ++k) result += v[k];
  return result;
}

// Sum of n numbers in double, in the lanes of four vectors that are added at the end: one would wait for every addition.
template <typename T>
FR_INLINE double sum(const T* x, std::int64_t n) {
  constexpr int lanes = kLanes<double>;
  Vec<double> total[4] = {};
  std::int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes)
    for (int k = 0; k < 4; ++k) total[k] += widen(load_narrow(x + i + k * lanes));
  for (; i + lanes <= n; i += lanes) total[0] += widen(load_narrow(x + i));
  double result = 0;
  for (; i < n; ++i) result += x[i];
  return result + sum_of_lanes((total[0] + total[1]) + (total[2] + total[3]));
}

// The first of n <= kTile numbers as they stand, if they fill vectors of doubles; else their copy with zeros after them.
template <typename T>
FR_INLINE const T* filled(const T* x, std::int64_t n, T* copy) {
  if (n % kLanes<double> == 0) return x;
  std::memcpy(copy, x, n * sizeof(T));
  std::memset(copy + n, 0, kLanes<double> * sizeof(T));
  return copy;
}

// Soft thresholding of a number or a vector; NaN comes through.
template <typename V>
FR_INLINE V soft(V v, V tau) {
  return larger(V{}, v - tau) + smaller(V{}, v + tau);
}

// out[i] = the sum of the reals of number i.
template <int kWidth, typename T>
FR_INLINE void fold(const T* in, T* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = kWidth == 1 ? in[i] : in[2 * i] + in[2 * i + 1];
}

// out = in, repeated for every real of a number.
template <int kWidth, typename T>
FR_INLINE void expand(const T* in, T* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i)
    for (int k = 0; k < kWidth; ++k) out[kWidth * i + k] = in[i];
}

// Groups g[:, i] of n <= kTile numbers of C channels `stride` reals apart, each times down[i] where its sum of squares is
// out of bounds: norm[i] = |h[:, i]| = down[i] |g[:, i]|. down is 1, and h is g itself, but for rare tiles. Of a group with
// infinities h is the direction, as of atan2, and down 0.
template <int kWidth, typename T>
struct Groups {
  const T* h;
  std::int64_t stride;
  T norm[kTile], down[kTile];

  FR_INLINE Groups(const T* g, std::int64_t C, std::int64_t apart, std::int64_t n) : h(g), stride(apart) {
    using std::int64_t;
    T square[kWidth * kTile] = {}, folded[kTile], lost[kTile];
    for (int64_t c = 0; c < C; ++c)
      for (int64_t i = 0; i < kWidth * n; ++i) square[i] += g[c * apart + i] * g[c * apart + i];
    fold<kWidth>(square, folded, n);
    for (int64_t i = 0; i < n; ++i) {
      lost[i] = folded[i] >= kSmallSquare<T> && folded[i] <= kLargest<T> ? T(0) : T(1);
      norm[i] = square_root(folded[i]);
      down[i] = 1;
    }
    if (sum(lost, n) != 0) rescale(g, C, n, folded);
  }
  Groups(const Groups&) = delete;
  Groups& operator=(const Groups&) = delete;
  FR_INLINE bool rescaled() const { return own_ != nullptr; }

 private:
  using int64_t = std::int64_t;
  T* own_ = nullptr;
  Block memory_;

  FR_INLINE void rescale(const T* g, int64_t C, int64_t n, T* folded) {
    const int64_t width = kWidth * n;
    const std::size_t bytes = (C * width * sizeof(T) + 127) / 64 * 64;
    Block& block = bytes > kMostKept ? memory_ : kept_block<kRescaled>();
    block.reserve(bytes);
    own_ = static_cast<T*>(block.data);
    T downs[kWidth * kTile], square[kWidth * kTile] = {}, largest[kWidth * kTile] = {};
    for (int64_t i = 0; i < n; ++i) down[i] = down_of(folded[i]);
    expand<kWidth>(down, downs, n);
    for (int64_t c = 0; c < C; ++c)
      for (int64_t i = 0; i < width; ++i) {
        const T v = g[c * stride + i] * downs[i];
        own_[c * width + i] = v;
        square[i] += v * v;
        largest[i] = at_least(magnitude(v), largest[i]);
      }
    fold<kWidth>(square, folded, n);
    for (int64_t i = 0; i < n; ++i) {
      norm[i] = square_root(folded[i]);
      const T most = kWidth == 1 ? largest[i] : at_least(largest[2 * i], largest[2 * i + 1]);
      if (most > kLargest<T> && norm[i] == norm[i]) point(i, C, width);
    }
    h = own_, stride = width;
  }

  // Group i, which holds infinities, becomes its direction.
  FR_INLINE void point(int64_t i, int64_t C, int64_t width) {
    T square = 0;
    for (int64_t c = 0; c < C; ++c)
      for (int k = 0; k < kWidth; ++k) {
        T& v = own_[c * width + kWidth * i + k];
        v = magnitude(v) > kLargest<T> ? with_sign(T(1), v) : T(0);
        square += v * v;
      }
    norm[i] = square_root(square);
    down[i] = 0;
  }
};

// norm[i] = |g[:, i]| for n <= kTile numbers of C channels `stride` reals apart.
template <int kWidth, typename T>
FR_INLINE void norms(const T* g, std::int64_t C, std::int64_t stride, std::int64_t n, T* norm) {
  const Groups<kWidth, T> groups(g, C, stride, n);
  for (std::int64_t i = 0; i < n; ++i) norm[i] = groups.norm[i] / groups.down[i];
}
}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
