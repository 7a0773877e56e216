"""The orthonormal periodised wavelet transform of images in several levels, and its inverse, which is its adjoint.

Along each axis a_k = sum_i g_i x_(2k+i-s), d_k = sum_i h_i x_(2k+i-s), s = L/2 - 1, indices modulo the length, with the
lowpass filter g of length L and h_i = (-1)^i g_(L-1-i): PyWavelets' mode "periodization". The coefficients lie in
Mallat's layout, approximation top left, in an array of the image's size (pywt.coeffs_to_array).
Source: Mallat, A Theory for Multiresolution Signal Decomposition, IEEE Trans. Pattern Anal. Mach. Intell. 11 (1989).
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastrecon.checks import expect, integer
from fastrecon.ops.function import Function
from fastrecon.ops.layout import DTYPES, alike, plain, shaped
from fastrecon.ops.wavelets import lowpass
from fastrecon.registry import compiled, define


def highpass(taps: Sequence[float]) -> list[float]:
    """h_i = (-1)^i g_(L-1-i)."""
    return [-t if i % 2 else t for i, t in enumerate(reversed(taps))]


def _analyse(x: Tensor, taps: Sequence[float], axis: int) -> Tensor:
    """One level along one axis: approximation, then details."""
    shift, even = len(taps) // 2 - 1, [slice(None)] * x.ndim
    even[axis] = slice(None, None, 2)
    shifted = [x.roll(shift - i, axis)[tuple(even)] for i in range(len(taps))]
    filters = (taps, highpass(taps))
    return torch.cat([sum(f[i] * s for i, s in enumerate(shifted)) for f in filters], axis)  # type: ignore[misc]


def _synthesise(c: Tensor, taps: Sequence[float], axis: int) -> Tensor:
    """The adjoint of `_analyse`."""
    shift, even = len(taps) // 2 - 1, [slice(None)] * c.ndim
    even[axis] = slice(None, None, 2)
    x = torch.zeros_like(c)
    for half, f in zip(c.chunk(2, axis), (taps, highpass(taps)), strict=True):
        spread = torch.zeros_like(c)
        spread[tuple(even)] = half
        x = x + sum(t * spread.roll(i - shift, axis) for i, t in enumerate(f))
    return x


def dwt2_ref(x: Tensor, taps: Sequence[float], level: int) -> Tensor:
    """The definition, x [P, H, W] with H and W multiples of 2^level: coefficients like x."""
    c = x.clone(memory_format=torch.contiguous_format)
    for scale in range(level):
        block = c[:, : x.shape[1] >> scale, : x.shape[2] >> scale]
        block.copy_(_analyse(_analyse(block, taps, 2), taps, 1))
    return c


def idwt2_ref(c: Tensor, taps: Sequence[float], level: int) -> Tensor:
    """The definition of the inverse, which is the adjoint: x like c."""
    x = c.clone(memory_format=torch.contiguous_format)
    for scale in reversed(range(level)):
        block = x[:, : c.shape[1] >> scale, : c.shape[2] >> scale]
        block.copy_(_synthesise(_synthesise(block, taps, 1), taps, 2))
    return x


def bands(size: tuple[int, int], level: int, device: torch.device) -> Tensor:
    """The band [H, W] of each coefficient: 0 the approximation, then the details from coarse (1) to fine (`level`)."""
    found = torch.zeros(size, dtype=torch.int64, device=device)
    for j in range(level):  # from fine to coarse: each corner overwrites
        found[: size[0] >> j, : size[1] >> j] = level - j
    found[: size[0] >> level, : size[1] >> level] = 0
    return found


@functools.lru_cache(maxsize=16)
def taps_tensor(taps: tuple[float, ...]) -> Tensor:
    """The taps as the C++ kernels read them."""
    return torch.tensor(taps, dtype=torch.float64, device="cpu")


def _transformed(kernel: Any, code: int, x: Tensor, taps: tuple[float, ...], level: int, *size: int) -> Tensor:
    out = torch.empty_like(x)
    kernel(code, x.data_ptr(), taps_tensor(taps).data_ptr(), out.data_ptr(), *size, len(taps), level)
    return out


def _cpu(name: str):
    def adapter(x: Tensor, taps: Sequence[float], level: int):
        if x.dtype not in DTYPES or x.numel() == 0 or level == 0:
            return NotImplemented
        return _transformed(getattr(compiled(), name), DTYPES[x.dtype], plain(x), tuple(taps), level, *x.shape)

    return adapter


_forward = define(
    "dwt2(Tensor x, float[] taps, int level) -> Tensor",
    "dwt2",
    ref=dwt2_ref,
    cpu=_cpu("dwt2"),
    fake=lambda x, taps, level: shaped(x),
)
_inverse = define(
    "idwt2(Tensor c, float[] taps, int level) -> Tensor",
    "dwt2",
    ref=idwt2_ref,
    cpu=_cpu("idwt2"),
    fake=lambda c, taps, level: shaped(c),
)


class DWT2(Function):
    """Planes [P, H, W] to coefficients, or back; the derivative is the other direction, so every order exists."""

    @staticmethod
    def definition(x, taps, level, back):  # noqa: D102
        return (idwt2_ref if back else dwt2_ref)(x, taps, level)

    @staticmethod
    def forward(x, taps, level, back):  # noqa: D102
        return (_inverse if back else _forward)(x, taps, level)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: D102
        _, ctx.taps, ctx.level, ctx.back = inputs

    @staticmethod
    def backward(ctx, d):  # noqa: D102
        return DWT2.call(d, ctx.taps, ctx.level, not ctx.back), None, None, None


def periodic(op: str, argument: str, x: Tensor, wavelet: str, level: int, back: bool) -> Tensor:
    """The transform of images [B, C, H, W] of the public function `op`, or back, with checked arguments."""
    taps = lowpass(wavelet)
    level = integer(level, op, "level", least=0)
    found = alike(1, x)
    if not (x.ndim == 4 and (found or x.is_floating_point() or x.is_complex())):
        expect(x.is_floating_point() or x.is_complex(), op, argument, "a real or complex tensor", x)
        expect(False, op, argument, "images [B, C, H, W]", x)
    _, channels, h, w = x.shape
    fits = level < 63 and h % (1 << level) == 0 and w % (1 << level) == 0  # no side has 63 levels
    if not fits:
        unit = 1 << level if level < 63 else f"2^{level}"
        expect(False, op, argument, f"height and width divisible by {unit} for {level} levels", f"{h}x{w}")
    if found and level > 0:
        code, batch, _ = found
        kernel = compiled().idwt2 if back else compiled().dwt2
        return _transformed(kernel, code, x, taps, level, batch * channels, h, w)
    planes, g = x.flatten(0, 1), list(taps)
    return DWT2.call(planes, g, level, back).view(x.shape)
