// feature_band.h: the chain of convolutions of the learned regulariser on one band of rows of one image.
//
// A band keeps its activations in rings of channels-last rows that fit the cache: every layer advances by a few rows as soon
// as the layer before it has them, first the layers on the way up to g, then the transposed ones on the way down, which
// overwrite the activations they no longer need (z_l over h_l). Bands recompute the rows they share (2L - l of layer l)
// instead of exchanging them: no thread ever waits for another. The layers of equal width are Winograd F(4x4, 3x3)
// products. a' is computed from the stored activation. Notation: fastrecon/ops/feature_gradient.py
#pragma once
#include "feature_stages.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {

constexpr int kGroup = 36;      // tiles a product, at most: 2 x 36 x 36 x 32 floats stay in a 1 MiB cache with the weights
constexpr int kMinTiles = 48;   // tiles a step of one layer, so that its weights are read for enough of them

// kC is Cp where the compiler may know it, else 0.
template <typename T, int kC, Pass kPass, Products kProducts>
class Band {
  static constexpr bool kTangent = kPass == Pass::kTangent;
  static constexpr int kArrays = kTangent ? 2 : 1;

 public:
  Band(const Shape& shape, const Weights<T>& weights, double delta, bool final_activation, int r0, int r1)
      : s(shape), w(weights), act(delta), stages(shape, kPass, r0, r1, 4 * ((kMinTiles + shape.tiles - 1) / shape.tiles)),
        final_(final_activation), r0_(r0), r1_(r1) {
    for (int a = 0; a < kArrays; ++a)
      for (int l = 1; l <= s.L; ++l) {
        Rows<T>& h = h_[a][l];
        const Range rows = stages.range(l - 1);
        h.lo = rows.lo, h.hi = rows.hi;
        h.ring = stages.kept(l, kTileOut);
        h.stride = s.stride();
      }
  }

  size_t bytes() const {
    size_t total = 0;
    for (int a = 0; a < kArrays; ++a) {
      for (int l = 1; l <= s.L; ++l) total += Scratch::padded<T>(h_[a][l].ring * s.stride());
      total += Scratch::padded<T>(input_size());
    }
    return total + 2 * Scratch::padded<T>(kPoints * plane()) + Scratch::padded<T>(s.stride()) + Scratch::padded<T>(int64_t(s.W) * w.taps);
  }

  void allocate(Scratch& memory) {
    T* zero = memory.take<T>(s.stride());
    fill(zero, s.stride());
    for (int a = 0; a < kArrays; ++a) {
      for (int l = 1; l <= s.L; ++l) {
        h_[a][l].data = memory.take<T>(h_[a][l].ring * s.stride());
        h_[a][l].zero = zero;
        for (int r = 0; r < h_[a][l].ring; ++r) {
          T* row = h_[a][l].data + r * s.stride();
          fill(row, c());
          fill(row + (s.W + 1) * c(), (s.pixels() - s.W - 1) * c());
        }
      }
      x_[a] = memory.take<T>(input_size());
    }
    V_ = memory.take<T>(kPoints * plane());
    M_ = memory.take<T>(kPoints * plane());
    P_ = memory.take<T>(int64_t(s.W) * w.taps);
  }

  struct Output {
    T* grad;          // [Cin, H, W] of this image: the gradient, or d_x; rows of this band are written
    T* d_weights;     // kTangent: sums over points (or taps) [L - 1, 36, Cp, Cp] and over taps of layer 1 [9 Cin, Cp]
    double value;     // sum over the rows of this band: the value, or d_eps
  };

  // x and direction: [Cin, H, W] of this image.
  void run(const T* x, const T* direction, T eps, T d_value, Output& out) {
    eps_ = eps, d_value_ = d_value, out_ = &out, out.value = 0;
    read(x, x_[0]);
    if (kTangent) read(direction, x_[1]);
    if (kPass != Pass::kUp)
      for (int k = 0; k < s.Cin; ++k)
        for (int r = r0_; r < r1_; ++r) fill(out.grad + (int64_t(k) * s.H + r) * s.W, s.W);
    stages.run([&](int l) { return h_[0][l].ring; }, [&](int i, int begin, int end) { stage(i, begin, end); });
  }

 private:
  // Groups as even as can be.
  static int group_of(int tiles) { return (tiles + (tiles + kGroup - 1) / kGroup - 1) / ((tiles + kGroup - 1) / kGroup); }
  int c() const { return kC ? kC : s.Cp; }
  int64_t plane() const { return int64_t(kArrays * kGroup + 1) * c(); }  // + 1: planes do not collide in the cache
  int64_t input_size() const { return int64_t(s.Cin) * (h_[0][1].hi - h_[0][1].lo + 2) * (s.W + 2); }
  static void fill(T* p, int64_t n) {
    for (int64_t i = 0; i < n; ++i) p[i] = 0;
  }
  Rows<T> view(int array, int l, Range rows) const {  // of layer l, where only `rows` are valid
    Rows<T> v = h_[array][l];
    v.lo = rows.lo, v.hi = rows.hi;
    return v;
  }

  void stage(int i, int begin, int end) {
    if (i == 0) return first(begin, end);
    if (i == 2 * s.L - 1) return last(begin, end);
    const bool up = i < s.L;
    const int l = up ? i + 1 : 2 * s.L - i;  // up: h_{l-1} to h_l; down: z_l to z_{l-1}
    const int from = up ? l - 1 : l, to = up ? l : l - 1;
    Rows<T> source[kArrays];
    for (int a = 0; a < kArrays; ++a) source[a] = view(a, from, stages.range(i - 1));
    const int tiles = s.tiles * ((end - begin + kTileOut - 1) / kTileOut);
    const int group = group_of(tiles);
    for (int g = 0; g < tiles; g += group) {
      const int n = smaller(group, tiles - g);
      convolve(source, up ? w.U[l - 1] : w.Ut[l - 1], begin, g, n);
      for (int t = 0; t < n; ++t) {
        const int y = begin + (g + t) / s.tiles * kTileOut, x = (g + t) % s.tiles * kTileOut;
        const int rows = smaller(kTileOut, end - y), columns = smaller(kTileOut, s.W - x);
        if (!up)
          down(t, y, x, rows, columns, to);
        else if (to < s.L)
          activate(t, y, x, rows, columns, to);
        else
          dual(t, y, x, rows, columns);
      }
    }
    if constexpr (kTangent)
      if (to == s.L || !up) {
        if (to > 1) weight_gradient(to, begin, end);
        else first_weight_gradient(begin, end);
      }
  }

  // n tiles from tile g on, counted row by row from row `begin`.
  void convolve(const Rows<T>* source, const T* U, int begin, int g, int n) {
    stride_ = n;
    if constexpr (kProducts == Products::kDirect) return convolve_directly(source, U, begin, g, n);
    for (int a = 0; a < kArrays; ++a) inputs_to_points(source[a], begin, g, n, V_ + a * n * c());
#if defined(__AVX512BF16__)
    if constexpr (kProducts == Products::kHalf) {
      for (int p = 0; p < kPoints; ++p)
        multiply_half<kC, kC>(n, c(), c(), half(V_) + p * plane(), c(), half(U) + int64_t(p) * c() * c(), M_ + p * plane());
      return;
    }
#endif
    for (int p = 0; p < kPoints; ++p)
      multiply<false, false, kC, kC>(kArrays * n, c(), c(), V_ + p * plane(), c(), U + int64_t(p) * c() * c(), M_ + p * plane());
  }
  void inputs_to_points(const Rows<T>& source, int begin, int g, int n, T* V) {
    for (int t = 0; t < n;) {
      const int y = begin + (g + t) / s.tiles * kTileOut, first = (g + t) % s.tiles;
      const T* row[kTileIn];
      for (int i = 0; i < kTileIn; ++i) row[i] = source.in(y - 1 + i);
      for (int x = first; x < s.tiles && t < n; ++x, ++t) {
        const T* rows[kTileIn];
        for (int i = 0; i < kTileIn; ++i) rows[i] = row[i] + x * int64_t(kTileOut) * c();
#if defined(__AVX512BF16__)
        if constexpr (kProducts == Products::kHalf) {
          tile_to_points(rows, c(), half(V) + t * c(), plane());
          continue;
        }
#endif
        tile_to_points(rows, c(), V + t * c(), plane());
      }
    }
  }
#if defined(__AVX512BF16__)
  static Half* half(T* p) { return reinterpret_cast<Half*>(p); }
  static const Half* half(const T* p) { return reinterpret_cast<const Half*>(p); }
#endif
  void convolve_directly(const Rows<T>* source, const T* U, int begin, int g, int n) {
    for (int a = 0; a < kArrays; ++a)
      for (int t = 0; t < n; ++t) {
        const int y = begin + (g + t) / s.tiles * kTileOut, x = (g + t) % s.tiles;
        const T* rows[kTileIn];
        for (int i = 0; i < kTileIn; ++i) rows[i] = source[a].in(y - 1 + i) + x * int64_t(kTileOut) * c();
        direct_tile(rows, c(), U, M_ + (a * n + t) * int64_t(16) * c());
      }
  }
  // The outputs of tile t: emit(i, j, channel, vector).
  template <typename Emit>
  FR_INLINE void outputs(int array, int t, const Emit& emit) const {
    if constexpr (kProducts == Products::kDirect) {
      const T* D = M_ + (array * stride_ + t) * int64_t(16) * c();
      for (int p = 0; p < 16; ++p)
        for (int k = 0; k < c(); k += kLanes<T>) emit(p / 4, p % 4, k, load(D + p * c() + k));
    } else {
      points_to_tile(M_ + (array * stride_ + t) * int64_t(c()), plane(), c(), emit);
    }
  }

  void activate(int t, int y, int x, int rows, int columns, int l) {
    T* to[kTileOut];
    for (int i = 0; i < rows; ++i) to[i] = h_[0][l].at(y + i) + (x + 1) * int64_t(c());
    outputs(0, t, [&](int i, int j, int k, Vec<T> v) {
      if (i < rows && j < columns) store(to[i] + j * c() + k, act(v));
    });
    if constexpr (kTangent) {
      T* tangent[kTileOut];
      for (int i = 0; i < rows; ++i) tangent[i] = h_[1][l].at(y + i) + (x + 1) * int64_t(c());
      outputs(1, t, [&](int i, int j, int k, Vec<T> v) {
        if (i < rows && j < columns) store(tangent[i] + j * c() + k, act.slope(load(to[i] + j * c() + k)) * v);
      });
    }
  }

  void down(int t, int y, int x, int rows, int columns, int l) {
    T *to[kTileOut], *tangent[kTileOut];
    for (int a = 0; a < kArrays; ++a)
      for (int i = 0; i < rows; ++i) (a ? tangent : to)[i] = h_[a][l].at(y + i) + (x + 1) * int64_t(c());
    if constexpr (!kTangent) {
      outputs(0, t, [&](int i, int j, int k, Vec<T> q) {
        if (i < rows && j < columns) {
          T* h = to[i] + j * c() + k;
          store(h, act.slope(load(h)) * q);
        }
      });
    } else {
      alignas(64) T q[16 * kMaxWidth];
      outputs(0, t, [&](int i, int j, int k, Vec<T> v) { store(q + (i * 4 + j) * c() + k, v); });
      outputs(1, t, [&](int i, int j, int k, Vec<T> r) {
        if (i < rows && j < columns) {
          T *h = to[i] + j * c() + k, *dot = tangent[i] + j * c() + k;
          const Vec<T> value = load(h), slope = act.slope(value), qs = load(q + (i * 4 + j) * c() + k), zero{};
          const Vec<T> curve = act.curvature(value) * load(dot) / (slope > zero ? slope : splat(T(1)));  // a'' times the tangent before a
          store(h, slope * qs);
          store(dot, slope * r + curve * qs);
        }
      });
    }
  }

  // g of one tile to its dual y* = g / max(|g|, eps), times a' if the last layer is activated; adds the value.
  // With a tangent: s = d y* + d_value y* beside it, and adds d_eps instead.
  void dual(int t, int y, int x, int rows, int columns) {
    alignas(64) T g[kArrays][16 * kMaxWidth];  // g, and the tangent before the activation
    for (int a = 0; a < kArrays; ++a)
      outputs(a, t, [&](int i, int j, int k, Vec<T> v) {
        store(g[a] + (i * 4 + j) * c() + k, final_ && a == 0 ? act(v) * used(k) : v);
      });
    T square[16], along[16], inverse[16], term[16], factor[16];
    for (int p = 0; p < 16; ++p) {
      Vec<T> sum{}, dot{};
      for (int k = 0; k < c(); k += kLanes<T>) {
        const Vec<T> v = load(g[0] + p * c() + k);
        sum += v * v;
        if (kTangent) dot += v * tangent_of(v, g[kArrays - 1] + p * c() + k);
      }
      square[p] = sum_lanes<T>(sum);
      if (kTangent) along[p] = sum_lanes<T>(dot);
    }
    const T e = eps_, e2 = e * e, v = d_value_;
    bool lost = false;
    for (int p = 0; p < 16; ++p) {
      const bool large = square[p] > e2;
      const T n = large ? std::sqrt(square[p]) : e;
      lost |= !(square[p] >= kSmallSquare<T> && square[p] <= kLargest<T>);
      inverse[p] = 1 / n;
      if (kTangent) {
        factor[p] = large ? v - along[p] / square[p] : v;
        term[p] = large ? -v / 2 : -(v * (square[p] / e) / 2 + along[p] / e) / e;
      } else {
        term[p] = large ? n - e / 2 : square[p] / e / 2;
      }
    }
    if (lost)
      for (int p = 0; p < 16; ++p) {
        if (square[p] >= kSmallSquare<T> && square[p] <= kLargest<T>) continue;
        const T n = norm_again(g[0] + p * c(), c(), square[p]);
        inverse[p] = smaller(kLargest<T>, 1 / larger(e, n));
        if (kTangent) {
          const T unit_along = along_again(g[0] + p * c(), g[kArrays - 1] + p * c(), inverse[p]);
          factor[p] = n > e ? v - unit_along * inverse[p] : v;
          term[p] = n > e ? -v / 2 : -v * (n / e) * (n / e) / 2 - unit_along * inverse[p];
        } else {
          term[p] = smoothed_norm(n, e);
        }
      }
    for (int i = 0; i < rows; ++i) {
      const bool owned = y + i >= r0_ && y + i < r1_;
      const int64_t at = (x + 1) * int64_t(c());
      T *to = h_[0][s.L].at(y + i) + at, *tangent = h_[kArrays - 1][s.L].at(y + i) + at;
      for (int j = 0; j < columns; ++j) {
        const int p = i * 4 + j;
        if (owned) out_->value += term[p];
        if (kPass == Pass::kUp) continue;
        const Vec<T> scale = splat(inverse[p]);
        for (int k = 0; k < c(); k += kLanes<T>) {
          const Vec<T> h = load(g[0] + p * c() + k), q = h * scale;
          store(to + j * c() + k, final_ ? q * act.slope(h) : q);
          if constexpr (kTangent) {
            const T* d = g[1] + p * c() + k;
            const Vec<T> r = (tangent_of(h, d) + h * splat(factor[p])) * scale;
            store(tangent + j * c() + k, final_ ? act.slope(h) * r + act.curvature(h) * load(d) * q : r);
          }
        }
      }
    }
  }
  // <inverse g, dg> of one pixel.
  T along_again(const T* g, const T* before, T inverse) const {
    Vec<T> dot{};
    for (int k = 0; k < c(); k += kLanes<T>) {
      const Vec<T> v = load(g + k);
      dot += v * splat(inverse) * tangent_of(v, before + k);
    }
    return sum_lanes<T>(dot);
  }
  // 1 for true channels, 0 for those that only fill the vectors: a(0) > 0, but they count nothing.
  FR_INLINE Vec<T> used(int k) const {
    T lane[kLanes<T>];
    for (int i = 0; i < kLanes<T>; ++i) lane[i] = k + i < s.C ? T(1) : T(0);
    return load(lane);
  }
  FR_INLINE Vec<T> tangent_of(Vec<T> h, const T* before) const {
    return final_ ? act.slope(h) * load(before) : load(before);
  }

  // Adds layer l's gradient from its cotangents (z_l, s_l) in rows begin <= r < end and the activations under them.
  void weight_gradient(int l, int begin, int end) {
    T* sums = out_->d_weights + int64_t(l - 2) * kPoints * c() * c();
    Rows<T> source[2], cotangent[2];
    for (int a = 0; a < kArrays; ++a) {
      source[a] = view(a, l - 1, {h_[0][l - 1].lo, smaller(h_[0][l - 1].hi, end + 1)});
      cotangent[a] = view(1 - a, l, {larger(begin, r0_), smaller(end, r1_)});  // h with s, its tangent with z
    }
    if constexpr (kProducts == Products::kDirect) {  // sums of products tap by tap
      for (int r = larger(begin, r0_); r < smaller(end, r1_); ++r)
        for (int a = 0; a < kArrays; ++a)
          for (int tap = 0; tap < 9; ++tap)
            multiply<true, true, kC, kC>(c(), c(), s.W, source[a].in(r + tap / 3 - 1) + tap % 3 * c(), c(),
                                         cotangent[a].in(r) + c(), sums + int64_t(tap) * c() * c());
      return;
    }
    const int tiles = s.tiles * ((end - begin + kTileOut - 1) / kTileOut);
    const int group = group_of(tiles);
    for (int g = 0; g < tiles; g += group) {
      const int n = smaller(group, tiles - g);
      for (int a = 0; a < kArrays; ++a) {
        inputs_to_points(source[a], begin, g, n, V_ + a * n * c());
        for (int t = 0; t < n; ++t) {
          const int y = begin + (g + t) / s.tiles * kTileOut, x = (g + t) % s.tiles * kTileOut;
          const T* rows[kTileOut];
          for (int i = 0; i < kTileOut; ++i) rows[i] = cotangent[a].in(y + i) + (x + 1) * int64_t(c());
          outputs_tile_to_points(rows, c(), M_ + (a * n + t) * c(), plane());
        }
      }
      for (int p = 0; p < kPoints; ++p)
        multiply<true, true, kC, kC>(c(), c(), kArrays * n, V_ + p * plane(), c(), M_ + p * plane(), sums + int64_t(p) * c() * c());
    }
  }

  // The same for layer 1, tap by tap.
  void first_weight_gradient(int begin, int end) {
    T* sums = out_->d_weights + int64_t(s.L - 1) * kPoints * c() * c();
    const int64_t width = s.W + 2, image = (h_[0][1].hi - h_[0][1].lo + 2) * width;
    for (int r = larger(begin, r0_); r < smaller(end, r1_); ++r)
      for (int a = 0; a < kArrays; ++a)
        correlate_row<kC>(x_[a] + (r - h_[0][1].lo) * width, image, width, s.Cin, s.W, h_[1 - a][1].at(r) + c(), c(), sums);
  }

  // x, zero-padded by one pixel, rows lo - 1 .. hi of h_1's range.
  void read(const T* x, T* to) {
    const int lo = h_[0][1].lo, hi = h_[0][1].hi;
    for (int k = 0; k < s.Cin; ++k)
      for (int r = lo - 1; r <= hi; ++r, to += s.W + 2) {
        fill(to, s.W + 2);
        if (r >= 0 && r < s.H) __builtin_memcpy(to + 1, x + (int64_t(k) * s.H + r) * s.W, sizeof(T) * s.W);
      }
  }

  // h_1 = a(w_1 * x) for rows begin <= r < end.
  void first(int begin, int end) {
    const int64_t width = s.W + 2, image = (h_[0][1].hi - h_[0][1].lo + 2) * width, n = int64_t(s.W) * c();
    for (int r = begin; r < end; ++r)
      for (int a = 0; a < kArrays; ++a) {
        T* to = h_[a][1].at(r) + c();
        const T* h = h_[0][1].at(r) + c();
        convolve_row<kC>(x_[a] + (r - h_[0][1].lo) * width, image, width, s.Cin, s.W, w.first, c(), to, [](Vec<T> v) { return v; });
        for (int64_t i = 0; i < n; i += kLanes<T>) {
          const Vec<T> v = load(to + i);
          store(to + i, a == 0 ? act(v) : act.slope(load(h + i)) * v);
        }
      }
  }

  // grad = w_1^T z_1: each row of z_1 times all taps at once, then added where the taps point.
  void last(int begin, int end) {
    const Range valid = stages.range(2 * s.L - 2);
    const Rows<T> z = view(kArrays - 1, 1, valid);
    // Row r of z_1 reaches rows r - 1 .. r + 1; the rows of z_1 that end this step's reach begin where the last one's ended.
    const int from = begin == r0_ ? valid.lo : begin + 1, to = end == r1_ ? valid.hi : smaller(valid.hi, end + 1);
    for (int r = from; r < to; ++r) {
      multiply<false, false, 0, kC>(s.W, w.taps, c(), z.at(r) + c(), c(), w.last, P_);
      for (int k = 0; k < s.Cin; ++k)
        for (int dy = 0; dy < 3; ++dy) {
          const int y = r + dy - 1;
          if (y < r0_ || y >= r1_) continue;
          T* g = out_->grad + (int64_t(k) * s.H + y) * s.W;
          const T* P = P_ + k * 9 + dy * 3;
          for (int x = 0; x < s.W; ++x) {
            T sum = P[x * w.taps + 1];
            if (x > 0) sum += P[(x - 1) * w.taps + 2];
            if (x + 1 < s.W) sum += P[(x + 1) * w.taps];
            g[x] += sum;
          }
        }
    }
  }

  const Shape s;
  const Weights<T> w;
  const Activation<T> act;
  const Stages stages;
  const bool final_;
  const int r0_, r1_;
  int stride_ = 0;
  Rows<T> h_[kArrays][kMaxLayers + 1];
  T *x_[kArrays], *V_, *M_, *P_;
  T eps_ = 0, d_value_ = 0;
  Output* out_ = nullptr;
};

}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
