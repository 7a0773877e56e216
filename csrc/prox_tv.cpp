// prox_tv.cpp: the proximal map of total variation by fast gradient projection on the dual (CPU).
// Definition: fastrecon/ops/prox_tv.py
//   y, x [B, G, H, W]   p, dual [B, G, 2, H, W]   lam [B]; of one real type
//   sums [B, 2] double: gap, objective   count [B] int64: iterations
// Inside u = lam p: nothing is divided by lam. An iteration is one pass over the rows: momentum, x = y - D* q, its
// differences, the step, the projection, while the rows are in the first cache. It overwrites the dual of two
// iterations ago in place, so that an image has five numbers a pixel in the second. Images are shared among threads,
// or, where there are fewer of them, bands of their rows: every number is computed in the same way in either.
#include "tiles.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;
constexpr int64_t kPad = 16;           // elements before and after a row that may be read
constexpr int64_t kBandPixels = 8192;  // of a band, at least: its two rows of halo are few then

template <typename T>
struct Image {
  const T* y;
  T *u, *old;  // [G, 2, H, W]
  int64_t G, H, W;
  T lam;
  bool isotropic;
  FR_INLINE int64_t stride() const { return tiles_of(W, kPad) * kPad + 2 * kPad; }
  FR_INLINE int64_t at(int64_t g, int64_t direction, int64_t row) const { return ((2 * g + direction) * H + row) * W; }
};

// q = u + weight (u - old), a row.
template <typename T>
FR_INLINE void extrapolate(const T* __restrict u, const T* __restrict old, T weight, int64_t n, T* __restrict q) {
  for (int64_t c = 0; c < n; ++c) q[c] = u[c] + weight * (u[c] - old[c]);
}

// A row of x = y - D* q, its last number repeated behind it: no difference there. right[-1] is 0.
template <typename T>
FR_INLINE void primal(const T* __restrict y, const T* __restrict right, const T* __restrict above,
                      const T* __restrict down, int64_t n, T* __restrict x) {
  for (int64_t c = 0; c < n; ++c) x[c] = y[c] - ((right[c - 1] - right[c]) + (above[c] - down[c]));
  x[n] = x[n - 1];
}

template <typename T>
FR_INLINE T shrink_to(T lam, T square) {
  const T size = square_root(square);
  return size > lam ? lam / size : T(1);
}

// The projection of a row of G numbers a pixel, v [G, 2] rows `stride` apart, into u.
template <typename T>
FR_INLINE void project(const Image<T>& m, const T* v, int64_t stride, int64_t row, T* square) {
  const int64_t n = m.W;
  for (int direction = 0; direction < 2; ++direction) {
    if (!m.isotropic || direction == 0)
      for (int64_t c = 0; c < n; ++c) square[c] = 0;
    for (int64_t g = 0; g < m.G; ++g) {
      const T* const from = v + (2 * g + direction) * stride;
      for (int64_t c = 0; c < n; ++c) square[c] += from[c] * from[c];
    }
    if (m.isotropic && direction == 0) continue;
    for (int64_t c = 0; c < n; ++c) square[c] = shrink_to(m.lam, square[c]);
    for (int64_t g = 0; g < m.G; ++g)
      for (int d = m.isotropic ? 0 : direction; d <= direction; ++d) {
        const T* const from = v + (2 * g + d) * stride;
        T* const to = m.old + m.at(g, d, row);
        for (int64_t c = 0; c < n; ++c) to[c] = from[c] * square[c];
      }
  }
}

// One iteration on rows [first, last). `above` and `below`, [G, 2] rows each: q of the rows beside the band, which
// other bands overwrite meanwhile.
template <typename T>
FR_INLINE void step_band(const Image<T>& m, T weight, int64_t first, int64_t last, const T* above, const T* below) {
  const int64_t G = m.G, H = m.H, W = m.W, stride = m.stride();
  Scratch memory;
  T* const rows = memory.take<T>((4 * G + 2 * G + 2 * G + 2) * stride) + kPad;
  T *q[2] = {rows, rows + 2 * G * stride}, *x[2] = {rows + 4 * G * stride, rows + 5 * G * stride};
  T *const v = rows + 6 * G * stride, *const square = rows + 8 * G * stride, *const zeros = square + stride;
  for (int64_t k = -kPad; k < (8 * G + 2) * stride - kPad; ++k) rows[k] = 0;
  const auto update = [&](int64_t row, const T* own_q, const T* here, const T* next) {
    if (G == 1) {
      const T *const right = own_q, *const down = own_q + stride;
      T *const to_right = m.old + m.at(0, 0, row), *const to_down = m.old + m.at(0, 1, row);
      const T lam = m.lam;
      if (m.isotropic) {
        for (int64_t c = 0; c < W; ++c) {
          const T a = right[c] + (here[c + 1] - here[c]) / 8, b = down[c] + (next[c] - here[c]) / 8;
          const T keep = shrink_to(lam, a * a + b * b);
          to_right[c] = a * keep;
          to_down[c] = b * keep;
        }
      } else {
        for (int64_t c = 0; c < W; ++c) {
          const T a = right[c] + (here[c + 1] - here[c]) / 8, b = down[c] + (next[c] - here[c]) / 8;
          to_right[c] = at_least(-lam, at_most(lam, a));
          to_down[c] = at_least(-lam, at_most(lam, b));
        }
      }
      return;
    }
    for (int64_t g = 0; g < G; ++g) {
      const T *const right = own_q + 2 * g * stride, *const down = right + stride;
      const T *const own = here + g * stride, *const under = next + g * stride;
      T *const to_right = v + 2 * g * stride, *const to_down = to_right + stride;
      for (int64_t c = 0; c < W; ++c) {
        to_right[c] = right[c] + (own[c + 1] - own[c]) / 8;
        to_down[c] = down[c] + (under[c] - own[c]) / 8;
      }
    }
    project(m, v, stride, row, square);
  };
  for (int64_t row = first; row <= at_most(last, H - 1); ++row) {
    const int64_t k = row & 1;
    for (int64_t g = 0; g < G; ++g) {
      T* const own = q[k] + 2 * g * stride;
      if (row < last) {
        for (int d = 0; d < 2; ++d)
          extrapolate(m.u + m.at(g, d, row), m.old + m.at(g, d, row), weight, W, own + d * stride);
      } else {
        for (int d = 0; d < 2; ++d) std::memcpy(own + d * stride, below + (2 * g + d) * W, W * sizeof(T));
      }
      const T* const over = row > first ? q[1 - k] + (2 * g + 1) * stride : first > 0 ? above + (2 * g + 1) * W : zeros;
      primal(m.y + (g * H + row) * W, own, over, own + stride, W, x[k] + g * stride);
    }
    if (row > first) update(row - 1, q[1 - k], x[1 - k], x[k]);
  }
  if (last == H) update(H - 1, q[(H - 1) & 1], x[(H - 1) & 1], x[(H - 1) & 1]);
}

// Of rows [first, last): sums[row] and sums[H + row] are their parts of the gap and of lam |D x| + |x - y|^2 / 2; x is
// written where it is wanted.
template <typename T>
FR_INLINE void look_band(const Image<T>& m, int64_t first, int64_t last, double* sums, T* out) {
  const int64_t G = m.G, H = m.H, W = m.W, stride = m.stride();
  Scratch memory;
  T* const rows = memory.take<T>((2 * G + 5) * stride) + kPad;
  T *x[2] = {rows, rows + G * stride}, *const padded = rows + 2 * G * stride, *const zeros = padded + stride;
  T *const size = zeros + stride, *const along = size + stride, *const square = along + stride;
  for (int64_t k = -kPad; k < (2 * G + 5) * stride - kPad; ++k) rows[k] = 0;
  const auto add = [&](int64_t row, const T* here, const T* next) {
    for (int64_t c = 0; c < W; ++c) size[c] = along[c] = square[c] = 0;
    for (int direction = 0; direction < 2; ++direction) {
      if (!m.isotropic)
        for (int64_t c = 0; c < W; ++c) square[c] = 0;
      for (int64_t g = 0; g < G; ++g) {
        const T *const own = here + g * stride, *const beside = direction ? next + g * stride : own + 1;
        const T* const u = m.u + m.at(g, direction, row);
        for (int64_t c = 0; c < W; ++c) {
          const T d = beside[c] - own[c];
          square[c] += d * d;
          along[c] += d * u[c];
        }
      }
      if (m.isotropic && direction == 0) continue;
      for (int64_t c = 0; c < W; ++c) size[c] += m.lam * square_root(square[c]);
    }
    const double whole = sum(size, W);
    for (int64_t c = 0; c < W; ++c) along[c] = size[c] - along[c];
    sums[row] = sum(along, W);
    double data = 0;
    for (int64_t g = 0; g < G; ++g) {
      const T *const own = here + g * stride, *const given = m.y + (g * H + row) * W;
      for (int64_t c = 0; c < W; ++c) square[c] = (own[c] - given[c]) * (own[c] - given[c]);
      data += sum(square, W);
      if (out) std::memcpy(out + (g * H + row) * W, own, W * sizeof(T));
    }
    sums[H + row] = whole + data / 2;
  };
  for (int64_t row = first; row <= at_most(last, H - 1); ++row) {
    const int64_t k = row & 1;
    for (int64_t g = 0; g < G; ++g) {
      const T* const above = row > 0 ? m.u + m.at(g, 1, row - 1) : zeros;
      std::memcpy(padded, m.u + m.at(g, 0, row), W * sizeof(T));
      primal(m.y + (g * H + row) * W, padded, above, m.u + m.at(g, 1, row), W, x[k] + g * stride);
    }
    if (row > first) add(row - 1, x[1 - k], x[k]);
  }
  if (last == H) add(H - 1, x[(H - 1) & 1], x[(H - 1) & 1]);
}

struct Outcome {
  double gap, objective;
  int64_t iterations;
};

// One image. `bands` of its rows are shared.
template <typename T>
FR_INLINE Outcome solve(Image<T> m, T* x, double tol, int64_t iterations, int64_t look, int64_t bands) {
  const int64_t G = m.G, H = m.H, W = m.W, work = 4 * G * H * W;
  Scratch memory;
  double* const sums = memory.take<double>(2 * H);
  T* const halos = memory.take<T>(bands * 4 * G * W);  // of band k: rows above [G, 2, W] and below
  const auto begin = [=](int64_t band) { return band * H / bands; };
  double last = __builtin_inf(), t = 1, weight = 0;
  Outcome found{};
  for (int64_t k = 0;; ++k) {
    if (k % look == 0 || k == iterations) {
      parallel(bands, work, [&](int64_t band) { look_band<T>(m, begin(band), begin(band + 1), sums, nullptr); });
      const double gap = at_least(0.0, add_up(sums, H)), objective = add_up(sums + H, H);
      found = {gap, objective, k};
      if (!(gap > tol * objective) || k == iterations) break;
      if (gap > last) t = 1, weight = 0;
      last = gap;
    }
    const T w = T(weight);
    for (int64_t band = 1; band < bands; ++band)
      for (int64_t g = 0; g < G; ++g)
        for (int d = 0; d < 2; ++d)
          for (int side = 0; side < 2; ++side) {  // the row above the border serves the band below it
            const int64_t row = begin(band) - 1 + side, from = m.at(g, d, row);
            T* const to = halos + ((side ? 2 * (band - 1) + 1 : 2 * band) * 2 * G + 2 * g + d) * W;
            extrapolate(m.u + from, m.old + from, w, W, to);
          }
    parallel(bands, work, [&](int64_t band) {
      const T* const halo = halos + band * 4 * G * W;
      step_band<T>(m, w, begin(band), begin(band + 1), halo, halo + 2 * G * W);
    });
    T* const swap = m.u;
    m.u = m.old, m.old = swap;
    const double following = (1 + square_root(1 + 4 * t * t)) / 2;
    weight = (t - 1) / following, t = following;
  }
  parallel(bands, work, [&](int64_t band) { look_band<T>(m, begin(band), begin(band + 1), sums, x); });
  return found;
}

template <typename T>
FR_INLINE void run(const T* y, const T* lam, const T* p, T* x, T* dual, double* sums, int64_t* count, int64_t B,
                   int64_t G, int64_t H, int64_t W, double tol, int64_t iterations, int64_t look, bool isotropic) {
  const int64_t plane = H * W, N = G * plane;
  const auto image = [=](int64_t b, int64_t bands) {
    const T radius = lam[b];
    T* const to = dual + 2 * b * N;
    if (!(radius >= 0)) {
      for (int64_t i = 0; i < N; ++i) x[b * N + i] = T(__builtin_nan(""));
      for (int64_t i = 0; i < 2 * N; ++i) to[i] = T(__builtin_nan(""));
      sums[2 * b] = sums[2 * b + 1] = __builtin_nan("");
      count[b] = 0;
      return;
    }
    Scratch memory;
    T *const other = memory.take<T>(2 * N), *const square = memory.take<T>(W);
    // the start, within the ball and 0 where there is no difference
    Image<T> m{y + b * N, to, other, G, H, W, radius, isotropic};
    for (int64_t g = 0; g < G; ++g)
      for (int d = 0; d < 2; ++d)
        for (int64_t i = 0; i < plane; ++i) {
          const bool none = d ? i >= plane - W : i % W == W - 1;
          to[(2 * g + d) * plane + i] = none ? T(0) : radius * p[2 * b * N + (2 * g + d) * plane + i];
        }
    Image<T> own = m;
    own.old = to;
    for (int64_t row = 0; row < H; ++row) project(own, to + row * W, plane, row, square);
    std::memcpy(other, to, 2 * N * sizeof(T));
    const Outcome found = solve(m, x + b * N, tol, iterations, look, bands);
    sums[2 * b] = found.gap;
    sums[2 * b + 1] = found.objective;
    count[b] = found.iterations;
    const T* const last = found.iterations % 2 ? other : to;  // the two dual arrays swap in every iteration
    for (int64_t i = 0; i < 2 * N; ++i) to[i] = radius > 0 ? last[i] / radius : T(0);
  };
  const int64_t most = plane / kBandPixels;
  const int64_t bands = threads() == 1 || B >= threads() || most < 2 ? 1 : at_most(most, H / 4);
  if (bands > 1)
    for (int64_t b = 0; b < B; ++b) image(b, bands);
  else
    parallel(B, B * N * (iterations + 1), [&](int64_t b) { image(b, 1); });
}
}  // namespace

void prox_tv(int dtype, Address y, Address lam, Address p, Address x, Address dual, Address sums, Address count,
             int64_t B, int64_t G, int64_t H, int64_t W, double tol, int64_t iterations, int64_t look, bool isotropic) {
  by_dtype<kReal>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    run(as<const T>(y), as<const T>(lam), as<const T>(p), as<T>(x), as<T>(dual), as<double>(sums), as<int64_t>(count),
        B, G, H, W, tol, iterations, look, isotropic);
  });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
