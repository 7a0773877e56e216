// back_project.cpp: sums over views of projections, interpolated where each pixel is seen (CPU).
// Definition: fastrecon/ops/back_project.py
//   q [N, A, D]   x [N, H, W] real   views [A, 8] double: pixel (i, j) has l = v0 + v1 i + v2 j, d = v3 + v4 i + v5 j
//   parallel: x += q at l    fan: x += w q at v6 + v7 l / d, w = 1 / d^2, of an arc 1 / (d^2 + l^2)
// A task is a tile of the image, which stays in the first cache for all views. Neighbouring pixels of a row are seen by
// neighbouring detectors: two vectors of q hold all that a vector of pixels needs.
#include "tiles.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;
constexpr int64_t kEdge = 64;  // zeros at both ends of a projection: more than a vector of pixels can reach
constexpr int64_t kRows = 8, kColumns = 512;

// As many whole numbers as a vector has reals.
template <typename T>
struct WholeOf {
  typedef std::int32_t type __attribute__((vector_size(kLanes<T> * 4)));
};
template <typename T>
using Whole = typename WholeOf<T>::type;

// q[cell] + f (q[cell + 1] - q[cell]).
template <typename T>
FR_INLINE Vec<T> between(Vec<T> left, Vec<T> right, Vec<T> f) {
  return left + f * (right - left);
}
template <typename T>
FR_INLINE Vec<T> gathered(const T* q, Whole<T> cell, Vec<T> f) {
  T l[kLanes<T>], r[kLanes<T>];
  for (int k = 0; k < kLanes<T>; ++k) l[k] = q[cell[k]], r[k] = q[cell[k] + 1];
  return between<T>(load(l), load(r), f);
}
// The same of cells 0 to 2 kLanes - 2.
template <typename T>
FR_INLINE Vec<T> picked(const T* q, Whole<T> cell, Vec<T> f) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    const __m512 u = _mm512_loadu_ps(q), v = _mm512_loadu_ps(q + kLanes<T>);
    const __m512i index = (__m512i)cell, next = _mm512_add_epi32(index, _mm512_set1_epi32(1));
    return between<T>((Vec<T>)_mm512_permutex2var_ps(u, index, v), (Vec<T>)_mm512_permutex2var_ps(u, next, v), f);
  } else {
    typedef long long Wide __attribute__((vector_size(64)));
    const __m512d u = _mm512_loadu_pd(q), v = _mm512_loadu_pd(q + kLanes<T>);
    const __m512i index = (__m512i)(__builtin_convertvector(cell, Wide));
    const __m512i next = _mm512_add_epi64(index, _mm512_set1_epi64(1));
    return between<T>((Vec<T>)_mm512_permutex2var_pd(u, index, v), (Vec<T>)_mm512_permutex2var_pd(u, next, v), f);
  }
#else
  return gathered<T>(q, cell, f);
#endif
}

template <typename T>
FR_INLINE Vec<T> ramp() {
  Vec<T> v;
  for (int k = 0; k < kLanes<T>; ++k) v[k] = T(k);
  return v;
}

// x [n rounded up] += q at start + k slope, 0 <= k < n.
template <typename T>
FR_INLINE void along_line(const T* q, int64_t D, double start, double slope, int64_t n, T* x) {
  constexpr int lanes = kLanes<T>;
  const Vec<T> offsets = ramp<T>() * splat(T(slope));
  const bool near = magnitude(slope) * (lanes - 1) + 2 < 2 * lanes - 1;
  const double back = slope < 0 ? slope * (lanes - 1) : 0, span = magnitude(slope) * (lanes - 1);
  if (span > double(kEdge - 4)) {  // far between: one by one
    for (int64_t k = 0; k < n; ++k) {
      const double p = start + slope * double(k);
      if (!(p > -1 && p < double(D))) continue;
      const double shifted = p + 1;
      const int64_t cell = int64_t(shifted) - 1;
      const T f = T(shifted - double(cell + 1));
      x[k] += q[cell] + f * (q[cell + 1] - q[cell]);
    }
    return;
  }
  for (int64_t k = 0; k < n; k += lanes) {
    const double first = start + slope * double(k), low = first + back;
    if (!(low < double(D) && low + span > -1)) continue;
    const int64_t cell = int64_t(low + kEdge) - kEdge;
    const Vec<T> p = splat(T(first - double(cell))) + offsets;
    const Whole<T> own = __builtin_convertvector(p, Whole<T>);
    const Vec<T> f = p - __builtin_convertvector(own, Vec<T>);
    store(x + k, load(x + k) + (near ? picked<T>(q + cell, own, f) : gathered<T>(q + cell, own, f)));
  }
}

// x [n rounded up] += w q at v6 + v7 l / d along a row of a fan. Within a vector places are found from the first one's:
// v7 (l_k / d_k - l / d) = k v7 (v2 d - l v5) / d / d_k, small numbers that T holds well. They rise or fall all the
// way.
template <typename T>
FR_INLINE void along_fan(const T* q, int64_t D, const double* v, double l, double d, bool curved, int64_t n, T* x) {
  constexpr int lanes = kLanes<T>;
  const Vec<T> steps = ramp<T>();
  for (int64_t k = 0; k < n; k += lanes) {
    const double across = l + v[2] * double(k), depth = d + v[5] * double(k), first = v[6] + v[7] * (across / depth);
    const double last_depth = depth + v[5] * (lanes - 1);  // of lanes beyond the image it may be behind the source
    const double last = v[6] + v[7] * ((across + v[2] * (lanes - 1)) / last_depth);
    const double low = first < last ? first : last, span = magnitude(last - first);
    if (!(last_depth > 0) || !(span <= double(kEdge - 4))) {  // one by one
      for (int64_t i = k; i < at_most(n, k + lanes); ++i) {
        const double own = l + v[2] * double(i), far = d + v[5] * double(i), p = v[6] + v[7] * (own / far);
        if (!(p > -1 && p < double(D))) continue;
        const double shifted = p + 1;
        const int64_t cell = int64_t(shifted) - 1;
        const T f = T(shifted - double(cell + 1)), weight = T(1 / (curved ? far * far + own * own : far * far));
        x[i] += weight * (q[cell] + f * (q[cell + 1] - q[cell]));
      }
      continue;
    }
    if (!(low < double(D) && low + span > -1)) continue;
    const int64_t cell = int64_t(low + kEdge) - kEdge;
    const Vec<T> far = splat(T(depth)) + splat(T(v[5])) * steps, inverse = 1 / far;
    const Vec<T> p =
        splat(T(first - double(cell))) + splat(T(v[7] * (v[2] * depth - across * v[5]) / depth)) * steps * inverse;
    const Whole<T> own = __builtin_convertvector(p, Whole<T>);
    const Vec<T> f = p - __builtin_convertvector(own, Vec<T>), side = splat(T(across)) + splat(T(v[2])) * steps;
    const Vec<T> weight = curved ? 1 / (far * far + side * side) : inverse * inverse;
    const bool near = span + 2 < 2 * lanes - 1;
    store(x + k, load(x + k) + weight * (near ? picked<T>(q + cell, own, f) : gathered<T>(q + cell, own, f)));
  }
}
}  // namespace

void back_project(int dtype, Address q, Address views, Address x, int64_t N, int64_t A, int64_t D, int64_t H, int64_t W,
                  bool fan, bool curved) {
  by_dtype<kReal>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    const int64_t stride = D + 2 * kEdge, rows = tiles_of(H, kRows), columns = tiles_of(W, kColumns);
    const double* const table = as<const double>(views);
    Scratch memory;
    T* const padded = memory.take<T>(N * A * stride);
    parallel(N * A, N * A * D, [=](int64_t line) {
      T* const to = padded + line * stride;
      std::memset(to, 0, kEdge * sizeof(T));
      std::memcpy(to + kEdge, as<const T>(q) + line * D, D * sizeof(T));
      std::memset(to + kEdge + D, 0, kEdge * sizeof(T));
    });
    parallel(N * rows * columns, N * A * H * W, [=](int64_t task) {
      const int64_t image = task / (rows * columns), row = task / columns % rows * kRows;
      const int64_t column = task % columns * kColumns, n = at_most(kColumns, W - column);
      const int64_t lines = at_most(kRows, H - row);
      T sums[kRows][kColumns + kLanes<T>] = {};
      for (int64_t a = 0; a < A; ++a) {
        const double* const v = table + 8 * a;
        const T* const own = padded + (image * A + a) * stride + kEdge;
        for (int64_t i = 0; i < lines; ++i) {
          const double l = v[0] + v[1] * double(row + i) + v[2] * double(column);
          if (fan)
            along_fan(own, D, v, l, v[3] + v[4] * double(row + i) + v[5] * double(column), curved, n, sums[i]);
          else
            along_line(own, D, l, v[2], n, sums[i]);
        }
      }
      for (int64_t i = 0; i < lines; ++i)
        std::memcpy(as<T>(x) + (image * H + row + i) * W + column, sums[i], n * sizeof(T));
    });
  });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
