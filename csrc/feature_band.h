// feature_band.h: the chain of convolutions of the learned regulariser on one band of rows of one image.
//
// A band keeps its activations in rings of channels-last rows that fit the cache: every layer advances by a few rows as
// soon as the layer before it has them (feature_stages.h draws it). Bands recompute the rows they share (2L - l of
// layer l) instead of exchanging them: no thread ever waits for another. The layers of equal width are Winograd F(4x4,
// 3x3) products. a' is computed from the stored activation. Notation: fastrecon/ops/feature_gradient.py
//
// Memory of a band; arrays a = 0, and with a tangent 1:
//   image_[a]      [Cin, rows, W + 2]  x and the direction, zero-padded
//   rings_[a][l]   [ring, W + 2 or more, Cp]  layer l, a = 0: h_l, on the way down z_l; a = 1: h_l's tangent, then s_l
//   points_        [36, kGroup tiles of each array, Cp]  inputs at Winograd's points, of a group: V in the paper
//   products_      [36, the same]  their products with the weights: M in the paper. Direct products: [tiles, 4, 4, Cp]
//   by_tap_        [W, taps]  one row of z_1 times each tap of w_1
#pragma once
#include "feature_stages.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {

constexpr int kGroup = 36;  // tiles a product, at most: 2 x 36 x 36 x 32 floats stay in a 1 MiB cache with the weights
constexpr int kMinTiles = 48;  // tiles a step of one layer, so that its weights are read for enough of them

// kC is Cp where the compiler may know it, else 0.
template <typename T, int kC, Pass kPass, Products kProducts>
class Band {
  static constexpr bool kTangent = kPass == Pass::kTangent;
  static constexpr int kArrays = kTangent ? 2 : 1;

 public:
  Band(const Shape& shape, const Weights<T>& weights, double delta, bool final_activation, int r0, int r1,
       const Window& counted)
      : s(shape), w(weights), act(delta),
        stages(shape, kPass, r0, r1, 4 * ((kMinTiles + shape.tiles - 1) / shape.tiles)), final_(final_activation),
        own_{r0, r1}, counted_(counted) {
    for (int a = 0; a < kArrays; ++a)
      for (int l = 1; l <= s.L; ++l) {
        Rows<T>& h = rings_[a][l];
        const Range rows = stages.range(l - 1);
        h.lo = rows.lo, h.hi = rows.hi;
        h.ring = stages.kept(l, kTileOut);
        h.stride = s.stride();
      }
  }

  void allocate(Scratch& memory) {
    T* zero = memory.take<T>(s.stride());
    fill(zero, s.stride());
    for (int a = 0; a < kArrays; ++a) {
      for (int l = 1; l <= s.L; ++l) {
        rings_[a][l].data = memory.take<T>(rings_[a][l].ring * s.stride());
        rings_[a][l].zero = zero;
        for (int r = 0; r < rings_[a][l].ring; ++r) {
          T* row = rings_[a][l].data + r * s.stride();
          fill(row, c());
          fill(row + (s.W + 1) * c(), (s.pixels() - s.W - 1) * c());
        }
      }
      image_[a] = memory.take<T>(padded_size(s, stages.range(0)));
    }
    points_ = memory.take<T>(kPoints * plane());
    products_ = memory.take<T>(kPoints * plane());
    by_tap_ = memory.take<T>(int64_t(s.W) * w.taps);
  }

  struct Output {
    T* grad;       // [Cin, H, W] of this image: the gradient, or d_x; rows of this band are written
    T* d_weights;  // kTangent: sums over points (or taps) [L - 1, 36, Cp, Cp] and over taps of layer 1 [9 Cin, Cp]
    double value;  // sum over the rows of this band: the value, or d_eps
  };

  // x and direction: [Cin, H, W] of this image.
  void run(const T* x, const T* direction, T eps, T d_value, Output& out) {
    eps_ = eps, d_value_ = d_value, out_ = &out, out.value = 0;
    read_padded(s, stages.range(0), x, image_[0]);
    if (kTangent) read_padded(s, stages.range(0), direction, image_[1]);
    if (kPass != Pass::kUp) clear_rows(s, own_, out.grad);
    stages.run([&](int l) { return rings_[0][l].ring; }, [&](int i, int begin, int end) { stage(i, begin, end); });
  }

 private:
  // Groups as even as can be.
  static int group_of(int tiles) {
    return (tiles + (tiles + kGroup - 1) / kGroup - 1) / ((tiles + kGroup - 1) / kGroup);
  }
  int c() const { return kC ? kC : s.Cp; }
  int64_t plane() const { return int64_t(kArrays * kGroup + 1) * c(); }  // + 1: planes do not collide in the cache
  static void fill(T* p, int64_t n) {
    for (int64_t i = 0; i < n; ++i) p[i] = 0;
  }
  Rows<T> view(int array, int l, Range rows) const {  // of layer l, where only `rows` are valid
    Rows<T> v = rings_[array][l];
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
      const int n = at_most(group, tiles - g);
      convolve(source, up ? w.up[l - 1] : w.down[l - 1], begin, g, n);
      for (int t = 0; t < n; ++t) {
        const int y = begin + (g + t) / s.tiles * kTileOut, x = (g + t) % s.tiles * kTileOut;
        const int rows = at_most(kTileOut, end - y), columns = at_most(kTileOut, s.W - x);
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
        if (to > 1)
          weight_gradient(to, begin, end);
        else
          first_weight_gradient(begin, end);
      }
  }

  // n tiles from tile g on, counted row by row from row `begin`.
  void convolve(const Rows<T>* source, const T* weights, int begin, int g, int n) {
    stride_ = n;
    if constexpr (kProducts == Products::kDirect) return convolve_directly(source, weights, begin, g, n);
    for (int a = 0; a < kArrays; ++a) inputs_to_points(source[a], begin, g, n, points_ + a * n * c());
    if constexpr (kProducts == Products::kHalf) {
      for (int p = 0; p < kPoints; ++p)
        multiply_half<kC, kC>(n, c(), c(), half(points_) + p * plane(), c(), half(weights) + int64_t(p) * c() * c(),
                              products_ + p * plane());
      return;
    }
    for (int p = 0; p < kPoints; ++p)
      multiply<false, false, kC, kC>(kArrays * n, c(), c(), points_ + p * plane(), c(),
                                     weights + int64_t(p) * c() * c(), products_ + p * plane());
  }
  void inputs_to_points(const Rows<T>& source, int begin, int g, int n, T* points) {
    for (int t = 0; t < n;) {
      const int y = begin + (g + t) / s.tiles * kTileOut, first = (g + t) % s.tiles;
      const T* row[kTileIn];
      for (int i = 0; i < kTileIn; ++i) row[i] = source.in(y - 1 + i);
      for (int x = first; x < s.tiles && t < n; ++x, ++t) {
        const T* rows[kTileIn];
        for (int i = 0; i < kTileIn; ++i) rows[i] = row[i] + x * int64_t(kTileOut) * c();
        if constexpr (kProducts == Products::kHalf) {
          tile_to_points(rows, c(), half(points) + t * c(), plane());
          continue;
        }
        tile_to_points(rows, c(), points + t * c(), plane());
      }
    }
  }
  static Half* half(T* p) { return reinterpret_cast<Half*>(p); }
  static const Half* half(const T* p) { return reinterpret_cast<const Half*>(p); }
  void convolve_directly(const Rows<T>* source, const T* weights, int begin, int g, int n) {
    for (int a = 0; a < kArrays; ++a)
      for (int t = 0; t < n; ++t) {
        const int y = begin + (g + t) / s.tiles * kTileOut, x = (g + t) % s.tiles;
        const T* rows[kTileIn];
        for (int i = 0; i < kTileIn; ++i) rows[i] = source[a].in(y - 1 + i) + x * int64_t(kTileOut) * c();
        direct_tile(rows, c(), weights, products_ + (a * n + t) * int64_t(16) * c());
      }
  }
  // The outputs of tile t: emit(i, j, channel, vector).
  template <typename Emit>
  FR_INLINE void outputs(int array, int t, const Emit& emit) const {
    if constexpr (kProducts == Products::kDirect) {
      const T* D = products_ + (array * stride_ + t) * int64_t(16) * c();
      for (int p = 0; p < 16; ++p)
        for (int k = 0; k < c(); k += kLanes<T>) emit(p / 4, p % 4, k, load(D + p * c() + k));
    } else {
      points_to_tile(products_ + (array * stride_ + t) * int64_t(c()), plane(), c(), emit);
    }
  }

  void activate(int t, int y, int x, int rows, int columns, int l) {
    T* to[kTileOut];
    for (int i = 0; i < rows; ++i) to[i] = rings_[0][l].at(y + i) + (x + 1) * int64_t(c());
    outputs(0, t, [&](int i, int j, int k, Vec<T> v) {
      if (i < rows && j < columns) store(to[i] + j * c() + k, act(v));
    });
    if constexpr (kTangent) {
      T* tangent[kTileOut];
      for (int i = 0; i < rows; ++i) tangent[i] = rings_[1][l].at(y + i) + (x + 1) * int64_t(c());
      outputs(1, t, [&](int i, int j, int k, Vec<T> v) {
        if (i < rows && j < columns) store(tangent[i] + j * c() + k, act.slope(load(to[i] + j * c() + k)) * v);
      });
    }
  }

  void down(int t, int y, int x, int rows, int columns, int l) {
    T *to[kTileOut], *tangent[kTileOut];
    for (int a = 0; a < kArrays; ++a)
      for (int i = 0; i < rows; ++i) (a ? tangent : to)[i] = rings_[a][l].at(y + i) + (x + 1) * int64_t(c());
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
          // a'' times the tangent before a
          const Vec<T> curve = act.curvature(value) * load(dot) / (slope > zero ? slope : splat(T(1)));
          store(h, slope * qs);
          store(dot, slope * r + rounded(curve * qs));
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
        store(g[a] + (i * 4 + j) * c() + k, final_ && a == 0 ? act(v) * true_channels<T>(s.C, k) : v);
      });
    T square[16], along[16], inverse[16], term[16], factor[16];
    for (int p = 0; p < 16; ++p) {
      Vec<T> sum{}, dot{};
      for (int k = 0; k < c(); k += kLanes<T>) {
        const Vec<T> v = load(g[0] + p * c() + k);
        sum += v * v;
        if (kTangent) dot += v * tangent_of(v, g[kArrays - 1] + p * c() + k);
      }
      square[p] = sum_in_pairs<T>(sum);
      if (kTangent) along[p] = sum_in_pairs<T>(dot);
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
        inverse[p] = at_most(kLargest<T>, 1 / at_least(e, n));
        if (kTangent) {
          const T unit_along = along_again(g[0] + p * c(), g[kArrays - 1] + p * c(), inverse[p]);
          factor[p] = n > e ? v - unit_along * inverse[p] : v;
          term[p] = n > e ? -v / 2 : -v * (n / e) * (n / e) / 2 - unit_along * inverse[p];
        } else {
          term[p] = smoothed_norm(n, e);
        }
      }
    for (int i = 0; i < rows; ++i) {
      const bool owned = own_.has(y + i) && counted_.rows.has(y + i);
      const int64_t at = (x + 1) * int64_t(c());
      T *to = rings_[0][s.L].at(y + i) + at, *tangent = rings_[kArrays - 1][s.L].at(y + i) + at;
      for (int j = 0; j < columns; ++j) {
        const int p = i * 4 + j;
        if (owned && counted_.columns.has(x + j)) out_->value += term[p];
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
    return sum_in_pairs<T>(dot);
  }
  FR_INLINE Vec<T> tangent_of(Vec<T> h, const T* before) const {
    return final_ ? act.slope(h) * load(before) : load(before);
  }

  // Adds layer l's gradient from its cotangents (z_l, s_l) in rows begin <= r < end and the activations under them.
  void weight_gradient(int l, int begin, int end) {
    T* sums = out_->d_weights + int64_t(l - 2) * kPoints * c() * c();
    Rows<T> source[2], cotangent[2];
    for (int a = 0; a < kArrays; ++a) {
      source[a] = view(a, l - 1, {rings_[0][l - 1].lo, at_most(rings_[0][l - 1].hi, end + 1)});
      cotangent[a] = view(1 - a, l, {at_least(begin, own_.lo), at_most(end, own_.hi)});  // h with s, its tangent with z
    }
    if constexpr (kProducts == Products::kDirect) {  // sums of products tap by tap
      for (int r = at_least(begin, own_.lo); r < at_most(end, own_.hi); ++r)
        for (int a = 0; a < kArrays; ++a)
          for (int tap = 0; tap < 9; ++tap)
            multiply<true, true, kC, kC>(c(), c(), s.W, source[a].in(r + tap / 3 - 1) + tap % 3 * c(), c(),
                                         cotangent[a].in(r) + c(), sums + int64_t(tap) * c() * c());
      return;
    }
    const int tiles = s.tiles * ((end - begin + kTileOut - 1) / kTileOut);
    const int group = group_of(tiles);
    for (int g = 0; g < tiles; g += group) {
      const int n = at_most(group, tiles - g);
      for (int a = 0; a < kArrays; ++a) {
        inputs_to_points(source[a], begin, g, n, points_ + a * n * c());
        for (int t = 0; t < n; ++t) {
          const int y = begin + (g + t) / s.tiles * kTileOut, x = (g + t) % s.tiles * kTileOut;
          const T* rows[kTileOut];
          for (int i = 0; i < kTileOut; ++i) rows[i] = cotangent[a].in(y + i) + (x + 1) * int64_t(c());
          outputs_tile_to_points(rows, c(), products_ + (a * n + t) * c(), plane());
        }
      }
      for (int p = 0; p < kPoints; ++p)
        multiply<true, true, kC, kC>(c(), c(), kArrays * n, points_ + p * plane(), c(), products_ + p * plane(),
                                     sums + int64_t(p) * c() * c());
    }
  }

  // The same for layer 1, tap by tap.
  void first_weight_gradient(int begin, int end) {
    T* sums = out_->d_weights + int64_t(s.L - 1) * kPoints * c() * c();
    const int64_t width = s.W + 2, image = (rings_[0][1].hi - rings_[0][1].lo + 2) * width;
    for (int r = at_least(begin, own_.lo); r < at_most(end, own_.hi); ++r)
      for (int a = 0; a < kArrays; ++a)
        correlate_row<kC>(image_[a] + (r - rings_[0][1].lo) * width, image, width, s.Cin, s.W,
                          rings_[1 - a][1].at(r) + c(), c(), sums);
  }

  // h_1 = a(w_1 * x) for rows begin <= r < end.
  void first(int begin, int end) {
    const int64_t width = s.W + 2, image = (rings_[0][1].hi - rings_[0][1].lo + 2) * width, n = int64_t(s.W) * c();
    for (int r = begin; r < end; ++r)
      for (int a = 0; a < kArrays; ++a) {
        T* to = rings_[a][1].at(r) + c();
        const T* h = rings_[0][1].at(r) + c();
        convolve_row<kC>(image_[a] + (r - rings_[0][1].lo) * width, image, width, s.Cin, s.W, w.first, c(), to,
                         [](Vec<T> v) { return v; });
        for (int64_t i = 0; i < n; i += kLanes<T>) {
          const Vec<T> v = load(to + i);
          store(to + i, a == 0 ? act(v) : act.slope(load(h + i)) * v);
        }
      }
  }

  // grad = w_1^T z_1: each row of z_1 times all taps at once, then added where the taps point.
  void last(int begin, int end) {
    const Rows<T> z = view(kArrays - 1, 1, stages.range(2 * s.L - 2));
    const Range rows = stages.to_scatter(begin, end);
    for (int r = rows.lo; r < rows.hi; ++r) {
      multiply<false, false, 0, kC>(s.W, w.taps, c(), z.at(r) + c(), c(), w.last, by_tap_);
      scatter_row(s, own_, r, by_tap_, w.taps, out_->grad);
    }
  }

  const Shape s;
  const Weights<T> w;
  const Activation<T> act;
  const Stages stages;
  const bool final_;
  const Range own_;
  const Window counted_;
  int stride_ = 0;
  Rows<T> rings_[kArrays][kMaxLayers + 1];
  T *image_[kArrays], *points_, *products_, *by_tap_;
  T eps_ = 0, d_value_ = 0;
  Output* out_ = nullptr;
};

}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
