// image_operator.h: operators whose iterations stay in a cache: masks, Fourier transforms with masks and coils, blur.
//
// The transforms are those of fft2.cpp, or of a library that the caller knows (fastrecon/ops/transforms.py): addresses
// of two functions and of what they call descriptors, for one thread. Nothing here is linked to it.
#pragma once
#include <stdexcept>
#include <type_traits>

#include "tiles.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
enum Transform : int { kMask = 0, kFourier = 1, kBlur = 2, kCentredFourier = 3 };  // zero frequency in the middle

struct Sizes {
  std::int64_t C, H, W, P, Q, coils;
  FR_INLINE std::int64_t coefficients() const { return C * P * Q; }
  FR_INLINE std::int64_t measurements() const { return (coils ? coils : C) * H * W; }
  FR_INLINE std::int64_t sections() const { return coils ? coils : 1; }  // whose sums are made one after the other
};

// The transform of `in` by the plan, or `back`, in place where `out` is null; numbers of kWidth reals each.
template <int kWidth, typename T>
FR_INLINE void compute(const Address* plan, bool back, T* in, T* out) {
  using Compute = long (*)(void*, void*, ...);
  if (plan[0] == 0) {
    const int dtype = (kWidth == 1 ? kFloat32 : kComplex64) + (sizeof(T) == 8);
    T *const to = out ? out : in, *const x = kWidth == 1 && back ? to : in, *const y = x == in ? to : in;
    return fft2(dtype, back, Address(x), Address(y), Address(plan), 1);
  }
  const auto call = reinterpret_cast<Compute>(plan[back]);
  void* const what = reinterpret_cast<void*>(plan[2 + back]);
  if ((out ? call(what, in, out) : call(what, in)) != 0) throw std::runtime_error("a Fourier transform failed");
}

// f(i, at, whole, n) for the runs of numbers first + i <= ... < first + i + n of [C, H, W] that lie in one piece of
// [C, P, Q] too, there from `whole` on; `at` is their place in [H, W].
template <typename F>
FR_INLINE void runs(const Sizes& s, std::int64_t first, std::int64_t count, const F& f) {
  using std::int64_t;
  const int64_t plane = s.H * s.W, length = s.W == s.Q ? plane : s.W;
  for (int64_t i = 0; i < count;) {
    const int64_t c = (first + i) / plane, at = (first + i) % plane, n = at_most(length - at % length, count - i);
    f(i, at, c * s.P * s.Q + at / length * s.Q + at % length, n);
    i += n;
  }
}

// The reals of complex numbers in pairs: lane i of the result is lane i ^ 1, i & ~1 or i | 1.
template <int kAnd, int kOr, int kXor, typename T>
FR_INLINE Vec<T> pairs(Vec<T> v) {
  typedef typename std::conditional<sizeof(T) == 4, std::int32_t, long long>::type Lane;
  typedef Lane Lanes __attribute__((vector_size(kVectorBytes)));
  [[maybe_unused]] Lanes lanes;  // GCC does not see its use
  for (int i = 0; i < kLanes<T>; ++i) lanes[i] = ((i & kAnd) | kOr) ^ kXor;
  return __builtin_shuffle(v, lanes);
}

// out = a b, or conj(a) b, of n complex numbers; what `add` adds to it.
template <bool kConjugate, bool kAdd, typename T>
FR_ONE_COPY void multiply(const T* a, const T* b, T* out, std::int64_t n) {
  Vec<T> sign;
  for (int i = 0; i < kLanes<T>; ++i) sign[i] = (i % 2 == 0) == kConjugate ? T(1) : T(-1);
  const auto product = [&](Vec<T> u, Vec<T> v) {
    return pairs<~1, 0, 0, T>(u) * v + (pairs<~0, 1, 0, T>(u) * sign) * pairs<~0, 0, 1, T>(v);
  };
  std::int64_t i = 0;
  for (; i + kLanes<T> <= 2 * n; i += kLanes<T>) {
    const Vec<T> x = product(load(a + i), load(b + i));
    store(out + i, kAdd ? load(out + i) + x : x);
  }
  if (i == 2 * n) return;
  T rest[3][kLanes<T>] = {};
  const std::int64_t left = (2 * n - i) * std::int64_t(sizeof(T));
  std::memcpy(rest[0], a + i, left);
  std::memcpy(rest[1], b + i, left);
  if (kAdd) std::memcpy(rest[2], out + i, left);
  const Vec<T> x = product(load(rest[0]), load(rest[1]));
  store(rest[2], kAdd ? load(rest[2]) + x : x);
  std::memcpy(out + i, rest[2], left);
}

// out = m x of n numbers.
template <int kWidth, typename T>
FR_ONE_COPY void weigh(const T* x, const T* m, T* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i)
    for (int k = 0; k < kWidth; ++k) out[kWidth * i + k] = x[kWidth * i + k] * m[i];
}

// One image's.
template <int kWidth, typename T>
struct ImageOperator {
  using int64_t = std::int64_t;
  static constexpr int64_t kOfGroup = 4;  // coils in one sum, on any number of threads

  int transform;
  Sizes size;
  const T *mask, *maps;
  const Address* plan;  // forward and backward function, or none, their descriptors, U, V
  bool centred;         // the origin of the image lies in its middle

  FR_INLINE bool fourier() const { return transform == kFourier || transform == kCentredFourier; }

  // For how many tiles `measure` calls.
  FR_INLINE int64_t tiles() const {
    const int64_t half = size.W - size.W / 2;
    if (transform != kCentredFourier) return size.sections() * tiles_of(size.measurements() / size.sections());
    return size.sections() * size.H * (tiles_of(half) + tiles_of(size.W - half));
  }

  // out [C, P, Q] = A* r, and zero beyond H x W.
  FR_INLINE void adjoint(const T* r, T* out) const {
    if constexpr (kWidth == 2)
      if (fourier()) return coils_pass<false>(nullptr, r, out, true, nullptr, nothing);
    if constexpr (kWidth == 1)
      if (transform == kBlur) return blur<true>(r, size.H, size.W, out, size.P, size.Q);
    masked(r, out);
  }

  // take(at, n, image, back, sums [3]) for all tiles of the image A x of x, cut off from `plane`. Where the adjoint of
  // what is left at `back` [n] can be had on the way, and is wanted `on`, it overwrites `plane`; whether it did.
  template <typename F>
  FR_INLINE bool measure(T* plane, bool on, double* sums, const F& take) const {
    if constexpr (kWidth == 2)
      if (fourier()) {
        coils_pass<true>(plane, nullptr, plane, on, sums, take);
        return on;
      }
    const Sizes s = size;
    const int64_t M = s.measurements();
    if constexpr (kWidth == 1)
      if (transform == kBlur) {
        Scratch memory;
        T* const image = memory.take<T>(M);
        blur<false>(plane, s.P, s.Q, image, s.H, s.W);
        parallel(tiles_of(M), M, [&](int64_t tile) {
          const int64_t first = tile * kTile;
          take(first, at_most(kTile, M - first), image + first, static_cast<T*>(nullptr), sums + 3 * tile);
        });
        return false;
      }
    parallel(tiles_of(M), kWidth * M, [&](int64_t tile) {
      const int64_t first = tile * kTile, n = at_most(kTile, M - first);
      T image[kWidth * kTile] = {};
      runs(s, first, n, [&](int64_t i, int64_t at, int64_t whole, int64_t count) {
        weigh<kWidth>(plane + kWidth * whole, mask + at, image + kWidth * i, count);
      });
      take(first, n, image, static_cast<T*>(nullptr), sums + 3 * tile);
    });
    return false;
  }

 private:
  static constexpr auto nothing = [](int64_t, int64_t, const T*, T*, double*) {};

  // out [C, P, Q] = m r, and zero beyond r [C, H, W].
  FR_INLINE void masked(const T* r, T* out) const {
    const Sizes s = size;
    const T* const m = mask;
    parallel(s.C * s.P, kWidth * s.coefficients(), [=](int64_t task) {
      const int64_t c = task / s.P, row = task % s.P, n = row < s.H ? s.W : 0;
      T* const to = out + kWidth * task * s.Q;
      weigh<kWidth>(r + kWidth * (c * s.H + row) * s.W, m + row * s.W, to, n);
      for (int64_t i = kWidth * n; i < kWidth * s.Q; ++i) to[i] = 0;
    });
  }

  // out [C, rows, width] = F* (m F in), or with conj(m), of in [C, in_rows, in_width], cut off or filled up with zeros.
  template <bool kConjugate>
  FR_INLINE void blur(const T* in, int64_t in_rows, int64_t in_width, T* out, int64_t rows, int64_t width) const {
    const Sizes s = size;
    const int64_t U = int64_t(plan[4]), V = int64_t(plan[5]), half = U * (V / 2 + 1);
    parallel(s.C, s.C * U * V, [&](int64_t c) {
      Scratch memory;
      T* const spectrum = memory.take<T>(2 * half);
      T* const image = memory.take<T>(U * V);
      place(in + c * in_rows * in_width, in_width, image, U, V);
      compute<1>(plan, false, image, spectrum);
      multiply<kConjugate, false>(mask, spectrum, spectrum, half);
      compute<1>(plan, true, spectrum, image);
      place(image, V, out + c * rows * width, rows, width);
    });
  }

  // out [rows, width] = the H x W numbers of `in`, whose rows have `in_width`, and zeros.
  FR_INLINE void place(const T* in, int64_t in_width, T* out, int64_t rows, int64_t width) const {
    const int64_t size_of = int64_t(sizeof(T));
    for (int64_t i = 0; i < size.H; ++i) {
      std::memcpy(out + i * width, in + i * in_width, size.W * size_of);
      std::memset(out + i * width + size.W, 0, (width - size.W) * size_of);
    }
    std::memset(out + size.H * width, 0, (rows - size.H) * width * size_of);
  }

  // f(row, column, other row, other column, n) for the pieces of rows of an image and of what the transform takes.
  template <typename F>
  FR_INLINE void pieces(const F& f) const {
    const int64_t H = size.H, W = size.W, down = centred ? H / 2 : 0, along = centred ? W / 2 : 0;
    for (int64_t i = 0; i < H; ++i) {
      const int64_t row = i + down < H ? i + down : i + down - H;
      f(row, along, i, int64_t(0), W - along);
      if (along) f(row, int64_t(0), i, W - along, along);
    }
  }

  // Tile t of the k-space of a coil: numbers from `at` on as they are measured, from `k` on as they are transformed.
  struct Span {
    int64_t at, k, n;
  };
  FR_INLINE Span span(int64_t t) const {
    const int64_t H = size.H, W = size.W, plane = H * W;
    if (transform != kCentredFourier) return {t * kTile, t * kTile, at_most(kTile, plane - t * kTile)};
    const int64_t half = W - W / 2, lower = W - half;  // measured columns from `lower` on have frequencies from 0 on
    const int64_t left = tiles_of(lower), each = left + tiles_of(half), row = t / each, part = t % each;
    const bool low = part < left;
    const int64_t column = (low ? part : part - left) * kTile, n = at_most(kTile, (low ? lower : half) - column);
    const int64_t there = (row + H - H / 2) % H * W;
    return {row * W + column + (low ? 0 : lower), there + column + (low ? half : 0), n};
  }

  // With kForward take(...) of the coils' k-spaces of `plane` as in `measure`; then, if `on`, image = the adjoint of
  // what that left at `back`, or without it of r.
  template <bool kForward, typename F>
  FR_INLINE void coils_pass(const T* plane, const T* r, T* image, bool on, double* sums, const F& take) const {
    const Sizes s = size;
    const int64_t n = s.H * s.W, coils = s.sections(), tiles = this->tiles() / coils,
                  groups = tiles_of(coils, kOfGroup);
    Scratch memory;
    T* const parts = memory.take<T>(2 * groups * n);
    parallel(groups, 16 * coils * n, [&](int64_t group) {
      Scratch own;
      T *const k = s.coils ? own.take<T>(2 * n) : parts, *const part = parts + 2 * group * n;
      for (int64_t c = group; c < coils; c += groups) {
        const T* const map = maps + 2 * c * n;
        if constexpr (kForward) {
          pieces([&](int64_t row, int64_t column, int64_t i, int64_t j, int64_t count) {
            const T* const from = plane + 2 * (row * s.Q + column);
            T* const to = k + 2 * (i * s.W + j);
            if (s.coils)
              multiply<false, false>(map + 2 * (row * s.W + column), from, to, count);
            else
              std::memcpy(to, from, 2 * count * sizeof(T));
          });
          compute<2, T>(plan, false, k, nullptr);
        }
        parallel(tiles, 8 * n, [&](int64_t tile) {
          const Span part_of = span(tile);
          T seen[2 * kTile], back[2 * kTile];
          if constexpr (kForward) {
            weigh<2>(k + 2 * part_of.k, mask + part_of.at, seen, part_of.n);
            take(c * n + part_of.at, part_of.n, seen, on ? back : nullptr, sums + 3 * (c * tiles + tile));
          }
          if (on)
            weigh<2>(kForward ? back : r + 2 * (c * n + part_of.at), mask + part_of.at, k + 2 * part_of.k, part_of.n);
        });
        if (!on) continue;
        compute<2, T>(plan, true, k, nullptr);
        if (!s.coils) continue;  // it lies there already
        pieces([&](int64_t row, int64_t column, int64_t i, int64_t j, int64_t count) {
          const int64_t at = 2 * (row * s.W + column);
          if (c == group)
            multiply<true, false>(map + at, k + 2 * (i * s.W + j), part + at, count);
          else
            multiply<true, true>(map + at, k + 2 * (i * s.W + j), part + at, count);
        });
      }
    });
    if (on) add_groups(parts, groups, image);
  }

  // image [P, Q] = the sum of parts [groups, H, W], and zeros. Without maps parts lie as the transform left them.
  FR_INLINE void add_groups(const T* parts, int64_t groups, T* image) const {
    const Sizes s = size;
    const int64_t n = 2 * s.H * s.W;
    if (!s.coils) {
      pieces([&](int64_t row, int64_t column, int64_t i, int64_t j, int64_t count) {
        std::memcpy(image + 2 * (row * s.Q + column), parts + 2 * (i * s.W + j), 2 * count * sizeof(T));
      });
      for (int64_t row = 0; row < s.H; ++row)
        std::memset(image + 2 * (row * s.Q + s.W), 0, 2 * (s.Q - s.W) * sizeof(T));
    } else {
      for (int64_t row = 0; row < s.H; ++row) {
        T* const to = image + 2 * row * s.Q;
        const T* const from = parts + 2 * row * s.W;
        for (int64_t i = 0; i < 2 * s.W; ++i) {
          T total = from[i];
          for (int64_t g = 1; g < groups; ++g) total += from[g * n + i];
          to[i] = total;
        }
        for (int64_t i = 2 * s.W; i < 2 * s.Q; ++i) to[i] = 0;
      }
    }
    std::memset(image + 2 * s.H * s.Q, 0, 2 * (s.P - s.H) * s.Q * sizeof(T));
  }
};
}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
