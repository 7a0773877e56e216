// model.h: what every model of the C interface offers.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "file.h"
#include "isa_choice.h"

namespace fastrecon {
using Certificate = std::map<std::string, double>;

class Model {
 public:
  virtual ~Model() = default;
  // Numbers of measurements of a picture.
  virtual std::int64_t measurements(std::int64_t height, std::int64_t width) const = 0;
  virtual Certificate reconstruct(std::int64_t height, std::int64_t width, const float* y, float* x) const = 0;
};

std::unique_ptr<Model> load_lda(const File& file);
std::unique_ptr<Model> load_fista(const File& file);
std::unique_ptr<Model> load_dladmm(const File& file);

template <typename T>
Address address(T* p) {
  return reinterpret_cast<Address>(p);
}

// The sampling of block compressed sensing: operators/block_sensing.py.
struct Blocks {
  const Kernels* k;
  std::int64_t block, m, height, width;
  const float* phi;  // [m, block * block]

  std::int64_t rows() const { return (height + block - 1) / block; }
  std::int64_t cols() const { return (width + block - 1) / block; }
  std::int64_t count() const { return rows() * cols(); }
  std::int64_t pixels() const { return height * width; }

  // x [H, W] of its blocks [rows, cols, block * block], and back, zeros beyond the right and the lower edge.
  void to_image(const float* blocks, float* x) const;
  void to_blocks(const float* x, float* blocks) const;
  // out = A x - y, or A x where y is null.
  void residual(const float* x, const float* y, float* out) const;
  void adjoint(const float* y, float* x) const;
  // x of blocks Q y, q [block * block, m].
  void start(const float* y, const float* q, float* x) const;
};

// |t|^2 in double.
double square(const std::vector<float>& t);
}  // namespace fastrecon
