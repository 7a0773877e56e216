"""Pictures as people have them, grey or in colour, on any scale, with holes; and results in the same kind."""

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fastrecon.io.decoders import decode
from fastrecon.io.encoders import companion, encoded
from fastrecon.io.files import atomic, shown
from fastrecon.io.raster import Raster, beyond, luma, scaled, separated
from fastrecon.io.reading import reading

FAINT = 0.1  # floats up to here are on a scale of their own too, as attenuation per millimetre is


@dataclass(frozen=True)
class Form:
    """The kind of a file, in which results are written.

    Attributes:
        suffix: .png, .tif, .npy, .nii, .nii.gz, .h5 (dataset `reconstruction`) or .cfl (with its .hdr).
        dtype: of the numbers in it: uint8, uint16 (on their full scale), float32, float64, complex64 or complex128.
        affine: of NIfTI, rows of [4, 4]: millimetres right, anterior, superior from (i, j, 0, 1); None where unknown.
    """

    SUFFIXES: ClassVar[tuple[str, ...]] = (".png", ".tif", ".npy", ".nii", ".nii.gz", ".h5", ".cfl", ".hdr")

    suffix: str = ".png"
    dtype: str = "uint8"
    affine: tuple[tuple[float, ...], ...] | None = None

    @property
    def bits(self) -> int:
        """Bits of a number, of both parts of a complex one."""
        return 8 * np.dtype(self.dtype).itemsize

    def with_bits(self, bits: int) -> "Form":
        """The form with 8 or 16 bits on [0, 1] (PNG, TIFF), or with floats of 32 or 64 bits (anything but PNG)."""
        if bits not in (8, 16, 32, 64):
            raise ValueError(f"bits: expected 8, 16, 32 or 64, got {bits}")
        dtype = f"uint{bits}" if bits < 32 else f"float{bits}"
        if bits >= 32:
            return dataclasses.replace(self, suffix=".tif" if self.suffix == ".png" else self.suffix, dtype=dtype)
        return dataclasses.replace(self, suffix=self.suffix if self.suffix == ".tif" else ".png", dtype=dtype)

    def path(self, prefix: str | Path) -> Path:
        """Of the file that `write_picture` makes."""
        prefix = Path(prefix)
        return prefix.with_name(prefix.name + self.suffix)


@dataclass(frozen=True)
class Picture:
    """An image from a file.

    Attributes:
        pixels: [H, W], or [H, W, 3] RGB, float32, or complex64 [H, W]; 0 where not known.
        path: of the file.
        form: how results are written in its kind.
        known: [H, W] bool, None where every pixel is known.
        white: 1 where pixels are on [0, 1] (overshoot allowed), None where they have a scale of their own.
        notes: what was converted on the way.
    """

    pixels: np.ndarray
    path: Path
    form: Form
    known: np.ndarray | None = None
    white: float | None = 1
    notes: tuple[str, ...] = ()


def read_picture(path: str | Path, colour: bool = True, holes: bool = False, slice: int | None = None) -> Picture:
    """The picture in a PNG, TIFF, JPEG, BMP, PBM, PGM, PPM, PFM, .npy, NIfTI, DICOM or HDF5 file, as it is.

    Unsigned integers of 1 to 16 bits are divided by their full scale. Floats, and signed or wider integers,
    are taken as they are, on any scale; complex numbers too, from .npy. Equal colour channels are read as grey,
    palettes looked up, an opaque alpha channel dropped; `notes` says so. NIfTI and DICOM (extra `medical`) have a scale
    of their own, rescaled as their headers say; so has HDF5 (extra `mri`: `reconstruction`, `reconstruction_rss`,
    `reconstruction_esc` or `image`). Pixel [i, j] of NIfTI is its voxel [i, j, slice].

    Results of DICOM are written as NIfTI: floats of the same unit, with the place in the patient and the spacing, which
    TIFF cannot say; a DICOM file would claim an acquisition and a patient's identity that a result must not make up.

    Args:
        path: of the file.
        colour: False for the luma (BT.601) of colours.
        holes: whether pixels of alpha 0, and NaN among floats, are holes; without it such images are refused.
        slice: number of one of several of NIfTI, DICOM or HDF5, counted from 0; None where there is one.

    Raises:
        FileNotFoundError, ValueError: the file is missing, empty, damaged, not one such image, or has more pixels than
            FASTRECON_MAX_PIXELS (by default 2^26).
    """
    with reading(path, "a readable image") as file:
        raster = decode(file, numbers=True, slice=slice)
        form = Form(raster.suffix, _dtype(raster), raster.affine)
        a, known = separated(raster, holes)
        pixels = scaled(a if colour else luma(a, raster.notes), raster)
        white = _white(pixels if known is None else pixels[known], raster)
        return Picture(pixels, file, form, known, white, tuple(raster.notes))


def _dtype(raster: Raster) -> str:
    kind, full = raster.pixels.dtype, raster.full
    if kind.kind == "c":
        return kind.name
    if raster.bits:
        return "uint8" if raster.bits <= 8 else "uint16"
    if kind.kind == "f" or full is None or (kind.kind == "b" and raster.suffix == ".npy"):
        return "float64" if kind == np.float64 else "float32"
    return "uint8" if full <= 255 else "uint16"


def _white(known: np.ndarray, raster: Raster) -> float | None:
    if raster.full is not None and raster.pixels.dtype.kind != "f":
        return 1
    if known.dtype.kind == "c":
        raster.notes.append(f"complex, up to {np.abs(known).max():.3g} in magnitude, as they are")
        return None
    low, high = float(known.min()), float(known.max())
    if raster.full is not None and high > FAINT and not beyond(low, high):
        return 1
    raster.notes.append(f"values on [{low:.3g}, {high:.3g}], a scale of their own, as they are")
    return None


def write_picture(prefix: str | Path, pixels: np.ndarray, form: Form, inputs: Iterable[Path] = ()) -> Path:
    """The path of `pixels` [H, W] or [H, W, 3] written in a form: `prefix` and the form's suffix.

    8 and 16 bits are clipped to [0, 1] and rounded, floats and complex numbers written as they are.

    Args:
        prefix: name of the file without the suffix.
        pixels: real, or complex in a form that is.
        form: of the picture they were made from.
        inputs: files that are never written over.

    Raises:
        ValueError: the form cannot hold such pixels, NaN or Inf are to be rounded, or the file is one of `inputs`.
        OSError: the file cannot be written.
    """
    path = form.path(prefix)
    if any(path.exists() and source.exists() and os.path.samefile(path, source) for source in inputs):
        raise ValueError(f"{shown(path)}: expected another file than what was read, got the same")
    data = encoded(pixels, form.suffix, form.dtype, shown(path), form.affine)
    if second := companion(pixels, form.suffix):
        with atomic(path.with_suffix(second[0])) as f:
            f.write(second[1])
    with atomic(path) as f:
        f.write(data)
    return path
