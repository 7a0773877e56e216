// dladmm.cpp: the learned layers of D-LADMM on the patches of an image: models/sparse_coding.py, solvers/dladmm.py.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "model.h"

namespace fastrecon {
namespace {
using Vector = std::vector<float>;
enum Update : int { kGeneral = 0, kResidual = 1 };  // of ops/ladmm_step.py

class DLadmm : public Model {
 public:
  explicit DLadmm(const File& file) : k_(choose_isa().kernels) {
    const Json& settings = file.header.at("hyperparameters");
    const Array& a = file.at("a.atoms", {-1, -1});
    m_ = a.shape[0], d_ = a.shape[1], atoms_ = a.numbers, side_ = std::int64_t(std::lround(std::sqrt(double(m_))));
    layers_ = std::int64_t(settings.at("layers").number), lam_ = settings.at("lam").number;
    l1_ = settings.at("l1").number;
    const std::string update = settings.at("e_update").text;
    if (file.header.at("problem").text != "impulse" || side_ * side_ != m_ || layers_ < 1 || layers_ > 1000000)
      throw std::runtime_error("settings: expected a model for images, of square patches");
    if (update != "residual" && update != "general") throw std::runtime_error("e_update: expected residual or general");
    update_ = update == "residual" ? kResidual : kGeneral;
    tau1_ = file.at("evaluated.tau1", {layers_, d_}).numbers, beta_ = file.at("evaluated.beta", {layers_, m_}).numbers;
    w2_ = file.at("evaluated.w2", {layers_, m_}).numbers, tau2_ = file.at("evaluated.tau2", {layers_, m_}).numbers;
    for (std::int64_t l = 0; l < layers_; ++l)
      w1_.push_back(file.at("scaled_w1." + std::to_string(l), {m_, d_}).numbers);
  }

  std::int64_t measurements(std::int64_t height, std::int64_t width) const override { return height * width; }

  Certificate reconstruct(std::int64_t height, std::int64_t width, const float* y, float* out) const override {
    const std::int64_t rows = (height + side_ - 1) / side_, cols = (width + side_ - 1) / side_, N = rows * cols;
    const auto each = [&](const auto& pixel) {  // pixel(index among the patches' pixels, row, column of the image)
      for (std::int64_t p = 0; p < N; ++p)
        for (std::int64_t i = 0; i < m_; ++i)
          pixel(p * m_ + i, p / cols * side_ + i / side_, p % cols * side_ + i % side_);
    };
    Vector x(std::size_t(N * m_)), z(std::size_t(N * d_)), e(x.size()), dual(x.size()), q(x.size()), arg(x.size());
    each([&](std::int64_t i, std::int64_t r, std::int64_t c) {  // edges repeated up to whole patches
      x[std::size_t(i)] = y[std::min(r, height - 1) * width + std::min(c, width - 1)];
    });
    for (std::int64_t i = 0; i < N * m_; ++i) arg[std::size_t(i)] = beta_[std::size_t(i % m_)] * -x[std::size_t(i)];
    std::vector<Address> matrices;
    for (const Vector& w : w1_) matrices.push_back(address(w.data()));
    const auto stride = [&](std::int64_t n) { return layers_ > 1 ? n : 0; };
    k_->ladmm_iterations(kFloat32, update_, address(x.data()), address(atoms_.data()), address(matrices.data()),
                         layers_, l1_, address(tau1_.data()), address(beta_.data()), address(w2_.data()),
                         address(tau2_.data()), address(z.data()), address(e.data()), address(dual.data()),
                         address(q.data()), address(arg.data()), stride(d_), stride(m_), stride(m_), stride(m_),
                         layers_, N, d_, m_);
    each([&](std::int64_t i, std::int64_t r, std::int64_t c) {
      if (r < height && c < width) out[r * width + c] = q[std::size_t(i)];
    });
    return certificate(N, x, z, e, dual);
  }

 private:
  // The sums and norms over patches of what SplitProblem.values has for each.
  Certificate certificate(std::int64_t N, const Vector& x, const Vector& z, const Vector& e, const Vector& dual) const {
    double objective = 0, residual = 0, gap = 0;
    std::vector<double> rest(std::size_t(m_), 0), pulled(std::size_t(d_), 0);
    for (std::int64_t p = 0; p < N; ++p) {
      const float *xs = x.data() + p * m_, *zs = z.data() + p * d_, *es = e.data() + p * m_, *ds = dual.data() + p * m_;
      std::fill(pulled.begin(), pulled.end(), 0.0);
      double norm = 0, errors = 0, feasible = 0, scale = 1, along = 0;
      for (std::int64_t j = 0; j < d_; ++j) norm += std::fabs(double(zs[j]));
      norm *= lam_;
      for (std::int64_t i = 0; i < m_; ++i) {
        const float* const row = atoms_.data() + i * d_;
        double az = 0;
        for (std::int64_t j = 0; j < d_; ++j) {
          az += double(row[j]) * zs[j];
          pulled[std::size_t(j)] += double(row[j]) * ds[i];
        }
        const double left = double(xs[i]) - az;
        errors += std::fabs(double(es[i])), feasible += std::fabs(left), along += double(ds[i]) * xs[i];
        residual += (left - es[i]) * (left - es[i]);
        scale = std::max(scale, std::fabs(double(ds[i])));
      }
      for (const double v : pulled) scale = std::max(scale, std::fabs(v) / lam_);
      objective += norm + errors, gap += std::max(0.0, norm + feasible + along / scale);
    }
    return {{"objective", objective},
            {"primal_residual", std::sqrt(residual)},
            {"gap", gap},
            {"iterations", double(layers_)}};
  }

  const Kernels* k_;
  std::int64_t m_, d_, side_, layers_;
  int update_;
  double lam_, l1_;
  Vector atoms_, tau1_, beta_, w2_, tau2_;
  std::vector<Vector> w1_;
};
}  // namespace

std::unique_ptr<Model> load_dladmm(const File& file) { return std::make_unique<DLadmm>(file); }
}  // namespace fastrecon
