"""Grey images on [0, 1] from files of many formats, told apart by their contents, and back."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from fastrecon.io import jpeg, netpbm, png, tiff
from fastrecon.io.arrays import read_npy
from fastrecon.io.files import atomic, existing, reason, shown
from fastrecon.io.limits import Refused, refuse
from fastrecon.io.raster import Raster, grey

NPY_MAGIC = b"\x93NUMPY"
_FULL_SCALE = {"bool": 1, "uint8": 255, "uint16": 65535, "float16": 1, "float32": 1, "float64": 1}


@dataclass(frozen=True)
class GreyImage:
    """pixels [H, W] float32 on the [0, 1] scale, the path they came from, and what was converted on the way."""

    pixels: np.ndarray
    path: Path
    notes: tuple[str, ...] = ()


def read_image(path: str | Path) -> GreyImage:
    """Reads PNG, TIFF, JPEG, BMP, PBM, PGM, PPM, PFM or .npy as an upright grey image on [0, 1].

    Integers of 1 to 16 bits are divided by their full scale, nothing is lost on the way. Floats are taken as they are:
    on the [0, 1] scale, overshoot allowed. Colour becomes BT.601 luma, palettes are looked up, an opaque alpha channel
    is dropped; `notes` says so. Orientation tags are obeyed. What has no one right reading is refused: several images,
    transparent pixels, signed numbers, colour spaces other than grey, RGB, CMYK and JPEG's YCbCr.

    Raises:
        FileNotFoundError, ValueError: the file is missing, empty, damaged, not one such image, or has more pixels than
            FASTRECON_MAX_PIXELS (by default 2^26).
    """
    path = existing(path)
    try:
        with open(path, "rb") as file:
            raster = _decode(file)
        return GreyImage(grey(raster), path, tuple(raster.notes))
    except Refused as e:
        raise ValueError(f"{shown(path)}: {e}") from e
    except MemoryError as e:
        raise ValueError(f"{shown(path)}: expected an image that fits into memory ({reason(e)})") from e
    except Exception as e:  # decoders raise whatever a damaged file makes them trip over
        if isinstance(e, OSError) and e.errno is not None:
            raise ValueError(f"{shown(path)}: expected a readable file ({reason(e)})") from e
        text = f"expected a readable image, got a damaged or unknown file ({reason(e)})"
        raise ValueError(f"{shown(path)}: {text}") from e


def _decode(file: IO[bytes]) -> Raster:
    start = file.read(8)
    file.seek(0)
    if start.startswith(NPY_MAGIC):
        return _array(read_npy(file, os.fstat(file.fileno()).st_size))
    if start.startswith(tiff.MAGICS):
        return tiff.decode(file)
    if start == png.MAGIC:
        return png.decode(file.read())
    if start.startswith((jpeg.JPEG_MAGIC, jpeg.BMP_MAGIC)):
        return jpeg.decode(file.read())
    if start.startswith(netpbm.KINDS):
        return netpbm.decode(file.read())
    raise ValueError("neither PNG, TIFF, JPEG, BMP, PBM, PGM, PPM, PFM nor NPY")


def _array(a: np.ndarray) -> Raster:
    kind = a.dtype.name
    refuse(kind not in _FULL_SCALE, "1, 8 or 16-bit unsigned or floating-point pixels", kind)
    return Raster(a, _FULL_SCALE[kind])


def write_image(path: str | Path, pixels: np.ndarray, bits: int = 8) -> None:
    """Writes [H, W] on the [0, 1] scale: 8 or 16 bits clipped and rounded (PNG, TIFF), or 32 as float32 (TIFF).

    Raises:
        ValueError: another suffix, other bits, or NaN among pixels to be rounded.
        OSError: the file cannot be written.
    """
    from PIL import Image

    name, suffix = shown(path), Path(path).suffix.lower()
    formats = {".tif": "TIFF", ".tiff": "TIFF"} | ({} if bits == 32 else {".png": "PNG"})
    if bits not in (8, 16, 32):
        raise ValueError(f"{name}: bits: expected 8, 16 or 32, got {bits}")
    if suffix not in formats:
        raise ValueError(f"{name}: expected a name that ends in {' or '.join(formats)} for {bits} bits")
    if bits == 32:
        im = Image.fromarray(pixels.astype(np.float32))
    else:
        if not np.isfinite(pixels).all():
            raise ValueError(f"{name}: expected finite pixels to write in {bits} bits, got NaN or Inf")
        kind = {8: np.uint8, 16: np.uint16}[bits]
        im = Image.fromarray((pixels.astype(np.float64).clip(0, 1) * (2**bits - 1)).round().astype(kind))
    with atomic(path) as f:
        im.save(f, format=formats[suffix])
