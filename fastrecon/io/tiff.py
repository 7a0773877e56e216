"""TIFF, by tifffile: every tag that changes pixels is obeyed or refused by name. Source: TIFF 6.0 and supplements."""

import logging
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np

from fastrecon.io import jpeg
from fastrecon.io.limits import bounded, refuse
from fastrecon.io.raster import Raster

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

WHITE, BLACK, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6  # PhotometricInterpretation
SAMPLES = {WHITE: 1, BLACK: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # SampleFormat
DEPTHS = {UNSIGNED: range(1, 17), FLOAT: (16, 24, 32, 64)}
NUMBERS = DEPTHS | {UNSIGNED: (*range(1, 17), 32), SIGNED: (8, 16, 32)}  # on a scale of their own
NONE, JPEG = 1, 7
WITH_PREDICTOR = (5, 8, 32946, 34925, 50000)  # elsewhere some readers apply it and some do not
# none, CCITT, LZW, JPEG, deflate, PackBits, LZMA, Zstandard: those whose results have a bound before they are made
COMPRESSIONS = (NONE, 2, 3, 4, 5, JPEG, 8, 32946, 32773, 34925, 50000)
# values of tags that are understood; any other changes pixels in a way that is not followed here
PLAIN = {
    "ImageDepth": (1,), "TileDepth": (1,), "InkSet": (1,), "Indexed": (0,),
    "GrayResponseCurve": (), "Decode": (),
}  # fmt: skip
logging.getLogger("tifffile").addHandler(logging.NullHandler())  # else remarks on odd tags go to stderr


def decode(file: IO[bytes], numbers: bool = False) -> Raster:
    """The one image of a file: unsigned integers of 1 to 16 bits or floats; grey, RGB, palette, CMYK, JPEG's YCbCr.

    With `numbers` also signed integers, and unsigned ones of 32 bits, on a scale of their own.

    Raises:
        Refused: several images, another kind of image, or too large.
        Exception: the file is damaged.
    """
    from tifffile import TiffFile

    with TiffFile(file) as tiff:
        page = tiff.pages.first
        _check_kind(page, NUMBERS if numbers else DEPTHS)
        _check_alone(tiff, page)
        _check_storage(page, tiff.filehandle)
        a = page.asarray()
        if page.planarconfig == 2 and page.samplesperpixel > 1:
            a = np.moveaxis(a, 0, -1)
        return _raster(page, a.reshape(page.imagelength, page.imagewidth, page.samplesperpixel))


def check_rows(file: Any, page: Any) -> None:
    """Looks at a file of which rows are read: one grey image, upright, of whole numbers of 8 or 16 bits or of floats.

    Raises:
        Refused: another kind of image.
        ValueError: the file is damaged.
    """
    _check_alone(file, page)
    kind: Any = _tag(page, "PhotometricInterpretation")
    refuse(
        kind != BLACK or page.samplesperpixel != 1,
        "one grey channel, black 0",
        f"{_name(kind)}, {page.samplesperpixel}",
    )
    depths = {UNSIGNED: (8, 16), FLOAT: (32, 64)}
    right = page.bitspersample in depths.get(page.sampleformat, ())
    refuse(not right, "8 or 16 bits, or floats of 32 or 64", f"{page.bitspersample} bits, {_name(page.sampleformat)}")
    refuse(int(_tag(page, "Orientation", 1)) not in (0, 1), "Orientation 1", _tag(page, "Orientation", 1))
    _check_storage(page, file.filehandle, by_rows=True)


def _tag(page: Any, name: str, default: Any = None) -> Any:
    tag = page.tags.get(name)
    return default if tag is None else tag.value


def _name(value: Any) -> str:
    """That of a member of tifffile's enumerations, or what else came."""
    return "none" if value is None else str(getattr(value, "name", value))


def _check_kind(page: Any, depths: Mapping[int, Sequence[int]]) -> None:
    """That of a pixel: what its numbers are and what they mean."""
    bounded(page.imagelength, page.imagewidth)
    kind: Any = _tag(page, "PhotometricInterpretation")
    bits, samples = page.bitspersample, page.samplesperpixel
    refuse(
        kind not in SAMPLES,
        "PhotometricInterpretation grey, RGB, palette, CMYK or YCbCr",
        _name(kind),
    )
    sample_format, name = page.sampleformat, _name(page.sampleformat)
    refuse(sample_format not in depths, "SampleFormat UINT or IEEEFP", f"{name} ({bits} bits)")
    refuse(bits not in depths[sample_format], "1 to 16 bits, or floats of 16 to 64", f"{bits} bits, {name}")
    extra = samples - SAMPLES[kind]
    refuse(
        extra not in (0, 1) or (extra == 1 and kind not in (WHITE, BLACK, RGB)),
        f"{SAMPLES[kind]} samples a pixel of {_name(kind)}, or one more for alpha",
        samples,
    )
    whole = sample_format == UNSIGNED
    refuse(kind in (PALETTE, CMYK, YCBCR) and not whole, f"whole numbers for {_name(kind)}", name)
    refuse(
        kind == YCBCR and (page.compression != JPEG or page.planarconfig != 1),
        "YCbCr compressed as JPEG",
        f"compression {_name(page.compression)}",
    )
    refuse(kind == CMYK and page.compression == JPEG, "CMYK without JPEG", "JPEG, whose inks may be inverted")
    for tag, allowed in PLAIN.items():
        value = _tag(page, tag)
        refuse(
            value is not None and value not in allowed,
            f"a TIFF without {tag}" if not allowed else f"{tag} {allowed[0]}",
            value,
        )
    if kind == CMYK:
        full = 2**bits - 1
        dots = np.ravel(_tag(page, "DotRange", (0, full))).tolist()
        refuse(dots != [0, full] * (len(dots) // 2), f"DotRange 0 to {full}", dots)
    if kind == YCBCR:
        black_white = _ratios(_tag(page, "ReferenceBlackWhite"), [0, 255, 128, 255, 128, 255])
        refuse(black_white != [0, 255, 128, 255, 128, 255], "ReferenceBlackWhite of full range", black_white)
        luma = _ratios(_tag(page, "YCbCrCoefficients"), [0.299, 0.587, 0.114])
        refuse(not np.allclose(luma, (0.299, 0.587, 0.114), atol=1e-3), "YCbCrCoefficients of BT.601", luma)


def _ratios(value: Any, default: list[float]) -> list[float]:
    """Rational numbers, which come as numerators and denominators in turn."""
    if value is None:
        return default
    pairs = np.ravel(value).astype(float).reshape(-1, 2)
    return (pairs[:, 0] / pairs[:, 1]).tolist()


def _check_alone(tiff: Any, page: Any) -> None:
    """That it is the only image, and no small or partial version of another."""
    refuse(len(tiff.pages) > 1, "one image", f"{len(tiff.pages)} pages")
    refuse("SubIFDs" in page.tags, "one image", "SubIFDs with others")
    refuse(bool(page.subfiletype & 0b101), "a full image", f"NewSubfileType {int(page.subfiletype)}: reduced or a mask")
    images = 1
    if page.is_imagej:
        images = int((tiff.imagej_metadata or {}).get("images", 1))
    elif page.is_shaped:
        pixels = page.imagelength * page.imagewidth * page.samplesperpixel
        images = int(np.prod((tiff.shaped_metadata or [{}])[0].get("shape", [pixels]))) / pixels
    elif page.is_stk:
        images = page.tags["UIC2tag"].count
    refuse(images != 1, "one image", f"{images:g} in one page")


def _check_storage(page: Any, file: Any, by_rows: bool = False) -> None:
    """That the file holds all that it promises, and nothing decodes to more; a plain strip is read whole or by rows."""
    known = page.compression in COMPRESSIONS
    refuse(not known, "no compression, CCITT, LZW, JPEG, deflate or PackBits", _name(page.compression))
    predictor = int(_tag(page, "Predictor", 1))
    predictors = (1, 2, 3) if page.compression in WITH_PREDICTOR else (1,)
    refuse(predictor not in predictors, f"Predictor {predictors[-1]} or less with that compression", predictor)
    limit = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    if page.is_tiled or page.compression != NONE or not by_rows:
        bounded(*limit)
    count = int(np.prod(page.chunked))
    starts, lengths = page.dataoffsets, page.databytecounts
    if not len(starts) == len(lengths) == count:
        raise ValueError(f"{len(starts)} strips or tiles where the size needs {count}")
    if any(n < 1 or s < 8 or s + n > file.size for s, n in zip(starts, lengths, strict=True)):
        raise ValueError("strips or tiles outside the file")
    if page.compression == NONE:
        row = -(-limit[1] * page.bitspersample * (page.samplesperpixel if page.planarconfig == 1 else 1) // 8)
        rows = count * limit[0] if page.is_tiled else page.imagelength * (count // -(-page.imagelength // limit[0]))
        if sum(lengths) < rows * row:
            raise ValueError(f"{sum(lengths)} bytes of pixels where the size needs {rows * row}")
    if page.compression != JPEG:
        return
    for start, length in zip(starts, lengths, strict=True):
        file.seek(start)
        bits, height, width = jpeg.frame(file.read(length))
        if bits != page.bitspersample or height > limit[0] or width > limit[1]:
            raise ValueError(f"a JPEG stream of {bits} bits, {height} x {width}, in a strip or tile of {limit}")


def _raster(page: Any, a: np.ndarray) -> Raster:
    """Black 0 and white `full` from [H, W, samples] as stored."""
    kind, bits, notes = _tag(page, "PhotometricInterpretation"), page.bitspersample, []
    named: list[int] = []
    full = 1 if page.sampleformat == FLOAT else 2**bits - 1
    own = page.sampleformat == SIGNED or (page.sampleformat == UNSIGNED and bits > 16)  # no known white
    refuse(own and kind != BLACK, "grey of low values black for such whole numbers", _name(kind))
    if page.sampleformat == UNSIGNED and a.size and a.max() > full:
        raise ValueError(f"a value of {a.max()} in {bits} bits")
    orientation = int(_tag(page, "Orientation", 1)) or 1  # 0 is common and means nothing was said
    refuse(orientation not in range(1, 9), "Orientation 1 to 8", orientation)
    for tag in ("MaxSampleValue", "MinSampleValue"):
        value = _tag(page, tag)
        given = None if value is None else int(np.max(value))
        if (
            given is not None
            and given != (full if tag.startswith("Max") else 0)
            and page.sampleformat == UNSIGNED
            and not own
        ):
            notes.append(f"{tag} {given} not applied, as TIFF 6.0 says: white is {full}")
    if kind == WHITE:
        a = a.copy()
        a[..., 0] = full - a[..., 0]  # alpha, if any, stays
    elif kind == PALETTE:
        a, full = _looked_up(page, a[..., 0], bits)
        notes.append("palette looked up")
    elif kind == CMYK:
        inks = a.astype(np.float64) / full
        a, full = (1 - inks[..., :3]) * (1 - inks[..., 3:]), 1
        notes.append("CMYK converted to RGB")
    if a.shape[2] == SAMPLES[kind] + 1 and kind in (WHITE, BLACK, RGB):
        named = np.ravel(_tag(page, "ExtraSamples", ())).tolist()
        refuse(named not in ([], [0], [1], [2]), "ExtraSamples that say what the last sample is", named)
        opaque = bool((a[..., -1] == full).all())
        refuse(named in ([], [0]) and not opaque, "ExtraSamples with alpha", "a sample of unspecified meaning")
    depth = bits if kind == CMYK else 0
    return Raster(a, None if own else full, orientation, notes, premultiplied=named == [1], bits=depth, suffix=".tif")


def _looked_up(page: Any, index: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """Colours of a palette, and white. Writers put 8-bit colours there in three ways."""
    colours = np.asarray(_tag(page, "ColorMap", ())).astype(np.uint16).reshape(-1)
    if colours.size != 3 * 2**bits:
        raise ValueError(f"a palette of {colours.size} numbers where {3 * 2**bits} were expected")
    colours, index = colours.reshape(3, -1).T, index.astype(np.uint16)  # bits come as booleans
    if colours.max() < 256:  # as they are
        return colours[index], 255
    if not (colours & 255).any():  # times 256; times 257, as it should be, gives the same on [0, 65535]
        return colours[index] >> 8, 255
    return colours[index], 65535
