"""NIfTI, by nibabel (extra `medical`): one slice of a volume, its values rescaled as the header says."""

import gzip
from typing import IO

import numpy as np

from fastrecon.io.limits import bounded, chosen, refuse
from fastrecon.io.raster import Raster
from fastrecon.io.reading import package

GZIP = b"\x1f\x8b"
ONE, TWO = (344, b"n+1\0"), (4, b"n+2\0\r\n\x1a\n")  # where a header says which version it is
Affine = tuple[tuple[float, ...], ...]


def recognised(start: bytes) -> bool:
    """Whether a file that starts so is NIfTI, or compressed, and then tried as one."""
    return start.startswith(GZIP) or any(start[at:].startswith(magic) for at, magic in (ONE, TWO))


def decode(file: IO[bytes], slice: int | None = None) -> Raster:
    """A slice [i, j] of a volume [i, j, slice], on a scale of its own.

    Raises:
        Refused: several slices and none is chosen, more dimensions, colours, too large, or nibabel is not installed.
        Exception: the file is damaged.
    """
    nibabel = package("nibabel", "medical", "NIfTI")
    packed = file.read(2) == GZIP
    file.seek(0)
    stream = gzip.GzipFile(fileobj=file) if packed else file
    start = stream.read(ONE[0] + 4)
    stream.seek(0)
    if start.startswith(GZIP) or not recognised(start):
        raise ValueError("no header of NIfTI")
    kind = nibabel.Nifti1Image if start[ONE[0] :].startswith(ONE[1]) else nibabel.Nifti2Image
    logger = nibabel.imageglobals.logger
    before, logger.disabled = logger.disabled, True  # remarks on odd headers go to stderr
    try:
        image = kind.from_stream(stream)
    finally:
        logger.disabled = before
    shape = image.shape
    refuse(len(shape) < 2 or any(n != 1 for n in shape[3:]), "a volume [i, j, slice]", f"shape {shape}")
    refuse(image.get_data_dtype().names is not None, "numbers", "colours")
    count = shape[2] if len(shape) > 2 else 1
    bounded(*shape[:2])
    k = chosen(count, slice)
    index = (..., *(k if axis == 2 else 0 for axis in range(2, len(shape))))
    a = np.asarray(image.dataobj[index])
    if a.dtype == np.float64 != image.get_data_dtype():  # whole numbers that were rescaled
        a = a.astype(np.float32)
    affine = image.affine.copy()
    affine[:, 3] = image.affine @ (0, 0, k, 1)
    notes = [f"slice {k} of {count}"] if count > 1 else []
    rows = tuple(tuple(map(float, row)) for row in affine)
    return Raster(a, None, notes=notes, suffix=".nii.gz" if packed else ".nii", affine=rows)


def encode(a: np.ndarray, affine: Affine | None, packed: bool) -> bytes:
    """A file with a slice [i, j] as a volume [i, j, 1].

    Raises:
        Refused: nibabel is not installed.
    """
    nibabel = package("nibabel", "medical", "NIfTI")
    image = nibabel.Nifti1Image(a[:, :, None], None if affine is None else np.array(affine))
    image.header.set_xyzt_units("mm")
    data = image.to_bytes()
    return gzip.compress(data, mtime=0) if packed else data
