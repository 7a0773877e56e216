"""TIFF files made byte by byte from known images: every tag that changes pixels, and all that is refused."""

import itertools
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

pytest.importorskip("tifffile")

import imagecodecs
import tifffile

from fastrecon import io

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 5, 7
WHITE, BLACK, RGB, PALETTE, MASK, CMYK, YCBCR, LAB = 0, 1, 2, 3, 4, 5, 6, 8
# which side of the image the first row and the first column of the file show (TIFF 6.0, section 8)
SIDES = {
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip
UINTS = {f"uint{bits}": (1, bits) for bits in (1, 2, 4, 6, 8, 10, 12, 14, 16)}
FLOATS = {f"float{bits}": (3, bits) for bits in (16, 32, 64)}
LAYOUTS = ({"rows": HEIGHT}, {"rows": 2}, {"tile": 16})


def stored(seen, orientation):
    """The rows and columns of a file that shows the image `seen` [H, W, S], pixel by pixel."""
    height, width = seen.shape[:2]
    first_row, first_column = SIDES[orientation]
    turned = orientation >= 5
    out = np.empty((width, height, *seen.shape[2:]) if turned else seen.shape, seen.dtype)
    for y, x in np.ndindex(height, width):
        down, right = (x, y) if turned else (y, x)
        row = down if first_row in ("top", "left") else (width if turned else height) - 1 - down
        column = right if first_column in ("top", "left") else (height if turned else width) - 1 - right
        out[row, column] = seen[y, x]
    return out


def packed(block, bits, order):
    """Bytes of [rows, n] numbers, each row padded to a whole byte."""
    if block.dtype.kind in "fi" or bits in (8, 16, 32):
        return block.astype(np.dtype(f"{order}{block.dtype.kind}{bits // 8}")).tobytes()
    rows = ("".join(format(int(v), f"0{bits}b") for v in row) for row in block)
    return b"".join(int(r, 2).to_bytes(len(r) // 8, "big") for r in (r + "0" * (-len(r) % 8) for r in rows))


def tiff(
    path, a, bits, form=1, kind=BLACK, order="<", rows=None, tile=None, planar=1, tags=None, encode=bytes, big=False
):
    """Writes [H, W] or [H, W, S] as they are; `tags` {code: (type, values)} are added, or left out where None."""
    a = a[..., None] if a.ndim == 2 else a
    height, width, samples = a.shape
    step, across = (tile, tile) if tile else (rows or height, width)
    planes = np.moveaxis(a, 2, 0)[..., None] if planar == 2 else a[None]
    blocks = []
    for plane, top, left in itertools.product(planes, range(0, height, step), range(0, width, across)):
        block = plane[top : top + step, left : left + across]
        if tile:
            block = np.pad(block, [(0, step - block.shape[0]), (0, across - block.shape[1]), (0, 0)])
        blocks.append(encode(packed(block.reshape(len(block), -1), bits, order)))
    offset, length = (324, 325) if tile else (273, 279)
    start = 16 if big else 8
    places = list(itertools.accumulate([start, *(len(b) + len(b) % 2 for b in blocks)]))
    entries = {
        256: ("H", [width]), 257: ("H", [height]), 258: ("H", [bits] * samples), 259: ("H", [1]), 262: ("H", [kind]),
        277: ("H", [samples]), 284: ("H", [planar]), 339: ("H", [form] * samples),
        offset: ("L", places[:-1]), length: ("L", [len(b) for b in blocks]),
        **({322: ("H", [tile]), 323: ("H", [tile])} if tile else {278: ("H", [step])}),
    } | (tags or {})  # fmt: skip
    entries = {code: e for code, e in sorted(entries.items()) if e is not None}
    types, pointer, count = {"B": 1, "s": 2, "H": 3, "L": 4, "Q": 16}, *(("Q", "Q") if big else ("L", "H"))
    inline = struct.calcsize("<" + pointer)
    at = places[-1] + struct.calcsize("<" + count) + len(entries) * (4 + 2 * inline) + inline
    directory, beyond = struct.pack(order + count, len(entries)), b""
    for code, (letter, values) in entries.items():
        value = struct.pack(f"{order}{len(values)}{letter}", *values) if letter != "s" else values
        directory += struct.pack(f"{order}HH{pointer}", code, types[letter], len(values))
        if len(value) > inline:
            directory += struct.pack(order + pointer, at + len(beyond))
            beyond += value + b"\0" * (len(value) % 2)
        else:
            directory += value.ljust(inline, b"\0")
    directory += struct.pack(order + pointer, 0)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HHQ", 8, 0, places[-1]) if big else struct.pack(order + "L", places[-1])
    path.write_bytes(head + b"".join(b + b"\0" * (len(b) % 2) for b in blocks) + directory + beyond)
    return path


def picture(form, bits, channels=()):
    """A random image, black 0 and white `full`, whose values its type holds exactly."""
    shape = (HEIGHT, WIDTH, *channels)
    if form == 3:
        return RNG.random(shape).astype(f"f{bits // 8}"), 1
    return RNG.integers(0, 2**bits, shape).astype(np.uint16), 2**bits - 1


def check(path, right, **case):
    try:
        found = io.read_image(path)
    except ValueError as e:
        raise AssertionError(str(case)) from e
    np.testing.assert_allclose(found.pixels, right, rtol=0, atol=1e-7, err_msg=str(case))
    return found


@pytest.mark.parametrize("kind", [WHITE, BLACK], ids=["white", "black"])
@pytest.mark.parametrize("name", [*UINTS, *FLOATS])
def test_grey_of_every_depth_order_orientation_and_layout(tmp_path, name, kind):
    form, bits = (UINTS | FLOATS)[name]
    seen, full = picture(form, bits)
    for orientation, order, layout in itertools.product(SIDES, "<>", LAYOUTS):
        a = stored(seen if kind == BLACK else full - seen, orientation)
        case = {"orientation": orientation, "order": order, **layout}
        tiff(tmp_path / "x.tif", a, bits, form, kind, order, **layout, tags={274: ("H", [orientation])})
        right = seen.astype(float) / full
        if kind == WHITE and form == 3:
            right = 1 - (full - seen).astype(float)  # the file holds 1 - x as rounded to its own type
        found = check(tmp_path / "x.tif", right, **case)
        assert found.pixels.flags.c_contiguous
        assert found.notes == (), case


@pytest.mark.parametrize("name", ["uint4", "uint8", "uint12", "uint16", "float16", "float32", "float64"])
def test_colour_of_every_depth_order_orientation_and_layout(tmp_path, name):
    form, bits = (UINTS | FLOATS)[name]
    seen, full = picture(form, bits, (3,))
    right = seen.astype(float) @ (0.299, 0.587, 0.114) / full
    for orientation, order, planar, layout in itertools.product(SIDES, "<>", (1, 2), LAYOUTS):
        tags = {274: ("H", [orientation])}
        tiff(tmp_path / "x.tif", stored(seen, orientation), bits, form, RGB, order, planar=planar, tags=tags, **layout)
        check(tmp_path / "x.tif", right, orientation=orientation, order=order, planar=planar, **layout)


def packbits(data):
    return imagecodecs.packbits_encode(data)


@pytest.mark.parametrize(("code", "encode"), [(5, imagecodecs.lzw_encode), (8, zlib.compress), (32773, packbits)])
@pytest.mark.parametrize("bits", [1, 8, 12, 16])
def test_compressed(tmp_path, bits, code, encode):
    seen, full = picture(1, bits)
    for order, layout in itertools.product("<>", LAYOUTS):
        tags = {259: ("H", [code])}
        tiff(tmp_path / "x.tif", full - seen, bits, 1, WHITE, order, encode=encode, tags=tags, **layout)
        check(tmp_path / "x.tif", seen / full, order=order, **layout)


@pytest.mark.parametrize("bits", [8, 16])
def test_horizontal_differences(tmp_path, bits):
    seen, full = picture(1, bits)
    differences = np.diff(seen.astype(int), axis=1, prepend=0) % 2**bits
    for order, layout in itertools.product("<>", LAYOUTS):
        tags, a = {317: ("H", [2]), 259: ("H", [8])}, differences.astype(np.uint16)
        tiff(tmp_path / "x.tif", a, bits, order=order, encode=zlib.compress, tags=tags, **layout)
        check(tmp_path / "x.tif", seen / full, order=order, **layout)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_differences_of_floats(tmp_path, kind):
    seen = RNG.random((HEIGHT, WIDTH)).astype(kind)
    tifffile.imwrite(tmp_path / "x.tif", seen, predictor=True, compression="deflate")
    with tifffile.TiffFile(tmp_path / "x.tif") as tiff_:
        assert tiff_.pages.first.predictor == 3
    check(tmp_path / "x.tif", seen)


@pytest.mark.parametrize("bits", [1, 4, 8, 12])
def test_bits_from_the_right(tmp_path, bits):
    seen, full = picture(1, bits)
    flip = bytes(int(format(v, "08b")[::-1], 2) for v in range(256))
    for order, layout in itertools.product("<>", LAYOUTS):
        tags = {266: ("H", [2])}
        tiff(tmp_path / "x.tif", seen, bits, order=order, encode=lambda b: b.translate(flip), tags=tags, **layout)
        check(tmp_path / "x.tif", seen / full, order=order, **layout)


def test_fax(tmp_path):
    seen = RNG.integers(0, 2, (40, 70), dtype=np.uint8)
    from PIL import Image

    for method in ("group3", "group4", "tiff_ccitt"):
        Image.fromarray(seen.astype(bool)).save(tmp_path / "x.tif", compression=method)
        check(tmp_path / "x.tif", seen, method=method)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("scale", [1, 256, 257, "any"])
def test_palettes(tmp_path, bits, scale):
    index = RNG.integers(0, 2**bits, (HEIGHT, WIDTH)).astype(np.uint16)
    colours = RNG.integers(0, 256, (2**bits, 3))
    colours[-1] = 255
    written = RNG.integers(256, 65536, colours.shape) | 1 if scale == "any" else colours * scale
    right = written / 65535 if scale == "any" else colours / 255
    for orientation, order in itertools.product((1, 6), "<>"):
        tags = {320: ("H", written.T.ravel().tolist()), 274: ("H", [orientation])}
        tiff(tmp_path / "x.tif", stored(index, orientation), bits, 1, PALETTE, order, tags=tags)
        found = check(tmp_path / "x.tif", right[index] @ (0.299, 0.587, 0.114))
        assert found.notes[0] == "palette looked up"


@pytest.mark.parametrize("bits", [8, 16])
def test_inks(tmp_path, bits):
    a, full = picture(1, bits, (4,))
    light = (1 - a[..., :3] / full) * (1 - a[..., 3:] / full)
    for planar in (1, 2):
        tiff(tmp_path / "x.tif", a, bits, 1, CMYK, planar=planar)
        found = check(tmp_path / "x.tif", light @ (0.299, 0.587, 0.114))
        assert found.notes[0] == "CMYK converted to RGB"


@pytest.mark.parametrize("meaning", [0, 1, 2, None])
@pytest.mark.parametrize("kind", [WHITE, BLACK, RGB])
@pytest.mark.parametrize(("form", "bits"), [(1, 8), (1, 16), (3, 32)])
def test_alpha(tmp_path, meaning, kind, form, bits):
    seen, full = picture(form, bits, (3 if kind == RGB else 1,))
    alpha = np.full((HEIGHT, WIDTH, 1), full, seen.dtype)
    tags = {} if meaning is None else {338: ("H", [meaning])}
    a = np.concatenate((full - seen if kind == WHITE else seen, alpha), 2)
    right = seen.astype(float) @ ((0.299, 0.587, 0.114) if kind == RGB else (1,)) / full
    for planar in (1, 2):
        tiff(tmp_path / "x.tif", a, bits, form, kind, planar=planar, tags=tags)
        found = check(tmp_path / "x.tif", right, planar=planar)
        assert found.notes[0] == "opaque alpha channel dropped"
    a[2, 3, -1] = full / 2
    tiff(tmp_path / "x.tif", a, bits, form, kind, tags=tags)
    with pytest.raises(ValueError, match="transparent pixels" if meaning else "unspecified meaning"):
        io.read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("order", ["<", ">"])
def test_bigtiff(tmp_path, order):
    seen, full = picture(1, 16)
    check(tiff(tmp_path / "x.tif", full - seen, 16, 1, WHITE, order, big=True, rows=2), seen / full)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".TIF", ""])
def test_contents_decide_not_the_name(tmp_path, suffix):
    seen, full = picture(1, 12)
    check(tiff(tmp_path / f"x{suffix}", seen, 12), seen / full)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_shapes(tmp_path, shape):
    seen = RNG.integers(0, 65536, shape, dtype=np.uint16)
    check(tiff(tmp_path / "x.tif", stored(seen, 6), 16, tags={274: ("H", [6])}), seen / 65535)


def test_jpeg_inside(tmp_path):
    smooth = (2 * np.add.outer(np.arange(32), np.arange(48)) + 40).astype(np.uint16)
    colour = np.stack((smooth, 255 - smooth, smooth // 2), 2)
    for kind, a, spaces in ((BLACK, smooth, {}), (RGB, colour, ("rgb", "rgb")), (YCBCR, colour, ("rgb", "ycbcr"))):
        options = dict(zip(("colorspace", "outcolorspace"), spaces, strict=False))
        stream = imagecodecs.jpeg8_encode(a.astype(np.uint8), level=100, **options)
        tiff(tmp_path / "x.tif", a, 8, 1, kind, tags={259: ("H", [7])}, encode=lambda _, stream=stream: stream)
        right = a / 255 if a.ndim == 2 else a @ (0.299, 0.587, 0.114) / 255
        np.testing.assert_allclose(io.read_image(tmp_path / "x.tif").pixels, right, atol=0.02, err_msg=str(kind))


def test_values_of_twelve_bits_in_sixteen_are_remarked(tmp_path):
    seen = RNG.integers(0, 4096, (HEIGHT, WIDTH)).astype(np.uint16)
    seen[0, 0] = 4000
    found = check(tiff(tmp_path / "x.tif", seen, 16, tags={281: ("H", [4095])}), seen / 65535)
    assert found.notes[0] == "MaxSampleValue 4095 not applied, as TIFF 6.0 says: white is 65535"
    assert "12 bits or fewer" in found.notes[1]


GREY8 = picture(1, 8)[0]
RGB8 = picture(1, 8, (3,))[0]


def made(a=GREY8, bits=8, form=1, kind=BLACK, **options):
    tags = {code: e and ("H", e) for code, e in options.pop("tags", {}).items()}
    return lambda path: tiff(path, a, bits, form, kind, tags=tags, **options)


def two_pages(path):
    tifffile.imwrite(path, np.stack([GREY8, GREY8]).astype(np.uint8), photometric="minisblack")


def stack_in_one_page(path):
    tifffile.imwrite(path, np.zeros((3, 5, 7), np.uint8), photometric="minisblack", truncate=True)


def imagej_stack(path):
    tifffile.imwrite(path, np.zeros((3, 5, 7), np.uint8), imagej=True)
    data = bytearray(path.read_bytes())
    # ImageJ itself writes one directory for stacks beyond 4 GiB: the first one, made the last
    order = "<" if data[:1] == b"I" else ">"
    (at,) = struct.unpack_from(order + "L", data, 4)
    (entries,) = struct.unpack_from(order + "H", data, at)
    struct.pack_into(order + "L", data, at + 2 + 12 * entries, 0)
    path.write_bytes(data)


def jpeg_larger_than_its_strip(path):
    stream = imagecodecs.jpeg8_encode(np.zeros((64, 64), np.uint8))
    tiff(path, GREY8, 8, encode=lambda _: stream, tags={259: ("H", [7])})


REFUSED = {
    "none": (made(tags={262: None}), "expected PhotometricInterpretation grey, RGB, palette, CMYK or YCbCr, got none"),
    "mask": (made(kind=MASK), "got MASK"),
    "lab": (made(RGB8, kind=LAB), "got CIELAB"),
    "colour filters": (made(kind=32803), "got CFA"),
    "logarithms": (made(kind=32844), "got LOGL"),
    "unknown": (made(kind=77), "got 77"),
    "signed 8": (made(GREY8.astype(np.int16) // 2, form=2), "got INT (8 bits)"),
    "signed 16": (made(-GREY8.astype(np.int16), bits=16, form=2), "got INT (16 bits)"),
    "void": (made(form=4), "got VOID (8 bits)"),
    "complex": (made(np.zeros((5, 7), np.float32), bits=64, form=6), "got COMPLEXIEEEFP"),
    "32 bits": (made(GREY8.astype(np.uint32), bits=32), "got 32 bits"),
    "5 6 5": (made(RGB8, kind=RGB, tags={258: [8, 8, 16]}), "got (8, 8, 16) bits"),
    "grey of three": (made(RGB8), "expected 1 samples a pixel of MINISBLACK, or one more for alpha, got 3"),
    "colour of two": (made(RGB8[..., :2], kind=RGB), "got 2"),
    "five": (made(np.zeros((5, 7, 5), np.uint16), kind=RGB), "got 5"),
    "alpha of nine": (made(RGB8[..., :2], tags={338: [9]}), "ExtraSamples that say"),
    "raw YCbCr": (made(RGB8, kind=YCBCR), "YCbCr compressed as JPEG"),
    "other inks": (made(np.zeros((5, 7, 4), np.uint16), kind=CMYK, tags={332: [2]}), "InkSet 1, got"),
    "dots": (made(np.zeros((5, 7, 4), np.uint16), kind=CMYK, tags={336: [16, 235]}), "DotRange"),
    "orientation": (made(tags={274: [9]}), "Orientation 1 to 8, got 9"),
    "response": (made(tags={291: list(range(256))}), "GrayResponseCurve"),
    "predictor": (made(tags={317: [7], 259: [8]}, encode=zlib.compress), "Predictor 3 or less"),
    "bare predictor": (made(tags={317: [2]}), "Predictor 1 or less with that compression, got 2"),
    "volume": (made(tags={32997: [5]}), "ImageDepth 1, got 5"),
    "compression": (made(tags={259: [34712]}), "no compression, CCITT, LZW, JPEG, deflate or PackBits, got JPEG2000"),
    "thumbnail": (made(tags={254: [1]}), "NewSubfileType 1: reduced or a mask"),
    "pages": (two_pages, "2 pages"),
    "subdirectories": (made(tags={330: [8]}), "SubIFDs"),
    "stack": (stack_in_one_page, "3 in one page"),
    "ImageJ": (imagej_stack, "3 in one page"),
    "NaN": (made(np.full((5, 7), np.nan, np.float32), 32, 3), "NaN or Inf"),
    "scale": (made(np.full((5, 7), 255, np.float32), 32, 3), "[0, 1] scale, got [255, 255]"),
    "far": (made(np.full((5, 7), 1e300), 64, 3), "[0, 1] scale"),
    "empty": (made(tags={256: [0]}), "at least 1 x 1 pixels"),
    "bomb": (made(tags={256: [40000], 257: [40000]}), "at most 67108864 pixels (set FASTRECON_MAX_PIXELS for more)"),
    "bomb tile": (made(tile=16, tags={322: [65520], 323: [65520]}), "at most 67108864 pixels"),
}  # fmt: skip
DAMAGED = {
    "strips missing": made(rows=1, tags={273: [8, 16], 279: [7, 7]}),
    "strip outside": made(tags={273: [60000]}),
    "strip of nothing": made(tags={279: [0]}),
    "strip too short": made(tags={279: [20]}),
    "deflate of nothing": made(tags={259: [8]}),
    "deflate too short": made(encode=lambda _: zlib.compress(bytes(12)), tags={259: [8]}),
    "palette too short": made(kind=PALETTE, tags={320: [0] * 30}),
    "JPEG of nothing": made(tags={259: [7]}),
    "JPEG too large": jpeg_larger_than_its_strip,
    "header only": lambda p: p.write_bytes(b"II*\0\x08\0\0\0"),
    "directory beyond": lambda p: p.write_bytes(b"MM\0*\0\xff\0\0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(tmp_path, name):
    make, words = REFUSED[name]
    make(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=r"x\.tif: expected ") as e:
        io.read_image(tmp_path / "x.tif")
    assert words in str(e.value)
    assert "damaged" not in str(e.value)


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged(tmp_path, name, capfd):
    DAMAGED[name](tmp_path / "x.tif")
    with pytest.raises(ValueError, match=r"x\.tif: expected a readable image, got a damaged"):
        io.read_image(tmp_path / "x.tif")
    assert capfd.readouterr() == ("", "")


def test_every_truncation_is_told(tmp_path):
    seen, full = picture(1, 12)
    data = tiff(tmp_path / "x.tif", full - seen, 12, 1, WHITE, rows=2, tags={274: ("H", [3])}).read_bytes()
    check(tmp_path / "x.tif", stored(seen, 3) / full)
    for size in range(1, len(data)):
        (tmp_path / "x.tif").write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"x\.tif: expected"):
            io.read_image(tmp_path / "x.tif")


def test_a_bomb_of_deflate_stays_small(tmp_path):
    tiff(tmp_path / "x.tif", GREY8, 8, encode=lambda _: zlib.compress(bytes(10**7)), tags={259: ("H", [8])})
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"x\.tif: expected a readable image, got a damaged"):
            io.read_image(tmp_path / "x.tif")
        assert tracemalloc.get_traced_memory()[1] < 2 * 10**6
    finally:
        tracemalloc.stop()


def test_the_limit_can_be_raised(tmp_path, monkeypatch):
    tiff(tmp_path / "x.tif", GREY8, 8)
    monkeypatch.setenv("FASTRECON_MAX_PIXELS", "34")
    with pytest.raises(ValueError, match=r"at most 34 pixels .*, got 5 x 7"):
        io.read_image(tmp_path / "x.tif")
    monkeypatch.setenv("FASTRECON_MAX_PIXELS", "35")
    check(tmp_path / "x.tif", GREY8 / 255)
    monkeypatch.setenv("FASTRECON_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match=r"FASTRECON_MAX_PIXELS to be a whole number > 0, got 'many'"):
        io.read_image(tmp_path / "x.tif")
