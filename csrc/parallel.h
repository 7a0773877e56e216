// parallel.h: loops that the pool's threads share, and sums over them.
#pragma once
#include <cstdint>

#include "isa.h"
#include "memory.h"
#include "pool.h"

#if defined(__GNUC__) && !defined(__clang__)
#define FR_ONE_COPY __attribute__((noipa))
#else
#define FR_ONE_COPY __attribute__((noinline))
#endif

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
constexpr std::int64_t kAlone = 1 << 11;  // units of work, of about a nanosecond or more, not worth a clock's look

// Compiled once, whoever calls it: of a second copy the compiler might round otherwise.
template <typename F>
FR_ONE_COPY void some(const void* body, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) (*static_cast<const F*>(body))(i);
}

// body(i) for 0 <= i < tasks, shared where the work (in any unit that is proportional to its time) is worth it.
template <typename F>
FR_INLINE void parallel(std::int64_t tasks, std::int64_t work, const F& body) {
  static Site site;
  if (work < kAlone) return some<F>(&body, 0, tasks);
  share_tasks(tasks, work, site, some<F>, &body);
}

// The sum of n numbers that tasks left `stride` apart: in their order, on any number of threads.
FR_INLINE double add_up(const double* parts, std::int64_t n, std::int64_t stride = 1) {
  double total = 0;
  for (std::int64_t i = 0; i < n; ++i) total += parts[i * stride];
  return total;
}

// part(b, k, sums [kSums]) for each of the `parts` parts of B images, then take(b, totals [kSums]) for each image.
template <int kSums, typename F, typename G>
FR_INLINE void sum_per_image(std::int64_t B, std::int64_t parts, std::int64_t work, const F& part, const G& take) {
  Scratch memory;
  double* const sums = memory.take<double>(B * parts * kSums);
  parallel(B * parts, work, [&](std::int64_t task) { part(task / parts, task % parts, sums + task * kSums); });
  for (std::int64_t b = 0; b < B; ++b) {
    double totals[kSums];
    for (int k = 0; k < kSums; ++k) totals[k] = add_up(sums + b * parts * kSums + k, parts, kSums);
    take(b, totals);
  }
}
}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
