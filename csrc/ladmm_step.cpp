// ladmm_step.cpp: the two half steps of linearised ADMM, each a matrix product and all that follows it (CPU).
// Definition: fastrecon/ops/ladmm_step.py
//   z [N, D]   q, x, e, dual, arg [N, M]   w of the shrinkage [M, D], a [M, D]   beta, w, beta_next [M]
//   tau [D] or [M]
// Rows are samples. z_next may be z, and e_next, dual_next, arg their predecessors: numbers are read before they are
// written, and no product reads what its own tiles overwrite.
#include "matrix.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;

enum Update : int { kGeneral = 0, kResidual = 1, kGiven = 2 };

constexpr int64_t kCached = 800 << 10;  // bytes of a band that stay in the second-level cache
constexpr int64_t kRows = 32;  // rows whose derivatives are added in the working precision before double takes over

// body(zero, i) for 0 <= i < n: with zero a vector while one fits, then a number. Vectors are explicit since the
// compiler gives up on so many arrays that might overlap.
template <typename T, typename F>
FR_INLINE void lanes(int64_t n, const F& body) {
  int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) body(Vec<T>{}, i);
  for (; i < n; ++i) body(T(0), i);
}

// d where y is not 0, else 0; and the sign of y times d.
template <typename V>
FR_INLINE V where_not_zero(V y, V d) {
  return y == V{} ? V{} : d;
}
template <typename V>
FR_INLINE V with_sign_of(V y, V d) {
  return y < V{} ? -d : d;
}

// body(row, first column, columns, sums of those columns [kSums, kTile]) for every row of [N, M]; out [kSums, M]
// receives the sums, added in an order that depends on N and M alone.
template <int kSums, typename T, typename F>
FR_INLINE void sums_over_rows(int64_t N, int64_t M, T* out, const F& body) {
  const int64_t strips = tiles_of(M), blocks = tiles_of(N, kRows);
  Scratch memory;
  double* const partial = memory.take<double>(blocks * kSums * M);
  parallel(blocks * strips, N * M, [&](int64_t task) {
    const int64_t block = task / strips, first = task % strips * kTile, n = at_most(kTile, M - first);
    T part[kSums * kTile] = {};
    for (int64_t r = block * kRows; r < at_most(N, (block + 1) * kRows); ++r) body(r, first, n, part);
    for (int k = 0; k < kSums; ++k)
      for (int64_t i = 0; i < n; ++i) partial[(block * kSums + k) * M + first + i] = part[k * kTile + i];
  });
  add_blocks(partial, blocks, kSums * M, out);
}

template <typename T>
FR_INLINE void add_to(T* p, T v) {
  *p += v;
}
template <typename T>
FR_INLINE void add_to(T* p, Vec<T> v) {
  put(p, get<Vec<T>>(p) + v);
}

// out = -A B, the derivatives of products that are subtracted.
template <Order kA, Order kB, typename T>
void minus_product(int64_t M, int64_t N, int64_t K, const T* A, const T* B, T* out) {
  matrix_product<kA, kB>(M, N, K, A, B, touching(N, out), [=](int64_t r, int64_t first, int64_t n, const T* p) {
    T* const to = out + r * N + first;
    lanes<T>(n, [=](auto zero, int64_t i) { put(to + i, -get<decltype(zero)>(p + i)); });
  });
}

// What follows the product arg w.
template <typename T>
FR_INLINE auto shrinking(const T* z, const T* tau, T* z_next, int64_t D) {
  return [=](int64_t r, int64_t first, int64_t n, const T* p) {
    const T *zr = z + r * D + first, *tr = tau + first;
    T* const out = z_next + r * D + first;
    lanes<T>(n, [=](auto zero, int64_t i) {
      using V = decltype(zero);
      put(out + i, soft<V>(get<V>(zr + i) - get<V>(p + i), get<V>(tr + i)));
    });
  };
}

template <typename T>
void shrink_fwd(const T* z, const T* arg, const T* w, const T* tau, T* z_next, int64_t N, int64_t M, int64_t D) {
  matrix_product<kByRows, kByRows>(N, D, M, arg, w, touching(D, z, z_next), shrinking(z, tau, z_next, D));
}

template <typename T>
void shrink_bwd(const T* d_next, const T* z_next, const T* arg, const T* w, T* d_z, T* d_arg, T* d_w, T* d_tau,
                int64_t N, int64_t M, int64_t D) {
  sums_over_rows<1>(N, D, d_tau, [=](int64_t r, int64_t first, int64_t n, T* part) {
    const int64_t at = r * D + first;
    lanes<T>(n, [=](auto zero, int64_t i) {
      using V = decltype(zero);
      const V y = get<V>(z_next + at + i), d = where_not_zero<V>(y, get<V>(d_next + at + i));
      put(d_z + at + i, d);
      add_to<T>(part + i, -with_sign_of<V>(y, d));
    });
  });
  minus_product<kByRows, kByColumns>(N, M, D, d_z, w, d_arg);
  minus_product<kByColumns, kByRows>(M, D, N, arg, d_z, d_w);
}

// What follows the product z a^T; unless `whole`, q is not written, nor is e_next for kResidual.
template <int kUpdate, typename T>
FR_INLINE auto stepping(const T* x, const T* e, const T* dual, const T* beta, const T* w, const T* tau,
                        const T* beta_next, T* q, T* e_next, T* dual_next, T* arg, int64_t M, bool whole) {
  return [=](int64_t row, int64_t first, int64_t n, const T* p) {
    const int64_t at = row * M + first;
    const T *br = beta + first, *wr = w + first, *tr = tau + first, *next_br = beta_next + first;
    lanes<T>(n, [=](auto zero, int64_t i) {
      using V = decltype(zero);
      const V az = get<V>(p + i), b = get<V>(br + i), l = get<V>(dual + at + i);
      const V distance = az - get<V>(x + at + i);
      V after;
      if (kUpdate == kGeneral) {
        const V before = get<V>(e + at + i);
        after = soft<V>(before - get<V>(wr + i) * (l + b * (distance + before)), get<V>(tr + i));
      } else if (kUpdate == kResidual) {
        after = soft<V>(-distance - get<V>(wr + i) * l, get<V>(tr + i));
      } else {
        after = get<V>(e + at + i);
      }
      const V r = distance + after, next = l + b * r;
      if (whole) put(q + at + i, az);
      if (kUpdate == kGeneral || (kUpdate == kResidual && whole)) put(e_next + at + i, after);
      put(dual_next + at + i, next);
      put(arg + at + i, next + get<V>(next_br + i) * r);
    });
  };
}

template <int kUpdate, typename T>
void step_fwd(const T* z, const T* a, const T* x, const T* e, const T* dual, const T* beta, const T* w, const T* tau,
              const T* beta_next, T* q, T* e_next, T* dual_next, T* arg, int64_t N, int64_t D, int64_t M) {
  const auto follow = stepping<kUpdate>(x, e, dual, beta, w, tau, beta_next, q, e_next, dual_next, arg, M, true);
  matrix_product<kByRows, kByColumns>(N, M, D, z, a, touching(M, x, e, dual, q, e_next, dual_next, arg), follow);
}

// Rows of parameters that lie `step` apart: 0 where all iterations take one.
template <typename T>
struct Parameters {
  const T* first;
  int64_t step;
  FR_INLINE const T* operator[](int64_t k) const { return first + k * step; }
};

// K iterations in place with the matrices w1 / l1, K or 1 of them. A band of samples goes through all of them while it
// is in the second-level cache; q, and e for kResidual, are written by the last.
template <int kUpdate, typename T>
void iterations(const T* x, const T* a, const Address* w1, int64_t matrices, T l1, Parameters<T> tau1,
                Parameters<T> beta, Parameters<T> w2, Parameters<T> tau2, T* z, T* e, T* dual, T* q, T* arg, int64_t K,
                int64_t N, int64_t D, int64_t M) {
  const int64_t panels = tiles_of(D, kPanel<T>), size = packed_size<T>(M, D), work = N * D * M;
  Scratch memory;
  T *const packed_w1 = memory.take<T>(matrices * size), *const packed_a = memory.take<T>(packed_size<T>(D, M));
  parallel(matrices * panels, K * work / 8, [=](int64_t task) {
    T* const own = packed_w1 + task * M * kPanel<T>;
    pack_panel<kByRows>(as<const T>(w1[task / panels]), M, D, task % panels * kPanel<T>, own);
    if (l1 != 1)
      for (int64_t i = 0; i < M * kPanel<T>; ++i) own[i] /= l1;
  });
  pack<kByColumns>(a, D, M, K * work / 8, packed_a);
  const auto iterate = [=](int64_t k, const auto& multiply) {
    const int64_t next = at_most(k + 1, K - 1);
    multiply(D, M, arg, packed_w1 + (matrices == 1 ? 0 : k) * size, touching(D, z), shrinking<T>(z, tau1[k], z, D));
    const auto follow =
        stepping<kUpdate, T>(x, e, dual, beta[k], w2[k], tau2[k], beta[next], q, e, dual, arg, M, k + 1 == K);
    multiply(M, D, z, packed_a, touching(M, x, dual, arg), follow);
  };
  const int64_t threads = threads_for(K * work);
  if (N < threads * kMaxRows) {  // they share each product
    for (int64_t k = 0; k < K; ++k)
      iterate(k, [=](int64_t columns, int64_t depth, const T* A, const T* B, const auto& touch, const auto& emit) {
        packed_product<kByRows>(N, columns, depth, A, B, touch, emit);
      });
    return;
  }
  const int64_t fitting = kCached / (int64_t(sizeof(T)) * ((kUpdate == kGeneral ? 4 : 3) * M + D));
  const int64_t band = fitting < kMaxRows ? kMaxRows : at_most(kBand, fitting / kMaxRows * kMaxRows);
  const int64_t bands = bands_of(N, threads, band), rows = tiles_of(N, bands);
  parallel(bands, K * work / 8, [&](int64_t task) {
    const int64_t begin = task * rows, left = at_most(rows, N - begin);
    for (int64_t k = 0; k < K && left > 0; ++k)
      iterate(k, [=](int64_t columns, int64_t depth, const T* A, const T* B, const auto& touch, const auto& emit) {
        band_product<kByRows>(begin, left, 0, tiles_of(columns, kPanel<T>), N, columns, depth, A, B, touch, emit);
      });
  });
}

// d_parameters [4, M]: of beta, w, tau, beta_next. d_q and d_e, from outside, are read if used. e_next is e for kGiven;
// for kResidual it is found again, e is not read and d_e_in not written. d_a and d_x are written if learned.
template <int kUpdate, typename T>
void step_bwd(const T* d_q, const T* d_e, const T* d_dual, const T* d_arg, const T* z, const T* a, const T* q,
              const T* x, const T* e, const T* dual, const T* e_next, const T* beta, const T* w, const T* tau,
              const T* beta_next, T* d_z, T* d_a, T* d_x, T* d_e_in, T* d_dual_in, T* d_parameters, bool q_used,
              bool e_used, bool a_learned, bool x_learned, int64_t N, int64_t D, int64_t M) {
  Scratch memory;
  T* const all_q = memory.take<T>(N * M);  // the whole derivative of q
  sums_over_rows<4>(N, M, d_parameters, [=](int64_t row, int64_t first, int64_t n, T* part) {
    const int64_t at = row * M + first;
    const T *br = beta + first, *wr = w + first, *tr = tau + first, *next = beta_next + first;
    lanes<T>(n, [=](auto zero, int64_t i) {
      using V = decltype(zero);
      const V b = get<V>(br + i), step = get<V>(wr + i), l = get<V>(dual + at + i);
      const V distance = get<V>(q + at + i) - get<V>(x + at + i);
      const V after = kUpdate == kResidual ? soft<V>(-distance - step * l, get<V>(tr + i)) : get<V>(e_next + at + i);
      const V r = distance + after;
      const V d_u = get<V>(d_arg + at + i), total = get<V>(d_dual + at + i) + d_u;
      const V d_r = b * total + get<V>(next + i) * d_u;
      const V d_after = e_used ? get<V>(d_e + at + i) + d_r : d_r;
      const auto finish = [&](V slope) {
        put(all_q + at + i, q_used ? get<V>(d_q + at + i) + slope : slope);
        if (x_learned) put(d_x + at + i, -slope);
      };
      add_to<T>(part + 3 * kTile + i, r * d_u);
      V d_b = r * total;
      if (kUpdate == kGiven) {
        finish(d_r);
        put(d_e_in + at + i, d_after);
        put(d_dual_in + at + i, total);
      } else {
        const V d_v = where_not_zero<V>(after, d_after);
        V slope = l;  // minus the derivative of what is thresholded in w
        if (kUpdate == kGeneral) {
          const V h = distance + get<V>(e + at + i), d_h = -step * b * d_v;
          slope += b * h;
          d_b -= step * h * d_v;
          finish(d_r + d_h);
          put(d_e_in + at + i, d_v + d_h);
        } else {
          finish(d_r - d_v);
        }
        put(d_dual_in + at + i, total - step * d_v);
        add_to<T>(part + kTile + i, -slope * d_v);
        add_to<T>(part + 2 * kTile + i, -with_sign_of<V>(after, d_v));
      }
      add_to<T>(part + i, d_b);
    });
  });
  matrix_product<kByRows, kByRows>(N, D, M, all_q, a, touching(D, d_z), into(d_z, D));
  if (a_learned) matrix_product<kByColumns, kByRows>(M, D, N, all_q, z, touching(D, d_a), into(d_a, D));
}

template <int kUpdate>
struct Kind {
  static constexpr int update = kUpdate;
};

// kernel(Kind<update>()).
template <typename F>
FR_INLINE void by_update(int update, const F& kernel) {
  if (update == kGeneral) return kernel(Kind<kGeneral>());
  if (update == kResidual) return kernel(Kind<kResidual>());
  kernel(Kind<kGiven>());
}
}  // namespace

void ladmm_shrink_fwd(int dtype, Address z, Address arg, Address w, Address tau, Address z_next, int64_t N, int64_t M,
                      int64_t D) {
  by_dtype<kReal>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    shrink_fwd(as<const T>(z), as<const T>(arg), as<const T>(w), as<const T>(tau), as<T>(z_next), N, M, D);
  });
}

void ladmm_shrink_bwd(int dtype, Address d_next, Address z_next, Address arg, Address w, Address d_z, Address d_arg,
                      Address d_w, Address d_tau, int64_t N, int64_t M, int64_t D) {
  by_dtype<kReal>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    shrink_bwd(as<const T>(d_next), as<const T>(z_next), as<const T>(arg), as<const T>(w), as<T>(d_z), as<T>(d_arg),
               as<T>(d_w), as<T>(d_tau), N, M, D);
  });
}

void ladmm_step_fwd(int dtype, int update, Address z, Address a, Address x, Address e, Address dual, Address beta,
                    Address w, Address tau, Address beta_next, Address q, Address e_next, Address dual_next,
                    Address arg, int64_t N, int64_t D, int64_t M) {
  by_dtype<kReal>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    by_update(update, [&](auto kind) {
      step_fwd<kind.update>(as<const T>(z), as<const T>(a), as<const T>(x), as<const T>(e), as<const T>(dual),
                            as<const T>(beta), as<const T>(w), as<const T>(tau), as<const T>(beta_next), as<T>(q),
                            as<T>(e_next), as<T>(dual_next), as<T>(arg), N, D, M);
    });
  });
}

void ladmm_iterations(int dtype, int update, Address x, Address a, Address w1, std::int64_t matrices, double l1,
                      Address tau1, Address beta, Address w2, Address tau2, Address z, Address e, Address dual,
                      Address q, Address arg, std::int64_t tau1_step, std::int64_t beta_step, std::int64_t w2_step,
                      std::int64_t tau2_step, std::int64_t K, std::int64_t N, std::int64_t D, std::int64_t M) {
  by_dtype<kReal>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    const auto kernel = update == kGeneral ? iterations<kGeneral, T> : iterations<kResidual, T>;
    kernel(as<const T>(x), as<const T>(a), as<const Address>(w1), matrices, T(l1), {as<const T>(tau1), tau1_step},
           {as<const T>(beta), beta_step}, {as<const T>(w2), w2_step}, {as<const T>(tau2), tau2_step}, as<T>(z),
           as<T>(e), as<T>(dual), as<T>(q), as<T>(arg), K, N, D, M);
  });
}

void ladmm_step_bwd(int dtype, int update, Address d_q, Address d_e, Address d_dual, Address d_arg, Address z,
                    Address a, Address q, Address x, Address e, Address dual, Address e_next, Address beta, Address w,
                    Address tau, Address beta_next, Address d_z, Address d_a, Address d_x, Address d_e_in,
                    Address d_dual_in, Address d_parameters, bool q_used, bool e_used, bool a_learned, bool x_learned,
                    int64_t N, int64_t D, int64_t M) {
  by_dtype<kReal>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    by_update(update, [&](auto kind) {
      step_bwd<kind.update>(as<const T>(d_q), as<const T>(d_e), as<const T>(d_dual), as<const T>(d_arg), as<const T>(z),
                            as<const T>(a), as<const T>(q), as<const T>(x), as<const T>(e), as<const T>(dual),
                            as<const T>(e_next), as<const T>(beta), as<const T>(w), as<const T>(tau),
                            as<const T>(beta_next), as<T>(d_z), as<T>(d_a), as<T>(d_x), as<T>(d_e_in), as<T>(d_dual_in),
                            as<T>(d_parameters), q_used, e_used, a_learned, x_learned, N, D, M);
    });
  });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
