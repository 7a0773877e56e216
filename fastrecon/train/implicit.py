"""Minimisers for training, and the derivative of a loss there without the iterations that found them.

At x* = argmin phi(x; theta) the gradient of a loss L(x*) is -d/dtheta <grad_x phi(x*; theta), p>, p held fixed, with
H p = dL/dx* and H the Hessian of phi in x at x*.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrecon.ops.reductions import inner, sum_of_squares
from fastrecon.solvers.base import column, where

WINDOW = 6  # values of phi that a step may not exceed the largest of
SUFFICIENT = 1e-4
STEPS = (1e-2, 20.0)  # least and largest
DIFFERENCE = 1e-3  # root mean square of the moves of which differences of gradients are taken: pixels lie in [0, 1]


@dataclass(frozen=True)
class Iterate:
    """Where an iteration stands."""

    x: Tensor  # [B, ...]
    step: Tensor  # [B] to try next, float64


@torch.no_grad()
def approach(phi: Callable[[Tensor], tuple[Tensor, Tensor]], s: Iterate, iterations: int) -> Iterate:
    """Nearer to minimisers: Barzilai-Borwein steps, refused where phi rises above its last few values.

    One evaluation an iteration, and nothing that rounding in bfloat16 could upset.

    Args:
        phi: x -> the objective of each image [B], float64, and its gradient like x.
        s: where to begin.
        iterations: how many.

    Source: Raydan, SIAM J. Optim. 7 (1997), without the search along a step.
    """
    x, step = s.x, s.step
    value, grad = phi(x)
    values = [value]
    for k in range(iterations):
        tried = x - column(step, x) * grad
        value, slope = phi(tried)
        ok = value <= torch.stack(values[-WINDOW:]).amax(0) - SUFFICIENT * step * sum_of_squares(grad)
        move, change = tried - x, slope - grad
        along = inner(move, change)
        rule = sum_of_squares(move) / along if k % 2 else along / sum_of_squares(change)
        step = torch.where(ok, torch.where(along > 0, rule, 2 * step).clamp(*STEPS), step / 3)
        x, grad = where(ok, tried, x), where(ok, slope, grad)
        values.append(torch.where(ok, value, values[-1]))
    return Iterate(x, step)


@torch.no_grad()
def implicit_direction(hessian: Callable[[Tensor], Tensor], e: Tensor, steps: int) -> Tensor:
    """p [B, ...] with H p = e, by a few steps of conjugate gradients.

    Args:
        hessian: v -> H v for a batch.
        e: dL/dx* [B, ...].
        steps: at most this many, and none from where curvature is not positive. 0: p = e, H taken as 1, which is
            Jacobian-free backpropagation (Fung et al., arXiv:2103.12803).
    """
    if steps == 0:
        return e
    p, r, d, square = torch.zeros_like(e), e, e, sum_of_squares(e)
    going = square > 0
    for _ in range(steps):
        image = hessian(d)
        curvature = inner(d, image)
        going = going & (curvature > 0)
        step = torch.where(going, square / curvature, 0)
        p, r = p + column(step, d) * d, r - column(step, d) * image
        last, square = square, sum_of_squares(r)
        d = r + column(torch.where(going, square / last, 0), d) * d
    return p


def hessian_of(grad: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """v -> H v at x, by differences of the gradient: one costs a third of what its derivative costs."""
    at_x = grad(x)

    def product(v: Tensor) -> Tensor:
        h = column(DIFFERENCE * (v[0].numel() / sum_of_squares(v).clamp_min(1e-30)).sqrt(), v)
        return (grad(x + h * v) - at_x) / h

    return product
