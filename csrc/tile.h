// tile.h: AMX, the matrix unit of Intel servers: eight registers ("tiles") of 16 rows of 64 bytes, and products of
// bfloat16 tiles with float32 sums. Where the compiler's target lacks it, the same functions are loops, for tests.
//
// A product of tiles A [16, 32] and B [16, 16, 2], the pairs of B's rows side by side, adds to C [16, 16]:
// C[m, n] += sum over k, i of A[m, 2k + i] B[k, n, i].
#pragma once
#include "half.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
constexpr int kTile = 16;              // rows of a tile, and float32 columns
constexpr int kTilePairs = 2 * kTile;  // its bfloat16 columns
constexpr int kTileSize = kTile * kTilePairs;

#if defined(__AMX_TILE__) && defined(__AMX_BF16__)
// Statements of our own: GCC's intrinsics take no template arguments, and do not say that a load reads memory.
template <int kTo>
FR_INLINE void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" ::"n"(kTo));
}
template <int kTo>
FR_INLINE void tile_load(const Half* p, std::int64_t bytes) {  // rows `bytes` apart
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(bytes), "n"(kTo) : "memory");
}
template <int kC, int kA, int kB>
FR_INLINE void tile_product() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"n"(kC), "n"(kA), "n"(kB));
}
template <int kFrom>
FR_INLINE void tile_store(float* p, std::int64_t bytes) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(bytes), "n"(kFrom) : "memory");
}

// The tiles of this thread while it lives. Whoever comes next finds them released, as other libraries expect.
class Tiles {
 public:
  Tiles() {
    struct {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t row_bytes[16] = {};
      std::uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; ++i) config.row_bytes[i] = 64, config.rows[i] = kTile;
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
  }
  Tiles(const Tiles&) = delete;
  ~Tiles() { __asm__ volatile("tilerelease" ::: "memory"); }
};
#else
thread_local std::uint8_t tile_memory[8][kTile][64];

float tile_number(const std::uint8_t* row, int i) {
  const std::uint32_t bits = std::uint32_t(get<Half>(row + 2 * i)) << 16;
  return get<float>(&bits);
}

template <int kTo>
void tile_zero() {
  __builtin_memset(tile_memory[kTo], 0, sizeof tile_memory[kTo]);
}
template <int kTo>
void tile_load(const Half* p, std::int64_t bytes) {
  for (int r = 0; r < kTile; ++r)
    __builtin_memcpy(tile_memory[kTo][r], reinterpret_cast<const char*>(p) + r * bytes, 64);
}
template <int kC, int kA, int kB>
void tile_product() {
  float a[kTile][kTilePairs], b[kTilePairs][kTile], c[kTile][kTile];
  for (int r = 0; r < kTile; ++r)
    for (int i = 0; i < kTilePairs; ++i) {
      a[r][i] = tile_number(tile_memory[kA][r], i);
      b[2 * r + i % 2][i / 2] = tile_number(tile_memory[kB][r], i);
    }
  __builtin_memcpy(c, tile_memory[kC], sizeof c);
  for (int m = 0; m < kTile; ++m)
    for (int k = 0; k < kTilePairs; ++k)
      for (int n = 0; n < kTile; ++n) c[m][n] += a[m][k] * b[k][n];
  __builtin_memcpy(tile_memory[kC], c, sizeof c);
}
template <int kFrom>
void tile_store(float* p, std::int64_t bytes) {
  for (int r = 0; r < kTile; ++r) __builtin_memcpy(reinterpret_cast<char*>(p) + r * bytes, tile_memory[kFrom][r], 64);
}

class Tiles {
 public:
  Tiles() { __builtin_memset(tile_memory, 0xff, sizeof tile_memory); }  // NaN, as a tile is before it is written
};
#endif
}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
