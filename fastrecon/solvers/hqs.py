"""Half-quadratic splitting: the constraint z_i = K_i x by a penalty that grows.

z_i = prox_{g_i / beta}(K_i x);  x+ = argmin f(x) + beta / 2 sum_i |K_i x - z_i|^2

Source: Geman & Yang, Nonlinear Image Recovery with Half-Quadratic Regularization, IEEE Trans. Image Process. 4 (1995);
Krishnan & Fergus, Fast Image Deconvolution using Hyper-Laplacian Priors, NIPS 2009.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from fastrecon.checks import expect, integer, number
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.reductions import squares
from fastrecon.solvers.base import with_parts
from fastrecon.solvers.splitting import Prior, Splitting, SplittingState, ratio, size_of
from fastrecon.terms.normal_equations import total

SOURCE_GROWTH, SOURCE_LAST = 2 * 2**0.5, 256.0  # Krishnan & Fergus: beta 1, 2 sqrt 2, 8, ..., 256, in units of lam


def continuation(first: float = 1.0, last: float = SOURCE_LAST, growth: float = SOURCE_GROWTH) -> list[float]:
    """Penalties from `first` to `last`, each `growth` times the one before; those of Krishnan & Fergus by default.

    Raises:
        ValueError: a number is not > 0, `growth` not > 1, or `last` below `first`.
    """
    op = "continuation"
    number(growth, op, "growth", above=1)
    number(first, op, "first", above=0)
    number(last, op, "last", least=first)
    found = [first]
    while found[-1] * growth < last * (1 - 1e-9):
        found.append(found[-1] * growth)
    return [*found, last] if last > first else found


class HQS(Splitting[SplittingState]):
    """x, z that minimise F_beta = |A x - y|^2 / 2 + sum_i g_i(z_i) + beta / 2 |K_i x - z_i|^2 in turn, beta growing.

    Each iteration with one beta decreases F_beta, for any g_i with an exact proximal map, lp with p < 1 among them.

    Args:
        operator, priors: as of Splitting.
        penalties: beta of the iterations, > 0 and never decreasing; the last serves for all that follow.
        inner: iterations with each.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    splits_fidelity = False  # a fidelity that is only penalised would not count at the beginning
    unfinished = "end of the iterations: z = K x up to the primal residual"

    def __init__(
        self, operator: LinearOperator | None, priors: Sequence[Prior] | Prior, penalties: Sequence[float],
        inner: int = 1,
    ):  # fmt: skip
        super().__init__(operator, priors)
        self.penalties = [float(number(p, "HQS", "penalties", above=0)) for p in penalties]
        grows = len(self.penalties) > 0 and all(a <= b for a, b in pairwise(self.penalties))
        expect(grows, "HQS", "penalties", "numbers > 0 that never decrease", penalties)
        self.inner = integer(inner, "HQS", "inner", least=1)
        self.rows: list[list[float]] | None = None  # penalties of each image, where batches of several were joined

    @property
    def planned(self) -> int:
        """Iterations until the last penalty has had its share."""
        return self.inner * len(self.penalties)

    def penalty(self, k: int, i: int = 0) -> float:
        """beta of iteration k = 0, 1, ..., of image i."""
        row = self.penalties if self.rows is None else self.rows[i]
        return row[min(k // self.inner, len(row) - 1)]

    def take(self, which: Tensor, like: Tensor) -> Self:
        """As of Splitting."""
        rows = None if self.rows is None else [self.rows[i] for i in which.tolist()]
        return with_parts(super().take(which, like), rows=rows)

    def joined(self, others: Sequence[Self], counts: Sequence[int], like: Tensor) -> Self | None:
        """As of Splitting."""
        found, rows = super().joined(others, counts, like), []
        for s, count in zip([self, *others], counts, strict=True):
            rows += [s.penalties] * count if s.rows is None else s.rows
        return None if found is None else with_parts(found, rows=rows)

    def begin(self, x: Tensor, b: Tensor) -> SplittingState:
        """z_i = K_i x."""
        z = tuple(k.forward(x) for _, k in self.plan.parts)
        unknown = torch.full((len(x),), float("inf"), dtype=torch.float64, device=x.device)
        beta = torch.full_like(unknown, self.penalty(0))
        w = tuple(torch.zeros_like(t) for t in z) if self.asked else z
        return SplittingState(x, b, z, w, beta, unknown, unknown, unknown, self.valued(x))

    def settings(self) -> Any:
        """As of Splitting."""
        return super().settings(), self.inner

    def multipliers(self, s: SplittingState) -> tuple[Tensor, ...]:
        """w; states hold K_i x before the last z_i in its place where nobody asks for residuals on the way."""
        return s.w if self.asked else tuple(a - b for a, b in zip(s.w, s.z, strict=True))

    def step(self, s: SplittingState, k: Any) -> SplittingState:
        """One iteration."""
        numbers = k.tolist() if isinstance(k, Tensor) else [k] * len(s.x)
        beta = s.penalty.new_tensor([self.penalty(n, i) for i, n in enumerate(numbers)])
        size = s.x.shape[-2:]
        before = [span.forward(s.x) for _, span in self.plan.parts]
        z = tuple(self.proximal(i, v, beta) for i, v in enumerate(before))
        x, left = self.solved(s, z, beta)
        if not self.asked:
            unknown = torch.full_like(beta, float("nan"))
            return SplittingState(x, s.b, z, tuple(before), beta, unknown, unknown, unknown, unknown)
        w = tuple(a - b for a, b in zip(before, z, strict=True))
        images = [span.forward(x) for _, span in self.plan.parts]
        # grad f(x) + beta K* (K s.x - z) = beta K* (K s.x - K x), by the equation of x
        moved = [p.apply_adjoint(a - b, size) for (_, p), a, b in zip(self.plan.parts, before, images, strict=True)]
        primal = total([squares(a, b) for a, b in zip(images, z, strict=True)]).sqrt()
        dual = left + beta * squares(total(moved)).sqrt()
        relative = torch.maximum(
            ratio(primal, torch.maximum(size_of(images), size_of(z))), ratio(dual, beta * size_of(w))
        )
        return SplittingState(x, s.b, z, w, beta, primal, dual, relative, self.valued(x))
