"""Masks in files: which pixels are known, which frequencies were sampled."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastrecon.io.arrays import from_npz, is_npz, split_member
from fastrecon.io.decoders import decode
from fastrecon.io.limits import Refused, refuse
from fastrecon.io.raster import upright
from fastrecon.io.reading import reading

LEVELS = 3  # values of a mask that a message lists


def read_mask(path: str | Path, size: Sequence[int] | None = None, slice: int | None = None) -> np.ndarray:
    """A mask [H, W], bool, True where known: of an image (white, or opaque where it has alpha), .npy or .npz.

    Values are 0 and 1, 0 and 255 (or another full scale), or False and True; [W] is one row for all.

    Args:
        path: of the file; in a .npz the array `mask`, or the only one, or FILE.npz:NAME.
        size: (H, W) that it must have, None for any.
        slice: number of one of several of NIfTI and DICOM.

    Raises:
        FileNotFoundError, ValueError: the file is missing or damaged, has other values or another size, or masks all.
    """
    file, array = split_member(path)
    with reading(file, "a mask"):
        return binary(_values(file, array, slice), size)


def _values(path: Path, array: str | None, slice: int | None) -> np.ndarray:
    if is_npz(path):
        return from_npz(path, ("mask",), "a mask", array)
    raster = decode(path, numbers=True, slice=slice)
    a = raster.pixels if raster.orientation == 1 else upright(raster.pixels, raster.orientation)
    if a.ndim == 3 and a.shape[2] in (2, 4):
        alpha = a[..., -1]
        if (alpha != alpha.flat[0]).any():
            return alpha  # what the transparency says, not what colour lies under it
        a = a[..., :-1]
    if a.ndim == 3 and a.shape[2] in (1, 3):
        refuse(bool((a != a[..., :1]).any()), "a grey mask", "colours")
        a = a[..., 0]
    return a


def binary(a: np.ndarray, size: Sequence[int] | None = None, entry: str = "") -> np.ndarray:
    """A mask [H, W], bool, from 0 and 1, 0 and a full scale, or bool; sizes of 1 before it are dropped.

    Raises:
        Refused: it has other values, another size, or is 0 everywhere.
    """
    refuse(a.dtype.kind not in "biuf", "a mask of 0 and 1", a.dtype.name, entry)
    while a.ndim > 2 and a.shape[0] == 1:
        a = a[0]
    if size is not None and (a.shape in (tuple(size)[1:], (1, size[1]))):
        a = np.broadcast_to(a, tuple(size))
    expected = "a mask [H, W]" if size is None else f"a mask of {size[0]} x {size[1]}"
    turned = size is not None and a.shape == tuple(size)[::-1] != tuple(size)
    got = f"shape {a.shape}" + (": transposed?" if turned else "")
    refuse(a.ndim != 2 or a.size == 0 or (size is not None and a.shape != tuple(size)), expected, got, entry)
    values = np.unique(a)
    full = values[-1]
    scale = (1,) if a.dtype.kind == "f" else (1, 255, 65535)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0) or (full not in scale and full != 0):
        some = ", ".join(f"{v:g}" for v in values[:LEVELS].astype(float))
        got = f"{len(values)} values: {some}{', ...' if len(values) > LEVELS else ''}"
        at = (entry and f"{entry}: ") + f"expected a mask of 0 and 1 (or 0 and 255), got {got}"
        raise Refused(at)
    refuse(not full, "a mask with at least one 1", "0 everywhere", entry)
    return np.array(a != 0)
