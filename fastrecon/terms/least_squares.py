"""Data fidelity: f(x) = |A x - y|^2 / 2 and its gradient."""

import torch
from torch import Tensor, nn

from fastrecon.checks import expect
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.armijo import armijo
from fastrecon.ops.by_image import each_image
from fastrecon.ops.function import differentiated
from fastrecon.ops.prox_gradient_step import squares


def sum_of_squares(t: Tensor) -> Tensor:
    """|t_i|^2 of every image of t [B, ...]: [B], added up in float64, in an order that does not depend on B."""
    compiling = torch.compiler.is_compiling()  # a graph for any B holds no loop over images
    if (t.is_cuda or compiling) and not differentiated(t):
        return squares(t)  # one launch instead of one for each image
    wide = torch.complex128 if t.is_complex() else torch.float64
    if compiling:
        return torch.linalg.vector_norm(t.flatten(1), dim=1, dtype=wide).square()
    return each_image(lambda one: torch.linalg.vector_norm(one.flatten(1), dim=1, dtype=wide), t).square()


def inner(a: Tensor, b: Tensor) -> Tensor:
    """<a_i, b_i> of every image of two real batches [B, ...]: [B], float64, in an order that does not depend on B."""
    compiling = torch.compiler.is_compiling()
    if (a.is_cuda or compiling) and not differentiated(a, b):  # two launches instead of four for each image
        return armijo(a, b, a, 0.0, a.new_zeros(a.shape[0], dtype=torch.float64), trials=1).slope
    if compiling:
        return (a.double() * b.double()).flatten(1).sum(1)
    return each_image(lambda p, q: (p.double() * q.double()).flatten(1).sum(1), a, b)


class LeastSquares(nn.Module):
    """f(x) = |A x - y|^2 / 2 for images x [B, C, H, W] and measurements y [B, ...]."""

    def __init__(self, operator: LinearOperator):
        super().__init__()
        self.operator = operator

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """A x - y.

        Raises:
            ValueError: y has another shape than A x: what broadcasts would be another problem.
        """
        image = self.operator.forward(x)
        if image.shape != y.shape:
            expect(False, "LeastSquares", "y", image, y)
        return image - y

    def value_of(self, residual: Tensor) -> Tensor:
        """f [B] in float64 from the residual."""
        return sum_of_squares(residual) / 2

    def grad_of(self, residual: Tensor, x: Tensor) -> Tensor:
        """The gradient like x from the residual at x."""
        return self.operator.apply_adjoint(residual, x.shape[-2:])

    def value(self, x: Tensor, y: Tensor) -> Tensor:
        """f(x) [B] in float64."""
        return self.value_of(self.residual(x, y))

    def grad(self, x: Tensor, y: Tensor) -> Tensor:
        """The gradient of f at x, like x."""
        return self.grad_of(self.residual(x, y), x)

    def change(self, grad: Tensor, d: Tensor) -> Tensor:
        """f(x + d) - f(x) [B] from the gradient at x: <grad, d> + |A d|^2 / 2, free of cancellation."""
        return inner(grad, d) + sum_of_squares(self.operator.forward(d)) / 2
