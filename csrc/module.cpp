// module.cpp: fastrecon._C, the kernels of the best instruction set this machine has, bound with pybind11.
//
// FASTRECON_ISA chooses another one (baseline, avx2, avx512, avx512bf16, amx). Arguments are addresses and sizes; each
// address must be non-zero here, and the Python adapters in fastrecon/ops answer for shapes, types and contiguity.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "isa_choice.h"
#include "outputs.h"
#include "pool.h"

namespace py = pybind11;

namespace fastrecon {
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
  const Isa isa = choose_isa();
#define FASTRECON_BIND(name, args) bind(m, #name, #args, isa.kernels->name);
  FASTRECON_KERNELS(FASTRECON_BIND)
  add_arrays(m);
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
    info["vendor"] = vendor();
    info["compiler"] = __VERSION__;
    info["threads"] = threads();
    info["cores"] = cores();
    return info;
  });
}
