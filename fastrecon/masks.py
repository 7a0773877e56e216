"""Seeded sampling masks [H, W] of 0 and 1: pixels to know, and patterns of k-space.

A seed gives the same mask on every machine. Patterns of k-space have the zero frequency at (0, 0), as
`operators.Fourier` wants them; with `centred` it lies in the middle, at (H // 2, W // 2). Sizes are (H, W), rates in
(0, 1], seeds in [0, 2^32); anything else raises ValueError.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastrecon.checks import flag, integer, number, size_2d


def _start(op: str, size: Sequence[int], rate: float) -> tuple[int, int]:
    number(rate, op, "rate", above=0, most=1)
    return size_2d(size, op, "size")


def _uniforms(shape: Sequence[int], seed: int, op: str) -> np.ndarray:
    seed = integer(seed, op, "seed", least=0, most=2**32 - 1)
    return np.random.RandomState(seed).random_sample(tuple(shape))  # the one NumPy stream that is frozen for good


def _place(mask: np.ndarray, centred: bool) -> Tensor:
    """From a mask with the zero frequency in the middle."""
    return torch.from_numpy((mask if centred else np.fft.ifftshift(mask)).astype(np.float32))


def uniform(size: Sequence[int], rate: float, seed: int = 0) -> Tensor:
    """Exactly round(rate H W) entries, each set equally likely."""
    h, w = _start("uniform", size, rate)
    order = np.argsort(_uniforms((h * w,), seed, "uniform"), kind="stable")
    mask = np.zeros(h * w, np.float32)
    mask[order[: round(rate * h * w)]] = 1
    return torch.from_numpy(mask.reshape(h, w))


def radius(size: Sequence[int]) -> np.ndarray:
    """Distance from the middle (H // 2, W // 2) over the Nyquist frequency, [H, W]."""
    h, w = size_2d(size, "radius", "size")
    rows, columns = ((np.arange(n) - n // 2) / (n / 2) for n in (h, w))
    return np.hypot(rows[:, None], columns[None])


def variable_density(size: Sequence[int], rate: float, seed: int = 0, centred: bool = False) -> Tensor:
    """Random points of k-space, denser at low frequencies: P(keep) = clip(1 - r / sqrt(2), 0, 1)^q, r = |f| / Nyquist.

    q is found by bisection so that the mean of P is `rate`; the zero frequency is always kept.
    """
    h, w = _start("variable_density", size, rate)
    flag(centred, "variable_density", "centred")
    if rate == 1:
        return torch.ones(h, w, dtype=torch.float32)
    base, low, high = np.clip(1 - radius((h, w)) / math.sqrt(2), 0, 1), 0.0, 1.0
    while (base**high).mean() > rate and high < 1e6:
        high *= 2
    for _ in range(100):
        q = (low + high) / 2
        low, high = (q, high) if (base**q).mean() > rate else (low, q)
    mask = _uniforms((h, w), seed, "variable_density") < base**high
    mask[h // 2, w // 2] = True
    return _place(mask, centred)


def cartesian(
    size: Sequence[int], rate: float, seed: int = 0, centre: float = 0.08, centred: bool = False
) -> Tensor:  # fmt: skip
    """Whole columns of k-space: the `centre` share of them around the zero frequency, the others at random.

    Exactly round(rate W) columns, at least those of the centre.
    """
    h, w = _start("cartesian", size, rate)
    flag(centred, "cartesian", "centred")
    number(centre, "cartesian", "centre", least=0, most=rate)
    middle, count = max(1, round(centre * w)), max(1, round(rate * w))
    first = w // 2 - middle // 2
    kept = np.zeros(w, bool)
    kept[first : first + middle] = True
    others = np.flatnonzero(~kept)
    order = np.argsort(_uniforms((len(others),), seed, "cartesian"), kind="stable")
    kept[others[order[: max(0, count - middle)]]] = True
    return _place(np.broadcast_to(kept, (h, w)), centred)


def radial(size: Sequence[int], rate: float, centred: bool = False) -> Tensor:
    """Diameters through the zero frequency at equal angles: the fewest that reach the rate. Nothing random.

    Points lie half a pixel apart on each diameter and are rounded: 190 x 190 takes 17, 33, 50 of them for 10, 20, 30%.
    """
    h, w = _start("radial", size, rate)
    flag(centred, "radial", "centred")
    lines = 0
    while True:
        lines += 1
        mask = diameters((h, w), lines)
        if mask.mean() >= rate or lines > 4 * (h + w):
            return _place(mask, centred)


def diameters(size: Sequence[int], lines: int) -> np.ndarray:
    """The mask of `lines` diameters at angles pi l / lines, zero frequency in the middle, bool [H, W]."""
    h, w = size
    reach = math.ceil(math.hypot(h, w))  # half-pixel steps to the corners
    steps = np.arange(-reach, reach + 1) * 0.5
    angles = math.pi * np.arange(lines) / lines
    rows = np.rint(h // 2 + np.outer(np.sin(angles), steps)).astype(int)
    columns = np.rint(w // 2 + np.outer(np.cos(angles), steps)).astype(int)
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    mask = np.zeros((h, w), bool)
    mask[rows[inside], columns[inside]] = True
    return mask
