"""Operators that compiled iterations know, A of images x [B, C, H, W], and what the kernels make of them alone.

    MASK     m x                 m [1 or B, 1, H, W] real
    FOURIER  m F (s x)           x complex, C = 1, F unitary; maps s [1 or B, coils, H, W], or none
    CENTRED  the same, with the zero frequency of mask and measurements in the middle, at (H // 2, W // 2)
    BLUR     F* (m F x)          x real and filled up with zeros to `size`; m [1 or B, 1, U, V / 2 + 1] complex

Where an operator is applied for itself, by the functions here, it has the bits that it has in iterations.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastrecon import registry
from fastrecon.ops import transforms
from fastrecon.ops.function import differentiated, past_dispatcher
from fastrecon.ops.layout import DTYPES, plain, real_dtype

MASK, FOURIER, BLUR, CENTRED = range(4)  # codes of csrc/image_operator.h

AXES = (-2, -1)


@dataclass(frozen=True)
class Parts:
    """What an operator is made of.

    Attributes:
        transform: MASK, FOURIER, CENTRED or BLUR.
        mask: m, above.
        maps: s, above.
        size: (U, V) of the transform.
        centred: of a Fourier transform: whether the origin of the image lies in its middle, too.
    """

    transform: int
    mask: Tensor
    maps: Tensor | None = None
    size: tuple[int, int] | None = None
    centred: bool = False


def measured(x: Tensor, a: Parts) -> Tensor:
    """The definition of A x."""
    if a.transform == MASK:
        return x * a.mask
    if a.transform in (FOURIER, CENTRED):
        x = x if a.maps is None else a.maps * x
        k = torch.fft.fft2(torch.fft.ifftshift(x, AXES) if a.centred else x, norm="ortho")
        return a.mask * (torch.fft.fftshift(k, AXES) if a.transform == CENTRED else k)
    return _convolved(x, a.mask, a)


def back(y: Tensor, a: Parts) -> Tensor:
    """The definition of the adjoint at y."""
    if a.transform == MASK:
        return y * a.mask
    if a.transform in (FOURIER, CENTRED):
        k = a.mask * y
        x = torch.fft.ifft2(torch.fft.ifftshift(k, AXES) if a.transform == CENTRED else k, norm="ortho")
        x = torch.fft.fftshift(x, AXES) if a.centred else x
        return x if a.maps is None else (a.maps.conj() * x).sum(1, keepdim=True)
    return _convolved(y, a.mask.conj(), a)


def _convolved(x: Tensor, transfer: Tensor, a: Parts) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(x, s=a.size) * transfer, s=a.size)[..., : x.shape[-2], : x.shape[-1]]


def usable(x: Tensor, a: Parts) -> bool:
    """Whether the C++ kernels can serve images like x."""
    if x.device.type != "cpu" or x.dtype not in DTYPES or x.numel() == 0:
        return False
    if a.transform != MASK and x.is_complex() != (a.transform in (FOURIER, CENTRED)):
        return False
    if not registry.kernels():
        return False
    return a.transform == MASK or transforms.plan(_size(x, a), x.dtype) is not None


def alone(x: Tensor, a: Parts) -> bool:
    """Whether `applied` can serve them: nothing is differentiated, traced or transformed."""
    return past_dispatcher() and not differentiated(x, a.mask, a.maps) and usable(x, a)


def _size(x: Tensor, a: Parts) -> tuple[int, int]:
    return a.size or (x.shape[-2], x.shape[-1])


def arguments(x: Tensor, a: Parts) -> tuple[Tensor, Tensor | None, Any]:
    """Mask, maps and plan as the kernels take them, for numbers like x of images of `size`, or of its own."""
    kind = x.dtype.to_complex() if a.transform == BLUR else real_dtype(x)
    maps = None if a.maps is None else plain(a.maps.to(x.dtype))
    return plain(a.mask.to(kind)), maps, transforms.plan(_size(x, a), x.dtype) if a.transform != MASK else None


def per_image(t: Tensor | None) -> int:
    """Numbers between images of [B, ...]; 0 of one for all."""
    return 0 if t is None or len(t) == 1 else t[0].numel()


def applied(t: Tensor, a: Parts, adjoint: bool = False) -> Tensor:
    """A t, or the adjoint at t, by the kernels; nothing is differentiated."""
    t = plain(t)
    mask, maps, plan = arguments(t, a)
    batch, channels, *size = t.shape
    coils = 0 if maps is None else maps.shape[1]
    out = t.new_empty(batch, (1 if adjoint else coils) if coils else channels, *size)
    x, y = (out, t) if adjoint else (t, out)
    table = mask if plan is None else plan.table
    registry.compiled().image_operator(
        DTYPES[t.dtype], a.transform, x.data_ptr(), y.data_ptr(), mask.data_ptr(),
        (mask if maps is None else maps).data_ptr(), table.data_ptr(), batch, x.shape[1], *size, coils, per_image(mask),
        per_image(maps), a.centred, adjoint,
    )  # fmt: skip
    return out
