"""Proximal gradient descent on images whose proximal map S shrinks wavelet details, many iterations in a call.

    u = T* (f . T v) + b,  x+ = S(u),  v+ = x+ + momentum (x+ - x)

T is the identity or the Fourier transform of real images, f real numbers: x - step A* (A x - y) of masks and circular
blurs. S is by levels of an orthonormal wavelet on the image with zeros around it (boundary "zero"): the details are
shrunk, the approximation goes to the next level, which puts its own zeros around it. The C++ kernel keeps an image in
its core's cache for all iterations; where there is none the definitions below serve. Nothing is differentiated here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrecon import registry
from fastrecon.ops import transforms
from fastrecon.ops import wavelet_modes as modes
from fastrecon.ops.dwt2 import DWT2, taps_tensor
from fastrecon.ops.function import past_dispatcher
from fastrecon.ops.image_operator import BLUR, MASK
from fastrecon.ops.layout import DTYPES, plain
from fastrecon.ops.soft_threshold import SoftThreshold

NONE = -1  # csrc/wavelet_shrinkage.cpp: S alone


@dataclass(frozen=True)
class Shrinkage:
    """S: thresholds tau [B], the wavelet's lowpass filter, and its levels, >= 1."""

    tau: Tensor
    taps: tuple[float, ...]
    level: int


@dataclass(frozen=True)
class Affine:
    """u of v.

    Attributes:
        transform: MASK: T is the identity; BLUR: the Fourier transform.
        factors: f [1 or B, 1, H, W], of BLUR [1 or B, 1, H, W // 2 + 1], real.
        shift: b, like images.
    """

    transform: int
    factors: Tensor
    shift: Tensor


def usable(x: Tensor, transform: int = NONE) -> bool:
    """Whether the C++ kernel can serve images like x."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or x.ndim != 4 or x.numel() == 0:
        return False
    if not past_dispatcher():
        return False
    return transform != BLUR or transforms.plan((x.shape[-2], x.shape[-1]), x.dtype) is not None


def shrunk(u: Tensor, s: Shrinkage) -> Tensor:
    """S(u) of real images [B, C, H, W]."""
    if u.numel() == 0:
        return own(u)
    if not usable(u):
        planes = u.reshape(-1, *u.shape[-2:])
        return _level(planes, s.tau.repeat_interleave(u.shape[1]), s.taps, s.level).reshape(u.shape)
    x = own(u)
    _call(x, x, None, s, None, 1)
    return x


def iterated(
    x: Tensor, v: Tensor, a: Affine, s: Shrinkage, iterations: int, momentum: Sequence[float] | None = None
) -> tuple[Tensor, Tensor]:
    """x and v after so many iterations of real images [B, C, H, W], which stay as they are.

    Args:
        x, v: the iterates; without momentum v is not read.
        a, s: above.
        iterations: how many, >= 1.
        momentum: of each iteration. None: v is x, and what is returned for it is the last u.
    """
    if not usable(x, a.transform):
        for k in range(iterations):
            u = _moved(x if momentum is None else v, a)
            before, x = x, shrunk(u, s)
            v = u if momentum is None else x + momentum[k] * (x - before)
        return x, v
    x = own(x)
    v = torch.empty_like(x) if momentum is None else own(v)
    _call(x, v, a, s, momentum, iterations)
    return x, v


def own(t: Tensor) -> Tensor:
    """A copy of real images, contiguous."""
    return t.resolve_neg().clone(memory_format=torch.contiguous_format)


def _call(
    x: Tensor, v: Tensor, a: Affine | None, s: Shrinkage, momentum: Sequence[float] | None, iterations: int
) -> None:  # fmt: skip
    plan = None
    if a is not None and a.transform == BLUR:
        plan = transforms.plan((x.shape[-2], x.shape[-1]), x.dtype)
    factors, shift = (x, x) if a is None else (plain(a.factors.to(x.dtype)), plain(a.shift))
    weights = torch.tensor(momentum or [0.0], dtype=torch.float64, device="cpu")
    tau, g = plain(s.tau.to(x.dtype)), taps_tensor(tuple(s.taps))
    registry.compiled().wavelet_shrinkage(
        DTYPES[x.dtype], NONE if a is None else a.transform, x.data_ptr(), v.data_ptr(), factors.data_ptr(),
        shift.data_ptr(), tau.data_ptr(), weights.data_ptr(), g.data_ptr(),
        (weights if plan is None else plan.table).data_ptr(), *x.shape,
        factors[0].numel() if a is not None and len(factors) > 1 else 0, len(s.taps), s.level, iterations,
        momentum is not None,
    )  # fmt: skip


def _moved(v: Tensor, a: Affine) -> Tensor:
    if a.transform == MASK:
        return a.factors * v + a.shift
    return torch.fft.irfft2(a.factors * torch.fft.rfft2(v), s=v.shape[-2:]) + a.shift


def _level(x: Tensor, tau: Tensor, taps: tuple[float, ...], level: int) -> Tensor:
    """The definition of S, of planes [P, H, W] with thresholds [P]."""
    c = DWT2.call(modes.framed(x, len(taps), 1), taps, 1, False)
    h, w = (modes.count(n, len(taps), "zero") for n in x.shape[-2:])
    low, details = c[:, :h, :w], SoftThreshold.call(c.view(1, len(c), -1), tau).view(c.shape)
    details[:, :h, :w] = _level(low, tau, taps, level - 1) if level > 1 else low
    return modes.unframed(DWT2.call(details, taps, 1, True), len(taps), 1, x.shape[-2:])
