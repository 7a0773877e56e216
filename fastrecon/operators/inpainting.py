"""Inpainting: some pixels are known."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastrecon.operators._mask import each, fit, largest, mask_of
from fastrecon.operators.base import Diagonal, LinearOperator, itself
from fastrecon.ops.image_operator import MASK, Parts


class Inpainting(LinearOperator):
    """y = m x: [B, C, H, W] -> [B, C, H, W], real or complex, zero where nothing is known. Norm: the largest weight.

    Args:
        mask: m, 1 where a pixel is known and 0 elsewhere (or weights >= 0): [H, W], or one for each image [B, 1, H, W].
            An nn.Parameter is learned, of anything else a copy is kept.

    Raises:
        ValueError: the mask has another shape or negative values, or an image does not fit it.
    """

    mask: Tensor
    per_image = ("mask",)

    def __init__(self, mask: Any):
        super().__init__()
        self.hold("mask", mask, mask_of(mask, "Inpainting"))

    def forward(self, x: Tensor) -> Tensor:
        """m x."""
        return x * fit(self.mask, x, "Inpainting", "x")

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """m y."""
        self._same_size(size, y)
        return y * fit(self.mask, y, "Inpainting", "y")

    def diagonal(self, like: Tensor) -> Diagonal:
        """The mask."""
        return Diagonal(itself, itself, fit(self.mask, like, "Inpainting", "x"), itself)

    def stages(self) -> tuple[Parts] | None:
        """The mask; None of a subclass, which may do something else."""
        return (Parts(MASK, each(self.mask)),) if type(self) is Inpainting else None

    def _norm(self) -> float:
        return largest(self.mask)

    def output_size(self, size: Sequence[int] | None) -> Sequence[int]:
        """(H, W) of the mask."""
        return self.mask.shape[-2:]

    def input_size(self, size: Sequence[int] | None = None) -> Sequence[int]:
        """(H, W) of the mask."""
        return self.mask.shape[-2:]
