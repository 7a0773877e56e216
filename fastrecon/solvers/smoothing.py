"""Methods "l0", "wls" and "guided": pictures, or the light in them, without texture, with their edges.

"l0"     min |x - y|^2 / 2 + lam |D x|_0, the number of pixels with an edge in any colour, by half-quadratic splitting,
         penalties from 4 lam to 1e5, each twice the last (Xu et al. 2011, whose lambda is twice ours)
"lp"     min |x - y|^2 / 2 + lam sum |D x|^p, the same with the statistics of natural slopes
"wls"    min |x - y|^2 / 2 + lam sum_j |D_j x|^2 / (|D_j g|^alpha + eps), g the mean of the colours: few edges weigh
         (Farbman et al. 2008; of illumination Guo, Li & Ling 2017); linear, by conjugate gradients
"guided" linear in g over small windows (He, Sun & Tang 2013); no objective

Source: Xu, Lu, Xu & Jia, Image Smoothing via L0 Gradient Minimization, ACM Trans. Graph. 30 (2011); Farbman, Fattal,
Lischinski & Szeliski, Edge-Preserving Decompositions for Multi-Scale Tone and Detail Manipulation, ACM Trans. Graph. 27
(2008); Guo, Li & Ling, LIME: Low-Light Image Enhancement via Illumination Map Estimation, IEEE Trans. Image Process. 26
(2017); He, Sun & Tang, Guided Image Filtering, IEEE Trans. Pattern Anal. Mach. Intell. 35 (2013).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastrecon.certificates import LinearReport, Status
from fastrecon.operators import Gradient, Identity
from fastrecon.ops.reductions import sum_of_squares
from fastrecon.options import check, option
from fastrecon.solvers import windows
from fastrecon.solvers.haze_methods import apart
from fastrecon.solvers.hqs import HQS, continuation
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, method
from fastrecon.terms import GroupL0, Lp, conjugate_gradients
from fastrecon.terms.conjugate_gradients import Solution

PROBLEMS = ("smooth", "low-light")
LAST = 1e5  # penalty of Xu et al., for pictures on [0, 1]


def _split(inverse: Inverse, prior: Any, lam: float, watch: Watch | None) -> Outcome:
    """Half-quadratic splitting of slopes."""
    first = min(4 * lam, LAST)
    solver = HQS(Identity(), (prior, Gradient()), continuation(first, LAST, 2.0))

    def tell(k: int, s: Any) -> None:
        if watch is not None:
            watch(k, solver.planned, lambda: s.x)

    x, report = solver(inverse.y, inverse.y, solver.planned, 0.0, history=watch is not None, callback=tell)
    return Outcome(x, report)


@dataclass(frozen=True)
class L0Options:
    """Options of "l0"."""

    lam: float = option("price of an edge, half of the paper's", 0.01, within="[1e-9, 1e3]", type=float)

    def __post_init__(self):
        check(self, "l0")


@method("l0", L0Options, "as few edges as possible (Xu et al.)", PROBLEMS)
def l0(options: L0Options, device: torch.device) -> Runner:
    """Pictures [B, C, H, W], whose colours have their edges together."""

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        return _split(inverse, GroupL0(options.lam), options.lam, watch)

    return run


@dataclass(frozen=True)
class LpOptions:
    """Options of "lp"."""

    lam: float = option("weight of the slopes", 0.1, within="[1e-9, 1e3]", type=float)
    p: float = option("their exponent", 0.8, within="[0, 1]", type=float)

    def __post_init__(self):
        check(self, "lp")


@method("lp", LpOptions, "sparse slopes", PROBLEMS)
def lp(options: LpOptions, device: torch.device) -> Runner:
    """Pictures [B, C, H, W]."""

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        return _split(inverse, Lp(options.lam, options.p), options.lam, watch)

    return run


@dataclass(frozen=True)
class WlsOptions:
    """Options of "wls"."""

    lam: float = option("weight of the slopes", 0.1, within="[0, 1e6]", type=float)
    alpha: float = option("exponent: how much edges are spared", 1.2, within="[0, 4]", type=float)
    eps: float = option("slopes below are none", 1e-2, within="[1e-6, 1]", type=float)
    iterations: int = option("of conjugate gradients, at most", 200, within="[1, 1e6]", type=int)
    tol: float = option("of the normal equations, relative", 1e-3, within="[1e-8, 1]", type=float)

    def __post_init__(self):
        check(self, "wls")


def edge_weights(y: Tensor, alpha: float, eps: float) -> Tensor:
    """1 / (|D g|^alpha + eps) [B, 2, H, W]; no difference reaches across the border."""
    slopes = Gradient().forward(y.mean(1, keepdim=True))
    w = 1 / (slopes.abs().pow(alpha) + eps)
    w[:, 0, -1, :] = 0
    w[:, 1, :, -1] = 0
    return w


@method("wls", WlsOptions, "weighted least squares: slopes that are edges weigh little", PROBLEMS)
def wls(options: WlsOptions, device: torch.device) -> Runner:
    """Pictures [B, C, H, W]."""

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        y, d = inverse.y, Gradient()
        w = edge_weights(y, options.alpha, options.eps)
        every = w.repeat_interleave(y.shape[1], 1)

        def normal(x: Tensor) -> Tensor:
            return x + options.lam * d.apply_adjoint(every * d.forward(x))

        down, right = w[:, :1], w[:, 1:]  # the diagonal of the equations differs from pixel to pixel by orders
        diagonal = 1 + options.lam * (down + down.roll(1, -2) + right + right.roll(1, -1))
        found = conjugate_gradients(
            normal, y, options.tol, options.iterations, precondition=lambda r: r / diagonal, start=y
        )
        if watch is not None:
            watch(1, 1, lambda: found.x, "linear system")
        return Outcome(found.x, _linear(found, y, normal, options, every))

    return run


def _linear(found: Solution, y: Tensor, normal: Any, options: WlsOptions, w: Tensor) -> LinearReport:
    x = found.x
    misfit, size = sum_of_squares(x - y), sum_of_squares(y).sqrt().clamp_min(1e-30)
    pull = sum_of_squares(w.sqrt() * Gradient().forward(x))
    residual = sum_of_squares(y - normal(x)).sqrt()
    finite = torch.isfinite(residual)
    return LinearReport(
        misfit / 2 + options.lam * pull / 2, misfit.sqrt(), misfit.sqrt() / size, residual, residual / size,
        torch.full_like(size, options.lam), found.iterations, found.converged & finite,
        Status("iteration limit", found.converged & finite, finite),
    )  # fmt: skip


@dataclass(frozen=True)
class GuidedOptions:
    """Options of "guided"."""

    radius: int = option("of the windows in pixels", 8, within="[1, 1e4]", type=int)
    eps: float = option("squared contrast, white at 1, below which a window is flattened", 1e-2,
                        within="[1e-9, 1e3]", type=float)  # fmt: skip

    def __post_init__(self):
        check(self, "guided")


@method("guided", GuidedOptions, "guided filter, the picture its own guide", PROBLEMS)
def guided(options: GuidedOptions, device: torch.device) -> Runner:
    """Pictures [B, C, H, W]."""

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        x = windows.guided(inverse.y, inverse.y.mean(1, keepdim=True), options.radius, options.eps)
        if watch is not None:
            watch(1, 1, lambda: x)
        return Outcome(x, apart(x, inverse.y, "a closed form"))

    return run
