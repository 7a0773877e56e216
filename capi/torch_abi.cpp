// torch_abi.cpp: see torch_abi.h.
#include "torch_abi.h"

#include <cstring>
#include <stdexcept>
#include <utility>

namespace fastrecon {
namespace {
void check(std::int32_t status) {
  if (status != 0) throw std::runtime_error("torch: expected an answer of its C interface, got an error");
}

// from [sizes] with strides, to contiguous memory, entries of `bytes` bytes.
char* copy_entries(const char* from, char* to, const std::int64_t* sizes, const std::int64_t* strides, std::int64_t dim,
                   std::size_t bytes) {
  if (dim == 0) {
    std::memcpy(to, from, bytes);
    return to + bytes;
  }
  for (std::int64_t i = 0; i < *sizes; ++i)
    to = copy_entries(from + i * *strides * std::int64_t(bytes), to, sizes + 1, strides + 1, dim - 1, bytes);
  return to;
}
}  // namespace

void* loaded_torch() { return dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD); }

const TorchAbi& torch_abi() {
  static const TorchAbi abi = [] {
    void* torch = loaded_torch();
    if (!torch) throw std::runtime_error("torch: expected libtorch_cpu.so in this process, got none");
    TorchAbi found{};
    const auto find = [torch](const char* name) {
      void* const function = dlsym(torch, name);
      if (!function)
        throw std::runtime_error("torch: expected torch 2.10 or newer, got one without " + std::string(name));
      return function;
    };
#define FASTRECON_TORCH_FIND(name, args) found.name = reinterpret_cast<decltype(found.name)>(find(#name));
#define FASTRECON_TORCH_FIND_CODE(name) FASTRECON_TORCH_FIND(name, ())
    FASTRECON_TORCH_ABI(FASTRECON_TORCH_FIND)
    FASTRECON_TORCH_CODES(FASTRECON_TORCH_FIND_CODE)
    return found;
  }();
  return abi;
}

Tensor::Tensor(Value handle) : handle_(reinterpret_cast<AtenTensorOpaque*>(handle)) {
  const TorchAbi& abi = torch_abi();
  const bool found = !abi.aoti_torch_get_dim(handle_, &dim_) && !abi.aoti_torch_get_sizes(handle_, &sizes_) &&
                     !abi.aoti_torch_get_strides(handle_, &strides_) && !abi.aoti_torch_get_dtype(handle_, &dtype_) &&
                     !abi.aoti_torch_get_data_ptr(handle_, &data_);
  if (!found) {
    abi.aoti_torch_delete_tensor_object(handle_);
    throw std::runtime_error("torch: expected a tensor in memory, got another");
  }
}

Tensor::Tensor(Tensor&& other) noexcept
    : handle_(std::exchange(other.handle_, nullptr)), dim_(other.dim_), sizes_(other.sizes_), strides_(other.strides_),
      dtype_(other.dtype_), data_(other.data_) {}

Tensor::~Tensor() {
  if (handle_) torch_abi().aoti_torch_delete_tensor_object(handle_);
}

Tensor Tensor::empty(const std::vector<std::int64_t>& sizes, std::int32_t dtype) {
  const TorchAbi& abi = torch_abi();
  std::vector<std::int64_t> strides(sizes.size(), 1);
  for (std::size_t d = sizes.size(); d-- > 1;) strides[d - 1] = strides[d] * sizes[d];
  AtenTensorOpaque* made = nullptr;
  check(abi.aoti_torch_empty_strided(std::int64_t(sizes.size()), sizes.data(), strides.data(), dtype,
                                     abi.aoti_torch_device_type_cpu(), 0, &made));
  return Tensor(reinterpret_cast<Value>(made));
}

std::int64_t Tensor::numel() const {
  std::int64_t n = 1;
  for (std::int64_t d = 0; d < dim_; ++d) n *= sizes_[d];
  return n;
}

int Tensor::kind() const {
  const TorchAbi& abi = torch_abi();
  if (dtype_ == abi.aoti_torch_dtype_float32()) return kFloat32;
  if (dtype_ == abi.aoti_torch_dtype_float64()) return kFloat64;
  if (dtype_ == abi.aoti_torch_dtype_complex64()) return kComplex64;
  return dtype_ == abi.aoti_torch_dtype_complex128() ? kComplex128 : -1;
}

bool Tensor::contiguous() const {
  std::int64_t expected = 1;
  for (std::int64_t d = dim_; d-- > 0; expected *= sizes_[d])
    if (sizes_[d] != 1 && strides_[d] != expected) return false;
  return true;
}

std::size_t Tensor::bytes() const {
  static constexpr std::size_t kBytes[] = {4, 8, 8, 16};
  return kBytes[kind()];
}

void Tensor::copy_to(char* to) const {
  copy_entries(static_cast<const char*>(data_), to, sizes_, strides_, dim_, bytes());
}

Tensor Tensor::copy() const {
  Tensor made = empty(sizes(), dtype_);
  copy_to(static_cast<char*>(made.data_));
  return made;
}

Value Tensor::release() { return reinterpret_cast<Value>(std::exchange(handle_, nullptr)); }

double to_double(Value v) {
  double number;
  std::memcpy(&number, &v, sizeof number);
  return number;
}

bool to_bool(Value v) { return (v & 1) != 0; }

std::string to_string(Value v) {
  const TorchAbi& abi = torch_abi();
  auto* const handle = reinterpret_cast<StringOpaque*>(v);
  std::size_t length = 0;
  const char* text = nullptr;
  std::string found;
  if (!abi.torch_string_length(handle, &length) && !abi.torch_string_c_str(handle, &text)) found.assign(text, length);
  check(abi.torch_delete_string(handle));
  return found;
}

std::vector<Tensor> to_tensors(Value v) {
  const TorchAbi& abi = torch_abi();
  auto* const list = reinterpret_cast<StableListOpaque*>(v);
  std::size_t count = 0;
  std::vector<Tensor> found;
  std::int32_t status = abi.torch_list_size(list, &count);
  for (std::size_t i = 0; status == 0 && i < count; ++i) {
    Value item = 0;
    status = abi.torch_list_get_item(list, i, &item);
    if (status == 0) found.emplace_back(item);
  }
  check(abi.torch_delete_list(list));
  check(status);
  return found;
}

std::vector<Tensor> to_optional(Value v) {
  std::vector<Tensor> found;
  if (Value* const inner = reinterpret_cast<Value*>(v)) {
    found.emplace_back(*inner);
    delete inner;
  }
  return found;
}
}  // namespace fastrecon
