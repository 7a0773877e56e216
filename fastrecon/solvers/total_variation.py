"""Method "tv": images of small total variation, min F(x) = |A x - y|^2 / 2 + lam TV(x), by monotone FISTA.

The proximal map is itself an iteration, to a duality gap: it starts from the last one's dual, and its tolerance
decreases as the square of the iterations, down to what float32 resolves. What is reported bounds the exact step.
Source: Beck & Teboulle, Fast Gradient-Based Algorithms for Constrained Total Variation Image Denoising and Deblurring
Problems, IEEE Trans. Image Process. 18 (2009); of inexact maps: Schmidt, Le Roux & Bach, Convergence Rates of Inexact
Proximal-Gradient Methods for Convex Optimization, NeurIPS 2011.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from fastrecon import ops
from fastrecon.certificates import ProximalReport, TotalVariationReport
from fastrecon.checks import behind
from fastrecon.operators.base import LinearOperator
from fastrecon.options import check, option
from fastrecon.solvers.base import Run, column, with_parts
from fastrecon.solvers.ista import FistaState
from fastrecon.solvers.lasso import Lasso
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, given_weight, method
from fastrecon.solvers.wavelet_methods import spread
from fastrecon.terms.total_variation import TV

squares = behind(ops.squares)

INNER = 25  # dual iterations of a step, at most: the next starts where they end
FIRST, LAST = 1e-2, 1e-6  # tolerances of the proximal maps, as shares of their objectives
WHOLE = 3000  # dual iterations where one proximal map is all


@dataclass(frozen=True)
class TVState(FistaState):
    """With the dual of the last proximal map and its gap."""

    dual: Tensor  # [B, C, 2, H, W]
    gap: Tensor  # [B], float64


class TVFista(Lasso[TVState]):
    """z = prox(v - grad f(v) / L), x+ = z where F(z) <= F(x), else x; v+ between x, x+ and z as of Beck & Teboulle.

    Where A is unitary the first proximal map is all there is to do.

    Args:
        operator: A, from images [B, C, H, W].
        lam: weight, >= 0: a number, or [B].
        lipschitz: as of Lasso.
        isotropic, joint: as of `terms.TV`.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    def __init__(
        self, operator: LinearOperator, lam: float | Tensor, lipschitz: float | Tensor | None = None,
        isotropic: bool = True, joint: bool = False,
    ):  # fmt: skip
        super().__init__(operator, lam, lipschitz)
        self.term = TV(lam, isotropic, joint)

    def l1(self, x: Tensor) -> Tensor:
        """lam TV(x) [B] in float64."""
        return self.term.value(x)

    def effort(self, k: int) -> tuple[float, int]:
        """Tolerance and dual iterations of the proximal map in iteration k."""
        if self.operator.unitary:
            return max(1e-4 * 0.1**k, LAST / 10), WHOLE
        return max(FIRST / (k + 1) ** 2, LAST), INNER

    def start(self, x: Tensor, y: Tensor) -> TVState:
        """The state at x, without momentum."""
        s, step = self.first(x, y), self.steps(x)
        one = torch.ones_like(s.objective)
        dual = x.new_zeros(*x.shape[:-2], 2, *x.shape[-2:])
        return TVState(
            **vars(s), step=step, y=y, v=s.x, residual_v=s.residual, theta=one, dual=dual, gap=torch.inf * one
        )

    def step(self, s: TVState, k: int) -> TVState:
        """One iteration. F never increases."""
        tol, inner = self.effort(k)
        u = s.v - column(s.step, s.v) * self.operator.apply_adjoint(s.residual_v, s.v.shape[-2:])
        found = self.term.solve(u, s.step, s.dual, tol, inner)
        residual = self.operator.forward(found.x) - s.y
        objective = squares(residual) / 2 + self.l1(found.x)
        good = objective <= s.objective
        theta = (1 + (1 + 4 * s.theta.square()).sqrt()) / 2
        weight = torch.where(good, 1 + (s.theta - 1) / theta, s.theta / theta)
        v, residual_v = (
            torch.lerp(a, b, column(weight, b).to(b.dtype)) for a, b in ((s.x, found.x), (s.residual, residual))
        )
        x, residual = (
            torch.where(good.view(-1, *[1] * (b.ndim - 1)), b, a) for a, b in ((s.x, found.x), (s.residual, residual))
        )
        return TVState(
            x, residual, torch.where(good, objective, s.objective), bound(found.x, s.v, found.gap), s.used, s.step, s.y,
            v, residual_v, theta, found.dual, found.gap,
        )  # fmt: skip

    def take(self, which: Tensor, x: Tensor) -> Self:
        """The same problem of the images `which` of a batch like x."""
        lam = self.lam[which] if isinstance(self.lam, Tensor) and self.lam.ndim else self.lam
        return with_parts(self, operator=self.operator.take(which), lam=lam, term=self.term.take(which))

    def done(self, s: TVState, tol: float) -> Tensor:
        """Where A is unitary by the gap, which is that of F then, as a share of F; else as of Lasso."""
        return s.gap <= tol * s.objective if self.operator.unitary else super().done(s, tol)

    def move(self, s: TVState, residual: Tensor) -> Tensor:
        """A bound of |z|^2 [B], z the exact proximal gradient step at x."""
        return self._last(s, residual)[0]

    def _last(self, s: TVState, residual: Tensor) -> tuple[Tensor, Tensor]:
        u = s.x - column(s.step, s.x) * self.operator.apply_adjoint(residual, s.x.shape[-2:])
        found = self.term.solve(u, s.step, s.dual, LAST, 0 if self.operator.unitary else 10 * INNER)
        return bound(found.x, s.x, found.gap), found.gap

    def certificate(self, found: Run[TVState], y: Tensor, started: bool) -> ProximalReport:
        """As of Lasso, with the gaps."""
        report = super().certificate(found, y, started)
        _, gap = self._last(found.state, self.operator.forward(found.state.x) - y)
        whole = gap if self.operator.unitary else torch.full_like(gap, torch.nan)
        return TotalVariationReport(**vars(report), prox_gap=gap, gap=whole)


def bound(z: Tensor, x: Tensor, gap: Tensor) -> Tensor:
    """At least |z* - x|^2 [B], where |z* - z|^2 <= 2 gap."""
    return (squares(z - x).sqrt() + (2 * gap).sqrt()).square()


@dataclass(frozen=True)
class TVOptions:
    """Options of "tv"."""

    lam: str = option("weight of the total variation: a number; auto: from the noise", "auto")
    lam_factor: float = option("times that weight", 1.0, within="[1e-9, 1e9]", type=float)
    isotropic: bool = option("lengths of differences; without: their absolute values, which like upright edges", True)
    iterations: int = option("at most so many iterations", 300, within="[1, 1e6]", type=int)
    tol: float = option(
        "stop once what is left of the step is below TOL times the image (of denoising: the gap below TOL times the"
        " objective); 0: never", 1e-4, within="[0, 1]", type=float,
    )  # fmt: skip

    def __post_init__(self):
        check(self, "tv")
        self.number()

    def number(self) -> float | None:
        """The weight, where it is a number."""
        return given_weight(self.lam, "tv")

    def value(self, inverse: Inverse) -> float:
        """lam."""
        given = self.number()
        return (automatic(inverse) if given is None else given) * self.lam_factor


FAINT = 3e-3  # the noise that is assumed where there is less, or none is known; for images on [0, 1]


def automatic(inverse: Inverse) -> float:
    """lam from the noise.

    For denoising lam = 1.35 sigma^1.25 meets the best weights of six Set11 images, 0.50, 0.65, 0.77, 0.84 and 0.90
    sigma at sigma = 0.02, 0.05, 0.1, 0.15 and 0.2, to 0.02 sigma. Other operators: times what A* makes of noise; of
    seven (inpainting, Fourier sampling, blurs) two lose more than 0.1 dB against their best weight, and none 0.3 dB.
    """
    sigma = max(inverse.noise or 0.0, FAINT)
    return 1.35 * sigma**1.25 * spread(inverse)


@method("tv", TVOptions, "images of small total variation, certified")
def tv(options: TVOptions, device: torch.device) -> Runner:
    """Images [B, C, H, W], real or complex as y is."""

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        x0 = inverse.first()
        x0 = x0.to(inverse.y.dtype) if inverse.y.is_complex() else x0
        limit = None if inverse.norm is None else inverse.norm**2
        solver = TVFista(inverse.operator, options.value(inverse), limit, options.isotropic)

        def tell(k: int, s: Any) -> None:
            if watch is not None:
                watch(k, options.iterations, lambda: s.x)

        x, report = solver(
            inverse.y, x0, iterations=options.iterations, tol=options.tol, check_every=1, history=True, callback=tell
        )
        return Outcome(x, report)

    return run
