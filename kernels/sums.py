"""kernels/sums.py: sums of per-tile partial values in a fixed order, in float64, instead of atomics (Triton).

  partial [A, T, N]  T partial values of each of A x N sums     out [A, N]  their sums
The order depends on T and N alone: a sum has the same bits on every run and whatever A is.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrecon.kernels.launch import TILE, blocks, launch, power_of_2


@triton.jit
def _sum_kernel(Partial, Out, T, N, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr):
    columns = tl.cdiv(N, BLOCK_N)
    a = (tl.program_id(0) // columns).to(tl.int64)
    n = (tl.program_id(0) % columns) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_T, BLOCK_N), tl.float64)
    start = 0
    while start < T:  # a range over a number known at run time fails in the interpreter from NumPy 2.4 on
        t = start + tl.arange(0, BLOCK_T)
        tile = Partial + (a * T + t[:, None]) * N + n[None, :]
        total += tl.load(tile, mask=(t[:, None] < T) & (n[None, :] < N), other=0.0).to(tl.float64)
        start += BLOCK_T
    total = tl.sum(total, axis=0)
    if Out.dtype.element_ty != tl.float64:
        total = total.to(tl.float32)  # half precision is not always reached from float64 in one step
    tl.store(Out + a * N + n, total.to(Out.dtype.element_ty), mask=n < N)


def ordered_sum(partial: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums partial [A, T, N] over T: [A, N] of type `dtype`."""
    A, T, N = partial.shape
    block_n = power_of_2(N, 1, 64)
    block_t = power_of_2(T, 1, TILE // block_n)
    out = torch.empty((A, N), dtype=dtype, device=partial.device)
    launch(_sum_kernel, A * blocks(N, block_n), partial, out, T, N, BLOCK_T=block_t, BLOCK_N=block_n)
    return out
