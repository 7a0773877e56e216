"""kernels/block_product.py: many small blocks times one matrix, each row with the same bits in any batch (Triton).

  blocks [B, n, K]     matrix [K, L], of any strides     out [B, n, L]
The K products of an entry are added in chunks of at most CHUNK, which one program each adds up in order, and the chunks
in float64: an order that depends on K alone, and enough programs for the few blocks of one image. Products are exact.
Definition: fastrecon/ops/block_product.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrecon.kernels.launch import blocks as count_blocks
from fastrecon.kernels.launch import launch, ready
from fastrecon.kernels.sums import ordered_sum

CHUNK = 256
# 16 accumulators a thread; three stages spill
TILE = {"BLOCK_R": 32, "BLOCK_L": 64, "BLOCK_K": 16, "num_warps": 4, "num_stages": 2}


@triton.jit(do_not_specialize=["R"])  # other code for other batches might add in another order
def _product_kernel(
    X, Matrix, Out, R, K, L, step_k, step_l,
    CHUNKS: tl.constexpr, SIZE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    columns = tl.cdiv(L, BLOCK_L)
    n = (tl.program_id(0) % columns) * BLOCK_L + tl.arange(0, BLOCK_L)
    chunk = tl.program_id(0) // columns % CHUNKS
    row = (tl.program_id(0) // (columns * CHUNKS)).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    total = tl.zeros((BLOCK_R, BLOCK_L), X.dtype.element_ty)
    for start in range(0, SIZE, BLOCK_K):
        k = chunk * SIZE + start + tl.arange(0, BLOCK_K)
        x = tl.load(X + row[:, None] * K + k[None, :], mask=(row < R)[:, None] & (k < K)[None, :], other=0.0)
        at = Matrix + k[:, None].to(tl.int64) * step_k + n[None, :].to(tl.int64) * step_l
        w = tl.load(at, mask=(k < K)[:, None] & (n < L)[None, :], other=0.0)
        total = tl.dot(x, w, total, "ieee", out_dtype=total.dtype)
    out = Out + (row * CHUNKS + chunk)[:, None] * L + n[None, :]
    tl.store(out, total, mask=(row < R)[:, None] & (n < L)[None, :])


def block_product(blocks: Tensor, matrix: Tensor) -> Tensor:
    """Returns [B, n, L] like blocks."""
    if blocks.dtype not in (torch.float32, torch.float64) or blocks.numel() == 0 or matrix.numel() == 0:
        return NotImplemented
    (B, n, K), L = blocks.shape, matrix.shape[1]
    chunks = count_blocks(K, CHUNK)
    size = count_blocks(count_blocks(K, chunks), TILE["BLOCK_K"]) * TILE["BLOCK_K"]
    partial = blocks.new_empty(B * n, chunks, L)
    programs = count_blocks(B * n, TILE["BLOCK_R"]) * chunks * count_blocks(L, TILE["BLOCK_L"])
    arrays = ready(blocks), matrix.resolve_neg(), partial
    launch(_product_kernel, programs, *arrays, B * n, K, L, *matrix.stride(), CHUNKS=chunks, SIZE=size, **TILE)
    return (partial if chunks == 1 else ordered_sum(partial, blocks.dtype)).view(B, n, L)
