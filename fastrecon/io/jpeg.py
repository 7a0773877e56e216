"""JPEG and BMP, by Pillow: 8 bits a channel."""

import struct
from io import BytesIO
from typing import Any

import numpy as np

from fastrecon.io.limits import Refused, bounded, refuse
from fastrecon.io.raster import Raster

JPEG_MAGIC, BMP_MAGIC = b"\xff\xd8\xff", b"BM"
ORIENTATION = 0x0112  # the tag, of TIFF and EXIF alike
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF markers


def decode(data: bytes) -> Raster:
    """The one image of a JPEG or BMP file.

    Raises:
        Refused: several images, 12 bits a channel, or too large.
        Exception: the file is damaged.
    """
    # the classes, not Image.open: that has a limit of its own, and warns of it on its own
    from PIL.BmpImagePlugin import BmpImageFile
    from PIL.JpegImagePlugin import jpeg_factory

    jpeg = data.startswith(JPEG_MAGIC)
    if jpeg:
        precision, height, width = frame(data)
        bounded(height, width)
        refuse(precision != 8, "a JPEG of 8 bits a channel", f"{precision} bits")
    with (jpeg_factory if jpeg else BmpImageFile)(BytesIO(data)) as im:
        bounded(im.height, im.width)
        frames = getattr(im, "n_frames", 1)
        refuse(frames > 1, "one image", f"{frames} frames")
        orientation, notes = exif_orientation(im), []
        if im.mode == "P":
            im, notes = im.convert("RGB"), ["palette looked up"]
        elif im.mode == "CMYK":
            im, notes = im.convert("RGB"), ["CMYK converted to RGB"]
        if im.mode not in ("1", "L", "RGB", "RGBA"):
            raise Refused(f"expected grey, RGB or CMYK, got {im.mode}")
        pixels = np.asarray(im)
    return Raster(pixels, 1 if pixels.dtype == bool else 255, orientation, notes)


def exif_orientation(im: Any) -> int:
    """What EXIF or XMP of a Pillow image says, 1 if nothing or nothing known, as viewers take it."""
    found = im.getexif().get(ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def frame(data: bytes) -> tuple[int, int, int]:
    """Bits a channel, height and width that the first frame header of a JPEG stream promises.

    Raises:
        ValueError: there is none.
    """
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF or marker == 1 or 0xD0 <= marker <= 0xD8:  # fill bytes, markers without contents
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES:
            precision, height, width = struct.unpack_from(">BHH", data, at + 4)
            return precision, height, width
        (length,) = struct.unpack_from(">H", data, at + 2)
        at += 2 + length
    raise ValueError("no frame header in a JPEG stream")
