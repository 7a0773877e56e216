"""Method "hyper-laplacian": photographs deblurred with the statistics of natural slopes, at the published settings.

min w / 2 |K x - y|^2 + sum of |slopes|^p by half-quadratic splitting, penalties 1, 2 sqrt 2, ..., 256.
Source: Krishnan & Fergus, Fast Image Deconvolution using Hyper-Laplacian Priors, NIPS 2009.
"""

from dataclasses import dataclass
from typing import Any

import torch

from fastrecon.operators.gradient import Gradient
from fastrecon.options import check, option
from fastrecon.solvers.hqs import HQS, continuation
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, given_weight, method
from fastrecon.terms import Lp

PUBLISHED, NOISE = 2000.0, 0.01  # the paper's w, and the noise there
FAINT = 1e-3  # noise that is assumed where there is less, or none is known


@dataclass(frozen=True)
class HyperLaplacianOptions:
    """Options of "hyper-laplacian"."""

    p: float = option("exponent", 2 / 3, within="[0, 1]", type=float)
    w: str = option("weight of the measurements: a number; auto: 2000 at noise 0.01, falling as noise^-1.5", "auto")
    inner: int = option("iterations with each penalty", 1, within="[1, 1000]", type=int)

    def __post_init__(self):
        check(self, "hyper-laplacian")
        self.number()

    def number(self) -> float | None:
        """The weight, where it is a number."""
        return given_weight(self.w, "hyper-laplacian", name="--w", above=True)


@method("hyper-laplacian", HyperLaplacianOptions, "photographs by sparse slopes (Krishnan & Fergus); needs the noise",
        ("deblur", ""))  # fmt: skip
def hyper_laplacian(options: HyperLaplacianOptions, device: torch.device) -> Runner:
    """Images [B, C, H, W], real or complex as y is."""

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        given = options.number()
        w = PUBLISHED * (max(inverse.noise or 0.0, FAINT) / NOISE) ** -1.5 if given is None else given
        x0 = inverse.first()
        x0 = x0.to(inverse.y.dtype) if inverse.y.is_complex() else x0
        solver = HQS(
            inverse.operator, (Lp(1 / w, options.p), Gradient()), [beta / w for beta in continuation()], options.inner
        )

        def tell(k: int, s: Any) -> None:
            if watch is not None:
                watch(k, solver.planned, lambda: s.x)

        x, report = solver(inverse.y, x0, iterations=solver.planned, tol=0.0, history=True, callback=tell)
        return Outcome(x, report)

    return run
