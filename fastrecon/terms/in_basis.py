"""Weighted terms of coefficients: of images in an orthonormal basis, where proximal maps are one number's each."""

from torch import Tensor
from typing_extensions import Self

from fastrecon.checks import expect
from fastrecon.operators.base import LinearOperator
from fastrecon.terms.base import Term, Weight, Weighted


class InBasis(Weighted):
    """A term g(T x) of images x whose g is a sum over coefficients.

    Its proximal map is exact, T being unitary: T* of that of g at T v. A subclass gives the value of coefficients and
    the map for them.

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
            op = type(self).__name__
            expect(unitary, op, "transform", "a unitary operator or None", type(transform).__name__)
        self.transform = transform

    def value_of(self, c: Tensor) -> Tensor:
        """g(c) [B] in float64."""
        self._lacks("value")

    def shrunk(self, c: Tensor, weight: Weight) -> Tensor:
        """The proximal map of g, with the weight of `prox`."""
        self._lacks("prox")

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
            expect(False, type(self).__name__, "x", f"images of a size that the transform keeps, such as {sides}", x)
        return c

    def value(self, x: Tensor) -> Tensor:
        """g(T x) [B] in float64."""
        return self.value_of(self.coefficients(x))

    def prox(self, v: Tensor, weight: Weight) -> Tensor:
        """The proximal map, exact."""
        shrunk = self.shrunk(self.coefficients(v), weight)
        return shrunk if self.transform is None else self.transform.apply_adjoint(shrunk, v.shape[-2:])

    def _again(self, weight: Weight, transform: LinearOperator | None) -> Self:
        """The same term with another weight and transform."""
        raise NotImplementedError

    def take(self, which: Tensor) -> Term:
        """With the weights, and the transforms, of these images."""
        taken = super().take(which)
        assert isinstance(taken, InBasis)
        transform = self.transform and self.transform.take(which)
        return taken if transform is self.transform else self._again(taken.weight, transform)
