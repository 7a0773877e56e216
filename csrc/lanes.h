// lanes.h: vectors of the instruction set, and sums of their lanes.
#pragma once
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "isa.h"
#include "scalar_math.h"

namespace fastrecon {
namespace FASTRECON_ISA {
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <typename T>
using Vec = typename VectorOf<T>::type;
template <typename T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

// A number or a vector V of any length, at any alignment.
template <typename V, typename T>
FR_INLINE V get(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <typename T, typename V>
FR_INLINE void put(T* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}
template <typename T>
FR_INLINE Vec<T> load(const T* p) {
  return get<Vec<T>>(p);
}
template <typename T>
FR_INLINE void store(T* p, Vec<T> v) {
  put(p, v);
}
template <typename T>
FR_INLINE Vec<T> splat(T s) {
  return s - Vec<T>{};  // x - 0 is x: a plain broadcast (element by element would be a chain of inserts)
}
// at_least and at_most are of numbers and of vectors, lane by lane.
using fastrecon::at_least;
using fastrecon::at_most;
#if defined(__SSE2__)  // what those instructions do; GCC makes a comparison and a blend of the maximum above
FR_INLINE Vec<float> at_least(Vec<float> limit, Vec<float> x) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_maskz_max_ps(__mmask16(-1), (__m512)limit, (__m512)x);
#elif defined(__AVX2__)
  return (Vec<float>)_mm256_max_ps((__m256)limit, (__m256)x);
#else
  return (Vec<float>)_mm_max_ps((__m128)limit, (__m128)x);
#endif
}
#endif

// v as it stands: a product that the compiler does not fuse with the sum it goes into. Of a b + c d it may fuse either.
template <typename V>
FR_INLINE V rounded(V v) {
#if defined(__AVX512F__)
  __asm__("" : "+v"(v));
#elif defined(__SSE2__)
  __asm__("" : "+x"(v));
#endif
  return v;
}

// Soft thresholding of a number or a vector; NaN comes through, and what vanishes is +0.
template <typename V>
FR_INLINE V soft(V v, V tau) {
  return at_least(V{}, v - tau) + at_most(V{}, v + tau);
}

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

#if defined(__AVX512F__)  // one instruction, of which GCC makes five
FR_INLINE Vec<double> widen(Narrow<float> v) { return (Vec<double>)_mm512_maskz_cvtps_pd(__mmask8(-1), (__m256)v); }
#endif

// The sum of a vector's lanes. One after the other: for the few sums in double at the end of a tile.
FR_INLINE double sum_in_order(Vec<double> v) {
  double result = 0;
  for (int k = 0; k < kLanes<double>; ++k) result += v[k];
  return result;
}
// In pairs, and these in pairs: for one sum a pixel. It waits for fewer additions and rounds differently.
template <typename T>
FR_INLINE T sum_in_pairs(Vec<T> v) {
  T lane[kLanes<T>];
  store(lane, v);
  for (int w = kLanes<T> / 2; w > 0; w /= 2)
    for (int i = 0; i < w; ++i) lane[i] += lane[i + w];
  return lane[0];
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
