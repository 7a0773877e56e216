// prox_gradient_iterations.cpp: iterations of ISTA or FISTA on |A W* x - y|^2 / 2 + |lam x|_1, W a wavelet transform
// (CPU). Definition: fastrecon/ops/prox_gradient_iterations.py
//   x, v [B, C, P, Q]: images are W* x cut off to H <= P, W <= Q   real or complex
//   A by `transform`: kMask m x; kFourier m F (s x), complex, C = 1; kBlur F* (m F x), real
//   residual, residual_v, y [B, K, H, W]: K = C, of maps their number   maps s [coils, H, W] complex, none of 0 coils
//   mask m [H, W] real; of kBlur [U, V / 2 + 1] complex, of images filled up to U x V
//   lam: that of image b at b * lam_image, entries lam_entry apart; so mask_image and maps_image
//   numbers [B, 4] double: step, theta, objective, |z|^2   trace [B, iterations, 2] double: the last two of them
//   schedule [B, iterations, 3 + levels] double: momentum, factor of lam, factors of the step for each band
// One thread does all iterations of an image while its arrays stay in its cache; of a single image the threads share
// every pass. The arithmetic is that of the kernels for single steps, tile by tile, so that the bits are theirs.
#include "image_operator.h"
#include "prox_tile.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;

enum Rule { kFixed, kBacktracking, kScheduled };

// One image of the batch.
template <int kWidth, typename T>
struct Image {
  int dtype;
  ImageOperator<kWidth, T> a;
  int64_t taps_count, levels;
  T *x, *v, *residual, *residual_v;
  const T *y, *lam;
  int64_t lam_entry;
  Address taps;
  double *numbers, *trace;
  const double* schedule;
};

// ahead = now + momentum (now - before), and before = now: torch.lerp(before, now, 1 + momentum), or, `apart`, with the
// product rounded.
template <bool apart, typename T>
FR_INLINE void extrapolate(const T* now, T* before, T* ahead, T momentum, int64_t n) {
  const auto move = [&](auto zero, int64_t i) {
    using V = decltype(zero);
    const V last = get<V>(now + i), far = last - get<V>(before + i), weight = momentum - zero;
    put(ahead + i, apart ? last + rounded(weight * far) : weight * far + last);
    put(before + i, last);
  };
  int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) move(Vec<T>{}, i);
  if (i < n) {
    T rest[3][kLanes<T>] = {};
    const int64_t left = (n - i) * int64_t(sizeof(T));
    std::memcpy(rest[0], now + i, left);
    std::memcpy(rest[1], before + i, left);
    const Vec<T> last = load(rest[0]), far = last - load(rest[1]), weight = splat(momentum);
    store(rest[2], apart ? last + rounded(weight * far) : weight * far + last);
    std::memcpy(ahead + i, rest[2], left);
    std::memcpy(before + i, rest[0], left);
  }
}

// The steps of coefficients first <= i < first + n of [C, P, Q]: of band 0, the approximation, and of the details from
// coarse to fine.
template <typename T>
FR_INLINE void steps_of_bands(const Sizes& s, int64_t levels, const T* of_band, int64_t first, int64_t n, T* out) {
  for (int64_t i = 0; i < n;) {
    const int64_t p = (first + i) / s.Q % s.P, q = (first + i) % s.Q;
    int64_t j = 0;  // scales whose corner holds the coefficient
    while (j < levels && p < s.P >> (j + 1) && q < s.Q >> (j + 1)) ++j;
    const T value = of_band[j == levels ? 0 : levels - j];
    for (const int64_t last = at_most(n, i + (s.Q >> j) - q); i < last; ++i) out[i] = value;
  }
}

template <bool kFista, int kRule, int kWidth, typename T>
FR_INLINE void iterate(const Image<kWidth, T>& m, int64_t iterations) {
  constexpr bool kTrial = kRule == kBacktracking, kLearned = kRule == kScheduled;
  constexpr double unit = sizeof(T) == 4 ? __FLT_EPSILON__ : __DBL_EPSILON__;
  constexpr double slack = 1 + 64 * unit, lost = (8 * unit) * (8 * unit);  // as solvers/ista.py has them
  constexpr int64_t most = kWidth * kTile;
  const Sizes s = m.a.size;
  const int64_t N = s.coefficients(), M = s.measurements();
  Scratch memory;
  T* const plane = memory.take<T>(kWidth * N);
  T* const next = memory.take<T>(kWidth * N);  // the gradient, then the new x (FISTA) or the step z (ISTA)
  T* const kept = kTrial ? memory.take<T>(kWidth * M) : nullptr;  // the new residual, until it is accepted
  double* const partial = memory.take<double>(3 * m.a.tiles());
  T *const from = kFista ? m.v : m.x, *const residual = kFista ? m.residual_v : m.residual;
  bool ready = false;  // the gradient's image is in `plane`
  for (int64_t k = 0; k < iterations; ++k) {
    if (!ready) m.a.adjoint(residual, plane);
    dwt2(m.dtype, Address(plane), m.taps, Address(next), s.C, s.P, s.Q, m.taps_count, m.levels);
    const T step = T(m.numbers[0]);
    const double theta = m.numbers[1], after = (1 + square_root(1 + 4 * rounded(theta * theta))) / 2;
    T momentum = T(1 + (theta - 1) / after) - 1;
    const double* const learned = m.schedule + k * (3 + m.levels);
    T of_band[64];
    if constexpr (kLearned) {
      momentum = T(learned[0]);
      for (int64_t j = 0; j <= m.levels; ++j) of_band[j] = step * T(learned[2 + j]);
    }

    double square = 0, l1 = 0;
    const auto move = [&](int64_t, int64_t tile, double* sums) {
      const int64_t first = tile * kTile, n = at_most(kTile, N - first), at = kWidth * first, width = kWidth * n;
      T z[most];
      if constexpr (kLearned) {
        const T factor = T(learned[1]);
        T steps[kTile] = {}, lams[kTile] = {};
        steps_of_bands(s, m.levels, of_band, first, n, steps);
        const int64_t entries = m.lam_entry ? n : 1;
        for (int64_t i = 0; i < entries; ++i) lams[i] = factor * m.lam[first * m.lam_entry + i];
        any_step<kWidth>(from + at, next + at, steps, 1, lams, m.lam_entry, z, n, sums);
      } else {
        any_step<kWidth>(from + at, next + at, &step, 0, m.lam + first * m.lam_entry, m.lam_entry, z, n, sums);
      }
      if constexpr (kFista)
        for (int64_t i = 0; i < width; ++i) z[i] += from[at + i];
      if constexpr (kFista && !kTrial) {
        extrapolate<kLearned>(z, m.x + at, m.v + at, momentum, width);
        return;
      }
      if constexpr (!kTrial)
        for (int64_t i = 0; i < width; ++i) m.x[at + i] += z[i];
      std::memcpy(next + at, z, width * sizeof(T));
    };
    sum_per_image<3>(1, tiles_of(N), kWidth * N, move,
                     [&](int64_t, const double* sums) { square = sums[1], l1 = sums[2]; });

    const T* const moved = kFista && !kTrial ? m.x : next;
    idwt2(m.dtype, Address(moved), m.taps, Address(plane), s.C, s.P, s.Q, m.taps_count, m.levels);
    double totals[3] = {};
    const auto measure = [&](int64_t at, int64_t n, const T* image, T* back, double* sums) {
      const int64_t first = kWidth * at, width = kWidth * n;
      T fresh[most] = {};
      if constexpr (kFista)  // of the image as it is in memory: a product that is fused with a sum rounds otherwise
        for (int64_t i = 0; i < width; ++i) fresh[i] = image[i] - m.y[first + i];
      else
        for (int64_t i = 0; i < width; ++i) fresh[i] = m.residual[first + i] + image[i];
      sums[0] = square_of<T>(fresh, fresh, false, width);
      if constexpr (kTrial) {
        sums[1] =
            kFista ? square_of<T>(fresh, residual + first, true, width) : square_of<T>(image, image, false, width);
        sums[2] = kFista ? square_of<T>(image, image, false, width) : 0;
        std::memcpy(kept + first, fresh, width * sizeof(T));
      } else if constexpr (kFista) {
        extrapolate<kLearned>(fresh, m.residual + first, back ? back : m.residual_v + first, momentum, width);
      } else {
        std::memcpy(m.residual + first, fresh, width * sizeof(T));
        if (back) std::memcpy(back, fresh, width * sizeof(T));
      }
    };
    ready = m.a.measure(plane, !kTrial && k + 1 < iterations, partial, measure);
    for (int64_t i = 0; i < m.a.tiles(); ++i)
      for (int j = 0; j < (kTrial ? 3 : 1); ++j) totals[j] += partial[3 * i + j];

    bool good = true;
    if constexpr (kTrial) {
      const double bound = square / m.numbers[0] * slack;
      good = totals[1] <= bound || (kFista && totals[1] <= bound + rounded(lost * totals[2]));
      if (good) {
        parallel(tiles_of(N), kWidth * N, [&](int64_t tile) {
          const int64_t first = kWidth * tile * kTile, n = at_most(most, kWidth * N - first);
          if constexpr (kFista)
            extrapolate<false>(next + first, m.x + first, m.v + first, momentum, n);
          else
            for (int64_t i = first; i < first + n; ++i) m.x[i] += next[i];
        });
        parallel(tiles_of(M), kWidth * M, [&](int64_t tile) {
          const int64_t first = kWidth * tile * kTile, n = at_most(most, kWidth * M - first);
          if constexpr (kFista)
            extrapolate<false>(kept + first, m.residual + first, m.residual_v + first, momentum, n);
          else
            std::memcpy(m.residual + first, kept + first, n * sizeof(T));
        });
      }
    }
    if (good) {
      if constexpr (!kLearned) {
        m.numbers[1] = after;
        m.numbers[3] = square;
      } else {
        l1 /= learned[1];
      }
      m.numbers[2] = totals[0] / 2 + l1;
    } else {
      m.numbers[0] /= 2;
    }
    m.trace[2 * k] = m.numbers[2];
    m.trace[2 * k + 1] = m.numbers[3];
  }
}
}  // namespace

void prox_gradient_iterations(int dtype, int transform, Address x, Address v, Address residual, Address residual_v,
                              Address y, Address mask, Address maps, Address lam, Address numbers, Address schedule,
                              Address taps, Address plan, Address trace, int64_t B, int64_t C, int64_t P, int64_t Q,
                              int64_t H, int64_t W, int64_t coils, int64_t L, int64_t levels, int64_t mask_image,
                              int64_t maps_image, int64_t lam_image, int64_t lam_entry, int64_t iterations, bool fista,
                              bool backtracking, bool scheduled, bool centred) {
  by_dtype<kRealOrComplex>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    constexpr int kWidth = type.width;
    const Sizes size = {C, H, W, P, Q, coils};
    const int64_t N = kWidth * size.coefficients(), M = kWidth * size.measurements();
    const int64_t mask_width = transform == kBlur ? 2 : 1;
    parallel(B, B * N * iterations, [=](int64_t b) {
      const Image<kWidth, T> image = {dtype,
                                      {transform, size, as<const T>(mask) + b * mask_image * mask_width,
                                       as<const T>(maps) + b * maps_image * 2, as<const Address>(plan), centred},
                                      L,
                                      levels,
                                      as<T>(x) + b * N,
                                      as<T>(v) + b * N,
                                      as<T>(residual) + b * M,
                                      as<T>(residual_v) + b * M,
                                      as<const T>(y) + b * M,
                                      as<const T>(lam) + b * lam_image,
                                      lam_entry,
                                      taps,
                                      as<double>(numbers) + 4 * b,
                                      as<double>(trace) + 2 * b * iterations,
                                      as<const double>(schedule) + b * iterations * (3 + levels)};
      if (scheduled)
        iterate<true, kScheduled>(image, iterations);
      else if (fista)
        backtracking ? iterate<true, kBacktracking>(image, iterations) : iterate<true, kFixed>(image, iterations);
      else
        backtracking ? iterate<false, kBacktracking>(image, iterations) : iterate<false, kFixed>(image, iterations);
    });
  });
}

// A of images, or its adjoint `back`: x [B, C, H, W], y [B, K, H, W] as above with P = H, Q = W.
void image_operator(int dtype, int transform, Address x, Address y, Address mask, Address maps, Address plan, int64_t B,
                    int64_t C, int64_t H, int64_t W, int64_t coils, int64_t mask_image, int64_t maps_image,
                    bool centred, bool back) {
  by_dtype<kRealOrComplex>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    constexpr int kWidth = type.width;
    const Sizes size = {C, H, W, H, W, coils};
    const int64_t N = kWidth * size.coefficients(), M = kWidth * size.measurements();
    parallel(B, B * M, [=](int64_t b) {
      const ImageOperator<kWidth, T> a = {transform,
                                          size,
                                          as<const T>(mask) + b * mask_image * (transform == kBlur ? 2 : 1),
                                          as<const T>(maps) + b * maps_image * 2,
                                          as<const Address>(plan),
                                          centred};
      T *const own = as<T>(x) + b * N, *const there = as<T>(y) + b * M;
      if (back) return a.adjoint(there, own);
      Scratch memory;
      double* const none = memory.take<double>(3 * a.tiles());
      a.measure(own, false, none, [=](int64_t at, int64_t n, const T* image, T*, double*) {
        std::memcpy(there + kWidth * at, image, kWidth * n * sizeof(T));
      });
    });
  });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
