"""PNG of all depths, without loss: by libpng, after a look at the chunks that it would pass over."""

import struct
from collections.abc import Iterator
from io import BytesIO

from fastrecon.io.limits import bounded, refuse
from fastrecon.io.raster import Raster

MAGIC = b"\x89PNG\r\n\x1a\n"
_WITH_ORIENTATION = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # as EXIF, as its hexadecimal text, or as XMP


def decode(data: bytes) -> Raster:
    """The one image of a file: grey of 1 to 8 bits on [0, 255], palettes looked up, transparency as alpha.

    Raises:
        Refused: an animation, or too large.
        Exception: the file is damaged.
    """
    import imagecodecs

    chunks = list(_chunks(data))
    names = {name for name, _ in chunks}
    if chunks[:1] == [] or chunks[0][0] != b"IHDR" or b"IEND" not in names:
        raise ValueError("no IHDR at its start or no IEND at its end")
    width, height = struct.unpack(">II", chunks[0][1][:8])
    bounded(height, width)
    refuse(b"acTL" in names, "one image", "an animation (APNG)")
    pixels = imagecodecs.png_decode(data)
    notes = ["palette looked up"] if chunks[0][1][9] == 3 else []
    orientation = _orientation(data) if names.intersection(_WITH_ORIENTATION) else 1
    return Raster(pixels, 65535 if pixels.dtype.itemsize == 2 else 255, orientation, notes)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and first bytes of each chunk up to IEND."""
    at, name = len(MAGIC), b""
    while name != b"IEND" and at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name = data[at + 4 : at + 8]
        yield name, data[at + 8 : at + 8 + min(length, 16)]
        at += 12 + length


def _orientation(data: bytes) -> int:
    from PIL.PngImagePlugin import PngImageFile

    from fastrecon.io.jpeg import exif_orientation

    with PngImageFile(BytesIO(data)) as im:
        return exif_orientation(im)
