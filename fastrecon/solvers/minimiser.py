"""The objective that rigorous mode minimises where a network has a second regulariser, trained for its minimiser.

    phi(x) = |A x - y|^2 / 2 + w r(x) + v s(x) + mu |x - x_K|^2 / 2,  x_K the image of the trained phases.

The phases are steps, and what they are trained for is where the last one ends; the stationary points of their own phi
are worse images by decibels. So r here is another than theirs, trained with mu (recipe `lda-cs-minimiser`) so that the
stationary point near x_K is good; s, sparse patches, may help it. The last term, without which mu is 0, holds x where
measurements and terms say little. Of complex images r and s are sums of those of real and of imaginary part. The
iterations are those of SmoothDescent, whose phi never increases.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.certificates import Report
from fastrecon.checks import expect, number
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.layout import wide_dtype
from fastrecon.solvers.base import Callback, column
from fastrecon.solvers.descent import FLOOR, RigorousObjective, UnrolledDescent, positive, raw_of
from fastrecon.solvers.rigorous import reductions_left
from fastrecon.solvers.smooth_descent import SmoothDescent, SmoothState
from fastrecon.terms.base import Term
from fastrecon.terms.feature_norm import FeatureNorm
from fastrecon.terms.scaled import Scaled, grey
from fastrecon.terms.sparse_patches import USUAL_RADIUS, SparsePatches
from fastrecon.terms.sum import Sum

LEAST = 1.05 * FLOOR  # radius
FAINT = 1e-5  # of |grad r|: below, rounding of float32 decides whether phi decreases


class Minimiser(RigorousObjective):
    """r, its radius, w, s with v, and mu.

    Args:
        channels, layers, in_channels, delta, final_activation: of r, see FeatureNorm.
        eps0: smoothing radius, > 1e-6.
        anchor: mu, > 1e-6; 0: none, and phi does not know x_K.
        sigma: of the termination test of rigorous mode, > 0; None: that of the phases. With a small one r keeps the
            radius it was trained for.
        weight: w, > 0: what eps is to r, w eps is to phi and its certificate.
        patch_weight: v, >= 0; 0: no such term.
        patch_radius: that of s, > 0; see SparsePatches.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    def __init__(
        self, channels: int = 32, layers: int = 4, *, in_channels: int = 1, delta: float = 0.01,
        final_activation: bool = False, eps0: float = 1e-3, anchor: float = 0.0, sigma: float | None = None,
        weight: float = 1.0, patch_weight: float = 0.0, patch_radius: float = USUAL_RADIUS,
    ):  # fmt: skip
        super().__init__()
        name = type(self).__name__
        self.regulariser = FeatureNorm(channels, layers, in_channels, delta, final_activation)
        self.raw_eps0 = raw_of(number(eps0, name, "eps0", above=FLOOR))
        self.sigma = None if sigma is None else float(number(sigma, name, "sigma", above=0))
        self.set_anchor(anchor)
        self.weight = float(number(weight, name, "weight", above=0))
        self.set_patches(number(patch_weight, name, "patch_weight", least=0), patch_radius)

    def set_patches(self, weight: float, radius: float = USUAL_RADIUS) -> None:
        """Sets v and the radius of s; 0: no such term."""
        self.patches = SparsePatches(radius) if weight else None
        self.log_patch_weight = nn.Parameter(torch.tensor(math.log(weight))) if weight else None

    def set_anchor(self, mu: float) -> None:
        """Sets mu, > 1e-6; 0: none.

        Raises:
            ValueError: it is out of range.
        """
        name = type(self).__name__
        expect(mu == 0 or mu > FLOOR, name, "anchor", f"0 or a number > {FLOOR:g}", mu)
        self.raw_anchor = raw_of(number(mu, name, "anchor", least=0)) if mu else None

    @classmethod
    @torch.no_grad()
    def of(
        cls, r: FeatureNorm, weight: float, contrast: float = 1.0, anchor: float = 0.0, sigma: float | None = None
    ) -> "Minimiser":
        """The one with weight / contrast^2 r(contrast x), of a term r with a radius."""
        new = cls(
            r.channels, len(r.weights), in_channels=r.in_channels, delta=r.delta, final_activation=r.final_activation,
            eps0=max(r.eps or 0.0, LEAST), anchor=anchor, sigma=sigma, weight=weight / contrast**2,
        )  # fmt: skip
        new.regulariser.load_state_dict(r.state_dict())
        new.regulariser.weights[0].mul_(contrast)
        return new

    @property
    def eps0(self) -> Tensor:
        """Smoothing radius, > 0."""
        return positive(self.raw_eps0)

    @property
    def anchor(self) -> Tensor | None:
        """mu, > 0; None: 0."""
        return None if self.raw_anchor is None else positive(self.raw_anchor)

    @property
    def patch_weight(self) -> Tensor | None:
        """v, > 0; None: 0."""
        return None if self.log_patch_weight is None else self.log_patch_weight.exp()

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that rebuild it."""
        r = self.regulariser
        return {
            "channels": r.channels, "layers": len(r.weights), "in_channels": r.in_channels, "delta": r.delta,
            "final_activation": r.final_activation, "anchor": float(self.anchor is not None),
        } | ({} if self.sigma is None else {"sigma": self.sigma}) | (
            {} if self.weight == 1 else {"weight": self.weight}
        ) | ({} if self.patches is None else {"patch_weight": 1.0})  # fmt: skip

    def weighted(self, eps: float) -> FeatureNorm:
        """w r, smoothed with radius eps: features w g with radius eps have the value w r of radius eps / w."""
        new = copy.deepcopy(self.regulariser)
        new.set_eps(eps)
        if self.weight != 1:
            with torch.no_grad():
                new.weights[-1].mul_(self.weight)
        return new

    def term(self, eps: float, like: Tensor, exact: bool = False) -> Term:
        """w r with radius eps, and v s, of images `like` these: r in float64, or in float32 whatever they are."""
        r = self.weighted(eps)
        r = r.double() if exact else InFloat32.of(r, eps)
        r = Scaled(r, 1.0) if like.is_complex() else r
        return r if (second := self._second()) is None else Sum([r, second])

    def _second(self) -> Term | None:
        """v s."""
        v = self.patch_weight
        return None if self.patches is None or v is None else Scaled(self.patches, float(v.detach()))

    def solve(
        self, net: UnrolledDescent, y: Tensor, x0: Tensor, iterations: int, tol: float, steps: str, check_every: int,
        history: bool, callback: Callback | None,
    ) -> tuple[Tensor, Report]:  # fmt: skip
        """The phases of `net`, and from their images on descent to a stationary point; see RigorousDescent.solve.

        The data term is computed in float64, r in float32 until rounding could decide whether phi decreases, and then
        in float64. eps shrinks once, before the first iteration, to the last that the termination test asks for:
        phi_eps(x) + m eps / 2 does not increase however much eps falls. Nothing is asked of `steps` and `check_every`.
        """
        phases = net.run(y, x0, history=history)
        s, z = phases.state, phases.state.x.to(wide_dtype(x0))
        operator, y = copy.deepcopy(net.fidelity.operator).double(), y.to(wide_dtype(y))
        if self.anchor is not None:
            operator = Anchored(operator, float(self.anchor), y.shape[1:])
            y = operator.measurements(y, z)
        sigma = net.sigma if self.sigma is None else self.sigma
        eps0 = self.weight * self.eps0.detach().double()
        reductions = int(reductions_left(eps0, sigma, net.gamma, tol))
        eps = float(eps0 * net.gamma**reductions)
        bound, half = sigma * net.gamma * eps, (1 + x0.is_complex()) * z.shape[-2] * z.shape[-1] / 2
        first = SmoothDescent(operator, self.term(float(eps0), x0), True).at(z, y)
        rows = [] if phases.history is None else [{k: v[:-1] for k, v in phases.history.items()}]
        rows.append(_row(first.objective, first.norm, float(eps0), half))
        last, count, trials, told = rows[-1]["merit"][-1], torch.zeros_like(s.trials), s.trials, 0
        for exact in (False, True):
            r = self.term(eps, x0, exact)

            def tell(k: int, now: SmoothState, told: int = told) -> None:
                assert callback is not None
                callback(told + k, replace(s, x=now.x, eps=torch.full_like(now.norm, eps), norm=now.norm))

            z, end = SmoothDescent(operator, r, not exact).solve(
                y, z, iterations - count, 0.0 if exact else FAINT, bound=bound, history=True,
                callback=None if callback is None else tell,
            )  # fmt: skip
            count, trials, told = count + end.iterations, trials + end.trials, told + int(end.iterations.max())
            assert end.history is not None
            found = _row(end.history["objective"], end.history["grad_norm"], eps, half)
            drift = (last - found["merit"][0]).clamp_max(0.0)  # of sums of changes in float32
            found = found | {k: found[k] + drift for k in ("phi_eps", "merit")}
            last = found["merit"][-1]
            rows.append({k: v[1:] for k, v in found.items()})
        nonsmooth = self.weighted(eps).double().nonsmooth_value(grey(z)).view(len(z), -1).sum(1)
        if (second := self._second()) is not None:
            nonsmooth = nonsmooth + second.value(z)
        merit = end.objective + half * eps
        report = Report(
            phi=(end.misfit.square() / 2 + nonsmooth).clamp(end.objective, merit), phi_eps=end.objective, merit=merit,
            grad_norm=end.grad_norm, eps=torch.full_like(merit, eps), iterations=phases.count + count, trials=trials,
            took_u=s.took_u, reductions=torch.full_like(count, min(reductions, 1)),
            converged=end.converged, status=end.status,
            history={k: torch.cat([r[k] for r in rows]) for k in rows[0]} if history else None,
            trained_phases=net.phases,
        )  # fmt: skip
        return z.to(x0.dtype), report


def _row(objective: Tensor, norm: Tensor, eps: float, half: float) -> dict[str, Tensor]:
    """Rows of a history, [rows, B] each, of objectives and norms of gradients [B] or [rows, B]."""
    objective, norm = (t if t.ndim == 2 else t[None] for t in (objective, norm))
    radius = torch.full_like(objective, eps)
    return {"phi_eps": objective, "merit": objective + half * eps, "grad_norm": norm, "eps": radius}


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

    def resolvent(self, v: Tensor, weight: Tensor) -> Tensor | None:
        """Of the operator with w / (1 + w mu), over 1 + w mu."""
        longer = 1 + weight * self.root**2
        found = self.operator.resolvent(v, weight / longer)
        return None if found is None else found / column(longer, found)


class InFloat32(FeatureNorm):
    """The same term, of float64 images too computed in float32: its gradient is far smaller than that of the data."""

    @classmethod
    def of(cls, r: FeatureNorm, eps: float) -> "InFloat32":
        """The term r, smoothed with this radius."""
        with torch.random.fork_rng(devices=[]):  # no draw that shows
            new = cls(r.channels, len(r.weights), r.in_channels, r.delta, r.final_activation, r.precision, eps)
        new.load_state_dict(r.state_dict())
        return new.to(r.weights[0].device)

    def _value(self, x: Tensor, eps: float | Tensor, precision: str) -> Tensor:
        return super()._value(x.float(), _single(eps), precision)

    def _both(self, x: Tensor, eps: float | Tensor, precision: str) -> tuple[Tensor, Tensor]:
        value, grad = super()._both(x.float(), _single(eps), precision)
        return value, grad.to(x.dtype)


def _single(eps: float | Tensor) -> float | Tensor:
    return eps.float() if isinstance(eps, Tensor) else eps
