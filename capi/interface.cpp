// interface.cpp: the functions of fastrecon.h.
#include <cmath>
#include <exception>
#include <new>
#include <stdexcept>

#include "fastrecon.h"
#include "model.h"
#include "torch_abi.h"

struct fr_model {
  std::string method;
  std::unique_ptr<fastrecon::Model> model;
  fastrecon::Certificate certificate;
};

namespace {
constexpr std::int64_t kMostSide = std::int64_t(1) << 20, kMostPixels = std::int64_t(1) << 31;
thread_local std::string last_error;

template <typename F>
int guarded(const F& call) {
  try {
    call();
    return 0;
  } catch (const std::bad_alloc&) {
    last_error = "expected more memory, got none";
  } catch (const std::exception& e) {
    last_error = e.what();
  }
  return 1;
}

void expect(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

void expect_size(std::int64_t height, std::int64_t width) {
  const bool fits = height > 0 && width > 0 && height <= kMostSide && width <= kMostSide;
  expect(fits && height * width <= kMostPixels, "height, width: expected the sides of a picture in pixels");
}
}  // namespace

int fr_load(const char* path, fr_model** model) {
  return guarded([&] {
    expect(path && model, "fr_load: expected a path and where to put the model, got NULL");
    *model = nullptr;
    const fastrecon::File file = fastrecon::read_file(path);
    auto found = std::make_unique<fr_model>();
    found->method = file.header.at("method").text;
    if (found->method == "lda" && file.header.at("problem").text == "block-cs")
      found->model = fastrecon::load_lda(file);
    else if (found->method == "fista")
      found->model = fastrecon::load_fista(file);
    else if (found->method == "d-ladmm")
      found->model = fastrecon::load_dladmm(file);
    else
      throw std::runtime_error("method: expected lda for block-cs, fista or d-ladmm, got " + found->method);
    *model = found.release();
  });
}

int fr_measurements(const fr_model* model, int64_t height, int64_t width, int64_t* count) {
  return guarded([&] {
    expect(model && count, "fr_measurements: expected a model and where to put the count, got NULL");
    expect_size(height, width);
    *count = model->model->measurements(height, width);
  });
}

int fr_reconstruct(fr_model* model, int64_t height, int64_t width, const float* y, float* x) {
  return guarded([&] {
    expect(model && y && x, "fr_reconstruct: expected a model, measurements and room for a picture, got NULL");
    expect_size(height, width);
    const std::int64_t count = model->model->measurements(height, width);
    for (std::int64_t i = 0; i < count; ++i) expect(std::isfinite(y[i]), "y: expected finite numbers, got NaN or Inf");
    model->certificate.clear();
    model->certificate = model->model->reconstruct(height, width, y, x);
  });
}

int fr_certificate(const fr_model* model, const char* name, double* value) {
  return guarded([&] {
    expect(model && name && value, "fr_certificate: expected a model, a name and where to put the number, got NULL");
    const auto found = model->certificate.find(name);
    expect(found != model->certificate.end(), "fr_certificate: expected a name of the certificate of the last picture");
    *value = found->second;
  });
}

const char* fr_method(const fr_model* model) { return model ? model->method.c_str() : ""; }

int fr_torch_ops(void) {
  return guarded([] { fastrecon::define_torch_ops(); });
}

const char* fr_error(void) { return last_error.c_str(); }

void fr_free(fr_model* model) { delete model; }
