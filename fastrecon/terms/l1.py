"""The l1 norm, of images or of their coefficients in an orthonormal basis."""

from torch import Tensor

from fastrecon import ops
from fastrecon.checks import behind, expect
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.layout import wide_dtype
from fastrecon.ops.reductions import sum_of
from fastrecon.terms.base import Term, Weight, Weighted

soft_threshold = behind(ops.soft_threshold)


class L1(Weighted):
    """|weight T x|_1. Its proximal map is exact: T is unitary, and soft thresholding separable.

    Args:
        weight: as of Weighted: broadcastable to T x.
        transform: T, a unitary operator such as `Wavelet("sym4", 3)` on images of whole sizes; None for x itself.

    Raises:
        ValueError: the weight is negative or not real, or T not unitary.
    """

    proximable = True

    def __init__(self, weight: Weight, transform: LinearOperator | None = None):
        super().__init__(weight)
        if transform is not None:
            unitary = isinstance(transform, LinearOperator) and transform.unitary
            expect(unitary, "L1", "transform", "a unitary operator or None", type(transform).__name__)
        self.transform = transform

    def coefficients(self, x: Tensor) -> Tensor:
        """T x.

        Raises:
            ValueError: T fills images of this size up, so that it is not unitary for them.
        """
        if self.transform is None:
            return x
        c = self.transform.forward(x)
        if c.shape != x.shape:
            sides = "x".join(map(str, c.shape[2:]))
            expect(False, "L1", "x", f"images of a size that the transform keeps, such as {sides}", x)
        return c

    def value(self, x: Tensor) -> Tensor:
        """|weight T x|_1 [B] in float64."""
        c = self.coefficients(x)
        return sum_of(c.to(wide_dtype(c)).abs() * self.weights(c))

    def prox(self, v: Tensor, weight: Weight) -> Tensor:
        """T* soft(T v, weight)."""
        c = self.coefficients(v)
        shrunk = soft_threshold(c, self.scaled(c, weight))
        return shrunk if self.transform is None else self.transform.apply_adjoint(shrunk, v.shape[-2:])

    def take(self, which: Tensor) -> Term:
        """With the weights, and the transforms, of these images."""
        taken = super().take(which)
        assert isinstance(taken, L1)
        transform = self.transform and self.transform.take(which)
        return taken if transform is self.transform else L1(taken.weight, transform)
