"""Data fidelity: f(x) = |A x - y|^2 / 2, its gradient and its proximal map."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastrecon.checks import expect, integer, number, per_image
from fastrecon.operators._given import of_parts
from fastrecon.operators.base import Diagonal, LinearOperator
from fastrecon.operators.joining import joined
from fastrecon.ops.function import differentiated, transformed
from fastrecon.ops.reductions import inner, sum_of_squares
from fastrecon.terms.base import Term, Weight, column
from fastrecon.terms.conjugate_gradients import conjugate_gradients


class LeastSquares(Term):
    """f(x) = |A x - y|^2 / 2 for images x [B, C, H, W] and measurements y [B, ...].

    Args:
        operator: A.
        y: measurements; None: they come with each call.
        tol: relative residual at which an image's proximal map is solved, where that takes conjugate gradients.
        iterations: at most this many of those.
    """

    y: Tensor | None
    smooth = True
    proximable = True

    def __init__(self, operator: LinearOperator, y: Tensor | None = None, tol: float = 1e-6, iterations: int = 200):
        super().__init__()
        self.operator = operator
        self.tol = float(number(tol, "LeastSquares", "tol", least=0))
        self.iterations = integer(iterations, "LeastSquares", "iterations", least=1)
        self.register_buffer("y", y, persistent=False)

    def measurements(self, y: Tensor | None) -> Tensor:
        """y, or those that the term was made with."""
        known = self.y if y is None else y
        expect(isinstance(known, Tensor), "LeastSquares", "y", "measurements, here or when the term is made", known)
        return known  # type: ignore[return-value]

    def residual(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """A x - y.

        Raises:
            ValueError: y has another shape than A x: what broadcasts would be another problem.
        """
        y, image = self.measurements(y), self.operator.forward(x)
        if image.shape != y.shape:
            expect(False, "LeastSquares", "y", image, y)
        return image - y

    def value_of(self, residual: Tensor) -> Tensor:
        """f [B] in float64 from the residual."""
        return sum_of_squares(residual) / 2

    def grad_of(self, residual: Tensor, x: Tensor) -> Tensor:
        """The gradient like x from the residual at x."""
        return self.operator.apply_adjoint(residual, x.shape[-2:])

    def value(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """f(x) [B] in float64."""
        return self.value_of(self.residual(x, y))

    def grad(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The gradient of f at x, like x."""
        return self.grad_of(self.residual(x, y), x)

    def change(self, grad: Tensor, d: Tensor) -> Tensor:
        """f(x + d) - f(x) [B] from the gradient at x: <grad, d> + |A d|^2 / 2, free of cancellation."""
        return inner(grad, d) + sum_of_squares(self.operator.forward(d)) / 2

    def prox(self, v: Tensor, weight: Weight, y: Tensor | None = None) -> Tensor:
        """argmin_x weight |A x - y|^2 / 2 + |x - v|^2 / 2, the solution of (1 + weight A* A) x = v + weight A* y.

        In closed form where A is diagonal in a known basis (`operator.diagonal`) or A A* is a multiple of the identity
        (`operator.row_scale`), to rounding; else by conjugate gradients, to `tol`, whose derivative is that of the
        solution and not of the iterations.
        """
        y, weight = self.measurements(y), per_image(weight, v, "LeastSquares", "weight", least=0)
        if v.numel() == 0:
            return v.clone()
        if (basis := self.operator.diagonal(v)) is not None:
            return _in_basis(basis, v, weight, y)
        w = column(weight, v)
        if (scale := self.operator.row_scale(v.shape[-2:])) is not None:
            return v - w / (1 + w * scale) * self.grad(v, y)

        def normal(x: Tensor) -> Tensor:
            return x + w * self.operator.apply_adjoint(self.operator.forward(x), v.shape[-2:])

        return v + self._solve(normal, -w * self.grad(v, y))

    def take(self, which: Tensor) -> "LeastSquares":
        """Of the measurements of these images."""
        y = None if self.y is None else self.y[which]
        return LeastSquares(self.operator.take(which), y, self.tol, self.iterations)

    @staticmethod
    def joined(terms: Sequence["LeastSquares"], counts: Sequence[int]) -> "LeastSquares | None":
        """Of several batches, so many images each; None: their operators are of several kinds."""
        first = terms[0]
        alike = all((t.tol, t.iterations, t.y is None) == (first.tol, first.iterations, first.y is None) for t in terms)
        operator = joined([t.operator for t in terms], counts) if alike else None
        if operator is None:
            return None
        y = None if first.y is None else torch.cat([t.measurements(None) for t in terms])
        return LeastSquares(operator, y, first.tol, first.iterations)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves or converts measurements."""
        return super()._apply(of_parts(fn), recurse)

    def _solve(self, normal: Callable[[Tensor], Tensor], b: Tensor) -> Tensor:
        """The solution of normal(x) = b, differentiable in all that `normal` and b depend on."""

        def solved(b: Tensor) -> Tensor:
            return conjugate_gradients(normal, b, self.tol, self.iterations, 10 if b.is_cuda else 1).x

        if transformed() or not differentiated(b):
            return solved(b)
        with torch.no_grad():
            x = solved(b)
        return x + _Correction.apply(b - normal(x), solved)


class _Correction(torch.autograd.Function):
    """H^-1 r of a residual r of which the iteration has left nothing: 0, but with its derivative, H^-1 again."""

    @staticmethod
    def forward(ctx, r, solved):
        ctx.solved = solved
        return torch.zeros_like(r)

    @staticmethod
    @once_differentiable
    def backward(ctx, d):
        return ctx.solved(d), None


def _in_basis(basis: Diagonal, v: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    """T* of (T v + weight conj(s) U* y) / (1 + weight |s|^2)."""
    k, z, s = basis.transform(v), basis.measured(y), basis.factors
    if z.shape != k.shape:
        expect(False, "LeastSquares", "y", "measurements as the operator makes of v", y)
    w, square = column(weight, k), s.abs().square() if s.is_complex() else s.square()
    return basis.inverse((k + (w * s.conj()) * z) / (1 + w * square))
