// tensor_core.h: products of bfloat16 matrices by the 32 lanes of a warp, on GPUs from sm_80 on.
//
// Lane 4 g + t of a warp holds, of A [16, 16], B [16, 8] and C [16, 8], these words of two neighbours or numbers:
//   a[0] A[g][2t, 2t + 1]   a[1] A[g + 8][2t, 2t + 1]   a[2] A[g][2t + 8, 2t + 9]   a[3] A[g + 8][2t + 8, 2t + 9]
//   b[0] B[2t, 2t + 1][g]   b[1] B[2t + 8, 2t + 9][g]   c[0], c[1] C[g][2t], C[g][2t + 1]   c[2], c[3] C[g + 8][2t], ...
// PTX ISA, "mma.m16n8k16", "ldmatrix" and "cp.async". Off the GPU tests/cuda_on_host.h stands in.
#pragma once

namespace fastrecon {
#ifdef __CUDACC__
// Two numbers rounded to bfloat16 in a word, the first in its lower half.
__device__ __forceinline__ unsigned pair(float first, float second) {
  unsigned word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
}

// All of a block's dynamic shared memory, of SHARED bytes, as one `name` of a type.
#define SHARED_MEMORY(Type, name)                                   \
  static_assert(sizeof(Type) <= SHARED, "too little is asked for"); \
  extern __shared__ uint4 dynamic_memory[];                         \
  Type& name = *reinterpret_cast<Type*>(dynamic_memory)

// x, of which the compiler forgets how it came about: it else keeps every bit in a register of its own.
__device__ __forceinline__ unsigned opaque(unsigned x) {
  asm volatile("" : "+r"(x));
  return x;
}

// max(x, 0), but NaN for NaN.
__device__ __forceinline__ float positive_part(float x) {
  float y;
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(y) : "f"(x));
  return y;
}

// An address in shared memory, to which bytes are added.
using Shared = unsigned;
__device__ __forceinline__ Shared shared(const void* p) {
  Shared address;
  asm("{ .reg .u64 at; cvta.to.shared.u64 at, %1; cvt.u32.u64 %0, at; }" : "=r"(address) : "l"(p));
  return address;
}

// Four 8x8 matrices: lane 8 i + r gives the address of row r of matrix i, 16 bytes at a multiple of 16; a[i] gets the
// numbers 2t, 2t + 1 of row g of matrix i.
__device__ __forceinline__ void load_matrices(unsigned (&a)[4], Shared row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(row)
               : "memory");
}

// Copies 4 or 16 bytes from global memory while the thread goes on, or zeros unless `any`; `finish_copies` waits for all
// that the thread has begun.
template <int kBytes>
__device__ __forceinline__ void begin_copy(void* to, const void* from, bool any) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared(to)), "l"(from), "n"(kBytes),
               "r"(any ? kBytes : 0)
               : "memory");
}
__device__ __forceinline__ void finish_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// C += A B, summed in float32.
__device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// The two numbers of a word.
__device__ __forceinline__ float first_of(unsigned word) { return __uint_as_float(word << 16); }
__device__ __forceinline__ float second_of(unsigned word) { return __uint_as_float(word & 0xffff0000u); }
}  // namespace fastrecon
