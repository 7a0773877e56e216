// dwt2.cpp: orthonormal periodised wavelet transform of planes, Mallat layout (CPU). Definition: fastrecon/ops/dwt2.py
//   x, c [P, H, W] real or complex   taps [L] double, lowpass filter g in the order of correlation, L even
// One level: a_k = sum_i g_i x_(2k+i-s), d_k = sum_i h_i x_(2k+i-s), s = L/2 - 1, h_i = (-1)^i g_(L-1-i), indices
// modulo the length; along rows first, then along columns. Shifted by s, sample 2k+i is even or odd with i alone, so
// all loops run over split even and odd samples with unit stride.
#include "tiles.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;
constexpr int64_t kStrip = 32;      // pairs of rows per task where there are few planes
constexpr int64_t kManyPlanes = 8;  // from here on a task is a whole plane, whose lower levels stay in its cache
constexpr int64_t kLongest = 128;   // taps

FR_INLINE int64_t wrap(int64_t i, int64_t n) {
  i %= n;
  return i < 0 ? i + n : i;
}

// Reals that a row of `n` occupies, so that whole vectors may be written.
template <typename T>
FR_INLINE int64_t padded(int64_t n) {
  return tiles_of(n, kLanes<T>) * kLanes<T>;
}

// The first n reals of a vector, n >= 1, from and to memory that ends there.
template <typename T>
FR_INLINE Vec<T> load_first(const T* p, int64_t n) {
  if (n >= kLanes<T>) return load(p);
  Vec<T> v = {};
  __builtin_memcpy(&v, p, n * sizeof(T));
  return v;
}
template <typename T>
FR_INLINE void store_first(T* p, Vec<T> v, int64_t n) {
  if (n >= kLanes<T>)
    store(p, v);
  else
    __builtin_memcpy(p, &v, n * sizeof(T));
}

// Both filters; kL is their length where it is known to the compiler, else 0. Passed as copies: no store can change
// those.
template <typename T, int kL>
struct Filters {
  T lo[kL ? kL : kLongest], hi[kL ? kL : kLongest];
  int64_t length;
  FR_INLINE Filters(const double* taps, int64_t L) : length(L) {
    for (int64_t i = 0; i < L; ++i) {
      lo[i] = T(taps[i]);
      hi[i] = T(i % 2 ? -taps[L - 1 - i] : taps[L - 1 - i]);
    }
  }
  FR_INLINE int64_t size() const { return kL ? kL : length; }
  FR_INLINE int64_t shift() const { return size() / 2 - 1; }
};

// even[m], odd[m] = row[2m - s], row[2m + 1 - s] for 0 <= m < n/2 + L/2 - 1, n numbers in the row.
template <int kWidth, typename T>
FR_INLINE void split(const T* row, int64_t n, int64_t s, T* __restrict even, T* __restrict odd) {
  const int64_t end = n / 2 + s, first = (s + 1) / 2, last = (n + s) / 2;  // pairs first <= m < last lie inside
  const auto edge = [&](int64_t m) {
    for (int k = 0; k < kWidth; ++k) {
      even[m * kWidth + k] = row[wrap(2 * m - s, n) * kWidth + k];
      odd[m * kWidth + k] = row[wrap(2 * m + 1 - s, n) * kWidth + k];
    }
  };
  for (int64_t m = 0; m < at_most(first, end); ++m) edge(m);
  const T* const inside = row - s * kWidth;
  for (int64_t m = first; m < last; ++m)
    for (int k = 0; k < kWidth; ++k) {
      even[m * kWidth + k] = inside[2 * m * kWidth + k];
      odd[m * kWidth + k] = inside[(2 * m + 1) * kWidth + k];
    }
  for (int64_t m = at_least(first, last); m < end; ++m) edge(m);
}

// Rows 2 first <= 2k < 2 last of one level: source [h, w] to ll [h/2, w/2] and the details in c.
template <int kWidth, typename T, int kL>
FR_INLINE void analyse(const T* source, int64_t ld, int64_t h, int64_t w, const Filters<T, kL> f, T* ll, int64_t ll_ld,
                       T* c, int64_t c_ld, int64_t first, int64_t last) {
  const int64_t L = f.size(), s = f.shift(), half = w / 2 * kWidth, room = padded<T>(half);
  const int64_t split_room = room + L * kWidth + kLanes<T>;
  Scratch memory;
  T* const rows = memory.take<T>(2 * L * room + 2 * split_room);
  T* const even = rows + 2 * L * room;
  T* const odd = even + split_room;
  for (int64_t i = 0; i < 2 * split_room; ++i) even[i] = 0;  // what pads the last vector is never used, but is defined
  const auto across = [&](int64_t j) {  // shifted row j, transformed along its length, into slot j % L
    split<kWidth>(source + wrap(j - s, h) * ld, w, s, even, odd);
    T* const lo = rows + j % L * 2 * room;
    T* const hi = lo + room;
    for (int64_t i = 0; i < half; i += kLanes<T>) {
      Vec<T> a = {}, d = {};
      for (int64_t m = 0; m < L / 2; ++m) {
        const Vec<T> e = load(even + i + m * kWidth), o = load(odd + i + m * kWidth);
        a += splat(f.lo[2 * m]) * e + splat(f.lo[2 * m + 1]) * o;
        d += splat(f.hi[2 * m]) * e + splat(f.hi[2 * m + 1]) * o;
      }
      store(lo + i, a);
      store(hi + i, d);
    }
  };
  const auto down = [&](int64_t k, const T* column, T* lo, T* hi) {
    for (int64_t i = 0; i < half; i += kLanes<T>) {
      Vec<T> a = {}, d = {};
      for (int64_t l = 0; l < L; ++l) {
        const Vec<T> v = load(column + (2 * k + l) % L * 2 * room + i);
        a += splat(f.lo[l]) * v;
        d += splat(f.hi[l]) * v;
      }
      store_first(lo + i, a, half - i);
      store_first(hi + i, d, half - i);
    }
  };
  for (int64_t j = 2 * first; j < 2 * first + L - 2; ++j) across(j);
  for (int64_t k = first; k < last; ++k) {
    across(2 * k + L - 2);
    across(2 * k + L - 1);
    T* const below = c + (h / 2 + k) * c_ld;
    down(k, rows, ll + k * ll_ld, below);
    down(k, rows + room, c + k * c_ld + half, below + half);
  }
}

// Shifted rows 2q, 2q + 1 for first <= q < last of one level: ll [h/2, w/2] and the details in c to target [h, w].
template <int kWidth, typename T, int kL>
FR_INLINE void synthesise(const T* ll, int64_t ll_ld, const T* c, int64_t c_ld, const Filters<T, kL> f, T* target,
                          int64_t ld, int64_t h, int64_t w, int64_t first, int64_t last) {
  const int64_t L = f.size(), s = f.shift(), half = w / 2 * kWidth, before = s * kWidth;
  const int64_t room = before + padded<T>(half);
  Scratch memory;
  T* const rows = memory.take<T>(6 * room);
  T* const lo[2] = {rows, rows + room};  // of the even and the odd row
  T* const hi[2] = {rows + 2 * room, rows + 3 * room};
  T* const even = rows + 4 * room;
  T* const odd = rows + 5 * room;
  const auto up = [&](int64_t q, const T* upper, int64_t upper_ld, const T* lower, T* const* out) {
    for (int64_t i = 0; i < half; i += kLanes<T>) {
      Vec<T> e = {}, o = {};
      for (int64_t m = 0; m < L / 2; ++m) {
        const int64_t k = q >= m ? q - m : wrap(q - m, h / 2);
        const Vec<T> a = load_first(upper + k * upper_ld + i, half - i), d = load_first(lower + k * c_ld + i, half - i);
        e += splat(f.lo[2 * m]) * a + splat(f.hi[2 * m]) * d;
        o += splat(f.lo[2 * m + 1]) * a + splat(f.hi[2 * m + 1]) * d;
      }
      store(out[0] + before + i, e);
      store(out[1] + before + i, o);
    }
    for (int r = 0; r < 2; ++r)
      for (int64_t i = 0; i < before; ++i)
        out[r][i] = out[r][before + wrap((i / kWidth) - s, w / 2) * kWidth + i % kWidth];
  };
  for (int64_t q = first; q < last; ++q) {
    up(q, ll, ll_ld, c + h / 2 * c_ld, lo);
    up(q, c + half, c_ld, c + h / 2 * c_ld + half, hi);
    for (int r = 0; r < 2; ++r) {
      for (int64_t i = 0; i < half; i += kLanes<T>) {
        Vec<T> e = {}, o = {};
        for (int64_t m = 0; m < L / 2; ++m) {
          const Vec<T> a = load(lo[r] + before + i - m * kWidth), d = load(hi[r] + before + i - m * kWidth);
          e += splat(f.lo[2 * m]) * a + splat(f.hi[2 * m]) * d;
          o += splat(f.lo[2 * m + 1]) * a + splat(f.hi[2 * m + 1]) * d;
        }
        store(even + i, e);
        store(odd + i, o);
      }
      T* const row = target + wrap(2 * q + r - s, h) * ld;
      const int64_t inside = at_most((s + 1) / 2, w / 2);
      for (int64_t m = 0; m < inside; ++m)
        for (int k = 0; k < kWidth; ++k) {
          row[wrap(2 * m - s, w) * kWidth + k] = even[m * kWidth + k];
          row[wrap(2 * m + 1 - s, w) * kWidth + k] = odd[m * kWidth + k];
        }
      T* const shifted = row - before;
      for (int64_t m = inside; m < w / 2; ++m)
        for (int k = 0; k < kWidth; ++k) {
          shifted[2 * m * kWidth + k] = even[m * kWidth + k];
          shifted[(2 * m + 1) * kWidth + k] = odd[m * kWidth + k];
        }
    }
  }
}

// Memory for the approximations between levels: those of levels 1, 3, ... and 2, 4, ... share a place each.
FR_INLINE int64_t between(int64_t reals, int64_t levels) { return levels > 1 ? reals / 4 + reals / 16 : 0; }

// level(plane, l, memory, first, last) for the rows of every level l of every plane, each level after the one it reads:
// the last one first if `up`. Whole planes are tasks where there are many, strips of a level's rows elsewhere.
template <typename T, typename Level>
FR_INLINE void each_level(int64_t P, int64_t H, int64_t reals, int64_t levels, bool up, const Level& level) {
  const int64_t room = between(reals, levels);
  if (P >= kManyPlanes) {
    parallel(P, P * reals, [&](int64_t plane) {
      Scratch memory;
      T* const kept = memory.take<T>(room);
      for (int64_t i = 0; i < levels; ++i) {
        const int64_t l = up ? levels - 1 - i : i;
        level(plane, l, kept, 0, H >> (l + 1));
      }
    });
    return;
  }
  Scratch memory;
  T* const kept = memory.take<T>(P * room);
  for (int64_t i = 0; i < levels; ++i) {
    const int64_t l = up ? levels - 1 - i : i, rows = H >> (l + 1), strips = tiles_of(rows, kStrip);
    parallel(P * strips, P * reals >> (2 * l), [&](int64_t task) {
      const int64_t plane = task / strips, first = task % strips * kStrip;
      level(plane, l, kept + plane * room, first, at_most(first + kStrip, rows));
    });
  }
}

template <int kWidth, typename T, int kL>
FR_INLINE void forward(const T* x, const double* taps, T* c, int64_t P, int64_t H, int64_t W, int64_t L,
                       int64_t levels) {
  const Filters<T, kL> f(taps, L);
  const int64_t ld = W * kWidth, reals = H * ld;
  each_level<T>(P, H, reals, levels, false, [&](int64_t plane, int64_t l, T* kept, int64_t first, int64_t last) {
    T* const own[2] = {kept, kept + reals / 4};
    const int64_t h = H >> l, w = W >> l;
    const T* const source = l ? own[(l - 1) % 2] : x + plane * reals;
    T* const target = c + plane * reals;
    const bool end = l + 1 == levels;
    analyse<kWidth>(source, w * kWidth, h, w, f, end ? target : own[l % 2], end ? ld : w / 2 * kWidth, target, ld,
                    first, last);
  });
}

template <int kWidth, typename T, int kL>
FR_INLINE void inverse(const T* c, const double* taps, T* x, int64_t P, int64_t H, int64_t W, int64_t L,
                       int64_t levels) {
  const Filters<T, kL> f(taps, L);
  const int64_t ld = W * kWidth, reals = H * ld;
  each_level<T>(P, H, reals, levels, true, [&](int64_t plane, int64_t l, T* kept, int64_t first, int64_t last) {
    T* const own[2] = {kept, kept + reals / 4};
    const int64_t h = H >> l, w = W >> l;
    const T* const source = c + plane * reals;
    const bool start = l + 1 == levels;
    synthesise<kWidth>(start ? source : own[l % 2], start ? ld : w / 2 * kWidth, source, ld, f,
                       l ? own[(l - 1) % 2] : x + plane * reals, w * kWidth, h, w, first, last);
  });
}

// Lengths of common filters are compiled; the others loop.
template <int kWidth, typename T>
void run_forward(Address x, Address taps, Address c, int64_t P, int64_t H, int64_t W, int64_t L, int64_t levels) {
  const T* const from = as<const T>(x);
  const double* const g = as<const double>(taps);
  T* const to = as<T>(c);
  if (L == 2) return forward<kWidth, T, 2>(from, g, to, P, H, W, L, levels);
  if (L == 8) return forward<kWidth, T, 8>(from, g, to, P, H, W, L, levels);
  if (L == 16) return forward<kWidth, T, 16>(from, g, to, P, H, W, L, levels);
  forward<kWidth, T, 0>(from, g, to, P, H, W, L, levels);
}

template <int kWidth, typename T>
void run_inverse(Address c, Address taps, Address x, int64_t P, int64_t H, int64_t W, int64_t L, int64_t levels) {
  const T* const from = as<const T>(c);
  const double* const g = as<const double>(taps);
  T* const to = as<T>(x);
  if (L == 2) return inverse<kWidth, T, 2>(from, g, to, P, H, W, L, levels);
  if (L == 8) return inverse<kWidth, T, 8>(from, g, to, P, H, W, L, levels);
  if (L == 16) return inverse<kWidth, T, 16>(from, g, to, P, H, W, L, levels);
  inverse<kWidth, T, 0>(from, g, to, P, H, W, L, levels);
}
}  // namespace

void dwt2(int dtype, Address x, Address taps, Address c, int64_t P, int64_t H, int64_t W, int64_t L, int64_t levels) {
  by_dtype<kRealOrComplex>(
      dtype, [&](auto type) { run_forward<type.width, RealOf<decltype(type)>>(x, taps, c, P, H, W, L, levels); });
}

void idwt2(int dtype, Address c, Address taps, Address x, int64_t P, int64_t H, int64_t W, int64_t L, int64_t levels) {
  by_dtype<kRealOrComplex>(
      dtype, [&](auto type) { run_inverse<type.width, RealOf<decltype(type)>>(c, taps, x, P, H, W, L, levels); });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
