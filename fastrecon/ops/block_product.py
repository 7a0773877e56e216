"""Many small blocks times one matrix: the product of block-wise sensing, image by image.

A vendor's product of more rows may add in another order, and then an image would depend on its batch. Our own add each
entry in an order that does not depend on how many there are, and never in TF32.
"""

import torch
from torch import Tensor

from fastrecon.checks import accepts_arrays, expect, kind
from fastrecon.ops.function import Function
from fastrecon.ops.layout import DTYPES
from fastrecon.registry import compiled, define


def block_product_ref(blocks: Tensor, matrix: Tensor) -> Tensor:
    """The definition, blocks [B, n, k], matrix [k, l]: [B, n, l], each image with the bits it has alone."""
    out = blocks.new_empty(*blocks.shape[:2], matrix.shape[1])
    for one, result in zip(blocks, out, strict=True):
        # a fresh copy starts on 64 bytes like every allocation: vendor products may round differently elsewhere
        result.copy_(one.clone() @ matrix)
    return out


def row_product(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows [N, k] times matrix [k, l]: [N, l], each row with the bits it has alone; on a GPU the vendor's product."""
    return rows @ matrix if rows.is_cuda else block_product(rows[:, None], matrix)[:, 0]


def _cpu(blocks: Tensor, matrix: Tensor) -> Tensor:
    if blocks.dtype not in (torch.float32, torch.float64) or blocks.numel() == 0 or matrix.numel() == 0:
        return NotImplemented
    columns = matrix.T.is_contiguous() and not matrix.is_neg()
    blocks, matrix = blocks.contiguous(), matrix.T if columns else matrix.contiguous()
    out = blocks.new_empty(*blocks.shape[:2], matrix.shape[0 if columns else 1])
    compiled().block_product(
        DTYPES[blocks.dtype], blocks.data_ptr(), matrix.data_ptr(), out.data_ptr(), columns,
        len(blocks) * blocks.shape[1], blocks.shape[2], out.shape[2],
    )  # fmt: skip
    return out


_product = define(
    "block_product(Tensor blocks, Tensor matrix) -> Tensor",
    "block_product",
    ref=block_product_ref,
    cpu=_cpu,
    fake=lambda blocks, matrix: blocks.new_empty(*blocks.shape[:2], matrix.shape[1]),
)


class BlockProduct(Function):
    """blocks [B, n, k] and matrix [k, l] to [B, n, l]; differentiable to any order."""

    definition = staticmethod(torch.matmul)

    @staticmethod
    def forward(blocks, matrix):  # noqa: D102
        return _product(blocks, matrix)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: D102
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, d):  # noqa: D102
        blocks, matrix = ctx.saved_tensors
        of_blocks, of_matrix = ctx.needs_input_grad
        d_blocks = BlockProduct.call(d, matrix.T) if of_blocks else None
        return d_blocks, blocks.flatten(0, 1).T @ d.flatten(0, 1) if of_matrix else None


@accepts_arrays
def block_product(blocks: Tensor, matrix: Tensor) -> Tensor:
    """Every block of every image times one matrix.

    Args:
        blocks: [B, n, k], n blocks an image, real.
        matrix: [k, l], like blocks.

    Returns:
        [B, n, l], differentiable in both to any order. Image i has the same bits in any batch.

    Raises:
        ValueError: shapes, types or devices do not fit.
    """
    op = "block_product"
    expect(blocks.ndim == 3 and blocks.is_floating_point(), op, "blocks", "real [B, n, k]", blocks)
    fits = matrix.ndim == 2 and matrix.shape[0] == blocks.shape[2] and matrix.dtype == blocks.dtype
    expect(fits and matrix.device == blocks.device, op, "matrix", f"[{blocks.shape[2]}, l] {kind(blocks)}", matrix)
    return BlockProduct.call(blocks, matrix)
