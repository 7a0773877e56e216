// feature_gradient.cpp: value and gradient of the learned regulariser, and the derivative of both (CPU).
// Definition and formulas: fastrecon/ops/feature_gradient.py
//
//   x, grad [B, Cin, H, W]   eps, value [B]   weights: w_1 [C, Cin, 3, 3], w_2 .. w_L [C, C, 3, 3] one after the other
//
// An image is cut into bands of rows, one a task; see feature_band.h. Sums of a band are in double, bands are added in order.
#include "feature_band.h"
#ifdef FASTRECON_TILES
#include "feature_tiles.h"
#endif

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {

constexpr int kSmallImage = 128;  // rows below which an image is one band
constexpr int kBandRows = 32;     // rows a band has at least
constexpr int kNarrow = 8;        // side below which float32 images are convolved directly: tiles would be mostly padding
// Pixels below which packing bfloat16 weights takes longer than their products save: on tiles, and by vectors.
[[maybe_unused]] constexpr int kTinyOnTiles = 48, kTiny = 256;

// Bands depend on the image and on threads(), never on the batch: image i has the same bits in any batch.
int count_bands(int H) { return H < kSmallImage ? 1 : smaller(fastrecon::threads(), (H + kBandRows - 1) / kBandRows); }

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

// Memory of one call.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count) : data_(static_cast<T*>(std::aligned_alloc(64, (sizeof(T) * count + 127) / 64 * 64))) {
    if (!data_) throw std::bad_alloc();
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }
  T* get() const { return data_; }

 private:
  T* data_;
};

template <typename T>
struct Arguments {
  int64_t B;
  Shape s;
  double delta;
  bool final_activation;
  Products products;
  const T *x, *weights, *eps;
  T *value, *grad;            // of the derivative: d_eps, d_x
  const T *d_value, *d_grad;  // kTangent
  T* d_weights;               // kTangent
};

// Each image's value from those of its bands, in their order.
template <typename T>
void add_bands(const Arguments<T>& a, int bands, const double* partial) {
  for (int64_t b = 0; b < a.B; ++b) {
    double sum = 0;
    for (int i = 0; i < bands; ++i) sum += partial[b * bands + i];
    a.value[b] = T(sum);
  }
}

template <int kC, Pass kPass, Products kProducts, typename T>
void run(const Arguments<T>& a) {
  const Shape& s = a.s;
  using Worker = Band<T, kC, kPass, kProducts>;
  constexpr bool kTangent = kPass == Pass::kTangent;
  Buffer<T> packed(packed_size<T>(s));
  const Weights<T> w = pack(s, a.weights, kProducts, packed.get());
  const int bands = count_bands(s.H);
  const int64_t image = int64_t(s.Cin) * s.H * s.W, tasks = a.B * bands, work = a.B * s.H * s.W * s.L * s.Cp;
  Buffer<double> partial(tasks);
  const auto task = [&](int64_t i, T* d_weights) {
    const int64_t b = i / bands, band = i % bands;
    Worker worker(s, w, a.delta, a.final_activation, int(s.H * band / bands), int(s.H * (band + 1) / bands));
    scratch.reserve(worker.bytes());
    worker.allocate(scratch);
    typename Worker::Output out{a.grad ? a.grad + b * image : nullptr, d_weights, 0};
    worker.run(a.x + b * image, kTangent ? a.d_grad + b * image : nullptr, a.eps[b], kTangent ? a.d_value[b] : T(0), out);
    partial.get()[i] = out.value;
  };
  if constexpr (kTangent) {
    const int64_t sums = (s.L - 1) * int64_t(kPoints) * s.Cp * s.Cp + 9 * s.Cin * s.Cp;
    const int workers = int(smaller(int64_t(fastrecon::threads()), tasks));
    Buffer<T> d_points(workers * sums);
    parallel(workers, work, [&](int64_t k) {  // tasks to sums by number: the same ones on every run, whoever makes them
      T* mine = d_points.get() + k * sums;
      for (int64_t i = 0; i < sums; ++i) mine[i] = 0;
      for (int64_t i = tasks * k / workers; i < tasks * (k + 1) / workers; ++i) task(i, mine);
    });
    collect(s, kProducts == Products::kDirect, d_points.get(), sums, workers, a.d_weights);
  } else {
    parallel(tasks, work, [&](int64_t i) { task(i, nullptr); });
  }
  add_bands(a, bands, partial.get());
}

[[maybe_unused]] bool direct(Products products, int64_t H, int64_t W) { return products == Products::kDirect || smaller(H, W) < kNarrow; }

#ifdef FASTRECON_TILES
template <int kC, Pass kPass>
void run_tiles(const Arguments<float>& a) {
  const Shape& s = a.s;
  Buffer<float> packed(TileWeights::size(s));
  const TileWeights w = pack_tiles(s, a.weights, packed.get());
  const int bands = count_bands(s.H);
  const int64_t image = int64_t(s.Cin) * s.H * s.W, tasks = a.B * bands, work = a.B * s.H * s.W * s.L * s.Cp;
  Buffer<double> partial(tasks);
  parallel(tasks, work, [&](int64_t i) {
    const int64_t b = i / bands, band = i % bands;
    TileBand<kC, kPass> worker(s, w, a.delta, a.final_activation, int(s.H * band / bands), int(s.H * (band + 1) / bands));
    scratch.reserve(worker.bytes());
    worker.allocate(scratch);
    typename TileBand<kC, kPass>::Output out{a.grad ? a.grad + b * image : nullptr, 0};
    worker.run(a.x + b * image, a.eps[b], out);
    partial.get()[i] = out.value;
  });
  add_bands(a, bands, partial.get());
}
#endif

// Whether this unit has products of bfloat16 numbers that are faster than those of float32, and the call asks for them.
bool half(int dtype, int products, int64_t H, int64_t W, int64_t C) {
  if (dtype != kFloat32 || Products(products) != Products::kHalf) return false;
#if defined(FASTRECON_TILES)
  return C > kTile && C <= kMaxWidth && H * W >= kTinyOnTiles;  // 16 channels would leave three quarters of the tiles idle
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
T* as(Address a) {
  return reinterpret_cast<T*>(a);
}

template <typename T>
Arguments<T> arguments(int64_t B, int64_t Cin, int64_t H, int64_t W, int64_t C, int64_t L, double delta, bool final_activation, int products,
                       Address weights, Address eps, Address value) {
  Arguments<T> a{};
  a.B = B, a.s = {int(Cin), int(H), int(W), int(C), round_up(int(C), kLanes<T>), int(L), int((W + 3) / 4)};
  a.delta = delta, a.final_activation = final_activation, a.products = Products(products);
  a.weights = as<const T>(weights), a.eps = as<const T>(eps), a.value = as<T>(value);
  return a;
}

// Runs the pass on make(float()) or make(double()), the arguments; `in_half` with products of bfloat16 numbers.
template <Pass kPass, typename F>
void start(int dtype, bool in_half, const F& make) {
  if (in_half) return dispatch_half<kPass>(make(float()));
#ifndef FASTRECON_EXTENDS
  if (dtype == kFloat32) return dispatch<kPass>(make(float()));
  dispatch<kPass>(make(double()));
#endif
}
}  // namespace

void feature_gradient_fwd(int dtype, Address x, Address weights, Address eps, Address value, Address grad, int64_t B, int64_t Cin,
                          int64_t H, int64_t W, int64_t C, int64_t L, double delta, bool final_activation, int products) {
  const bool here = half(dtype, products, H, W, C);
#ifdef FASTRECON_EXTENDS
  if (!here)
    return FASTRECON_EXTENDS::feature_gradient_fwd(dtype, x, weights, eps, value, grad, B, Cin, H, W, C, L, delta, final_activation, products);
#endif
  start<Pass::kBoth>(dtype, here, [&](auto zero) {
    using T = decltype(zero);
    auto a = arguments<T>(B, Cin, H, W, C, L, delta, final_activation, products, weights, eps, value);
    a.x = as<const T>(x), a.grad = as<T>(grad);
    return a;
  });
}

void feature_gradient_value(int dtype, Address x, Address weights, Address eps, Address value, int64_t B, int64_t Cin, int64_t H,
                            int64_t W, int64_t C, int64_t L, double delta, bool final_activation, int products) {
  const bool here = half(dtype, products, H, W, C);
#ifdef FASTRECON_EXTENDS
  if (!here)
    return FASTRECON_EXTENDS::feature_gradient_value(dtype, x, weights, eps, value, B, Cin, H, W, C, L, delta, final_activation, products);
#endif
  start<Pass::kUp>(dtype, here, [&](auto zero) {
    using T = decltype(zero);
    auto a = arguments<T>(B, Cin, H, W, C, L, delta, final_activation, products, weights, eps, value);
    a.x = as<const T>(x);
    return a;
  });
}

#ifndef FASTRECON_EXTENDS
void feature_gradient_vjp(int dtype, Address d_value, Address d_grad, Address x, Address weights, Address eps, Address d_x,
                          Address d_weights, Address d_eps, int64_t B, int64_t Cin, int64_t H, int64_t W, int64_t C, int64_t L,
                          double delta, bool final_activation, int products) {
  const auto make = [&](auto zero) {
    using T = decltype(zero);
    auto a = arguments<T>(B, Cin, H, W, C, L, delta, final_activation, products, weights, eps, d_eps);
    a.x = as<const T>(x), a.grad = as<T>(d_x), a.d_weights = as<T>(d_weights);
    a.d_value = as<const T>(d_value), a.d_grad = as<const T>(d_grad);
    return a;
  };
  dtype == kFloat32 ? dispatch<Pass::kTangent>(make(float())) : dispatch<Pass::kTangent>(make(double()));
}
#endif
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
