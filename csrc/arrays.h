// arrays.h: whether tensors may go to a kernel as they are, and the small tensors that it fills, each in one call.
//
// Through DLPack's C exchange interface (dlpack.h 1.3, DLPackExchangeAPI), which torch has since 2.10: its layout is
// fixed within a major version. From Python the same questions take half of a small op's time.
#pragma once
#include <pybind11/pybind11.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace fastrecon {
struct DLTensor {  // as in dlpack.h
  void* data;
  std::int32_t device_type, device_id, ndim;
  std::uint8_t code, bits;
  std::uint16_t lanes;
  std::int64_t *shape, *strides;
  std::uint64_t byte_offset;
};

struct DLManagedTensor {  // DLManagedTensorVersioned of dlpack.h
  std::uint32_t major, minor;
  void* owner;
  void (*release)(DLManagedTensor*);
  std::uint64_t flags;
  DLTensor tensor;
};

struct DLPackExchangeApi {  // as in dlpack.h, what is not called here as pointers to nothing
  std::uint32_t major, minor;
  void *previous, *allocate, *from_object;
  int (*to_object)(DLManagedTensor* tensor, void** out);
  int (*view)(void* object, DLTensor* out);
  void* stream;
};

class Arrays {
 public:
  enum : int { kMajor = 1, kMinor = 3, kCpu = 1, kFloat = 2, kComplex = 5, kBool = 6 };  // dlpack.h

  // Tensors are objects of `type`; those of subclasses are never plain. Of these functions `recording` tells whether
  // autograd records, each of `watching` whether somebody looks at what happens to tensors; so does an attribute
  // _current_level >= 0 of `levels`. Returns whether the type has the interface.
  bool of(PyObject* type, PyObject* recording, PyObject* levels, PyObject* watching) {
    PyObject* const capsule = PyObject_GetAttrString(type, "__dlpack_c_exchange_api__");
    void* const found = capsule ? PyCapsule_GetPointer(capsule, "dlpack_exchange_api") : nullptr;
    Py_XDECREF(capsule);
    PyErr_Clear();
    api_ = static_cast<const DLPackExchangeApi*>(found);
    if (api_ == nullptr || api_->major != kMajor) return false;
    for (PyObject* kept : {type, recording, levels, watching}) Py_INCREF(kept);
    recording_ = recording;
    levels_ = levels;
    watching_ = watching;
    type_ = reinterpret_cast<PyTypeObject*>(type);
    return true;
  }

  bool recording() const { return is_true(PyObject_CallNoArgs(recording_)); }

  bool watched() const {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(watching_); ++i)
      if (!is_zero(PyObject_CallNoArgs(PyTuple_GET_ITEM(watching_, i)))) return true;
    PyObject* const level = PyObject_GetAttr(levels_, current_level_);
    const bool inside = level == nullptr || PyLong_AsLong(level) >= 0;
    Py_XDECREF(level);
    PyErr_Clear();
    return inside;
  }

  bool is_tensor(PyObject* o) const { return PyObject_TypeCheck(o, type_); }

  // Whether `o` lies contiguously in the CPU's memory with numbers in it, neither conjugated nor negated when read,
  // and, where autograd records, asks for no gradient. `t` tells where it lies.
  bool plain(PyObject* o, bool recording, DLTensor& t) const {
    if (Py_TYPE(o) != type_) return false;
    if (api_->view(o, &t) != 0) {  // no memory of its own, or not one that DLPack can describe
      PyErr_Clear();
      return false;
    }
    if (t.device_type != kCpu || t.lanes != 1) return false;
    std::int64_t count = 1;
    for (std::int32_t d = t.ndim; d-- > 0;) {
      if (t.strides != nullptr && t.shape[d] != 1 && t.strides[d] != count) return false;
      count *= t.shape[d];
    }
    return count > 0 && !says(o, is_neg_) && (t.code != kComplex || !says(o, is_conj_)) && !(recording && asks(o));
  }

  // The code of a dtype that kernels know, or -1.
  static int dtype(const DLTensor& t) {
    if (t.code == kFloat && (t.bits == 32 || t.bits == 64)) return t.bits == 64;
    if (t.code == kComplex && (t.bits == 64 || t.bits == 128)) return 2 + (t.bits == 128);
    return -1;
  }

  // A new object of the tensor, which it releases some day; nullptr with an exception set.
  PyObject* object(DLManagedTensor* t) const {
    void* made = nullptr;
    return api_->to_object(t, &made) == 0 ? static_cast<PyObject*>(made) : nullptr;
  }

  static bool alike(const DLTensor& a, const DLTensor& b) {
    bool same = a.code == b.code && a.bits == b.bits && a.ndim == b.ndim;
    for (std::int32_t d = 0; same && d < a.ndim; ++d) same = a.shape[d] == b.shape[d];
    return same;
  }

  static bool per_image(const DLTensor& t, std::int64_t batch) {
    return t.code == kFloat && (t.bits == 32 || t.bits == 64) && t.ndim == 1 && t.shape[0] == batch;
  }

 private:
  static bool is_true(PyObject* answer) {  // what cannot tell is not plain
    Py_XDECREF(answer);
    if (answer == nullptr) PyErr_Clear();
    return answer != Py_False;
  }
  static bool is_zero(PyObject* answer) {  // False or 0
    const bool zero = answer != nullptr && PyObject_Not(answer) == 1;
    Py_XDECREF(answer);
    PyErr_Clear();
    return zero;
  }
  static bool says(PyObject* o, PyObject* method) { return is_true(PyObject_VectorcallMethod(method, &o, 1, nullptr)); }
  bool asks(PyObject* o) const { return is_true(PyObject_GetAttr(o, requires_grad_)); }

  const DLPackExchangeApi* api_ = nullptr;
  PyTypeObject* type_ = nullptr;
  PyObject *recording_ = nullptr, *levels_ = nullptr, *watching_ = nullptr;
  PyObject* const current_level_ = PyUnicode_InternFromString("_current_level");
  PyObject* const is_neg_ = PyUnicode_InternFromString("is_neg");
  PyObject* const is_conj_ = PyUnicode_InternFromString("is_conj");
  PyObject* const requires_grad_ = PyUnicode_InternFromString("requires_grad");
};

inline Arrays& arrays() {
  static Arrays only;
  return only;
}

// all_plain(*arguments): whether nobody looks, and all tensors among the arguments are plain.
inline PyObject* all_plain(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (arrays().watched()) Py_RETURN_FALSE;
  const bool recording = arrays().recording();
  DLTensor t;
  for (Py_ssize_t i = 0; i < count; ++i)
    if (arrays().is_tensor(arguments[i]) && !arrays().plain(arguments[i], recording, t)) Py_RETURN_FALSE;
  Py_RETURN_TRUE;
}

// alike(n, tensors): the code of the dtype, B and N of the first n, plain [B, ...] with N numbers an image, of one
// shape and dtype, where the others are plain and real [B] and nobody looks; else None.
inline PyObject* alike(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 2 || !PyTuple_Check(arguments[1]) || PyTuple_GET_SIZE(arguments[1]) == 0) Py_RETURN_NONE;
  if (arrays().watched()) Py_RETURN_NONE;
  PyObject* const tensors = arguments[1];
  const Py_ssize_t same = PyLong_AsSsize_t(arguments[0]);
  const bool recording = arrays().recording();
  DLTensor x, t;
  bool fits = arrays().plain(PyTuple_GET_ITEM(tensors, 0), recording, x) && x.ndim > 0;
  for (Py_ssize_t i = 1; fits && i < PyTuple_GET_SIZE(tensors); ++i) {
    fits = arrays().plain(PyTuple_GET_ITEM(tensors, i), recording, t);
    fits = fits && (i < same ? Arrays::alike(t, x) : Arrays::per_image(t, x.shape[0]));
  }
  const int dtype = fits ? Arrays::dtype(x) : -1;
  if (dtype < 0) Py_RETURN_NONE;
  long long inner = 1;
  for (std::int32_t d = 1; d < x.ndim; ++d) inner *= x.shape[d];
  return Py_BuildValue("iLL", dtype, static_cast<long long>(x.shape[0]), inner);
}

// Real tensors [B] that lie in one piece of memory, which the last of them frees.
struct Outputs {
  struct Tensor {
    DLManagedTensor managed;
    std::int64_t shape, stride;
  };
  std::atomic<int> tensors;

  static void release(DLManagedTensor* t) {
    Outputs* const all = static_cast<Outputs*>(t->owner);
    if (all->tensors.fetch_sub(1) == 1) std::free(all);
  }
};

// outputs(layout, B): tensors [B] for a kernel to write to, and the addresses of their arrays. Of the layout's letters
// f is a float32 array, d float64, b bool; a digit k is float64 [B, k], and a tensor for each of its columns. What is
// not written is NaN.
inline PyObject* outputs(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  constexpr std::size_t kLine = 64;
  const auto lines = [](std::size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; };
  const char* const layout = count == 2 ? PyUnicode_AsUTF8(arguments[0]) : nullptr;
  const Py_ssize_t batch = count == 2 ? PyLong_AsSsize_t(arguments[1]) : 0;
  if (PyErr_Occurred()) return nullptr;
  constexpr Py_ssize_t kMost = 9;  // tensors
  Py_ssize_t arrays_ = 0, tensors = 0;
  std::size_t bytes = 0;
  bool fits = layout != nullptr && batch > 0 && batch < (Py_ssize_t{1} << 40);
  for (const char* c = layout; fits && *c != 0; ++c, ++arrays_) {
    const bool columns = *c > '0' && *c <= '9';
    fits = columns || *c == 'f' || *c == 'd' || *c == 'b';
    tensors += columns ? *c - '0' : 1;
    bytes += lines(batch * (columns ? 8 * (*c - '0') : *c == 'b' ? 1 : *c == 'f' ? 4 : 8));
  }
  if (!fits || tensors > kMost) {
    PyErr_SetString(PyExc_ValueError, "outputs: expected a layout of f, d, b and digits, 9 tensors at most, and B > 0");
    return nullptr;
  }
  const std::size_t head = lines(sizeof(Outputs)) + lines(tensors * sizeof(Outputs::Tensor));
  void* const memory = std::aligned_alloc(kLine, head + bytes);
  PyObject* const found = memory == nullptr ? nullptr : PyTuple_New(tensors + arrays_);
  if (found == nullptr) {
    std::free(memory);
    return memory == nullptr ? PyErr_NoMemory() : nullptr;
  }
  Outputs* const all = new (memory) Outputs{{1}};  // this function's own share
  auto* t = reinterpret_cast<Outputs::Tensor*>(static_cast<char*>(memory) + lines(sizeof(Outputs)));
  char* data = static_cast<char*>(memory) + head;
  std::memset(data, 0xff, bytes);
  Py_ssize_t at = 0;
  for (Py_ssize_t a = 0; fits && a < arrays_; ++a) {
    const char c = layout[a];
    const int columns = c <= '9' ? c - '0' : 1, size = c == 'b' ? 1 : c == 'f' ? 4 : 8;
    const std::uint8_t code = c == 'b' ? Arrays::kBool : Arrays::kFloat;
    PyTuple_SET_ITEM(found, tensors + a, PyLong_FromVoidPtr(data));
    for (int k = 0; fits && k < columns; ++k, ++t) {
      t->shape = batch;
      t->stride = columns;
      t->managed = {Arrays::kMajor,
                    Arrays::kMinor,
                    all,
                    Outputs::release,
                    0,
                    {data + k * size, Arrays::kCpu, 0, 1, code, static_cast<std::uint8_t>(8 * size), 1, &t->shape,
                     &t->stride, 0}};
      all->tensors.fetch_add(1);
      PyObject* const made = arrays().object(&t->managed);
      fits = made != nullptr;
      if (fits)
        PyTuple_SET_ITEM(found, at++, made);
      else
        Outputs::release(&t->managed);
    }
    data += lines(static_cast<std::size_t>(batch) * columns * size);
  }
  DLManagedTensor own{};
  own.owner = all;
  Outputs::release(&own);
  if (fits) return found;
  Py_DECREF(found);
  return nullptr;
}

// Adds these functions to the module: with the least that a call can cost.
inline void add_arrays(pybind11::module_& m) {
  using Fast = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t);
  static PyMethodDef table[3] = {};
  const std::pair<const char*, Fast> functions[3] = {{"all_plain", all_plain}, {"alike", alike}, {"outputs", outputs}};
  for (int i = 0; i < 3; ++i) {
    table[i] = {functions[i].first, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(functions[i].second)),
                METH_FASTCALL, nullptr};
    m.attr(functions[i].first) = pybind11::reinterpret_steal<pybind11::object>(PyCFunction_New(&table[i], nullptr));
  }
  m.def("tensors",
        [](pybind11::object type, pybind11::object recording, pybind11::object levels, pybind11::tuple watching) {
          return arrays().of(type.ptr(), recording.ptr(), levels.ptr(), watching.ptr());
        });
}
}  // namespace fastrecon
