"""Method "wiener": the Wiener filter of operators that the Fourier transform makes diagonal, in closed form.

x = T* conj(s) U* y / (|s|^2 + w |D|^2) for A = U diag(s) T: images are taken as Gaussian with the spectrum a / |D|^2 of
natural ones, a free offset, and white noise of variance w a. Both, or a alone where the noise is known, are those that
make the measurements most likely. Computed in float64: without noise w is that of rounding.

Source: Wiener, Extrapolation, Interpolation, and Smoothing of Stationary Time Series, MIT Press 1949; the weight:
Orieux, Giovannelli & Rodet, Bayesian Estimation of Regularization and Point Spread Function Parameters for Wiener-Hunt
Deconvolution, J. Opt. Soc. Am. A 27 (2010).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastrecon.checks import expect, finite_number
from fastrecon.operators.base import Diagonal
from fastrecon.options import check, option
from fastrecon.solvers.base import column
from fastrecon.solvers.linear import certificate, fourier_penalty, least, like_images, wide, wrapped_laplacian
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, method


@dataclass(frozen=True)
class Spectrum:
    """Where A and D are diagonal, in float64: s, |D|^2 and the measurements."""

    basis: Diagonal
    factors: Tensor  # s, broadcastable to `measured`
    penalty: Tensor  # |D|^2, likewise
    measured: Tensor  # U* y [B, ...]

    def solve(self, weight: Tensor) -> Tensor:
        """Images for weights [B]: of 0 the least-squares solution of least norm."""
        s, z = self.factors, self.measured
        square = s.abs().square() + column(weight, z) * self.penalty
        return self.basis.inverse(torch.where(square > 0, s.conj() * z / square.clamp_min(1e-300), 0))


def spectrum(inverse: Inverse, x: Tensor, penalty: str = "gradient") -> Spectrum | None:
    """The spectrum for images like x; None where A, or D with it, has none."""
    like = wide(x)
    basis = inverse.operator.diagonal(like)
    if basis is None:
        return None
    grown = fourier_penalty(basis, like) if penalty == "gradient" else torch.ones((), dtype=torch.float64).to(x.device)
    return None if grown is None else Spectrum(basis, wide(basis.factors), grown, basis.measured(wide(inverse.y)))


def likeliest(found: Spectrum, variance: float | None) -> Tensor:
    """w [B] by the likelihood of the measurements; `variance` of the noise in each coefficient, None: unknown."""
    s, z = found.factors.abs().square(), found.measured.abs().square()
    told = (s * found.penalty > 0).expand(z.shape)  # the mean, and what was not measured, tell nothing
    each = (s / found.penalty.clamp_min(1e-300)).expand(z.shape)
    count = told.flatten(1).sum(1).clamp_min(1)
    total = lambda t: torch.where(told, t, 0).flatten(1).sum(1)  # noqa: E731

    def surprise(w: Tensor) -> Tensor:
        spread = each + column(w, z)  # of the measurements, over a
        fit = total(z / spread.clamp_min(1e-300))
        if variance is None:
            return count * (fit / count).clamp_min(1e-300).log() + total(spread.clamp_min(1e-300).log())
        a = variance / w
        return fit / a + total((column(a, z) * spread).clamp_min(1e-300).log())

    peak = torch.where(told, each, 0).flatten(1).amax(1).clamp_min(1e-300)
    return least(surprise, -18.0, 4.0, peak)


@dataclass(frozen=True)
class WienerOptions:
    """Options of the Wiener filter."""

    lam: str = option("weight of the squared gradient: a number; auto: the likeliest, by the noise where known", "auto")

    def __post_init__(self):
        check(self, "wiener")
        weight(self.lam, "wiener")


def weight(lam: str, op: str) -> float | None:
    """The weight of an option, None for "auto".

    Raises:
        ValueError: it is neither auto nor a number >= 0.
    """
    if lam == "auto":
        return None
    try:
        value = float(lam)
    except ValueError:
        value = float("nan")
    expect(finite_number(value) and value >= 0, op, "--lam", "auto or a number >= 0", repr(lam))
    return value


@method("wiener", WienerOptions, "Wiener filter of circular blur, in closed form; the weight by likelihood")
def wiener(options: WienerOptions, device: torch.device) -> Runner:
    """Images [B, C, H, W] of operators that are diagonal in the Fourier transform."""

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        x0 = like_images(inverse, inverse.first())
        found, op = spectrum(inverse, x0), type(inverse.operator).__name__
        expected = "one that the Fourier transform makes diagonal, as circular blur (tikhonov and cg take any)"
        expect(found is not None, "wiener", "operator", expected, op)
        assert found is not None
        given = weight(options.lam, "wiener")
        each = 2 if inverse.y.is_complex() else 1  # real numbers, with noise on each
        variance = each * inverse.noise**2 if inverse.noise else None
        w = likeliest(found, variance) if given is None else torch.full_like(likeliest(found, None), given)
        x = found.solve(w).to(x0.dtype)
        done = torch.ones_like(w, dtype=torch.bool)
        none = torch.zeros_like(w, dtype=torch.int64)
        if watch is not None:
            watch(1, 1, lambda: x, "filters")
        return Outcome(x, certificate(inverse, x, w, wrapped_laplacian, none, done, "closed form"))

    return run
