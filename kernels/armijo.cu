// armijo.cu: the step along a direction for a quadratic plus an l1 term, per image, without the host (CUDA C++, CuPy).
// Definition: fastrecon/ops/armijo.py
//   x, z, grad [B, N] of PARTS reals   lam real; element (b, i) lies at b * lam_image + i * lam_entry
//   curvature, slack, gamma [B]   sums [B, 4]: F(x + gamma z) - F(x), delta, Re <grad, z>, |z|^2   accepted [B]
//   partial [B, tiles, 3] and rises [B, tiles, trials - 1]: what tiles contribute   arrived [2, B], zeros at the start
// Two launches: the full step of every image, then the ladder of those that refused it; blocks of the others leave at
// once. The last block of an image adds up its tiles, in their order, and decides. NaN is never accepted.
#include "block_sum.h"
#include "scalar_math.h"

namespace fastrecon {
using T = REAL;
constexpr int kItems = 4;  // numbers of a thread
constexpr int kMostTrials = 64;

__device__ __forceinline__ double modulus(double re, double im) {
  return PARTS == 1 ? magnitude(re) : square_root(re * re + im * im);
}

// A thread's numbers of one tile, in double; those beyond N are 0.
struct Own {
  double x[kItems][2], z[kItems][2], lam[kItems], size[kItems];
  __device__ Own(const T* x_, const T* z_, const T* lam_, long long b, long long tile, long long N, long long lam_image,
                 long long lam_entry) {
    for (int k = 0; k < kItems; ++k) {
      const long long n = (tile * kItems + k) * kThreads + threadIdx.x;
      for (int p = 0; p < 2; ++p) {
        const bool inside = n < N && p < PARTS;
        x[k][p] = inside ? double(x_[(b * N + n) * PARTS + p]) : 0.0;
        z[k][p] = inside ? double(z_[(b * N + n) * PARTS + p]) : 0.0;
      }
      lam[k] = n < N ? double(lam_[b * lam_image + n * lam_entry]) : 0.0;
      size[k] = modulus(x[k][0], x[k][1]);
    }
  }
  // The rise of the l1 term for a step gamma.
  __device__ double rise(double gamma) const {
    double total = 0;
    for (int k = 0; k < kItems; ++k)
      total += lam[k] * (modulus(x[k][0] + gamma * z[k][0], x[k][1] + gamma * z[k][1]) - size[k]);
    return total;
  }
};

struct Trial {
  double change;
  bool good;
  __device__ Trial(double gamma, double rise, double slope, double delta, double curvature, double slack, double beta,
                   bool composite) {
    const double data = gamma * slope + gamma * gamma / 2 * curvature;
    change = data + rise;
    good = (composite ? change : data) <= beta * gamma * (composite ? delta : slope) + slack;
  }
};
}  // namespace fastrecon

extern "C" __global__ void armijo_full(const REAL* x, const REAL* z, const REAL* grad, const REAL* lam,
                                       const double* curvature, const double* slack, double* partial, unsigned* arrived,
                                       double* gamma, double* sums, bool* accepted, long long N, long long tiles,
                                       long long lam_image, long long lam_entry, double beta, long long composite) {
  using namespace fastrecon;
  const long long b = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const Own own(x, z, lam, b, tile, N, lam_image, lam_entry);
  double slope = 0, square = 0;
  for (int k = 0; k < kItems; ++k) {
    const long long n = (tile * kItems + k) * kThreads + threadIdx.x;
    for (int p = 0; p < PARTS && n < N; ++p) {
      slope += double(grad[(b * N + n) * PARTS + p]) * own.z[k][p];
      square += own.z[k][p] * own.z[k][p];
    }
  }
  const double found[3] = {block_sum(own.rise(1)), block_sum(slope), block_sum(square)};
  double* const mine = partial + 3 * (b * tiles);
  if (threadIdx.x == 0)
    for (int k = 0; k < 3; ++k) mine[3 * tile + k] = found[k];
  if (!last_of(arrived + b, tiles)) return;
  const double rise = sum_of(mine, tiles, 3), slope_b = sum_of(mine + 1, tiles, 3), square_b = sum_of(mine + 2, tiles, 3);
  const Trial trial(1, rise, slope_b, slope_b + rise, curvature[b], slack[b], beta, composite);
  if (threadIdx.x > 0) return;
  gamma[b] = 1;
  accepted[b] = trial.good;
  sums[4 * b] = trial.change;
  sums[4 * b + 1] = slope_b + rise;
  sums[4 * b + 2] = slope_b;
  sums[4 * b + 3] = square_b;
}

extern "C" __global__ void armijo_ladder(const REAL* x, const REAL* z, const REAL* lam, const double* curvature,
                                         const double* slack, double* rises, unsigned* arrived, double* gamma,
                                         double* sums, bool* accepted, long long N, long long tiles, long long lam_image,
                                         long long lam_entry, double beta, double eta, long long trials,
                                         long long composite) {
  using namespace fastrecon;
  const long long b = blockIdx.x / tiles, tile = blockIdx.x % tiles, rungs = trials - 1;
  if (accepted[b]) return;  // written again only by the last block, when all others have read it
  {
    __shared__ double part[kMostTrials][kWarps];
    const Own own(x, z, lam, b, tile, N, lam_image, lam_entry);
    double step = 1;
    for (int j = 0; j < rungs; ++j) {
      step *= eta;
      const double rise = warp_sum(own.rise(step));
      if (threadIdx.x % 32 == 0) part[j][threadIdx.x / 32] = rise;
    }
    __syncthreads();
    if (threadIdx.x == 0)  // the thread whose writes `last_of` publishes
      for (int j = 0; j < rungs; ++j) {
        double total = 0;
        for (int warp = 0; warp < kWarps; ++warp) total += part[j][warp];
        rises[(b * tiles + tile) * rungs + j] = total;
      }
  }
  if (!last_of(arrived + b, tiles)) return;
  const double delta = sums[4 * b + 1], slope = sums[4 * b + 2];
  double step = 1, change = 0;
  bool good = false;
  for (int j = 0; j < rungs && !good; ++j) {
    step *= eta;
    const double rise = sum_of(rises + b * tiles * rungs + j, tiles, rungs);
    const Trial trial(step, rise, slope, delta, curvature[b], slack[b], beta, composite);
    change = trial.change;
    good = trial.good;
  }
  if (threadIdx.x > 0) return;
  gamma[b] = step;
  sums[4 * b] = change;
  accepted[b] = good;
}
