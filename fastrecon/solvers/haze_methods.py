"""Methods "contextual" and "dark-channel": transmissions of hazy photographs without training.

"contextual" refines the boundary transmission t~ by contextual regularisation,

min_t F(t) = lam / 2 |t - t~|^2 + sum_j |w_j * (d_j t)|_1,  w_j = exp(-sum_c (d_j I_c)^2 / (2 sigma)),

d_j eight differences: edges of t cost nothing where the photograph has them. Half-quadratic splitting, its penalty
growing from 1 to 2^8 by 2 sqrt 2. The authors' code divides thresholds by the number of differences; this does not.

Source: Meng, Wang, Duan, Xiang & Pan, Efficient Image Dehazing with Boundary Constraint and Contextual Regularization,
ICCV 2013; He, Sun & Tang, Single Image Haze Removal Using Dark Channel Prior, CVPR 2009, and Guided Image Filtering,
IEEE Trans. Pattern Anal. Mach. Intell. 35 (2013).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastrecon.certificates import MisfitReport, Status
from fastrecon.checks import expect
from fastrecon.operators import Identity, Kirsch
from fastrecon.ops.reductions import sum_of_squares
from fastrecon.options import check, option
from fastrecon.solvers import haze, windows
from fastrecon.solvers.hqs import HQS, continuation
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, method
from fastrecon.terms import L1

PROBLEM = "dehaze"
LOCAL, RIDGE = 30, 1e-2  # radius in pixels and ridge of the guided filter behind a network


@dataclass(frozen=True)
class ContextualOptions:
    """Options of contextual regularisation."""

    lam: float = option("weight of the boundary transmission", 2.0, within="[1e-6, 1e6]", type=float)
    sigma: float = option(
        "squared differences of the photograph, white at 1, that count as an edge", 0.5, within="[1e-6, 1e6]",
        type=float,
    )  # fmt: skip

    def __post_init__(self):
        check(self, "contextual")


def scene(inverse: Inverse, op: str) -> tuple[Tensor, Tensor]:
    """Photograph [B, C, H, W] and light [B, C, 1, 1] of a hazy scene."""
    photograph, light = (inverse.facts.get(name) for name in ("photograph", "light"))
    known = isinstance(photograph, Tensor) and isinstance(light, Tensor)
    expect(known, op, "problem", f"measurements of {PROBLEM}", inverse.problem or "an operator")
    assert isinstance(photograph, Tensor)
    assert isinstance(light, Tensor)
    return photograph, light


def guided(inverse: Inverse) -> Tensor:
    """The boundary transmission and what networks see of the photograph, [B, 4, H, W]."""
    return torch.cat((inverse.y, haze.guide(*scene(inverse, PROBLEM))), 1)


def finished(t: Tensor, photograph: Tensor) -> Tensor:
    """Transmissions of a network, linear in the photograph's brightness over small parts, and in [0, 1]."""
    return windows.guided(t, photograph.mean(1, keepdim=True), LOCAL, RIDGE).clamp(0, 1)


def context(photograph: Tensor, sigma: float) -> Tensor:
    """w [B, 8, H, W]; 0 where a difference would reach across the border, beyond which nothing is known."""
    d = Kirsch()
    square = sum(d.forward(c).square() for c in photograph.split(1, 1))
    assert isinstance(square, Tensor)
    w = torch.exp(-square / (2 * sigma))
    w[..., [0, -1], :] = 0
    w[..., [0, -1]] = 0
    return w


@method("contextual", ContextualOptions, "boundary constraint and contextual regularisation", (PROBLEM,))
def contextual(options: ContextualOptions, device: torch.device) -> Runner:
    """Transmissions [B, 1, H, W]."""

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        photograph, _ = scene(inverse, "contextual")
        prior = L1(context(photograph, options.sigma) / options.lam), Kirsch()
        solver = HQS(Identity(), prior, [beta / options.lam for beta in continuation()])

        def tell(k: int, s: object) -> None:
            if watch is not None:
                watch(k, solver.planned, lambda: s.x)  # type: ignore[attr-defined]

        t, report = solver(inverse.y, inverse.y, solver.planned, 0.0, history=watch is not None, callback=tell)
        return Outcome(t, report)

    return run


@dataclass(frozen=True)
class DarkChannelOptions:
    """Options of the dark channel prior."""

    omega: float = option("share of the haze that is taken away", 0.95, within="(0, 1]", type=float)
    radius: int = option(
        "of the windows of the guided filter in pixels; 0: no refinement", 60, within="[0, 1e4]", type=int
    )
    eps: float = option("its ridge, in squares of the photograph, white at 1", 1e-3, within="[1e-12, 1e3]", type=float)

    def __post_init__(self):
        check(self, "dark-channel")


@method("dark-channel", DarkChannelOptions, "dark channel prior, refined by a guided filter", (PROBLEM,))
def dark_channel(options: DarkChannelOptions, device: torch.device) -> Runner:
    """Transmissions [B, 1, H, W]; no objective stands behind them: the report says how far they are from the bound."""

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        photograph, light = scene(inverse, "dark-channel")
        t = haze.dark_channel(photograph, light, options.omega)
        if options.radius:
            t = windows.guided(t, photograph.mean(1, keepdim=True), options.radius, options.eps)
        t = t.clamp(0, 1)
        if watch is not None:
            watch(1, 1, lambda: t)
        return Outcome(t, apart(t, inverse.y, "a closed form"))

    return run


def apart(t: Tensor, y: Tensor, text: str) -> MisfitReport:
    """The report of transmissions t without an objective: their distance from y."""
    misfit, size = sum_of_squares(t - y).sqrt(), sum_of_squares(y).sqrt()
    finite = torch.isfinite(misfit)
    relative = torch.where(misfit == 0, 0, misfit / size)
    return MisfitReport(misfit, relative, torch.zeros_like(finite), Status(text, ~finite & finite, finite))
