// gradient.cpp: circular differences of images down and to the right, and their adjoint, in one pass (CPU).
// Definition: fastrecon/ops/gradient.py
//   x [B, C, H, W]   y [B, 2, C, H, W], real or complex   y[b, 0, c, i, j] = x[i + 1, j] - x[i, j]
//   y[b, 1, c, i, j] = x[i, j + 1] - x[i, j]   adjoint: x[i, j] = (y0[i - 1, j] - y0[i, j]) + (y1[i, j - 1] - y1[i, j])
#include "tiles.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;
constexpr int64_t kBand = 1 << 13;  // reals of a task, at least a row

// row(x, down, right, i) for the rows of every image: its plane of x, those of y.
template <typename X, typename Y, typename F>
FR_INLINE void each_row(X* x, Y* y, int64_t B, int64_t C, int64_t H, int64_t length, const F& row) {
  const int64_t rows = at_least(int64_t(1), kBand / length), bands = tiles_of(H, rows), plane = H * length;
  parallel(B * C * bands, B * C * plane, [=](int64_t task) {
    const int64_t image = task / bands, first = task % bands * rows;  // of all B C
    Y* const down = y + (image / C * 2 * C + image % C) * plane;
    for (int64_t i = first; i < at_most(H, first + rows); ++i) row(x + image * plane, down, down + C * plane, i);
  });
}

template <int kWidth, typename T>
FR_INLINE void fwd(const T* x, T* y, int64_t B, int64_t C, int64_t H, int64_t W) {
  const int64_t length = kWidth * W;
  each_row(x, y, B, C, H, length, [=](const T* plane, T* down, T* right, int64_t i) {
    const T *own = plane + i * length, *next = plane + (i + 1 == H ? 0 : i + 1) * length;
    down += i * length, right += i * length;
    for (int64_t j = 0; j < length; ++j) down[j] = next[j] - own[j];
    for (int64_t j = 0; j < length - kWidth; ++j) right[j] = own[j + kWidth] - own[j];
    for (int64_t j = 0; j < kWidth; ++j) right[length - kWidth + j] = own[j] - own[length - kWidth + j];
  });
}

template <int kWidth, typename T>
FR_INLINE void adjoint(T* x, const T* y, int64_t B, int64_t C, int64_t H, int64_t W) {
  const int64_t length = kWidth * W;
  each_row(x, y, B, C, H, length, [=](T* plane, const T* down, const T* right, int64_t i) {
    T* const out = plane + i * length;
    const T* const before = down + (i == 0 ? H - 1 : i - 1) * length;
    down += i * length, right += i * length;
    const auto value = [=](int64_t j, int64_t left) { return (before[j] - down[j]) + (right[left] - right[j]); };
    for (int64_t j = 0; j < kWidth; ++j) out[j] = value(j, length - kWidth + j);
    for (int64_t j = kWidth; j < length; ++j) out[j] = value(j, j - kWidth);
  });
}
}  // namespace

void gradient(int dtype, Address x, Address y, std::int64_t B, std::int64_t C, std::int64_t H, std::int64_t W,
              bool back) {
  by_dtype<kRealOrComplex>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    back ? adjoint<type.width>(as<T>(x), as<const T>(y), B, C, H, W)
         : fwd<type.width>(as<const T>(x), as<T>(y), B, C, H, W);
  });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
