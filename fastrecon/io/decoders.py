"""Pixels of image files of all formats, told apart by their contents."""

import os
from pathlib import Path
from typing import IO

from fastrecon.io import dicom, hdf5, jpeg, netpbm, nifti, png, tiff
from fastrecon.io.arrays import read_npy
from fastrecon.io.limits import chosen
from fastrecon.io.raster import Raster

START = 1024  # bytes that tell the format
NPY_MAGIC = b"\x93NUMPY"
_FULL_SCALE = {"bool": 1, "uint8": 255, "uint16": 65535, "float16": 1, "float32": 1, "float64": 1}


def decode(path: Path, numbers: bool = False, slice: int | None = None) -> Raster:
    """The one image of a file, or of several slices that number; with `numbers` also whole ones of no known white.

    Raises:
        Refused: several images, another kind of image, or too large.
        Exception: the file is damaged.
    """
    with open(path, "rb") as file:
        start = file.read(START)
        file.seek(0)
        if nifti.recognised(start):
            return nifti.decode(file, slice)
        if dicom.recognised(start):
            return dicom.decode(file, slice)
        if start.startswith(hdf5.MAGIC):
            return hdf5.decode(path, slice)
        raster = _decode(file, start, numbers)
        chosen(1, slice)
        return raster


def _decode(file: IO[bytes], start: bytes, numbers: bool) -> Raster:
    if start.startswith(NPY_MAGIC):
        a = read_npy(file, os.fstat(file.fileno()).st_size)
        return Raster(a, _FULL_SCALE.get(a.dtype.name), suffix=".npy")
    if start.startswith(tiff.MAGICS):
        return tiff.decode(file, numbers)
    if start.startswith(png.MAGIC):
        return png.decode(file.read())
    if start.startswith((jpeg.JPEG_MAGIC, jpeg.BMP_MAGIC)):
        return jpeg.decode(file.read())
    if start.startswith(netpbm.KINDS):
        return netpbm.decode(file.read())
    raise ValueError("neither PNG, TIFF, JPEG, BMP, PBM, PGM, PPM, PFM, NPY, NIfTI, DICOM nor HDF5")
