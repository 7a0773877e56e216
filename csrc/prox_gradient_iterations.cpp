// prox_gradient_iterations.cpp: iterations of ISTA or FISTA on |m W* x - y|^2 / 2 + |lam x|_1, W a wavelet transform
// (CPU). Definition: fastrecon/ops/prox_gradient_iterations.py
//   x, v [B, C, P, Q]   residual, residual_v, y [B, C, H, W]: W* x is cut off to H <= P, W <= Q   real
//   mask m [H, W], that of image b at b * mask_image   lam: that of image b at b * lam_image, entries lam_entry apart
//   numbers [B, 4] double: step, theta, objective, |z|^2   trace [B, iterations, 2] double: the last two of them
// One thread does all iterations of an image while its arrays stay in its cache; of a single image the threads share
// every pass. The arithmetic is that of the kernels for single steps, tile by tile, so that the bits are theirs.
#include "prox_tile.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;

struct Sizes {
  int64_t C, H, W, P, Q, taps, levels;
  FR_INLINE int64_t coefficients() const { return C * P * Q; }
  FR_INLINE int64_t measurements() const { return C * H * W; }
};

// One image of the batch.
template <typename T>
struct Image {
  int dtype;
  Sizes size;
  T *x, *v, *residual, *residual_v;
  const T *y, *mask, *lam;
  int64_t lam_entry;
  Address taps;
  double *numbers, *trace;
};

// f(i, at, whole, n) for the runs of numbers first + i <= ... < first + i + n of [C, H, W] that lie in one piece of
// [C, P, Q] too, there from `whole` on; `at` is their place in [H, W].
template <typename F>
FR_INLINE void runs(const Sizes& s, int64_t first, int64_t count, const F& f) {
  const int64_t plane = s.H * s.W, length = s.W == s.Q ? plane : s.W;
  for (int64_t i = 0; i < count;) {
    const int64_t c = (first + i) / plane, at = (first + i) % plane, n = at_most(length - at % length, count - i);
    f(i, at, c * s.P * s.Q + at / length * s.Q + at % length, n);
    i += n;
  }
}

// out [C, P, Q] = m r, and zero beyond r [C, H, W].
template <typename T>
FR_INLINE void masked(const Image<T>& m, const T* r, T* out) {
  const Sizes s = m.size;
  parallel(s.C * s.P, s.coefficients(), [=](int64_t task) {
    const int64_t c = task / s.P, row = task % s.P, n = row < s.H ? s.W : 0;
    const T *from = r + (c * s.H + row) * s.W, *mask = m.mask + row * s.W;
    T* const to = out + task * s.Q;
    for (int64_t i = 0; i < n; ++i) to[i] = from[i] * mask[i];
    for (int64_t i = n; i < s.Q; ++i) to[i] = 0;
  });
}

// ahead = now + momentum (now - before), and before = now: torch.lerp(before, now, 1 + momentum).
template <typename T>
FR_INLINE void extrapolate(const T* now, T* before, T* ahead, T momentum, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T last = now[i];
    ahead[i] = momentum * (last - before[i]) + last;
    before[i] = last;
  }
}

template <bool kFista, bool kBacktracking, typename T>
FR_INLINE void iterate(const Image<T>& m, int64_t iterations) {
  constexpr double unit = sizeof(T) == 4 ? __FLT_EPSILON__ : __DBL_EPSILON__;
  constexpr double slack = 1 + 64 * unit, lost = (8 * unit) * (8 * unit);  // as solvers/ista.py has them
  const Sizes s = m.size;
  const int64_t N = s.coefficients(), M = s.measurements();
  Scratch memory;
  T* const plane = memory.take<T>(N);
  T* const next = memory.take<T>(N);  // the gradient, then the new x (FISTA) or the step z (ISTA)
  T* const kept = kBacktracking ? memory.take<T>(M) : nullptr;  // the new residual, until it is accepted
  T *const from = kFista ? m.v : m.x, *const residual = kFista ? m.residual_v : m.residual;
  for (int64_t k = 0; k < iterations; ++k) {
    masked(m, residual, plane);
    dwt2(m.dtype, Address(plane), m.taps, Address(next), s.C, s.P, s.Q, s.taps, s.levels);
    const T step = T(m.numbers[0]);
    const double theta = m.numbers[1], after = (1 + square_root(1 + 4 * rounded(theta * theta))) / 2;
    const T momentum = T(1 + (theta - 1) / after) - 1;

    double square = 0, l1 = 0;
    const auto move = [&](int64_t, int64_t tile, double* sums) {
      const int64_t first = tile * kTile, n = at_most(kTile, N - first);
      T z[kTile];
      real_step<T>(from + first, next + first, &step, 0, m.lam + first * m.lam_entry, m.lam_entry, z, n, sums);
      if constexpr (kFista)
        for (int64_t i = 0; i < n; ++i) z[i] += from[first + i];
      if constexpr (kFista && !kBacktracking) {
        extrapolate(z, m.x + first, m.v + first, momentum, n);
        return;
      }
      if constexpr (!kBacktracking)
        for (int64_t i = 0; i < n; ++i) m.x[first + i] += z[i];
      std::memcpy(next + first, z, n * sizeof(T));
    };
    sum_per_image<3>(1, tiles_of(N), N, move, [&](int64_t, const double* sums) { square = sums[1], l1 = sums[2]; });

    const T* const moved = kFista && !kBacktracking ? m.x : next;
    idwt2(m.dtype, Address(moved), m.taps, Address(plane), s.C, s.P, s.Q, s.taps, s.levels);
    double value = 0, change = 0, whole = 0;
    const auto measure = [&](int64_t, int64_t tile, double* sums) {
      const int64_t first = tile * kTile, n = at_most(kTile, M - first);
      T image[kTile] = {}, fresh[kTile] = {};
      runs(s, first, n, [&](int64_t i, int64_t at, int64_t where, int64_t count) {
        for (int64_t j = 0; j < count; ++j) image[i + j] = plane[where + j] * m.mask[at + j];
      });
      if constexpr (kFista)  // of the image as it is in memory: a product that is fused with a sum rounds otherwise
        for (int64_t i = 0; i < n; ++i) fresh[i] = image[i] - m.y[first + i];
      else
        for (int64_t i = 0; i < n; ++i) fresh[i] = m.residual[first + i] + image[i];
      sums[0] = square_of<T>(fresh, fresh, false, n);
      if constexpr (kBacktracking) {
        sums[1] = kFista ? square_of<T>(fresh, residual + first, true, n) : square_of<T>(image, image, false, n);
        sums[2] = kFista ? square_of<T>(image, image, false, n) : 0;
        std::memcpy(kept + first, fresh, n * sizeof(T));
      } else if constexpr (kFista) {
        extrapolate(fresh, m.residual + first, m.residual_v + first, momentum, n);
      } else {
        std::memcpy(m.residual + first, fresh, n * sizeof(T));
      }
    };
    sum_per_image<kBacktracking ? 3 : 1>(1, tiles_of(M), M, measure, [&](int64_t, const double* sums) {
      value = sums[0];
      if constexpr (kBacktracking) change = sums[1], whole = sums[2];
    });

    bool good = true;
    if constexpr (kBacktracking) {
      const double bound = square / m.numbers[0] * slack;
      good = change <= bound || (kFista && change <= bound + rounded(lost * whole));
      if (good) {
        parallel(tiles_of(N), N, [&](int64_t tile) {
          const int64_t first = tile * kTile, n = at_most(kTile, N - first);
          if constexpr (kFista)
            extrapolate(next + first, m.x + first, m.v + first, momentum, n);
          else
            for (int64_t i = first; i < first + n; ++i) m.x[i] += next[i];
        });
        parallel(tiles_of(M), M, [&](int64_t tile) {
          const int64_t first = tile * kTile, n = at_most(kTile, M - first);
          if constexpr (kFista)
            extrapolate(kept + first, m.residual + first, m.residual_v + first, momentum, n);
          else
            std::memcpy(m.residual + first, kept + first, n * sizeof(T));
        });
      }
    }
    if (good) {
      m.numbers[1] = after;
      m.numbers[2] = value / 2 + l1;
      m.numbers[3] = square;
    } else {
      m.numbers[0] /= 2;
    }
    m.trace[2 * k] = m.numbers[2];
    m.trace[2 * k + 1] = m.numbers[3];
  }
}
}  // namespace

void prox_gradient_iterations(int dtype, Address x, Address v, Address residual, Address residual_v, Address y,
                              Address mask, Address lam, Address numbers, Address taps, Address trace, int64_t B,
                              int64_t C, int64_t P, int64_t Q, int64_t H, int64_t W, int64_t L, int64_t levels,
                              int64_t mask_image, int64_t lam_image, int64_t lam_entry, int64_t iterations, bool fista,
                              bool backtracking) {
  by_dtype<kReal>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    const Sizes size = {C, H, W, P, Q, L, levels};
    const int64_t N = size.coefficients(), M = size.measurements();
    parallel(B, B * N * iterations, [=](int64_t b) {
      const Image<T> image = {dtype,
                              size,
                              as<T>(x) + b * N,
                              as<T>(v) + b * N,
                              as<T>(residual) + b * M,
                              as<T>(residual_v) + b * M,
                              as<const T>(y) + b * M,
                              as<const T>(mask) + b * mask_image,
                              as<const T>(lam) + b * lam_image,
                              lam_entry,
                              taps,
                              as<double>(numbers) + 4 * b,
                              as<double>(trace) + 2 * b * iterations};
      if (fista)
        backtracking ? iterate<true, true>(image, iterations) : iterate<true, false>(image, iterations);
      else
        backtracking ? iterate<false, true>(image, iterations) : iterate<false, false>(image, iterations);
    });
  });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
