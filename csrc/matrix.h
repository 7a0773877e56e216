// matrix.h: products of matrices, in tiles that go to what follows the product while they are in the cache.
//
// Every entry is the same sum over k, in the same order, wherever it stands: a row has the same bits in any batch and
// on any number of threads.
#pragma once
#include "product.h"
#include "tiles.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
template <typename T>
constexpr int kPanel = 2 * kLanes<T>;          // columns of a tile
constexpr std::int64_t kBand = 12 * kMaxRows;  // rows, at most, that take a panel while it is in the second-level cache
constexpr std::int64_t kBlock = 16;            // rows and columns transposed at a time
constexpr std::int64_t kDepth = 128;           // terms added up before their sum is: longer sums lose digits
constexpr std::int64_t kDivided = 1 << 18;     // multiplications from which on a product is divided

enum Order : bool { kByRows = false, kByColumns = true };  // how a factor lies in memory

// Columns first, ... of B [K, N] as a panel [K, kPanel] with zeros beyond N; in columns it lies as [N, K].
template <Order kB, typename T>
__attribute__((noinline)) void pack_panel(const T* B, std::int64_t K, std::int64_t N, std::int64_t first, T* out) {
  using std::int64_t;
  constexpr int64_t width = kPanel<T>;
  const int64_t n = at_most(width, N - first);
  if (n < width) std::memset(out, 0, K * width * sizeof(T));
  if (kB == kByRows) {
    for (int64_t k = 0; k < K; ++k) std::memcpy(out + k * width, B + k * N + first, n * sizeof(T));
    return;
  }
  for (int64_t k = 0; k < K; k += kBlock) {
    const int64_t end = at_most(K, k + kBlock);
    for (int64_t j = 0; j < n; ++j)
      for (int64_t i = k; i < end; ++i) out[i * width + j] = B[(first + j) * K + i];
  }
}

// tile[i, j] = sum_k A(i, k) b[k, j] for m <= kMaxRows rows of A, which are lda apart, or its columns are.
template <Order kA, typename T>
__attribute__((noinline)) void tile_product(int m, std::int64_t K, const T* a, std::int64_t lda, const T* b, T* tile) {
  for (std::int64_t k = 0; k < K; k += kDepth) {
    const T* const ak = a + k * (kA == kByColumns ? lda : 1);
    const auto at = [ak, lda](int i, int k) { return kA == kByColumns ? ak[k * lda + i] : ak[i * lda + k]; };
    const auto emit = [tile, k](int i, int j, Vec<T> v) {
      T* const to = tile + i * kPanel<T> + j * kLanes<T>;
      store(to, k == 0 ? v : load(to) + v);
    };
    product_rows<2>(m, int(at_most(kDepth, K - k)), b + k * kPanel<T>, kPanel<T>, at, emit);
  }
}

// Into how many bands M rows are cut, as many for each thread and of at most `band` rows: what leaves the fewest tiles.
FR_INLINE std::int64_t bands_of(std::int64_t M, std::int64_t threads, std::int64_t band = kBand) {
  const auto tiles = [M](std::int64_t bands) { return bands * tiles_of(tiles_of(M, bands), kMaxRows); };
  const std::int64_t least = tiles_of(tiles_of(M, band), threads) * threads;
  std::int64_t best = least;
  for (int more = 1; more < 4; ++more)
    if (tiles(least + more * threads) < tiles(best)) best = least + more * threads;
  return best;
}

// Asks for the cache lines that hold n numbers from p on.
template <typename T>
FR_INLINE void expect_soon(const T* p, std::int64_t n) {
  const char* const byte = reinterpret_cast<const char*>(p);
  for (std::int64_t i = 0; i < n * std::int64_t(sizeof(T)); i += 64) __builtin_prefetch(byte + i);
  __builtin_prefetch(p + n - 1);
}

// How much memory the panels of B [K, N] take, in numbers.
template <typename T>
FR_INLINE std::int64_t packed_size(std::int64_t K, std::int64_t N) {
  return tiles_of(N, kPanel<T>) * kPanel<T> * K;
}

template <Order kB, typename T>
FR_INLINE void pack(const T* B, std::int64_t K, std::int64_t N, std::int64_t work, T* out) {
  parallel(tiles_of(N, kPanel<T>), work,
           [&](std::int64_t p) { pack_panel<kB>(B, K, N, p * kPanel<T>, out + p * K * kPanel<T>); });
}

// Threads that so much work, in multiplications, is divided for.
FR_INLINE std::int64_t threads_for(std::int64_t work) { return work < kDivided ? 1 : threads(); }

// emit(row, first column, columns, numbers) for every part of the rows [begin, begin + rows) of A B in the panels
// [from, to), A [M, K] and B [K, N]. touch(row, first column, columns) fetches meanwhile what emit will touch.
template <Order kA, typename T, typename Touch, typename Emit>
FR_INLINE void band_product(std::int64_t begin, std::int64_t rows, std::int64_t from, std::int64_t to, std::int64_t M,
                            std::int64_t N, std::int64_t K, const T* A, const T* packed, const Touch& touch,
                            const Emit& emit) {
  using std::int64_t;
  for (int64_t p = from; p < to; ++p)
    split_rows(int(rows), [&](int first, int m) {
      T tile[kMaxRows * kPanel<T>];
      const int64_t row = begin + first, column = p * kPanel<T>, n = at_most<int64_t>(kPanel<T>, N - column);
      for (int i = 0; i < m; ++i) touch(row + i, column, n);
      const T* const a = A + row * (kA == kByColumns ? 1 : K);
      tile_product<kA>(m, K, a, kA == kByColumns ? M : K, packed + p * K * kPanel<T>, tile);
      for (int i = 0; i < m; ++i) emit(row + i, column, n, tile + i * kPanel<T>);
    });
}

// The same for the whole product, on all threads: of B's panels.
template <Order kA, typename T, typename Touch, typename Emit>
FR_INLINE void packed_product(std::int64_t M, std::int64_t N, std::int64_t K, const T* A, const T* packed,
                              const Touch& touch, const Emit& emit) {
  using std::int64_t;
  const int64_t work = M * N * K, threads = threads_for(work), panels = tiles_of(N, kPanel<T>);
  const bool tall = M >= threads * kMaxRows;  // else threads share the panels
  const int64_t bands = tall ? bands_of(M, threads) : 1, rows = tiles_of(M, bands);
  const int64_t shares = tall ? 1 : at_most(threads, panels), share = tiles_of(panels, shares);
  parallel(bands * shares, work / 8, [&](int64_t task) {
    const int64_t begin = task / shares * rows, from = task % shares * share;
    const int64_t left = at_most(rows, M - begin);  // none, of the last bands of few rows
    band_product<kA>(begin, left, from, at_most(from + share, panels), M, N, K, A, packed, touch, emit);
  });
}

// And of B itself.
template <Order kA, Order kB, typename T, typename Touch, typename Emit>
FR_INLINE void matrix_product(std::int64_t M, std::int64_t N, std::int64_t K, const T* A, const T* B,
                              const Touch& touch, const Emit& emit) {
  Scratch memory;
  T* const packed = memory.take<T>(packed_size<T>(K, N));
  pack<kB>(B, K, N, M * N * K / 8, packed);
  packed_product<kA>(M, N, K, A, packed, touch, emit);
}

// To touch: parts of rows of these matrices of the given width.
template <typename... Pointers>
FR_INLINE auto touching(std::int64_t width, Pointers... matrices) {
  return
      [=](std::int64_t r, std::int64_t first, std::int64_t n) { (expect_soon(matrices + r * width + first, n), ...); };
}

// To emit: the product itself.
template <typename T>
FR_INLINE auto into(T* out, std::int64_t width) {
  return [=](std::int64_t r, std::int64_t first, std::int64_t n, const T* p) {
    std::memcpy(out + r * width + first, p, n * sizeof(T));
  };
}
}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
