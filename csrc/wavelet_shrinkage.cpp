// wavelet_shrinkage.cpp: proximal gradient descent on images whose proximal map S shrinks wavelet details (CPU).
// Definition: fastrecon/ops/wavelet_shrinkage.py
//   u = T* (f . T v) + b,  x+ = S(u),  v+ = x+ + momentum (x+ - x); or, not `ahead`, from x, and v is the last u
//   x, v, shift b [B, C, H, W] real   tau [B]   momentum [iterations] double
//   T by `transform`: kMask none, factors f [H, W]; kBlur the Fourier transform, f [H, W / 2 + 1], real, those of image
//   b at b * factors_image; kNone: x+ = S(x), and no other array is read
//   S: by `levels` of an orthonormal wavelet of taps [L] on the image with zeros around it, details shrunk by tau
// One thread does all iterations of a plane while its arrays stay in its cache; of a single one the threads share every
// pass. Each level puts its own zeros around what it gets: fewer than all levels would need at once.
#include "image_operator.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;
constexpr int kNone = -1;

template <typename T>
struct Shrinkage {
  int dtype;
  Address taps;
  int64_t L;
  T tau;

  // Coefficients of each kind along an axis of n numbers, and its length with the zeros, L / 2 - 1 of them before it.
  FR_INLINE int64_t count(int64_t n) const { return (n + L - 1) / 2; }
  FR_INLINE int64_t framed(int64_t n) const { return (n + L) / 2 * 2; }

  // take(i, row) gets the rows of S of the image [h, w] whose rows come from give(i, row).
  template <typename Give, typename Take>
  FR_INLINE void level(int64_t h, int64_t w, int64_t levels, const Give& give, const Take& take) const {
    const int64_t before = L / 2 - 1, H = framed(h), W = framed(w), low_h = count(h), low_w = count(w);
    Scratch memory;
    T* const image = memory.take<T>(H * W);
    T* const c = memory.take<T>(H * W);
    parallel(H, H * W, [=](int64_t i) {
      T* const row = image + i * W;
      const bool within = i >= before && i < before + h;
      std::memset(row, 0, (within ? before : W) * sizeof(T));
      if (!within) return;
      give(i - before, row + before);
      std::memset(row + before + w, 0, (W - before - w) * sizeof(T));
    });
    dwt2(dtype, Address(image), taps, Address(c), 1, H, W, L, 1);
    const T most = tau;
    parallel(H, H * W, [=](int64_t i) {
      T* const row = c + i * W;
      for (int64_t j = i < low_h ? low_w : 0; j < W; ++j)
        row[j] = with_sign(at_least(T(0), magnitude(row[j]) - most), row[j]);
    });
    if (levels > 1) corner(c, W, low_h, low_w, levels - 1);
    idwt2(dtype, Address(c), taps, Address(image), 1, H, W, L, 1);
    parallel(h, h * w, [=](int64_t i) { take(i, image + (before + i) * W + before); });
  }

  // The same of x [h, w] in place, its rows `ld` apart.
  void corner(T* x, int64_t ld, int64_t h, int64_t w, int64_t levels) const {
    level(
        h, w, levels, [=](int64_t i, T* row) { std::memcpy(row, x + i * ld, w * sizeof(T)); },
        [=](int64_t i, const T* row) { std::memcpy(x + i * ld, row, w * sizeof(T)); });
  }
};

// One plane's.
template <typename T>
struct Descent {
  int transform;
  const T *factors, *shift;
  const Address* plan;  // as of image_operator.h
  T *x, *v;
  int64_t H, W;

  FR_INLINE void run(const Shrinkage<T>& s, int64_t levels, const double* momentum, int64_t iterations,
                     bool ahead) const {
    const int64_t w = W, half = w / 2 + 1;
    Scratch memory;
    T* const spectrum = transform == kBlur ? memory.take<T>(2 * H * half) : nullptr;
    T* const blurred = transform == kBlur ? memory.take<T>(H * w) : nullptr;
    T *const from = ahead ? v : x, *const now = x, *const next = v;
    const T *const f = factors, *const b = shift;
    const int kind = transform;
    for (int64_t k = 0; k < iterations; ++k) {
      if (kind == kBlur) {  // what it does to `from` is no matter: that is written before it is read
        compute<1>(plan, false, from, spectrum);
        parallel(H, 2 * H * half, [=](int64_t i) {
          T* const row = spectrum + 2 * i * half;
          weigh<2>(row, f + i * half, row, half);
        });
        compute<1>(plan, true, spectrum, blurred);
      }
      const auto give = [=](int64_t i, T* row) {
        const int64_t at = i * w;
        if (kind == kNone) {
          std::memcpy(row, now + at, w * sizeof(T));
          return;
        }
        if (kind == kBlur)
          for (int64_t j = 0; j < w; ++j) row[j] = blurred[at + j] + b[at + j];
        else
          for (int64_t j = 0; j < w; ++j) row[j] = f[at + j] * from[at + j] + b[at + j];
        if (!ahead) std::memcpy(next + at, row, w * sizeof(T));
      };
      const T weight = ahead ? T(momentum[k]) : T(0);
      const auto take = [=](int64_t i, const T* row) {
        T *const old = now + i * w, *const far = next + i * w;
        if (ahead)
          for (int64_t j = 0; j < w; ++j) far[j] = weight * (row[j] - old[j]) + row[j];
        std::memcpy(old, row, w * sizeof(T));
      };
      s.level(H, w, levels, give, take);
    }
  }
};
}  // namespace

void wavelet_shrinkage(int dtype, int transform, Address x, Address v, Address factors, Address shift, Address tau,
                       Address momentum, Address taps, Address plan, int64_t B, int64_t C, int64_t H, int64_t W,
                       int64_t factors_image, int64_t L, int64_t levels, int64_t iterations, bool ahead) {
  by_dtype<kReal>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    const int64_t N = H * W;
    parallel(B * C, B * C * N * iterations, [=](int64_t plane) {
      const int64_t b = plane / C;
      const Descent<T> descent = {transform,
                                  as<const T>(factors) + b * factors_image,
                                  as<const T>(shift) + (transform == kNone ? 0 : plane * N),
                                  as<const Address>(plan),
                                  as<T>(x) + plane * N,
                                  as<T>(v) + (transform == kNone ? 0 : plane * N),
                                  H,
                                  W};
      descent.run({dtype, taps, L, as<const T>(tau)[b]}, levels, as<const double>(momentum), iterations, ahead);
    });
  });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
