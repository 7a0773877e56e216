// feature_gradient.cu: value and gradient of the learned regulariser, all layers in one kernel (CUDA C++, CuPy).
// Definition: fastrecon/ops/feature_gradient.py. Maths: Chen, Liu, Ye & Zhang, arXiv:2007.11245, eqs. (8)-(10), (33).
//   x, grad [B, H, W]   first [3, 3, 32], of image channels   weights [LAYERS - 1, 3, 3, 32 out, 32 in] in bfloat16
//   eps, value [B]   kept [LAYERS, B, H, 4, W, 8] in bfloat16: slopes a' of all layers but the last, and its cotangent
//   rows [B, H, 2 strips]: what the pixels of one row and one warp contribute to the value
// Products of features are in bfloat16 and summed in float32; those with the image, norms and sums are exact.
//
// A block owns a strip of 32 TILES columns and a band of rows, and walks down the rows. Four warps serve each layer: each
// has the weights of 16 output channels in its registers for good (72 of them) and half of the columns. A layer reads
// every input row once, for three output rows at a time, and writes the row that this completes for the next layer; two
// rows of each layer in shared memory and one barrier a row suffice. The first layer and, on the way back, the last are
// shared out among all warps.
//
// Expected, 4 layers, 32 images of 256x256 (234 GFLOP, of which 232 in matrices): with three strips of 96 for 256 columns
// and 4 halo rows on a band of 64 the tensor cores do 1.2 times that work, at 60% of the peak that mma.sync reaches on
// sm_90 0.48 ms on an H200; 0.65 ms if epilogues and barriers hide badly. Shared memory: 3 KB for 36 products of a
// quarter KB-clock each, a third of its rate. Memory: 4 maps of 134 MB written and 1.1 times read, 0.28 ms, beside it.
#include "block_sum.h"
#include "scalar_math.h"
#include "tensor_core.h"

namespace fastrecon {
constexpr int kLayers = LAYERS, kTiles = TILES;
constexpr int kProducts = kLayers - 1;  // layers from features to features
constexpr int kStrip = 32 * kTiles, kPitch = kStrip + 2;
constexpr int kTasks = (4 * kTiles + kWarps - 1) / kWarps;  // of 32 pixels and 8 channels in a row: the most of a warp
static_assert(kThreads == 128 * kProducts && kPitch <= kThreads, "four warps for each layer");

// A row of features, 8 channels to a chunk: neighbours lie 16 bytes apart, so that 8 of any start are free of conflicts.
// The first and last column are zero.
struct Row {
  uint4 at[4][kPitch];
};

__device__ __forceinline__ int lane() { return threadIdx.x % 32; }
__device__ __forceinline__ int warp() { return threadIdx.x / 32; }

// What a block computes: columns [left, left + kStrip) and of them it owns [begin, end), rows [top, bottom).
struct Area {
  int H, W, image, strip, left, begin, end, top, bottom;
  __device__ Area(long long H_, long long W_, long long strips, long long band, int halo) : H(H_), W(W_) {
    const long long bands = (H + band - 1) / band, part = blockIdx.x / strips;
    strip = blockIdx.x % strips;
    image = part / bands;
    top = part % bands * band;
    bottom = at_most<long long>(H, top + band);
    begin = strip * (kStrip - 2 * halo);
    end = at_most(W, begin + kStrip - 2 * halo);
    left = begin - halo;
  }
  __device__ bool holds(int row, int column) const { return row >= 0 && row < H && column >= 0 && column < W; }
  __device__ bool owns(int row, int column) const {
    return row >= top && row < bottom && column >= begin && column < end;
  }
  // Where chunk and column of a row lie in map `layer` of kept, in uint4.
  __device__ long long at(int layer, long long images, int row, int chunk, int column) const {
    return (((layer * images + image) * H + row) * 4 + chunk) * W + column;
  }
};

// A warp's share of one layer.
struct Product {
  int half, column;            // output channels 16 half, ...; columns column, ... of the strip
  unsigned weights[3][3][2][2][2];  // [ky][kx][input channel / 16][output channel / 8]
  float sums[3][kTiles][2][4];      // of the rows above, at and below the newest input row

  __device__ explicit Product(const unsigned* packed)
      : half(warp() % 2), column(warp() / 2 % 2 * 16 * kTiles), sums{} {
    const unsigned* const own = packed + (warp() / 4 * 9 * 32 + 16 * half + lane() / 4) * 16 + lane() % 4;
    for (int tap = 0; tap < 9; ++tap)
      for (int k = 0; k < 2; ++k)
        for (int n = 0; n < 2; ++n)
          for (int word = 0; word < 2; ++word)
            weights[tap / 3][tap % 3][k][n][word] = own[(tap * 32 + 8 * n) * 16 + 8 * k + 4 * word];
  }

  // Adds an input row to the sums; sums[0] are then those of the row above it, complete.
  __device__ void take(const Row& row) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i)
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        sums[0][i][k / 4][k % 4] = sums[1][i][k / 4][k % 4];
        sums[1][i][k / 4][k % 4] = sums[2][i][k / 4][k % 4];
        sums[2][i][k / 4][k % 4] = 0;
      }
#pragma unroll
    for (int kx = 0; kx < 3; ++kx)
#pragma unroll
      for (int k = 0; k < 2; ++k)
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          unsigned a[4];
          load_matrices(a, &row.at[2 * k + lane() / 16][column + 16 * i + kx + lane() % 16]);
#pragma unroll
          for (int s = 0; s < 3; ++s)
#pragma unroll
            for (int n = 0; n < 2; ++n) multiply(sums[s][i][n], a, weights[2 - s][kx][k][n]);
        }
  }

  // Calls f(chunk, column of the strip, word of the chunk, the two sums of the finished row) for all that are the lane's.
  template <typename F>
  __device__ void each(F f) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i)
#pragma unroll
      for (int g = 0; g < 2; ++g)
#pragma unroll
        for (int n = 0; n < 2; ++n)
          f(2 * half + n, column + 16 * i + 8 * g + lane() / 4, lane() % 4, sums[0][i][n][2 * g],
            sums[0][i][n][2 * g + 1]);
  }
};

// The smoothed ReLU h of t and its slope: (t + delta)^2 / (4 delta) = delta slope^2 inside. NaN comes through h.
struct Activated {
  float h, slope;
  __device__ Activated(float t, float delta, float scale) {
    slope = __saturatef(t * scale + 0.5f);
    h = delta * slope * slope + at_least(0.f, t - delta);
  }
};

// 8 numbers rounded to bfloat16.
__device__ __forceinline__ uint4 chunk_of(const float (&v)[8]) {
  return {pair(v[0], v[1]), pair(v[2], v[3]), pair(v[4], v[5]), pair(v[6], v[7])};
}
}  // namespace fastrecon

extern "C" __global__ __launch_bounds__(THREADS) void chain_forward(
    const float* x, const float* first, const unsigned* weights, const float* eps, unsigned* kept, double* rows,
    long long images, long long H, long long W, long long strips, long long band, double delta_,
    long long final_activation) {
  using namespace fastrecon;
  __shared__ Row ring[kProducts][2];  // outputs of the layers but the last
  __shared__ float4 kernel[9][8];     // first
  __shared__ float pixels[4][kPitch];
  __shared__ float squares[2][2][kStrip];  // sums over 16 channels of the last layer
  const Area area(H, W, strips, band, kProducts);
  const int layer = warp() / 4, last = kProducts - 1;
  const float delta = delta_, scale = 0.5f / delta, radius = eps[area.image];
  Product product(weights);
  auto pixel = [&](int row) {
    const int column = area.left - 1 + int(threadIdx.x);
    return area.holds(row, column) ? x[(area.image * H + row) * W + column] : 0.f;
  };
  auto chunks = reinterpret_cast<uint4*>(kept);

  for (int i = threadIdx.x; i < int(sizeof(ring) / sizeof(uint4)); i += kThreads) (&ring[0][0].at[0][0])[i] = {};
  for (int i = threadIdx.x; i < 72; i += kThreads) (&kernel[0][0])[i] = reinterpret_cast<const float4*>(first)[i];
  const int start = area.top - kProducts;  // the first layer's row at step 0
  for (int row = start - 1; row <= start + 1; ++row)
    if (threadIdx.x < kPitch) pixels[row & 3][threadIdx.x] = pixel(row);
  __syncthreads();

  const int steps = area.bottom - area.top + 3 * kLayers - 2;
  for (int step = 0; step < steps; ++step) {
    const int now = step & 1, before = now ^ 1, source = start + step, out = source - 2 - 2 * layer;
    const float next = threadIdx.x < kPitch ? pixel(source + 2) : 0.f;  // on its way while the others work
    if (layer == last && out - 1 >= area.top) {  // the row of the step before, with both halves of its channels
      double share = 0;
      float inverse[2 * kTiles];
#pragma unroll
      for (int i = 0; i < 2 * kTiles; ++i) {
        const int at = product.column + 8 * i + lane() / 4;
        const float norm = square_root(squares[before][0][at] + squares[before][1][at]);
        inverse[i] = 1 / at_least(radius, norm);
        if (lane() % 4 == 0 && area.owns(out - 1, area.left + at)) share += smoothed_norm(norm, radius);
      }
      if (BACK) product.each([&](int chunk, int at, int word, float& a, float& b) {
        const int column = area.left + at;
        const float f = inverse[(at - product.column) / 8];
        if (area.owns(out - 1, column))
          kept[4 * area.at(last + 1, images, out - 1, chunk, column) + word] = pair(a * f, b * f);
      });
      share = warp_sum(share);
      if (product.half == 0 && lane() == 0)
        rows[(area.image * H + out - 1) * 2 * strips + 2 * area.strip + warp() / 2 % 2] = share;
    }
    // Layers take turns at what the tensor cores do and what they do not.
#pragma unroll 1
    for (int turn = 0; turn < 2; ++turn) {
      if ((turn ^ layer) & 1) {
        for (int task = warp(); task < 4 * kTiles; task += kWarps) {
          const int chunk = task % 4, at = task / 4 * 32 + lane(), column = area.left + at;
          float t[8] = {}, slope[8];
#pragma unroll
          for (int tap = 0; tap < 9; ++tap) {
            const float p = pixels[(source + tap / 3 - 1) & 3][at + tap % 3];
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              const float4 w = kernel[tap][2 * chunk + c];
              t[4 * c] += p * w.x;
              t[4 * c + 1] += p * w.y;
              t[4 * c + 2] += p * w.z;
              t[4 * c + 3] += p * w.w;
            }
          }
#pragma unroll
          for (int c = 0; c < 8; ++c) {
            const Activated a(t[c], delta, scale);
            t[c] = a.h;
            slope[c] = a.slope;
          }
          ring[0][now].at[chunk][at + 1] = area.holds(source, column) ? chunk_of(t) : uint4{};
          if (BACK && area.owns(source, column)) chunks[area.at(0, images, source, chunk, column)] = chunk_of(slope);
        }
      } else if (out >= area.top - (last - layer) - 2 && out < area.bottom + last - layer) {
        product.take(ring[layer][before]);
        if (layer < last) {
          product.each([&](int chunk, int at, int word, float& a, float& b) {
            const int column = area.left + at;
            const Activated one(a, delta, scale), two(b, delta, scale);
            reinterpret_cast<unsigned*>(&ring[layer + 1][now].at[chunk][at + 1])[word] =
                area.holds(out, column) ? pair(one.h, two.h) : 0u;
            if (BACK && area.owns(out, column))
              kept[4 * area.at(layer + 1, images, out, chunk, column) + word] = pair(one.slope, two.slope);
          });
        } else {
          float square[2 * kTiles] = {};
          product.each([&](int, int at, int, float& a, float& b) {
            float& sum = square[(at - product.column) / 8];
            if (final_activation) {
              const Activated one(a, delta, scale), two(b, delta, scale);
              sum += one.h * one.h + two.h * two.h;
              a = one.h * one.slope;
              b = two.h * two.slope;
            } else {
              sum += a * a + b * b;
            }
          });
#pragma unroll
          for (int i = 0; i < 2 * kTiles; ++i) {
            square[i] += __shfl_xor_sync(0xffffffffu, square[i], 1);
            square[i] += __shfl_xor_sync(0xffffffffu, square[i], 2);
            if (lane() % 4 == 0) squares[now][product.half][product.column + 8 * i + lane() / 4] = square[i];
          }
        }
      }
    }
    if (threadIdx.x < kPitch) pixels[(source + 2) & 3][threadIdx.x] = next;
    __syncthreads();
  }
}

extern "C" __global__ __launch_bounds__(THREADS) void chain_back(const float* first, const unsigned* weights,
                                                                const unsigned* kept, float* grad, long long images,
                                                                long long H, long long W, long long strips,
                                                                long long band) {
  using namespace fastrecon;
  constexpr int kLoads = (4 * kStrip + kThreads - 1) / kThreads;
  __shared__ Row ring[kLayers][2];  // cotangents, from the last layer to the first
  __shared__ float4 kernel[9][8];   // first
  __shared__ float parts[2][4][kStrip];  // the gradient's sums over 8 channels
  const Area area(H, W, strips, band, kLayers);
  const int layer = warp() / 4;
  Product product(weights);
  float image[kTasks][3] = {};  // sums of the rows above, at and below the newest row of cotangents
  auto chunks = reinterpret_cast<const uint4*>(kept);

  for (int i = threadIdx.x; i < int(sizeof(ring) / sizeof(uint4)); i += kThreads) (&ring[0][0].at[0][0])[i] = {};
  for (int i = threadIdx.x; i < 72; i += kThreads) (&kernel[0][0])[i] = reinterpret_cast<const float4*>(first)[i];
  __syncthreads();

  const int steps = area.bottom - area.top + 3 * kLayers + 1;
  for (int step = 0; step < steps; ++step) {
    const int now = step & 1, before = now ^ 1, source = area.top - kLayers + step, out = source - 2 * (layer + 1);
    const int done = source - 2 * kLayers;  // the row of the gradient that this step completes
    uint4 next[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int item = i * kThreads + threadIdx.x, column = area.left + item % kStrip;
      next[i] = item < 4 * kStrip && area.holds(source, column)
                    ? chunks[area.at(kProducts, images, source, item / kStrip, column)]
                    : uint4{};
    }
    if (threadIdx.x < kStrip && area.owns(done - 1, area.left + int(threadIdx.x))) {
      const auto& p = parts[before];
      const int at = threadIdx.x;
      grad[(area.image * H + done - 1) * W + area.left + at] = p[0][at] + p[1][at] + (p[2][at] + p[3][at]);
    }
#pragma unroll 1
    for (int turn = 0; turn < 2; ++turn) {
      if ((turn ^ layer) & 1) {
        if (done >= area.top - 2 && done < area.bottom) {
#pragma unroll
          for (int i = 0; i < kTasks; ++i) {
            const int task = i * kWarps + warp(), chunk = task % 4, at = task / 4 * 32 + lane();
            if (task < 4 * kTiles) {
              float sums[3] = {image[i][1], image[i][2], 0};
#pragma unroll
              for (int kx = 0; kx < 3; ++kx) {
                const uint4 z = ring[kProducts][before].at[chunk][at + kx];
#pragma unroll
                for (int s = 0; s < 3; ++s) {
                  const float4 v = kernel[3 * (2 - s) + kx][2 * chunk], w = kernel[3 * (2 - s) + kx][2 * chunk + 1];
                  sums[s] += first_of(z.x) * v.x + second_of(z.x) * v.y + first_of(z.y) * v.z + second_of(z.y) * v.w +
                             first_of(z.z) * w.x + second_of(z.z) * w.y + first_of(z.w) * w.z + second_of(z.w) * w.w;
                }
              }
              for (int s = 0; s < 3; ++s) image[i][s] = sums[s];
              parts[now][chunk][at] = sums[0];
            }
          }
        }
      } else if (out >= area.top - (kProducts - layer) - 2 && out < area.bottom + kProducts - layer) {
        unsigned slopes[4 * kTiles];
        int k = 0;
        product.each([&](int chunk, int at, int word, float&, float&) {
          const int column = area.left + at;
          slopes[k++] = area.holds(out, column)
                            ? kept[4 * area.at(kProducts - 1 - layer, images, out, chunk, column) + word]
                            : 0u;
        });
        product.take(ring[layer][before]);
        k = 0;
        product.each([&](int chunk, int at, int word, float& a, float& b) {
          const unsigned slope = slopes[k++];
          reinterpret_cast<unsigned*>(&ring[layer + 1][now].at[chunk][at + 1])[word] =
              area.holds(out, area.left + at) ? pair(a * first_of(slope), b * second_of(slope)) : 0u;
        });
      }
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int item = i * kThreads + threadIdx.x;
      if (item < 4 * kStrip) ring[0][now].at[item / kStrip][item % kStrip + 1] = next[i];
    }
    __syncthreads();
  }
}

extern "C" __global__ void chain_sum(const double* rows, float* value, long long count) {
  using namespace fastrecon;
  const double total = sum_of(rows + blockIdx.x * count, count, 1);
  if (threadIdx.x == 0) value[blockIdx.x] = total;
}
