"""The objective that rigorous mode minimises where a network has a second regulariser, trained for its minimiser.

    phi(x) = |A x - y|^2 / 2 + r(x) + mu |x - x_K|^2 / 2,  x_K the image of the trained phases.

The phases are steps, and what they are trained for is where the last one ends; the stationary points of their own phi
are worse images by decibels. So r here is another than theirs, trained with mu (recipe `lda-cs-minimiser`) so that the
stationary point near x_K is good. The last term, without which mu is 0, holds x where measurements and r say little.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.certificates import ITERATION_LIMIT, Report
from fastrecon.checks import expect, number
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.layout import wide_dtype
from fastrecon.ops.reductions import sum_of_squares
from fastrecon.solvers.base import Callback
from fastrecon.solvers.descent import FLOOR, DescentState, RigorousObjective, UnrolledDescent, positive, raw_of
from fastrecon.solvers.rigorous import RigorousDescent, reductions_left
from fastrecon.terms.base import Evaluation
from fastrecon.terms.feature_norm import FeatureNorm
from fastrecon.terms.least_squares import LeastSquares

FAINT = 1e-5  # of |grad r|: below, rounding of float32 decides whether phi decreases


class Minimiser(RigorousObjective):
    """r, its radius and mu.

    Args:
        channels, layers, in_channels, delta, final_activation: of r, see FeatureNorm.
        eps0: smoothing radius, > 1e-6.
        anchor: mu, > 1e-6; 0: none, and phi does not know x_K.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    def __init__(
        self, channels: int = 32, layers: int = 4, *, in_channels: int = 1, delta: float = 0.01,
        final_activation: bool = False, eps0: float = 1e-3, anchor: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        name = type(self).__name__
        self.regulariser = FeatureNorm(channels, layers, in_channels, delta, final_activation)
        self.raw_eps0 = raw_of(number(eps0, name, "eps0", above=FLOOR))
        expect(anchor == 0 or anchor > FLOOR, name, "anchor", f"0 or a number > {FLOOR:g}", anchor)
        self.raw_anchor = raw_of(number(anchor, name, "anchor", least=0)) if anchor else None

    @property
    def eps0(self) -> Tensor:
        """Smoothing radius, > 0."""
        return positive(self.raw_eps0)

    @property
    def anchor(self) -> Tensor | None:
        """mu, > 0; None: 0."""
        return None if self.raw_anchor is None else positive(self.raw_anchor)

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that rebuild it."""
        r = self.regulariser
        return {
            "channels": r.channels, "layers": len(r.weights), "in_channels": r.in_channels, "delta": r.delta,
            "final_activation": r.final_activation, "anchor": float(self.anchor is not None),
        }  # fmt: skip

    def solve(
        self, net: UnrolledDescent, y: Tensor, x0: Tensor, iterations: int, tol: float, steps: str, check_every: int,
        history: bool, callback: Callback | None,
    ) -> tuple[Tensor, Report]:  # fmt: skip
        """The phases of `net`, and from their images on descent to a stationary point; see RigorousDescent.solve.

        The data term is computed in float64, r in float32 until rounding could decide whether phi decreases, and then
        in float64. eps shrinks once, where Algorithm 1 shrinks it first, to the last that the termination test asks
        for: phi_eps(x) + m eps / 2 does not increase however much eps falls.
        """
        phases = net.run(y, x0, history=history)
        wide, y = copy.deepcopy(net.fidelity.operator).double(), y.to(wide_dtype(y))
        z = phases.state.x.to(wide_dtype(x0))
        if self.anchor is not None:
            wide = Anchored(wide, float(self.anchor), y.shape[1:])
            y = wide.measurements(y, z)
        rows = [] if phases.history is None else [{k: v[:-1] for k, v in phases.history.items()}]
        s, count, told = phases.state, phases.count, 0
        end: MinimiserDescent | None = None
        for exact in (False, True):
            end = MinimiserDescent(net, self, wide, exact, tol)
            new = end.start(y, z, eps=s.eps if exact else None)
            kept = {"took_u": s.took_u, "trials": s.trials}
            if exact:  # sums of changes in float32 have drifted a little
                assert s.merit is not None
                assert new.merit is not None
                kept |= {"merit": torch.minimum(s.merit, new.merit), "reductions": s.reductions}
            new = replace(new, **kept)
            later = None if callback is None else (lambda k, s, told=told, tell=callback: tell(told + k, s))
            found = end.run_on(new, y, iterations - (count - phases.count), tol, steps, check_every, history, later)
            s, z, count, told = found.state.at, found.state.at.x, count + found.count, told + int(found.count.max())
            if found.history is not None:
                rows.append({k: v[exact:] for k, v in found.history.items()})
        assert end is not None
        together = {k: torch.cat([r[k] for r in rows]) for k in rows[0]} if rows else None
        report = end.report(s, together, end.done(s, tol), count, ITERATION_LIMIT, found.state.stuck)
        return s.x.to(x0.dtype), replace(report, trained_phases=net.phases)


class MinimiserDescent(RigorousDescent):
    """Gradient descent with line search on the objective of a Minimiser; no phases of its own.

    Args:
        net: the network, whose sigma and gamma hold.
        minimiser: r and its radius.
        operator: of the data term, float64.
        exact: whether r is computed in float64.
        tol: of the termination test.
    """

    def __init__(self, net: UnrolledDescent, minimiser: Minimiser, operator: LinearOperator, exact: bool, tol: float):
        nn.Module.__init__(self)  # no parameters are drawn
        self.sigma, self.gamma, self.eps_mode = net.sigma, net.gamma, "sample"
        self.fidelity, self.wide, self.minimiser = LeastSquares(operator), exact, None
        self.regulariser = (
            copy.deepcopy(minimiser.regulariser).double() if exact else InFloat32.of(minimiser.regulariser)
        )
        self.raw_alpha = raw_of(1.0, 1).detach().double()
        self.raw_eps0 = copy.deepcopy(minimiser.raw_eps0).double()
        eps0 = self.eps0.detach()
        self.last = eps0 * self.gamma ** reductions_left(eps0, self.sigma, self.gamma, tol)

    def step_sizes(self) -> tuple[Tensor, ...]:
        """The first step to try."""
        return (self.alpha,)

    def accept(
        self, s: DescentState, x: Tensor, grad_f: Tensor, r: Evaluation, f: Tensor, took_u: Tensor
    ) -> DescentState:
        """As for every descent, but that eps, where it shrinks, becomes the last that the termination test asks for."""
        new = super().accept(s, x, grad_f, r, f, took_u)
        passed = new.passed & (s.eps > self.last)
        return replace(new, passed=passed, next_eps=torch.where(passed, self.last, s.eps))

    def done(self, s: DescentState, tol: float) -> Tensor:
        """The termination test; in float32 whether it could be passed, or rounding forbids to go on."""
        if self.wide:
            return super().done(s, tol)
        assert s.r is not None
        assert s.norm is not None
        return s.norm < torch.maximum(self.sigma * self.gamma * self.last, FAINT * sum_of_squares(s.r.grad).sqrt())


class Anchored(LinearOperator):
    """(A x, sqrt(mu) x) in one vector: |A x - y|^2 + mu |x - z|^2 is the misfit of `measurements(y, z)`.

    Args:
        operator: A.
        mu: > 0.
        shape: of an image's measurements.
    """

    def __init__(self, operator: LinearOperator, mu: float, shape: Sequence[int]):
        super().__init__()
        self.operator, self.root, self.shape = operator, mu**0.5, tuple(shape)

    def measurements(self, y: Tensor, z: Tensor) -> Tensor:
        """(y, sqrt(mu) z) [B, ...]."""
        return torch.cat((y.flatten(1), self.root * z.flatten(1)), 1)

    def forward(self, x: Tensor) -> Tensor:
        """(A x, sqrt(mu) x) [B, ...]."""
        return self.measurements(self.operator.forward(x), x)

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """The adjoint of A at the first part, and sqrt(mu) of the second."""
        first, second = y.split((count := math.prod(self.shape), y.shape[1] - count), 1)
        x = self.operator.apply_adjoint(first.reshape(-1, *self.shape), size)
        return x + self.root * second.reshape(x.shape)

    def take(self, which: Tensor) -> "Anchored":
        """Of the operator."""
        return Anchored(self.operator.take(which), self.root**2, self.shape)


class InFloat32(FeatureNorm):
    """The same term, of float64 images too computed in float32: its gradient is far smaller than that of the data."""

    @classmethod
    def of(cls, r: FeatureNorm) -> "InFloat32":
        """The term r."""
        with torch.random.fork_rng(devices=[]):  # no draw that shows
            new = cls(r.channels, len(r.weights), r.in_channels, r.delta, r.final_activation, r.precision)
        new.load_state_dict(r.state_dict())
        return new.to(r.weights[0].device)

    def _value(self, x: Tensor, eps: float | Tensor, precision: str) -> Tensor:
        return super()._value(x.float(), _single(eps), precision)

    def _both(self, x: Tensor, eps: float | Tensor, precision: str) -> tuple[Tensor, Tensor]:
        value, grad = super()._both(x.float(), _single(eps), precision)
        return value, grad.to(x.dtype)


def _single(eps: float | Tensor) -> float | Tensor:
    return eps.float() if isinstance(eps, Tensor) else eps
