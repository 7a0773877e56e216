// radon.cpp: line integrals of images along rays by Joseph's linear interpolation, and the adjoint (CPU).
//   x [N, H, W]   y [N, A, D]   lines [3, A, D] double: start, slope, length
//   axis [A, D] int8: +-1: the ray steps over rows, +-2: over columns
// Definition: fastrecon/ops/radon.py. Positions are exact in double: both directions find the same cells and fractions.
//
// A sample costs 8 operations to locate and 3 to interpolate, on data that stays in the first two caches: arithmetic
// bounds it. A task of the forward projection has some views, one of the adjoint a tile of the image: no two add to one
// number, and sums have one order on any number of threads.
#include "tiles.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;
constexpr int64_t kMargin = 2;   // zeros at both ends of a line of pixels: positions are clamped to them
constexpr int64_t kChunk = 256;  // rays at a time: a multiple of every number of lanes
constexpr int64_t kSlack = 64;   // readable elements before and after the lines, for whole vectors
constexpr int64_t kViews = 4;    // of one task; several reuse the strip of lines in the first cache
constexpr int64_t kStrip = 16;   // lines summed before they are added to a total: two levels keep rounding small
constexpr int64_t kTileLines = 8, kTileCells = 512;  // of the adjoint: 32 KiB of pairs of floats

struct Bundle {  // the rays of all views
  const double *start, *slope, *length;
  const signed char* axis;
  int64_t A, D;
  Bundle(Address lines, Address axes, int64_t A, int64_t D)
      : start(as<const double>(lines)), slope(start + A * D), length(slope + A * D), axis(as<const signed char>(axes)),
        A(A), D(D) {}
};

// Rays [first, last) of a view that step over `over` (1: rows, 2: columns) and meet lines [line, line + lines) between
// pixels -1 and `cells`; the next such run from `from` on, or an empty one.
struct Run {
  int64_t first, last, next;
};
FR_INLINE Run next_run(const Bundle& rays, int64_t view, int64_t from, int over, int64_t line, int64_t lines,
                       int64_t origin, int64_t cells) {
  const int64_t at = view * rays.D;
  const double near = double(line), far = double(line + lines - 1);
  const double low = double(origin - 1), high = double(origin + cells);
  const auto across = [&](int64_t d) { return rays.axis[at + d] == over || rays.axis[at + d] == -over; };
  const auto misses = [&](int64_t d) {  // at both ends on the same side: also in between
    const double a = rays.start[at + d] + rays.slope[at + d] * near, b = rays.start[at + d] + rays.slope[at + d] * far;
    return (a <= low && b <= low) || (a >= high && b >= high);
  };
  int64_t first = from;
  while (first < rays.D && !across(first)) ++first;
  int64_t last = first;
  while (last < rays.D && across(last)) ++last;
  const int64_t next = last;
  while (first < last && misses(first)) ++first;
  while (last > first && misses(last - 1)) --last;
  return {first, last, next};
}

// Up to kChunk rays of a run, filled up with copies of the last.
struct Chunk {
  double start[kChunk], slope[kChunk];
  int64_t n;
};
template <typename T>
FR_INLINE void fill(const Bundle& rays, int64_t at, int64_t count, Chunk& c) {
  c.n = tiles_of(count, kLanes<T>) * kLanes<T>;
  for (int64_t d = 0; d < count; ++d) c.start[d] = rays.start[at + d], c.slope[d] = rays.slope[at + d];
  for (int64_t d = count; d < c.n; ++d) c.start[d] = c.start[count - 1], c.slope[d] = c.slope[count - 1];
}

// Where the rays meet a line: between cells `cell` and `cell` + 1 counted from the margin, at fraction f.
template <typename T>
FR_INLINE void locate(const Chunk& c, double line, double origin, double cells, std::int32_t* cell, T* f) {
  for (int64_t d = 0; d < c.n; ++d) {
    double position = c.start[d] + c.slope[d] * line - origin;
    position = position > -double(kMargin) ? position : -double(kMargin);
    position = (position < cells ? position : cells) + kMargin;
    cell[d] = std::int32_t(position);
    f[d] = T(position - cell[d]);
  }
}

// sum[d] += line[cell] + f (line[cell + 1] - line[cell]). Cells rise or fall along d.
template <typename T>
FR_INLINE void interpolate(const T* line, const std::int32_t* cell, const T* f, int64_t n, T* sum) {
  constexpr int lanes = kLanes<T>;
  for (int64_t d = 0; d < n; d += lanes) {
    Vec<T> left, right;
#if defined(__AVX512F__)
    const std::int32_t a = cell[d], b = cell[d + lanes - 1];
    const std::int32_t low = at_most(a, b) - 1;  // rounding may swap neighbours
    if (at_least(a, b) - low < 2 * lanes - 2) {  // all in two vectors
      if constexpr (sizeof(T) == 4) {
        const __m512i index = _mm512_sub_epi32(_mm512_loadu_si512(cell + d), _mm512_set1_epi32(low));
        const __m512 u = _mm512_loadu_ps(line + low), v = _mm512_loadu_ps(line + low + lanes);
        left = (Vec<T>)_mm512_permutex2var_ps(u, index, v);
        right = (Vec<T>)_mm512_permutex2var_ps(u, _mm512_add_epi32(index, _mm512_set1_epi32(1)), v);
      } else {
        typedef std::int32_t Near __attribute__((vector_size(32)));
        typedef long long Wide __attribute__((vector_size(64)));
        Near near;
        __builtin_memcpy(&near, cell + d, sizeof near);
        near -= low;
        const __m512i index = (__m512i)(__builtin_convertvector(near, Wide));
        const __m512d u = _mm512_loadu_pd(line + low), v = _mm512_loadu_pd(line + low + lanes);
        left = (Vec<T>)_mm512_permutex2var_pd(u, index, v);
        right = (Vec<T>)_mm512_permutex2var_pd(u, _mm512_add_epi64(index, _mm512_set1_epi64(1)), v);
      }
    } else
#endif
    {
      T l[lanes], r[lanes];
      for (int k = 0; k < lanes; ++k) l[k] = line[cell[d + k]], r[k] = line[cell[d + k] + 1];
      left = load(l), right = load(r);
    }
    store(sum + d, load(sum + d) + (left + load(f + d) * (right - left)));
  }
}

// out [lines, cells + 2 kMargin] = N images [H, W] with margins of zeros, transposed if over == 2.
template <typename T>
FR_INLINE void widen_lines(const T* x, T* out, int64_t N, int64_t H, int64_t W, int over) {
  const int64_t lines = over == 1 ? H : W, cells = over == 1 ? W : H, stride = cells + 2 * kMargin, block = 16;
  const int64_t line_step = over == 1 ? W : 1, cell_step = over == 1 ? 1 : W, blocks = tiles_of(lines, block);
  for (int64_t i = 1; i <= kSlack; ++i) out[-i] = out[N * lines * stride - 1 + i] = 0;
  parallel(N * blocks, N * H * W, [=](int64_t task) {
    const int64_t n = task / blocks, first = task % blocks * block, last = at_most(first + block, lines);
    T* to = out + n * lines * stride;
    for (int64_t line = first; line < last; ++line)
      for (int64_t k = 0; k < kMargin; ++k) to[line * stride + k] = to[(line + 1) * stride - 1 - k] = 0;
    for (int64_t c = 0; c < cells; c += block)  // by blocks, for the caches
      for (int64_t line = first; line < last; ++line)
        for (int64_t k = c; k < at_most(c + block, cells); ++k)
          to[line * stride + kMargin + k] = x[n * H * W + line * line_step + k * cell_step];
  });
}

// y += the integrals of the rays that step over `over`, for some views of one image given as padded lines.
template <typename T>
FR_INLINE void project(const T* image, const Bundle& rays, int64_t view, int over, int64_t line, int64_t lines,
                       int64_t cells, T* y) {
  const int64_t stride = cells + 2 * kMargin;
  for (Run run = next_run(rays, view, 0, over, line, lines, 0, cells); run.first < rays.D;
       run = next_run(rays, view, run.next, over, line, lines, 0, cells))
    for (int64_t d = run.first; d < run.last; d += kChunk) {
      const int64_t count = at_most(kChunk, run.last - d);
      Chunk c;
      std::int32_t cell[kChunk];
      T f[kChunk], sum[kChunk] = {};
      fill<T>(rays, view * rays.D + d, count, c);
      for (int64_t i = line; i < line + lines; ++i) {
        locate(c, double(i), 0.0, double(cells), cell, f);
        interpolate(image + i * stride, cell, f, c.n, sum);
      }
      for (int64_t k = 0; k < count; ++k) y[d + k] += sum[k];
    }
}

template <typename T>
FR_INLINE void forward(const T* x, const Bundle& rays, T* y, int64_t N, int64_t H, int64_t W) {
  const int64_t groups = tiles_of(rays.A, kViews), D = rays.D;
  const int64_t rows = N * H * (W + 2 * kMargin), columns = N * W * (H + 2 * kMargin);
  Scratch memory;
  T* const by_row = memory.take<T>(rows + 2 * kSlack) + kSlack;
  T* const by_column = memory.take<T>(columns + 2 * kSlack) + kSlack;
  widen_lines(x, by_row, N, H, W, 1);
  widen_lines(x, by_column, N, H, W, 2);
  parallel(N * groups, N * rays.A * D * at_most(H, W), [&](int64_t task) {
    const int64_t n = task / groups, first = task % groups * kViews, last = at_most(first + kViews, rays.A);
    T* out = y + n * rays.A * D;
    for (int64_t k = first * D; k < last * D; ++k) out[k] = 0;
    for (int over = 1; over <= 2; ++over) {
      const int64_t lines = over == 1 ? H : W, cells = over == 1 ? W : H;
      const T* image = (over == 1 ? by_row : by_column) + n * lines * (cells + 2 * kMargin);
      for (int64_t line = 0; line < lines; line += kStrip)
        for (int64_t view = first; view < last; ++view)
          project(image, rays, view, over, line, at_most(kStrip, lines - line), cells, out + view * D);
    }
    for (int64_t k = first * D; k < last * D; ++k) out[k] *= T(rays.length[k]);
  });
}

template <typename T>
struct Pair {  // what the rays in one cell give to its left and its right pixel
  typedef T type __attribute__((vector_size(2 * sizeof(T))));
};

// pairs[i, cell] += what the rays of all views give to a tile of lines and cells.
template <typename T>
FR_INLINE void spread(const T* y, const Bundle& rays, int over, int64_t line, int64_t lines, int64_t origin,
                      int64_t cells, T* pairs) {
  typedef typename Pair<T>::type Two;
  constexpr int64_t stride = 2 * (kTileCells + 2 * kMargin);
  for (int64_t view = 0; view < rays.A; ++view)
    for (Run run = next_run(rays, view, 0, over, line, lines, origin, cells); run.first < rays.D;
         run = next_run(rays, view, run.next, over, line, lines, origin, cells))
      for (int64_t d = run.first; d < run.last; d += kChunk) {
        const int64_t count = at_most(kChunk, run.last - d), at = view * rays.D + d;
        Chunk c;
        std::int32_t cell[kChunk];
        T f[kChunk], w[kChunk], given[2 * kChunk];
        fill<T>(rays, at, count, c);
        for (int64_t k = 0; k < count; ++k) w[k] = y[at + k] * T(rays.length[at + k]);
        for (int64_t i = 0; i < lines; ++i) {
          locate(c, double(line + i), double(origin), double(cells), cell, f);
          for (int64_t k = 0; k < count; ++k) {
            const T right = w[k] * f[k];
            given[2 * k] = w[k] - right, given[2 * k + 1] = right;
          }
          T* row = pairs + i * stride;
          for (int64_t k = 0; k < count; ++k) {
            Two total, part;
            __builtin_memcpy(&total, row + 2 * cell[k], sizeof total);
            __builtin_memcpy(&part, given + 2 * k, sizeof part);
            total += part;
            __builtin_memcpy(row + 2 * cell[k], &total, sizeof total);
          }
        }
      }
}

template <typename T>
FR_INLINE void adjoint(const T* y, const Bundle& rays, T* x, int64_t N, int64_t H, int64_t W) {
  for (int over = 1; over <= 2; ++over) {
    const int64_t lines = over == 1 ? H : W, cells = over == 1 ? W : H;
    const int64_t strips = tiles_of(lines, kTileLines), blocks = tiles_of(cells, kTileCells);
    parallel(N * strips * blocks, N * rays.A * rays.D * at_most(H, W), [&](int64_t task) {
      const int64_t n = task / (strips * blocks);
      const int64_t line = task / blocks % strips * kTileLines, own_lines = at_most(kTileLines, lines - line);
      const int64_t origin = task % blocks * kTileCells, own_cells = at_most(kTileCells, cells - origin);
      T pairs[kTileLines][kTileCells + 2 * kMargin][2] = {};
      spread(y + n * rays.A * rays.D, rays, over, line, own_lines, origin, own_cells, pairs[0][0]);
      const auto pixel = [&](int64_t i, int64_t c) { return pairs[i][c + kMargin][0] + pairs[i][c + kMargin - 1][1]; };
      T* out = x + n * H * W;
      if (over == 1) {
        for (int64_t i = 0; i < own_lines; ++i)
          for (int64_t c = 0; c < own_cells; ++c) out[(line + i) * W + origin + c] = pixel(i, c);
      } else {
        for (int64_t c = 0; c < own_cells; ++c)
          for (int64_t i = 0; i < own_lines; ++i) out[(origin + c) * W + line + i] += pixel(i, c);
      }
    });
  }
}
}  // namespace

void radon(int dtype, Address x, Address lines, Address axis, Address y, int64_t N, int64_t H, int64_t W, int64_t A,
           int64_t D) {
  const Bundle rays(lines, axis, A, D);
  by_dtype<kReal>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    forward(as<const T>(x), rays, as<T>(y), N, H, W);
  });
}

void radon_adjoint(int dtype, Address y, Address lines, Address axis, Address x, int64_t N, int64_t H, int64_t W,
                   int64_t A, int64_t D) {
  const Bundle rays(lines, axis, A, D);
  by_dtype<kReal>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    adjoint(as<const T>(y), rays, as<T>(x), N, H, W);
  });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
