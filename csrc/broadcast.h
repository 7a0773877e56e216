// broadcast.h: fields [R, M, S] that meet a parameter [M] along the middle dimension, and sums over the other two.
#pragma once
#include "tiles.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
// out[i] = parameter of number first + i, for n <= kTile numbers.
template <typename T>
FR_INLINE void spread(const T* parameter, std::int64_t M, std::int64_t S, std::int64_t first, std::int64_t n, T* out) {
  std::int64_t m = first / S % M, left = S - first % S;  // numbers that still meet parameter[m]
  if (S == 1) {
    for (std::int64_t i = 0; i < n;) {
      const std::int64_t run = at_most(M - m, n - i);
      for (std::int64_t k = 0; k < run; ++k) out[i + k] = parameter[m + k];
      i += run, m = 0;
    }
    return;
  }
  for (std::int64_t i = 0; i < n;) {
    const std::int64_t run = at_most(left, n - i);
    for (std::int64_t k = 0; k < run; ++k) out[i + k] = parameter[m];
    i += run, left = S, m = m + 1 == M ? 0 : m + 1;
  }
}

// d_parameter[m] = the sum over r and s of field [R, M, S], which body(first, n, part) writes for the n <= kTile
// numbers from `first` on, and whole(first, n) adds up where they have one m. Each task sums a block of at most `rows`
// rows r, `groups` values m and `length` numbers s in double, tile by tile; blocks start at a number s that is a
// multiple of `length`, so neighbours along m have no influence.
template <typename T, typename F, typename G>
FR_INLINE void sum_to_parameter(std::int64_t R, std::int64_t M, std::int64_t S, std::int64_t reals, T* d_parameter,
                                const F& body, const G& whole) {
  using std::int64_t;
  const int64_t length = at_most(S, 8 * kTile), groups = length < kTile ? at_most(M, kTile / length) : 1;
  const int64_t tile_rows = kTile / (groups * length), few = 16;  // at least 16 bound the partial sums' memory
  const int64_t rows = length < S ? 1 : tile_rows > few ? tile_rows : few;
  const int64_t row_blocks = tiles_of(R, rows), length_blocks = tiles_of(S, length), group_blocks = tiles_of(M, groups);
  const int64_t blocks = row_blocks * length_blocks;  // to add up for each m
  Scratch memory;
  double* const partial = memory.take<double>(blocks == 1 ? 0 : blocks * M);
  parallel(blocks * group_blocks, reals, [&](int64_t task) {
    const int64_t block = task / group_blocks, m = task % group_blocks * groups;
    const int64_t s = block % length_blocks * length, r = block / length_blocks * rows;
    const int64_t count = at_most(groups, M - m), size = at_most(length, S - s);
    double total[kTile];
    for (int64_t i = 0; i < count; ++i) total[i] = 0;
    for (int64_t row = r; row < at_most(r + rows, R); ++row) {
      const int64_t first = (row * M + m) * S + s;
      if (count == 1 && size > 1) {
        for (int64_t done = 0; done < size; done += kTile) total[0] += whole(first + done, at_most(kTile, size - done));
        continue;
      }
      T part[kTile];
      body(first, count * size, part);
      if (size == 1)
        for (int64_t i = 0; i < count; ++i) total[i] += part[i];
      else
        for (int64_t i = 0; i < count; ++i) total[i] += sum(part + i * size, size);
    }
    for (int64_t i = 0; i < count; ++i)
      if (blocks == 1)
        d_parameter[m + i] = T(total[i]);
      else
        partial[block * M + m + i] = total[i];
  });
  if (blocks > 1) add_blocks(partial, blocks, M, d_parameter);
}

// The same where the body serves for all.
template <typename T, typename F>
FR_INLINE void sum_to_parameter(std::int64_t R, std::int64_t M, std::int64_t S, std::int64_t reals, T* d_parameter,
                                const F& body) {
  sum_to_parameter(R, M, S, reals, d_parameter, body, [&](std::int64_t first, std::int64_t n) {
    T part[kTile];
    body(first, n, part);
    return sum(part, n);
  });
}
}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
