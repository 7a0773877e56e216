"""A term of grey images with a weight and a scale, for images of any channels, real or complex."""

import torch
from torch import Tensor

from fastrecon.checks import expect, number
from fastrecon.terms.base import Evaluation, Term, Weight, Weighted


class Scaled(Weighted):
    """weight / scale^2 sum_c r(scale x_c) over the channels x_c of an image, real and imaginary parts one each.

    So r may be learned from grey images alone; the sum is smooth wherever r is.

    Args:
        term: r, of images [B, 1, H, W].
        weight: as of Weighted: a number or [B].
        scale: > 0: at what contrast r sees the images.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    def __init__(self, term: Term, weight: Weight, scale: float = 1.0):
        super().__init__(weight)
        expect(isinstance(term, Term), "Scaled", "term", "a term", type(term).__name__)
        self.term, self.smooth = term, term.smooth
        self.scale = float(number(scale, "Scaled", "scale", above=0))

    def value(self, x: Tensor) -> Tensor:
        """[B] in float64."""
        return self._summed(self.term.value(grey(self.scale * x)), x).double()

    def grad(self, x: Tensor) -> Tensor:
        """Like x."""
        return self._back(self.term.grad(grey(self.scale * x)), x)

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> Evaluation:
        """Both, the value in the precision of its sums."""
        found = self.term.evaluate(grey(self.scale * x))
        return Evaluation(self._summed(found.value, x), self._back(found.grad, x))

    def _summed(self, values: Tensor, x: Tensor) -> Tensor:
        each = values.view(len(x), -1)
        total = each[:, 0]
        for c in range(1, each.shape[1]):  # one after the other: sums of rows depend on how many there are
            total = total + each[:, c]
        weight = self.weights(x)
        return total * (weight.flatten() if isinstance(weight, Tensor) else weight) / self.scale**2

    def _back(self, grad: Tensor, x: Tensor) -> Tensor:
        return ungrey(grad, x) * self.weights(x) / self.scale


def grey(x: Tensor) -> Tensor:
    """Images [B, C, H, W] as grey ones, [B C, 1, H, W]; of complex images [2 B C, 1, H, W], real parts first."""
    x = torch.cat((x.real, x.imag), 1) if x.is_complex() else x
    return x.reshape(-1, 1, *x.shape[2:])


def ungrey(t: Tensor, like: Tensor) -> Tensor:
    """What `grey` made of images `like` these, as such again."""
    t = t.view(len(like), -1, *t.shape[2:])
    return torch.complex(*t.chunk(2, 1)) if like.is_complex() else t
