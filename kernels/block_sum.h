// block_sum.h: sums over the threads of a block and over the blocks of an image, in an order that depends on sizes alone.
#pragma once

#ifndef THREADS
#define THREADS 256
#endif

namespace fastrecon {
constexpr int kThreads = THREADS;  // of every block
constexpr int kWarps = kThreads / 32;

// The sum of `value` over a warp, to every lane.
__device__ __forceinline__ double warp_sum(double value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// The sum over the block, to every thread: within warps, then over warps in their order.
__device__ __forceinline__ double block_sum(double value) {
  __shared__ double part[kWarps];
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;
  __syncthreads();
  double total = 0;
  for (int warp = 0; warp < kWarps; ++warp) total += part[warp];
  __syncthreads();  // before the next call writes
  return total;
}

// Whether this block is the last of `blocks` to come here; it may then read what thread 0 of the others wrote before.
__device__ __forceinline__ bool last_of(unsigned* arrived, unsigned blocks) {
  __shared__ bool last;
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(arrived, 1u) == blocks - 1;
    __threadfence();
  }
  __syncthreads();
  return last;
}

// The sum of `count` numbers `stride` apart, to every thread.
__device__ __forceinline__ double sum_of(const double* numbers, long long count, long long stride) {
  double own = 0;
  for (long long k = threadIdx.x; k < count; k += kThreads) own += numbers[k * stride];
  return block_sum(own);
}
}  // namespace fastrecon
