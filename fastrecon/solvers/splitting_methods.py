"""Methods "admm" and "hqs": images with sparse slopes or wavelets, min |A x - y|^2 / 2 + lam sum_i |(K x)_i|^p.

Source of the schedule of "hqs" and of p: Krishnan & Fergus, Fast Image Deconvolution using Hyper-Laplacian Priors, NIPS
2009; Levin, Fergus, Durand & Freeman, Image and Depth from a Conventional Camera with a Coded Aperture, SIGGRAPH 2007.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from fastrecon.checks import expect
from fastrecon.operators.base import LinearOperator
from fastrecon.operators.gradient import Gradient
from fastrecon.operators.wavelet import Wavelet
from fastrecon.options import check, option
from fastrecon.solvers.admm import ADMM
from fastrecon.solvers.hqs import HQS, continuation
from fastrecon.solvers.lasso import detail_weights
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, given_weight, method
from fastrecon.solvers.wavelet_methods import spread
from fastrecon.terms import GroupL21, Lp, Term

REGULARISERS = ("tv", "lp", "wavelet")
FAINT = 1e-3  # noise that is assumed where none is known, of images on [0, 1]: a quarter of a grey level
LEVEL = 3  # of the wavelet transform
GAIN, SIZE = 2.5, 0.06  # see `weight`
PENALTY = 20.0  # where rho starts, in units of lam: masks, windows, blurs and noise alone like 10 to 30 of them


def weight(sigma: float, spread: float, p: float) -> float:
    """lam for noise of standard deviation sigma, and spread sigma in the adjoint of A at it, |A| = 1.

    Fitted to the best weights on a grid, of 128x128 crops of four photographs. Denoising (spread 1), p = 1, isotropic:
    0.015, 0.075, 0.17 for sigma = 0.03, 0.1, 0.2. Blurred by a shaking camera (spread 0.16): 1.7e-4, 1e-3, 4.8e-3 for
    0.003, 0.01, 0.03. For p = 0.8, 2/3, 1/2 it was SIZE^(1 - p) times as much: a slope of 0.06 costs the same for every
    p. Within a factor of 1.4 of all of these, and 0.3 dB of the best of each.
    """
    return GAIN * max(sigma, FAINT) ** 1.5 * spread**0.5 * SIZE ** (1 - p)


@dataclass(frozen=True)
class SplittingOptions:
    """Options of both."""

    method: ClassVar[str]
    regulariser: str = option(
        "tv: |slopes|; lp: |slope down|^P + |slope right|^P; wavelet: |details|^P", "tv", choices=REGULARISERS
    )
    p: float = option("exponent of lp and wavelet", 1.0, within="[0, 1]", type=float)
    lam: str = option("weight: a number, or auto: from the noise", "auto")
    lam_factor: float = option("times that weight", 1.0, within="[1e-9, 1e9]", type=float)

    def __post_init__(self):
        check(self, self.method)
        expect(self.regulariser != "tv" or self.p == 1, self.method, "--p", "1, or --regulariser lp or wavelet", self.p)
        self.number()

    def number(self) -> float | None:
        """The weight, where it is a number."""
        return given_weight(self.lam, self.method)

    def value(self, inverse: Inverse, norm: float) -> float:
        """lam: that of A / |A| and its noise, |A|^2 times."""
        given = self.number()
        if given is None:
            given = norm**2 * weight((inverse.noise or 0.0) / norm, spread(inverse) / norm, self.p)
        return given * self.lam_factor

    def split(self, lam: float, inverse: Inverse) -> tuple[Term, LinearOperator]:
        """g and K."""
        if self.regulariser == "tv":
            return GroupL21(lam), Gradient()
        if self.regulariser == "lp":
            return Lp(lam, self.p), Gradient()
        transform = Wavelet("sym4", LEVEL, inverse.size)
        c = transform.output_size(inverse.size) or inverse.first().shape[-2:]
        return Lp(detail_weights((c[0], c[1]), LEVEL, lam).to(inverse.y.device), self.p), transform


@dataclass(frozen=True)
class AdmmOptions(SplittingOptions):
    """Options of ADMM."""

    method = "admm"
    iterations: int = option("at most so many iterations", 200, within="[1, 1e6]", type=int)
    tol: float = option("stop once both residuals are below TOL times their scales; 0: never", 1e-3, within="[0, 1]",
                        type=float)  # fmt: skip


@dataclass(frozen=True)
class HqsOptions(SplittingOptions):
    """Options of half-quadratic splitting."""

    method = "hqs"
    regulariser: str = option(
        "tv: |slopes|; lp: |slope down|^P + |slope right|^P; wavelet: |details|^P", "lp", choices=REGULARISERS
    )
    p: float = option("exponent of lp and wavelet", 2 / 3, within="[0, 1]", type=float)
    inner: int = option("iterations with each penalty", 1, within="[1, 1000]", type=int)
    last: float = option("last penalty in units of lam, where white is 1", 256.0, within="[1, 1e9]", type=float)


def _norm(inverse: Inverse, like: torch.Tensor) -> float:
    known = inverse.operator.norm(like.shape, tol=1e-3) if inverse.norm is None else inverse.norm
    return known or 1.0


def _runner(options: Any, make: Any) -> Runner:
    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        x0 = inverse.first()
        x0 = x0.to(inverse.y.dtype) if inverse.y.is_complex() else x0
        norm = _norm(inverse, x0)
        x0 = x0 / norm**2 if inverse.start is None else x0  # of the size of images
        lam = options.value(inverse, norm)
        solver, iterations, tol = make(inverse.operator, options.split(lam, inverse), lam, norm)

        def tell(k: int, s: Any) -> None:
            assert watch is not None
            watch(k, iterations, lambda: s.x)

        x, report = solver(
            inverse.y, x0, iterations=iterations, tol=tol, history=True, callback=None if watch is None else tell
        )
        return Outcome(x, report)

    return run


@method("admm", AdmmOptions, "sparse slopes (total variation) or wavelets by ADMM, with its residuals")
def admm(options: AdmmOptions, device: torch.device) -> Runner:
    """Images [B, C, H, W], real or complex as y is."""

    def make(a: LinearOperator, prior: tuple[Term, LinearOperator], lam: float, norm: float) -> Any:
        return ADMM(a, prior, max(PENALTY * lam, 1e-9 * norm**2)), options.iterations, options.tol

    return _runner(options, make)


@method("hqs", HqsOptions, "sparse slopes with an exponent P <= 1 by half-quadratic splitting")
def hqs(options: HqsOptions, device: torch.device) -> Runner:
    """Images [B, C, H, W], real or complex as y is."""

    def make(a: LinearOperator, prior: tuple[Term, LinearOperator], lam: float, norm: float) -> Any:
        unit = max(lam, 1e-9 * norm**2)
        solver = HQS(a, prior, [unit * beta for beta in continuation(last=options.last)], options.inner)
        return solver, solver.planned, 0.0

    return _runner(options, make)
