"""Partial Fourier measurements: single-coil, or multi-coil with sensitivity maps, as in magnetic resonance imaging."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.operators.base import LinearOperator
from fastrecon.operators.masks_of import fit, mask_of

AXES = (-2, -1)


class Fourier(LinearOperator):
    """y = m F(s x): complex images [B, 1, H, W] -> k-space [B, 1 or coils, H, W], full grid, zero where unsampled.

    F is the unitary two-dimensional Fourier transform, in complex64 or complex128; a real x is read as complex, and the
    gradient of a real x is the real part of what the adjoint gives.

    Args:
        mask: m, 1 where sampled and 0 elsewhere (or weights >= 0): [H, W], or one for each image [B, 1, H, W].
        centred: whether the zero frequency of mask and k-space lies in the middle, at (H // 2, W // 2); else at (0, 0).
        sensitivities: s, complex maps [coils, H, W], or for each image [B, coils, H, W]; None for a single coil of
            sensitivity 1.

    Norm: the largest weight; with sensitivities there is no closed form, since the mask couples them, and at most the
    largest weight times the largest root of sum |s|^2.

    Raises:
        ValueError: shapes do not fit.
    """

    mask: Tensor
    sensitivities: Tensor | None
    complex_input = True

    def __init__(self, mask: Any, centred: bool = False, sensitivities: Any = None):
        super().__init__()
        self.centred = centred
        self.register_buffer("mask", mask_of(mask, "Fourier"))
        if sensitivities is None:
            self.sensitivities = None
            return
        maps = torch.as_tensor(sensitivities)
        fits = maps.is_complex() and maps.ndim in (3, 4) and maps.shape[-2:] == self.mask.shape[-2:]
        h, w = self.mask.shape[-2:]
        expected = f"complex maps [coils, {h}, {w}] or [B, coils, {h}, {w}]"
        expect(fits, "Fourier", "sensitivities", expected, maps)
        self.register_buffer("sensitivities", (maps[None] if maps.ndim == 3 else maps).contiguous())

    def _maps(self, x: Tensor, argument: str) -> Tensor | None:
        """Sensitivities in the precision of x."""
        s = self.sensitivities
        if s is None:
            return None
        expect(s.shape[0] in (1, x.shape[0]), "Fourier", argument, f"a batch of {len(s)}, as the sensitivities", x)
        return s.to(x.dtype)

    def _forward(self, x: Tensor) -> Tensor:
        expect(x.ndim == 4 and x.shape[1] == 1, "Fourier", "x", "images [B, 1, H, W]", x)
        if not x.is_complex():
            x = x.to(torch.promote_types(x.dtype, torch.complex32))  # torch.compile knows no to_complex
        mask, maps = fit(self.mask, x, "Fourier", "x"), self._maps(x, "x")
        k = torch.fft.fft2(x if maps is None else maps * x, norm="ortho")
        return mask * (torch.fft.fftshift(k, AXES) if self.centred else k)

    def _adjoint(self, y: Tensor, size: Sequence[int] | None) -> Tensor:
        coils = 1 if self.sensitivities is None else self.sensitivities.shape[1]
        fits = y.ndim == 4 and y.shape[1] == coils and y.is_complex()
        expect(fits, "Fourier", "y", f"complex k-space [B, {coils}, H, W]", y)
        k, maps = fit(self.mask, y, "Fourier", "y") * y, self._maps(y, "y")
        x = torch.fft.ifft2(torch.fft.ifftshift(k, AXES) if self.centred else k, norm="ortho")
        return x if maps is None else (maps.conj() * x).sum(1, keepdim=True)

    def _norm(self) -> float | None:
        return self.mask.max().item() if self.sensitivities is None else None
