// torch_ops.cpp: the ops of models of fixed phases for torch without Python, as packages of AOTInductor call them.
//
// Whoever loads the library into a process with libtorch has them; where Python's fastrecon has defined them already,
// they stay as they are. Schemas and what a kernel takes: fastrecon/ops/<op>.py, whose adapters these are in C++.
#include <stdexcept>
#include <utility>

#include "fastrecon.h"
#include "isa_choice.h"
#include "torch_abi.h"

namespace fastrecon {
namespace {
const Kernels& kernels() {
  static const Isa isa = choose_isa();
  return *isa.kernels;
}

void expect(bool fits, const char* op, const char* argument, const char* expected) {
  if (!fits)
    throw std::invalid_argument(std::string(op) + ": " + argument + ": expected " + expected + ", got another");
}

bool is_real(const Tensor& t) { return t.kind() == kFloat32 || t.kind() == kFloat64; }

Dtype real_kind(const Tensor& t) { return t.kind() == kFloat32 || t.kind() == kComplex64 ? kFloat32 : kFloat64; }

bool like(const Tensor& t, const Tensor& other) { return t.dtype() == other.dtype() && t.sizes() == other.sizes(); }

Tensor packed(Tensor t) { return t.contiguous() ? std::move(t) : t.copy(); }

// ---------------------------------------------------------------- block_product.py

void block_product(Value* s) {
  const char* const op = "block_product";
  Tensor given(s[0]), matrix(s[1]);
  const bool fits = is_real(given) && given.dim() == 3 && given.numel() > 0;
  expect(fits, op, "blocks", "float32 or float64 [B, n, k], not empty");
  const bool follows = matrix.dim() == 2 && matrix.size(0) == given.size(2) && matrix.dtype() == given.dtype();
  expect(follows && matrix.numel() > 0, op, "matrix", "[k, l] like blocks");
  const std::int64_t k = matrix.size(0), l = matrix.size(1);
  const bool columns = (l == 1 || matrix.stride(1) == k) && (k == 1 || matrix.stride(0) == 1);
  const Tensor blocks = packed(std::move(given)), entries = columns ? std::move(matrix) : packed(std::move(matrix));
  Tensor out = Tensor::empty({blocks.size(0), blocks.size(1), l}, blocks.dtype());
  kernels().block_product(blocks.kind(), blocks.data(), entries.data(), out.data(), columns,
                          blocks.size(0) * blocks.size(1), k, l);
  s[0] = out.release();
}

// ---------------------------------------------------------------- feature_gradient.py

struct Features {  // the arguments of both ops
  static constexpr std::size_t kMostLayers = 16;
  static constexpr std::int64_t kMostWidth = 128;
  Tensor x, eps, weights;
  std::int64_t width, layers;
  double delta;
  bool final_activation;
  int products;

  static Features of(Value* s, const char* op) {
    Tensor x(s[0]);
    const std::vector<Tensor> given = to_tensors(s[1]);
    Tensor eps(s[2]);
    const std::string precision = to_string(s[5]);
    const bool fits = is_real(x) && x.dim() == 4 && x.numel() > 0 && x.size(1) <= 2;
    expect(fits, op, "x", "float32 or float64 [B, 1 or 2, H, W], not empty");
    const bool radii = eps.dtype() == x.dtype() && eps.dim() == 1 && eps.size(0) == x.size(0);
    expect(radii, op, "eps", "[B] like x");
    expect(given.size() >= 2 && given.size() <= kMostLayers, op, "weights", "2 to 16 layers");
    const std::int64_t width = given[0].dim() == 4 ? given[0].size(0) : 0;
    std::int64_t channels = x.size(1), count = 0;
    for (const Tensor& w : given) {
      const bool kernel = w.dtype() == x.dtype() && w.sizes() == std::vector<std::int64_t>{width, channels, 3, 3};
      expect(kernel && width <= kMostWidth, op, "weights", "3x3 kernels like x of one width up to 128");
      channels = width;
      count += w.numel();
    }
    Tensor flat = Tensor::empty({count}, x.dtype());
    auto* to = reinterpret_cast<char*>(flat.data());
    for (const Tensor& w : given) {
      w.copy_to(to);
      to += w.numel() * std::int64_t(w.bytes());
    }
    const auto layers = std::int64_t(given.size());
    return {packed(std::move(x)), packed(std::move(eps)), std::move(flat),           width, layers,
            to_double(s[3]),      to_bool(s[4]),          products_of(precision, op)};
  }

  static int products_of(const std::string& precision, const char* op) {
    if (precision == "bfloat16") return 1;
    if (precision == "direct") return 2;
    expect(precision == "float32" || precision == "tf32", op, "precision", "float32, bfloat16, direct or tf32");
    return 0;
  }
};

void feature_gradient_value(Value* s) {
  const Features f = Features::of(s, "feature_gradient_value");
  const Tensor& x = f.x;
  Tensor value = Tensor::empty({x.size(0)}, x.dtype());
  kernels().feature_gradient_value(x.kind(), x.data(), f.weights.data(), f.eps.data(), value.data(), x.size(0),
                                   x.size(1), x.size(2), x.size(3), f.width, f.layers, f.delta, f.final_activation,
                                   f.products);
  s[0] = value.release();
}

void feature_gradient_fwd(Value* s) {
  const Features f = Features::of(s, "feature_gradient_fwd");
  const Tensor& x = f.x;
  Tensor value = Tensor::empty({x.size(0)}, x.dtype()), grad = Tensor::empty(x.sizes(), x.dtype());
  kernels().feature_gradient_fwd(x.kind(), x.data(), f.weights.data(), f.eps.data(), value.data(), grad.data(),
                                 x.size(0), x.size(1), x.size(2), x.size(3), f.width, f.layers, f.delta,
                                 f.final_activation, f.products);
  s[0] = value.release();
  s[1] = grad.release();
}

// ---------------------------------------------------------------- select_descent.py

std::vector<double> doubles(const Tensor& t) {
  std::vector<double> found(std::size_t(t.numel()));
  for (std::size_t i = 0; i < found.size(); ++i)
    found[i] = t.kind() == kFloat32 ? double(reinterpret_cast<const float*>(t.data())[i])
                                    : reinterpret_cast<const double*>(t.data())[i];
  return found;
}

void select_descent(Value* s) {
  const char* const op = "select_descent";
  Tensor a(s[0]), b(s[1]), c(s[2]), d(s[3]);
  expect(a.kind() >= 0 && a.dim() == 2 && a.numel() > 0, op, "u", "[B, N], not empty");
  expect(like(b, a), op, "v", "a tensor like u");
  expect(is_real(c) && c.dim() == 1 && c.size(0) == a.size(0), op, "phi_u", "float32 or float64 [B]");
  expect(is_real(d) && d.dim() == 1 && d.size(0) == a.size(0), op, "phi_v", "float32 or float64 [B]");
  const Tensor u = packed(std::move(a)), v = packed(std::move(b));
  const std::vector<double> phi_u = doubles(packed(std::move(c))), phi_v = doubles(packed(std::move(d)));
  Tensor x = Tensor::empty(u.sizes(), u.dtype());
  Tensor took_u = Tensor::empty({u.size(0)}, torch_abi().aoti_torch_dtype_bool());
  const auto address = [](const std::vector<double>& t) { return reinterpret_cast<Address>(t.data()); };
  kernels().select_descent(u.data(), v.data(), address(phi_u), address(phi_v), x.data(), took_u.data(), u.size(0),
                           u.size(1) * std::int64_t(u.bytes()));
  s[0] = x.release();
  s[1] = took_u.release();
}

void shrink_eps(Value* s) {
  const char* const op = "shrink_eps";
  Tensor a(s[0]), b(s[1]), c(s[2]);
  expect(a.kind() >= 0 && a.dim() == 2 && a.numel() > 0, op, "grad_f", "[B, N], not empty");
  expect(like(b, a), op, "grad_r", "a tensor like grad_f");
  expect(c.kind() == real_kind(a) && c.dim() == 1 && c.size(0) == a.size(0), op, "eps", "[B], real like grad_f");
  const Tensor f = packed(std::move(a)), r = packed(std::move(b)), eps = packed(std::move(c));
  const TorchAbi& abi = torch_abi();
  Tensor grad = Tensor::empty(f.sizes(), f.dtype()), norm = Tensor::empty(eps.sizes(), abi.aoti_torch_dtype_float64());
  Tensor next = Tensor::empty(eps.sizes(), eps.dtype()),
         shrunk = Tensor::empty(eps.sizes(), abi.aoti_torch_dtype_bool());
  kernels().shrink_eps(eps.kind(), f.data(), r.data(), eps.data(), grad.data(), norm.data(), next.data(), shrunk.data(),
                       f.size(0), f.size(1) * (is_real(f) ? 1 : 2), to_double(s[3]), to_double(s[4]));
  s[0] = grad.release();
  s[1] = norm.release();
  s[2] = next.release();
  s[3] = shrunk.release();
}

// ---------------------------------------------------------------- prox_gradient_step.py

void squares(Value* s) {
  const char* const op = "squares";
  Tensor given(s[0]);
  std::vector<Tensor> minus = to_optional(s[1]);
  expect(given.kind() >= 0 && given.dim() == 2 && given.numel() > 0, op, "x", "[B, N], not empty");
  expect(minus.empty() || like(minus[0], given), op, "minus", "a tensor like x");
  const Tensor x = packed(std::move(given));
  const bool differ = !minus.empty();
  if (differ) minus.push_back(packed(std::move(minus[0])));
  Tensor out = Tensor::empty({x.size(0)}, torch_abi().aoti_torch_dtype_float64());
  kernels().squares(x.kind(), x.data(), differ ? minus.back().data() : x.data(), out.data(), differ, x.size(0),
                    x.size(1));
  s[0] = out.release();
}

// ---------------------------------------------------------------- ladmm_step.py

void ladmm_iterations_(Value* s) {
  const char* const op = "ladmm_iterations_";
  Tensor given(s[0]), dictionary(s[1]), z(s[2]), e(s[3]), dual(s[4]), q(s[5]), arg(s[6]);
  std::vector<Tensor> w1 = to_tensors(s[7]);
  Tensor tau1(s[9]), beta(s[10]), w2(s[11]), tau2(s[12]);
  const auto iterations = std::int64_t(s[13]), update = std::int64_t(s[14]);
  expect(is_real(given) && given.dim() == 2 && given.numel() > 0, op, "x", "float32 or float64 [N, M], not empty");
  const bool fits = dictionary.dim() == 2 && dictionary.size(0) == given.size(1) && dictionary.numel() > 0;
  expect(fits && dictionary.dtype() == given.dtype(), op, "a", "[M, D] like x");
  const std::int64_t n = given.size(0), m = given.size(1), d = dictionary.size(1);
  const auto has = [&](const Tensor& t, std::int64_t rows, std::int64_t cols) {
    return t.dtype() == given.dtype() && t.dim() == 2 && t.size(0) == rows && t.size(1) == cols;
  };
  expect(has(z, n, d) && z.contiguous(), op, "z", "[N, D] like x, contiguous");
  for (const Tensor* t : {&e, &dual, &q, &arg})
    expect(has(*t, n, m) && t->contiguous(), op, "e, dual, q, arg", "[N, M] like x, contiguous");
  expect(iterations > 0, op, "iterations", "1 or more");
  expect(!w1.empty(), op, "w1", "a matrix or more");
  for (Tensor& w : w1) expect(has(w, m, d), op, "w1", "[M, D] like x");
  const auto most = [&](const Tensor& t, std::int64_t cols) {
    return t.dim() == 2 && t.numel() > 0 && has(t, t.size(0), cols) && (t.size(0) == 1 || t.size(0) >= iterations);
  };
  expect(w1.size() == 1 || std::int64_t(w1.size()) >= iterations, op, "w1", "one, or as many as iterations");
  expect(most(tau1, d), op, "tau1", "[1 or iterations, D] like x");
  expect(most(beta, m) && most(w2, m) && most(tau2, m), op, "beta, w2, tau2", "[1 or iterations, M] like x");

  const Tensor x = packed(std::move(given)), a = packed(std::move(dictionary));
  std::vector<Tensor> matrices;
  for (Tensor& w : w1) matrices.push_back(packed(std::move(w)));
  std::vector<std::int64_t> addresses;
  for (const Tensor& w : matrices) addresses.push_back(std::int64_t(w.data()));
  const Tensor rows[] = {packed(std::move(tau1)), packed(std::move(beta)), packed(std::move(w2)),
                         packed(std::move(tau2))};
  const auto step = [&](int k) { return rows[k].size(0) > 1 ? rows[k].size(1) : 0; };
  kernels().ladmm_iterations(x.kind(), int(update), x.data(), a.data(), reinterpret_cast<Address>(addresses.data()),
                             std::int64_t(matrices.size()), to_double(s[8]), rows[0].data(), rows[1].data(),
                             rows[2].data(), rows[3].data(), z.data(), e.data(), dual.data(), q.data(), arg.data(),
                             step(0), step(1), step(2), step(3), iterations, n, d, m);
}

struct TorchOp {
  const char *name, *schema;
  void (*boxed)(Value*, std::uint64_t, std::uint64_t);
};

template <void (*op)(Value*)>
void boxed(Value* stack, std::uint64_t, std::uint64_t) {
  op(stack);
}

const TorchOp kOps[] = {
    {"block_product", "block_product(Tensor blocks, Tensor matrix) -> Tensor", boxed<block_product>},
    {"feature_gradient_value",
     "feature_gradient_value(Tensor x, Tensor[] weights, Tensor eps, float delta, bool final_activation, str precision)"
     " -> Tensor",
     boxed<feature_gradient_value>},
    {"feature_gradient_fwd",
     "feature_gradient_fwd(Tensor x, Tensor[] weights, Tensor eps, float delta, bool final_activation, str precision)"
     " -> (Tensor value, Tensor grad)",
     boxed<feature_gradient_fwd>},
    {"select_descent", "select_descent(Tensor u, Tensor v, Tensor phi_u, Tensor phi_v) -> (Tensor x, Tensor took_u)",
     boxed<select_descent>},
    {"shrink_eps",
     "shrink_eps(Tensor grad_f, Tensor grad_r, Tensor eps, float sigma, float gamma)"
     " -> (Tensor grad, Tensor norm, Tensor eps_next, Tensor shrunk)",
     boxed<shrink_eps>},
    {"squares", "squares(Tensor x, Tensor? minus=None) -> Tensor", boxed<squares>},
    {"ladmm_iterations_",
     "ladmm_iterations_(Tensor x, Tensor a, Tensor(a!) z, Tensor(b!) e, Tensor(c!) dual, Tensor(d!) q, Tensor(e!) arg,"
     " Tensor[] w1, float l1, Tensor tau1, Tensor beta, Tensor w2, Tensor tau2, int iterations, int update) -> ()",
     boxed<ladmm_iterations_>},
};

constexpr std::uint64_t kTorchVersion = std::uint64_t(2) << 56 | std::uint64_t(10) << 48;  // whose interface is spoken

// Torch keeps their addresses: neither this library nor torch's may leave the process any more.
void stay() {
  Dl_info own{};
  if (dladdr(reinterpret_cast<void*>(&stay), &own) && own.dli_fname)
    dlopen(own.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

void define_ops() {
  const TorchAbi& abi = torch_abi();
  TorchLibraryOpaque *schemas = nullptr, *implementations = nullptr;
  const auto check = [](std::int32_t status) {
    if (status) throw std::runtime_error("torch: expected a registry of ops, got an error of it");
  };
  check(abi.aoti_torch_library_init_fragment("fastrecon", __FILE__, __LINE__, &schemas));
  check(abi.aoti_torch_library_init_impl("fastrecon", "CPU", __FILE__, __LINE__, &implementations));
  stay();
  for (const TorchOp& op : kOps) {
    if (abi.aoti_torch_library_def(schemas, op.schema)) return;  // Python's fastrecon has defined them all
    check(abi.torch_library_impl(implementations, op.name, op.boxed, kTorchVersion));
  }
}

__attribute__((constructor)) void define_ops_where_torch_is() {
  if (loaded_torch()) fr_torch_ops();
}
}  // namespace

void define_torch_ops() {
  static const bool defined = (define_ops(), true);
  static_cast<void>(defined);
}
}  // namespace fastrecon
