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

WIDTH = 1.2  # pixels beside a diameter that it meets, about


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


def gaussian(size: Sequence[int], rate: float, seed: int = 0, centred: bool = False) -> Tensor:
    """Random points of k-space, P(keep) = exp(-r^2 / (2 s^2)), r = |f| / Nyquist.

    s is found by bisection so that the mean of P is `rate`; the zero frequency is always kept.
    """
    h, w = _start("gaussian", size, rate)
    flag(centred, "gaussian", "centred")
    if rate == 1:
        return torch.ones(h, w, dtype=torch.float32)
    square, low, high = radius((h, w)) ** 2, 0.0, 1e6  # of 1 / (2 s^2)
    for _ in range(100):
        q = (low + high) / 2
        low, high = (q, high) if np.exp(-q * square).mean() > rate else (low, q)
    mask = _uniforms((h, w), seed, "gaussian") < np.exp(-high * square)
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
    distance, last = _distance((h, w)), 4 * (h + w) + 1
    within = np.cumsum(np.bincount(distance.astype(int).ravel()))  # pixels nearer to the middle than 1, 2, ...
    for lines in range(1, last + 1):
        bound = _at_most((h, w), lines, within) / (h * w)
        if lines < last and (bound < rate or _too_few(distance, within, lines, rate)):
            continue
        mask = diameters((h, w), lines)
        if mask.mean() >= rate or lines == last:
            break
    return _place(mask, centred)  # type: ignore[possibly-undefined]


def _distance(size: Sequence[int]) -> np.ndarray:
    """Pixels from the middle, [H, W]."""
    rows, columns = (np.arange(n) - n // 2 for n in size)
    return np.hypot(rows[:, None], columns[None])


# Coverage does not simply grow with the number of diameters, so that none may be left out unseen. What is missed lies
# far out, though: two looks there, which can only err on the side of trying a number in full, spare nearly all work.
def _at_most(size: Sequence[int], lines: int, within: np.ndarray) -> int:
    """No fewer pixels than `lines` diameters meet: all within some radius, and as many as lines cross beyond it."""
    h, w = size
    angles = math.pi * np.arange(lines) / lines
    sine, cosine = np.abs(np.sin(angles)), np.abs(np.cos(angles)) + 1e-9
    radius = np.linspace(0, len(within), 17)[1:-1].astype(int)
    length = np.minimum((h // 2 + 1) / (sine + 1e-9), (w // 2 + 1) / cosine) - (radius[:, None] - 1)
    # a line of length l crosses at most l (|sin| + |cos|) + 3 pixels; each diameter has two halves
    beyond = np.where(length > 0, 2 * (length * (sine + cosine) + 4), 0).sum(1)
    return int((np.where(radius > 0, within[radius - 1], 0) + beyond).min()) + 1


def _too_few(distance: np.ndarray, within: np.ndarray, lines: int, rate: float) -> bool:
    """Whether so many pixels far out are missed that these diameters cannot reach the rate; only far out is looked."""
    rings = np.diff(within, prepend=0)
    missed = rings * np.maximum(0, 1 - lines * WIDTH / (math.pi * np.arange(0.5, len(rings))))  # about
    enough = np.cumsum(missed[::-1]) > 1.1 * (1 - rate) * distance.size + 1
    dense = 0.8 * min(len(rings), lines * WIDTH / math.pi)  # hardly a pixel is missed within
    ring = len(rings) - 1 - int(enough.argmax()) if enough.any() else int(dense)
    met = np.count_nonzero(diameters(distance.shape, lines, ring - 1) & (distance >= ring))
    missing = distance.size - (int(within[ring - 1]) if ring else 0) - met
    return (distance.size - missing) / distance.size < rate


def diameters(size: Sequence[int], lines: int, beyond: float = 0.0) -> np.ndarray:
    """The mask of `lines` diameters at angles pi l / lines, zero frequency in the middle, bool [H, W].

    With `beyond`, without the points nearer to the middle than so many pixels.
    """
    h, w = size
    reach = math.ceil(math.hypot(h, w))  # half-pixel steps to the corners
    steps = np.arange(-reach, reach + 1) * 0.5
    angles = math.pi * np.arange(lines) / lines
    sines, cosines = np.sin(angles), np.cos(angles)
    if beyond > 0:
        steps = steps[np.abs(steps) >= beyond]
        inside = (np.abs(sines) * beyond <= h // 2 + 1) & (np.abs(cosines) * beyond <= w // 2 + 1)
        sines, cosines = sines[inside], cosines[inside]
    rows = np.rint(h // 2 + np.outer(sines, steps)).astype(int)
    columns = np.rint(w // 2 + np.outer(cosines, steps)).astype(int)
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    mask = np.zeros((h, w), bool)
    mask[rows[inside], columns[inside]] = True
    return mask


GENERATORS = {  # by name: from (size, rate, seed), zero frequency at (0, 0)
    "uniform": uniform,
    "variable": variable_density,
    "gaussian": gaussian,
    "cartesian": cartesian,
    "radial": lambda size, rate, seed: radial(size, rate),  # nothing random
}
