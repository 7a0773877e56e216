// feature_gradient.cpp: value and gradient of the learned regulariser, and the derivative of both (CPU).
// Definition and formulas: fastrecon/ops/feature_gradient.py
//
//   x, grad [B, Cin, H, W]   eps, value [B]   weights: w_1 [C, Cin, 3, 3], w_2 .. w_L [C, C, 3, 3] one after the other
//
// An image is cut into bands of rows, one a task: feature_band.h. Sums are in double, of bands in their order.
#include "feature_band.h"
#ifdef FASTRECON_TILES
#include "feature_tiles.h"
#endif

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {

constexpr int kSmallImage = 128;  // rows below which an image is one band
constexpr int kBandRows = 32;     // rows a band has at least
constexpr int kNarrow = 8;  // side below which float32 images are convolved directly: tiles would be mostly padding
// Pixels below which packing bfloat16 weights takes longer than their products save: on tiles, and by vectors.
[[maybe_unused]] constexpr int kTinyOnTiles = 48, kTiny = 256;

// Bands depend on the image and on threads(), never on the batch: image i has the same bits in any batch.
int count_bands(int H) { return H < kSmallImage ? 1 : at_most(fastrecon::threads(), (H + kBandRows - 1) / kBandRows); }

// The workers' sums, added in their order, as gradients of the weights.
template <typename T>
void collect(const Shape& s, bool direct, const T* sums, int64_t size, int workers, T* d_weights) {
  const int64_t points = int64_t(kPoints) * s.Cp * s.Cp;
  const T* first = sums + (s.L - 1) * points;
  for (int c = 0; c < s.C; ++c)
    for (int k = 0; k < 9 * s.Cin; ++k) {
      double sum = 0;
      for (int i = 0; i < workers; ++i) sum += first[i * size + k * s.Cp + c];
      d_weights[c * 9 * s.Cin + k] = T(sum);
    }
  T* to = d_weights + int64_t(9) * s.C * s.Cin;
  parallel(int64_t(s.L - 1) * s.C, (s.L - 1) * points * workers, [&](int64_t task) {
    const int64_t l = task / s.C, ci = task % s.C;
    for (int co = 0; co < s.C; ++co) {
      double D[kPoints], taps[9];
      for (int p = 0; p < (direct ? 9 : kPoints); ++p) {
        D[p] = 0;
        for (int i = 0; i < workers; ++i) D[p] += sums[i * size + l * points + (int64_t(p) * s.Cp + ci) * s.Cp + co];
      }
      if (!direct) points_to_kernel(D, taps);
      for (int i = 0; i < 9; ++i) to[((l * s.C + co) * s.C + ci) * 9 + i] = T(direct ? D[i] : taps[i]);
    }
  });
}

template <typename T>
struct Arguments {
  int64_t B;
  Shape s;
  double delta;
  bool final_activation;
  Products products;
  const T *x, *weights, *eps;
  T *value, *grad;  // of the derivative: d_eps, d_x
  double* sums;     // of a tile, in place of the value: of the pixels counted, not rounded
  Window counted;
  const T *d_value, *d_grad;  // kTangent
  T* d_weights;               // kTangent
};

// Rows of band `band` out of `bands`.
Range rows_of(int H, int64_t band, int64_t bands) { return {int(H * band / bands), int(H * (band + 1) / bands)}; }

template <typename T>
int64_t work_of(const Arguments<T>& a) {
  return a.B * a.s.H * a.s.W * a.s.L * a.s.Cp;
}

template <typename T>
FR_INLINE void tell(const Arguments<T>& a, int64_t b, double value) {
  if (a.sums)
    a.sums[b] = value;
  else
    a.value[b] = T(value);
}

template <int kC, Pass kPass, Products kProducts, typename T>
void run(const Arguments<T>& a) {
  const Shape& s = a.s;
  using Worker = Band<T, kC, kPass, kProducts>;
  constexpr bool kTangent = kPass == Pass::kTangent;
  Scratch memory;
  const Weights<T> w = pack(s, a.weights, kProducts, memory.take<T>(packed_size<T>(s)));
  const int bands = count_bands(s.H);
  const int64_t image = int64_t(s.Cin) * s.H * s.W;
  const auto value_of = [&](int64_t b, int64_t band, T* d_weights) {
    const Range rows = rows_of(s.H, band, bands);
    Scratch own;
    Worker worker(s, w, a.delta, a.final_activation, rows.lo, rows.hi, a.counted);
    worker.allocate(own);
    typename Worker::Output out{a.grad ? a.grad + b * image : nullptr, d_weights, 0};
    worker.run(a.x + b * image, kTangent ? a.d_grad + b * image : nullptr, a.eps[b], kTangent ? a.d_value[b] : T(0),
               out);
    return out.value;
  };
  if constexpr (kTangent) {
    const int64_t sums = (s.L - 1) * int64_t(kPoints) * s.Cp * s.Cp + 9 * s.Cin * s.Cp, tasks = a.B * bands;
    const int workers = int(at_most(int64_t(fastrecon::threads()), tasks));
    double* const partial = memory.take<double>(tasks);
    T* const d_points = memory.take<T>(workers * sums);
    // tasks to sums by number: the same ones on every run, whoever makes them
    parallel(workers, work_of(a), [&](int64_t k) {
      T* mine = d_points + k * sums;
      for (int64_t i = 0; i < sums; ++i) mine[i] = 0;
      for (int64_t i = tasks * k / workers; i < tasks * (k + 1) / workers; ++i)
        partial[i] = value_of(i / bands, i % bands, mine);
    });
    collect(s, kProducts == Products::kDirect, d_points, sums, workers, a.d_weights);
    for (int64_t b = 0; b < a.B; ++b) a.value[b] = T(add_up(partial + b * bands, bands));
  } else {
    const auto part = [&](int64_t b, int64_t band, double* value) { *value = value_of(b, band, nullptr); };
    sum_per_image<1>(a.B, bands, work_of(a), part, [&](int64_t b, const double* value) { tell(a, b, *value); });
  }
}

[[maybe_unused]] bool direct(Products products, int64_t H, int64_t W) {
  return products == Products::kDirect || at_most(H, W) < kNarrow;
}

#ifdef FASTRECON_TILES
template <int kC, Pass kPass>
void run_tiles(const Arguments<float>& a) {
  const Shape& s = a.s;
  using Worker = TileBand<kC, kPass>;
  Scratch memory;
  const TileWeights w = pack_tiles(s, a.weights, memory.take<float>(TileWeights::size(s)));
  const int bands = count_bands(s.H);
  const int64_t image = int64_t(s.Cin) * s.H * s.W;
  const auto part = [&](int64_t b, int64_t band, double* value) {
    const Range rows = rows_of(s.H, band, bands);
    Scratch own;
    Worker worker(s, w, a.delta, a.final_activation, rows.lo, rows.hi, a.counted);
    worker.allocate(own);
    typename Worker::Output out{a.grad ? a.grad + b * image : nullptr, 0};
    worker.run(a.x + b * image, a.eps[b], out);
    *value = out.value;
  };
  sum_per_image<1>(a.B, bands, work_of(a), part, [&](int64_t b, const double* value) { tell(a, b, *value); });
}
#endif

// Whether this unit has products of bfloat16 numbers that are faster than those of float32, and the call asks for them.
bool half(int dtype, int products, int64_t H, int64_t W, int64_t C) {
  if (dtype != kFloat32 || Products(products) != Products::kHalf) return false;
#if defined(FASTRECON_TILES)
  // 16 channels would leave three quarters of the tiles idle
  return C > kTile && C <= kMaxWidth && H * W >= kTinyOnTiles;
#elif defined(__AVX512BF16__)
  return !direct(Products::kHalf, H, W) && H * W >= kTiny;
#else
  return false;
#endif
}

template <Pass kPass>
void dispatch_half(Arguments<float> a) {
#if defined(FASTRECON_TILES)
  a.s.Cp = round_up(a.s.C, kBlock);
  if (a.s.Cp == 32) return run_tiles<32, kPass>(a);
  run_tiles<0, kPass>(a);
#elif defined(__AVX512BF16__)
  if (a.s.Cp == 32) return run<32, kPass, Products::kHalf>(a);
  run<0, kPass, Products::kHalf>(a);
#endif
}

template <Pass kPass, typename T>
void dispatch(const Arguments<T>& a) {
  if constexpr (sizeof(T) == 4) {
    if (direct(a.products, a.s.H, a.s.W)) return run<0, kPass, Products::kDirect>(a);
    if (a.s.Cp == 32) return run<32, kPass, Products::kWinograd>(a);
  }
  run<0, kPass, Products::kWinograd>(a);
}

template <typename T>
Arguments<T> arguments(int64_t B, int64_t Cin, int64_t H, int64_t W, int64_t C, int64_t L, double delta,
                       bool final_activation, int products, Address weights, Address eps, Address value) {
  Arguments<T> a{};
  a.B = B, a.s = {int(Cin), int(H), int(W), int(C), round_up(int(C), kLanes<T>), int(L), int((W + 3) / 4)};
  a.delta = delta, a.final_activation = final_activation, a.products = Products(products);
  a.weights = as<const T>(weights), a.eps = as<const T>(eps), a.value = as<T>(value);
  a.counted = {{0, int(H)}, {0, int(W)}};
  return a;
}

// Runs the pass on the arguments make(Numbers<1, T>()); `in_half` with products of bfloat16 numbers.
template <Pass kPass, typename F>
void start(int dtype, bool in_half, const F& make) {
  if (in_half) return dispatch_half<kPass>(make(Numbers<1, float>()));
#ifndef FASTRECON_EXTENDS
  by_dtype<kReal>(dtype, [&](auto type) { dispatch<kPass>(make(type)); });
#endif
}
}  // namespace

void feature_gradient_fwd(int dtype, Address x, Address weights, Address eps, Address value, Address grad, int64_t B,
                          int64_t Cin, int64_t H, int64_t W, int64_t C, int64_t L, double delta, bool final_activation,
                          int products) {
  const bool here = half(dtype, products, H, W, C);
#ifdef FASTRECON_EXTENDS
  if (!here)
    return FASTRECON_EXTENDS::feature_gradient_fwd(dtype, x, weights, eps, value, grad, B, Cin, H, W, C, L, delta,
                                                   final_activation, products);
#endif
  start<Pass::kBoth>(dtype, here, [&](auto type) {
    using T = RealOf<decltype(type)>;
    auto a = arguments<T>(B, Cin, H, W, C, L, delta, final_activation, products, weights, eps, value);
    a.x = as<const T>(x), a.grad = as<T>(grad);
    return a;
  });
}

void feature_gradient_value(int dtype, Address x, Address weights, Address eps, Address value, int64_t B, int64_t Cin,
                            int64_t H, int64_t W, int64_t C, int64_t L, double delta, bool final_activation,
                            int products) {
  const bool here = half(dtype, products, H, W, C);
#ifdef FASTRECON_EXTENDS
  if (!here)
    return FASTRECON_EXTENDS::feature_gradient_value(dtype, x, weights, eps, value, B, Cin, H, W, C, L, delta,
                                                     final_activation, products);
#endif
  start<Pass::kUp>(dtype, here, [&](auto type) {
    using T = RealOf<decltype(type)>;
    auto a = arguments<T>(B, Cin, H, W, C, L, delta, final_activation, products, weights, eps, value);
    a.x = as<const T>(x);
    return a;
  });
}

// One tile of a larger image, its margin included: `value` [B] double is of the pixels in rows top <= r < bottom and
// columns left <= c < right alone.
void feature_gradient_tile(int dtype, Address x, Address weights, Address eps, Address value, Address grad, int64_t B,
                           int64_t Cin, int64_t H, int64_t W, int64_t C, int64_t L, double delta, bool final_activation,
                           int products, int64_t top, int64_t bottom, int64_t left, int64_t right) {
  const bool here = half(dtype, products, H, W, C);
#ifdef FASTRECON_EXTENDS
  if (!here)
    return FASTRECON_EXTENDS::feature_gradient_tile(dtype, x, weights, eps, value, grad, B, Cin, H, W, C, L, delta,
                                                    final_activation, products, top, bottom, left, right);
#endif
  start<Pass::kBoth>(dtype, here, [&](auto type) {
    using T = RealOf<decltype(type)>;
    auto a = arguments<T>(B, Cin, H, W, C, L, delta, final_activation, products, weights, eps, value);
    a.x = as<const T>(x), a.grad = as<T>(grad), a.sums = as<double>(value);
    a.counted = {{int(top), int(bottom)}, {int(left), int(right)}};
    return a;
  });
}

void feature_value_tile(int dtype, Address x, Address weights, Address eps, Address value, int64_t B, int64_t Cin,
                        int64_t H, int64_t W, int64_t C, int64_t L, double delta, bool final_activation, int products,
                        int64_t top, int64_t bottom, int64_t left, int64_t right) {
  const bool here = half(dtype, products, H, W, C);
#ifdef FASTRECON_EXTENDS
  if (!here)
    return FASTRECON_EXTENDS::feature_value_tile(dtype, x, weights, eps, value, B, Cin, H, W, C, L, delta,
                                                 final_activation, products, top, bottom, left, right);
#endif
  start<Pass::kUp>(dtype, here, [&](auto type) {
    using T = RealOf<decltype(type)>;
    auto a = arguments<T>(B, Cin, H, W, C, L, delta, final_activation, products, weights, eps, value);
    a.x = as<const T>(x), a.sums = as<double>(value);
    a.counted = {{int(top), int(bottom)}, {int(left), int(right)}};
    return a;
  });
}

#ifndef FASTRECON_EXTENDS
void feature_gradient_vjp(int dtype, Address d_value, Address d_grad, Address x, Address weights, Address eps,
                          Address d_x, Address d_weights, Address d_eps, int64_t B, int64_t Cin, int64_t H, int64_t W,
                          int64_t C, int64_t L, double delta, bool final_activation, int products) {
  const auto make = [&](auto type) {
    using T = RealOf<decltype(type)>;
    auto a = arguments<T>(B, Cin, H, W, C, L, delta, final_activation, products, weights, eps, d_eps);
    a.x = as<const T>(x), a.grad = as<T>(d_x), a.d_weights = as<T>(d_weights);
    a.d_value = as<const T>(d_value), a.d_grad = as<const T>(d_grad);
    return a;
  };
  by_dtype<kReal>(dtype, [&](auto type) { dispatch<Pass::kTangent>(make(type)); });
}
#endif
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
