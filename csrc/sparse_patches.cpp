// sparse_patches.cpp: how far patches of 8x8 pixels are from sparse in the cosine transform, and its gradient (CPU).
// Definition: fastrecon/ops/sparse_patches.py
//   x, grad [B, H, W], real   value [B] double
//
// The transform is separable, and neighbouring patches share their columns: 8 numbers a pixel after the first of two
// passes of length 8 each. A row of patches after the other goes forth, through the slopes of the potential and back.
// Logarithms are added up as products of mantissas and sums of exponents: one logarithm a patch.
#include "power.h"
#include "tiles.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;
constexpr int kSide = 8, kPairs = kSide * kSide / 2;
constexpr int64_t kBand = 64;  // rows of a task, which computes the 7 rows of patches above them once more

template <typename T>
struct Cosines {  // of the orthonormal transform of 8 numbers
  static constexpr T kMean = T(0.35355339059327376220), kWide = T(0.46193976625564337806),
                     kNarrow = T(0.19134171618254488586), k1 = T(0.49039264020161522456),
                     k3 = T(0.41573480615127261854), k5 = T(0.27778511650980111237), k7 = T(0.09754516100806413392);
};

// The odd frequencies of differences d, or these differences, halved, of them: the matrix is symmetric.
template <typename T, typename V>
FR_INLINE void odd(const V (&d)[4], V (&c)[4]) {
  using C = Cosines<T>;
  c[0] = C::k1 * d[0] + C::k3 * d[1] + C::k5 * d[2] + C::k7 * d[3];
  c[1] = C::k3 * d[0] - C::k7 * d[1] - C::k1 * d[2] - C::k5 * d[3];
  c[2] = C::k5 * d[0] - C::k1 * d[1] + C::k7 * d[2] + C::k3 * d[3];
  c[3] = C::k7 * d[0] - C::k5 * d[1] + C::k3 * d[2] - C::k1 * d[3];
}

template <typename T, typename V>
FR_INLINE void cosine(const V (&x)[kSide], V (&c)[kSide]) {
  using C = Cosines<T>;
  V s[4], d[4], o[4];
  for (int i = 0; i < 4; ++i) s[i] = x[i] + x[7 - i], d[i] = x[i] - x[7 - i];
  const V outer = s[0] + s[3], inner = s[1] + s[2], far = s[0] - s[3], near = s[1] - s[2];
  c[0] = C::kMean * (outer + inner), c[4] = C::kMean * (outer - inner);
  c[2] = C::kWide * far + C::kNarrow * near, c[6] = C::kNarrow * far - C::kWide * near;
  odd<T>(d, o);
  for (int i = 0; i < 4; ++i) c[2 * i + 1] = o[i];
}

template <typename T, typename V>
FR_INLINE void cosine_adjoint(const V (&c)[kSide], V (&x)[kSide]) {
  using C = Cosines<T>;
  const V outer = C::kMean * (c[0] + c[4]), inner = C::kMean * (c[0] - c[4]);
  const V far = C::kWide * c[2] + C::kNarrow * c[6], near = C::kNarrow * c[2] - C::kWide * c[6];
  const V s[4] = {outer + far, inner + near, inner - near, outer - far}, o[4] = {c[1], c[3], c[5], c[7]};
  V d[4];
  odd<T>(o, d);
  for (int i = 0; i < 4; ++i) x[i] = s[i] + d[i], x[7 - i] = s[i] - d[i];
}

template <typename T>
struct BitsOf {
  typedef typename Format<T>::Bits type __attribute__((vector_size(kVectorBytes)));
};

// A row of patches: its coefficients' potentials and slopes, forth and back.
template <typename T>
class Row {
  using V = Vec<T>;
  using Bits = typename BitsOf<T>::type;
  using F = Format<T>;
  static constexpr typename F::Bits kDigits = (typename F::Bits(1) << F::kMantissa) - 1;
  static constexpr double kLogOfTwo = 0.69314718055994530942;
  static constexpr T kMost = sizeof(T) == 4 ? T(1e18) : T(1e150);  // of 1 + (c / radius)^2: pairs of them are finite

 public:
  FR_INLINE Row(int64_t width, T radius)
      : n_(width - kSide + 1), padded_((width + kLanes<T> - 1) / kLanes<T> * kLanes<T>),
        stride_(padded_ + kSide + kLanes<T>), inverse_(1 / (radius * radius)), factor_(2 * inverse_ / (kSide * kSide)) {
    columns_ = memory_.take<T>(3 * kSide * stride_);
    back_ = columns_ + kSide * stride_, slopes_ = back_ + kSide * stride_;
    mantissas_ = memory_.take<T>(padded_);
    exponents_ = memory_.take<typename F::Bits>(padded_);
    for (int64_t i = 0; i < 3 * kSide * stride_; ++i) columns_[i] = 0;
  }
  Row(const Row&) = delete;
  Row& operator=(const Row&) = delete;

  // Patches whose first row is at x, of `width` numbers each; adds their gradient to rows `from` to `to` of them in
  // grad. Returns 64 times the sum of their potentials.
  FR_INLINE double operator()(const T* x, T* grad, int64_t width, int from, int to) {
    V strange = {};  // 0, or NaN where a number is none
    for (int64_t j = 0; j < padded_; j += kLanes<T>) {
      V v[kSide], c[kSide];
      for (int i = 0; i < kSide; ++i) v[i] = part(x + i * width, j, width);
      for (int i = 0; i < kSide; ++i) strange += 0 * v[i];
      cosine<T>(v, c);
      for (int k = 0; k < kSide; ++k) store(columns_ + k * stride_ + j, c[k]);
      store(mantissas_ + j, splat<T>(1));
      put(exponents_ + j, Bits{});
    }
    for (int k = 0; k < kSide; ++k) {
      for (int64_t j = 0; j < n_; j += kLanes<T>) potentials(k, j);
      for (int i = 0; i < kSide; ++i)  // beyond the last patch
        for (int64_t j = n_; j < padded_; ++j) slopes_[i * stride_ + kSide - 1 + j] = 0;
      for (int64_t j = 0; j < padded_; j += kLanes<T>) {
        V sum = load(slopes_ + kSide - 1 + j);
        for (int i = 1; i < kSide; ++i) sum += load(slopes_ + i * stride_ + kSide - 1 + j - i);
        store(back_ + k * stride_ + j, sum);
      }
    }
    for (int64_t j = 0; j < padded_; j += kLanes<T>) {
      V c[kSide], v[kSide];
      for (int k = 0; k < kSide; ++k) c[k] = load(back_ + k * stride_ + j);
      cosine_adjoint<T>(c, v);
      for (int i = from; i < to; ++i) add(grad + i * width, j, width, v[i]);
    }
    return logarithms() + sum_in_pairs<T>(strange);
  }

 private:
  // Numbers j to j + kLanes of a row, 0 beyond its end.
  static FR_INLINE V part(const T* row, int64_t j, int64_t width) {
    if (j + kLanes<T> <= width) return load(row + j);
    T copy[kLanes<T>] = {};
    for (int64_t i = j; i < width; ++i) copy[i - j] = row[i];
    return load(copy);
  }
  static FR_INLINE void add(T* row, int64_t j, int64_t width, V v) {
    if (j + kLanes<T> <= width) return store(row + j, load(row + j) + v);
    T copy[kLanes<T>];
    store(copy, part(row, j, width) + v);
    for (int64_t i = j; i < width; ++i) row[i] = copy[i - j];
  }

  // Of vertical frequency k the patches j to j + kLanes.
  FR_INLINE void potentials(int k, int64_t j) {
    V v[kSide], c[kSide];
    for (int i = 0; i < kSide; ++i) v[i] = load(columns_ + k * stride_ + j + i);
    cosine<T>(v, c);
    if (k == 0) c[0] = V{};  // the mean
    V mantissa = load(mantissas_ + j);
    Bits exponent = get<Bits>(exponents_ + j);
    for (int i = 0; i < kSide; i += 2) {
      const V a = at_most(splat<T>(kMost), 1 + c[i] * c[i] * inverse_);
      const V b = at_most(splat<T>(kMost), 1 + c[i + 1] * c[i + 1] * inverse_);
      const V both = a * b, share = factor_ / both;
      c[i] *= b * share, c[i + 1] *= a * share;
      const Bits bits = bits_as<Bits>(both);
      exponent += bits >> F::kMantissa;
      mantissa *= bits_as<V>((bits & kDigits) | F::kOne);
    }
    store(mantissas_ + j, mantissa);
    put(exponents_ + j, exponent);
    cosine_adjoint<T>(c, v);
    for (int i = 0; i < kSide; ++i) store(slopes_ + i * stride_ + kSide - 1 + j, v[i]);
  }

  // Of the products of all patches, added up.
  FR_INLINE double logarithms() {
    constexpr T before = T((kPairs - 1) * (int64_t(F::kOne) >> F::kMantissa));  // of the offset of kPairs exponents
    for (int64_t j = 0; j < n_; ++j) {
      T e, log;
      log2_parts(mantissas_[j], e, log);
      mantissas_[j] = bits_as<T>(exponents_[j] | F::kExponent) - F::kOffset - before + e + log;
    }
    return kLogOfTwo * sum(mantissas_, n_);
  }

  int64_t n_, padded_, stride_;
  T inverse_, factor_;
  Scratch memory_;
  T *columns_, *back_, *slopes_, *mantissas_;
  typename F::Bits* exponents_;
};

template <typename T>
FR_INLINE void value_and_gradient(const T* x, T* grad, double* value, T radius, int64_t B, int64_t H, int64_t W) {
  const int64_t bands = tiles_of(H, kBand), above = kSide - 1, plane = H * W;
  sum_per_image<1>(
      B, bands, B * H * W * kSide * kSide,
      [=](int64_t b, int64_t band, double* total) {
        const int64_t first = band * kBand, end = at_most(H, first + kBand);
        const T* const image = x + b * plane;
        T* const out = grad + b * plane;
        *total = 0;
        for (int64_t i = first * W; i < end * W; ++i) out[i] = 0;
        if (W < kSide) return;
        Row<T> row(W, radius);
        for (int64_t i = at_least(int64_t(0), first - above); i < at_most(end, H - above); ++i) {
          const int from = int(at_least(int64_t(0), first - i)), to = int(at_most(int64_t(kSide), end - i));
          const double found = row(image + i * W, out + i * W, W, from, to);
          *total += i < first ? 0 : found;
        }
      },
      [=](int64_t b, const double* total) { value[b] = *total / (kSide * kSide); });
}
}  // namespace

void sparse_patches(int dtype, Address x, Address grad, Address value, double radius, std::int64_t B, std::int64_t H,
                    std::int64_t W) {
  by_dtype<kReal>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    value_and_gradient<T>(as<const T>(x), as<T>(grad), as<double>(value), T(radius), B, H, W);
  });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
