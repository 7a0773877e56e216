"""The learned regulariser on one tile of a larger image: what the whole image has there, to the bit.

A tile comes with a margin of pixels around it, over which what its border does wears off. The products are those of
Winograd's F(4x4, 3x3), whose rounding in 4x4 pixels depends on all of their 6x6 neighbours: each of 2 L - 1 of them
takes 4 pixels of the margin, and a tile must begin at a multiple of 4.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastrecon.ops.feature_gradient import (
    feature_gradient,
    features,
    flat_weights,
    has_kernel,
    kernel_sizes,
    smoothed_norm,
)
from fastrecon.ops.layout import DTYPES
from fastrecon.registry import compiled, kernels

GRID = 4  # tiles begin at multiples of so many pixels


def margin(layers: int) -> int:
    """Pixels around a tile beyond which nothing reaches into it."""
    return GRID * (2 * layers - 1)


@torch.no_grad()
def feature_tile(
    x: Tensor, weights: Sequence[Tensor], eps: Tensor, inside: tuple[slice, slice], delta: float,
    final_activation: bool, precision: str = "float32", gradient: bool = True,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Value and gradient of the pixels `inside` a tile.

    Args:
        x: tiles with their margins [B, C, H, W], on the CPU.
        weights, eps, delta, final_activation, precision: as of `feature_gradient`; eps [B].
        inside: rows and columns of the pixels themselves, with a start and a stop.
        gradient: whether it is wanted.

    Returns:
        value [B], float64: the part of r_eps that these pixels have, not yet rounded; gradient like x[..., inside].
    """
    rows, columns = inside
    if not kernels() or not has_kernel(x, weights):
        g = features(x, weights, delta, final_activation)[-1][..., rows, columns]
        value = smoothed_norm(g, eps)[0].double()
        if not gradient:
            return value, None
        grad = feature_gradient(x, weights, eps, delta, final_activation, precision=precision)[1]
        return value, grad[..., rows, columns]
    x, flat, eps = x.contiguous(), flat_weights(weights), eps.contiguous()
    value, grad = torch.empty(len(x), dtype=torch.float64), torch.empty_like(x) if gradient else None
    where = (rows.start, rows.stop, columns.start, columns.stop)
    sizes = *kernel_sizes(x, weights, delta, final_activation, precision), *where
    addresses = DTYPES[x.dtype], x.data_ptr(), flat.data_ptr(), eps.data_ptr(), value.data_ptr()
    if grad is None:
        compiled().feature_value_tile(*addresses, *sizes)
        return value, None
    compiled().feature_gradient_tile(*addresses, grad.data_ptr(), *sizes)
    return value, grad[..., rows, columns]
