"""Many small blocks times one matrix: the product of block-wise sensing, image by image.

A vendor's product of more rows may add in another order, and then an image would depend on its batch. On the CPU every
image is a product of its own, on aligned memory; on a GPU one launch of our own multiplies them all, in an order that
does not depend on how many there are, and never in TF32.
"""

from torch import Tensor

from fastrecon.checks import accepts_arrays, expect
from fastrecon.ops.function import differentiated
from fastrecon.registry import define


def block_product_ref(blocks: Tensor, matrix: Tensor) -> Tensor:
    """The definition, blocks [B, n, k], matrix [k, l]: [B, n, l], each image with the bits it has alone."""
    out = blocks.new_empty(*blocks.shape[:2], matrix.shape[1])
    for one, result in zip(blocks, out, strict=True):
        # a fresh copy starts on 64 bytes like every allocation: vendor products may round differently elsewhere
        result.copy_(one.clone() @ matrix)
    return out


_product = define(
    "block_product(Tensor blocks, Tensor matrix) -> Tensor",
    "block_product",
    ref=block_product_ref,
    cpu=block_product_ref,  # the vendor's product is as fast as the processor
)


@accepts_arrays
def block_product(blocks: Tensor, matrix: Tensor) -> Tensor:
    """Every block of every image times one matrix.

    Args:
        blocks: [B, n, k], n blocks an image, real.
        matrix: [k, l], like blocks.

    Returns:
        [B, n, l], differentiable in both. Without gradients image i has the same bits in any batch.

    Raises:
        ValueError: shapes, types or devices do not fit.
    """
    op = "block_product"
    expect(blocks.ndim == 3 and blocks.is_floating_point(), op, "blocks", "real [B, n, k]", blocks)
    fits = matrix.ndim == 2 and matrix.shape[0] == blocks.shape[2] and matrix.dtype == blocks.dtype
    kind = f"[{blocks.shape[2]}, l] {str(blocks.dtype).removeprefix('torch.')} on {blocks.device}"
    expect(fits and matrix.device == blocks.device, op, "matrix", kind, matrix)
    if differentiated(blocks, matrix):
        return blocks @ matrix
    return _product(blocks, matrix) if blocks.is_cuda else block_product_ref(blocks, matrix)
