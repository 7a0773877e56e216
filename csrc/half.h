// half.h: bfloat16 numbers in memory, float32 ones in registers.
#pragma once
#include "lanes.h"

namespace fastrecon {
namespace FASTRECON_ISA {
using Half = std::uint16_t;  // the bits of a bfloat16

typedef std::uint32_t Bits __attribute__((vector_size(kVectorBytes)));
typedef Half Halves __attribute__((vector_size(kVectorBytes / 2)));

FR_INLINE void store(Half* p, Vec<float> v) {  // rounded to nearest even; NaN stays NaN
#if defined(__AVX512BF16__)
  const __m256bh h = _mm512_cvtneps_pbh((__m512)v);
#else
  const Bits u = (Bits)v, rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  const Halves h = __builtin_convertvector(v == v ? rounded : (u >> 16) | 0x40, Halves);
#endif
  __builtin_memcpy(p, &h, sizeof h);
}
FR_INLINE void store(Half* p, Vec<float> a, Vec<float> b) {  // one behind the other
#if defined(__AVX512BF16__)
  const __m512bh h = _mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
  __builtin_memcpy(p, &h, sizeof h);
#else
  store(p, a), store(p + kLanes<float>, b);
#endif
}
FR_INLINE Vec<float> load(const Half* p) { return (Vec<float>)(__builtin_convertvector(get<Halves>(p), Bits) << 16); }
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
