// block_product.cpp: the rows of all blocks times one matrix (CPU). Definition: fastrecon/ops/block_product.py
//   blocks [R, K]   matrix [K, L], or in columns: [L, K]   out [R, L]
#include "matrix.h"

namespace fastrecon {
namespace FASTRECON_ISA {
void block_product(int dtype, Address blocks, Address matrix, Address out, bool columns, std::int64_t R, std::int64_t K,
                   std::int64_t L) {
  by_dtype<kReal>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    const T *const x = as<const T>(blocks), *const w = as<const T>(matrix);
    T* const y = as<T>(out);
    columns ? matrix_product<kByRows, kByColumns>(R, L, K, x, w, touching(L, y), into(y, L))
            : matrix_product<kByRows, kByRows>(R, L, K, x, w, touching(L, y), into(y, L));
  });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
