"""What pictures of several colours say of their slopes, once the pictures themselves are left out."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastrecon.checks import expect, number
from fastrecon.operators.base import LinearOperator
from fastrecon.operators.blur import Blur
from fastrecon.operators.blurred_slopes import BlurredSlopes


class ColourSlopes(LinearOperator):
    """A with |A g - measured(y)|^2 / 2 = min_x |x - y|^2 / 2 + beta |D x - g|^2 / 2 but for a constant, D `Gradient`.

    From slopes g [B, 2 C, H, W], those downwards before those to the right, to such: `BlurredSlopes` of every colour,
    without a blur. Norm: sqrt(beta).

    Args:
        beta: > 0.

    Raises:
        ValueError: a number is out of range, or an input is no batch of slopes.
    """

    def __init__(self, beta: float):
        super().__init__()
        beta = float(number(beta, "ColourSlopes", "beta", above=0))
        self.each = BlurredSlopes(Blur(torch.ones(1, 1)), beta)

    def image(self, g: Tensor, y: Tensor) -> Tensor:
        """The picture x [B, C, H, W] of slopes g and the picture y, the minimiser above."""
        return self.each.image(_apart(g), y.reshape(-1, 1, *y.shape[2:])).view(y.shape)

    def measured(self, y: Tensor) -> Tensor:
        """What stands for y [B, C, H, W], slopes [B, 2 C, H, W]."""
        return _together(self.each.measured(y.reshape(-1, 1, *y.shape[2:])), len(y))

    def forward(self, x: Tensor) -> Tensor:
        """A g."""
        fits = x.ndim == 4 and x.shape[1] % 2 == 0 and x.is_floating_point()
        expect(fits, "ColourSlopes", "x", "slopes [B, 2 C, H, W]", x)
        if len(x) == 0:  # transforms take no empty batch
            return x.clone()
        return _together(self.each.forward(_apart(x)), len(x))

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """A again."""
        self._same_size(size, y)
        return self.forward(y)

    def _norm(self) -> float:
        return self.each.beta**0.5


def _apart(g: Tensor) -> Tensor:
    """Slopes [B, 2 C, H, W] as those of every colour, [B C, 2, H, W]."""
    return g.unflatten(1, (2, -1)).transpose(1, 2).reshape(-1, 2, *g.shape[2:])


def _together(g: Tensor, count: int) -> Tensor:
    """Undoes `_apart`."""
    return g.view(count, -1, *g.shape[1:]).transpose(1, 2).reshape(count, -1, *g.shape[2:])
