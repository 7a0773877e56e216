// lda.cpp: the trained phases of LDA for block compressed sensing, one whole image: solvers/lda.py.
//
// z = x - alpha grad f(x), u = z - tau grad r(z), v = z - alpha grad r(x); the lower of both, unless that cannot be
// told; eps <- gamma eps where |grad phi| < sigma gamma eps. Compiled without fused multiplications: torch makes none
// here.
#include <cmath>
#include <limits>
#include <stdexcept>

#include "model.h"

namespace fastrecon {
namespace {
using Vector = std::vector<float>;
constexpr float kTiny = 1e-18f;  // r_eps at this radius is r to rounding

class Lda : public Model {
 public:
  explicit Lda(const File& file) : k_(choose_isa().kernels) {
    const Json& settings = file.header.at("hyperparameters");
    const auto whole = [&](const char* name, double least, double most) {
      const double v = settings.at(name).number;
      if (!(v >= least && v <= most) || v != std::floor(v))
        throw std::runtime_error(std::string(name) + ": out of range");
      return std::int64_t(v);
    };
    phases_ = whole("phases", 1, 1e6), channels_ = whole("channels", 1, 128), layers_ = whole("layers", 2, 16);
    block_ = whole("block", 1, 1024), final_ = settings.value("final_activation", 0) != 0;
    delta_ = settings.at("delta").number, sigma_ = settings.at("sigma").number, gamma_ = settings.at("gamma").number;
    mode_ = settings.at("eps_mode").text;
    const bool plain = settings.value("safeguard", 0) == 0 && settings.value("blockwise", 0) == 0 &&
                       settings.value("in_channels", 1) == 1 && settings.value("complex_features", 0) == 0;
    if (!plain) throw std::runtime_error("settings: expected no safeguard, whole images and one real channel");
    q_ = file.at("q", {block_ * block_, -1}).numbers;
    m_ = std::int64_t(q_.size()) / (block_ * block_);
    phi_ = file.at("phi", {m_, block_ * block_}).numbers;
    alpha_ = file.at("evaluated.alpha", {phases_}).numbers, tau_ = file.at("evaluated.tau", {phases_}).numbers;
    eps0_ = file.at("evaluated.eps0", {1}).numbers[0];
    for (std::int64_t l = 0; l < layers_; ++l) {
      const Array& w = file.at("regulariser.weights." + std::to_string(l), {channels_, l ? channels_ : 1, 3, 3});
      weights_.insert(weights_.end(), w.numbers.begin(), w.numbers.end());
    }
  }

  std::int64_t measurements(std::int64_t height, std::int64_t width) const override {
    return Blocks{k_, block_, m_, height, width, phi_.data()}.count() * m_;
  }

  Certificate reconstruct(std::int64_t height, std::int64_t width, const float* y, float* out) const override {
    const Blocks A{k_, block_, m_, height, width, phi_.data()};
    const std::size_t n = std::size_t(A.pixels()), measured = std::size_t(A.count() * m_);
    Vector x(n), grad_f(n), g(n), z(n), u(n), v(n), g_u(n), total(n), residual(measured), residual_v(measured);
    float eps = eps0_, next = eps0_, r = 0;
    double f = 0, norm = 0;
    bool passed = false;
    int took_u = 0, reductions = 0;
    A.start(y, q_.data(), x.data());
    A.residual(x.data(), y, residual.data());
    A.adjoint(residual.data(), grad_f.data());
    r = evaluate(A, x, eps, g);
    for (std::int64_t p = 0; p < phases_; ++p) {
      const float a = alpha_[std::size_t(p)], t = tau_[std::size_t(p)];
      reductions += passed, eps = next;
      if (passed) r = evaluate(A, x, eps, g);
      step(x, a, grad_f, z);
      evaluate(A, z, eps, g_u);
      step(z, t, g_u, u);
      step(z, a, g, v);
      const float r_u = evaluate(A, u, eps, g_u), r_v = value(A, v, eps);
      A.residual(u.data(), y, residual.data());
      A.residual(v.data(), y, residual_v.data());
      const double f_u = half_square(residual), f_v = half_square(residual_v), phi_u = f_u + r_u, phi_v = f_v + r_v;
      if (phi_u <= phi_v || (std::isnan(phi_v) && !std::isnan(phi_u))) {
        x.swap(u), g.swap(g_u), r = r_u, f = f_u, ++took_u;
      } else {
        x.swap(v), residual.swap(residual_v), r = evaluate(A, x, eps, g), f = f_v;
      }
      A.adjoint(residual.data(), grad_f.data());
      k_->shrink_eps(kFloat32, address(grad_f.data()), address(g.data()), address(&eps), address(total.data()),
                     address(&norm), address(&next), address(&passed), 1, A.pixels(), sigma_, gamma_);
      if (mode_ != "sample") {
        passed = mode_ == "schedule" || norm < double(float(sigma_ * gamma_) * eps);
        next = passed ? float(gamma_) * eps : eps;
      }
    }
    for (std::size_t i = 0; i < n; ++i) out[i] = x[i];
    const double phi_eps = f + r, merit = phi_eps + double(n) / 2 * double(eps);
    const double phi = f + value(A, x, std::fmax(kTiny, std::numeric_limits<float>::min()));
    return {{"phi", std::fmin(std::fmax(phi, phi_eps), merit)},
            {"phi_eps", phi_eps},
            {"merit", merit},
            {"grad_norm", norm},
            {"eps", eps},
            {"took_u", took_u},
            {"reductions", reductions},
            {"iterations", double(phases_)}};
  }

 private:
  static void step(const Vector& x, float size, const Vector& grad, Vector& to) {
    for (std::size_t i = 0; i < x.size(); ++i) to[i] = x[i] - size * grad[i];
  }
  static double half_square(const Vector& t) {
    const double norm = std::sqrt(square(t));  // and back, as Python has it
    return norm * norm / 2;
  }
  float evaluate(const Blocks& A, const Vector& x, float eps, Vector& grad) const {
    float found = 0;
    k_->feature_gradient_fwd(kFloat32, address(x.data()), address(weights_.data()), address(&eps), address(&found),
                             address(grad.data()), 1, 1, A.height, A.width, channels_, layers_, delta_, final_, 0);
    return found;
  }
  float value(const Blocks& A, const Vector& x, float eps) const {
    float found = 0;
    k_->feature_gradient_value(kFloat32, address(x.data()), address(weights_.data()), address(&eps), address(&found), 1,
                               1, A.height, A.width, channels_, layers_, delta_, final_, 0);
    return found;
  }

  const Kernels* k_;
  std::int64_t phases_, channels_, layers_, block_, m_;
  bool final_;
  double delta_, sigma_, gamma_;
  std::string mode_;
  float eps0_;
  Vector q_, phi_, alpha_, tau_, weights_;
};
}  // namespace

std::unique_ptr<Model> load_lda(const File& file) { return std::make_unique<Lda>(file); }
}  // namespace fastrecon
