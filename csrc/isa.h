// isa.h: the instruction set one translation unit is compiled for, and its vectors.
//
// setup.py compiles the kernels with -DFASTRECON_ISA=baseline | avx2 | avx512 | avx512bf16 | amx and matching flags. Code here
// uses only functions that are always inlined or local to the unit: a shared inline function compiled for AVX-512 could
// otherwise be the one that the linker keeps for every machine (tests/test_layout.py looks for such symbols).
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#ifndef FASTRECON_ISA
#define FASTRECON_ISA baseline
#endif

#include "kernels.h"

namespace fastrecon {
#ifdef FASTRECON_EXTENDS  // the set whose kernels serve wherever this one has nothing to add
namespace FASTRECON_EXTENDS {
FASTRECON_KERNELS(FASTRECON_DECLARE)
}
#endif
namespace FASTRECON_ISA {
FASTRECON_KERNELS(FASTRECON_DECLARE)

#define FR_INLINE inline __attribute__((always_inline))

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
// max and min keep the second argument where the first is NaN's partner, like vmaxps: write max(limit, x) to let x's NaN through
template <typename T>
FR_INLINE T larger(T limit, T x) {
  return limit > x ? limit : x;
}
template <typename T>
FR_INLINE T smaller(T limit, T x) {
  return limit < x ? limit : x;
}
#if defined(__SSE2__)  // what those instructions do; GCC makes a comparison and a blend of the maximum above
FR_INLINE Vec<float> larger(Vec<float> limit, Vec<float> x) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_maskz_max_ps(__mmask16(-1), (__m512)limit, (__m512)x);
#elif defined(__AVX2__)
  return (Vec<float>)_mm256_max_ps((__m256)limit, (__m256)x);
#else
  return (Vec<float>)_mm_max_ps((__m128)limit, (__m128)x);
#endif
}
#endif
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
