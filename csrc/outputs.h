// outputs.h: the small tensors that a kernel fills, and what a call of it needs to know, each in one call.
#pragma once
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "arrays.h"

namespace fastrecon {
// Tensors [B] for a kernel to write to, in one piece of memory, which the last of them frees. Of a layout's letters f
// is a float32 array, d float64, r either as `dtype` says, b bool; a digit k is float64 [B, k], and a tensor for each
// of its columns. What is not written is NaN.
class Outputs {
 public:
  Outputs(const char* layout, std::int64_t batch, int dtype) : layout_(layout), batch_(batch), dtype_(dtype) {
    fits_ = layout != nullptr && batch > 0 && batch < (std::int64_t{1} << 40);
    for (const char* c = layout; fits_ && *c != 0; ++c, ++arrays_) {
      const Array a = array(*c);
      fits_ = a.columns > 0;
      tensors_ += a.columns;
      bytes_ += lines(static_cast<std::size_t>(batch) * a.columns * a.size);
    }
    fits_ = fits_ && tensors_ <= kMost;
  }

  bool fits() const { return fits_; }
  Py_ssize_t tensors() const { return tensors_; }
  Py_ssize_t count() const { return tensors_ + arrays_; }

  // Writes the tensors to `into` from `at` on, and the addresses of the arrays from `addresses` on; false with an
  // exception set.
  bool make(PyObject* into, Py_ssize_t at, Py_ssize_t addresses) const {
    const std::size_t head = lines(sizeof(Memory)) + lines(tensors_ * sizeof(Tensor));
    void* const memory = std::aligned_alloc(kLine, head + bytes_);
    if (memory == nullptr) return PyErr_NoMemory() != nullptr;
    Memory* const all = new (memory) Memory{{1}};  // this function's own share
    auto* t = reinterpret_cast<Tensor*>(static_cast<char*>(memory) + lines(sizeof(Memory)));
    char* data = static_cast<char*>(memory) + head;
    std::memset(data, 0xff, bytes_);
    bool good = true;
    for (Py_ssize_t k = 0; good && k < arrays_; ++k) {
      const Array a = array(layout_[k]);
      PyTuple_SET_ITEM(into, addresses++, PyLong_FromVoidPtr(data));
      for (int c = 0; good && c < a.columns; ++c, ++t) {
        t->shape = batch_;
        t->stride = a.columns;
        t->managed = {Arrays::kMajor, Arrays::kMinor, all, release, 0, {}};
        t->managed.tensor = {data + c * a.size, Arrays::kCpu, 0, 1, a.code, static_cast<std::uint8_t>(8 * a.size), 1,
                             &t->shape,         &t->stride,   0};
        all->tensors.fetch_add(1);
        PyObject* const made = arrays().object(&t->managed);
        good = made != nullptr;
        if (good)
          PyTuple_SET_ITEM(into, at++, made);
        else
          release(&t->managed);
      }
      data += lines(static_cast<std::size_t>(batch_) * a.columns * a.size);
    }
    DLManagedTensor own{};
    own.owner = all;
    release(&own);
    return good;
  }

 private:
  static constexpr std::size_t kLine = 64;
  static constexpr Py_ssize_t kMost = 9;  // tensors

  struct Array {
    int columns, size;  // bytes of a number
    std::uint8_t code;
  };
  struct Tensor {
    DLManagedTensor managed;
    std::int64_t shape, stride;
  };
  struct Memory {
    std::atomic<int> tensors;  // that are alive
  };

  static std::size_t lines(std::size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

  Array array(char letter) const {
    if (letter > '0' && letter <= '9') return {letter - '0', 8, Arrays::kFloat};
    if (letter == 'b') return {1, 1, Arrays::kBool};
    if (letter == 'f' || (letter == 'r' && dtype_ >= 0 && dtype_ % 2 == 0)) return {1, 4, Arrays::kFloat};
    if (letter == 'd' || (letter == 'r' && dtype_ >= 0)) return {1, 8, Arrays::kFloat};
    return {0, 0, 0};
  }

  static void release(DLManagedTensor* t) {
    Memory* const all = static_cast<Memory*>(t->owner);
    if (all->tensors.fetch_sub(1) == 1) std::free(all);
  }

  const char* layout_;
  std::int64_t batch_;
  int dtype_;
  Py_ssize_t arrays_ = 0, tensors_ = 0;
  std::size_t bytes_ = 0;
  bool fits_;
};

inline PyObject* unknown_layout() {
  PyErr_SetString(PyExc_ValueError, "outputs: expected a layout of f, d, b and digits, 9 tensors at most, and B > 0");
  return nullptr;
}

// outputs(layout, B): the tensors, then the addresses of their arrays.
inline PyObject* outputs(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  const char* const layout = count == 2 ? PyUnicode_AsUTF8(arguments[0]) : nullptr;
  const Py_ssize_t batch = count == 2 ? PyLong_AsSsize_t(arguments[1]) : 0;
  if (PyErr_Occurred()) return nullptr;
  const Outputs made(layout, batch, -1);
  if (!made.fits()) return unknown_layout();
  PyObject* const found = PyTuple_New(made.count());
  if (found != nullptr && made.make(found, 0, made.tensors())) return found;
  Py_XDECREF(found);
  return nullptr;
}

// prepare(layout, n, tensors): what alike(n, tensors) says, outputs of the layout for B images, and the addresses of
// the tensors and then of the outputs' arrays, one after the other; None where `alike` answers so.
inline PyObject* prepare(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  constexpr Py_ssize_t kMost = 8, kSize = 3;
  void* at[kMost];
  const char* const layout = count == 3 ? PyUnicode_AsUTF8(arguments[0]) : nullptr;
  if (layout == nullptr) return PyErr_Occurred() ? nullptr : unknown_layout();
  PyObject* const tensors = arguments[2];
  if (!PyTuple_Check(tensors) || PyTuple_GET_SIZE(tensors) > kMost) Py_RETURN_NONE;
  const BatchSize size = size_of_alike(tensors, PyLong_AsSsize_t(arguments[1]), at);
  if (size.dtype < 0) Py_RETURN_NONE;
  const Outputs made(layout, size.images, size.dtype);
  if (!made.fits()) return unknown_layout();
  const Py_ssize_t inputs = PyTuple_GET_SIZE(tensors), addresses = kSize + made.tensors();
  PyObject* const found = PyTuple_New(kSize + inputs + made.count());
  if (found == nullptr) return nullptr;
  PyTuple_SET_ITEM(found, 0, PyLong_FromLong(size.dtype));
  PyTuple_SET_ITEM(found, 1, PyLong_FromLongLong(size.images));
  PyTuple_SET_ITEM(found, 2, PyLong_FromLongLong(size.inner));
  for (Py_ssize_t i = 0; i < inputs; ++i) PyTuple_SET_ITEM(found, addresses + i, PyLong_FromVoidPtr(at[i]));
  if (made.make(found, kSize, addresses + inputs)) return found;
  Py_DECREF(found);
  return nullptr;
}

// Adds these functions and those of arrays.h to the module: with the least that a call can cost.
inline void add_arrays(pybind11::module_& m) {
  using Fast = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t);
  static PyMethodDef table[4] = {};
  const std::pair<const char*, Fast> functions[4] = {
      {"all_plain", all_plain}, {"alike", alike}, {"outputs", outputs}, {"prepare", prepare}};
  for (int i = 0; i < 4; ++i) {
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
