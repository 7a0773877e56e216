// fista.cpp: FISTA for block compressed sensing of images that are sparse in wavelets: solvers/ista.py.
//
// min |A W* c - y|^2 / 2 + lam |c|_1 over coefficients c of the image, filled up to multiples of 2^level.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "model.h"

namespace fastrecon {
namespace {
using Vector = std::vector<float>;

class Fista : public Model {
 public:
  explicit Fista(const File& file) : k_(choose_isa().kernels) {
    const Json& settings = file.header.at("hyperparameters");
    block_ = std::int64_t(settings.at("block").number), level_ = std::int64_t(settings.at("level").number);
    iterations_ = std::int64_t(settings.at("iterations").number);
    lam_ = float(settings.at("lam").number), step_ = float(1 / settings.at("lipschitz").number);
    for (const Json& tap : settings.at("taps").items) taps_.push_back(tap.number);
    const bool fits = block_ >= 1 && block_ <= 1024 && level_ >= 0 && level_ <= 30 && iterations_ >= 1 &&
                      iterations_ <= 1000000 && lam_ >= 0 && step_ > 0 && std::isfinite(step_) && taps_.size() >= 2 &&
                      taps_.size() % 2 == 0;
    if (!fits) throw std::runtime_error("settings: out of range");
    const Array& phi = file.at("phi", {-1, block_ * block_});
    m_ = phi.shape[0], phi_ = phi.numbers;
  }

  std::int64_t measurements(std::int64_t height, std::int64_t width) const override {
    return Blocks{k_, block_, m_, height, width, phi_.data()}.count() * m_;
  }

  Certificate reconstruct(std::int64_t height, std::int64_t width, const float* y, float* out) const override {
    const Blocks A{k_, block_, m_, height, width, phi_.data()};
    const std::int64_t unit = std::int64_t(1) << level_;
    if (level_ > 0 && (2 * height <= unit || 2 * width <= unit))
      throw std::runtime_error("height, width: expected more pixels for so many levels of wavelets");
    const std::int64_t H = (height + unit - 1) / unit * unit, W = (width + unit - 1) / unit * unit, N = H * W;
    const std::size_t n = std::size_t(N), measured = std::size_t(A.count() * m_);
    Vector x(n), z(n), v(n), before(n), grad(n), filled(n), image(std::size_t(A.pixels())), residual(measured),
        residual_before(measured), residual_v(measured);
    const auto to_image = [&](const Vector& c) {
      wavelet(c, H, W, filled, true);
      for (std::int64_t r = 0; r < height; ++r)
        for (std::int64_t i = 0; i < width; ++i) image[std::size_t(r * width + i)] = filled[std::size_t(r * W + i)];
    };
    const auto to_coefficients = [&](Vector& c) {
      std::fill(filled.begin(), filled.end(), 0.0f);
      for (std::int64_t r = 0; r < height; ++r)
        for (std::int64_t i = 0; i < width; ++i) filled[std::size_t(r * W + i)] = image[std::size_t(r * width + i)];
      wavelet(filled, H, W, c, false);
    };
    A.adjoint(y, image.data());
    to_coefficients(x);
    to_image(x);
    A.residual(image.data(), y, residual.data());
    v = x, residual_v = residual;
    double sums[3] = {}, theta = 1, last = 0;
    for (std::int64_t k = 0; k < iterations_; ++k) {
      A.adjoint(residual_v.data(), image.data());
      to_coefficients(grad);
      k_->prox_gradient_step(kFloat32, address(v.data()), address(grad.data()), address(&step_), address(&lam_),
                             address(z.data()), address(sums), 1, N, 0, 0, 0, 0);
      x.swap(before), residual.swap(residual_before);
      for (std::size_t i = 0; i < n; ++i) x[i] = v[i] + z[i];
      to_image(x);
      A.residual(image.data(), y, residual.data());
      const double next = (1 + std::sqrt(1 + 4 * theta * theta)) / 2, weight = 1 + (theta - 1) / next;
      between(before, x, float(weight), v), between(residual_before, residual, float(weight), residual_v);
      theta = next, last = std::sqrt(sums[1]);
    }
    std::copy(image.begin(), image.end(), out);
    double l1 = 0;
    for (const float c : x) l1 += std::fabs(double(c));
    return {
        {"objective", square(residual) / 2 + double(lam_) * l1}, {"step", last}, {"iterations", double(iterations_)}};
  }

 private:
  static void between(const Vector& a, const Vector& b, float weight, Vector& to) {  // torch.lerp for weights from 1 on
    for (std::size_t i = 0; i < a.size(); ++i) to[i] = std::fma(weight - 1, b[i] - a[i], b[i]);
  }
  void wavelet(const Vector& from, std::int64_t H, std::int64_t W, Vector& to, bool back) const {
    if (level_ == 0) {
      to = from;
      return;
    }
    (back ? k_->idwt2 : k_->dwt2)(kFloat32, address(from.data()), address(taps_.data()), address(to.data()), 1, H, W,
                                  std::int64_t(taps_.size()), level_);
  }

  const Kernels* k_;
  std::int64_t block_, m_, level_, iterations_;
  float lam_, step_;
  std::vector<double> taps_;
  Vector phi_;
};
}  // namespace

std::unique_ptr<Model> load_fista(const File& file) { return std::make_unique<Fista>(file); }
}  // namespace fastrecon
