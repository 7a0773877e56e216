// scalar_math.h: activation, smoothing and shrinkage of one number, shared by the C++ kernels and CUDA C++ (NVRTC).
//
// Every function is forced inline: csrc/isa.h says why. Nothing from the standard library is used, which NVRTC lacks.
#pragma once

#ifdef __CUDACC__
#define FR_HD __host__ __device__ __forceinline__
#else
#define FR_HD inline __attribute__((always_inline))
#endif

namespace fastrecon {
#ifdef __CUDACC__
FR_HD float square_root(float x) { return sqrtf(x); }
FR_HD double square_root(double x) { return sqrt(x); }
FR_HD float magnitude(float x) { return fabsf(x); }
FR_HD double magnitude(double x) { return fabs(x); }
FR_HD float with_sign(float size, float x) { return copysignf(size, x); }
FR_HD double with_sign(double size, double x) { return copysign(size, x); }
#else
FR_HD float square_root(float x) { return __builtin_sqrtf(x); }
FR_HD double square_root(double x) { return __builtin_sqrt(x); }
FR_HD float magnitude(float x) { return __builtin_fabsf(x); }
FR_HD double magnitude(double x) { return __builtin_fabs(x); }
FR_HD float with_sign(float size, float x) { return __builtin_copysignf(size, x); }
FR_HD double with_sign(double size, double x) { return __builtin_copysign(size, x); }
#endif

// Sums of squares outside these bounds may have lost digits, or everything, to underflow or overflow.
template <typename T>
constexpr T kSmallSquare = sizeof(T) == 4 ? T(0x1p-100) : T(0x1p-960);
template <typename T>
constexpr T kLargest = sizeof(T) == 4 ? T(__FLT_MAX__) : T(__DBL_MAX__);

// A factor that takes numbers with such a sum of squares to where their squares do neither; of powers of two, which do
// not round. NaN gives 1.
template <typename T>
FR_HD T down_of(T square) {
  constexpr T up = sizeof(T) == 4 ? T(0x1p100) : T(0x1p800);
  return square < kSmallSquare<T> ? up : square > kLargest<T> ? 1 / up : T(1);
}

// The larger of a limit and x, and the smaller: NaN in x comes through.
template <typename T>
FR_HD T at_least(T limit, T x) {
  return limit > x ? limit : x;
}
template <typename T>
FR_HD T at_most(T limit, T x) {
  return limit < x ? limit : x;
}

// Smoothed ReLU of radius delta: 0, (t + delta)^2 / (4 delta), t for t below, within, above [-delta, delta].
// arXiv:2007.11245, eq. (33).
template <typename T>
FR_HD T smoothed_relu(T t, T delta) {
  const T s = at_most(delta, at_least(-delta, t)) + delta;
  return s * (s / (4 * delta)) + at_least(T(0), t - delta);
}

// Its slope from its value h = a(t): min(1, sqrt(h / delta)), so that t need not be kept.
template <typename T>
FR_HD T smoothed_relu_slope(T h, T delta) {
  return square_root(at_most(T(1), h / delta));
}

// h(t) = t^2 / (2 eps) for t <= eps, t - eps / 2 beyond; never squares t, which could vanish. Eq. (9).
template <typename T>
FR_HD T smoothed_norm(T t, T eps) {
  return t <= eps ? t * (t / eps) / 2 : t - eps / 2;
}

// What soft thresholding multiplies a vector of this norm by: max(1 - tau / norm, 0), 0 for norm 0. NaN comes through.
template <typename T>
FR_HD T shrink_factor(T norm, T tau) {
  return norm <= tau ? T(0) : (norm - tau) / norm;
}

// One step of Halley's method (third order) for r - 1 + c r^(p-1) = 0, given u = c r^(p-1).
template <typename T>
FR_HD T halley_step(T r, T u, T p) {
  const T f = r - 1 + u, slope = r - (1 - p) * u;  // f, and r f'
  return r - 2 * r * f * slope / (2 * slope * slope - (1 - p) * (2 - p) * f * u);
}
}  // namespace fastrecon
