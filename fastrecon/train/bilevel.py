"""Derivatives of a loss at minimisers of a learned objective, and what keeps that objective easy to minimise.

Lower problem: x* = argmin_x phi(x; theta). The gradient of a loss L(x*) is -d/dtheta <grad_x phi(x*; theta), p>, p
held fixed, with H p = dL/dx* and H the Hessian of phi in x at x*. p comes from a few steps of Lanczos' method, whose
Ritz values tell at the same time how curved phi is there; where that leaves given bounds, a penalty bends theta back.
Without it the curvature of a learned phi grows until no iteration finds its minimiser, and training learns to stop
early.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrecon.ops.reductions import inner, sum_of_squares
from fastrecon.solvers.base import column, where

Phi = Callable[[Tensor], tuple[Tensor, Tensor]]  # x [B, ...] -> phi(x) [B], its gradient like x
Gradient = Callable[[Tensor], Tensor]

WINDOW = 6  # values of phi that a step may not exceed the largest of
SUFFICIENT = 1e-4
STEPS = (1e-4, 4.0)  # least and largest step
DIFFERENCE = 1e-3  # root mean square of the moves of which differences of gradients are taken: pixels lie in [0, 1]
TINY = 1e-20


@dataclass(frozen=True)
class Found:
    """Where an iteration ended."""

    x: Tensor  # [B, ...]
    relative: Tensor  # [B] |grad phi(x)| / |grad phi(x0)|, float64
    iterations: int


@torch.no_grad()
def minimise(phi: Phi, x: Tensor, iterations: int, tol: float) -> Found:
    """Near minimisers for training: Barzilai-Borwein steps, refused where phi rises above its last few values.

    One evaluation an iteration, and nothing that rounding in bfloat16 could upset; what is reported to a user comes
    from `SmoothDescent`.

    Args:
        phi: the objective of each image.
        x: start [B, ...].
        iterations: at most this many.
        tol: > 0: it ends once |grad phi(x)| <= tol |grad phi(x0)| for all images.

    Source: Raydan, SIAM J. Optim. 7 (1997), without the search along a step.
    """
    value, grad = phi(x)
    values, first = [value.double()], sum_of_squares(grad).sqrt()
    step, relative, k = torch.full_like(first, 0.5), torch.ones_like(first), 0
    for k in range(1, iterations + 1):
        tried = x - column(step, x) * grad
        value, slope = phi(tried)
        ok = value <= torch.stack(values[-WINDOW:]).amax(0) - SUFFICIENT * step * sum_of_squares(grad)
        move, change = tried - x, slope - grad
        along = inner(move, change)
        longer, shorter = sum_of_squares(move) / along, along / sum_of_squares(change)
        next_step = torch.where(along > 0, shorter if k % 2 else longer, 2 * step).clamp(*STEPS)
        step = torch.where(ok, next_step, step / 3)
        x, grad = where(ok, tried, x), where(ok, slope, grad)
        values.append(torch.where(ok, value.double(), values[-1]))
        relative = sum_of_squares(grad).sqrt() / first.clamp_min(TINY)
        if bool((relative <= tol).all()):
            break
    return Found(x, relative, k)


@dataclass(frozen=True)
class Ritz:
    """What Lanczos' method finds of symmetric H, one for each image, from vectors b [B, ...].

    H is V T V* on the span of b, H b, ...; T = U diag(values) U*.
    """

    values: Tensor  # [B, K] ascending, float64
    turns: Tensor  # [B, K, K] U, float64
    basis: Tensor  # [B, K, ...] V
    size: Tensor  # [B] |b|, float64

    def solve(self, floor: float) -> Tensor:
        """V f(T) V* b, f(t) = 1 / max(t, floor): H^-1 b where H > floor, never longer than |b| / floor."""
        along = self.turns[:, 0, :] / self.values.clamp_min(floor)
        return self._combined((along[:, None, :] * self.turns).sum(2) * self.size[:, None])

    def vector(self, which: int) -> Tensor:
        """The Ritz vector [B, ...] of length 1 of the value at this place."""
        return self._combined(self.turns[:, :, which])

    def _combined(self, weights: Tensor) -> Tensor:
        return torch.einsum("bk,bk...->b...", weights.to(self.basis.dtype), self.basis)


@torch.no_grad()
def ritz(hessian: Gradient, b: Tensor, steps: int) -> Ritz:
    """Ritz values and vectors after so many products with H, orthogonalised twice.

    Args:
        hessian: v -> H v for a batch.
        b: start [B, ...].
        steps: >= 1.

    Source: Golub & Van Loan, Matrix Computations, 4th ed., section 10.1.
    """
    size = sum_of_squares(b).sqrt()
    basis, diagonal, beside = [b / column(size.clamp_min(TINY), b)], [], []
    for _ in range(steps):
        new = hessian(basis[-1])
        diagonal.append(inner(new, basis[-1]))
        for q in (*basis, *basis):
            new = new - column(inner(new, q), b) * q
        beside.append(sum_of_squares(new).sqrt())
        basis.append(new / column(beside[-1].clamp_min(TINY), b))
    t = torch.diag_embed(torch.stack(diagonal, 1))
    if steps > 1:
        off = torch.stack(beside[:-1], 1)
        t = t + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    values, turns = torch.linalg.eigh(t)
    return Ritz(values, turns, torch.stack(basis[:-1], 1), size)


def hessian_at(grad: Gradient, x: Tensor) -> Gradient:
    """v -> H v by central differences of the gradient: two of them cost half of what its derivative costs."""

    def product(v: Tensor) -> Tensor:
        rms = sum_of_squares(v).div(v[0].numel()).sqrt().clamp_min(TINY)
        h = column(DIFFERENCE / rms, v)
        return (grad(x + h * v) - grad(x - h * v)) / (2 * h)

    return product


def outer(grad: Gradient, x: Tensor, p: Tensor) -> Tensor:
    """-<grad(x), p> [B], whose derivative in theta is that of the loss, with x and p held fixed.

    Args:
        grad: the gradient of phi, or of what of phi depends on theta, differentiable in theta.
        x: minimisers [B, ...].
        p: with H p = dL/dx*.
    """
    return -(grad(x.detach()) * p.detach()).flatten(1).sum(1)


def bend(grad: Gradient, x: Tensor, found: Ritz, floor: float, ceiling: float) -> tuple[Tensor, Tensor]:
    """How far the curvature at x [B, ...] leaves [floor, ceiling]: (floor - lowest)+^2 and (highest - ceiling)+^2.

    Returns:
        [B] each, zero where it does not, with derivatives in theta of the Rayleigh quotients of the Ritz vectors.
    """
    low, high = (floor - found.values[:, 0]).clamp_min(0), (found.values[:, -1] - ceiling).clamp_min(0)
    return _penalty(grad, x, low, -1, found.vector(0)), _penalty(grad, x, high, 1, found.vector(-1))


def _penalty(grad: Gradient, x: Tensor, excess: Tensor, sign: int, v: Tensor) -> Tensor:
    """excess^2 [B], with the derivative of sign * <v, H v> times 2 excess."""
    quotient = (hessian_at(grad, x)(v) * v).flatten(1).sum(1) if bool((excess > 0).any()) else torch.zeros_like(excess)
    return excess.square() + 2 * sign * excess * (quotient - quotient.detach())
