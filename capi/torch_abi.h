// torch_abi.h: the part of torch's stable C interface that the ops need, taken from the libtorch that a process has.
//
// No header of torch's is needed, nor torch: one library serves programs with and without it, and every torch from 2.10
// on. Declarations are those of torch/csrc/stable/c/shim.h, whose promise is to stay; tests/test_export.py compares
// them where torch's headers are.
#pragma once
#include <dlfcn.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kernels.h"

struct AtenTensorOpaque;
struct StableListOpaque;
struct StringOpaque;
class TorchLibraryOpaque;

// clang-format off
#define FASTRECON_TORCH_ABI(F)                                                                                        \
  F(aoti_torch_library_init_fragment, (const char*, const char*, std::uint32_t, TorchLibraryOpaque**))                \
  F(aoti_torch_library_init_impl, (const char*, const char*, const char*, std::uint32_t, TorchLibraryOpaque**))       \
  F(aoti_torch_library_def, (TorchLibraryOpaque*, const char*))                                                       \
  F(torch_library_impl, (TorchLibraryOpaque*, const char*,                                                            \
                         void (*)(std::uint64_t*, std::uint64_t, std::uint64_t), std::uint64_t))                      \
  F(aoti_torch_delete_tensor_object, (AtenTensorOpaque*))                                                             \
  F(aoti_torch_get_data_ptr, (AtenTensorOpaque*, void**))                                                             \
  F(aoti_torch_get_dim, (AtenTensorOpaque*, std::int64_t*))                                                           \
  F(aoti_torch_get_sizes, (AtenTensorOpaque*, std::int64_t**))                                                        \
  F(aoti_torch_get_strides, (AtenTensorOpaque*, std::int64_t**))                                                      \
  F(aoti_torch_get_dtype, (AtenTensorOpaque*, std::int32_t*))                                                         \
  F(aoti_torch_empty_strided, (std::int64_t, const std::int64_t*, const std::int64_t*, std::int32_t, std::int32_t,    \
                               std::int32_t, AtenTensorOpaque**))                                                     \
  F(torch_list_size, (StableListOpaque*, std::size_t*))                                                               \
  F(torch_list_get_item, (StableListOpaque*, std::size_t, std::uint64_t*))                                            \
  F(torch_delete_list, (StableListOpaque*))                                                                           \
  F(torch_string_length, (StringOpaque*, std::size_t*))                                                               \
  F(torch_string_c_str, (StringOpaque*, const char**))                                                                \
  F(torch_delete_string, (StringOpaque*))

#define FASTRECON_TORCH_CODES(F)                                                                                      \
  F(aoti_torch_device_type_cpu) F(aoti_torch_dtype_bool) F(aoti_torch_dtype_float32) F(aoti_torch_dtype_float64)      \
  F(aoti_torch_dtype_complex64) F(aoti_torch_dtype_complex128)
// clang-format on

#define FASTRECON_TORCH_MEMBER(name, args) std::int32_t(*name) args;
#define FASTRECON_TORCH_CODE(name) std::int32_t (*name)();

namespace fastrecon {
using Value = std::uint64_t;  // torch's StableIValue: a number's bits, or a pointer

struct TorchAbi {
  FASTRECON_TORCH_ABI(FASTRECON_TORCH_MEMBER)
  FASTRECON_TORCH_CODES(FASTRECON_TORCH_CODE)
};

// libtorch_cpu.so of this process, which may stay there, or null.
void* loaded_torch();

// Its interface. Throws std::runtime_error where there is none, or one that is too old.
const TorchAbi& torch_abi();

// Defines the ops of torch_ops.cpp, once. Throws as torch_abi does.
void define_torch_ops();

// A tensor of the CPU that is owned here.
class Tensor {
 public:
  explicit Tensor(Value handle);
  Tensor(Tensor&& other) noexcept;
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  ~Tensor();

  static Tensor empty(const std::vector<std::int64_t>& sizes, std::int32_t dtype);

  std::vector<std::int64_t> sizes() const { return {sizes_, sizes_ + dim_}; }
  std::int64_t dim() const { return dim_; }
  std::int64_t size(std::int64_t d) const { return sizes_[d]; }
  std::int64_t stride(std::int64_t d) const { return strides_[d]; }
  std::int64_t numel() const;
  std::int32_t dtype() const { return dtype_; }  // torch's code
  int kind() const;                              // Dtype of kernels.h, -1 for none of these
  bool contiguous() const;
  std::size_t bytes() const;     // of an entry
  void copy_to(char* to) const;  // row by row
  Tensor copy() const;           // contiguous
  Address data() const { return reinterpret_cast<Address>(data_); }
  Value release();  // gives it away

 private:
  AtenTensorOpaque* handle_;
  std::int64_t dim_ = 0;
  std::int64_t *sizes_ = nullptr, *strides_ = nullptr;
  std::int32_t dtype_ = 0;
  void* data_ = nullptr;
};

// What a schema calls float, bool and int; str and Tensor[], which are freed; Tensor?, null where there is none.
double to_double(Value v);
bool to_bool(Value v);
std::string to_string(Value v);
std::vector<Tensor> to_tensors(Value v);
std::vector<Tensor> to_optional(Value v);  // one or none
}  // namespace fastrecon
