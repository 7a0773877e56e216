"""Partial Fourier measurements: single-coil, or multi-coil with sensitivity maps, as in magnetic resonance imaging."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.operators._given import of_parts, tensor_of
from fastrecon.operators._mask import each, fit, largest, mask_of
from fastrecon.operators.base import Diagonal, LinearOperator, itself
from fastrecon.ops import image_operator
from fastrecon.ops.by_image import each_image
from fastrecon.ops.image_operator import Parts
from fastrecon.ops.transforms import frequencies, planes

AXES = (-2, -1)
KINDS = "float32, float64, complex64 or complex128"
COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}  # of the numbers that it takes


class Fourier(LinearOperator):
    """y = m F(s x): complex images [B, 1, H, W] -> k-space [B, 1 or coils, H, W], full grid, zero where unsampled.

    F is the unitary two-dimensional Fourier transform, in complex64 or complex128; a real x is read as complex, and the
    gradient of a real x is the real part of what the adjoint gives.

    Args:
        mask: m, 1 where sampled and 0 elsewhere (or weights >= 0): [H, W], or one for each image [B, 1, H, W].
        centred: False: the zero frequency of mask and k-space lies at (0, 0). True: it lies in the middle, at
            (H // 2, W // 2). "both": so does the origin of the image, y = fftshift(fft2(ifftshift(x))), as in fastMRI,
            SigPy, BART and ISMRMRD, whose k-space otherwise gives images with their quarters swapped.
        sensitivities: s, complex maps [coils, H, W], or for each image [B, coils, H, W]; None for a single coil of
            sensitivity 1. A mask or maps that are an nn.Parameter are learned, of anything else a copy is kept.

    On the CPU an image has the bits it has alone; on a GPU transforms of a batch agree with those to rounding.

    Norm: the largest weight; with sensitivities there is no closed form, since the mask couples them, and at most the
    largest weight times the largest root of sum |s|^2.

    Raises:
        ValueError: shapes or types do not fit, or maps are not finite.
    """

    mask: Tensor
    sensitivities: Tensor | None
    complex_input = True
    per_image = ("mask", "sensitivities")

    def __init__(self, mask: Any, centred: bool | Literal["both"] = False, sensitivities: Any = None):
        super().__init__()
        known = isinstance(centred, bool | np.bool_) or (isinstance(centred, str) and centred == "both")
        expect(known, "Fourier", "centred", "True, False or 'both'", repr(centred))
        self.centred: bool | str = centred if isinstance(centred, str) else bool(centred)
        self.hold("mask", mask, mask_of(mask, "Fourier"))
        if sensitivities is None:
            self.sensitivities = None
            return
        h, w = self.mask.shape[-2:]
        expected = f"complex maps [coils, {h}, {w}] or [B, coils, {h}, {w}]"
        maps = tensor_of(sensitivities, "Fourier", "sensitivities", expected)
        fits = maps.is_complex() and maps.ndim in (3, 4) and maps.shape[-2:] == self.mask.shape[-2:]
        expect(fits and maps.shape[-3] > 0, "Fourier", "sensitivities", expected, maps)
        expect(bool(torch.isfinite(maps).all()), "Fourier", "sensitivities", "finite numbers", "NaN or Inf")
        self.hold("sensitivities", sensitivities, maps[None] if maps.ndim == 3 else maps)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves or converts masks and maps."""
        return super()._apply(of_parts(fn), recurse)

    def _maps(self, x: Tensor, argument: str) -> Tensor | None:
        """Sensitivities in the precision of x."""
        s = self.sensitivities
        if s is None:
            return None
        s = s[None] if s.ndim == 3 else s  # maps that are learned are kept as they came
        fits = s.shape[0] in (1, x.shape[0])
        expect(fits, "Fourier", argument, f"a batch of {s.shape[0]}, as the sensitivities", x)
        return s.to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """m F(s x)."""
        expect(x.ndim == 4 and x.shape[1] == 1, "Fourier", "x", "images [B, 1, H, W]", x)
        expect(x.dtype in COMPLEX or x.dtype in COMPLEX.values(), "Fourier", "x", KINDS, x)
        x = x.to(COMPLEX.get(x.dtype, x.dtype))
        mask, maps = fit(self.mask, x, "Fourier", "x"), self._maps(x, "x")
        if x.shape[0] == 0:  # transforms take no empty batch
            return x.expand(0, self._coils(), *x.shape[2:]).clone()
        if image_operator.alone(x, a := self._parts(mask, maps)):
            return image_operator.applied(x, a)
        to_k = self._to_k
        return mask * (each_image(to_k, x) if maps is None else each_image(lambda x, s: to_k(s * x), x, maps))

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """sum over coils of conj(s) F*(m y)."""
        coils = self._coils()
        fits = y.ndim == 4 and y.shape[1] == coils and y.dtype in COMPLEX.values()
        expect(fits, "Fourier", "y", f"complex k-space [B, {coils}, H, W], complex64 or complex128", y)
        mask, maps = fit(self.mask, y, "Fourier", "y"), self._maps(y, "y")
        self._same_size(size, y)
        if y.shape[0] == 0:  # not len, which fixes the batch of a traced graph
            return y[:, :1].clone()
        if image_operator.alone(y, a := self._parts(mask, maps)):
            return image_operator.applied(y, a, adjoint=True)
        k = mask * y
        if maps is None:
            return each_image(self._to_image, k)
        return each_image(lambda k, s: (s.conj() * self._to_image(k)).sum(1, keepdim=True), k, maps)

    def _parts(self, mask: Tensor, maps: Tensor | None) -> Parts:
        """What kernels take."""
        transform = image_operator.CENTRED if self.centred else image_operator.FOURIER
        return Parts(transform, mask, maps, None, self.centred == "both")

    def _to_k(self, x: Tensor) -> Tensor:
        """F x, where it is centred."""
        k = frequencies(torch.fft.ifftshift(x, AXES) if self.centred == "both" else x)
        return torch.fft.fftshift(k, AXES) if self.centred else k

    def _to_image(self, k: Tensor) -> Tensor:
        """F* k."""
        x = planes(torch.fft.ifftshift(k, AXES) if self.centred else k)
        return torch.fft.fftshift(x, AXES) if self.centred == "both" else x

    def diagonal(self, like: Tensor) -> Diagonal | None:
        """The mask, in k-space; None with sensitivities, which the mask couples. A real image counts as complex."""
        if self.sensitivities is not None:
            return None
        kind = COMPLEX.get(like.dtype, like.dtype)
        return Diagonal(
            transform=lambda x: each_image(self._to_k, x.to(kind)),
            inverse=lambda k: each_image(self._to_image, k),
            factors=fit(self.mask, like, "Fourier", "x"),
            measured=itself,
        )

    def spectrum(self, like: Tensor) -> Tensor | None:
        """The squared mask, of complex images and a single coil."""
        if self.sensitivities is not None or not like.is_complex():
            return None
        mask = fit(self.mask, like, "Fourier", "x").square()
        return torch.fft.ifftshift(mask, AXES) if self.centred else mask

    def stages(self) -> tuple[Parts] | None:
        """The transform; None of a subclass, which may do something else."""
        maps = self.sensitivities
        maps = maps[None] if maps is not None and maps.ndim == 3 else maps
        return (self._parts(each(self.mask), maps),) if type(self) is Fourier else None

    def _coils(self) -> int:
        return 1 if self.sensitivities is None else self.sensitivities.shape[-3]

    def _norm(self) -> float | None:
        return largest(self.mask) if self.sensitivities is None else None

    def bound(self, shape: Sequence[int]) -> float | Tensor:
        """The largest weight, with sensitivities times the largest root of sum |s|^2."""
        if self.sensitivities is None:
            return largest(self.mask)
        weight = each(self.mask.detach()).flatten(1).amax(1)
        maps = torch.view_as_real(self.sensitivities.detach().resolve_conj()).square().sum((-4, -1))
        maps = maps.flatten(-2).amax(-1).sqrt()
        return weight.double() * maps.double()

    def output_size(self, size: Sequence[int] | None) -> Sequence[int]:
        """(H, W) of the mask."""
        return self.mask.shape[-2:]

    def input_size(self, size: Sequence[int] | None = None) -> Sequence[int]:
        """(H, W) of the mask."""
        return self.mask.shape[-2:]
