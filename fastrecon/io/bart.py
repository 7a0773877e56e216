"""BART's .cfl and .hdr: complex floats in Fortran's order, and 16 sizes as text. Source: mrirecon.github.io/bart"""

from pathlib import Path

import numpy as np

from fastrecon.io.files import existing
from fastrecon.io.limits import bounded, refuse

SUFFIXES = (".cfl", ".hdr")
DIMENSIONS = 16
COILS, MAPS, SLICE = 3, 4, 13  # the first three are x, y, z
LONGEST = 2**16  # bytes of a header


def read_cfl(path: Path) -> np.ndarray:
    """The array of a pair of files, of which `path` is either: complex64 [x, y, z, coils, maps, ..., slice, ...].

    Raises:
        Refused: it is too large.
        FileNotFoundError, ValueError: one of the pair is missing or damaged.
    """
    header, data = (existing(path.with_suffix(suffix)) for suffix in (".hdr", ".cfl"))
    with open(header, "rb") as file:
        lines = file.read(LONGEST).decode("utf-8", "replace").splitlines()
    at = next((k for k, line in enumerate(lines) if line.strip() == "# Dimensions"), None)
    words = [] if at is None or at + 1 >= len(lines) else lines[at + 1].split()
    if not words or len(words) > DIMENSIONS or not all(w.isdigit() and len(w) < 12 for w in words):
        raise ValueError(f"no sizes after '# Dimensions' in {header.name}")
    shape = tuple(map(int, words)) + (1,) * (DIMENSIONS - len(words))
    bounded(*shape, what="numbers")
    count = int(np.prod(shape))
    if data.stat().st_size != 8 * count:
        raise ValueError(f"{data.stat().st_size} bytes of data where {count} complex numbers need {8 * count}")
    return np.fromfile(data, "<c8", count).astype(np.complex64, copy=False).reshape(shape, order="F")


def by_coil(a: np.ndarray) -> np.ndarray:
    """[slices, coils, H, W] of an array as BART orders it; H, W are the two of x, y, z that are no single sample.

    Raises:
        Refused: it is three-dimensional, or has other dimensions.
    """
    flat = [k for k in range(3) if a.shape[k] == 1]
    refuse(not flat, "one slice, with x, y or z of size 1", f"sizes {a.shape[:3]}")
    drop = 2 if 2 in flat else flat[0]
    others = [k for k in range(MAPS + 1, DIMENSIONS) if k != SLICE and a.shape[k] > 1]
    sizes = [a.shape[k] for k in others]
    refuse(bool(others), "sizes of 1 beyond x, y, z, coils, maps and slice", f"{sizes} in dimensions {others}")
    first, second = (k for k in range(3) if k != drop)
    kept = (SLICE, COILS, first, second)
    a = a[:, :, :, :, :1]
    order = [*kept, *(k for k in range(DIMENSIONS) if k not in kept)]
    return np.ascontiguousarray(a.transpose(order).reshape([a.shape[k] for k in kept]))


def header(shape: tuple[int, ...]) -> bytes:
    """The .hdr of an array of such sizes."""
    sizes = (*shape, *(1,) * (DIMENSIONS - len(shape)))
    return ("# Dimensions\n" + " ".join(map(str, sizes)) + "\n").encode()


def data(a: np.ndarray) -> bytes:
    """The .cfl of an array in BART's order."""
    return np.asarray(a, "<c8").tobytes(order="F")
