// isa.h: the instruction set one translation unit is compiled for.
//
// setup.py compiles the kernels with -DFASTRECON_ISA=baseline | avx2 | avx512 | avx512bf16 | amx and matching flags.
// Code here uses only functions that are always inlined or local to the unit: of a shared inline function the linker
// keeps one for every machine, which may be the one for AVX-512 (tests/test_layout.py looks for such symbols).
#pragma once
#include "kernels.h"

#define FR_INLINE inline __attribute__((always_inline))

#ifndef FASTRECON_ISA
#define FASTRECON_ISA baseline
#endif

namespace fastrecon {
#ifdef FASTRECON_EXTENDS  // the set whose kernels serve wherever this one has nothing to add
namespace FASTRECON_EXTENDS {
FASTRECON_KERNELS(FASTRECON_DECLARE)
}
#endif
namespace FASTRECON_ISA {
FASTRECON_KERNELS(FASTRECON_DECLARE)
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
