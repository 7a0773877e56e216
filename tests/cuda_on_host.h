// cuda_on_host.h: as much of CUDA C++ as kernels/*.cu use, for a host compiler, so that a machine without a GPU runs them.
//
// The threads of a block are fibres that take turns at barriers and shuffles, in either order; blocks run one by one, in
// either order too: what a missing barrier leaves to chance on a GPU differs between the two orders here.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(threads)

struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
struct float4 {
  float x, y, z, w;
};
struct Index {
  unsigned x;
};
static Index blockIdx, threadIdx;

namespace cuda_on_host {
enum State { kReady, kBlock, kWarp, kDone };

struct Fibre {
  ucontext_t begin;
  jmp_buf at;  // where it stopped: jumps cost a hundredth of a change of context
  bool begun = false;
  State state = kReady;
  std::unique_ptr<char[]> stack{new char[1 << 16]};
};

static std::vector<Fibre> fibres;
static jmp_buf scheduler;
static std::function<void()> body;
static double exchanged[1024];

static void enter() {
  body();
  fibres[threadIdx.x].state = kDone;
  _longjmp(scheduler, 1);
}

static void resume(Fibre& fibre) {
  if (_setjmp(scheduler)) return;
  if (fibre.begun) _longjmp(fibre.at, 1);
  fibre.begun = true;
  setcontext(&fibre.begin);
}

static void wait_at(State barrier) {
  Fibre& own = fibres[threadIdx.x];
  own.state = barrier;
  if (!_setjmp(own.at)) _longjmp(scheduler, 1);
}

// Lets the fibres [first, last) pass `barrier` if all that are not done wait there.
static bool release(unsigned first, unsigned last, State barrier) {
  bool any = false;
  for (unsigned t = first; t < last; ++t) {
    if (fibres[t].state != barrier && fibres[t].state != kDone) return false;
    any = any || fibres[t].state == barrier;
  }
  for (unsigned t = first; any && t < last; ++t)
    if (fibres[t].state == barrier) fibres[t].state = kReady;
  return any;
}

// Whether all threads came to an end; else some wait for others that do not come.
static bool run_block(unsigned threads, bool reversed) {
  for (Fibre& fibre : fibres) {
    fibre.state = kReady;
    fibre.begun = false;
    getcontext(&fibre.begin);
    fibre.begin.uc_stack.ss_sp = fibre.stack.get();
    fibre.begin.uc_stack.ss_size = 1 << 16;
    makecontext(&fibre.begin, enter, 0);
  }
  for (bool progress = true; progress;) {
    progress = false;
    for (unsigned k = 0; k < threads; ++k) {
      threadIdx.x = reversed ? threads - 1 - k : k;
      if (fibres[threadIdx.x].state != kReady) continue;
      resume(fibres[threadIdx.x]);
      progress = true;
    }
    for (unsigned t = 0; t < threads; t += 32) progress |= release(t, t + 32 < threads ? t + 32 : threads, kWarp);
    progress |= release(0, threads, kBlock);
  }
  for (Fibre& fibre : fibres)
    if (fibre.state != kDone) return false;
  return true;
}

template <typename Kernel>
bool launch(long long blocks, unsigned threads, bool reversed, Kernel kernel) {
  fibres = std::vector<Fibre>(threads);
  body = kernel;
  for (long long b = 0; b < blocks; ++b) {
    blockIdx.x = unsigned(reversed ? blocks - 1 - b : b);
    if (!run_block(threads, reversed)) return false;
  }
  return true;
}
}  // namespace cuda_on_host

inline void __syncthreads() { cuda_on_host::wait_at(cuda_on_host::kBlock); }
inline void __threadfence() {}
inline unsigned atomicAdd(unsigned* address, unsigned value) {
  const unsigned before = *address;
  *address += value;
  return before;
}
inline void __syncwarp() { cuda_on_host::wait_at(cuda_on_host::kWarp); }
inline double __shfl_xor_sync(unsigned, double value, int lanes) {
  const unsigned own = threadIdx.x;
  cuda_on_host::exchanged[own] = value;
  cuda_on_host::wait_at(cuda_on_host::kWarp);
  const double other = cuda_on_host::exchanged[own ^ unsigned(lanes)];
  cuda_on_host::wait_at(cuda_on_host::kWarp);
  return other;
}
inline float __uint_as_float(unsigned word) {
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}
inline float rsqrtf(float value) { return 1 / std::sqrt(value); }
inline float __saturatef(float value) { return value > 0 ? (value < 1 ? value : 1.f) : 0.f; }  // 0 for NaN

// Tensor cores: what kernels/tensor_core.h says, literally.
#define SHARED_MEMORY(Type, name)                                   \
  static_assert(sizeof(Type) <= SHARED, "too little is asked for"); \
  alignas(16) static char dynamic_memory[SHARED];                   \
  Type& name = *reinterpret_cast<Type*>(dynamic_memory)
namespace fastrecon {
inline unsigned opaque(unsigned x) { return x; }
inline float positive_part(float x) { return x < 0 ? 0.f : x; }
inline unsigned bfloat16(float value) {
  unsigned word;
  std::memcpy(&word, &value, 4);
  return value != value ? 0x7fffu : (word + 0x7fffu + (word >> 16 & 1)) >> 16;  // to nearest, ties to even
}
inline unsigned pair(float first, float second) { return bfloat16(first) | bfloat16(second) << 16; }
float first_of(unsigned), second_of(unsigned);

using Shared = char*;
inline Shared shared(const void* p) { return const_cast<Shared>(static_cast<const char*>(p)); }

struct Copy {
  void* to;
  const void* from;
  int bytes;
};
inline std::vector<Copy> copies[1024];  // not done before somebody waits for them
template <int kBytes>
void begin_copy(void* to, const void* from, bool any) {
  static const char zeros[16] = {};
  copies[threadIdx.x].push_back({to, any ? from : zeros, kBytes});
}
inline void finish_copies() {
  for (const Copy& copy : copies[threadIdx.x]) std::memcpy(copy.to, copy.from, copy.bytes);
  copies[threadIdx.x].clear();
}

inline void load_matrices(unsigned (&a)[4], Shared row) {
  static Shared rows[1024];
  if (reinterpret_cast<std::uintptr_t>(row) % 16) cuda_on_host::wait_at(cuda_on_host::kBlock);  // misaligned: to no end
  const unsigned lane = threadIdx.x % 32, first = threadIdx.x - lane;
  rows[threadIdx.x] = row;
  cuda_on_host::wait_at(cuda_on_host::kWarp);
  for (unsigned i = 0; i < 4; ++i) std::memcpy(&a[i], rows[first + 8 * i + lane / 4] + 4 * (lane % 4), 4);
  cuda_on_host::wait_at(cuda_on_host::kWarp);
}

inline void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  static unsigned words[1024][6];
  const unsigned lane = threadIdx.x % 32, first = threadIdx.x - lane;
  std::memcpy(words[threadIdx.x], a, 16);
  std::memcpy(words[threadIdx.x] + 4, b, 8);
  cuda_on_host::wait_at(cuda_on_host::kWarp);
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (unsigned k = 0; k < 16; k += 2) {
      const unsigned x = words[first + row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2];
      const unsigned y = words[first + column * 4 + k % 8 / 2][4 + k / 8];
      c[i] += first_of(x) * first_of(y) + second_of(x) * second_of(y);
    }
  }
  cuda_on_host::wait_at(cuda_on_host::kWarp);
}
}  // namespace fastrecon
