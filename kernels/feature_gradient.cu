// feature_gradient.cu: value and gradient of the learned regulariser, all layers in one kernel (CUDA C++, CuPy).
// Definition: fastrecon/ops/feature_gradient.py. Maths: Chen, Liu, Ye & Zhang, arXiv:2007.11245, eqs. (8)-(10), (33).
//   x, grad [B, H, W]   first [3, 3, 32], of image channels   weights [LAYERS - 1, 3, 3, 32 out, 32 in] in bfloat16
//   eps, value [B]   kept [LAYERS, B, H, 2, W, 16] in bfloat16: slopes a' of all layers but the last, and its cotangent
//   rows [B, H, 2 strips]: what the pixels of one row and one warp contribute to the value
// Products of features are in bfloat16 and summed in float32; those with the image, norms and sums are exact.
//
// A block owns a strip of 32 TILES columns and a band of rows, and walks down the rows. Four warps serve each layer: each
// has half of the columns and the weights of 16 output channels, most of them in registers for good. A layer reads every
// input row once, for three output rows, and writes the row that this completes for the next layer; two rows of each layer
// in shared memory and one barrier a row suffice. The first layer and, on the way back, the last are shared out among all
// warps. Outside the image features are zero.
//
// Expected on an H200, not measured: 4 layers, 32 images of 256x256, 234 GFLOP, of which 232 in matrices. Strips of 96
// columns with 3 and 4 of halo on either side, bands of 64 rows with 2 or 3 on either side and 2.9 waves of blocks make
// that 1.25 times as much, 0.5 ms at the 62% of the peak that mma.sync is known to reach on sm_90. A row of a block is 324
// products for each quarter of a multiprocessor (2070 clocks at that rate), 2250 (back 1950) instructions in all, and
// 1750 (1600) clocks of shared memory: if they overlap well, 0.6 to 0.7 ms. Memory: 4 maps of 134 MB written and 1.1
// times read, 0.27 ms, beside all that.
#include "block_sum.h"
#include "scalar_math.h"
#include "tensor_core.h"

namespace fastrecon {
constexpr int kLayers = LAYERS, kTiles = TILES;
constexpr int kProducts = kLayers - 1;  // layers from features to features
constexpr int kStrip = 32 * kTiles, kPitch = kStrip + 4;
constexpr int kColumns = 2 * kTiles;  // of a lane
constexpr int kTasks = (4 * kTiles + kWarps - 1) / kWarps;  // of 32 pixels and 8 channels in a row: the most of a warp
static_assert(kThreads == 128 * kProducts && kStrip + 2 <= kThreads, "four warps for each layer");

// A row of features, 8 channels to a chunk, from the second column on; the columns on either side are zero. Neighbours
// lie 16 bytes apart and chunks 64 bytes modulo 128: matrices are loaded and words stored without conflicts of banks.
struct Row {
  uint4 at[4][kPitch];
};

__device__ __forceinline__ int lane() { return threadIdx.x % 32; }
__device__ __forceinline__ int warp() { return threadIdx.x / 32; }

// What a block computes: kStrip columns from `left` on. It owns `columns` of them from `begin`, and `rows` from `top`.
struct Area {
  int images, H, W, image, strip, left, begin, columns, top, rows;
  __device__ Area(int images, int H, int W, int strips, int band, int halo) : images(images), H(H), W(W) {
    const int bands = (H + band - 1) / band, part = blockIdx.x / strips, net = kStrip - 2 * halo;
    strip = blockIdx.x % strips;
    image = part / bands;
    top = part % bands * band;
    rows = at_most(band, H - top);
    begin = strip * net;
    columns = at_most(net, W - begin);
    left = begin - halo;
  }
  __device__ bool holds_row(int row) const { return unsigned(row) < unsigned(H); }
  __device__ bool holds_column(int column) const { return unsigned(column) < unsigned(W); }
  __device__ bool holds(int row, int column) const { return holds_row(row) & holds_column(column); }
  __device__ bool owns_row(int row) const { return unsigned(row - top) < unsigned(rows); }
  __device__ bool owns_column(int column) const { return unsigned(column - begin) < unsigned(columns); }
  __device__ bool owns(int row, int column) const { return owns_row(row) & owns_column(column); }
  // Where 16 channels of a column lie in map `layer` of kept, counted in such.
  __device__ long long at(int layer, int row, int half, int column) const {
    return (((layer * images + image) * H + row) * 2ll + half) * W + column;
  }
};

// The weights that no registers are left for, as the lanes read them. A part has 16 input channels of a column of taps.
constexpr int kParts = kTiles < 3 ? 4 : 3;  // of 6, in registers
struct Weights {
  uint4 at[kProducts][2][6 - kParts][3][32];  // [layer][half][part - kParts][ky][lane]
};

// A warp's share of one layer: 16 output channels of half of the columns, ordered so that a lane has four in a row.
struct Product {
  int half, column;      // channels from 16 half on; the lane's columns of the strip are column + 8 q, q < kColumns
  unsigned held, owned;  // bit q: whether the image holds column q, and whether the block owns it
  unsigned weights[kParts][3][2][2];  // [2 kx + input channel / 16][ky][tile of 8 output channels]
  float sums[3][kTiles][2][4];        // of the rows above, at and below the newest input row

  __device__ Product(const unsigned* packed, Weights& stored, const Area& area)
      : half(warp() % 2), column(warp() / 2 % 2 * 16 * kTiles + lane() / 4), held(0), owned(0), sums{} {
    for (int q = 0; q < kColumns; ++q) {
      const int at = area.left + column + 8 * q;
      held |= area.holds_column(at) << q;
      owned |= area.owns_column(at) << q;
    }
    held = opaque(held), owned = opaque(owned);
    const int channel = 16 * half + lane() / 8 * 4 + lane() / 4 % 2;
    const unsigned* const own = packed + (warp() / 4 * 9 * 32 + channel) * 16 + lane() % 4;
#pragma unroll
    for (int part = 0; part < 6; ++part)
#pragma unroll
      for (int ky = 0; ky < 3; ++ky) {
        const unsigned* const tap = own + (3 * ky + part / 2) * 512 + part % 2 * 8;
        if (part < kParts)
          for (int i = 0; i < 4; ++i) weights[part % kParts][ky][i / 2][i % 2] = tap[i / 2 * 32 + i % 2 * 4];
        else
          stored.at[warp() / 4][half][part - kParts][ky][lane()] = {tap[0], tap[4], tap[32], tap[36]};
      }
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
      unsigned b[3][2][2];
#pragma unroll
      for (int ky = 0; ky < 3; ++ky) {
        const bool here = part < kParts;
        const uint4 words = here ? uint4{} : stored.at[warp() / 4][half][part - kParts][ky][lane()];
        b[ky][0][0] = here ? weights[part % kParts][ky][0][0] : words.x;
        b[ky][0][1] = here ? weights[part % kParts][ky][0][1] : words.y;
        b[ky][1][0] = here ? weights[part % kParts][ky][1][0] : words.z;
        b[ky][1][1] = here ? weights[part % kParts][ky][1][1] : words.w;
      }
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        unsigned a[4];
        load_matrices(a, from + 16 * (part % 2 * 2 * kPitch + 16 * i + part / 2));
#pragma unroll
        for (int s = 0; s < 3; ++s)
#pragma unroll
          for (int n = 0; n < 2; ++n) multiply(sums[s][i][n], a, b[2 - s][n]);
      }
    }
  }

  // Where the lane's channels of its first column lie; column q of the lane's is 16 q, or in kept 32 q, such words on.
  __device__ uint2* words(Row& row) const {
    return reinterpret_cast<uint2*>(&row.at[2 * half + lane() % 4 / 2][column + 1]) + lane() % 2;
  }
  __device__ uint2* words(unsigned* kept, const Area& area, int layer, int row) const {
    return reinterpret_cast<uint2*>(kept) + 4 * area.at(layer, row, half, area.left + column) + lane() % 4;
  }

  // Calls f(q, the four sums of the finished row) for every column of the lane's.
  template <typename F>
  __device__ void each(F f) {
#pragma unroll
    for (int q = 0; q < kColumns; ++q) {
      float(&a)[4] = sums[0][q / 2][0], (&b)[4] = sums[0][q / 2][1];
      if (q % 2 == 0)
        f(q, a[0], a[1], b[0], b[1]);
      else
        f(q, a[2], a[3], b[2], b[3]);
    }
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
  float pixels[4][kStrip + 2];
  float squares[2][2][kStrip];  // sums over 16 channels of the last layer
  float radius, inverse;        // eps
  Area area;                    // here as registers are scarce
};

struct Back {
  Row ring[kLayers][2];  // cotangents, from the last layer to the first
  Weights weights;
  float4 kernel[9][8];        // first
  float parts[2][4][kStrip];  // the gradient's sums over 8 channels
  Area area;
};

template <typename Memory>
__device__ __forceinline__ void begin(Memory& memory, const float* first, const Area& area) {
  if (threadIdx.x == 0) memory.area = area;
  uint4* const ring = memory.ring[0][0].at[0];
  for (int i = threadIdx.x; i < int(sizeof(memory.ring) / sizeof(uint4)); i += kThreads) ring[i] = {};
  const float4* const rows = reinterpret_cast<const float4*>(first);
  for (int i = threadIdx.x; i < 72; i += kThreads) memory.kernel[i / 8][i % 8] = rows[i];
  __syncthreads();
}
}  // namespace fastrecon

extern "C" __global__ __launch_bounds__(THREADS) void chain_forward(
    const float* x, const float* first, const unsigned* weights, const float* eps, unsigned* kept, double* rows,
    long long images, long long H, long long W, long long strips, long long band, double delta_,
    long long final_activation) {
  using namespace fastrecon;
  SHARED_MEMORY(Forward, memory);
  const Area& area = memory.area;
  begin(memory, first, Area(images, H, W, strips, band, kProducts));
  constexpr int last = kProducts - 1;
  const int layer = warp() / 4;
  const float delta = delta_, scale = 0.5f / delta;
  Product product(weights, memory.weights, area);
  auto load = [&](int row) {  // of pixels, with one column on either side
    const int column = area.left - 1 + int(threadIdx.x);
    const bool held = area.holds(row, column);
    const long long from = held ? (area.image * area.H + row) * (long long)area.W + column : 0;
    if (threadIdx.x < kStrip + 2) begin_copy<4>(&memory.pixels[row & 3][threadIdx.x], x + from, held);
  };
  auto chunks = reinterpret_cast<uint4*>(kept);

  if (threadIdx.x == 0) {
    memory.radius = eps[area.image];
    memory.inverse = 1 / memory.radius;
  }
  const int start = area.top - kProducts;  // the first layer's row at step 0
  for (int row = start - 1; row <= start + 1; ++row) load(row);
  finish_copies();
  __syncthreads();

  for (int step = 0; step < area.rows + 3 * kLayers - 2; ++step) {
    const int now = step & 1, before = now ^ 1, source = start + step, out = source - 2 - 2 * layer;
    load(source + 2);
    if (layer == last && area.owns_row(out - 1)) {  // the row of the step before, with both halves of its channels
      float share = 0, inverse[kColumns];
#pragma unroll
      for (int q = 0; q < kColumns; ++q) {
        const int at = product.column + 8 * q;
        const float square = memory.squares[before][0][at] + memory.squares[before][1][at], root = rsqrtf(square);
        inverse[q] = at_most(memory.inverse, root);
        const float own = inverse[q] < root ? square * inverse[q] / 2 : square * root - memory.radius / 2;
        if (product.owned >> q & 1) share += own;
      }
      if (BACK) {
        uint2* const to = product.words(kept, area, last + 1, out - 1);
        product.each([&](int q, float& a, float& b, float& c, float& d) {
          const float f = inverse[q];
          if (product.owned >> q & 1) to[32 * q] = {pair(a * f, b * f), pair(c * f, d * f)};
        });
      }
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
#pragma unroll
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
          if (BACK && area.owns(source, column))
            chunks[2 * area.at(0, source, chunk / 2, column) + chunk % 2] = chunk_of(slope);
        }
      } else if (out >= area.top - (last - layer) - 2 && out < area.top + area.rows + last - layer) {
        product.take(memory.ring[layer][before], memory.weights);
        if (layer < last) {
          const unsigned held = area.holds_row(out) ? product.held : 0, owned = area.owns_row(out) ? product.owned : 0;
          uint2 *const next = product.words(memory.ring[layer + 1][now]),
                *const to = product.words(kept, area, layer + 1, out);
          product.each([&](int q, float& a, float& b, float& c, float& d) {
            const Activated u(a, delta, scale), v(b, delta, scale), w(c, delta, scale), z(d, delta, scale);
            next[16 * q] = held >> q & 1 ? uint2{pair(u.h, v.h), pair(w.h, z.h)} : uint2{};
            if (BACK && owned >> q & 1) to[32 * q] = {pair(u.slope, v.slope), pair(w.slope, z.slope)};
          });
        } else {
          float square[kColumns];
          product.each([&](int q, float& a, float& b, float& c, float& d) {
            if (final_activation) {
              const Activated u(a, delta, scale), v(b, delta, scale), w(c, delta, scale), z(d, delta, scale);
              square[q] = u.h * u.h + v.h * v.h + w.h * w.h + z.h * z.h;
              a = u.h * u.slope;
              b = v.h * v.slope;
              c = w.h * w.slope;
              d = z.h * z.slope;
            } else {
              square[q] = a * a + b * b + c * c + d * d;
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
    finish_copies();
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
  begin(memory, first, Area(images, H, W, strips, band, kLayers));
  const int layer = warp() / 4;
  Product product(weights, memory.weights, area);
  float image[kTasks][3] = {};  // sums of the rows above, at and below the newest row of cotangents
  auto copy = [&](Row& to, int chunk, int at, int map, int row) {  // zeros from outside the image
    const bool held = area.holds(row, area.left + at);
    const long long from = held ? 8 * area.at(map, row, chunk / 2, area.left + at) + 4 * (chunk % 2) : 0;
    begin_copy<16>(&to.at[chunk][at + 1], kept + from, held);
  };
  __syncthreads();  // all weights lie where they are read

  for (int step = 0; step < area.rows + 3 * kLayers + 1; ++step) {
    const int now = step & 1, before = now ^ 1, source = area.top - kLayers + step, out = source - 2 * (layer + 1);
    const int done = source - 2 * kLayers;  // the row of the gradient that this step completes
#pragma unroll 1
    for (int task = warp(); task < 4 * kTiles; task += kWarps)
      copy(memory.ring[0][now], task % 2 * 2 + lane() % 2, task / 2 * 16 + lane() / 2, kProducts, source);
    if (threadIdx.x < kStrip && area.owns(done - 1, area.left + int(threadIdx.x))) {
      const auto& p = memory.parts[before];
      const int at = threadIdx.x;
      const long long to = (area.image * area.H + done - 1) * (long long)area.W + area.left + at;
      grad[to] = p[0][at] + p[1][at] + (p[2][at] + p[3][at]);
    }
#pragma unroll 1
    for (int turn = 0; turn < 2; ++turn) {
      if ((turn ^ layer) & 1) {
        if (done >= area.top - 2 && done < area.top + area.rows) {
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
                  const float4 *const tap = memory.kernel[3 * (2 - s) + kx] + 2 * chunk, v = tap[0], w = tap[1];
                  sums[s] += first_of(z.x) * v.x + second_of(z.x) * v.y + first_of(z.y) * v.z + second_of(z.y) * v.w +
                             first_of(z.z) * w.x + second_of(z.z) * w.y + first_of(z.w) * w.z + second_of(z.w) * w.w;
                }
              }
              for (int s = 0; s < 3; ++s) image[i][s] = sums[s];
              memory.parts[now][chunk][at] = sums[0];
            }
          }
        }
      } else if (out >= area.top - (kProducts - layer) - 2 && out < area.top + area.rows + kProducts - layer) {
        Row& to = memory.ring[layer + 1][now];  // begins as the slopes of the warp's columns and channels
#pragma unroll 1
        for (int i = 0; i < kTiles; ++i) {
          const int item = 32 * i + lane();
          copy(to, 2 * product.half + item % 2, warp() / 2 % 2 * 16 * kTiles + item / 2, kProducts - 1 - layer, out);
        }
        product.take(memory.ring[layer][before], memory.weights);
        finish_copies();
        __syncwarp();
        const unsigned held = area.holds_row(out) ? product.held : 0;
        uint2* const words = product.words(to);
        product.each([&](int q, float& a, float& b, float& c, float& d) {
          const uint2 slope = words[16 * q];
          const unsigned one = pair(a * first_of(slope.x), b * second_of(slope.x));
          const unsigned two = pair(c * first_of(slope.y), d * second_of(slope.y));
          words[16 * q] = held >> q & 1 ? uint2{one, two} : uint2{};
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
