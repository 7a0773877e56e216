// feature_tiles.h: the chain of convolutions of the learned regulariser on one band of rows, on tiles of bfloat16.
//
// As feature_band.h does, but each 3x3 product is made tap by tap: where tiles multiply, Winograd's transforms cost
// more than they save. A pixel's channels are one row of a tile, so 16 pixels in a row are a tile wherever they begin,
// and a tap only moves the pointer. Features and z are kept in bfloat16; g, its norm and dual and all sums in float32.
// The image meets the weights in float32; on the way down z, a bfloat16, meets the three that make up each weight.
#pragma once
#include "feature_stages.h"
#include "tile.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
constexpr int kBlock = 2 * kTile;  // pixels and channels of a product: two tiles of pixels times two of channels
constexpr int kStepPixels = 512;   // pixels a step of one layer, at least, so that its weights are read for enough
constexpr int kPieces = 3;         // bfloat16 numbers that make up a float32

// Rows of one layer, channels-last, one zero pixel between them, and a zero row above the first and below the last.
struct TileRows {
  Half* origin = nullptr;  // pixel -1 of the zero row above
  int64_t width = 0;       // pixels a row, the zero one included
  int Cp = 0, ring = 1, lo = 0, hi = 0;

  // Products read beyond the end by a block.
  static int64_t size(int ring, int64_t width, int Cp) { return ((ring + 2) * width + 1 + kBlock + 2) * Cp; }
  int slot(int r) const { return r < lo ? -1 : r >= hi ? ring : (r - lo) % ring; }
  bool follows(int r) const { return slot(r + 1) == slot(r) + 1; }             // whether row r + 1 lies behind row r
  Half* at(int r) const { return origin + ((slot(r) + 1) * width + 1) * Cp; }  // pixel 0 of row r
};

// Packed: first [9 Cin, Cp] in float32. Tiles of pairs of channels: last [9 Cin / 16][Cp / 32][kPieces], and of layer l
// + 1 up[l] and down[l] [Cp / 32 outputs][9][Cp / 32 inputs][2 halves of the outputs].
struct TileWeights {
  float* first;
  Half *last, *up[kMaxLayers], *down[kMaxLayers];
  int taps;  // 9 Cin rounded up to whole tiles

  static int64_t layer(const Shape& s) { return int64_t(9) * s.Cp * s.Cp; }
  static int64_t size(const Shape& s) {  // in floats
    const int taps = round_up(9 * s.Cin, kTile);
    return int64_t(9) * s.Cin * s.Cp + (int64_t(taps) * s.Cp * kPieces + 2 * (s.L - 1) * layer(s)) / 2;
  }
  // Where number (k, n) of a tile lies.
  static int64_t pair(int k, int n) { return (k / 2 * kTile + n) * 2 + k % 2; }
};

Half half_of(float x) {
  Vec<float> v = splat(x);
  Half h[kLanes<float>];
  store(h, v);
  return h[0];
}
float float_of(Half h) {
  const std::uint32_t bits = std::uint32_t(h) << 16;
  return get<float>(&bits);
}

TileWeights pack_tiles(const Shape& s, const float* w, float* memory) {
  TileWeights p;
  p.taps = round_up(9 * s.Cin, kTile);
  p.first = memory;
  p.last = reinterpret_cast<Half*>(memory + int64_t(9) * s.Cin * s.Cp);
  Half* next = p.last + int64_t(p.taps) * s.Cp * kPieces;
  for (int64_t i = 0; i < int64_t(9) * s.Cin * s.Cp; ++i) p.first[i] = 0;
  for (Half* h = p.last; h < next; ++h) *h = 0;
  for (int c = 0; c < s.C; ++c)
    for (int k = 0; k < 9 * s.Cin; ++k) {
      float rest = p.first[k * s.Cp + c] = w[c * 9 * s.Cin + k];
      Half* to = p.last + (k / kTile * (s.Cp / kBlock) + c / kBlock) * kPieces * kTileSize +
                 TileWeights::pair(c % kBlock, k % kTile);
      for (int i = 0; i < kPieces; ++i, to += kTileSize) {
        *to = half_of(rest);
        rest -= float_of(*to);
      }
    }
  for (int l = 1; l < s.L; ++l, next += 2 * TileWeights::layer(s))
    p.up[l] = next, p.down[l] = next + TileWeights::layer(s);
  const int blocks = s.Cp / kBlock;
  parallel(2 * (s.L - 1), 2 * (s.L - 1) * TileWeights::layer(s), [&](int64_t job) {
    const int l = 1 + int(job) / 2;
    const bool transposed = job % 2;
    const float* kernel = w + int64_t(9) * s.C * s.Cin + (l - 1) * int64_t(9) * s.C * s.C;
    Half* U = transposed ? p.down[l] : p.up[l];
    if (s.C < s.Cp)
      for (int64_t i = 0; i < TileWeights::layer(s); ++i) U[i] = 0;
    for (int co = 0; co < s.C; ++co)
      for (int ci = 0; ci < s.C; ++ci) {
        const int k = transposed ? co : ci, n = transposed ? ci : co;
        Half* to = U + ((n / kBlock * 9 * blocks + k / kBlock) * 2 + n % kBlock / kTile) * int64_t(kTileSize) +
                   TileWeights::pair(k % kBlock, n % kTile);
        const float* from = kernel + (int64_t(co) * s.C + ci) * 9;
        for (int i = 0; i < 9; ++i) to[i * int64_t(blocks) * 2 * kTileSize] = half_of(from[transposed ? 8 - i : i]);
      }
  });
  return p;
}

// The smoothed ReLU where its result becomes a bfloat16: with v = t + delta > 0 and r = min(v / (2 delta), 1), which is
// a', a = r (v - delta r). Fewer instructions than feature_layout.h needs, and the estimate of 1 / sqrt is good enough.
struct NearActivation {
  float delta, inv_delta, inv_2delta;
  explicit NearActivation(double d) : delta(float(d)), inv_delta(float(1 / d)), inv_2delta(float(0.5 / d)) {}
  FR_INLINE Vec<float> operator()(Vec<float> t) const {  // NaN stays NaN
    const Vec<float> v = at_least(Vec<float>{}, t + delta), r = at_most(splat(1.0f), v * inv_2delta);
    return r * (v - delta * r);
  }
  FR_INLINE Vec<float> slope(Vec<float> h) const { return near_root(at_most(splat(1.0f), h * inv_delta)); }
};

// The sum of each vector's lanes.
FR_INLINE void sum_each(const Vec<float> (&v)[kTile], float (&sum)[kTile]) {
#if defined(__AVX512F__)
  constexpr int kAll = -1;               // the forms without a mask make GCC warn of its own header
  __m512 pairs[8], fours[4], halves[2];  // twice as many vectors in each, with half as many lanes to go
  for (int i = 0; i < 8; ++i) {
    const __m512 a = (__m512)v[2 * i], b = (__m512)v[2 * i + 1];
    pairs[i] = _mm512_maskz_unpacklo_ps(kAll, a, b) + _mm512_maskz_unpackhi_ps(kAll, a, b);
  }
  for (int i = 0; i < 4; ++i) {
    const __m512d a = (__m512d)pairs[2 * i], b = (__m512d)pairs[2 * i + 1];
    fours[i] = (__m512)_mm512_maskz_unpacklo_pd(kAll, a, b) + (__m512)_mm512_maskz_unpackhi_pd(kAll, a, b);
  }
  const auto fold = [](__m512 a, __m512 b) {
    return _mm512_maskz_shuffle_f32x4(kAll, a, b, 0x88) + _mm512_maskz_shuffle_f32x4(kAll, a, b, 0xdd);
  };
  for (int i = 0; i < 2; ++i) halves[i] = fold(fours[2 * i], fours[2 * i + 1]);
  store(sum, (Vec<float>)fold(halves[0], halves[1]));
#else
  for (int i = 0; i < kTile; ++i) sum[i] = sum_in_pairs<float>(v[i]);
#endif
}

// kC is Cp where the compiler may know it, else 0.
template <int kC, Pass kPass>
class TileBand {
 public:
  TileBand(const Shape& shape, const TileWeights& weights, double delta, bool final_activation, int r0, int r1,
           const Window& counted)
      : s(shape), w(weights), act(delta), joined_(round_up(s.W, kTile) > s.W + 1),
        step_((kStepPixels + s.W) / (s.W + 1)), stages(s, kPass, r0, r1, step_), final_(final_activation), own_{r0, r1},
        counted_(counted) {
    for (int l = 1; l <= s.L; ++l) {
      const Range rows = stages.range(l - 1);
      rings_[l].lo = rows.lo, rings_[l].hi = rows.hi, rings_[l].width = s.W + 1, rings_[l].Cp = s.Cp;
      rings_[l].ring = stages.kept(l, 1);
    }
  }

  void allocate(Scratch& memory) {
    for (int l = 1; l <= s.L; ++l) {
      TileRows& h = rings_[l];
      h.origin = memory.take<Half>(size(l));
      const int64_t above = (h.width + 1) * s.Cp, below = above + h.ring * h.width * s.Cp;
      __builtin_memset(h.origin, 0, sizeof(Half) * above);
      __builtin_memset(h.origin + below, 0, sizeof(Half) * (size(l) - below));
    }
    image_ = memory.take<float>(padded_size(s, stages.range(0)));
    g_ = memory.take<float>(features());
    by_tap_ = memory.take<float>(products());
  }

  struct Output {
    float* grad;   // [Cin, H, W] of this image; rows of this band are written
    double value;  // sum over the rows of this band
  };

  // x: [Cin, H, W] of this image.
  void run(const float* x, float eps, Output& out) {
    const Tiles tiles;
    eps_ = eps, out_ = &out;
    for (double& sum : value_) sum = 0;
    read_padded(s, stages.range(0), x, image_);
    if (kPass == Pass::kBoth) clear_rows(s, own_, out.grad);
    stages.run([&](int l) { return rings_[l].ring; }, [&](int i, int begin, int end) { stage(i, begin, end); });
    out.value = 0;
    for (const double sum : value_) out.value += sum;
  }

 private:
  int c() const { return kC ? kC : s.Cp; }
  int64_t size(int l) const { return TileRows::size(rings_[l].ring, s.W + 1, s.Cp); }
  int64_t features() const { return int64_t(joined_ ? step_ : 1) * (s.W + 1) * s.Cp; }
  int64_t products() const { return int64_t(round_up(s.W, kBlock)) * w.taps; }

  void stage(int i, int begin, int end) {
    if (i == 0) return first(begin, end);
    if (i == 2 * s.L - 1) return last(begin, end);
    const bool up = i < s.L;
    const int l = up ? i + 1 : 2 * s.L - i;  // up: h_{l-1} to h_l; down: z_l to z_{l-1}
    const TileRows &from = rings_[up ? l - 1 : l], &to = rings_[up ? l : l - 1];
    for (int r = begin, next; r < end; r = next) {  // rows that lie one behind the other are one row
      for (next = r + 1; joined_ && next < end; ++next)
        if (!from.follows(next - 2) || !from.follows(next - 1) || !from.follows(next) || !to.follows(next - 1)) break;
      const int n = (next - r) * (s.W + 1) - 1;
      const Half* rows[3];
      for (int k = 0; k < 3; ++k) rows[k] = from.at(r - 1 + k) - c();
      if (!up)
        convolve(rows, n, w.down[l - 1], [a = act, h = to.at(r), C = c()](int x, int k, Vec<float> q0, Vec<float> q1) {
          Half* p = h + int64_t(x) * (kC ? kC : C) + k;
          store(p, a.slope(load(p)) * q0, a.slope(load(p + kLanes<float>)) * q1);
        });
      else if (l < s.L)
        convolve(rows, n, w.up[l - 1], [a = act, h = to.at(r), C = c()](int x, int k, Vec<float> v0, Vec<float> v1) {
          store(h + int64_t(x) * (kC ? kC : C) + k, a(v0), a(v1));
        });
      else
        convolve(rows, n, w.up[l - 1], [g = g_, C = c()](int x, int k, Vec<float> v0, Vec<float> v1) {
          float* p = g + int64_t(x) * (kC ? kC : C) + k;
          store(p, v0), store(p + kLanes<float>, v1);
        });
      if (up && l == s.L) dual(r, next);
      for (int y = r; y < next; ++y) separate(to, y);
    }
  }
  void separate(const TileRows& rows, int r) const {
    __builtin_memset(rows.at(r) + s.W * int64_t(c()), 0, sizeof(Half) * c());
  }

  // n pixels of a 3x3 convolution, whose taps begin at rows[0 .. 2] for the first: emit(pixel, channel, two vectors).
  // While the tiles multiply for one block of pixels, the vector units finish the sums of the block before.
  template <typename Emit>
  __attribute__((noinline)) void convolve(const Half* const (&rows)[3], int n, const Half* U, Emit emit) {
    const int blocks = c() / kBlock;
    const int64_t pixel = sizeof(Half) * c();
    alignas(64) float sums[2][4][kTile][kTile];  // of two blocks: [pixels, channels] of each of four tiles
    for (int to = 0; to < c(); to += kBlock, U += int64_t(9) * blocks * 2 * kTileSize) {
      for (int x = 0, turn = 0; x < n + kBlock; x += kBlock, turn ^= 1) {
        const auto& before = sums[1 - turn];
        const auto finish = [&](int tap) {
          if (x == 0) return;
          const int end = at_most((tap + 1) * kBlock / 9, n - (x - kBlock));
          for (int p = tap * kBlock / 9; p < end; ++p) FR_UNROLL for (int k = 0; k < kBlock; k += 2 * kLanes<float>) {
              const auto sum = [&](int n) { return load(&before[p / kTile * 2 + n / kTile][p % kTile][n % kTile]); };
              emit(x - kBlock + p, to + k, sum(k), sum(k + kLanes<float>));
            }
        };
        if (x >= n) {
          for (int tap = 0; tap < 9; ++tap) finish(tap);
          break;
        }
        tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
        const bool full = n - x > kTile;
        const Half* b = U;
        FR_UNROLL for (int tap = 0; tap < 9; ++tap) {
          const Half* a = rows[tap / 3] + int64_t(x + tap % 3) * c();
          for (int k = 0; k < blocks; ++k, a += kBlock, b += 2 * kTileSize) {
            tile_load<4>(a, pixel);
            tile_load<6>(b, 64);
            tile_load<7>(b + kTileSize, 64);
            tile_product<0, 4, 6>();
            tile_product<1, 4, 7>();
            if (!full) continue;
            tile_load<5>(a + kTile * c(), pixel);
            tile_product<2, 5, 6>();
            tile_product<3, 5, 7>();
          }
          finish(tap);
        }
        float (&sum)[4][kTile][kTile] = sums[turn];
        tile_store<0>(sum[0][0], 64), tile_store<1>(sum[1][0], 64);
        if (full) tile_store<2>(sum[2][0], 64), tile_store<3>(sum[3][0], 64);
      }
    }
  }

  // The last layer's outputs in g_ to the dual y* = g / max(|g|, eps), times a' if it is activated; adds the value.
  void dual(int begin, int end) {
    const NearActivation a = act;
    const float e = eps_, e2 = e * e;
    for (int r = begin; r < end; ++r) {
      float* row = g_ + int64_t(r - begin) * (s.W + 1) * c();
      Half* to = rings_[s.L].at(r);
      const bool owned = own_.has(r) && counted_.rows.has(r);
      for (int x = 0; x < s.W; x += kTile, row += kTile * c(), to += kTile * c()) {
        const int n = at_most(kTile, s.W - x);
        Vec<float> squares[kTile] = {};
        for (int p = 0; p < n; ++p)
          for (int k = 0; k < c(); k += kLanes<float>) {
            Vec<float> g = load(row + p * c() + k);
            if (final_) store(row + p * c() + k, g = a(g) * true_channels<float>(s.C, k));
            squares[p] += g * g;
          }
        float square[kTile], inverse[kTile], term[kTile];
        bool lost = false;
        sum_each(squares, square);
        for (int p = 0; p < kTile; ++p) {
          const bool large = square[p] > e2;
          const float norm = large ? std::sqrt(square[p]) : e;
          lost |= !(square[p] >= kSmallSquare<float> && square[p] <= kLargest<float>);
          inverse[p] = 1 / norm;
          term[p] = large ? norm - e / 2 : square[p] / e / 2;  // 0 beyond the row
        }
        if (lost)
          for (int p = 0; p < n; ++p) {
            if (square[p] >= kSmallSquare<float> && square[p] <= kLargest<float>) continue;
            const float norm = norm_again(row + p * c(), c(), square[p]);
            inverse[p] = at_most(kLargest<float>, 1 / at_least(e, norm));
            term[p] = smoothed_norm(norm, e);
          }
        if (owned)
          for (int p = 0; p < kTile; ++p)
            if (counted_.columns.has(x + p)) value_[p] += term[p];
        if (kPass == Pass::kUp) continue;
        for (int p = 0; p < n; ++p) {
          const Vec<float> scale = splat(inverse[p]);
          for (int k = 0; k < c(); k += kLanes<float>) {
            const Vec<float> g = load(row + p * c() + k), q = g * scale;
            store(to + p * c() + k, final_ ? q * a.slope(g) : q);
          }
        }
      }
    }
  }
  // h_1 = a(w_1 * x) for rows begin <= r < end.
  void first(int begin, int end) {
    const int64_t width = s.W + 2, image = (rings_[1].hi - rings_[1].lo + 2) * width;
    for (int r = begin; r < end; ++r) {
      convolve_row<kC>(image_ + (r - rings_[1].lo) * width, image, width, s.Cin, s.W, w.first, c(), rings_[1].at(r),
                       act);
      separate(rings_[1], r);
    }
  }

  // grad = w_1^T z_1: each row of z_1 times all taps at once, then added where the taps point.
  void last(int begin, int end) {
    const Range rows = stages.to_scatter(begin, end);
    for (int r = rows.lo; r < rows.hi; ++r) {
      multiply_taps(rings_[1].at(r));
      scatter_row(s, own_, r, by_tap_, w.taps, out_->grad);
    }
  }
  // by_tap_ [W, taps] = z [W, Cp] times w_1.
  void multiply_taps(const Half* z) {
    const int blocks = c() / kBlock;
    for (int t = 0; t < w.taps; t += kTile)
      for (int x = 0; x < s.W; x += kTile) {
        tile_zero<0>();
        const Half* b = w.last + int64_t(t / kTile) * blocks * kPieces * kTileSize;
        for (int k = 0; k < blocks; ++k, b += kPieces * kTileSize) {
          tile_load<4>(z + int64_t(x) * c() + k * kBlock, int64_t(sizeof(Half)) * c());
          tile_load<5>(b, 64);
          tile_load<6>(b + kTileSize, 64);
          tile_load<7>(b + 2 * kTileSize, 64);
          tile_product<0, 4, 7>();  // the smallest first
          tile_product<0, 4, 6>();
          tile_product<0, 4, 5>();
        }
        tile_store<0>(by_tap_ + int64_t(x) * w.taps + t, int64_t(sizeof(float)) * w.taps);
      }
  }

  const Shape s;
  const TileWeights w;
  const NearActivation act;
  const bool joined_;  // whether rows one behind the other are convolved as one: where tiles would leave pixels idle
  const int step_;
  const Stages stages;
  const bool final_;
  const Range own_;
  const Window counted_;
  TileRows rings_[kMaxLayers + 1];
  float *image_, *g_, *by_tap_;
  float eps_ = 0;
  double value_[kTile];  // of every 16th pixel
  Output* out_ = nullptr;
};
}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
