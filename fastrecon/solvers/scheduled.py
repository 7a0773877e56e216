"""FISTA whose first iterations are learned, and all others its own: quick, and no less convergent.

Iteration k = 0 ... K - 1, with weight f_k lam (f_k >= 1), steps d_k and momentum b_k from a schedule,

    x+ = soft(v - d_k grad f(v), d_k f_k lam),   v+ = x+ + b_k (x+ - x),

d_k has a number for each band of the transform, in units of 1 / L or, by the schedule's `gains`, of one over what A*A
makes of the band: A of projections sees fine details a hundred times less than the mean, and steps 1 / L crawl there.
From K on FISTA, which begins at x_K, or at the start where F is lower there. So what is proved of FISTA holds: whatever
the schedule says, F(x_k) - min F <= 2 L |x_K - x*|^2 / (k - K + 1)^2.

Why it pays: with a small lam soft thresholding moves coefficients by lam / L an iteration, and hundreds pass until what
aliasing has put there is gone; large weights that fall remove it at once (Hale, Yin & Zhang, Fixed-Point Continuation
for l1-Minimization, SIAM J. Optim. 19 (2008)).
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fastrecon import ops
from fastrecon.certificates import ProximalReport
from fastrecon.checks import behind, expect
from fastrecon.networks.step_schedule import StepSchedule
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.dwt2 import bands
from fastrecon.ops.layout import real_dtype, spread_over
from fastrecon.solvers.base import Run, column
from fastrecon.solvers.in_cache import InCache, known
from fastrecon.solvers.ista import FISTA, FistaState
from fastrecon.solvers.safeguard import choose

POWER = 6  # steps of power iteration that tell gains: largest eigenvalues are then at most 1.15 of what they should be
MOST = 1e4  # of L over a gain

prox_gradient_step, squares = behind(ops.prox_gradient_step), behind(ops.squares)


def signs(size: tuple[int, int], device: torch.device) -> Tensor:
    """1 and -1 [H, W], as if at random, the same on every device."""
    mixed = torch.arange(size[0] * size[1], device=device) * 2654435761 % (1 << 32)
    mixed = (mixed ^ (mixed >> 15)) * 1540483477 % (1 << 32)
    return (1 - 2 * ((mixed >> 13) & 1)).view(size)


def lengths(x: Tensor, level: int) -> Tensor:
    """The length of each band of coefficients x [B, C, H, W], float64 [B, 1 + level], from coarse to fine."""
    corners = [squares(x[..., : x.shape[-2] >> j, : x.shape[-1] >> j]) for j in range(level, -1, -1)]
    return torch.stack([corners[0], *(b - a for a, b in pairwise(corners))], 1).clamp_min(1e-300).sqrt()


@dataclass(frozen=True)
class ScheduledState(FistaState):
    """With what the schedule refers to."""

    size: Tensor  # [B] mean |x| of the start
    scale: Tensor | None  # [B, 1 + levels] the units of the schedule's steps, times L, float64; None: 1
    start: Tensor  # x of the start
    start_residual: Tensor  # A x - y there
    start_objective: Tensor  # [B] F there, float64


class ScheduledFISTA(FISTA):
    """FISTA, step 1 / L, behind K iterations of a schedule; see above.

    Args:
        operator, lam, lipschitz: as of Lasso, for wavelet coefficients [B, C, H, W].
        schedule: trained; its transform has the levels of the coefficients'.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    period = 0

    def __init__(
        self, operator: LinearOperator, lam: float | Tensor, lipschitz: float | Tensor | None, schedule: StepSchedule
    ):  # fmt: skip
        super().__init__(operator, lam, lipschitz)
        expect(
            isinstance(schedule, StepSchedule), "ScheduledFISTA", "schedule", "a StepSchedule", type(schedule).__name__
        )
        self.schedule = schedule

    def start(self, x: Tensor, y: Tensor) -> ScheduledState:
        """The state at x."""
        expect(x.ndim == 4, "ScheduledFISTA", "x0", "coefficients [B, C, H, W]", x)
        s = super().start(x, y)
        size, scale = x.abs().flatten(1).double().mean(1), self.scale(x, s.step)
        return ScheduledState(
            **vars(s), size=size, scale=scale, start=x, start_residual=s.residual, start_objective=s.objective
        )  # fmt: skip

    @torch.no_grad()
    def scale(self, x: Tensor, step: Tensor) -> Tensor | None:
        """L over the gain of each band [B, 1 + levels]; None where gains do not count.

        Gains g_j with g_j x_j = (A* A x)_j for x with |x_j| = 1 in all bands, by some steps of power iteration: the
        metric in which steps 1 / g_j are the identity is about the least of its kind that bounds A* A.
        """
        if not self.schedule.settings["gains"]:
            return None
        level, size = self.schedule.settings["level"], (x.shape[-2], x.shape[-1])
        band = bands(self.schedule.fitting(size), level, x.device)
        z = signs(size, x.device).to(x.dtype).expand(x.shape).contiguous()
        gains = lengths(z, level)
        for _ in range(POWER):
            z = z / gains.to(real_dtype(x))[:, band][:, None]
            z = self.operator.apply_adjoint(self.operator.forward(z))
            gains = lengths(z, level)
        return (1 / (step[:, None] * gains)).clamp(1 / MOST, MOST)

    def weight(self, x: Tensor, size: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """f_k lam of iteration k, and f_k [B], for images of mean size `size` [B] at the start."""
        lam = spread_over(self.lam, x, "ScheduledFISTA", "lam")
        factor = self.factor(lam, size, self.schedule.weights(k))
        weight = factor[:, None].to(lam.dtype) * lam
        return weight.view(x.shape if weight.shape[1] > 1 else (x.shape[0], 1, 1, 1)), factor

    def factor(self, lam: Tensor, size: Tensor, weights: Tensor) -> Tensor:
        """f_k [B], or of iterations whose `weights` are [K, 1] [K, B]."""
        return (1 + weights * size / lam.amax(1).double().clamp_min(1e-30)).clamp_max(1e30)

    def table(self, s: ScheduledState, k: int, count: int) -> Tensor:
        """Momentum, f_k and the steps' factors [B, count, 3 + levels] of so many iterations from k on, float64."""
        which, last = slice(k, k + count), len(self.schedule)
        factor = self.factor(
            spread_over(self.lam, s.x, "ScheduledFISTA", "lam"), s.size, self.schedule.weights(which)[:, None]
        )
        momenta = self.schedule.momenta(which).double()
        if k + count == last:
            momenta = torch.cat((momenta[:-1], momenta.new_zeros(1)))
        shared = (t.expand(len(s.x), -1, -1) for t in (momenta[:, None], self.schedule.of_bands(which).double()))
        momentum, steps = shared
        if s.scale is not None:
            steps = steps * s.scale[:, None]
        return torch.cat((momentum, factor.T[..., None], steps), 2)

    def several(
        self, s: ScheduledState, y: Tensor, iterations: int, looks: int, lasting: bool, given: Tensor | None
    ) -> InCache | None:  # fmt: skip
        """As of FISTA, the schedule among them."""
        found = known(self.operator, s.x, y) if type(self).step is ScheduledFISTA.step else None
        if found is None or found.synthesis.level != self.schedule.settings["level"]:
            return None
        return _InCache(self, found, y, iterations, looks, lasting, given, s.x[..., :0])

    def moved(
        self, v: Tensor, grad: Tensor, size: Tensor, step: Tensor, scale: Tensor | None, k: int
    ) -> tuple[Tensor, Tensor]:
        """x+ - v, differentiable, and the sum |lam x+|_1 [B], of iteration k of the schedule."""
        weight, factor = self.weight(v, size, k)
        steps = column(step, v) * self.schedule.steps(k, (v.shape[-2], v.shape[-1]), scale).to(real_dtype(v))
        z, _, _, l1 = prox_gradient_step(v, grad, steps, weight)
        return z, l1 / factor

    def step(self, s: ScheduledState, k: int) -> ScheduledState:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One iteration."""
        last = len(self.schedule)
        if k >= last:
            return super().step(s, k)  # pyright: ignore[reportReturnType]
        z, l1 = self.moved(s.v, self.operator.apply_adjoint(s.residual_v), s.size, s.step, s.scale, k)
        x = s.v + z
        residual = self.operator.forward(x) - s.y
        objective = squares(residual) / 2 + l1
        b = self.schedule.momenta(k).to(real_dtype(x)) if k + 1 < last else 0.0
        new = replace(
            s, x=x, residual=residual, objective=objective, used=s.used + 1, v=x + b * (x - s.x),
            residual_v=residual + b * (residual - s.residual),
        )  # fmt: skip
        return new if k + 1 < last else self.begun(new)

    def certificate(self, found: Run[Any], y: Tensor, started: bool) -> ProximalReport:
        """As of Lasso; what the gains took is counted."""
        report, calls = super().certificate(found, y, started), POWER if self.schedule.settings["gains"] else 0
        return replace(
            report, operator_calls=report.operator_calls + calls, adjoint_calls=report.adjoint_calls + calls
        )  # fmt: skip

    def begun(self, s: ScheduledState) -> ScheduledState:
        """Where FISTA begins."""
        return choose(s.objective <= s.start_objective, s, lambda: self.back(s))

    def back(self, s: ScheduledState) -> ScheduledState:
        """At the start."""
        return replace(
            s, x=s.start, residual=s.start_residual, objective=s.start_objective, v=s.start,
            residual_v=s.start_residual, used=torch.zeros_like(s.used),
        )  # fmt: skip


class _InCache(InCache):
    """The schedule's iterations, where FISTA begins, and its own, each kind in one call."""

    def begin(self, s: ScheduledState) -> ScheduledState:
        """In memory of its own, and x as well: the start may have to come back."""
        return s if self.lasting else self.owned(s)

    def several(self, s: ScheduledState, k: int, count: int) -> ScheduledState:
        """As of InCache."""
        solver: ScheduledFISTA = self.solver
        learned, traces = min(count, max(len(solver.schedule) - k, 0)), []
        if learned:
            s = self.call(s, learned, solver.table(s, k, learned))
            s = replace(s, used=s.used + learned)
            traces += self.trace
            if k + learned == len(solver.schedule):
                s = solver.begun(s)
        if count > learned:
            s = self.call(s, count - learned)
            traces += self.trace
        self.trace[:] = [torch.cat(traces, 1)]
        return s
