// kernels.h: the signature of every kernel, once. It declares them, fills each instruction set's table, and binds them.
//
// All csrc/<op>.cpp files and table.cpp are compiled once per instruction set, into namespace fastrecon::FASTRECON_ISA.
// Addresses are of contiguous arrays of type `dtype` unless the kernel says otherwise; nothing here knows torch.
#pragma once
#include <cstdint>

namespace fastrecon {
using Address = std::uintptr_t;
enum Dtype : int { kFloat32 = 0, kFloat64 = 1, kComplex64 = 2, kComplex128 = 3 };
}  // namespace fastrecon

// clang-format off
#define FASTRECON_KERNELS(K)                                                                                          \
  K(smoothed_l21_fwd, (int dtype, Address g, Address eps, Address value, Address dual, Address norm,                  \
                       std::int64_t B, std::int64_t C, std::int64_t N))                                               \
  K(smoothed_l21_bwd, (int dtype, Address d_value, Address d_dual, Address eps, Address dual, Address norm,           \
                       Address d_g, Address d_eps, std::int64_t B, std::int64_t C, std::int64_t N))                   \
  K(soft_threshold_fwd, (int dtype, Address x, Address tau, Address y, std::int64_t R, std::int64_t M,                \
                         std::int64_t S))                                                                             \
  K(soft_threshold_bwd, (int dtype, Address d_y, Address x, Address tau, Address d_x, Address d_tau,                  \
                         std::int64_t R, std::int64_t M, std::int64_t S))                                             \
  K(group_soft_threshold_fwd, (int dtype, Address g, Address tau, Address y, std::int64_t B, std::int64_t C,          \
                               std::int64_t N, std::int64_t M))                                                       \
  K(group_soft_threshold_bwd, (int dtype, Address d_y, Address g, Address tau, Address d_g, Address d_tau,            \
                               std::int64_t B, std::int64_t C, std::int64_t N, std::int64_t M))                       \
  K(prox_lp_fwd, (int dtype, Address x, Address lam, Address y, std::int64_t R, std::int64_t M, std::int64_t S,       \
                  double p))                                                                                          \
  K(prox_lp_bwd, (int dtype, Address d_y, Address x, Address lam, Address d_x, Address d_lam, std::int64_t R,         \
                  std::int64_t M, std::int64_t S, double p))                                                          \
  K(lp_value, (int dtype, Address c, Address value, std::int64_t B, std::int64_t N, double p))                        \
  K(select_descent, (Address u, Address v, Address phi_u, Address phi_v, Address x, Address took_u,                   \
                     std::int64_t B, std::int64_t bytes))                                                             \
  K(select_descent_bwd, (Address d_x, Address took_u, Address d_u, Address d_v, std::int64_t B,                       \
                         std::int64_t bytes))                                                                         \
  K(shrink_eps, (int dtype, Address grad_f, Address grad_r, Address eps, Address grad, Address norm,                  \
                 Address eps_next, Address shrunk, std::int64_t B, std::int64_t N, double sigma, double gamma))       \
  K(ladmm_shrink_fwd, (int dtype, Address z, Address arg, Address w, Address tau, Address z_next, std::int64_t N,     \
                       std::int64_t M, std::int64_t D))                                                               \
  K(ladmm_shrink_bwd, (int dtype, Address d_next, Address z_next, Address arg, Address w, Address d_z, Address d_arg, \
                       Address d_w, Address d_tau, std::int64_t N, std::int64_t M, std::int64_t D))                   \
  K(ladmm_step_fwd, (int dtype, int update, Address z, Address a, Address x, Address e, Address dual, Address beta,   \
                     Address w, Address tau, Address beta_next, Address q, Address e_next, Address dual_next,         \
                     Address arg, std::int64_t N, std::int64_t D, std::int64_t M))                                    \
  K(ladmm_iterations, (int dtype, int update, Address x, Address a, Address w1, std::int64_t matrices, double l1,     \
                       Address tau1, Address beta, Address w2, Address tau2, Address z, Address e, Address dual,      \
                       Address q, Address arg, std::int64_t tau1_step, std::int64_t beta_step, std::int64_t w2_step,  \
                       std::int64_t tau2_step, std::int64_t K, std::int64_t N, std::int64_t D, std::int64_t M))       \
  K(ladmm_step_bwd, (int dtype, int update, Address d_q, Address d_e, Address d_dual, Address d_arg, Address z,       \
                     Address a, Address q, Address x, Address e, Address dual, Address e_next, Address beta, Address w,\
                     Address tau, Address beta_next, Address d_z, Address d_a, Address d_x, Address d_e_in,           \
                     Address d_dual_in, Address d_parameters, bool q_used, bool e_used, bool a_learned,               \
                     bool x_learned, std::int64_t N, std::int64_t D, std::int64_t M))                                 \
  K(block_product, (int dtype, Address blocks, Address matrix, Address out, bool columns, std::int64_t R,             \
                    std::int64_t K, std::int64_t L))                                                                  \
  K(feature_gradient_tile, (int dtype, Address x, Address weights, Address eps, Address value, Address grad,          \
                            std::int64_t B, std::int64_t Cin, std::int64_t H, std::int64_t W, std::int64_t C,         \
                            std::int64_t L, double delta, bool final_activation, int products, std::int64_t top,      \
                            std::int64_t bottom, std::int64_t left, std::int64_t right))                              \
  K(feature_value_tile, (int dtype, Address x, Address weights, Address eps, Address value, std::int64_t B,           \
                         std::int64_t Cin, std::int64_t H, std::int64_t W, std::int64_t C, std::int64_t L,            \
                         double delta, bool final_activation, int products, std::int64_t top, std::int64_t bottom,    \
                         std::int64_t left, std::int64_t right))                                                      \
  K(feature_gradient_fwd, (int dtype, Address x, Address weights, Address eps, Address value, Address grad,           \
                           std::int64_t B, std::int64_t Cin, std::int64_t H, std::int64_t W, std::int64_t C,          \
                           std::int64_t L, double delta, bool final_activation, int products))                        \
  K(feature_gradient_value, (int dtype, Address x, Address weights, Address eps, Address value, std::int64_t B,       \
                             std::int64_t Cin, std::int64_t H, std::int64_t W, std::int64_t C, std::int64_t L,        \
                             double delta, bool final_activation, int products))                                      \
  K(feature_gradient_vjp, (int dtype, Address d_value, Address d_grad, Address x, Address weights, Address eps,       \
                           Address d_x, Address d_weights, Address d_eps, std::int64_t B, std::int64_t Cin,           \
                           std::int64_t H, std::int64_t W, std::int64_t C, std::int64_t L, double delta,              \
                           bool final_activation, int products))                                                      \
  K(radon, (int dtype, Address x, Address lines, Address axis, Address y, std::int64_t N, std::int64_t H,             \
            std::int64_t W, std::int64_t A, std::int64_t D))                                                          \
  K(radon_adjoint, (int dtype, Address y, Address lines, Address axis, Address x, std::int64_t N, std::int64_t H,     \
                    std::int64_t W, std::int64_t A, std::int64_t D))                                                  \
  K(gradient, (int dtype, Address x, Address y, std::int64_t B, std::int64_t C, std::int64_t H, std::int64_t W,       \
               bool back))                                                                                            \
  K(sparse_patches, (int dtype, Address x, Address grad, Address value, double radius, std::int64_t B, std::int64_t H,  \
                     std::int64_t W))                                                                                   \
  K(back_project, (int dtype, Address q, Address views, Address x, std::int64_t N, std::int64_t A, std::int64_t D,    \
                   std::int64_t H, std::int64_t W, bool fan, bool curved))                                            \
  K(dwt2, (int dtype, Address x, Address taps, Address c, std::int64_t P, std::int64_t H, std::int64_t W,             \
           std::int64_t L, std::int64_t levels))                                                                      \
  K(idwt2, (int dtype, Address c, Address taps, Address x, std::int64_t P, std::int64_t H, std::int64_t W,            \
            std::int64_t L, std::int64_t levels))                                                                     \
  K(prox_gradient_step, (int dtype, Address x, Address grad, Address step, Address lam, Address z, Address sums,      \
                         std::int64_t B, std::int64_t N, std::int64_t step_image, std::int64_t step_entry,            \
                         std::int64_t lam_image, std::int64_t lam_entry))                                             \
  K(prox_gradient_iterations, (int dtype, int transform, Address x, Address v, Address residual, Address residual_v,  \
                               Address y, Address mask, Address maps, Address lam, Address numbers, Address schedule, \
                               Address taps, Address plan, Address trace, std::int64_t B, std::int64_t C,             \
                               std::int64_t P, std::int64_t Q, std::int64_t H, std::int64_t W, std::int64_t coils,    \
                               std::int64_t L, std::int64_t levels, std::int64_t mask_image, std::int64_t maps_image, \
                               std::int64_t lam_image, std::int64_t lam_entry, std::int64_t iterations, bool fista,   \
                               bool backtracking, bool scheduled, bool centred))                                      \
  K(image_operator, (int dtype, int transform, Address x, Address y, Address mask, Address maps, Address plan,        \
                     std::int64_t B, std::int64_t C, std::int64_t H, std::int64_t W, std::int64_t coils,              \
                     std::int64_t mask_image, std::int64_t maps_image, bool centred, bool back))                      \
  K(wavelet_shrinkage, (int dtype, int transform, Address x, Address v, Address factors, Address shift, Address tau,   \
                        Address momentum, Address taps, Address plan, std::int64_t B, std::int64_t C,                 \
                        std::int64_t H, std::int64_t W, std::int64_t factors_image, std::int64_t L,                   \
                        std::int64_t levels, std::int64_t iterations, bool ahead))                                    \
  K(fft2, (int dtype, bool back, Address x, Address y, Address plan, std::int64_t B))                                 \
  K(squares, (int dtype, Address x, Address minus, Address out, bool differ, std::int64_t B, std::int64_t N))         \
  K(prox_tv, (int dtype, Address y, Address lam, Address p, Address x, Address dual, Address sums, Address count,     \
              std::int64_t B, std::int64_t G, std::int64_t H, std::int64_t W, double tol, std::int64_t iterations,    \
              std::int64_t look, bool isotropic))                                                                     \
  K(rbf_unit_fwd, (int dtype, Address x, Address filters, Address back, Address table, Address y, std::int64_t B,      \
                   std::int64_t C, std::int64_t H, std::int64_t W, std::int64_t F, std::int64_t K, std::int64_t N,    \
                   double rate))                                                                                      \
  K(rbf_unit_vjp, (int dtype, Address d_y, Address x, Address filters, Address back, Address table, Address d_x,      \
                   Address d_filters, Address d_back, Address d_table, std::int64_t B, std::int64_t C,                \
                   std::int64_t H, std::int64_t W, std::int64_t F, std::int64_t K, std::int64_t N, double rate))      \
  K(armijo, (int dtype, Address x, Address z, Address grad, Address lam, Address curvature, Address slack,            \
             Address gamma, Address sums, Address accepted, std::int64_t B, std::int64_t N, std::int64_t lam_image,   \
             std::int64_t lam_entry, double beta, double eta, std::int64_t trials, bool composite))                   \
  K(fourier_consistency, (int dtype, Address k, Address mask, Address y, Address residual, Address grad,              \
                          Address value, std::int64_t B, std::int64_t C, std::int64_t N, std::int64_t mask_image,     \
                          std::int64_t mask_channel, bool complex_mask))
// clang-format on

#define FASTRECON_DECLARE(name, args) void name args;
#define FASTRECON_MEMBER(name, args) void(*name) args;

namespace fastrecon {
struct Kernels {
  FASTRECON_KERNELS(FASTRECON_MEMBER)
};
}  // namespace fastrecon
