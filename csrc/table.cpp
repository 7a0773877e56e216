// table.cpp: the table of kernels of one instruction set.
#include "isa.h"
#include "kernels.h"

namespace fastrecon {
namespace FASTRECON_ISA {
#define FASTRECON_ENTRY(name, args) name,
extern const Kernels kTable = {FASTRECON_KERNELS(FASTRECON_ENTRY)};
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
