// fft2.cpp: Fourier transforms of planes whose sides have no prime factor above 7 (CPU).
// Definition: fastrecon/ops/transforms.py
//   complex dtype: y [B, U, V] = F x, unitary; `back` y = F* x; y may be x
//   real dtype: y [B, U, V / 2 + 1] complex = F x of real x [B, U, V]; `back` x of y, divided by U V, and y is lost
//   plan: 0, 0, addresses of the axes of U and of V, U, V   axis: n, roots, order, place, count, radices [count]
//   roots [n] complex of the dtype: exp(-2 pi i k / n)   order, place [n] int64: the frequency of a number when all
//   steps are done, and where a frequency lies then
// A vector holds one number of several columns, or of several rows, which are transposed on the way in and out; all
// steps of these lines are done in the cache, in place. Every line is computed alike, whatever lies beside it.
// Cooley & Tukey, Math. Comp. 19 (1965); steps by decimation in frequency: Gentleman & Sande, AFIPS 29 (1966).
#include <type_traits>

#include "tiles.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;

struct Axis {
  int64_t n;
  Address roots, order, place;
  int64_t count, radices[1];  // `count` of them
};

template <typename T>
struct Complex {
  Vec<T> re, im;
};
template <typename T>
FR_INLINE Complex<T> operator+(Complex<T> a, Complex<T> b) {
  return {a.re + b.re, a.im + b.im};
}
template <typename T>
FR_INLINE Complex<T> operator-(Complex<T> a, Complex<T> b) {
  return {a.re - b.re, a.im - b.im};
}
template <typename T>
FR_INLINE Complex<T> operator*(Complex<T> a, T b) {
  return {a.re * b, a.im * b};
}
template <typename T>
FR_INLINE Complex<T> times(Complex<T> a, T re, T im) {
  return {a.re * re - a.im * im, a.re * im + a.im * re};
}
template <typename T>
FR_INLINE Complex<T> turned(Complex<T> a) {  // -i a
  return {a.im, -a.re};
}

template <typename T>
FR_INLINE void four(Complex<T>& a, Complex<T>& b, Complex<T>& c, Complex<T>& d) {
  const Complex<T> p = a + c, q = a - c, r = b + d, s = turned(b - d);
  a = p + r, b = q + s, c = p - r, d = q - s;
}

// The transform of z [R], in place. `roots` of n numbers, of which R is a factor.
template <int R, typename T>
FR_INLINE void butterfly(Complex<T>* z, const T* roots, int64_t n) {
  if constexpr (R == 2) {
    const Complex<T> a = z[0], b = z[1];
    z[0] = a + b, z[1] = a - b;
  } else if constexpr (R == 4) {
    four(z[0], z[1], z[2], z[3]);
  } else if constexpr (R == 8) {
    constexpr T half = T(0.70710678118654752440);
    Complex<T> t[8];
    for (int k = 0; k < 4; ++k) t[k] = z[k] + z[k + 4], t[k + 4] = z[k] - z[k + 4];
    t[5] = Complex<T>{t[5].re + t[5].im, t[5].im - t[5].re} * half;  // exp(-2 pi i / 8), and its powers
    t[6] = turned(t[6]);
    t[7] = Complex<T>{t[7].im - t[7].re, -t[7].re - t[7].im} * half;
    four(t[0], t[1], t[2], t[3]), four(t[4], t[5], t[6], t[7]);
    for (int k = 0; k < 4; ++k) z[2 * k] = t[k], z[2 * k + 1] = t[4 + k];
  } else {  // odd: sums and differences of the pairs z[k], z[R - k]
    constexpr int kPairs = R / 2;
    Complex<T> sum[kPairs], difference[kPairs];
    Complex<T> total = z[0];
    for (int k = 0; k < kPairs; ++k) {
      sum[k] = z[k + 1] + z[R - 1 - k], difference[k] = turned(z[k + 1] - z[R - 1 - k]);
      total = total + sum[k];
    }
    for (int m = 1; m <= kPairs; ++m) {
      Complex<T> even = z[0], odd = {};
      for (int k = 0; k < kPairs; ++k) {
        const T* const root = roots + 2 * (n / R) * (m * (k + 1) % R);
        even = even + sum[k] * root[0], odd = odd - difference[k] * root[1];
      }
      z[m] = even + odd, z[R - m] = even - odd;
    }
    z[0] = total;
  }
}

// One step: blocks of m numbers become R blocks of m / R. load(i) gives a number, store(i, z) takes it.
template <int R, typename T, typename Load, typename Store>
FR_INLINE void step(int64_t n, int64_t m, const T* roots, const Load& load, const Store& store) {
  const int64_t blocks = n / m, part = m / R;
  for (int64_t first = 0; first < n; first += m)
    for (int64_t j = 0; j < part; ++j) {
      Complex<T> z[R];
      for (int q = 0; q < R; ++q) z[q] = load(first + j + q * part);
      butterfly<R>(z, roots, n);
      store(first + j, z[0]);
      for (int q = 1; q < R; ++q) {
        const T* const root = roots + 2 * blocks * j * q;
        store(first + j + q * part, j ? times(z[q], root[0], root[1]) : z[q]);
      }
    }
}

template <typename T, typename Load, typename Store>
FR_INLINE void step_of(int64_t radix, int64_t n, int64_t m, const T* roots, const Load& load, const Store& store) {
  switch (radix) {
    case 2:
      return step<2>(n, m, roots, load, store);
    case 3:
      return step<3>(n, m, roots, load, store);
    case 4:
      return step<4>(n, m, roots, load, store);
    case 5:
      return step<5>(n, m, roots, load, store);
    case 7:
      return step<7>(n, m, roots, load, store);
    case 8:
      return step<8>(n, m, roots, load, store);
    default:
      throw std::invalid_argument("fft2: plan: expected radices 2, 3, 4, 5, 7 or 8, got another");
  }
}

template <typename T>
FR_INLINE Complex<T> at(const T* line, int64_t i) {
  return {load(line + 2 * kLanes<T> * i), load(line + (2 * i + 1) * kLanes<T>)};
}
template <typename T>
FR_INLINE void put_at(T* line, int64_t i, Complex<T> z) {
  store(line + 2 * kLanes<T> * i, z.re);
  store(line + (2 * i + 1) * kLanes<T>, z.im);
}

// The transform of line [n] of vectors, in place and out of order.
template <typename T>
FR_ONE_COPY void in_place(const Axis& a, T* line, int64_t first, int64_t last, int64_t m) {
  for (int64_t k = first; k < last; m /= a.radices[k++])
    step_of(
        a.radices[k], a.n, m, as<const T>(a.roots), [=](int64_t i) { return at(line, i); },
        [=](int64_t i, Complex<T> z) { put_at(line, i, z); });
}

// The transform of load(i), 0 <= i < n; store(k, z) takes frequency k. `line` is room for it.
template <typename T, typename Load, typename Store>
FR_INLINE void through(const Axis& a, T* line, const Load& load, const Store& store) {
  const int64_t n = a.n, last = a.count - 1, *const order = as<const int64_t>(a.order);
  const T* const roots = as<const T>(a.roots);
  if (last < 0) return store(0, load(0));
  if (last > 0) {
    step_of(a.radices[0], n, n, roots, load, [=](int64_t i, Complex<T> z) { put_at(line, i, z); });
    in_place(a, line, 1, last, n / a.radices[0]);
  } else {
    for (int64_t i = 0; i < n; ++i) put_at(line, i, load(i));
  }
  step_of(
      a.radices[last], n, a.radices[last], roots, [=](int64_t i) { return at(line, i); },
      [=](int64_t i, Complex<T> z) { store(order[i], z); });
}

template <typename T>
struct LanesOf {
  typedef typename std::conditional<sizeof(T) == 4, std::int32_t, long long>::type Lane;
  typedef Lane type __attribute__((vector_size(kVectorBytes)));
};

// Every second run of `kRun` lanes of a changes places with that before it of b.
template <int kRun, typename T>
FR_INLINE void exchange(Vec<T>& a, Vec<T>& b) {
  typename LanesOf<T>::type first, second;
  for (int i = 0; i < kLanes<T>; ++i) {
    first[i] = i / kRun % 2 == 0 ? i : kLanes<T> + i - kRun;
    second[i] = i / kRun % 2 == 0 ? i + kRun : kLanes<T> + i;
  }
  const Vec<T> both[2] = {a, b};
  a = __builtin_shuffle(both[0], both[1], first);
  b = __builtin_shuffle(both[0], both[1], second);
}

// Of a square of vectors, each of whose numbers has kRun / kDistance lanes: the transpose.
template <int kRun, int kDistance, typename T>
FR_INLINE void transpose(Vec<T>* v) {
  if constexpr (kRun < kLanes<T>) {
    constexpr int kCount = kLanes<T> / kRun * kDistance;
    for (int i = 0; i < kCount; ++i)
      if (!(i & kDistance)) exchange<kRun, T>(v[i], v[i + kDistance]);
    transpose<2 * kRun, 2 * kDistance, T>(v);
  }
}

// Real and imaginary parts of the numbers of two vectors, and back.
template <typename T>
FR_INLINE Complex<T> apart(Vec<T> a, Vec<T> b) {
  typename LanesOf<T>::type even, odd;
  for (int i = 0; i < kLanes<T>; ++i) even[i] = 2 * i, odd[i] = 2 * i + 1;
  return {__builtin_shuffle(a, b, even), __builtin_shuffle(a, b, odd)};
}
template <typename T>
FR_INLINE void together(Complex<T> z, Vec<T>& a, Vec<T>& b) {
  typename LanesOf<T>::type low, high;
  for (int i = 0; i < kLanes<T>; ++i) {
    low[i] = i / 2 + i % 2 * kLanes<T>;
    high[i] = low[i] + kLanes<T> / 2;
  }
  a = __builtin_shuffle(z.re, z.im, low);
  b = __builtin_shuffle(z.re, z.im, high);
}
template <bool kSwap, typename T>
FR_INLINE Complex<T> swapped(Complex<T> z) {  // what the inverse transform is: of parts that change places
  return kSwap ? Complex<T>{z.im, z.re} : z;
}

// `count` <= 2 kLanes reals from p on as two vectors, with zeros beyond; and back.
template <typename T>
FR_INLINE Complex<T> pair_at(const T* p, int64_t count) {
  if (count == 2 * kLanes<T>) return {load(p), load(p + kLanes<T>)};
  T rest[2 * kLanes<T>] = {};
  std::memcpy(rest, p, count * sizeof(T));
  return {load(rest), load(rest + kLanes<T>)};
}
template <typename T>
FR_INLINE void put_pair(T* p, int64_t count, Vec<T> a, Vec<T> b) {
  if (count == 2 * kLanes<T>) {
    store(p, a), store(p + kLanes<T>, b);
    return;
  }
  T rest[2 * kLanes<T>];
  store(rest, a), store(rest + kLanes<T>, b);
  std::memcpy(p, rest, count * sizeof(T));
}
template <typename T>
FR_INLINE Vec<T> vector_at(const T* p, int64_t count) {
  if (count >= kLanes<T>) return load(p);
  T rest[kLanes<T>] = {};
  std::memcpy(rest, p, count * sizeof(T));
  return load(rest);
}
template <typename T>
FR_INLINE void put_vector(T* p, int64_t count, Vec<T> v) {
  if (count >= kLanes<T>) return store(p, v);
  T rest[kLanes<T>];
  store(rest, v);
  std::memcpy(p, rest, count * sizeof(T));
}

// Of the columns of x [n, width] complex, to y, times `scale`.
template <bool kBack, typename T>
FR_INLINE void columns(const Axis& a, const T* x, T* y, int64_t width, T scale) {
  constexpr int64_t kMany = kLanes<T>;
  parallel(tiles_of(width, kMany), 8 * a.n * width, [=, &a](int64_t group) {
    Scratch memory;
    T* const line = memory.take<T>(2 * kMany * a.n);
    const int64_t first = 2 * group * kMany, count = 2 * at_most(kMany, width - group * kMany), ld = 2 * width;
    through<T>(
        a, line,
        [=](int64_t i) {
          const Complex<T> both = pair_at(x + i * ld + first, count);
          return swapped<kBack>(apart<T>(both.re, both.im));
        },
        [=](int64_t k, Complex<T> z) {
          Vec<T> low, high;
          together<T>(swapped<kBack>(z) * scale, low, high);
          put_pair(y + k * ld + first, count, low, high);
        });
  });
}

// `rows` <= kLanes rows of n complex numbers each, `ld` reals apart, as a line of vectors; and back, of get(column).
template <bool kBack, typename T>
FR_INLINE void rows_in(const T* x, int64_t rows, int64_t n, int64_t ld, T* line) {
  constexpr int kHalf = kLanes<T> / 2;
  for (int64_t c = 0; c < n; c += kHalf) {
    const int64_t count = 2 * at_most(int64_t(kHalf), n - c);
    Vec<T> v[kLanes<T>];
    for (int64_t i = 0; i < kLanes<T>; ++i) v[i] = vector_at(x + at_most(i, rows - 1) * ld + 2 * c, count);
    transpose<2, 1, T>(v), transpose<2, 1, T>(v + kHalf);
    for (int64_t k = 0; 2 * k < count; ++k) put_at(line, c + k, swapped<kBack>(apart<T>(v[k], v[k + kHalf])));
  }
}
template <typename T, typename Get>
FR_INLINE void rows_out(const Get& get, T* y, int64_t rows, int64_t n, int64_t ld) {
  constexpr int kHalf = kLanes<T> / 2;
  for (int64_t c = 0; c < n; c += kHalf) {
    const int64_t count = 2 * at_most(int64_t(kHalf), n - c);
    Vec<T> v[kLanes<T>] = {};
    for (int64_t k = 0; 2 * k < count; ++k) together<T>(get(c + k), v[k], v[k + kHalf]);
    transpose<2, 1, T>(v), transpose<2, 1, T>(v + kHalf);
    for (int64_t i = 0; i < rows; ++i) put_vector(y + i * ld + 2 * c, count, v[i]);
  }
}

// Of the rows of x [height, n] complex, to y, times `scale`.
template <bool kBack, typename T>
FR_INLINE void rows(const Axis& a, const T* x, T* y, int64_t height, T scale) {
  constexpr int64_t kMany = kLanes<T>;
  parallel(tiles_of(height, kMany), 8 * a.n * height, [=, &a](int64_t group) {
    Scratch memory;
    T* const line = memory.take<T>(2 * kMany * a.n);
    const int64_t first = 2 * group * kMany * a.n, count = at_most(kMany, height - group * kMany);
    const int64_t* const place = as<const int64_t>(a.place);
    rows_in<kBack>(x + first, count, a.n, 2 * a.n, line);
    in_place(a, line, 0, a.count, a.n);
    rows_out<T>([=](int64_t k) { return swapped<kBack>(at(line, place[k])) * scale; }, y + first, count, a.n, 2 * a.n);
  });
}

// `rows` <= kLanes rows of n reals, as the parts of a line of vectors that lie from `line` on; and back, of
// get(column).
template <typename T>
FR_INLINE void reals_in(const T* x, int64_t rows, int64_t n, T* line) {
  constexpr int64_t kMany = kLanes<T>;
  for (int64_t c = 0; c < n; c += kMany) {
    Vec<T> v[kMany];
    for (int64_t i = 0; i < kMany; ++i) v[i] = i < rows ? vector_at(x + i * n + c, n - c) : Vec<T>{};
    transpose<1, 1, T>(v);
    for (int64_t k = 0; k < at_most(kMany, n - c); ++k) store(line + 2 * kMany * (c + k), v[k]);
  }
}
template <typename T, typename Get>
FR_INLINE void reals_out(const Get& get, T* y, int64_t rows, int64_t n) {
  constexpr int64_t kMany = kLanes<T>;
  for (int64_t c = 0; c < n; c += kMany) {
    Vec<T> v[kMany] = {};
    for (int64_t k = 0; k < at_most(kMany, n - c); ++k) v[k] = get(c + k);
    transpose<1, 1, T>(v);
    for (int64_t i = 0; i < rows; ++i) put_vector(y + i * n + c, n - c, v[i]);
  }
}

// Half the spectra of real rows x [height, n] to y [height, n / 2 + 1] complex. Rows i and i + kLanes of a group are
// the real and the imaginary part of one line.
template <typename T>
FR_INLINE void real_rows(const Axis& a, const T* x, T* y, int64_t height) {
  constexpr int64_t kMany = kLanes<T>;
  const int64_t n = a.n, half = n / 2 + 1;
  parallel(tiles_of(height, 2 * kMany), 4 * n * height, [=, &a](int64_t group) {
    Scratch memory;
    T* const line = memory.take<T>(2 * kMany * n);
    const int64_t first = 2 * group * kMany, upper = at_most(kMany, height - first);
    const int64_t lower = at_least(int64_t(0), at_most(kMany, height - first - kMany));
    const int64_t* const place = as<const int64_t>(a.place);
    reals_in(x + first * n, upper, n, line);
    reals_in(x + (first + kMany) * n, lower, n, line + kMany);
    in_place(a, line, 0, a.count, n);
    const auto both = [=](int64_t k) { return at(line, place[k]); };
    const auto mirror = [=](int64_t k) { return at(line, place[k ? n - k : 0]); };
    rows_out<T>(
        [=](int64_t k) {
          const Complex<T> z = both(k), w = mirror(k);
          return Complex<T>{z.re + w.re, z.im - w.im} * T(0.5);
        },
        y + 2 * first * half, upper, half, 2 * half);
    rows_out<T>(
        [=](int64_t k) {
          const Complex<T> z = both(k), w = mirror(k);
          return Complex<T>{z.im + w.im, w.re - z.re} * T(0.5);
        },
        y + 2 * (first + kMany) * half, lower, half, 2 * half);
  });
}

// Back: real rows x [height, n], times `scale`, of half their spectra y. The imaginary parts of frequencies that have
// none are not looked at.
template <typename T>
FR_INLINE void rows_of_reals(const Axis& a, const T* y, T* x, int64_t height, T scale) {
  constexpr int64_t kMany = kLanes<T>;
  const int64_t n = a.n, half = n / 2 + 1;
  parallel(tiles_of(height, 2 * kMany), 4 * n * height, [=, &a](int64_t group) {
    Scratch memory;
    T* const line = memory.take<T>(2 * kMany * n);
    T* const other = memory.take<T>(2 * kMany * half);
    const int64_t first = 2 * group * kMany, upper = at_most(kMany, height - first);
    const int64_t lower = at_least(int64_t(0), at_most(kMany, height - first - kMany));
    const int64_t* const place = as<const int64_t>(a.place);
    rows_in<false>(y + 2 * first * half, upper, half, 2 * half, line);
    if (lower > 0)
      rows_in<false>(y + 2 * (first + kMany) * half, lower, half, 2 * half, other);
    else
      std::memset(other, 0, 2 * kMany * half * sizeof(T));
    for (int64_t k = 0; k < half; ++k) {
      Complex<T> u = at(line, k), w = at(other, k);
      if (2 * k % n == 0) u.im = w.im = Vec<T>{};
      const Complex<T> here = {u.re - w.im, u.im + w.re}, there = {u.re + w.im, w.re - u.im};
      put_at(line, k, swapped<true>(here));
      if (2 * k % n != 0) put_at(line, n - k, swapped<true>(there));
    }
    in_place(a, line, 0, a.count, n);
    reals_out<T>([=](int64_t k) { return at(line, place[k]).im * scale; }, x + first * n, upper, n);
    if (lower > 0)
      reals_out<T>([=](int64_t k) { return at(line, place[k]).re * scale; }, x + (first + kMany) * n, lower, n);
  });
}
}  // namespace

void fft2(int dtype, bool back, Address x, Address y, Address plan, int64_t B) {
  by_dtype<kRealOrComplex>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    const Address* const table = as<const Address>(plan);
    const Axis &down = *as<const Axis>(table[2]), &along = *as<const Axis>(table[3]);
    const int64_t U = down.n, V = along.n, half = V / 2 + 1;
    const T whole = T(1 / double(U * V)), root = T(1 / square_root(double(U * V)));
    for (int64_t b = 0; b < B; ++b) {
      if constexpr (type.width == 1) {
        T *const real = as<T>(x) + b * U * V, *const spectrum = as<T>(y) + 2 * b * U * half;
        if (back) {
          columns<true>(down, spectrum, spectrum, half, T(1));
          rows_of_reals(along, spectrum, real, U, whole);
        } else {
          real_rows(along, real, spectrum, U);
          columns<false>(down, spectrum, spectrum, half, T(1));
        }
      } else {
        const T* const from = as<const T>(x) + 2 * b * U * V;
        T* const to = as<T>(y) + 2 * b * U * V;
        if (back) {
          rows<true>(along, from, to, U, T(1));
          columns<true>(down, to, to, V, root);
        } else {
          columns<false>(down, from, to, V, T(1));
          rows<false>(along, to, to, U, root);
        }
      }
    }
  });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
