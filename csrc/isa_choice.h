// isa_choice.h: the kernels of the best instruction set this machine has. FASTRECON_ISA chooses another one.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"

namespace fastrecon {
struct Isa {
  const char* name;
  const Kernels* kernels;
  bool supported;
};

std::vector<Isa> instruction_sets();  // best last

const char* vendor();  // of the processor: "amd", "intel", or "" of any other

// Throws std::runtime_error where FASTRECON_ISA names one that this machine does not have.
Isa choose_isa();
}  // namespace fastrecon
