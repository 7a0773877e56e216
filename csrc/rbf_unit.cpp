// rbf_unit.cpp: convolution, radial functions, convolution, in one pass over bands of rows, and the derivative (CPU).
// Definition: fastrecon/ops/rbf_unit.py
//   x, d_x [B, C, H + 2 (K - 1), W + 2 (K - 1)]   y, d_y [B, C, H, W]   filters, back and their derivatives [F, C, K,
//   K] table [F, N, 8]  cubics of N intervals around 0, half of them on each side, `rate` of them in a unit:
//                    phi = t0 + t1 u + t2 u^2 + t3 u^3 for u in [0, 1] of an interval, and then phi' in the same way
//   d_table [F, N, 4] double: the sums of d_z u^k over the pixels of each interval
// t = filters * x, z = phi(t), y = back * z, all correlations without padding. Maps t and z exist for a band of rows
// and one filter at a time. Sums over pixels are of parts whose number depends on sizes alone.
#include "tiles.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;
using V = Vec<float>;
constexpr int kWide = kLanes<float>;
constexpr int64_t kBand = 32;   // rows that a task owns
constexpr int64_t kParts = 16;  // of sums over pixels: each has a table of its own
constexpr int kRows = 4;        // that share what they load

struct Sizes {
  int64_t B, C, H, W, F, N;  // H, W: of y
  float rate;
};

// A band of planes in memory of our own: vectors may read and write beyond the columns that count.
struct Planes {
  float* p;
  int64_t rows, stride;
  FR_INLINE float* at(int64_t plane, int64_t row) const { return p + (plane * rows + row) * stride; }
};
FR_INLINE int64_t stride_for(int64_t columns) { return tiles_of(columns, 16) * 16 + 32; }

FR_INLINE Planes take(Scratch& memory, int64_t planes, int64_t rows, int64_t stride) {
  float* const p = memory.take<float>(planes * rows * stride + 16);
  for (int64_t i = 0; i < planes * rows * stride + 16; ++i) p[i] = 0;
  return {p, rows, stride};
}

// Rows first <= r < first + to.rows of an image [C, H, W], 0 outside it, from column `left` of `to` on.
FR_INLINE void fill(const float* image, int64_t C, int64_t H, int64_t W, int64_t first, int64_t left,
                    const Planes& to) {
  for (int64_t c = 0; c < C; ++c)
    for (int64_t r = at_least(int64_t(0), -first); r < at_most(to.rows, H - first); ++r)
      std::memcpy(to.at(c, r) + left, image + (c * H + first + r) * W, W * sizeof(float));
}

// to[row] (+)= the correlation of rows row .. row + K - 1 of `from` with K x K taps, `n` rows of at least W columns.
template <int K, int kTogether>
FR_INLINE void correlate_rows(const float* from, int64_t stride, const V* taps, float* to, int64_t to_stride, int64_t W,
                              bool add) {
  for (int64_t c = 0; c < W; c += kWide) {
    V sum[kTogether];
    for (int r = 0; r < kTogether; ++r) sum[r] = add ? load(to + r * to_stride + c) : V{};
#pragma GCC unroll 16
    for (int i = 0; i < K + kTogether - 1; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < K; ++j) {
        const V x = load(from + i * stride + c + j);
#pragma GCC unroll 4
        for (int r = 0; r < kTogether; ++r)
          if (i - r >= 0 && i - r < K) sum[r] += taps[(i - r) * K + j] * x;
      }
    for (int r = 0; r < kTogether; ++r) store(to + r * to_stride + c, sum[r]);
  }
}

template <int K>
FR_INLINE void correlate(const float* from, int64_t stride, const float* taps, bool flipped, float* to,
                         int64_t to_stride, int64_t n, int64_t W, bool add) {
  V own[K * K];
  for (int k = 0; k < K * K; ++k) own[k] = splat(taps[flipped ? K * K - 1 - k : k]);
  int64_t r = 0;
  for (; r + kRows <= n; r += kRows)
    correlate_rows<K, kRows>(from + r * stride, stride, own, to + r * to_stride, to_stride, W, add);
  for (; r < n; ++r) correlate_rows<K, 1>(from + r * stride, stride, own, to + r * to_stride, to_stride, W, add);
}

// sums[i, j] += sum over n rows of W columns of a[r, c] b[r + i, c + j], backwards in b if flipped.
template <int K>
FR_INLINE void products(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t n, int64_t W,
                        bool flipped, double* sums) {
  for (int i = 0; i < K; ++i) {
    V total[K] = {};
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < W; c += kWide) {
        const V x = load(a + r * a_stride + c);
#pragma GCC unroll 8
        for (int j = 0; j < K; ++j) total[j] += x * load(b + (r + i) * b_stride + c + j);
      }
    for (int j = 0; j < K; ++j) {
      double sum = 0;
      for (int k = 0; k < kWide; ++k) sum += total[j][k];
      sums[flipped ? K * K - 1 - (i * K + j) : i * K + j] += sum;
    }
  }
}

// Where n <= kTile numbers lie: the entry of the table, and u there, to the digits that a number next to 0 has. NaN
// stays in u.
FR_INLINE void locate(const float* t, int64_t n, const Sizes& s, int* entry, float* u) {
  const int half = int(s.N / 2), most = int(s.N) - 1;
  const float rate = s.rate, end = float(half);
  for (int64_t i = 0; i < n; ++i) {
    const float x = at_most(end, at_least(-end, t[i] * rate));
    const float known = x >= -end ? x : -end;
    const int k = int(known + end), own = k < most ? k : most;
    entry[i] = own;
    u[i] = x - float(own - half);
  }
}

FR_INLINE void cubic(const float* table, const int* entry, const float* u, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const float* const t = table + 8 * entry[i];
    out[i] = t[0] + u[i] * (t[1] + u[i] * (t[2] + u[i] * t[3]));
  }
}

template <int K>
FR_INLINE void fwd(const float* x, const float* filters, const float* back, const float* table, float* y,
                   const Sizes& s) {
  constexpr int64_t P = K - 1;
  const int64_t C = s.C, H = s.H, W = s.W, bands = tiles_of(H, kBand), Wt = W + P, HX = H + 2 * P, WX = W + 2 * P;
  parallel(s.B * bands, s.B * C * s.F * H * W * K, [&](int64_t task) {
    const int64_t b = task / bands, first = task % bands * kBand, n = at_most(kBand, H - first);
    Scratch memory;
    const Planes source = take(memory, C, n + 2 * P, stride_for(WX));
    const Planes z = take(memory, 1, n + P, stride_for(WX)), sum = take(memory, C, n, stride_for(WX));
    fill(x + b * C * HX * WX, C, HX, WX, first, 0, source);
    int entry[kTile];
    float u[kTile];
    for (int64_t f = 0; f < s.F; ++f) {
      for (int64_t c = 0; c < C; ++c)
        correlate<K>(source.at(c, 0), source.stride, filters + (f * C + c) * K * K, false, z.p, z.stride, n + P, Wt,
                     c > 0);
      for (int64_t r = 0; r < n + P; ++r)
        for (int64_t i = 0; i < Wt; i += kTile) {
          const int64_t some = at_most(int64_t(kTile), Wt - i);
          float* const row = z.at(0, r) + i;
          locate(row, some, s, entry, u);
          cubic(table + f * s.N * 8, entry, u, some, row);
        }
      for (int64_t c = 0; c < C; ++c)
        correlate<K>(z.p, z.stride, back + (f * C + c) * K * K, false, sum.at(c, 0), sum.stride, n, W, true);
    }
    for (int64_t c = 0; c < C; ++c)
      for (int64_t r = 0; r < n; ++r)
        std::memcpy(y + ((b * C + c) * H + first + r) * W, sum.at(c, r), W * sizeof(float));
  });
}

// What a part adds up.
struct Sums {
  double *filters, *back, *table;  // [F, C, K, K] twice, [F, N, 4]
};

// Rows first <= r < first + n of d_x, and the shares that their rows of t have in the other derivatives. Rows and
// columns outside the maps need no care: there all of d_y that they see is 0.
template <int K>
FR_INLINE void vjp_band(const float* d_y, const float* x, const float* filters, const float* back, const float* table,
                        float* d_x, const Sizes& s, int64_t first, int64_t n, const Sums& sums) {
  constexpr int64_t P = K - 1;
  const int64_t C = s.C, H = s.H, W = s.W, Wt = W + P, HX = H + 2 * P, WX = W + 2 * P, stride = stride_for(WX + P);
  Scratch memory;
  const Planes source = take(memory, C, n + 2 * P, stride), from = take(memory, C, n + 2 * P, stride);
  const Planes z = take(memory, 1, n + P, stride), slope = take(memory, 1, n + P, stride);
  const Planes d_t = take(memory, 1, n + P, stride), sum = take(memory, C, n, stride);
  fill(x, C, HX, WX, first - P, 0, source);
  fill(d_y, C, H, W, first - 2 * P, P, from);
  int entry[kTile];
  float u[kTile];
  for (int64_t f = 0; f < s.F; ++f) {
    const float* const own = table + f * s.N * 8;
    double* const bins = sums.table + f * s.N * 4;
    for (int64_t c = 0; c < C; ++c) {
      correlate<K>(source.at(c, 0), stride, filters + (f * C + c) * K * K, false, z.p, stride, n + P, Wt, c > 0);
      correlate<K>(from.at(c, 0), stride, back + (f * C + c) * K * K, true, d_t.p + P, stride, n + P, Wt, c > 0);
    }
    for (int64_t r = 0; r < n + P; ++r)
      for (int64_t i = 0; i < Wt; i += kTile) {
        const int64_t some = at_most(int64_t(kTile), Wt - i);
        float *const row = z.at(0, r) + i, *const d = d_t.at(0, r) + P + i, *const rise = slope.at(0, r) + i;
        locate(row, some, s, entry, u);
        cubic(own, entry, u, some, row);
        cubic(own + 4, entry, u, some, rise);
        if (r >= P)
          for (int64_t k = 0; k < some; ++k) {
            double* const bin = bins + 4 * entry[k];
            const double v = u[k], d0 = d[k], d1 = d0 * v, d2 = d1 * v, d3 = d2 * v;
            bin[0] += d0, bin[1] += d1, bin[2] += d2, bin[3] += d3;
          }
        for (int64_t k = 0; k < some; ++k) d[k] *= rise[k];
      }
    for (int64_t c = 0; c < C; ++c) {
      double *const of_filter = sums.filters + (f * C + c) * K * K, *const of_back = sums.back + (f * C + c) * K * K;
      const float* const taps = filters + (f * C + c) * K * K;
      products<K>(d_t.at(0, P) + P, stride, source.at(c, P), stride, n, Wt, false, of_filter);
      products<K>(z.at(0, P), stride, from.at(c, P), stride, n, Wt, true, of_back);
      correlate<K>(d_t.p, stride, taps, true, sum.at(c, 0), stride, n, WX, true);
    }
  }
  for (int64_t c = 0; c < C; ++c)
    for (int64_t r = 0; r < n; ++r) std::memcpy(d_x + (c * HX + first + r) * WX, sum.at(c, r), WX * sizeof(float));
}

template <int K>
FR_INLINE void vjp(const float* d_y, const float* x, const float* filters, const float* back, const float* table,
                   float* d_x, float* d_filters, float* d_back, double* d_table, const Sizes& s) {
  constexpr int64_t P = K - 1;
  const int64_t HX = s.H + 2 * P, WX = s.W + 2 * P, bands = tiles_of(HX, kBand), tasks = s.B * bands;
  const int64_t parts = at_most(tasks, kParts), taps = s.F * s.C * K * K, entries = s.F * s.N * 4;
  Scratch memory;
  double* const sums = memory.take<double>(parts * (2 * taps + entries));
  parallel(parts, 4 * s.B * s.C * s.F * HX * WX * K, [&](int64_t part) {
    double* const own = sums + part * (2 * taps + entries);
    for (int64_t i = 0; i < 2 * taps + entries; ++i) own[i] = 0;
    for (int64_t task = part * tasks / parts; task < (part + 1) * tasks / parts; ++task) {
      const int64_t b = task / bands, first = task % bands * kBand;
      vjp_band<K>(d_y + b * s.C * s.H * s.W, x + b * s.C * HX * WX, filters, back, table, d_x + b * s.C * HX * WX, s,
                  first, at_most(kBand, HX - first), {own, own + taps, own + 2 * taps});
    }
  });
  for (int64_t part = 1; part < parts; ++part)
    for (int64_t i = 0; i < 2 * taps + entries; ++i) sums[i] += sums[part * (2 * taps + entries) + i];
  for (int64_t i = 0; i < taps; ++i) d_filters[i] = float(sums[i]), d_back[i] = float(sums[taps + i]);
  for (int64_t i = 0; i < entries; ++i) d_table[i] = sums[2 * taps + i];
}

template <int kSide>
struct Side {
  static constexpr int side = kSide;
};

template <typename F>
FR_INLINE void by_side(int64_t K, const F& kernel) {
  if (K == 3) return kernel(Side<3>());
  if (K == 5) return kernel(Side<5>());
  if (K == 7) return kernel(Side<7>());
  throw std::invalid_argument("K: expected 3, 5 or 7");
}
}  // namespace

void rbf_unit_fwd(int dtype, Address x, Address filters, Address back, Address table, Address y, int64_t B, int64_t C,
                  int64_t H, int64_t W, int64_t F, int64_t K, int64_t N, double rate) {
  if (dtype != kFloat32) throw std::invalid_argument("dtype: expected that of float32");
  const Sizes s{B, C, H, W, F, N, float(rate)};
  by_side(K, [&](auto type) {
    fwd<type.side>(as<const float>(x), as<const float>(filters), as<const float>(back), as<const float>(table),
                   as<float>(y), s);
  });
}

void rbf_unit_vjp(int dtype, Address d_y, Address x, Address filters, Address back, Address table, Address d_x,
                  Address d_filters, Address d_back, Address d_table, int64_t B, int64_t C, int64_t H, int64_t W,
                  int64_t F, int64_t K, int64_t N, double rate) {
  if (dtype != kFloat32) throw std::invalid_argument("dtype: expected that of float32");
  const Sizes s{B, C, H, W, F, N, float(rate)};
  by_side(K, [&](auto type) {
    vjp<type.side>(as<const float>(d_y), as<const float>(x), as<const float>(filters), as<const float>(back),
                   as<const float>(table), as<float>(d_x), as<float>(d_filters), as<float>(d_back), as<double>(d_table),
                   s);
  });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
