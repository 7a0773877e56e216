// select_descent.cu: the two decisions of an LDA iteration, per image, without the host (CUDA C++, CuPy).
// Definition: fastrecon/ops/select_descent.py. Maths: Chen, Liu, Ye & Zhang, arXiv:2007.11245, Algorithm 1, lines 5-9.
//   u, v, x, d_x, d_u, d_v [B, words]  images as words   phi_u, phi_v [B]   took_u [B]
//   grad_f, grad_r, grad [B, N]   eps, eps_next [B]   norm [B]   shrunk [B]   partial [B, tiles]   arrived [B], zeros
// The test of eps is one launch: the last block of an image adds up its tiles, in their order, and decides.
#include "block_sum.h"
#include "scalar_math.h"

namespace fastrecon {
using Word = WORD;
constexpr int kItems = 4;  // numbers of a thread
}  // namespace fastrecon

extern "C" __global__ void select_descent(const WORD* u, const WORD* v, const double* phi_u, const double* phi_v, WORD* x,
                                          bool* took_u, long long words, long long tiles) {
  using namespace fastrecon;
  const long long b = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const double a = phi_u[b], c = phi_v[b];
  const bool took = a <= c || (c != c && a == a);  // NaN counts as higher than any number
  if (tile == 0 && threadIdx.x == 0) took_u[b] = took;
  const WORD* const kept = took ? u : v;
  for (int k = 0; k < kItems; ++k) {
    const long long n = (tile * kItems + k) * kThreads + threadIdx.x;
    if (n < words) x[b * words + n] = kept[b * words + n];
  }
}

extern "C" __global__ void select_descent_bwd(const WORD* d_x, const bool* took_u, WORD* d_u, WORD* d_v, long long words,
                                              long long tiles) {
  using namespace fastrecon;
  const long long b = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  WORD* const kept = took_u[b] ? d_u : d_v;
  WORD* const other = took_u[b] ? d_v : d_u;
  for (int k = 0; k < kItems; ++k) {
    const long long n = (tile * kItems + k) * kThreads + threadIdx.x;
    if (n < words) {
      kept[b * words + n] = d_x[b * words + n];
      other[b * words + n] = Word{};
    }
  }
}

extern "C" __global__ void shrink_eps(const REAL* grad_f, const REAL* grad_r, const REAL* eps, REAL* grad,
                                      double* partial, unsigned* arrived, double* norm, REAL* eps_next, bool* shrunk,
                                      long long N, long long tiles, double sigma, double gamma) {
  using namespace fastrecon;
  const long long b = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  double own = 0;
  for (int k = 0; k < kItems; ++k) {
    const long long n = (tile * kItems + k) * kThreads + threadIdx.x;
    if (n < N) {
      const REAL total = grad_f[b * N + n] + grad_r[b * N + n];
      grad[b * N + n] = total;
      own += double(total) * total;
    }
  }
  const double found = block_sum(own);
  if (threadIdx.x == 0) partial[b * tiles + tile] = found;
  if (!last_of(arrived + b, tiles)) return;
  const double length = square_root(sum_of(partial + b * tiles, tiles, 1));
  if (threadIdx.x > 0) return;
  norm[b] = length;
  shrunk[b] = length < sigma * gamma * double(eps[b]);
  eps_next[b] = shrunk[b] ? REAL(gamma) * eps[b] : eps[b];
}
