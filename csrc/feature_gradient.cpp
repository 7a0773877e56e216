// feature_gradient.cpp: value and gradient of the learned regulariser, and the derivative of both (CPU).
// Definition and formulas: fastrecon/ops/feature_gradient.py
//
//   x [B, Cin, H, W]   w: w_1 [C, Cin, 3, 3], w_2 .. w_L [C, C, 3, 3] one after the other   eps, value [B]   grad like x
//
// An image is cut into bands of rows, one a task. A band keeps its activations in rings of channels-last rows that fit the
// cache: every layer advances by a few rows as soon as the layer before it has them, forward layers first, then the
// transposed ones, which overwrite the activations they no longer need (z_l over h_l). Bands recompute the rows they share
// (2L - l of layer l) instead of exchanging them: no thread ever waits for another. The 32-to-32 layers are
// Winograd F(4x4, 3x3) products. a' is computed from the stored activation. Sums of a band are in double, bands in order.
#include <cmath>
#include <cstdlib>
#include <type_traits>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "winograd.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {

using std::int64_t;
constexpr int kMaxLayers = 16;
constexpr int kGroup = 24;           // tiles a product: 2 x 36 x 24 x 32 floats stay in a 1 MiB cache with the weights
constexpr int kMinTiles = 48;        // tiles a step of one layer, so that its weights are read for enough of them
constexpr int kMaxWidth = 128;        // channels, with those that fill the vectors
constexpr int kSmallImage = 128;  // rows below which an image is one band

// ---------------------------------------------------------------- vectors
FR_INLINE Vec<float> root(Vec<float> x) {
  for (int i = 0; i < kLanes<float>; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
}
FR_INLINE Vec<double> root(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
}

template <typename T>
FR_INLINE T sum_lanes(Vec<T> v) {
  T lane[kLanes<T>];
  store(lane, v);
  for (int w = kLanes<T> / 2; w > 0; w /= 2)
    for (int i = 0; i < w; ++i) lane[i] += lane[i + w];
  return lane[0];
}

template <typename T>
struct Activation {
  T delta, inv_delta, inv_4delta, inv_2delta;
  explicit Activation(double d) : delta(T(d)), inv_delta(T(1 / d)), inv_4delta(T(0.25 / d)), inv_2delta(T(0.5 / d)) {}
  FR_INLINE Vec<T> operator()(Vec<T> t) const {  // a(t); NaN stays NaN
    const Vec<T> d = splat(delta), zero{};
    const Vec<T> u = (-d > t ? -d : (d < t ? d : t)) + d, over = t - d;
    return u * u * inv_4delta + (zero > over ? zero : over);
  }
  FR_INLINE Vec<T> slope(Vec<T> h) const {  // a'(t) from h = a(t)
    const Vec<T> q = h * inv_delta, one = splat(T(1));
    return root(one < q ? one : q);
  }
  FR_INLINE Vec<T> curvature(Vec<T> h) const {  // a''(t) from h = a(t); any one-sided value where it jumps
    const Vec<T> zero{};
    return (h > zero && h < splat(delta)) ? splat(inv_2delta) : zero;
  }
};

// ---------------------------------------------------------------- memory
// 64-byte aligned memory of one thread, kept between calls.
class Scratch {
 public:
  ~Scratch() { std::free(block_); }
  void reserve(size_t bytes) {
    used_ = 0;
    if (bytes <= size_) return;
    std::free(block_);
    size_ = (bytes + 4095) / 4096 * 4096;
    block_ = static_cast<char*>(std::aligned_alloc(4096, size_));
    if (!block_) std::abort();
  }
  template <typename T>
  T* take(int64_t count) {
    T* p = reinterpret_cast<T*>(block_ + used_);
    used_ += padded<T>(count);
    return p;
  }
  template <typename T>
  static size_t padded(int64_t count) {  // an odd number of cache lines: planes do not collide in the cache
    return (size_t(count) * sizeof(T) + 63) / 64 * 64 + 64;
  }

 private:
  char* block_ = nullptr;
  size_t size_ = 0, used_ = 0;
};
thread_local Scratch scratch;

// Rows lo <= r < hi of one layer, channels-last, one zero pixel on the left and enough on the right; `ring` rows are kept.
template <typename T>
struct Rows {
  T* data = nullptr;
  const T* zero = nullptr;  // a row of zeros
  int64_t stride = 0;
  int ring = 1, lo = 0, hi = 0;
  T* at(int r) const { return data + (r % ring) * stride; }                            // pixel -1 of row r
  const T* in(int r) const { return r < lo || r >= hi ? zero : at(r); }               // zeros outside
};

struct Shape {
  int Cin, H, W, C, Cp, L, tiles;  // Cp: C rounded up to whole vectors; tiles: 4x4 tiles a row
  int64_t pixels() const { return 4 * int64_t(tiles) + 2; }
  int64_t stride() const { return pixels() * Cp; }
};

// ---------------------------------------------------------------- weights
// Packed for the products: first [9 Cin, Cp], last [Cp, taps], U[l] and Ut[l] [36, Cp, Cp] of layers l = 1 .. L - 1.
template <typename T>
struct Weights {
  T *first, *last, *U[kMaxLayers], *Ut[kMaxLayers];
  int taps;  // 9 Cin rounded up to whole vectors
};

int round_up(int n, int to) { return (n + to - 1) / to * to; }

template <typename T>
int64_t packed_size(const Shape& s) {
  return int64_t(9) * s.Cin * s.Cp + s.Cp * round_up(9 * s.Cin, kLanes<T>) + 2 * int64_t(s.L - 1) * kPoints * s.Cp * s.Cp;
}

template <typename T>
Weights<T> pack(const Shape& s, const T* w, T* memory) {
  Weights<T> p;
  p.taps = round_up(9 * s.Cin, kLanes<T>);
  p.first = memory;
  p.last = p.first + int64_t(9) * s.Cin * s.Cp;
  T* next = p.last + int64_t(s.Cp) * p.taps;
  for (int64_t i = 0; i < next - memory; ++i) memory[i] = 0;
  for (int c = 0; c < s.C; ++c)
    for (int k = 0; k < 9 * s.Cin; ++k) p.first[k * s.Cp + c] = p.last[c * p.taps + k] = w[c * 9 * s.Cin + k];
  const int64_t size = int64_t(kPoints) * s.Cp * s.Cp;
  for (int l = 1; l < s.L; ++l, next += 2 * size) p.U[l] = next, p.Ut[l] = next + size;
#pragma omp parallel for schedule(static) if (s.L > 2)
  for (int job = 0; job < 2 * (s.L - 1); ++job) {
    const int l = 1 + job / 2;
    const bool transposed = job % 2;
    const T* kernel = w + int64_t(9) * s.C * s.Cin + (l - 1) * int64_t(9) * s.C * s.C;
    T* taps = static_cast<T*>(std::malloc(sizeof(T) * 9 * s.Cp * s.Cp));
    if (!taps) std::abort();
    for (int k = 0; k < s.Cp; ++k)
      for (int n = 0; n < s.Cp; ++n)
        for (int i = 0; i < 9; ++i)
          taps[(k * s.Cp + n) * 9 + i] =
              k >= s.C || n >= s.C ? T(0) : transposed ? kernel[(int64_t(k) * s.C + n) * 9 + i] : kernel[(int64_t(n) * s.C + k) * 9 + i];
    kernels_to_points(taps, transposed, s.Cp, s.Cp, transposed ? p.Ut[l] : p.U[l]);
    std::free(taps);
  }
  return p;
}

// ---------------------------------------------------------------- one band
// kTangent: every layer carries a second array, the tangent along G on the way up and s (see the definition) on the way down.
template <typename T, int kC, bool kTangent>
class Band {
  static constexpr int kArrays = kTangent ? 2 : 1;

 public:
  Band(const Shape& shape, const Weights<T>& weights, double delta, bool final_activation, int r0, int r1)
      : s(shape), w(weights), act(delta), final_(final_activation), r0_(r0), r1_(r1) {
    step_ = 4 * ((kMinTiles + s.tiles - 1) / s.tiles);
    for (int a = 0; a < kArrays; ++a)
      for (int l = 1; l <= s.L; ++l) {
        Rows<T>& h = h_[a][l];
        h.lo = larger(0, r0 - (2 * s.L - l)), h.hi = smaller(s.H, r1 + (2 * s.L - l));
        h.ring = smaller(round_up(h.hi - h.lo, 4), step_ * (2 * s.L - 2 * l + 3) + 4);
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

  // The stages in order: h_1 .. h_L, then z_{L-1} .. z_1 and the gradient. `grad` gets rows r0 <= r < r1.
  struct Output {
    T* grad;               // [Cin, H, W] of this image: the gradient, or d_x
    T* d_weights;          // kTangent: sums over points [L - 1, 36, Cp, Cp] and over taps of layer 1 [9 Cin, Cp]
    double value;          // sum over the rows of this band: the value, or d_eps
  };

  void run(const T* x, const T* direction, T eps, T d_value, Output& out) {
    eps_ = eps, d_value_ = d_value, out_ = &out, out.value = 0;
    read(x, x_[0]);
    if (kTangent) read(direction, x_[1]);
    for (int k = 0; k < s.Cin; ++k)
      for (int r = r0_; r < r1_; ++r) fill(out.grad + (int64_t(k) * s.H + r) * s.W, s.W);
    const int stages = 2 * s.L;
    int done[2 * kMaxLayers];
    for (int i = 0; i < stages; ++i) done[i] = range(i).lo;
    while (done[stages - 1] < range(stages - 1).hi) {
      bool progress = false;
      for (int i = 0; i < stages; ++i) {
        const Range rows = range(i);
        const int begin = done[i], end = smaller(rows.hi, begin + step_);
        if (begin >= rows.hi) continue;
        if (i > 0 && done[i - 1] < smaller(range(i - 1).hi, end + 1)) continue;  // a row below is needed
        if (i < s.L && end > oldest(i, done) + h_[0][i + 1].ring) continue;      // would overwrite rows still in use
        stage(i, begin, end);
        done[i] = end;
        progress = true;
      }
      if (!progress) std::abort();  // a ring too small: a mistake in the sizes above
    }
  }

 private:
  struct Range {
    int lo, hi;
  };
  int c() const { return kC ? kC : s.Cp; }
  int64_t plane() const { return int64_t(kArrays * kGroup + 1) * c(); }  // + 1: planes do not collide in the cache
  int64_t input_size() const { return int64_t(s.Cin) * (h_[0][1].hi - h_[0][1].lo + 2) * (s.W + 2); }
  Range halo(int rows) const { return {larger(0, r0_ - rows), smaller(s.H, r1_ + rows)}; }
  Range range(int stage) const { return halo(2 * s.L - 1 - stage); }
  // The first row of h_{stage + 1} that a later stage still reads.
  int oldest(int stage, const int* done) const {
    const int last_reader = 2 * s.L - 1 - stage;  // the stage that convolves z_{stage + 1}
    return larger(h_[0][stage + 1].lo, done[last_reader] - 1);
  }
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
    for (int a = 0; a < kArrays; ++a) source[a] = view(a, from, range(i - 1));
    const int tiles = s.tiles * ((end - begin + kTileOut - 1) / kTileOut);
    for (int g = 0; g < tiles; g += kGroup) {
      const int n = smaller(kGroup, tiles - g);
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
    for (int a = 0; a < kArrays; ++a) inputs_to_points(source[a], begin, g, n, V_ + a * n * c());
    for (int p = 0; p < kPoints; ++p)
      multiply<false, false, kC, kC>(kArrays * n, c(), c(), V_ + p * plane(), c(), U + int64_t(p) * c() * c(), M_ + p * plane());
    stride_ = n;
  }
  void inputs_to_points(const Rows<T>& source, int begin, int g, int n, T* V) {
    for (int t = 0; t < n;) {
      const int y = begin + (g + t) / s.tiles * kTileOut, first = (g + t) % s.tiles;
      const T* row[kTileIn];
      for (int i = 0; i < kTileIn; ++i) row[i] = source.in(y - 1 + i);
      for (int x = first; x < s.tiles && t < n; ++x, ++t) {
        const T* rows[kTileIn];
        for (int i = 0; i < kTileIn; ++i) rows[i] = row[i] + x * int64_t(kTileOut) * c();
        tile_to_points(rows, c(), V + t * c(), plane());
      }
    }
  }
  const T* result(int array, int t) const { return M_ + (array * stride_ + t) * int64_t(c()); }

  void activate(int t, int y, int x, int rows, int columns, int l) {
    T* to[kTileOut];
    for (int i = 0; i < rows; ++i) to[i] = h_[0][l].at(y + i) + (x + 1) * int64_t(c());
    points_to_tile(result(0, t), plane(), c(), [&](int i, int j, int k, Vec<T> v) {
      if (i < rows && j < columns) store(to[i] + j * c() + k, act(v));
    });
    if constexpr (kTangent) {
      T* tangent[kTileOut];
      for (int i = 0; i < rows; ++i) tangent[i] = h_[1][l].at(y + i) + (x + 1) * int64_t(c());
      points_to_tile(result(1, t), plane(), c(), [&](int i, int j, int k, Vec<T> v) {
        if (i < rows && j < columns) store(tangent[i] + j * c() + k, act.slope(load(to[i] + j * c() + k)) * v);
      });
    }
  }

  void down(int t, int y, int x, int rows, int columns, int l) {
    T *to[kTileOut], *tangent[kTileOut];
    for (int a = 0; a < kArrays; ++a)
      for (int i = 0; i < rows; ++i) (a ? tangent : to)[i] = h_[a][l].at(y + i) + (x + 1) * int64_t(c());
    if constexpr (!kTangent) {
      points_to_tile(result(0, t), plane(), c(), [&](int i, int j, int k, Vec<T> q) {
        if (i < rows && j < columns) {
          T* h = to[i] + j * c() + k;
          store(h, act.slope(load(h)) * q);
        }
      });
    } else {
      alignas(64) T q[16 * kMaxWidth];
      points_to_tile(result(0, t), plane(), c(), [&](int i, int j, int k, Vec<T> v) { store(q + (i * 4 + j) * c() + k, v); });
      points_to_tile(result(1, t), plane(), c(), [&](int i, int j, int k, Vec<T> r) {
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
      points_to_tile(result(a, t), plane(), c(), [&](int i, int j, int k, Vec<T> v) {
        store(g[a] + (i * 4 + j) * c() + k, final_ && a == 0 ? act(v) : v);
      });
    for (int p = 0; p < 16 && s.C < c(); ++p)
      for (int k = s.C; k < c(); ++k) g[0][p * c() + k] = 0;  // a(0) > 0: channels that only fill the vectors count nothing
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
    for (int p = 0; p < 16; ++p) {
      const bool large = square[p] > e2;
      const T n = std::sqrt(larger(e2, square[p]));
      inverse[p] = 1 / n;
      if (kTangent) {
        factor[p] = large ? v - along[p] / square[p] : v;
        term[p] = large ? -v / 2 : -(v * square[p] / 2 + along[p]) / e2;
      } else {
        term[p] = large ? n - e / 2 : square[p] / (2 * e);
      }
    }
    for (int i = 0; i < rows; ++i) {
      const bool owned = y + i >= r0_ && y + i < r1_;
      const int64_t at = (x + 1) * int64_t(c());
      T *to = h_[0][s.L].at(y + i) + at, *tangent = h_[kArrays - 1][s.L].at(y + i) + at;
      for (int j = 0; j < columns; ++j) {
        const int p = i * 4 + j;
        if (owned) out_->value += term[p];
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
    const int tiles = s.tiles * ((end - begin + kTileOut - 1) / kTileOut);
    for (int g = 0; g < tiles; g += kGroup) {
      const int n = smaller(kGroup, tiles - g);
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
      for (int a = 0; a < kArrays; ++a) {
        const T* source = x_[a] + (r - h_[0][1].lo) * width;
        const T* cotangent = h_[1 - a][1].at(r) + c();
        const auto at = [&](int i, int k) { return source[i / 9 * image + i % 9 / 3 * width + i % 3 + k]; };
        split_rows(9 * s.Cin, [&](int begin_tap, int m) {
          int n = 0;
          const auto shifted = [&](int i, int k) { return at(begin_tap + i, k); };
          const auto emit = [&](int i, int j, Vec<T> v) {
            T* to = sums + (begin_tap + i) * c() + n + j * kLanes<T>;
            store(to, load(to) + v);
          };
          for (; n + 2 * kLanes<T> <= c(); n += 2 * kLanes<T>) product_rows<2>(m, s.W, cotangent + n, c(), shifted, emit);
          if (n < c()) product_rows<1>(m, s.W, cotangent + n, c(), shifted, emit);
        });
      }
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
    const int64_t width = s.W + 2, image = (h_[0][1].hi - h_[0][1].lo + 2) * width;
    int64_t offset[18];
    for (int k = 0; k < 9 * s.Cin; ++k) offset[k] = k / 9 * image + k % 9 / 3 * width + k % 3;
    for (int r = begin; r < end; ++r)
      for (int a = 0; a < kArrays; ++a) {
        const T* source = x_[a] + (r - h_[0][1].lo) * width;
        T* to = h_[a][1].at(r) + c();
        const T* slope_of = h_[0][1].at(r) + c();
        split_rows(s.W, [&](int m0, int m) {
          const auto at = [&](int i, int k) { return source[offset[k] + m0 + i]; };
          int n = 0;
          const auto emit = [&](int i, int j, Vec<T> v) {
            const int64_t p = int64_t(m0 + i) * c() + n + j * kLanes<T>;
            store(to + p, a == 0 ? act(v) : act.slope(load(slope_of + p)) * v);
          };
          for (; n + 2 * kLanes<T> <= c(); n += 2 * kLanes<T>) product_rows<2>(m, 9 * s.Cin, w.first + n, c(), at, emit);
          if (n < c()) product_rows<1>(m, 9 * s.Cin, w.first + n, c(), at, emit);
        });
      }
  }

  // grad = w_1^T z_1: each row of z_1 times all taps at once, then added where the taps point.
  void last(int begin, int end) {
    const Range valid = range(2 * s.L - 2);
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
  const bool final_;
  const int r0_, r1_;
  int step_, stride_ = 0;
  Rows<T> h_[kArrays][kMaxLayers + 1];
  T *x_[kArrays], *V_, *M_, *P_;
  T eps_ = 0, d_value_ = 0;
  Output* out_ = nullptr;
};

int threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

// Bands depend on the image and the threads, never on the batch: image i has the same bits in any batch.
int count_bands(int H) {
  if (H < kSmallImage) return 1;
  return smaller(threads(), (H + 31) / 32);
}

// The workers' sums, added in their order, as gradients of the weights.
template <typename T>
void collect(const Shape& s, const T* sums, int64_t size, int workers, T* d_weights) {
  const int64_t points = int64_t(kPoints) * s.Cp * s.Cp;
  const T* first = sums + (s.L - 1) * points;
  for (int c = 0; c < s.C; ++c)
    for (int k = 0; k < 9 * s.Cin; ++k) {
      double sum = 0;
      for (int i = 0; i < workers; ++i) sum += first[i * size + k * s.Cp + c];
      d_weights[c * 9 * s.Cin + k] = T(sum);
    }
  T* to = d_weights + int64_t(9) * s.C * s.Cin;
#pragma omp parallel for schedule(static) collapse(2)
  for (int l = 0; l < s.L - 1; ++l)
    for (int ci = 0; ci < s.C; ++ci)
      for (int co = 0; co < s.C; ++co) {
        double D[kPoints], taps[9];
        for (int p = 0; p < kPoints; ++p) {
          D[p] = 0;
          for (int i = 0; i < workers; ++i) D[p] += sums[i * size + l * points + (int64_t(p) * s.Cp + ci) * s.Cp + co];
        }
        points_to_kernel(D, taps);
        for (int i = 0; i < 9; ++i) to[((int64_t(l) * s.C + co) * s.C + ci) * 9 + i] = T(taps[i]);
      }
}

// Memory of one call.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count) : data_(static_cast<T*>(std::aligned_alloc(64, (sizeof(T) * count + 127) / 64 * 64))) {
    if (!data_) std::abort();
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }
  T* get() const { return data_; }

 private:
  T* data_;
};

template <typename T>
struct Arguments {
  const T *x, *weights, *eps, *d_value, *d_grad;  // the last two only of the derivative
  T *value, *grad, *d_weights;                    // or d_eps, d_x
  int64_t B;
  Shape s;
  double delta;
  bool final_activation;
};

template <int kC, bool kTangent, typename T>
void run(const Arguments<T>& a) {
  const Shape& s = a.s;
  using Worker = Band<T, kC, kTangent>;
  Buffer<T> packed(packed_size<T>(s));
  const Weights<T> w = pack(s, a.weights, packed.get());
  const int bands = count_bands(s.H);
  const int64_t image = int64_t(s.Cin) * s.H * s.W, tasks = a.B * bands;
  const int64_t points = int64_t(kPoints) * s.Cp * s.Cp, sums = kTangent ? (s.L - 1) * points + 9 * s.Cin * s.Cp : 0;
  Buffer<double> partial(tasks);
  const int workers = kTangent ? int(smaller(int64_t(threads()), tasks)) : 0;
  Buffer<T> d_points(workers * sums);
  const auto task = [&](int64_t i, T* d_weights) {
    const int64_t b = i / bands, band = i % bands;
    Worker worker(s, w, a.delta, a.final_activation, int(s.H * band / bands), int(s.H * (band + 1) / bands));
    scratch.reserve(worker.bytes());
    worker.allocate(scratch);
    typename Worker::Output out{a.grad + b * image, d_weights, 0};
    worker.run(a.x + b * image, kTangent ? a.d_grad + b * image : nullptr, a.eps[b], kTangent ? a.d_value[b] : T(0), out);
    partial.get()[i] = out.value;
  };
  if constexpr (kTangent) {
#pragma omp parallel for schedule(static, 1) num_threads(workers)  // tasks to workers by number: the same sums on every run
    for (int k = 0; k < workers; ++k) {
      T* mine = d_points.get() + k * sums;
      for (int64_t i = 0; i < sums; ++i) mine[i] = 0;
      for (int64_t i = tasks * k / workers; i < tasks * (k + 1) / workers; ++i) task(i, mine);
    }
    collect(s, d_points.get(), sums, workers, a.d_weights);
  } else {
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < tasks; ++i) task(i, nullptr);
  }
  for (int64_t b = 0; b < a.B; ++b) {
    double sum = 0;
    for (int i = 0; i < bands; ++i) sum += partial.get()[b * bands + i];
    a.value[b] = T(sum);
  }
}

template <typename T>
void dispatch(const Arguments<T>& a, bool tangent) {
  if constexpr (sizeof(T) == 4)
    if (a.s.C == 32) return tangent ? run<32, true>(a) : run<32, false>(a);
  return tangent ? run<0, true>(a) : run<0, false>(a);
}

template <typename T>
Shape shape(int64_t Cin, int64_t H, int64_t W, int64_t C, int64_t L) {
  return {int(Cin), int(H), int(W), int(C), round_up(int(C), kLanes<T>), int(L), int((W + 3) / 4)};
}

template <typename T>
T* as(Address a) {
  return reinterpret_cast<T*>(a);
}

template <typename T>
void fwd(Address x, Address weights, Address eps, Address value, Address grad, int64_t B, const Shape& s, double delta, bool final_activation) {
  dispatch<T>({as<const T>(x), as<const T>(weights), as<const T>(eps), nullptr, nullptr, as<T>(value), as<T>(grad), nullptr, B, s, delta,
               final_activation}, false);
}

template <typename T>
void vjp(Address d_value, Address d_grad, Address x, Address weights, Address eps, Address d_x, Address d_weights, Address d_eps, int64_t B,
         const Shape& s, double delta, bool final_activation) {
  dispatch<T>({as<const T>(x), as<const T>(weights), as<const T>(eps), as<const T>(d_value), as<const T>(d_grad), as<T>(d_eps), as<T>(d_x),
               as<T>(d_weights), B, s, delta, final_activation}, true);
}
}  // namespace

void feature_gradient_fwd(int dtype, Address x, Address weights, Address eps, Address value, Address grad, int64_t B, int64_t Cin,
                          int64_t H, int64_t W, int64_t C, int64_t L, double delta, bool final_activation) {
  if (dtype == kFloat32) fwd<float>(x, weights, eps, value, grad, B, shape<float>(Cin, H, W, C, L), delta, final_activation);
  else fwd<double>(x, weights, eps, value, grad, B, shape<double>(Cin, H, W, C, L), delta, final_activation);
}

void feature_gradient_vjp(int dtype, Address d_value, Address d_grad, Address x, Address weights, Address eps, Address d_x,
                          Address d_weights, Address d_eps, int64_t B, int64_t Cin, int64_t H, int64_t W, int64_t C, int64_t L,
                          double delta, bool final_activation) {
  if (dtype == kFloat32)
    vjp<float>(d_value, d_grad, x, weights, eps, d_x, d_weights, d_eps, B, shape<float>(Cin, H, W, C, L), delta, final_activation);
  else
    vjp<double>(d_value, d_grad, x, weights, eps, d_x, d_weights, d_eps, B, shape<double>(Cin, H, W, C, L), delta, final_activation);
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
