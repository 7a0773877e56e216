"""Separable wavelet transforms of images with the boundaries of PyWavelets, for any of its discrete wavelets.

Along each axis of n numbers the image is continued beyond its ends to e, and with filters of length L

    a_k = sum_i g_i e_(2k+i),  d_k = sum_i h_i e_(2k+i),   k = 0 ... K - 1,  K = (n + L - 1) // 2,

e_0 lying L - 2 before the first number; "periodization" has K = ceil(n / 2) and e_0 at L/2 - 1 before it. g and h are
PyWavelets' decomposition filters, reversed. The inverse spreads a and d with its reconstruction filters and keeps what
lies in the image; the adjoint spreads them with g and h, and folds what lies beyond back to where it came from.

Orthonormal wavelets run on the kernel of `dwt2`, one level at a time on continued images; with "zero" in one go, as
the transform of an image with zeros around it is the same at all levels. What is not orthonormal is plain PyTorch.
"""

import functools
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from fastrecon.checks import expect
from fastrecon.ops.dwt2 import DWT2
from fastrecon.ops.wavelets import FAMILIES, lowpass

# how numpy.pad continues; "zero" and "periodization" are made here
CONTINUED = {"symmetric": "symmetric", "reflect": "reflect", "periodic": "wrap", "constant": "edge"}
MODES = ("periodization", "zero", *CONTINUED)
Details = tuple[Tensor, Tensor, Tensor]  # cH, cV, cD: of rows, of columns, of both
Coefficients = list[Any]  # [cA, (cH, cV, cD) of the coarsest level, ..., those of the finest]


class Bank(NamedTuple):
    """The filters of a wavelet, decomposition reversed, and whether the kernel of `dwt2` knows it."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    rec_low: tuple[float, ...]
    rec_high: tuple[float, ...]
    orthonormal: bool


@functools.cache
def bank(name: str) -> Bank:
    """The filters of the wavelet `name` of PyWavelets.

    Raises:
        ValueError: there is no such discrete wavelet.
        ModuleNotFoundError: PyWavelets is not installed.
    """
    pywt: Any = import_module("pywt")
    known = isinstance(name, str) and name in pywt.wavelist(kind="discrete")
    expect(known, "dwt2", "wavelet", f"a discrete wavelet of PyWavelets ({FAMILIES}, bior1.1, ...)", repr(name))
    w = pywt.Wavelet(name)
    filters = (w.dec_lo[::-1], w.dec_hi[::-1], w.rec_lo, w.rec_hi)
    try:
        lowpass(name)
        orthonormal = True
    except ValueError:
        orthonormal = False
    return Bank(*(tuple(map(float, f)) for f in filters), orthonormal=orthonormal)


def count(n: int, taps: int, mode: str) -> int:
    """K, coefficients of each kind along an axis of n numbers."""
    return (n + 1) // 2 if mode == "periodization" else (n + taps - 1) // 2


@functools.lru_cache(maxsize=256)
def _places(n: int, taps: int, mode: str, odd: int) -> np.ndarray:
    """Where each number of e, `odd` more before it, comes from: its place in the image, -1 for a zero."""
    k = count(n, taps, mode)
    if mode == "periodization":
        even = np.minimum(np.arange(2 * k), n - 1)  # an odd length repeats its last number
        return even[(np.arange(2 * k + taps - 2 + 2 * odd) - (taps // 2 - 1) - odd) % (2 * k)]
    before, after = taps - 2 + odd, 2 * k - n + odd
    if mode == "zero":
        return np.pad(np.arange(n), (before, after), constant_values=-1)
    return np.pad(np.arange(n), (before, after), mode=CONTINUED[mode])  # type: ignore[call-overload]


def _continued(x: Tensor, axis: int, taps: int, mode: str, odd: int = 0) -> Tensor:
    places = torch.from_numpy(_places(x.shape[axis], taps, mode, odd)).to(x.device)
    e = x.index_select(axis, places.clamp_min(0))
    return e if mode != "zero" else e * (places >= 0).to(x.dtype).view(-1, *[1] * (-axis - 1))


def _folded(e: Tensor, axis: int, n: int, taps: int, mode: str) -> Tensor:
    """The adjoint of `_continued`."""
    places = torch.from_numpy(_places(n, taps, mode, 0)).to(e.device)
    if mode == "zero":
        inside = (places >= 0).nonzero().flatten()
        return e.narrow(axis, int(inside[0]), n)
    shape = list(e.shape)
    shape[axis] = n
    return e.new_zeros(shape).index_add(axis, places, e)


def _correlated(e: Tensor, axis: int, taps: Sequence[float]) -> Tensor:
    """sum_i taps_i e_(2k+i) along an axis."""
    k = (e.shape[axis] - len(taps)) // 2 + 1
    every = [slice(None)] * e.ndim
    total = None
    for i, t in enumerate(taps):
        every[axis] = slice(i, i + 2 * k - 1, 2)
        part = t * e[tuple(every)]
        total = part if total is None else total + part
    assert total is not None
    return total


def _spread(c: Tensor, axis: int, taps: Sequence[float]) -> Tensor:
    """The adjoint of `_correlated`."""
    shape = list(c.shape)
    shape[axis] = 2 * c.shape[axis] + len(taps) - 2
    e, every = c.new_zeros(shape), [slice(None)] * c.ndim
    for i, t in enumerate(taps):
        every[axis] = slice(i, i + 2 * c.shape[axis] - 1, 2)
        e[tuple(every)] += t * c
    return e


def _analysed(x: Tensor, f: Bank, mode: str) -> tuple[Tensor, Details]:
    """One level of x [..., H, W]: cA, (cH, cV, cD)."""
    taps = len(f.low)
    if f.orthonormal:
        # the kernel's a_k starts L/2 - 1 before 2k: by a number more in front, where that is odd, it meets e_2k
        odd = (taps // 2 - 1) % 2
        first = (taps // 2 - 1 + odd) // 2
        e = _continued(_continued(x, -2, taps, mode, odd), -1, taps, mode, odd)
        c = DWT2.call(e.reshape(-1, *e.shape[-2:]), list(f.low), 1, False).view(e.shape)
        (h, w), (kh, kw) = e.shape[-2:], (count(n, taps, mode) for n in x.shape[-2:])
        low_h, low_w = slice(first, first + kh), slice(first, first + kw)
        high_h, high_w = slice(h // 2 + first, h // 2 + first + kh), slice(w // 2 + first, w // 2 + first + kw)
        return c[..., low_h, low_w], (c[..., high_h, low_w], c[..., low_h, high_w], c[..., high_h, high_w])
    e = _continued(x, -1, taps, mode)
    low, high = (_continued(_correlated(e, -1, g), -2, taps, mode) for g in (f.low, f.high))
    (a, ch), (cv, cd) = ([_correlated(part, -2, g) for g in (f.low, f.high)] for part in (low, high))
    return a, (ch, cv, cd)


def _spread_all(a: Tensor, details: Details, low: Sequence[float], high: Sequence[float]) -> Tensor:
    """Both axes of one level, spread with these filters: e."""
    ch, cv, cd = details
    left = _spread(a, -2, low) + _spread(ch, -2, high)
    right = _spread(cv, -2, low) + _spread(cd, -2, high)
    return _spread(left, -1, low) + _spread(right, -1, high)


def _synthesised(a: Tensor, details: Details, f: Bank, mode: str) -> Tensor:
    """The inverse of `_analysed`, of an even or an odd length: at most one number too many."""
    e, taps = _spread_all(a, details, f.rec_low, f.rec_high), len(f.low)
    for axis in (-2, -1):
        k = a.shape[axis]
        if mode == "periodization":
            e = _folded(e, axis, 2 * k, taps, mode)
        else:
            e = e.narrow(axis, taps - 2, 2 * k - taps + 2)
    return e


def _transposed(a: Tensor, details: Details, f: Bank, mode: str, size: Sequence[int]) -> Tensor:
    """The adjoint of `_analysed` for images of `size`."""
    e = _spread_all(a, details, f.low, f.high)
    return _folded(_folded(e, -2, size[0], len(f.low), mode), -1, size[1], len(f.low), mode)


def frame(n: int, taps: int, level: int) -> tuple[int, int]:
    """Zeros before, and the length of, an axis of n numbers whose periodic transform is that of mode "zero"."""
    c, most, unit = taps // 2 - 1, (1 << level) - 1, 1 << level
    before = c * most
    # no filter may see both ends of the image, and no row of coefficients reach around
    rows = [(c * ((1 << (level - j)) - 1) + count_at(n, taps, j)) << j for j in range(1, level + 1)]
    need = max(n + (taps - 1) * most, *rows) if rows else n
    return before, -(-need // unit) * unit


def count_at(n: int, taps: int, level: int) -> int:
    """Coefficients along an axis after so many levels of mode "zero"."""
    for _ in range(level):
        n = count(n, taps, "zero")
    return n


def framed(x: Tensor, taps: int, level: int) -> Tensor:
    """x [..., H, W] with the zeros around it of `frame`."""
    (top, h), (left, w) = (frame(n, taps, level) for n in x.shape[-2:])
    return pad(x, (left, w - x.shape[-1] - left, top, h - x.shape[-2] - top))


def unframed(x: Tensor, taps: int, level: int, size: Sequence[int]) -> Tensor:
    """The adjoint of `framed`."""
    top, left = (frame(n, taps, level)[0] for n in size)
    return x[..., top : top + size[0], left : left + size[1]]


def planes(x: Tensor, f: Bank, level: int, back: bool) -> Tensor:
    """The kernel's transform of x [..., H, W]."""
    return DWT2.call(x.reshape(-1, *x.shape[-2:]), list(f.low), level, back).view(x.shape)


def _zero_bands(size: Sequence[int], taps: int, level: int) -> list[tuple[tuple[slice, slice], ...]]:
    """Where the coefficients of mode "zero" lie in the periodic transform of a framed image, coarsest first:
    ((cA,), (cH, cV, cD), ...)."""
    c = taps // 2 - 1
    whole = [frame(n, taps, level)[1] for n in size]
    low, high = [], []
    for j in range(1, level + 1):
        first = c * ((1 << (level - j)) - 1)
        counts, sides = [count_at(n, taps, j) for n in size], [n >> j for n in whole]
        low.append([slice(first, first + k) for k in counts])
        high.append([slice(n + first, n + first + k) for n, k in zip(sides, counts, strict=True)])
    bands: list[tuple[tuple[slice, slice], ...]] = [((low[-1][0], low[-1][1]),)]
    for lo, hi in zip(reversed(low), reversed(high), strict=True):
        bands.append(((hi[0], lo[1]), (lo[0], hi[1]), (hi[0], hi[1])))
    return bands


def decompose(x: Tensor, wavelet: str, level: int, mode: str) -> Coefficients:
    """[cA, (cH, cV, cD) of the coarsest level, ..., of the finest] of images [..., H, W]."""
    f = bank(wavelet)
    if level == 0:
        return [x]
    if f.orthonormal and mode == "zero":
        c = planes(framed(x, len(f.low), level), f, level, False)
        approximation, *details = _zero_bands(x.shape[-2:], len(f.low), level)
        return [c[(..., *approximation[0])], *(tuple(c[(..., *band)] for band in bands) for bands in details)]
    found: list[Any] = []
    for _ in range(level):
        x, details = _analysed(x, f, mode)
        found.append(details)
    return [x, *reversed(found)]


def recompose(coefficients: Sequence[Any], wavelet: str, mode: str) -> Tensor:
    """The images of coefficients, as pywt.waverec2: of odd sides one number more than they had."""
    f = bank(wavelet)
    x, *details = coefficients
    for level in details:
        h, w = level[0].shape[-2:]
        x = _synthesised(x[..., :h, :w], tuple(level), f, mode)  # type: ignore[arg-type]
    return x


def transpose(coefficients: Sequence[Any], wavelet: str, mode: str, size: Sequence[int]) -> Tensor:
    """The adjoint of `decompose` for images of `size` (H, W)."""
    f = bank(wavelet)
    x, *details = coefficients
    level = len(details)
    if level and f.orthonormal and mode == "zero":
        taps = len(f.low)
        c = x.new_zeros(*x.shape[:-2], *(frame(n, taps, level)[1] for n in size))
        places = _zero_bands(size, taps, level)
        for bands, where in zip([(x,), *details], places, strict=True):
            for band, place in zip(bands, where, strict=True):
                c[(..., *place)] = band
        return unframed(planes(c, f, level, True), taps, level, size)
    sizes = [tuple(size)]
    for _ in range(level):
        sizes.append(tuple(count(n, len(f.low), mode) for n in sizes[-1]))
    for bands, before in zip(details, reversed(sizes[:-1]), strict=True):
        x = _transposed(x, tuple(bands), f, mode, before)  # type: ignore[arg-type]
    return x


def array_shape(size: Sequence[int], wavelet: str, level: int, mode: str) -> tuple[int, int]:
    """(H', W') of the array that holds all coefficients of images of `size`."""
    taps, (h, w) = len(bank(wavelet).low), size
    details = []
    for _ in range(level):
        h, w = count(h, taps, mode), count(w, taps, mode)
        details.append((h, w))
    return h + sum(d[0] for d in details), w + sum(d[1] for d in details)


def _blocks(size: Sequence[int], taps: int, level: int, mode: str) -> list[tuple[tuple[slice, slice], ...]]:
    """Where pywt.coeffs_to_array puts them, coarsest first."""
    counts, (h, w) = [], size
    for _ in range(level):
        h, w = count(h, taps, mode), count(w, taps, mode)
        counts.append((h, w))
    blocks: list[tuple[tuple[slice, slice], ...]] = [((slice(0, h), slice(0, w)),)]
    for dh, dw in reversed(counts):
        low, high = (slice(0, dh), slice(0, dw)), (slice(h, h + dh), slice(w, w + dw))
        blocks.append(((high[0], low[1]), (low[0], high[1]), high))
        h, w = h + dh, w + dw
    return blocks


def to_array(coefficients: Sequence[Any], wavelet: str, mode: str, size: Sequence[int]) -> Tensor:
    """All coefficients of images of `size` in one array [..., H', W'], as pywt.coeffs_to_array: gaps hold zeros."""
    first, *details = coefficients
    level = len(details)
    c = first.new_zeros(*first.shape[:-2], *array_shape(size, wavelet, level, mode))
    for bands, where in zip([(first,), *details], _blocks(size, len(bank(wavelet).low), level, mode), strict=True):
        for band, place in zip(bands, where, strict=True):
            c[(..., *place)] = band
    return c


def from_array(c: Tensor, wavelet: str, level: int, mode: str, size: Sequence[int]) -> Coefficients:
    """The coefficients in an array of `to_array`."""
    first, *details = _blocks(size, len(bank(wavelet).low), level, mode)
    return [c[(..., *first[0])], *(tuple(c[(..., *place)] for place in bands) for bands in details)]
