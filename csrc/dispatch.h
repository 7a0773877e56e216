// dispatch.h: from what crosses the border, the code of a dtype and addresses, to types and pointers.
#pragma once
#include <stdexcept>

#include "isa.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
// Numbers of width reals each: 1 (real) or 2 (complex, interleaved).
template <int kWidth, typename T>
struct Numbers {
  static constexpr int width = kWidth;
  using Real = T;
};
enum Kinds : int { kReal = 1, kComplex = 2, kRealOrComplex = 3 };

// kernel(Numbers<width, T>()) for the code of a dtype, of those that the kernel has.
template <int kKinds, typename F>
FR_INLINE void by_dtype(int dtype, const F& kernel) {
  if constexpr (kKinds & kReal) {
    if (dtype == kFloat32) return kernel(Numbers<1, float>());
    if (dtype == kFloat64) return kernel(Numbers<1, double>());
  }
  if constexpr (kKinds & kComplex) {
    if (dtype == kComplex64) return kernel(Numbers<2, float>());
    if (dtype == kComplex128) return kernel(Numbers<2, double>());
  }
  throw std::invalid_argument("dtype: expected the code of one that this kernel has, got another");
}

template <typename N>
using RealOf = typename N::Real;

template <typename T>
FR_INLINE T* as(Address a) {
  return reinterpret_cast<T*>(a);
}
}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
