"""The wavelet transform as an operator: images to coefficients; its transpose is the synthesis."""

from collections.abc import Sequence

from torch import Tensor

from fastrecon.operators.base import LinearOperator
from fastrecon.ops.dwt2 import dwt2, idwt2
from fastrecon.ops.wavelets import lowpass


class Wavelet(LinearOperator):
    """W: images [B, C, H, W] to coefficients [B, C, H, W] in Mallat's layout; orthonormal, so W.T is its inverse.

    A problem in coefficients c = W x is `A @ Wavelet("sym4", 3).T`.

    Args:
        name: haar, db1 to db38, sym2 to sym20, coif1 to coif17.
        level: levels; heights and widths must be divisible by 2^level.

    Raises:
        ValueError: the wavelet is unknown or not orthonormal, or an image's size does not fit.
    """

    unitary = True

    def __init__(self, name: str = "sym4", level: int = 3):
        super().__init__()
        lowpass(name)
        self.name, self.level = name, level

    def _forward(self, x: Tensor) -> Tensor:
        return dwt2(x, self.name, self.level)

    def _adjoint(self, y: Tensor, size: Sequence[int] | None) -> Tensor:
        return idwt2(y, self.name, self.level)

    def _norm(self) -> float:
        return 1.0
