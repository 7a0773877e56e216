"""Pixels of image files of all formats, told apart by their contents."""

import os
from pathlib import Path
from typing import IO

from fastrecon.io import jpeg, netpbm, png, tiff
from fastrecon.io.arrays import read_npy
from fastrecon.io.raster import Raster

NPY_MAGIC = b"\x93NUMPY"
_FULL_SCALE = {"bool": 1, "uint8": 255, "uint16": 65535, "float16": 1, "float32": 1, "float64": 1}


def decode(path: Path, numbers: bool = False) -> Raster:
    """The one image of a file; with `numbers` also whole numbers on a scale of their own.

    Raises:
        Refused: several images, another kind of image, or too large.
        Exception: the file is damaged.
    """
    with open(path, "rb") as file:
        return _decode(file, numbers)


def _decode(file: IO[bytes], numbers: bool) -> Raster:
    start = file.read(8)
    file.seek(0)
    if start.startswith(NPY_MAGIC):
        a = read_npy(file, os.fstat(file.fileno()).st_size)
        return Raster(a, _FULL_SCALE.get(a.dtype.name), suffix=".npy")
    if start.startswith(tiff.MAGICS):
        return tiff.decode(file, numbers)
    if start == png.MAGIC:
        return png.decode(file.read())
    if start.startswith((jpeg.JPEG_MAGIC, jpeg.BMP_MAGIC)):
        return jpeg.decode(file.read())
    if start.startswith(netpbm.KINDS):
        return netpbm.decode(file.read())
    raise ValueError("neither PNG, TIFF, JPEG, BMP, PBM, PGM, PPM, PFM nor NPY")
