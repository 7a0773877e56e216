"""PNG of all depths, without loss: libpng is shown the chunks that make pixels, the others are looked at here."""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np

from fastrecon.io.jpeg import exif_orientation
from fastrecon.io.limits import bounded, refuse
from fastrecon.io.raster import Raster

MAGIC = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # of the others libpng would make remarks on stderr
_EXIF_AS_TEXT, _XMP = b"Raw profile type", b"XML:com.adobe.xm"  # how texts with an orientation begin
_PALETTE = 3


def decode(data: bytes) -> Raster:
    """The one image of a file: grey of 1 to 8 bits on [0, 255], palettes looked up, transparency as alpha.

    Raises:
        Refused: an animation, or too large.
        Exception: the file is damaged.
    """
    import imagecodecs

    chunks = list(_chunks(data))
    names = {name for name, _ in chunks}
    if not chunks or chunks[0][0] != b"IHDR" or b"IEND" not in names:
        raise ValueError("no IHDR at its start or no IEND at its end")
    width, height, _, colour = struct.unpack(">IIBB", chunks[0][1][8:18])
    bounded(height, width)
    refuse(b"acTL" in names, "one image", "an animation (APNG)")
    if colour == _PALETTE:
        _check_palette(data)
    pixels = imagecodecs.png_decode(MAGIC + b"".join(chunk for name, chunk in chunks if name in _PIXELS))
    turned = b"eXIf" in names or any(bytes(c[8:24]) in (_EXIF_AS_TEXT, _XMP) for _, c in chunks)
    orientation = _orientation(data) if turned else 1
    notes = ["palette looked up"] if colour == _PALETTE else []
    return Raster(pixels, 65535 if pixels.dtype.itemsize == 2 else 255, orientation, notes)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Name and bytes of each chunk up to IEND, length and checksum among them.

    Raises:
        ValueError: a chunk is damaged.
    """
    view, at, name = memoryview(data), len(MAGIC), b""
    while name != b"IEND" and at + 12 <= len(data):
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        name = bytes(view[at + 4 : at + 8])
        if end > len(data) or zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise ValueError(f"chunk {name!r} is cut off, or its checksum is wrong")
        yield name, view[at:end]
        at = end


def _check_palette(data: bytes) -> None:
    """That every pixel has a colour: libpng makes black of one beyond the palette, and says nothing."""
    from PIL.PngImagePlugin import PngImageFile

    with PngImageFile(BytesIO(data)) as im:
        colours, highest = len(im.palette.palette) // 3 if im.palette else 0, int(np.asarray(im).max())
    if highest >= colours:
        raise ValueError(f"colour {highest} of a palette of {colours}")


def _orientation(data: bytes) -> int:
    from PIL.PngImagePlugin import PngImageFile

    with PngImageFile(BytesIO(data)) as im:
        return exif_orientation(im)
