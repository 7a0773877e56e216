"""Methods "fista" and "ista": images that are sparse in wavelets, min |A W* c - y|^2 / 2 + |lam c|_1.

Source of the paper's weights: Lee & Chun, Accelerating Optimization Algorithms With Dynamic Parameter Selections Using
Convolutional Neural Networks for Inverse Problems in Image Processing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastrecon.operators.wavelet import Wavelet
from fastrecon.options import check, option
from fastrecon.solvers.ista import FISTA, ISTA
from fastrecon.solvers.lasso import detail_weights
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, given_weight, method

WEIGHT = 0.7  # lam of the details in units of the noise that A* makes of that of y
FAINT = 0.1 / 255  # lam where neither noise nor a paper tells one, for images on [0, 1]
PAPER_LAM = "paper_lam"  # the fact that says the paper's


@dataclass(frozen=True)
class Weighting:
    """Options that all methods have which seek images sparse in wavelets."""

    lam: str = option(
        "weight of the coefficients: a number; auto: from the noise where that is known, else the paper's; paper",
        "auto",
    )
    lam_factor: float = option("times that weight", 1.0, within="[1e-9, 1e9]", type=float)
    wavelet: str = option("family and order", "sym4")
    level: int = option("levels of the transform", 3, within="[1, 30]", type=int)

    def number(self) -> float | None:
        """The weight, where it is a number."""
        return given_weight(self.lam, "wavelets", ("auto", "paper"))

    @property
    def by_noise(self) -> bool:
        """Whether the noise, where it is known, decides."""
        return self.lam == "auto"

    def value(self, inverse: Inverse) -> float:
        """lam."""
        given, paper = self.number(), inverse.facts.get(PAPER_LAM, FAINT)
        usual = WEIGHT * inverse.noise * spread(inverse) if self.by_noise and inverse.noise else paper
        return float(usual if given is None else given) * self.lam_factor


def spread(inverse: Inverse) -> float:
    """Standard deviation of A* e, over all pixels, for white noise e of 1: an orthonormal transform keeps it."""
    y = inverse.y[:1]
    wide = torch.complex64 if y.is_complex() else torch.float32
    e = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=wide).to(y)
    back = inverse.operator.apply_adjoint(e, inverse.size)
    return float(back.abs().square().mean().sqrt())


@dataclass(frozen=True)
class WaveletOptions(Weighting):
    """Options of "fista" and "ista"."""

    iterations: int = option("at most so many iterations", 500, within="[1, 1e6]", type=int)
    tol: float = option("stop once the step is below TOL times the image; 0: never", 0.0, within="[0, 1]", type=float)

    def __post_init__(self):
        check(self, "wavelets")
        self.number()

    def weight(self, inverse: Inverse, size: tuple[int, int]) -> float | Tensor:
        """lam, a number or [H', W'] for coefficients of this size: approximations are spared where noise decides."""
        if self.by_noise and inverse.noise:
            return detail_weights(size, self.level, self.value(inverse)).to(inverse.y.device)
        return self.value(inverse)


def _prepare(solver: Any) -> Callable[[WaveletOptions, torch.device], Runner]:
    def prepare(options: WaveletOptions, device: torch.device) -> Runner:
        def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
            x0 = inverse.first()
            wavelet = Wavelet(options.wavelet, options.level, inverse.size)
            c0 = wavelet(x0)
            c0 = c0.to(inverse.y.dtype) if inverse.y.is_complex() else c0
            lam = options.weight(inverse, (c0.shape[-2], c0.shape[-1]))
            bound = None if inverse.norm is None else inverse.norm**2

            def tell(k: int, s: Any) -> None:
                assert watch is not None
                watch(k, options.iterations, lambda: wavelet.adjoint(s.x, inverse.size))

            c, report = solver(inverse.operator @ wavelet.T, lam, bound)(
                inverse.y, c0, iterations=options.iterations, tol=options.tol, history=True,
                callback=None if watch is None else tell,
            )  # fmt: skip
            return Outcome(wavelet.adjoint(c, inverse.size), report)

        return run

    return prepare


method("fista", WaveletOptions, "wavelet-sparse images by FISTA")(_prepare(FISTA))
method("ista", WaveletOptions, "wavelet-sparse images by ISTA: slower, the objective never increases")(_prepare(ISTA))
