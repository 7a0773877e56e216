// parallel.h: loops that the pool's threads share.
#pragma once
#include <cstdint>

#include "isa.h"
#include "pool.h"

#if defined(__GNUC__) && !defined(__clang__)
#define FR_ONE_COPY __attribute__((noipa))
#else
#define FR_ONE_COPY __attribute__((noinline))
#endif

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
constexpr std::int64_t kAlone = 1 << 11;  // units of work, of about a nanosecond or more, that are not worth a clock's look

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
}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
