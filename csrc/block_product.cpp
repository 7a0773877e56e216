// block_product.cpp: the rows of all blocks times one matrix (CPU). Definition: fastrecon/ops/block_product.py
//   blocks [R, K]   matrix [K, L], or in columns: [L, K]   out [R, L]
#include "matrix.h"

namespace fastrecon {
namespace FASTRECON_ISA {
void block_product(int dtype, Address blocks, Address matrix, Address out, bool columns, std::int64_t R, std::int64_t K,
                   std::int64_t L) {
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const T *const x = reinterpret_cast<const T*>(blocks), *const w = reinterpret_cast<const T*>(matrix);
    T* const y = reinterpret_cast<T*>(out);
    columns ? matrix_product<kByRows, kByColumns>(R, L, K, x, w, touching(L, y), into(y, L))
            : matrix_product<kByRows, kByRows>(R, L, K, x, w, touching(L, y), into(y, L));
  };
  dtype == kFloat32 ? run(0.0f) : run(0.0);
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
