// product.h: small matrix products in registers, the inner loop of convolutions and of matrices.
#pragma once
#include "lanes.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
#if defined(__SANITIZE_ADDRESS__)
constexpr int kMaxRows = 3;  // the checks need no speed, and compile faster for fewer numbers of rows
#else
constexpr int kMaxRows = kVectorBytes == 64 ? 12 : 6;  // accumulators: 24 of 32 registers, or 12 of 16
#endif

#if defined(__GNUC__) && !defined(__clang__)
#define FR_UNROLL _Pragma("GCC unroll 16")
#else
#define FR_UNROLL _Pragma("clang loop unroll(full)")
#endif

// acc[i][j] = sum_k at(i, k) * b[k, j-th vector], i < M, j < N; each goes to emit(i, j, acc).
template <int M, int N, typename T, typename At, typename Emit>
FR_INLINE void product(int K, const T* b, std::int64_t ldb, const At& at, const Emit& emit) {
  Vec<T> acc[M][N];
  FR_UNROLL for (int i = 0; i < M; ++i) FR_UNROLL for (int j = 0; j < N; ++j) acc[i][j] = Vec<T>{};
  for (int k = 0; k < K; ++k) {
    Vec<T> w[N];
    FR_UNROLL for (int j = 0; j < N; ++j) w[j] = load(b + k * ldb + j * kLanes<T>);
    FR_UNROLL for (int i = 0; i < M; ++i) {
      const Vec<T> a = splat<T>(at(i, k));
      FR_UNROLL for (int j = 0; j < N; ++j) acc[i][j] += a * w[j];
    }
  }
  FR_UNROLL for (int i = 0; i < M; ++i) FR_UNROLL for (int j = 0; j < N; ++j) emit(i, j, acc[i][j]);
}

// The same for m <= kMaxRows rows known only at run time.
template <int N, typename T, typename At, typename Emit, int M = kMaxRows>
FR_INLINE void product_rows(int m, int K, const T* b, std::int64_t ldb, const At& at, const Emit& emit) {
  if (m == M) return product<M, N>(K, b, ldb, at, emit);
  if constexpr (M > 1) product_rows<N, T, At, Emit, M - 1>(m, K, b, ldb, at, emit);
}

// Splits `total` rows evenly into calls of at most kMaxRows: 33 = 11 + 11 + 11.
template <typename F>
FR_INLINE void split_rows(int total, const F& f) {
  const int calls = (total + kMaxRows - 1) / kMaxRows;
  for (int c = 0, begin = 0; c < calls; ++c) {
    const int m = (total - begin) / (calls - c);
    f(begin, m);
    begin += m;
  }
}
}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
