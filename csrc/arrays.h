// arrays.h: whether tensors may go to a kernel as they are, asked of all of them in one call.
//
// Through DLPack's C exchange interface (dlpack.h 1.3, DLPackExchangeAPI), which torch has since 2.10: its layout is
// fixed within a major version. From Python the same questions take half of a small op's time.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>

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

// Of a batch.
struct BatchSize {
  int dtype;
  std::int64_t images, inner;
};

// Of the first `same` of tensors, plain [B, ...], of one shape and dtype, where the others are plain and real [B] and
// nobody looks; else dtype -1. `at` takes the address of each, if there is room for them.
inline BatchSize size_of_alike(PyObject* tensors, Py_ssize_t same, void** at) {
  BatchSize size{-1, 0, 1};
  if (!PyTuple_Check(tensors) || PyTuple_GET_SIZE(tensors) == 0 || arrays().watched()) return size;
  const bool recording = arrays().recording();
  DLTensor x, t;
  bool fits = arrays().plain(PyTuple_GET_ITEM(tensors, 0), recording, x) && x.ndim > 0;
  if (fits && at) at[0] = static_cast<char*>(x.data) + x.byte_offset;
  for (Py_ssize_t i = 1; fits && i < PyTuple_GET_SIZE(tensors); ++i) {
    fits = arrays().plain(PyTuple_GET_ITEM(tensors, i), recording, t);
    fits = fits && (i < same ? Arrays::alike(t, x) : Arrays::per_image(t, x.shape[0]));
    if (fits && at) at[i] = static_cast<char*>(t.data) + t.byte_offset;
  }
  if (!fits) return size;
  size.dtype = Arrays::dtype(x);
  size.images = x.shape[0];
  for (std::int32_t d = 1; d < x.ndim; ++d) size.inner *= x.shape[d];
  return size;
}

// alike(n, tensors): the code of the dtype, B and N, numbers in an image, of the first n, as above; else None.
inline PyObject* alike(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 2) Py_RETURN_NONE;
  const BatchSize size = size_of_alike(arguments[1], PyLong_AsSsize_t(arguments[0]), nullptr);
  if (size.dtype < 0) Py_RETURN_NONE;
  return Py_BuildValue("iLL", size.dtype, static_cast<long long>(size.images), static_cast<long long>(size.inner));
}
}  // namespace fastrecon
