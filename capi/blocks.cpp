// blocks.cpp: block compressed sensing of one picture.
#include <cstring>

#include "model.h"

namespace fastrecon {
void Blocks::to_image(const float* blocks, float* x) const {
  for (std::int64_t r = 0; r < height; ++r)
    for (std::int64_t c = 0; c < cols(); ++c) {
      const std::int64_t n = c * block + block <= width ? block : width - c * block;
      const float* from = blocks + ((r / block * cols() + c) * block + r % block) * block;
      std::memcpy(x + r * width + c * block, from, sizeof(float) * std::size_t(n));
    }
}

void Blocks::to_blocks(const float* x, float* blocks) const {
  std::memset(blocks, 0, sizeof(float) * std::size_t(count() * block * block));
  for (std::int64_t r = 0; r < height; ++r)
    for (std::int64_t c = 0; c < cols(); ++c) {
      const std::int64_t n = c * block + block <= width ? block : width - c * block;
      float* to = blocks + ((r / block * cols() + c) * block + r % block) * block;
      std::memcpy(to, x + r * width + c * block, sizeof(float) * std::size_t(n));
    }
}

void Blocks::residual(const float* x, const float* y, float* out) const {
  std::vector<float> blocks(std::size_t(count() * block * block));
  to_blocks(x, blocks.data());
  k->block_product(kFloat32, address(blocks.data()), address(phi), address(out), true, count(), block * block, m);
  if (y)
    for (std::int64_t i = 0; i < count() * m; ++i) out[i] -= y[i];
}

void Blocks::adjoint(const float* y, float* x) const {
  std::vector<float> blocks(std::size_t(count() * block * block));
  k->block_product(kFloat32, address(y), address(phi), address(blocks.data()), false, count(), m, block * block);
  to_image(blocks.data(), x);
}

void Blocks::start(const float* y, const float* q, float* x) const {
  std::vector<float> blocks(std::size_t(count() * block * block));
  k->block_product(kFloat32, address(y), address(q), address(blocks.data()), true, count(), m, block * block);
  to_image(blocks.data(), x);
}

double square(const std::vector<float>& t) {
  double sum = 0;
  for (const float v : t) sum += double(v) * v;
  return sum;
}
}  // namespace fastrecon
