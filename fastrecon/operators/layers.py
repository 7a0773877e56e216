"""Images made of layers: what is seen is their sum."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastrecon.checks import expect, integer
from fastrecon.operators.base import LinearOperator


class Layers(LinearOperator):
    """y = x_1 + ... + x_n of layers side by side, [B, n C, H, W] -> [B, C, H, W]. Norm: sqrt(n).

    Args:
        count: n >= 1.

    Raises:
        ValueError: the number is none, or an input has channels that n does not divide.
    """

    def __init__(self, count: int = 2):
        super().__init__()
        self.count = integer(count, "Layers", "count", least=1)

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        fits = x.ndim == 4 and x.shape[1] % self.count == 0
        expect(fits, "Layers", "x", f"images [B, {self.count} C, H, W]", x)
        return sum(x.chunk(self.count, 1)[1:], start=x.chunk(self.count, 1)[0])

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """The same in every layer."""
        self._same_size(size, y)
        return torch.cat([y] * self.count, 1)

    def _norm(self) -> float:
        return self.count**0.5
