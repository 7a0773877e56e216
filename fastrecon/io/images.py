"""Grey images on [0, 1] from files of many formats, and back."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastrecon.io.decoders import decode
from fastrecon.io.encoders import encoded
from fastrecon.io.files import atomic, shown
from fastrecon.io.raster import grey
from fastrecon.io.reading import reading


@dataclass(frozen=True)
class GreyImage:
    """pixels [H, W] float32 on the [0, 1] scale, the path they came from, and what was converted on the way."""

    pixels: np.ndarray
    path: Path
    notes: tuple[str, ...] = ()


def read_image(path: str | Path, slice: int | None = None) -> GreyImage:
    """Reads PNG, TIFF, JPEG, BMP, PBM, PGM, PPM, PFM, .npy, NIfTI or DICOM as an upright grey image on [0, 1].

    Integers of 1 to 16 bits are divided by their full scale, nothing is lost on the way. Floats are taken as they are:
    on the [0, 1] scale, overshoot allowed. Colour becomes BT.601 luma, palettes are looked up, an opaque alpha channel
    is dropped; `notes` says so. Orientation tags are obeyed. What has no one right reading is refused: several images,
    transparent pixels, signed numbers, colour spaces other than grey, RGB, CMYK and JPEG's YCbCr.

    Args:
        path: of the file.
        slice: number of one of several of NIfTI and DICOM, counted from 0; None where there is one.

    Raises:
        FileNotFoundError, ValueError: the file is missing, empty, damaged, not one such image, or has more pixels than
            FASTRECON_MAX_PIXELS (by default 2^26).
    """
    with reading(path, "a readable image") as file:
        raster = decode(file, slice=slice)
        return GreyImage(grey(raster), file, tuple(raster.notes))


def write_image(path: str | Path, pixels: np.ndarray, bits: int = 8) -> None:
    """Writes [H, W] on the [0, 1] scale: 8 or 16 bits clipped and rounded (PNG, TIFF), or 32 as float32 (TIFF).

    Raises:
        ValueError: another suffix, other bits, or NaN among pixels to be rounded.
        OSError: the file cannot be written.
    """
    name, suffix = shown(path), Path(path).suffix.lower()
    suffixes = (".tif", ".tiff") if bits == 32 else (".tif", ".tiff", ".png")
    if bits not in (8, 16, 32):
        raise ValueError(f"{name}: bits: expected 8, 16 or 32, got {bits}")
    if suffix not in suffixes:
        raise ValueError(f"{name}: expected a name that ends in {' or '.join(suffixes)} for {bits} bits")
    data = encoded(pixels, suffix, {8: "uint8", 16: "uint16", 32: "float32"}[bits], name)
    with atomic(path) as f:
        f.write(data)
