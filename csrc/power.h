// power.h: x^q for positive normal x and fixed q, written so that loops over it vectorise on every instruction set.
//
// x^q = 2^(q log2 x) with log2 x = e + log2 m, 1/sqrt(2) <= m < sqrt(2). q e is split into an exact and a small part,
// so the error stays near one unit in the last place however large the exponent is. Only logical shifts, integer sums
// and additions of `kShift` are used where SSE2 and AVX2 lack arithmetic shifts, rounding and 64-bit conversions.
#pragma once
#include "lanes.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
// Polynomials interpolate at Chebyshev nodes: kLog is log2 m / s in s^2 with s = (m - 1) / (m + 1), relative error
// 7e-10 (float) and 1e-18 (double); kExp is (2^f - 1) / f on [-1/2, 1/2], error of 2^f 5e-9 and 8e-18.
template <typename T>
struct Format;
template <>
struct Format<float> {
  using Bits = std::uint32_t;
  static constexpr int kMantissa = 23;
  static constexpr Bits kOne = 0x3f800000, kRootHalf = 0x3f3504f3, kExponent = 0x4b000000;  // kExponent: 2^23
  static constexpr float kShift = 0x1.8p23f, kOffset = 0x1p23f + 127;
  static constexpr float kLog[] = {2.88539008f, 0.9617988388f, 0.576715186f, 0.4317176975f};
  static constexpr float kExp[] = {0.693147188f,    0.2402265076f,   0.05550357114f,
                                   0.009618082557f, 0.001339086336f, 0.0001545316295f};
};
template <>
struct Format<double> {
  using Bits = std::uint64_t;
  static constexpr int kMantissa = 52;
  static constexpr Bits kOne = 0x3ff0000000000000, kRootHalf = 0x3fe6a09e667f3bcd, kExponent = 0x4330000000000000;
  static constexpr double kShift = 0x1.8p52, kOffset = 0x1p52 + 1023;
  static constexpr double kLog[] = {2.8853900817779268115,  0.96179669392598972877, 0.5770780163455202295,
                                    0.41219858584090053448, 0.32059853491395986095, 0.26233435250418301904,
                                    0.22091308423117679618, 0.21365895694319269427};
  static constexpr double kExp[] = {0.69314718055994530942,     0.2402265069591009822,    0.055504108664821594339,
                                    0.0096181291076068885273,   0.001333355814641693531,  0.00015403530441736050155,
                                    0.000015252733829836118394, 1.3215442587921689653e-6, 1.0178062445845773521e-7,
                                    7.0725859492692236999e-9,   4.4549605981865183938e-10};
};

template <typename To, typename From>
FR_INLINE To bits_as(From x) {
  To y;
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}

template <typename T, int n>
FR_INLINE T polynomial(const T (&c)[n], T x) {
  T y = c[n - 1];
  for (int k = n - 2; k >= 0; --k) y = y * x + c[k];
  return y;
}

// log2 x = e + log, e a whole number, |log| <= 1/2.
template <typename T>
FR_INLINE void log2_parts(T x, T& e, T& log) {
  using F = Format<T>;
  using Bits = typename F::Bits;
  const Bits b = bits_as<Bits>(x), biased = (b + (F::kOne - F::kRootHalf)) >> F::kMantissa;
  e = bits_as<T>(biased | F::kExponent) - F::kOffset;
  const T m = bits_as<T>(b - (biased << F::kMantissa) + F::kOne);
  const T s = (m - 1) / (m + 1);
  log = s * polynomial(F::kLog, s * s);
}

template <typename T>
struct Power {
  T q, high, low;  // high has few enough digits that high * e is exact for every exponent e
  FR_INLINE explicit Power(double exponent) : q(T(exponent)) {
    constexpr int drop = sizeof(T) == 4 ? 9 : 12;
    using Bits = typename Format<T>::Bits;
    high = bits_as<T>(bits_as<Bits>(q) >> drop << drop);
    low = T(exponent - double(high));
  }
  FR_INLINE T operator()(T x) const {
    using F = Format<T>;
    using Bits = typename F::Bits;
    T e, log;
    log2_parts(x, e, log);
    const T exact = high * e, rest = low * e + q * log, shifted = exact + rest + F::kShift;
    const T f = exact - (shifted - F::kShift) + rest;
    return (1 + f * polynomial(F::kExp, f)) * bits_as<T>((bits_as<Bits>(shifted) << F::kMantissa) + F::kOne);
  }
};
}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
