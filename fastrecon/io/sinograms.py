"""Sinograms: arrays of numbers as they are, and line integrals from counts of photons."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastrecon.io.arrays import from_npz, is_npz, split_member
from fastrecon.io.decoders import decode
from fastrecon.io.limits import Refused, refuse
from fastrecon.io.pictures import Form
from fastrecon.io.raster import upright
from fastrecon.io.reading import reading

NAMES = ("sinogram", "projections", "counts", "y")
SIDE = ("angles", "theta", "flat", "dark")  # other arrays of an archive
HIDDEN = 0.1  # share of rays without a count, above which a field is wrong


@dataclass(frozen=True)
class Array:
    """Numbers from a file.

    Attributes:
        data: [rows, columns] float32, or float64 where float32 could not hold them.
        path: of the file.
        form: how images made of it are written: floats, in its kind.
    """

    data: np.ndarray
    path: Path
    form: Form


def read_array(path: str | Path, names: tuple[str, ...] = NAMES, row: bool = False) -> Array:
    """The two-dimensional array of a .npy, .npz, TIFF, PNG or other image file, its numbers as they are.

    Whole numbers are counts, not divided by anything.

    Args:
        path: of the file, or FILE.npz:NAME.
        names: of arrays in a .npz to be taken first; else there must be one.
        row: whether [columns] is one row.

    Raises:
        FileNotFoundError, ValueError: the file is missing, damaged or too large, or is no such array, or holds NaN or
            Inf; one line names it.
    """
    file, array = split_member(path)
    with reading(file, "an array"):
        if is_npz(file):
            others = tuple(s for s in SIDE if s not in names)
            a, suffix = from_npz(file, names, "an array", array, others), ".npy"
        else:
            raster = decode(file, numbers=True)
            a, suffix = raster.pixels, ".npy" if raster.suffix == ".npy" else ".tif"
            a = a if raster.orientation == 1 else upright(a, raster.orientation)
        a = _plane(a[None] if row and a.ndim == 1 else a)
        return Array(a, file, Form(suffix, "float32"))


def _plane(a: np.ndarray) -> np.ndarray:
    while a.ndim > 2 and 1 in (a.shape[0], a.shape[-1]):
        a = a[0] if a.shape[0] == 1 else a[..., 0]
    if a.ndim == 3 and a.shape[-1] == 3 and (a == a[..., :1]).all():
        a = a[..., 0]
    refuse(a.dtype.kind not in "biuf", "real numbers", a.dtype.name)
    refuse(a.ndim != 2 or a.size == 0, "an array [rows, columns]", f"shape {a.shape}")
    if bad := int((~np.isfinite(a)).sum()):
        raise Refused(f"expected finite numbers, got {bad} NaN or Inf among {a.size}")
    exact = a.itemsize <= 2 or a.dtype == np.float32
    return np.ascontiguousarray(a, np.float32 if exact else np.float64)


def by_view(sinogram: np.ndarray, views: int, op: str = "sinogram") -> tuple[np.ndarray, tuple[str, ...]]:
    """A sinogram as [view, detector], told by the number of views, and notes; a square one is taken as it is.

    Raises:
        ValueError: neither axis has as many views.
    """
    rows, columns = sinogram.shape
    if views == rows:
        return sinogram, ("as many views as detectors: rows taken as views",) if rows == columns else ()
    if views != columns:
        raise ValueError(f"{op}: angles: expected {rows} or {columns}, one for each view, got {views}")
    return np.ascontiguousarray(sinogram.T), ("columns are views: transposed",)


def line_integrals(
    counts: np.ndarray, flat: np.ndarray | float, dark: np.ndarray | float | None = None, op: str = "counts"
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Line integrals -log((counts - dark) / (flat - dark)), float32 as `counts` [views, detectors], and notes.

    Rays without a count (dead pixels, starved of photons) get the smallest count > 0 that was measured anywhere, so
    that their integral is the largest seen; notes say how many.

    Args:
        counts: what the detector saw.
        flat: what it sees without an object: a number, [detectors], as `counts`, or [exposures, detectors], averaged.
        dark: what it sees without a beam, likewise; None for nothing.
        op: named in errors.

    Raises:
        ValueError: a field does not fit, flat is not above dark, or more than a tenth of the rays have no count.
    """
    seen = np.asarray(counts, np.float64)
    notes: list[str] = []
    offset = 0.0 if dark is None else _field(dark, seen.shape, "dark", op, notes)
    open_beam = np.broadcast_to(_field(flat, seen.shape, "flat", op, notes) - offset, seen.shape)
    if bad := int((open_beam <= 0).sum()):
        raise ValueError(f"{op}: flat: expected counts above those of dark, got {bad} of {open_beam.size} that are not")
    seen = seen - offset
    none = seen <= 0
    if (share := float(none.mean())) > HIDDEN:
        raise ValueError(f"{op}: expected counts > 0 (above dark), got {share:.0%} of the rays without: another field?")
    if none.any():
        least = float(seen[~none].min())
        notes.append(f"{none.sum()} of {none.size} rays without a count raised to {least:g}, the smallest above")
        seen = np.where(none, least, seen)
    return -np.log(seen / open_beam).astype(np.float32), tuple(notes)


def _field(field: np.ndarray | float, shape: tuple[int, ...], name: str, op: str, notes: list[str]) -> np.ndarray:
    a = np.asarray(field, np.float64)
    if a.ndim == 2 and a.shape != shape and a.shape[1] == shape[1]:
        notes.extend([f"{name}: mean of {len(a)} exposures"] if len(a) > 1 else [])
        a = a.mean(0)
    if a.shape not in ((), shape[1:], shape):
        raise ValueError(f"{op}: {name}: expected a number, [{shape[1]}] or {shape}, got shape {a.shape}")
    if not np.isfinite(a).all():
        raise ValueError(f"{op}: {name}: expected finite numbers, got NaN or Inf")
    return a
