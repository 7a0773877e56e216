// select_descent.cpp: the decisions of an LDA iteration, per image (CPU). Definition: fastrecon/ops/select_descent.py
#include "tiles.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;
constexpr int64_t kChunk = 1 << 15;  // bytes a task copies

// body(b, offset of its first byte, bytes) for all chunks of B images of `bytes` bytes.
template <typename F>
FR_INLINE void chunks(int64_t B, int64_t bytes, const F& body) {
  const int64_t each = tiles_of(bytes, kChunk);
  parallel(B * each, B * bytes / 4, [&](int64_t task) {
    const int64_t b = task / each, first = task % each * kChunk;
    body(b, b * bytes + first, at_most(kChunk, bytes - first));
  });
}

template <typename T>
FR_INLINE void shrink_each(const T* grad_f, const T* grad_r, const T* eps, T* grad, double* norm, T* eps_next,
                           bool* shrunk, int64_t B, int64_t N, double sigma, double gamma) {
  const auto part = [=](int64_t b, int64_t tile, double* square_of_tile) {
    const int64_t first = tile * kTile, at = b * N + first, n = at_most(kTile, N - first);
    double square[kTile];
    for (int64_t i = 0; i < n; ++i) {
      const T total = grad_f[at + i] + grad_r[at + i];
      grad[at + i] = total;
      square[i] = double(total) * total;
    }
    *square_of_tile = sum(square, n);
  };
  const auto take = [=](int64_t b, const double* square) {
    const double total = *square;
    norm[b] = square_root(total);
    if (sizeof(T) == 8 && !(total >= kSmallSquare<double> && total <= kLargest<double>)) {  // again, rescaled
      const double down = down_of(total);
      double again = 0;
      for (int64_t i = 0; i < N; ++i) again += (down * double(grad[b * N + i])) * (down * double(grad[b * N + i]));
      norm[b] = square_root(again) / down;
    }
    shrunk[b] = norm[b] < sigma * gamma * double(eps[b]);
    eps_next[b] = shrunk[b] ? T(gamma) * eps[b] : eps[b];
  };
  sum_per_image<1>(B, tiles_of(N), B * N, part, take);
}
}  // namespace

// u, v, x [B] images of `bytes` bytes   phi_u, phi_v [B] double   took_u [B] bool. NaN is higher than any number.
void select_descent(Address u, Address v, Address phi_u, Address phi_v, Address x, Address took_u, int64_t B,
                    int64_t bytes) {
  bool* const took = as<bool>(took_u);
  for (int64_t b = 0; b < B; ++b) {
    const double a = as<const double>(phi_u)[b], c = as<const double>(phi_v)[b];
    took[b] = a <= c || (c != c && a == a);
  }
  chunks(B, bytes, [=](int64_t b, int64_t at, int64_t n) {
    __builtin_memcpy(as<char>(x) + at, as<const char>(took[b] ? u : v) + at, n);
  });
}

void select_descent_bwd(Address d_x, Address took_u, Address d_u, Address d_v, int64_t B, int64_t bytes) {
  const bool* const took = as<const bool>(took_u);
  chunks(B, bytes, [=](int64_t b, int64_t at, int64_t n) {
    __builtin_memcpy(as<char>(took[b] ? d_u : d_v) + at, as<const char>(d_x) + at, n);
    __builtin_memset(as<char>(took[b] ? d_v : d_u) + at, 0, n);
  });
}

// grad_f, grad_r, grad [B, N]   eps, eps_next [B]; of one real type   norm [B] double   shrunk [B] bool
void shrink_eps(int dtype, Address grad_f, Address grad_r, Address eps, Address grad, Address norm, Address eps_next,
                Address shrunk, int64_t B, int64_t N, double sigma, double gamma) {
  by_dtype<kReal>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    shrink_each(as<const T>(grad_f), as<const T>(grad_r), as<const T>(eps), as<T>(grad), as<double>(norm),
                as<T>(eps_next), as<bool>(shrunk), B, N, sigma, gamma);
  });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
