// winograd.h: the arithmetic of 3x3 convolutions on channels-last data: products of tiles with weights, and Winograd's
// F(4x4, 3x3) transforms around them (Lavin & Gray, arXiv:1509.09308).
//
// Interpolation points 0, +-5/8, +-3/2, infinity: their products are exact in float32 and the error is about half that
// of 0, +-1, +-2, infinity (Barabasz et al., arXiv:1803.10986, choose points for the same reason).
#pragma once
#include "half.h"
#include "product.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {

constexpr int kTileOut = 4;                 // a tile's outputs are 4x4
constexpr int kTileIn = 6;                  // of 6x6 inputs
constexpr int kPoints = kTileIn * kTileIn;  // products a tile and channel pair
constexpr double kA = 0.625, kB = 1.5;      // the finite points besides 0

// C[m, n] (+)= sum_k A[m, k] B[k, n] for n < N, a multiple of the lanes. B and C have rows of N. A has rows of lda, or
// columns of lda if kTransposed. kN and kLda are N and lda where the compiler may know them, else 0.
template <bool kAdd, bool kTransposed, int kN, int kLda, typename T>
__attribute__((noinline)) void multiply(int M, int N, int K, const T* A, int lda, const T* B, T* C) {
  constexpr int L = kLanes<T>;
  const std::int64_t ld = kLda ? kLda : lda, width = kN ? kN : N;
  split_rows(M, [&](int begin, int m) {
    const T* a = A + begin * (kTransposed ? 1 : ld);
    const auto at = [a, ld](int i, int k) { return kTransposed ? a[k * ld + i] : a[i * ld + k]; };
    int n = 0;
    const auto emit = [&](int i, int j, Vec<T> v) {
      T* c = C + (begin + i) * width + n + j * L;
      store(c, kAdd ? load(c) + v : v);
    };
    for (; n + 2 * L <= width; n += 2 * L) product_rows<2>(m, K, B + n, width, at, emit);
    if (n < width) product_rows<1>(m, K, B + n, width, at, emit);
  });
}

// As above with bfloat16 products and float32 sums, B [K / 2, N, 2]; only where the processor has them.
template <int kN, int kLda>
void multiply_half(int M, int N, int K, const Half* A, int lda, const Half* B, float* C);

#if defined(__AVX512BF16__)
// bfloat16 products with float32 sums: B holds pairs of rows side by side, [K / 2, N, 2], and A has rows of lda.
template <int M, int N>
FR_INLINE void product_half(int K, const Half* a, std::int64_t lda, const Half* b, std::int64_t width, float* c) {
  __m512 acc[M][N];
  FR_UNROLL for (int i = 0; i < M; ++i) FR_UNROLL for (int j = 0; j < N; ++j) acc[i][j] = _mm512_setzero_ps();
  for (int k = 0; k < K; k += 2) {
    __m512bh w[N];
    FR_UNROLL for (int j = 0; j < N; ++j) __builtin_memcpy(&w[j], b + k * width + j * 32, 64);
    FR_UNROLL for (int i = 0; i < M; ++i) {
      int pair;
      __builtin_memcpy(&pair, a + i * lda + k, 4);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
      FR_UNROLL for (int j = 0; j < N; ++j) acc[i][j] = _mm512_dpbf16_ps(acc[i][j], x, w[j]);
    }
  }
  FR_UNROLL for (int i = 0; i < M; ++i) FR_UNROLL for (int j = 0; j < N; ++j)
      _mm512_storeu_ps(c + i * width + j * 16, acc[i][j]);
}

template <int N, int M = kMaxRows>
FR_INLINE void product_half_rows(int m, int K, const Half* a, std::int64_t lda, const Half* b, std::int64_t width,
                                 float* c) {
  if (m == M) return product_half<M, N>(K, a, lda, b, width, c);
  if constexpr (M > 1) product_half_rows<N, M - 1>(m, K, a, lda, b, width, c);
}

template <int kN, int kLda>
__attribute__((noinline)) void multiply_half(int M, int N, int K, const Half* A, int lda, const Half* B, float* C) {
  const std::int64_t ld = kLda ? kLda : lda, width = kN ? kN : N;
  split_rows(M, [&](int begin, int m) {
    int n = 0;
    for (; n + 32 <= width; n += 32)
      product_half_rows<2>(m, K, A + begin * ld, ld, B + 2 * n, width, C + begin * width + n);
    if (n < width) product_half_rows<1>(m, K, A + begin * ld, ld, B + 2 * n, width, C + begin * width + n);
  });
}
#endif

// One row of a 3x3 convolution of Cin images with C channels out: to[W, C] = f(sum over k of x at tap k times w[9 Cin,
// C]). Rows of x are `width` apart, images `image`. kN is C where it is known, else 0. `to` may be of bfloat16.
template <int kN, typename T, typename P, typename F>
__attribute__((noinline)) void convolve_row(const T* x, std::int64_t image, std::int64_t width, int Cin, int W,
                                            const T* w, int C, P* to, F f) {
  constexpr int L = kLanes<T>;
  const std::int64_t ld = kN ? kN : C;
  std::int64_t offset[18];
  for (int k = 0; k < 9 * Cin; ++k) offset[k] = k / 9 * image + k % 9 / 3 * width + k % 3;
  split_rows(W, [&](int begin, int m) {
    const auto at = [&](int i, int k) { return x[offset[k] + begin + i]; };
    int n = 0;
    const auto emit = [&](int i, int j, Vec<T> v) { store(to + (begin + i) * ld + n + j * L, f(v)); };
    for (; n + 2 * L <= ld; n += 2 * L) product_rows<2>(m, 9 * Cin, w + n, ld, at, emit);
    if (n < ld) product_rows<1>(m, 9 * Cin, w + n, ld, at, emit);
  });
}

// Its derivative by w: sums[9 Cin, C] += sum over the row of x at the tap times z[W, C].
template <int kN, typename T>
__attribute__((noinline)) void correlate_row(const T* x, std::int64_t image, std::int64_t width, int Cin, int W,
                                             const T* z, int C, T* sums) {
  constexpr int L = kLanes<T>;
  const std::int64_t ld = kN ? kN : C;
  split_rows(9 * Cin, [&](int begin, int m) {
    const T* row[kMaxRows];
    for (int i = 0; i < m; ++i) row[i] = x + (begin + i) / 9 * image + (begin + i) % 9 / 3 * width + (begin + i) % 3;
    const auto at = [&](int i, int k) { return row[i][k]; };
    int n = 0;
    const auto emit = [&](int i, int j, Vec<T> v) {
      T* to = sums + (begin + i) * ld + n + j * L;
      store(to, load(to) + v);
    };
    for (; n + 2 * L <= ld; n += 2 * L) product_rows<2>(m, W, z + n, ld, at, emit);
    if (n < ld) product_rows<1>(m, W, z + n, ld, at, emit);
  });
}

// The 4x4 outputs D[16, C] of a convolution, tap by tap, from 6x6 pixels at rows[i] + j * C; weights U [9, C, C].
template <typename T, int N>
FR_INLINE void direct_rows(const T* const (&rows)[kTileIn], int i0, int C, const T* U, T* D) {
  constexpr int M = kMaxRows >= 8 ? 8 : 4;  // two rows of four outputs, or one
  Vec<T> acc[M][N];
  FR_UNROLL for (int i = 0; i < M; ++i) FR_UNROLL for (int j = 0; j < N; ++j) acc[i][j] = Vec<T>{};
  for (int tap = 0; tap < 9; ++tap) {
    const T* w = U + std::int64_t(tap) * C * C;
    const T* in[M / 4];
    for (int i = 0; i < M / 4; ++i) in[i] = rows[i0 + i + tap / 3] + tap % 3 * C;
    for (int k = 0; k < C; ++k) {
      Vec<T> v[N];
      FR_UNROLL for (int j = 0; j < N; ++j) v[j] = load(w + k * C + j * kLanes<T>);
      FR_UNROLL for (int i = 0; i < M; ++i) {
        const Vec<T> x = splat<T>(in[i / 4][i % 4 * C + k]);
        FR_UNROLL for (int j = 0; j < N; ++j) acc[i][j] += x * v[j];
      }
    }
  }
  FR_UNROLL for (int i = 0; i < M; ++i) FR_UNROLL for (int j = 0; j < N; ++j)
      store(D + (i0 * 4 + i) * C + j * kLanes<T>, acc[i][j]);
}

template <typename T>
__attribute__((noinline)) void direct_tile(const T* const (&rows)[kTileIn], int C, const T* U, T* D) {
  for (int i = 0; i < 4; i += kMaxRows >= 8 ? 2 : 1) {
    int n = 0;
    for (; n + 2 * kLanes<T> <= C; n += 2 * kLanes<T>) direct_rows<T, 2>(rows, i, C, U + n, D + n);
    if (n < C) direct_rows<T, 1>(rows, i, C, U + n, D + n);
  }
}

// B^T d: six inputs to six points.
template <typename T, typename V>
FR_INLINE void to_points(const V (&d)[6], V (&o)[6]) {
  constexpr T a = T(kA), b = T(kB), aa = T(kA * kA), bb = T(kB * kB), s = T(kA * kA + kB * kB),
              p = T(kA * kA * kB * kB);
  const V e1 = d[4] - bb * d[2], o1 = a * (d[3] - bb * d[1]);
  const V e2 = d[4] - aa * d[2], o2 = b * (d[3] - aa * d[1]);
  o[0] = (d[4] - s * d[2]) + p * d[0];
  o[1] = e1 + o1;
  o[2] = e1 - o1;
  o[3] = e2 + o2;
  o[4] = e2 - o2;
  o[5] = (d[5] - s * d[3]) + p * d[1];
}

// A^T m: six points to four outputs.
template <typename T, typename V>
FR_INLINE void from_points(const V (&m)[6], V (&y)[4]) {
  constexpr T a = T(kA), b = T(kB), aa = T(kA * kA), bb = T(kB * kB), aaa = T(kA * kA * kA), bbb = T(kB * kB * kB);
  const V s1 = m[1] + m[2], d1 = m[1] - m[2], s2 = m[3] + m[4], d2 = m[3] - m[4];
  y[0] = m[0] + s1 + s2;
  y[1] = a * d1 + b * d2;
  y[2] = aa * s1 + bb * s2;
  y[3] = aaa * d1 + (bbb * d2 + m[5]);
}

// A y: the adjoint of from_points, for the gradient of the weights.
template <typename T, typename V>
FR_INLINE void outputs_to_points(const V (&y)[4], V (&m)[6]) {
  constexpr T a = T(kA), b = T(kB), aa = T(kA * kA), bb = T(kB * kB), aaa = T(kA * kA * kA), bbb = T(kB * kB * kB);
  const V e1 = y[0] + aa * y[2], o1 = a * y[1] + aaa * y[3];
  const V e2 = y[0] + bb * y[2], o2 = b * y[1] + bbb * y[3];
  m[0] = y[0];
  m[1] = e1 + o1;
  m[2] = e1 - o1;
  m[3] = e2 + o2;
  m[4] = e2 - o2;
  m[5] = y[3];
}

// G (6x3), in double: kernels to points.
struct KernelPoints {
  double g[6][3];
  constexpr KernelPoints() : g() {
    const double at[5] = {0, kA, -kA, kB, -kB};
    for (int i = 0; i < 5; ++i) {
      double scale = 1;
      for (int j = 0; j < 5; ++j)
        if (j != i) scale *= at[i] - at[j];
      for (int k = 0; k < 3; ++k) g[i][k] = (k == 0 ? 1 : k == 1 ? at[i] : at[i] * at[i]) / scale;
    }
    g[5][0] = g[5][1] = 0;
    g[5][2] = 1;
  }
};
constexpr KernelPoints kKernelPoints;

// U[p, k, n] = (G w G^T)[p] of the taps w[3, 3] at taps + (k * N + n) * 9, or of the taps reversed.
template <typename T>
void kernels_to_points(const T* taps, bool reversed, int K, int N, T* U) {
  constexpr int L = kLanes<double>;
  const auto& G = kKernelPoints.g;
  for (int k = 0; k < K; ++k)
    for (int n = 0; n < N; n += L) {
      Vec<double> w[9], t[6][3];
      for (int i = 0; i < 9; ++i) {
        double lane[L];
        for (int l = 0; l < L; ++l)
          lane[l] = n + l < N ? double(taps[(k * N + n + l) * 9 + (reversed ? 8 - i : i)]) : 0;
        w[i] = load(lane);
      }
      for (int i = 0; i < 6; ++i)
        for (int x = 0; x < 3; ++x) t[i][x] = G[i][0] * w[x] + G[i][1] * w[3 + x] + G[i][2] * w[6 + x];
      for (int i = 0; i < 6; ++i)
        for (int j = 0; j < 6; ++j) {
          double lane[L];
          store(lane, G[j][0] * t[i][0] + G[j][1] * t[i][1] + G[j][2] * t[i][2]);
          for (int l = 0; l < L && n + l < N; ++l) U[(std::int64_t(i * 6 + j) * K + k) * N + n + l] = T(lane[l]);
        }
    }
}

// taps[3, 3] = G^T D G of the sums D[p] over points of one channel pair.
FR_INLINE void points_to_kernel(const double (&D)[kPoints], double (&taps)[9]) {
  const auto& G = kKernelPoints.g;
  double t[3][6];
  for (int y = 0; y < 3; ++y)
    for (int j = 0; j < 6; ++j) {
      t[y][j] = 0;
      for (int i = 0; i < 6; ++i) t[y][j] += G[i][y] * D[i * 6 + j];
    }
  for (int y = 0; y < 3; ++y)
    for (int x = 0; x < 3; ++x) {
      taps[y * 3 + x] = 0;
      for (int j = 0; j < 6; ++j) taps[y * 3 + x] += G[j][x] * t[y][j];
    }
}

// V[p * plane + c] = (B^T d B)[p] of the 6x6 pixels at rows[i] + j * C, for all C channels; V may be of bfloat16.
template <typename T, typename P>
FR_INLINE void tile_to_points(const T* const (&rows)[kTileIn], int C, P* V, std::int64_t plane) {
  for (int c = 0; c < C; c += kLanes<T>) {
    Vec<T> t[6][6];
    FR_UNROLL for (int j = 0; j < 6; ++j) {
      Vec<T> d[6], o[6];
      FR_UNROLL for (int i = 0; i < 6; ++i) d[i] = load(rows[i] + j * C + c);
      to_points<T>(d, o);
      FR_UNROLL for (int i = 0; i < 6; ++i) t[i][j] = o[i];
    }
    FR_UNROLL for (int i = 0; i < 6; ++i) {
      Vec<T> o[6];
      to_points<T>(t[i], o);
      FR_UNROLL for (int j = 0; j < 6; ++j) store(V + (i * 6 + j) * plane + c, o[j]);
    }
  }
}

// The 4x4 outputs A^T M A of one tile, channel vector by channel vector: emit(i, j, c, y).
template <typename T, typename Emit>
FR_INLINE void points_to_tile(const T* M, std::int64_t plane, int C, const Emit& emit) {
  for (int c = 0; c < C; c += kLanes<T>) {
    Vec<T> t[4][6];
    FR_UNROLL for (int j = 0; j < 6; ++j) {
      Vec<T> m[6], y[4];
      FR_UNROLL for (int i = 0; i < 6; ++i) m[i] = load(M + (i * 6 + j) * plane + c);
      from_points<T>(m, y);
      FR_UNROLL for (int i = 0; i < 4; ++i) t[i][j] = y[i];
    }
    FR_UNROLL for (int i = 0; i < 4; ++i) {
      Vec<T> y[4];
      from_points<T>(t[i], y);
      FR_UNROLL for (int j = 0; j < 4; ++j) emit(i, j, c, y[j]);
    }
  }
}

// S[p * plane + c] = (A y A^T)[p] of the 4x4 pixels at rows[i] + j * C.
template <typename T>
FR_INLINE void outputs_tile_to_points(const T* const (&rows)[kTileOut], int C, T* S, std::int64_t plane) {
  for (int c = 0; c < C; c += kLanes<T>) {
    Vec<T> t[6][4];
    FR_UNROLL for (int j = 0; j < 4; ++j) {
      Vec<T> y[4], m[6];
      FR_UNROLL for (int i = 0; i < 4; ++i) y[i] = load(rows[i] + j * C + c);
      outputs_to_points<T>(y, m);
      FR_UNROLL for (int i = 0; i < 6; ++i) t[i][j] = m[i];
    }
    FR_UNROLL for (int i = 0; i < 6; ++i) {
      Vec<T> m[6];
      outputs_to_points<T>(t[i], m);
      FR_UNROLL for (int j = 0; j < 6; ++j) store(S + (i * 6 + j) * plane + c, m[j]);
    }
  }
}

}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
