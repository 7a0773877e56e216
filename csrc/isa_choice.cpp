// isa_choice.cpp: see isa_choice.h.
#include "isa_choice.h"

#include <cstdlib>
#include <stdexcept>
#ifdef FASTRECON_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastrecon {
#define FASTRECON_TABLE(isa)   \
  namespace isa {              \
  extern const Kernels kTable; \
  }
FASTRECON_TABLE(baseline)
#ifdef FASTRECON_X86
FASTRECON_TABLE(avx2)
FASTRECON_TABLE(avx512)
namespace avx512bf16 {
FASTRECON_KERNELS(FASTRECON_DECLARE)

const Kernels kTable = [] {  // avx512, but for the kernels that have products of bfloat16
  Kernels k = avx512::kTable;
  k.feature_gradient_fwd = feature_gradient_fwd;
  k.feature_gradient_value = feature_gradient_value;
  k.feature_gradient_tile = feature_gradient_tile;
  k.feature_value_tile = feature_value_tile;
  return k;
}();
}  // namespace avx512bf16
#ifdef FASTRECON_AMX
namespace amx {
FASTRECON_KERNELS(FASTRECON_DECLARE)

const Kernels kTable = [] {
  Kernels k = avx512::kTable;
  k.feature_gradient_fwd = feature_gradient_fwd;
  k.feature_gradient_value = feature_gradient_value;
  k.feature_gradient_tile = feature_gradient_tile;
  k.feature_value_tile = feature_value_tile;
  return k;
}();
}  // namespace amx
#endif

// AMD's cores make twice as many products of bfloat16 pairs in a cycle as of float32; those of Intel make the same
// number, and the conversions come on top.
bool bfloat16_is_faster() { return vendor() == std::string("amd"); }

// Whether the processor has tiles of bfloat16, the kernel saves them, and lets this process use them: it is asked once,
// and may refuse. __builtin_cpu_supports knows no AMX in older compilers.
bool has_tiles() {
#ifdef FASTRECON_AMX
  static const bool has = [] {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    constexpr unsigned kBfloat16Tiles = 1u << 22, kTiles = 1u << 24;
    if (!(d & kBfloat16Tiles) || !(d & kTiles)) return false;
    unsigned low, high;  // XCR0: the states that the kernel saves, 17 and 18 are those of tiles
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low >> 17 & 3) != 3) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return has;
#else
  return false;
#endif
}
#endif

const char* vendor() {
#ifdef FASTRECON_X86
  __builtin_cpu_init();
  return __builtin_cpu_is("amd") ? "amd" : __builtin_cpu_is("intel") ? "intel" : "";
#else
  return "";
#endif
}

std::vector<Isa> instruction_sets() {  // best last
  std::vector<Isa> sets = {{"baseline", &baseline::kTable, true}};
#ifdef FASTRECON_X86
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  sets.push_back({"avx2", &avx2::kTable, v3});
  const Isa wide = {"avx512", &avx512::kTable, v4};
  const Isa half = {"avx512bf16", &avx512bf16::kTable, v4 && __builtin_cpu_supports("avx512bf16")};
  sets.push_back(bfloat16_is_faster() ? wide : half);
  sets.push_back(bfloat16_is_faster() ? half : wide);
#ifdef FASTRECON_AMX
  sets.push_back({"amx", &amx::kTable, half.supported && has_tiles()});
#endif
#endif
  return sets;
}

Isa choose_isa() {
  const std::vector<Isa> sets = instruction_sets();
  const char* forced = std::getenv("FASTRECON_ISA");
  Isa best = sets.front();
  std::string valid;
  for (const Isa& isa : sets) {
    if (!isa.supported) continue;
    if (forced && forced == std::string(isa.name)) return isa;
    best = isa;
    valid += (valid.empty() ? "" : ", ") + std::string(isa.name);
  }
  if (forced && *forced)
    throw std::runtime_error("FASTRECON_ISA: expected one of " + valid + " on this machine, got " + forced);
  return best;
}
}  // namespace fastrecon
