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
constexpr int kColumns = 2 * kTiles;  // of a lane
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
  int images, H, W, image, strip, left, begin, end, top, bottom;
  __device__ Area(int images, int H, int W, int strips, int band, int halo) : images(images), H(H), W(W) {
    const int bands = (H + band - 1) / band, part = blockIdx.x / strips;
    strip = blockIdx.x % strips;
    image = part / bands;
    top = part % bands * band;
    bottom = at_most(H, top + band);
    begin = strip * (kStrip - 2 * halo);
    end = at_most(W, begin + kStrip - 2 * halo);
    left = begin - halo;
  }
  __device__ bool holds(int row) const { return row >= 0 && row < H; }
  __device__ bool holds(int row, int column) const { return holds(row) && column >= 0 && column < W; }
  __device__ bool owns(int row) const { return row >= top && row < bottom; }
  __device__ bool owns(int row, int column) const { return owns(row) && column >= begin && column < end; }
  // Where chunk and column of a row lie in map `layer` of kept, in uint4.
  __device__ long long at(int layer, int row, int chunk, int column) const {
    return (((layer * images + image) * H + row) * 4ll + chunk) * W + column;
  }
};

// The weights of the third column of taps, as the lanes read them: in registers there is no room for them.
struct Weights {
  uint4 at[kProducts][2][6][32];  // [layer][half][3 (input channel / 16) + ky][lane]
};

// A warp's share of one layer: 16 output channels of half of the columns.
struct Product {
  int half, column;                 // channels 16 half, ..., columns `column`, ... of the strip
  unsigned held, owned;             // bit q: whether the image holds, the block owns column q of the lane's
  unsigned weights[2][2][3][2][2];  // [kx < 2][input channel / 16][ky][output channel / 8]
  float sums[3][kTiles][2][4];      // of the rows above, at and below the newest input row

  __device__ Product(const unsigned* packed, Weights& stored, const Area& area)
      : half(warp() % 2), column(warp() / 2 % 2 * 16 * kTiles + lane() / 4), held(0), owned(0), sums{} {
    for (int q = 0; q < kColumns; ++q) {
      const int at = area.left + column + 8 * q;
      held |= (at >= 0 && at < area.W) << q;
      owned |= (at >= area.begin && at < area.end) << q;
    }
    const unsigned* const own = packed + (warp() / 4 * 9 * 32 + 16 * half + lane() / 4) * 16 + lane() % 4;
    unsigned last[6][4];
#pragma unroll
    for (int i = 0; i < 72; ++i) {
      const int kx = i / 24, k = i / 12 % 2, ky = i / 4 % 3, n = i / 2 % 2, word = i % 2;
      const unsigned value = own[((3 * ky + kx) * 32 + 8 * n) * 16 + 8 * k + 4 * word];
      if (kx < 2)
        weights[kx][k][ky][n][word] = value;
      else
        last[i / 4 - 12][i % 4] = value;
    }
    for (int i = 0; i < 6; ++i) stored.at[warp() / 4][half][i][lane()] = {last[i][0], last[i][1], last[i][2], last[i][3]};
  }

  // Adds an input row to the sums; sums[0] are then those of the row above it, complete.
  __device__ void take(const Row& row, const Weights& stored) {
#pragma unroll
    for (int i = 0; i < 8 * kTiles; ++i) {
      sums[0][i / 8][i / 4 % 2][i % 4] = sums[1][i / 8][i / 4 % 2][i % 4];
      sums[1][i / 8][i / 4 % 2][i % 4] = sums[2][i / 8][i / 4 % 2][i % 4];
      sums[2][i / 8][i / 4 % 2][i % 4] = 0;
    }
    const Shared from = shared(&row.at[lane() / 16][column - lane() / 4 + lane() % 16]);
#pragma unroll
    for (int part = 0; part < 6; ++part) {
      const int kx = part / 2, k = part % 2;
      unsigned b[3][2][2];
#pragma unroll
      for (int ky = 0; ky < 3; ++ky) {
        const uint4 words = kx < 2 ? uint4{} : stored.at[warp() / 4][half][3 * k + ky][lane()];
        b[ky][0][0] = kx < 2 ? weights[kx % 2][k][ky][0][0] : words.x;
        b[ky][0][1] = kx < 2 ? weights[kx % 2][k][ky][0][1] : words.y;
        b[ky][1][0] = kx < 2 ? weights[kx % 2][k][ky][1][0] : words.z;
        b[ky][1][1] = kx < 2 ? weights[kx % 2][k][ky][1][1] : words.w;
      }
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        unsigned a[4];
        load_matrices(a, from + 16 * (2 * k * kPitch + 16 * i + kx));
#pragma unroll
        for (int s = 0; s < 3; ++s)
#pragma unroll
          for (int n = 0; n < 2; ++n) multiply(sums[s][i][n], a, b[2 - s][n]);
      }
    }
  }

  // Where the lane's word of its first column lies in a row; chunk n and column q of the lane's are n rows of 16 bytes and
  // q times 128 bytes on.
  __device__ unsigned* word(Row& row) const {
    return reinterpret_cast<unsigned*>(&row.at[2 * half][column + 1]) + lane() % 4;
  }
  __device__ long long word(const Area& area, int layer, int row) const {
    return 4 * area.at(layer, row, 2 * half, area.left + column) + lane() % 4;
  }

  // Calls f(n, q, the two sums of the finished row) for every word of the lane's.
  template <typename F>
  __device__ void each(F f) {
#pragma unroll
    for (int q = 0; q < kColumns; ++q)
#pragma unroll
      for (int n = 0; n < 2; ++n) f(n, q, sums[0][q / 2][n][q % 2 * 2], sums[0][q / 2][n][q % 2 * 2 + 1]);
  }
};

// The smoothed ReLU h of t and its slope: (t + delta)^2 / (4 delta) = delta slope^2 inside. NaN comes through h.
struct Activated {
  float h, slope;
  __device__ Activated(float t, float delta, float scale) {
    slope = __saturatef(t * scale + 0.5f);
    h = delta * slope * slope + positive_part(t - delta);
  }
};

// 8 numbers rounded to bfloat16.
__device__ __forceinline__ uint4 chunk_of(const float (&v)[8]) {
  return {pair(v[0], v[1]), pair(v[2], v[3]), pair(v[4], v[5]), pair(v[6], v[7])};
}

struct Forward {
  Row ring[kProducts][2];  // outputs of the layers but the last
  Weights weights;
  float4 kernel[9][8];  // first
  float pixels[4][kPitch];
  float squares[2][2][kStrip];  // sums over 16 channels of the last layer
  float radius, inverse;        // eps
  Area area;                    // here as registers are scarce
};

struct Back {
  Row ring[kLayers][2];  // cotangents, from the last layer to the first
  Weights weights;
  float4 kernel[9][8];         // first
  float parts[2][4][kStrip];  // the gradient's sums over 8 channels
  Area area;
};
}  // namespace fastrecon

extern "C" __global__ __launch_bounds__(THREADS) void chain_forward(
    const float* x, const float* first, const unsigned* weights, const float* eps, unsigned* kept, double* rows,
    long long images, long long H, long long W, long long strips, long long band, double delta_,
    long long final_activation) {
  using namespace fastrecon;
  SHARED_MEMORY(Forward, memory);
  const Area& area = memory.area;
  if (threadIdx.x == 0) memory.area = Area(images, H, W, strips, band, kProducts);
  __syncthreads();
  constexpr int last = kProducts - 1;
  const int layer = warp() / 4;
  const float delta = delta_, scale = 0.5f / delta;
  Product product(weights, memory.weights, area);
  auto pixel = [&](int row) {
    const int column = area.left - 1 + int(threadIdx.x);
    return area.holds(row, column) ? x[(area.image * area.H + row) * (long long)area.W + column] : 0.f;
  };
  auto chunks = reinterpret_cast<uint4*>(kept);

  for (int i = threadIdx.x; i < int(sizeof(memory.ring) / sizeof(uint4)); i += kThreads) (&memory.ring[0][0].at[0][0])[i] = {};
  for (int i = threadIdx.x; i < 72; i += kThreads) (&memory.kernel[0][0])[i] = reinterpret_cast<const float4*>(first)[i];
  if (threadIdx.x == 0) {
    memory.radius = eps[area.image];
    memory.inverse = 1 / memory.radius;
  }
  const int start = area.top - kProducts;  // the first layer's row at step 0
  for (int row = start - 1; row <= start + 1; ++row)
    if (threadIdx.x < kPitch) memory.pixels[row & 3][threadIdx.x] = pixel(row);
  __syncthreads();

  const int steps = area.bottom - area.top + 3 * kLayers - 2;
  for (int step = 0; step < steps; ++step) {
    const int now = step & 1, before = now ^ 1, source = start + step, out = source - 2 - 2 * layer;
    const float newest = threadIdx.x < kPitch ? pixel(source + 2) : 0.f;  // on its way while the others work
    if (layer == last && area.owns(out - 1)) {  // the row of the step before, with both halves of its channels
      float share = 0, inverse[kColumns];
#pragma unroll
      for (int q = 0; q < kColumns; ++q) {
        const int at = product.column + 8 * q;
        const float square = memory.squares[before][0][at] + memory.squares[before][1][at], root = rsqrtf(square);
        inverse[q] = at_most(memory.inverse, root);
        const float own = inverse[q] < root ? square * inverse[q] / 2 : square * root - memory.radius / 2;
        if (product.owned >> q & 1) share += own;
      }
      unsigned* const to = kept + product.word(area, last + 1, out - 1);
      if (BACK)
        product.each([&](int n, int q, float& a, float& b) {
          if (product.owned >> q & 1) to[n * 4 * area.W + 32 * q] = pair(a * inverse[q], b * inverse[q]);
        });
      if (product.half == 0) {
        const double total = warp_sum(lane() % 4 == 0 ? share : 0);
        if (lane() == 0) rows[(area.image * area.H + out - 1) * 2 * strips + 2 * area.strip + warp() / 2 % 2] = total;
      }
    }
    // Layers take turns at what the tensor cores do and what they do not.
#pragma unroll 1
    for (int turn = 0; turn < 2; ++turn) {
      if ((turn ^ layer) & 1) {
#pragma unroll 1
        for (int task = warp(); task < 4 * kTiles; task += kWarps) {
          const int chunk = task % 4, at = task / 4 * 32 + lane(), column = area.left + at;
          float t[8] = {}, slope[8];
#pragma unroll 3
          for (int tap = 0; tap < 9; ++tap) {
            const float p = memory.pixels[(source + tap / 3 - 1) & 3][at + tap % 3];
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              const float4 w = memory.kernel[tap][2 * chunk + c];
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
          memory.ring[0][now].at[chunk][at + 1] = area.holds(source, column) ? chunk_of(t) : uint4{};
          if (BACK && area.owns(source, column)) chunks[area.at(0, source, chunk, column)] = chunk_of(slope);
        }
      } else if (out >= area.top - (last - layer) - 2 && out < area.bottom + last - layer) {
        product.take(memory.ring[layer][before], memory.weights);
        if (layer < last) {
          const unsigned held = area.holds(out) ? product.held : 0, owned = area.owns(out) ? product.owned : 0;
          unsigned *const next = product.word(memory.ring[layer + 1][now]),
                          *const to = kept + product.word(area, layer + 1, out);
          product.each([&](int n, int q, float& a, float& b) {
            const Activated one(a, delta, scale), two(b, delta, scale);
            next[n * 4 * kPitch + 32 * q] = held >> q & 1 ? pair(one.h, two.h) : 0u;
            if (BACK && owned >> q & 1) to[n * 4 * area.W + 32 * q] = pair(one.slope, two.slope);
          });
        } else {
          float square[kColumns] = {};
          product.each([&](int, int q, float& a, float& b) {
            if (final_activation) {
              const Activated one(a, delta, scale), two(b, delta, scale);
              square[q] += one.h * one.h + two.h * two.h;
              a = one.h * one.slope;
              b = two.h * two.slope;
            } else {
              square[q] += a * a + b * b;
            }
          });
#pragma unroll
          for (int q = 0; q < kColumns; ++q) {
            square[q] += __shfl_xor_sync(0xffffffffu, square[q], 1);
            square[q] += __shfl_xor_sync(0xffffffffu, square[q], 2);
            if (lane() % 4 == 0) memory.squares[now][product.half][product.column + 8 * q] = square[q];
          }
        }
      }
    }
    if (threadIdx.x < kPitch) memory.pixels[(source + 2) & 3][threadIdx.x] = newest;
    __syncthreads();
  }
}

extern "C" __global__ __launch_bounds__(THREADS) void chain_back(const float* first, const unsigned* weights,
                                                                const unsigned* kept, float* grad, long long images,
                                                                long long H, long long W, long long strips,
                                                                long long band) {
  using namespace fastrecon;
  SHARED_MEMORY(Back, memory);
  const Area& area = memory.area;
  if (threadIdx.x == 0) memory.area = Area(images, H, W, strips, band, kLayers);
  __syncthreads();
  const int layer = warp() / 4;
  Product product(weights, memory.weights, area);
  float image[kTasks][3] = {};  // sums of the rows above, at and below the newest row of cotangents
  auto copy = [&](Row& to, int chunk, int at, int map, int row) {  // zeros from outside the image
    const bool held = area.holds(row, area.left + at);
    const long long from = held ? 4 * area.at(map, row, chunk, area.left + at) : 0;
    begin_copy(shared(&to.at[chunk][at + 1]), kept + from, held);
  };

  for (int i = threadIdx.x; i < int(sizeof(memory.ring) / sizeof(uint4)); i += kThreads) (&memory.ring[0][0].at[0][0])[i] = {};
  for (int i = threadIdx.x; i < 72; i += kThreads) (&memory.kernel[0][0])[i] = reinterpret_cast<const float4*>(first)[i];
  __syncthreads();

  const int steps = area.bottom - area.top + 3 * kLayers + 1;
  for (int step = 0; step < steps; ++step) {
    const int now = step & 1, before = now ^ 1, source = area.top - kLayers + step, out = source - 2 * (layer + 1);
    const int done = source - 2 * kLayers;  // the row of the gradient that this step completes
#pragma unroll 1
    for (int task = warp(); task < 4 * kTiles; task += kWarps)
      copy(memory.ring[0][now], task % 4, task / 4 * 32 + lane(), kProducts, source);
    if (threadIdx.x < kStrip && area.owns(done - 1, area.left + int(threadIdx.x))) {
      const auto& p = memory.parts[before];
      const int at = threadIdx.x;
      grad[(area.image * area.H + done - 1) * (long long)area.W + area.left + at] = p[0][at] + p[1][at] + (p[2][at] + p[3][at]);
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
#pragma unroll 1
              for (int kx = 0; kx < 3; ++kx) {
                const uint4 z = memory.ring[kProducts][before].at[chunk][at + kx];
#pragma unroll
                for (int s = 0; s < 3; ++s) {
                  const float4 v = memory.kernel[3 * (2 - s) + kx][2 * chunk], w = memory.kernel[3 * (2 - s) + kx][2 * chunk + 1];
                  sums[s] += first_of(z.x) * v.x + second_of(z.x) * v.y + first_of(z.y) * v.z + second_of(z.y) * v.w +
                             first_of(z.z) * w.x + second_of(z.z) * w.y + first_of(z.w) * w.z + second_of(z.w) * w.w;
                }
              }
              for (int s = 0; s < 3; ++s) image[i][s] = sums[s];
              memory.parts[now][chunk][at] = sums[0];
            }
          }
        }
      } else if (out >= area.top - (kProducts - layer) - 2 && out < area.bottom + kProducts - layer) {
        Row& to = memory.ring[layer + 1][now];  // begins as the slopes of the warp's columns and channels
#pragma unroll 1
        for (int i = 0; i < kTiles; ++i) {
          const int item = 32 * i + lane();
          copy(to, 2 * product.half + item % 2, warp() / 2 % 2 * 16 * kTiles + item / 2, kProducts - 1 - layer, out);
        }
        product.take(memory.ring[layer][before], memory.weights);
        finish_copies();
        __syncwarp();
        const unsigned held = area.holds(out) ? product.held : 0;
        unsigned* const words = product.word(to);
        product.each([&](int n, int q, float& a, float& b) {
          unsigned& word = words[n * 4 * kPitch + 32 * q];
          word = held >> q & 1 ? pair(a * first_of(word), b * second_of(word)) : 0u;
        });
      }
    }
    finish_copies();
    __syncthreads();
  }
}

extern "C" __global__ void chain_sum(const double* rows, float* value, long long count) {
  using namespace fastrecon;
  const double total = sum_of(rows + blockIdx.x * count, count, 1);
  if (threadIdx.x == 0) value[blockIdx.x] = total;
}
