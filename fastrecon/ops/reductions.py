"""Sums over every image of a batch, in float64 and in an order that does not depend on the batch."""

import torch
from torch import Tensor

from fastrecon.checks import behind
from fastrecon.ops.armijo import armijo
from fastrecon.ops.by_image import each_image
from fastrecon.ops.function import differentiated
from fastrecon.ops.layout import wide_dtype
from fastrecon.ops.prox_gradient_step import squares

armijo, squares = behind(armijo), behind(squares)


def sum_of_squares(t: Tensor) -> Tensor:
    """|t_i|^2 of every image of t [B, ...]: [B], float64, differentiable."""
    compiling = torch.compiler.is_compiling()  # a graph for any B holds no loop over images
    if (t.is_cuda or compiling) and not differentiated(t):
        return squares(t)  # one launch instead of one for each image
    wide = wide_dtype(t)
    if compiling:
        return torch.linalg.vector_norm(t.flatten(1), dim=1, dtype=wide).square()
    return each_image(lambda one: torch.linalg.vector_norm(one.flatten(1), dim=1, dtype=wide), t).square()


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Re <a_i, b_i> of every image of two batches [B, ...] of one type: [B], float64, differentiable."""
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    compiling = torch.compiler.is_compiling()
    if (a.is_cuda or compiling) and not differentiated(a, b):  # two launches instead of four for each image
        return armijo(a, b, a, 0.0, a.new_zeros(a.shape[0], dtype=torch.float64), trials=1).slope
    if compiling:
        return (a.double() * b.double()).flatten(1).sum(1)
    return each_image(lambda p, q: (p.double() * q.double()).flatten(1).sum(1), a, b)


def sum_of(t: Tensor) -> Tensor:
    """The sum of every image of t [B, ...]: [B], float64, differentiable. A sum of many rows has another order."""
    return each_image(lambda one: one.flatten(1).double().sum(1), t)
