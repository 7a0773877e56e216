"""What all terms of an objective answer: value, gradient, proximal map."""

from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn

from fastrecon.checks import expect, number, per_image
from fastrecon.operators.base import with_tensors
from fastrecon.ops.layout import real_dtype

Weight = float | Tensor


@dataclass(frozen=True)
class Evaluation:
    """A smooth term at some images: value [B] and gradient like the images."""

    value: Tensor
    grad: Tensor
    estimated: Tensor | None = None  # [B] bool: images of which these are estimates, by bfloat16 products; None: none


class Term(nn.Module):
    """A function of each image x_i of a batch [B, ...]: a part of what an iteration minimises.

    A subclass gives what it has; the rest raises NotImplementedError.

    Attributes:
        smooth: whether there is `grad`.
        proximable: whether there is `prox`.
    """

    smooth: bool = False
    proximable: bool = False

    def value(self, x: Tensor) -> Tensor:
        """The term at x [B, ...]: [B] in float64."""
        self._lacks("value")

    def grad(self, x: Tensor) -> Tensor:
        """The gradient at x, like x; of complex x that in real and imaginary part."""
        self._lacks("grad")

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> Evaluation:
        """Value and gradient at x, in full precision: what a line search asks for."""
        return Evaluation(self.value(x), self.grad(x))

    def prox(self, v: Tensor, weight: Weight) -> Tensor:
        """The proximal map argmin_x weight value(x) + |x - v|^2 / 2, like v.

        Args:
            v: [B, ...].
            weight: >= 0: a number, or [B] one for each image.
        """
        self._lacks("prox")

    def take(self, which: Tensor) -> "Term":
        """The term of the images `which` of the batch: indices, or [B] bool. Itself if all images share it."""
        return self

    def _lacks(self, what: str) -> NoReturn:
        raise NotImplementedError(f"{type(self).__name__}.{what}: this term has none")


class Weighted(Term):
    """A term times a weight.

    Args:
        weight: >= 0: a number, [B] or [B, 1, 1, 1] one for each image, or real and broadcastable to what is weighed.
            An nn.Parameter is learned, of another tensor a copy is kept.
    """

    weight: Weight
    per_image = ("weight",)

    def __init__(self, weight: Weight):
        super().__init__()
        name = type(self).__name__
        if not isinstance(weight, Tensor):
            self.weight = float(number(weight, name, "weight", least=0))
            return
        expect(weight.is_floating_point(), name, "weight", "a number or a real tensor", weight)
        if isinstance(weight, nn.Parameter):
            self.weight = weight
        else:
            self.register_buffer("weight", weight.detach().clone())

    def weights(self, x: Tensor) -> Weight:
        """The weight: a number, or a tensor of the real type of x [B, ...] that broadcasts to it."""
        w = self.weight
        if not isinstance(w, Tensor):
            return w
        expect(w.device == x.device or w.ndim == 0, type(self).__name__, "x", f"a tensor on {w.device}", x)
        w = w.to(x.device, real_dtype(x))
        return column(w, x) if w.ndim == 1 and w.shape == x.shape[:1] else w

    def scaled(self, v: Tensor, weight: Weight) -> Weight:
        """The weight times that of a proximal map at v [B, ...]."""
        name = type(self).__name__
        if not isinstance(weight, Tensor):
            return self.weights(v) * float(number(weight, name, "weight", least=0))
        return self.weights(v) * column(per_image(weight, v, name, "weight"), v)

    def take(self, which: Tensor) -> Term:
        """With the weights of these images, if each has its own."""
        w = self.weight
        own = isinstance(w, Tensor) and w.ndim in (1, 4) and len(w) > 1
        return with_tensors(self, {"weight": w[which]}) if own else self  # type: ignore[index]


def column(w: Tensor, like: Tensor) -> Tensor:
    """Numbers [B] as [B, 1, ...], to meet images [B, ...]."""
    return w.view(-1, *[1] * (like.ndim - 1))
