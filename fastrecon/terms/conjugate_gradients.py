"""Conjugate gradients for H x = b, each image on its own.

Source: Hestenes & Stiefel, Methods of Conjugate Gradients for Solving Linear Systems, J. Res. NBS 49 (1952).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrecon.ops.reductions import inner, sum_of_squares
from fastrecon.terms.base import column


@dataclass(frozen=True)
class Solution:
    """What conjugate gradients found for every image of a batch."""

    x: Tensor  # [B, ...]
    iterations: Tensor  # [B] int64
    residual: Tensor  # [B] |b - H x| / |b| of the recursion, float64
    converged: Tensor  # [B] bool


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], b: Tensor, tol: float = 1e-6, iterations: int = 100, check_every: int = 1,
    precondition: Callable[[Tensor], Tensor] | None = None, start: Tensor | None = None,
) -> Solution:  # fmt: skip
    """The solution of H x = b, by H alone.

    An image is done once its residual is small, and is left as it is from there: what others still need does not show.
    Sums are made in float64.

    Args:
        apply: x -> H x for batches, self-adjoint and positive definite for every image.
        b: [B, ...], real or complex.
        tol: |b - H x| <= tol |b|, >= 0.
        iterations: at most this many, each with one H.
        check_every: iterations between two looks at whether all are done; only then the host waits for the device.
        precondition: r -> M r with M near H^-1, self-adjoint and positive definite; None: the identity.
        start: x to start from, like b; None: 0.
    """
    x, r = (torch.zeros_like(b), b) if start is None else (start, b - apply(start))
    p = r if precondition is None else precondition(r)
    rr, size = sum_of_squares(r), sum_of_squares(b)
    bound = tol**2 * size
    rz = rr if precondition is None else inner(r, p)  # <r, M r>
    count = torch.zeros(len(b), dtype=torch.int64, device=b.device)
    for k in range(iterations):
        going = rr > bound  # false for NaN
        if k % check_every == 0 and not torch.compiler.is_compiling() and not bool(going.any()):
            break
        hp = apply(p)
        step = column(torch.where(going, rz / inner(p, hp), 0).to(rr.dtype), b).to(b.dtype)
        moved = column(going, b)
        x = torch.where(moved, x + step * p, x)
        r = torch.where(moved, r - step * hp, r)
        previous, rr = rz, torch.where(going, sum_of_squares(r), rr)
        z = r if precondition is None else precondition(r)
        rz = rr if precondition is None else torch.where(going, inner(r, z), rz)
        p = torch.where(moved, z + column(rz / previous, b).to(b.dtype) * p, p)
        count = count + going
    return Solution(x, count, (rr / size.clamp_min(torch.finfo(size.dtype).tiny)).sqrt(), rr <= bound)
