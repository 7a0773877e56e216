"""PBM, PGM, PPM (plain and raw, any maxval) and PFM. Formats: https://netpbm.sourceforge.net/doc/"""

import math
import re

import numpy as np

from fastrecon.io.limits import bounded, refuse
from fastrecon.io.raster import Raster

KINDS = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf", b"PF")
_SPACE = rb"(?:\s|#[^\n\r]*[\n\r])+"  # comments run to the end of their line


def decode(data: bytes) -> Raster:
    """The one image of a file, values of [0, maxval].

    Raises:
        Refused: several images, or a PFM on another scale than 1.
        ValueError: the file is damaged.
    """
    kind = data[:2]
    floats, plain, bits = kind in (b"Pf", b"PF"), kind in (b"P1", b"P2", b"P3"), kind in (b"P1", b"P4")
    channels = 3 if kind in (b"P3", b"P6", b"PF") else 1
    # the width and height, and what white is: a maxval, or for floats a scale whose sign is the byte order
    numbers = 2 if bits else 3
    header = re.match(rb"P." + (_SPACE + rb"([-+0-9.eE]{1,20})") * numbers + (rb"" if plain else rb"\s"), data)
    if header is None:
        raise ValueError("no header with width, height and range")
    width, height = int(header[1]), int(header[2])
    bounded(height, width)
    scale = float(header[3]) if floats else 1.0
    refuse(abs(scale) != 1 or not math.isfinite(scale), "a PFM of scale 1 or -1", f"{scale:g}")
    maxval = 1 if bits or floats else int(header[3])
    if not 0 < maxval < 65536:
        raise ValueError(f"maxval {maxval}")
    body, count = memoryview(data)[header.end() :], height * width * channels
    if plain:
        values = _plain(bytes(body), count, bits)
    elif kind == b"P4":
        row = -(-width // 8)
        packed = _raw(body, np.dtype(np.uint8), height * row).reshape(height, row)
        values = np.unpackbits(packed, axis=1, count=width)
    else:
        wide = ">u2" if maxval > 255 else "u1"
        values = _raw(body, np.dtype(("<f4" if scale < 0 else ">f4") if floats else wide), count)
    if not floats and values.max() > maxval:
        raise ValueError(f"a value of {values.max()} above maxval {maxval}")
    pixels = values.reshape((height, width) if channels == 1 else (height, width, 3))
    if bits:
        pixels = 1 - pixels  # 1 is black
    # PFM counts rows from the bottom
    return Raster(pixels[::-1] if floats else pixels, maxval, suffix=".tif" if floats else ".png")


def _raw(body: memoryview, dtype: np.dtype, count: int) -> np.ndarray:
    if len(body) < count * dtype.itemsize:
        raise ValueError(f"{len(body)} bytes of pixels where {count * dtype.itemsize} were promised")
    refuse(bool(bytes(body[count * dtype.itemsize :]).strip()), "one image", "more after its last row")
    return np.frombuffer(body, dtype, count)


def _plain(body: bytes, count: int, bits: bool) -> np.ndarray:
    words = re.sub(rb"#[^\n\r]*", b"", body).split()
    if bits:  # digits need no space between them
        words = [bytes([c]) for c in b"".join(words)]
    if len(words) != count or not all(w.isdigit() and len(w) < 9 for w in words):
        raise ValueError(f"{len(words)} values where {count} whole numbers were promised")
    return np.array([int(w) for w in words], np.uint32)
