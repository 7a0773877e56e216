"""deepinv's wavelet and total-variation denoisers on fastrecon's kernels, with their arguments and results."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastrecon import ops
from fastrecon.adapters.deepinv._library import dinv
from fastrecon.checks import behind, choice, expect
from fastrecon.ops import wavelet_modes as modes
from fastrecon.ops.function import differentiated
from fastrecon.ops.layout import real_dtype
from fastrecon.ops.wavelet_shrinkage import Shrinkage, shrunk
from fastrecon.ops.wavelet_transform import PERIODIC

soft_threshold, prox_tv = behind(ops.soft_threshold), behind(ops.prox_tv)

TIGHTEST = 1e-6  # relative duality gap that float32 reaches


class WaveletDenoiser(dinv.models.WaveletDenoiser):
    """deepinv's WaveletDenoiser: shrinks detail coefficients, by one transform, one threshold and one inverse.

    With `mode` "zero", deepinv's own, its results are deepinv's to rounding. The default, "periodization", has as many
    coefficients as pixels and is faster still; with it and an orthonormal wavelet the result is the exact proximal map.

    Args:
        level, wv, device, non_linearity, is_complex: as of deepinv.
        mode: periodization, zero, symmetric, reflect, periodic, constant.
        wvdim: 2.

    Raises:
        ValueError: wvdim is 3, or the mode or the wavelet unknown.
    """

    def __init__(
        self, level: int = 3, wv: str = "db8", device: Any = "cpu", non_linearity: str = "soft", mode: str = PERIODIC,
        wvdim: int = 2, is_complex: bool = False,
    ):  # fmt: skip
        expect(wvdim == 2, "WaveletDenoiser", "wvdim", "2", wvdim)
        choice(mode, modes.MODES, "WaveletDenoiser", "mode")
        modes.bank(wv)
        super().__init__(level, wv, device, non_linearity, mode, wvdim, is_complex)

    def dwt(self, x: Tensor) -> list[Any]:
        """Coefficients [cA, [cH, cV, cD] of the coarsest level, ...]: of complex images details as real parts."""
        first, *details = modes.decompose(x, self.wv, self.level, self.mode)
        return [first, *([_parts(band) for band in bands] for bands in details)]

    def iwt(self, coeffs: Sequence[Any]) -> Tensor:
        """The image of coefficients."""
        first, *details = coeffs
        if first.is_complex():
            details = [tuple(map(torch.view_as_complex, bands)) for bands in details]
        return modes.recompose([first, *details], self.wv, self.mode)

    @staticmethod
    def psi(
        x: Tensor, wavelet: str = "db2", level: int = 2, dimension: int = 2, mode: str = PERIODIC
    ) -> list[Tensor]:  # fmt: skip
        """The detail coefficients of each band, [B, coefficients] each."""
        return [band.flatten(1) for details in modes.decompose(x, wavelet, level, mode)[1:] for band in details]

    def forward(self, x: Tensor, ths: Any = 0.1, **kwargs: Any) -> Tensor:
        """The denoised image: thresholds as of deepinv, one for all or for each image, level or band."""
        odd = self.mode != PERIODIC and any(n % 2 for n in x.shape[-2:])
        padded, padding = self.pad_input(x) if odd else (x, (0, 0))
        tau = self._simple(ths, padded)
        if tau is None or not self._kernel(padded.shape[-2:]):
            out = self.iwt(self.threshold_ND(self.dwt(padded), ths))
            return out[..., : padded.shape[-2] - padding[0], : padded.shape[-1] - padding[1]]
        plain = self.mode == "zero" and not (padded.is_complex() or differentiated(padded, tau))
        out = shrunk(padded, self._shrinkage(padded, tau)) if plain else self._shrunk(padded, tau)
        return self.crop_output(out, padding) if any(padding) else out

    def shrinkage(self, x: Tensor, ths: Any) -> Shrinkage | None:
        """This map of real images like x as one of the kernel's; None where it is none, or is to be differentiated."""
        if self.mode != "zero" or x.is_complex() or any(n % 2 for n in x.shape[-2:]):
            return None
        tau = self._simple(ths, x)
        if tau is None or not self._kernel(x.shape[-2:]) or differentiated(x, tau):
            return None
        return self._shrinkage(x, tau)

    def _shrinkage(self, x: Tensor, tau: Tensor | float) -> Shrinkage:
        each = tau.reshape(-1).expand(len(x)) if isinstance(tau, Tensor) else x.new_full((len(x),), tau)
        return Shrinkage(each, modes.bank(self.wv).low, self.level)

    def _simple(self, ths: Any, x: Tensor) -> Tensor | float | None:
        """|ths| where it is one for all, or one for each image; None where it varies otherwise."""
        if self.non_linearity != "soft" or self.level < 1:
            return None
        if isinstance(ths, int | float):
            return abs(float(ths))
        if not isinstance(ths, Tensor):
            return None
        if ths.numel() == 1:
            return ths.abs().reshape(1, 1, 1, 1).to(x.device, real_dtype(x))
        each = len(x) > 1 and ths.numel() == len(x) == ths.shape[0]
        return ths.abs().reshape(-1, 1, 1, 1).to(x.device, real_dtype(x)) if each else None

    def _kernel(self, size: Sequence[int]) -> bool:
        """Whether all levels are one call of the kernel of `dwt2`."""
        whole = all(n % (1 << self.level) == 0 for n in size)
        return modes.bank(self.wv).orthonormal and (self.mode == "zero" or (self.mode == PERIODIC and whole))

    def _shrunk(self, x: Tensor, tau: Tensor | float) -> Tensor:
        """The synthesis of shrunk coefficients; zeros around the image have coefficients that are 0 and stay 0."""
        f, level, size = modes.bank(self.wv), self.level, x.shape[-2:]
        taps = len(f.low)
        c = modes.planes(modes.framed(x, taps, level) if self.mode == "zero" else x, f, level, False)
        h, w = (n >> level for n in c.shape[-2:])
        parts, tau = _parts(c), tau[..., None] if c.is_complex() and isinstance(tau, Tensor) else tau
        if differentiated(parts, tau):
            details = parts.new_ones(parts.shape[2:])
            details[:h, :w] = 0
            shrunk = soft_threshold(parts, tau * details)
        else:
            shrunk = soft_threshold(parts, tau)
            shrunk[:, :, :h, :w] = parts[:, :, :h, :w]
        shrunk = torch.view_as_complex(shrunk) if c.is_complex() else shrunk
        out = modes.planes(shrunk, f, level, True)
        return modes.unframed(out, taps, level, size) if self.mode == "zero" else out


class TVDenoiser(dinv.models.TVDenoiser):
    """deepinv's TVDenoiser: the proximal map of total variation, each image to a duality gap of its own.

    Args:
        crit: an image is done once its gap is so small a part of its objective; float32 reaches 1e-6, where deepinv's
            own iterations stop moving.
        n_it_max: at most so many iterations.
        verbose, tau, rho, x2, u2, ths: as of deepinv; only `ths` has a meaning here.
    """

    def __init__(
        self, verbose: bool = False, tau: float = 0.01, rho: float = 1.99, n_it_max: int = 1000, crit: float = 1e-5,
        x2: Tensor | None = None, u2: Tensor | None = None, ths: Any = None,
    ):  # fmt: skip
        super().__init__(verbose, tau, rho, n_it_max, crit, x2, u2, ths)
        self.dual: Tensor | None = None  # of the last call: a warm start of the next

    def forward(self, y: Tensor, ths: Any = None, **kwargs: Any) -> Tensor:
        """argmin_x |x - y|^2 / 2 + ths TV(x); where gradients are asked for, deepinv's iterations, which have them."""
        ths = self.ths if ths is None else ths
        if y.ndim != 4 or differentiated(y, ths):
            return super().forward(y, ths, **kwargs)
        expect(ths is not None, "TVDenoiser", "ths", "a number or one for each image", None)
        weight = ths.reshape(-1).expand(len(y)).to(y.device) if isinstance(ths, Tensor) else float(ths)
        wide = torch.promote_types(real_dtype(y), torch.float32)
        tol = max(self.crit, TIGHTEST) if wide == torch.float32 else self.crit
        dual = self.dual if self.dual is not None and self._fits(self.dual, y) else None
        found = prox_tv(y.contiguous(), weight, dual=dual, tol=tol, iterations=self.n_it_max)
        self.dual = found.dual
        return found.x

    @staticmethod
    def _fits(dual: Tensor, y: Tensor) -> bool:
        shape = (*y.shape[:2], 2, *y.shape[2:])
        return dual.shape == shape and dual.dtype == y.dtype and dual.device == y.device


def _parts(c: Tensor) -> Tensor:
    """Complex numbers as two real ones, which deepinv shrinks on their own."""
    return torch.view_as_real(c.contiguous()) if c.is_complex() else c
