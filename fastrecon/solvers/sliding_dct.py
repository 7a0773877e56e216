"""Method "dct": images whose 8x8 patches are sparse in the cosine transform, wherever the patches lie.

Half-quadratic splitting: x = argmin w |A x - y|^2 / 2 + |x - z|^2 / 2, then z = the patches of x, thresholded and put
together again, while the threshold falls from that of large structures to that of the noise. What is left of the noise
at the end is shrunk in two stages, the second a Wiener filter by the spectrum of the first. No fixed objective is
minimised, as the report says.

Source: Guleryuz, Nonlinear Approximation Based Image Recovery Using Adaptive Sparse Reconstructions and Iterated
Denoising, IEEE Trans. Image Process. 15 (2006); the two stages and the weights of patches: Dabov et al., Image
Denoising by Sparse 3-D Transform-Domain Collaborative Filtering, IEEE Trans. Image Process. 16 (2007).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, pad

from fastrecon.certificates import MisfitReport, Status
from fastrecon.noise import estimate
from fastrecon.operators.base import LinearOperator, keeps_norms
from fastrecon.ops.by_image import each_image
from fastrecon.ops.layout import real_dtype
from fastrecon.ops.reductions import sum_of_squares
from fastrecon.ops.sparse_patches import cosine_filters
from fastrecon.options import check, option
from fastrecon.solvers.base import Row, column, iterate, where
from fastrecon.solvers.linear import gain, smooth
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, method
from fastrecon.terms import LeastSquares

ENDED = "thresholds came down to the noise: no fixed objective is minimised"
FIRST, FAINT = 0.1, 3e-3  # noise of the first iterations, and the least of the last; images about [0, 1]
PULL = 0.25  # of the patches on the image, in units of the noise
HARD = 2.7  # thresholds in units of the noise: keeps one of 150 coefficients of noise alone
SOFTER, LEFT = 2.2, 0.8  # the same of iterations; noise that is left after them, in units of that which was
FEW, MANY = 30, 80  # iterations with noise and without: the finer the end, the more
INEXACT = {"tol": 1e-3, "iterations": 4}  # conjugate gradients of an iteration: the next goes on from there


_basis = lru_cache(maxsize=8)(cosine_filters)


class Patches:
    """Shrinkage of the patches of real images [B, 1, H, W], mirrored at their edges.

    Args:
        like: the images.
        side: of the patches, or less where images are smaller.
    """

    def __init__(self, like: Tensor, side: int = 8):
        self.h, self.w = (min(side, n) for n in like.shape[-2:])
        self.filters = _basis(self.h, self.w).to(like)

    def threshold(self, x: Tensor, t: Tensor, step: int = 1, offset: tuple[int, int] = (0, 0)) -> Tensor:
        """Coefficients beyond t [B] kept; patches lie `step` apart, and count the more the fewer they keep."""

        def one(x: Tensor, t: Tensor) -> Tensor:
            c = self._analysis(x, step, offset)
            keep = c.abs() > t
            keep[:, 0] = True
            return self._synthesis(c * keep, 1 / keep.sum(1, keepdim=True).to(c), step, offset, x)

        return each_image(one, x, column(t, x))

    def wiener(self, x: Tensor, pilot: Tensor, sigma: Tensor, step: int = 1) -> Tensor:
        """Coefficients c times p^2 / (p^2 + sigma^2), p those of `pilot`; noise sigma [B]."""

        def one(x: Tensor, pilot: Tensor, sigma: Tensor) -> Tensor:
            power = self._analysis(pilot, step, (0, 0)).square()
            share = power / (power + sigma.square()).clamp_min(torch.finfo(x.dtype).tiny)
            share[:, 0] = 1
            weight = 1 / share.square().sum(1, keepdim=True)
            return self._synthesis(share * self._analysis(x, step, (0, 0)), weight, step, (0, 0), x)

        return each_image(one, x, pilot, column(sigma, x))

    def denoised(self, x: Tensor, sigma: Tensor, step: int = 1) -> Tensor:
        """Images without white noise of deviation sigma [B]: thresholds first, then a Wiener filter."""
        return self.wiener(x, self.threshold(x, HARD * sigma, step), sigma, step)

    def _analysis(self, x: Tensor, step: int, offset: tuple[int, int]) -> Tensor:
        a, b = self.h - 1, self.w - 1
        return conv2d(pad(x, (b, b, a, a), mode="reflect")[..., offset[0] :, offset[1] :], self.filters, stride=step)

    def _synthesis(self, c: Tensor, weight: Tensor, step: int, offset: tuple[int, int], like: Tensor) -> Tensor:
        total = conv_transpose2d(weight * c, self.filters, stride=step)
        share = conv_transpose2d(weight, torch.ones_like(self.filters[:1]), stride=step)
        top, left, (h, w) = self.h - 1 - offset[0], self.w - 1 - offset[1], like.shape[-2:]
        return (total / share)[..., top : top + h, left : left + w]


@dataclass(frozen=True)
class SplittingState:
    """Where the splitting stands, per image."""

    z: Tensor  # [B, ...] put together from patches
    x: Tensor  # near z and the measurements
    misfit: Tensor  # [B] |A x - y| float64


class SlidingDCT:
    """The splitting for images [B, C, H, W], real or complex as y is; channels, real and imaginary parts on their own.

    Args:
        operator: A.
        y: measurements [B, ...].
        noise: standard deviation of each real number of y, a number or [B]; 0: as little as makes no difference. None:
            not known, of an A that keeps images as they are estimated, else taken for 0.
        norm: a bound of |A|; None: it is found out.
        side: of the patches.
        strength: times all thresholds.
        seed: of the places of the patches.
    """

    def __init__(
        self, operator: LinearOperator, y: Tensor, noise: float | Tensor | None, norm: float | None = None,
        side: int = 8, strength: float = 1.0, seed: int = 0,
    ):  # fmt: skip
        self.operator, self.y, self.noise, self.norm = operator, y, 0.0 if noise is None else noise, norm
        self.known = noise is not None
        self.side, self.strength, self.seed = side, strength, seed

    def run(
        self, x0: Tensor, iterations: int, callback: Callable[[int, SplittingState], object] | None = None
    ) -> tuple[Tensor, MisfitReport]:
        """Images from a start x0 [B, C, H, W], and the report."""
        if self._direct:  # noise on images as they are: nothing to split
            x = self.operator.apply_adjoint(self.y, x0.shape[-2:])
            last = self._levels(x0)[1] if self.known else estimate(x.real if x.is_complex() else x)
            found = parts(lambda t, v: self._patches(x0).denoised(t, self.strength * v), x, last)
            return found, self._report(found, None)
        x, history = self.split(x0, iterations, callback)
        left = torch.as_tensor(self.noise, device=x.device).expand(len(x)) > 0
        if bool(left.any()):
            patches, last = self._patches(x0), self._levels(x0)[1]
            step = max(1, self._spacing(patches) // 2)
            x = where(left, parts(lambda t, v: patches.denoised(t, LEFT * self.strength * v, step), x, last), x)
        return x, self._report(x, history)

    def split(
        self, x0: Tensor, iterations: int, callback: Callable[[int, SplittingState], object] | None = None
    ) -> tuple[Tensor, Row | None]:
        """Images near measurements and patches, after so many iterations of the splitting from x0 [B, C, H, W], and
        rows of its history; what noise is in them is left there."""
        first, last = self._levels(x0)
        size, fidelity, patches = self._gain(x0), LeastSquares(self.operator, self.y, **INEXACT), self._patches(x0)
        spacing = self._spacing(patches)
        generator = torch.Generator().manual_seed(self.seed)
        places = torch.randint(spacing, (max(iterations, 1), 2), generator=generator).tolist()

        def level(k: int) -> Tensor:
            return first * (last / first) ** (k / max(iterations - 1, 1))

        def near(z: Tensor, k: int) -> Tensor:
            # both levels are per image; the quotient is that of the noise of z and of y in units of the image
            return fidelity.prox(z, (level(k) / last).square() / (PULL * size**2) if size > 0 else 0.0)

        def step(s: SplittingState, k: int) -> SplittingState:
            x = near(s.z, k)
            offset = (places[k][0], places[k][1])
            z = parts(lambda t, v: patches.threshold(t, SOFTER * self.strength * v, spacing, offset), x, level(k))
            return SplittingState(z, x, self._misfit(x))

        ran = iterate(
            step, SplittingState(x0, x0, self._misfit(x0)), iterations, row=lambda s: {"misfit": s.misfit},
            callback=callback,
        )  # fmt: skip
        return near(ran.state.z, iterations - 1), ran.history

    def _gain(self, x0: Tensor) -> float:
        if self.norm is None:
            self.norm = gain(self.operator, x0, None)
        return self.norm

    def _patches(self, x0: Tensor) -> Patches:
        return Patches(x0.real if x0.is_complex() else x0, self.side)

    def _spacing(self, patches: Patches) -> int:
        return max(1, min(patches.h, patches.w) // 2)

    def _levels(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Noise of the first and of the last iteration, [B] each."""
        peak = x0.abs().flatten(1).amax(1).double().clamp_min(torch.finfo(torch.float32).tiny)
        size = self._gain(x0)
        last = (self.noise / size if size > 0 else 0.0) + 0 * peak
        last = torch.maximum(last, FAINT * peak) if not self._direct else last
        return torch.maximum(FIRST * peak, last), last

    @property
    def _direct(self) -> bool:
        return keeps_norms(self.operator) and keeps_norms(self.operator, adjoint=True)

    def _misfit(self, x: Tensor) -> Tensor:
        return sum_of_squares(self.operator.forward(x) - self.y).sqrt()

    def _report(self, x: Tensor, history: dict[str, Tensor] | None) -> MisfitReport:
        misfit, size = self._misfit(x), sum_of_squares(self.y).sqrt()
        never, finite = torch.zeros_like(misfit, dtype=torch.bool), torch.isfinite(misfit)
        relative = misfit / size.clamp_min(torch.finfo(torch.float64).tiny)
        return MisfitReport(misfit, relative, never, Status(ENDED, never, finite), history)


def parts(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, level: Tensor) -> Tensor:
    """function(planes [N, 1, H, W], level [N]) of every channel, of real and imaginary parts on their own."""
    if x.is_complex():
        real, imaginary = (parts(function, t.contiguous(), level) for t in (x.real, x.imag))
        return torch.complex(real, imaginary)
    channels = x.shape[1]
    level = level.repeat_interleave(channels).to(real_dtype(x))
    return function(x.reshape(-1, 1, *x.shape[-2:]), level).view(x.shape)


@dataclass(frozen=True)
class SlidingDCTOptions:
    """Options of method "dct"."""

    iterations: int | None = option(
        f"iterations; default: {FEW} with noise, {MANY} without, none where noise is all there is", None,
        within="[1, 1e6]", type=int,
    )  # fmt: skip
    strength: float = option("times all thresholds", 1.0, within="[0, 100]", type=float)
    patch: int = option("side of the patches in pixels", 8, within="[1, 64]", type=int)
    patch_seed: int = option("of the places of the patches", 0, within="[0, 1e9]", type=int)

    def __post_init__(self):
        check(self, "dct")


@method("dct", SlidingDCTOptions, "patches sparse in the cosine transform, at every place: no certificate")
def sliding_dct(options: SlidingDCTOptions, device: torch.device) -> Runner:
    """Images [B, C, H, W], real or complex as y is."""

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        solver = SlidingDCT(
            inverse.operator, inverse.y, inverse.noise, inverse.norm, options.patch, options.strength,
            options.patch_seed,
        )  # fmt: skip
        count = options.iterations or (FEW if inverse.noise else MANY)

        def tell(k: int, s: Any) -> None:
            if watch is not None:
                watch(k, count, lambda: s.z)

        x, report = solver.run(smooth(inverse), count, tell)
        return Outcome(x, report)

    return run
