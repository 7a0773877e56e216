// module.cpp: fastrecon._C, the kernels of the best instruction set this machine has, bound with pybind11.
//
// FASTRECON_ISA chooses another one (baseline, avx2, avx512, avx512bf16, amx). Arguments are addresses and sizes; each
// address must be non-zero here, and the Python adapters in fastrecon/ops answer for shapes, types and contiguity.
#include <pybind11/pybind11.h>

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>
#ifdef FASTRECON_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels.h"
#include "pool.h"

namespace py = pybind11;

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
bool bfloat16_is_faster() { return __builtin_cpu_is("amd"); }

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

struct Isa {
  const char* name;
  const Kernels* kernels;
  bool supported;
};

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

Isa choose() {
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

// The names in "(int dtype, Address x, std::int64_t B)": dtype, x, B.
std::vector<std::string> names_of(const std::string& parameters) {
  std::vector<std::string> names;
  for (std::size_t begin = 1; begin < parameters.size();) {
    const std::size_t end = parameters.find_first_of(",)", begin);
    names.push_back(parameters.substr(begin, end - begin));
    names.back().erase(0, names.back().rfind(' ') + 1);
    begin = end + 1;
  }
  return names;
}

template <typename A>
void check(const char* kernel, const std::string& name, A value) {
  if constexpr (std::is_same_v<A, Address>) {
    if (value == 0) throw std::invalid_argument(kernel + (": " + name) + ": expected the address of an array, got 0");
  } else if constexpr (std::is_same_v<A, std::int64_t>) {
    if (value < 0)
      throw std::invalid_argument(kernel + (": " + name) + ": expected a number >= 0, got " + std::to_string(value));
  }
}

template <typename... Args, std::size_t... kIndex>
void bind(py::module_& m, const char* name, const char* parameters, void (*kernel)(Args...),
          std::index_sequence<kIndex...>) {
  const std::vector<std::string> names = names_of(parameters);
  const auto call = [name, names, kernel](Args... args) {
    (check(name, names[kIndex], args), ...);
    py::gil_scoped_release release;
    kernel(args...);
  };
  m.def(name, call, py::arg(names[kIndex].c_str())...);
}
template <typename... Args>
void bind(py::module_& m, const char* name, const char* parameters, void (*kernel)(Args...)) {
  bind(m, name, parameters, kernel, std::index_sequence_for<Args...>());
}
}  // namespace fastrecon

PYBIND11_MODULE(_C, m) {
  using namespace fastrecon;
  const Isa isa = choose();
#define FASTRECON_BIND(name, args) bind(m, #name, #args, isa.kernels->name);
  FASTRECON_KERNELS(FASTRECON_BIND)
  m.def("enter_alone", enter_alone);
  m.def("leave_alone", leave_alone);
  m.def("enter_together", enter_together);
  m.def("leave_together", leave_together);
  m.def("build_info", [isa] {
    py::dict info;
    py::list built, supported;
    for (const Isa& set : instruction_sets()) {
      built.append(set.name);
      if (set.supported) supported.append(set.name);
    }
    info["isa"] = isa.name;
    info["isa_built"] = built;
    info["isa_supported"] = supported;
    info["compiler"] = __VERSION__;
    info["threads"] = threads();
    info["cores"] = cores();
    return info;
  });
}
