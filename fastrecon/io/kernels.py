"""Kernels of blurs, in files."""

from pathlib import Path

import numpy as np

from fastrecon.io.arrays import from_npz, is_npz, split_member
from fastrecon.io.decoders import decode
from fastrecon.io.limits import Refused, refuse
from fastrecon.io.raster import luma, scaled, separated
from fastrecon.io.reading import reading

NAMES = ("kernel", "psf", "k")


def read_kernel(path: str | Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The kernel [h, w] of a blur, float32 with odd sides and sum 1, and notes of what was done to it.

    It is read from .npy, .npz (`kernel`, `psf`, `k`, the only array, or that of FILE.npz:NAME) or an image. An even
    side 2n gets a row or column of zeros at its end, so that element n becomes the middle, as scipy.ndimage takes it.

    Raises:
        FileNotFoundError, ValueError: the file is missing or damaged, the kernel has other dimensions, is not real or
            finite, or its sum is not > 0.
    """
    file, array = split_member(path)
    with reading(file, "a kernel"):
        notes: list[str] = []
        return _kernel(_values(file, array, notes), notes), tuple(notes)


def _values(path: Path, array: str | None, notes: list[str]) -> np.ndarray:
    if is_npz(path):
        return from_npz(path, NAMES, "a kernel", array)
    raster = decode(path, numbers=True)
    if raster.suffix == ".npy":
        return raster.pixels
    a = scaled(luma(separated(raster)[0], raster.notes), raster)
    notes.extend(raster.notes)
    return a


def _kernel(a: np.ndarray, notes: list[str]) -> np.ndarray:
    while a.ndim > 2 and a.shape[0] == 1:
        a = a[0]
    refuse(
        a.ndim != 2 or a.size == 0 or a.dtype.kind not in "biuf", "a real kernel [h, w]", f"{a.dtype.name} {a.shape}"
    )
    a = a.astype(np.float64)
    if not np.isfinite(a).all():
        raise Refused("expected a finite kernel, got NaN or Inf")
    total = float(a.sum())
    refuse(total <= 0, "a kernel of sum > 0", f"sum {total:g}")
    if (low := float(a.min())) < 0:
        notes.append(f"kernel with negative numbers, down to {low:.3g}")
    if abs(total - 1) > 1e-3:
        notes.append(f"kernel divided by its sum {total:.6g}")
    if any(even := [n % 2 == 0 for n in a.shape]):
        notes.append(f"even kernel {a.shape[0]}x{a.shape[1]} filled up with zeros at its end to odd sides")
        a = np.pad(a, [(0, int(e)) for e in even])
    return (a / total).astype(np.float32)
