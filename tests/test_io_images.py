"""PNG, netpbm, JPEG, BMP and NPY: the right pixels of every depth, and what is refused."""

import io as std
import struct
import zlib

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("imagecodecs")

import imagecodecs
from PIL import Image

from fastrecon import io

RNG = np.random.default_rng(0)
LUMA = np.array([0.299, 0.587, 0.114])
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6  # colour types of PNG
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
# starts and steps of the passes of Adam7: row, column
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def rows(a, bits):
    """Rows of a PNG, unfiltered, each padded to a whole byte."""
    out = b""
    for row in a.reshape(len(a), -1).tolist():
        text = "".join(format(v, f"0{bits}b") for v in row)
        text += "0" * (-len(text) % 8)
        out += b"\0" + int(text, 2).to_bytes(len(text) // 8, "big")
    return out


def png(path, a, bits, colour=GREY, before=b"", after=b"", interlaced=False):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", a.shape[1], a.shape[0], bits, colour, 0, 0, interlaced))
    passes = [a[r::down, c::right] for r, c, down, right in ADAM7] if interlaced else [a]
    data = zlib.compress(b"".join(rows(p, bits) for p in passes if p.size))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", data) + after + chunk(b"IEND", b""))
    return path


def picture(bits, colour=GREY, shape=(5, 7)):
    a = RNG.integers(0, 2**bits, (*shape, CHANNELS[colour]))
    return a[..., 0] if colour in (GREY, PALETTE) else a


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_png_grey(tmp_path, bits, interlaced):
    a = picture(bits)
    found = io.read_image(png(tmp_path / "x.png", a, bits, interlaced=interlaced))
    np.testing.assert_array_equal(found.pixels, (a / (2**bits - 1)).astype(np.float32))
    assert found.notes == ()


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_png_colour_without_loss(tmp_path, bits, interlaced):
    a = picture(bits, RGB)
    found = io.read_image(png(tmp_path / "x.png", a, bits, RGB, interlaced=interlaced))
    np.testing.assert_allclose(found.pixels, a @ LUMA / (2**bits - 1), rtol=0, atol=1e-7)
    assert found.notes == ("RGB converted to grey (BT.601 luma)",)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_png_palette(tmp_path, bits):
    colours, index = RNG.integers(0, 256, (2**bits, 3), dtype=np.uint8), picture(bits, PALETTE)
    path = png(tmp_path / "x.png", index, bits, PALETTE, chunk(b"PLTE", colours.tobytes()))
    np.testing.assert_allclose(io.read_image(path).pixels, colours[index] @ LUMA / 255, rtol=0, atol=1e-7)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_png_grey_of_one_transparent_value(tmp_path, bits):
    a = picture(bits)
    a[a == a[2, 3]] = 2**bits - 1 - a[2, 3]
    absent = 0 if bits == 1 and a.min() else next(v for v in range(2**bits) if not (a == v).any())
    found = io.read_image(png(tmp_path / "x.png", a, bits, GREY, chunk(b"tRNS", struct.pack(">H", absent))))
    np.testing.assert_array_equal(found.pixels, (a / (2**bits - 1)).astype(np.float32))
    assert found.notes == ("opaque alpha channel dropped",)
    png(tmp_path / "x.png", a, bits, GREY, chunk(b"tRNS", struct.pack(">H", int(a[1, 1]))))
    with pytest.raises(ValueError, match=r"x\.png: expected an opaque image, got transparent pixels"):
        io.read_image(tmp_path / "x.png")


@pytest.mark.parametrize("bits", [8, 16])
def test_png_colour_of_one_transparent_value(tmp_path, bits):
    a = picture(bits, RGB)
    almost = [int(a[1, 1, 0]), int(a[1, 1, 1]), int(a[1, 1, 2]) ^ 1]
    found = io.read_image(png(tmp_path / "x.png", a, bits, RGB, chunk(b"tRNS", struct.pack(">HHH", *almost))))
    np.testing.assert_allclose(found.pixels, a @ LUMA / (2**bits - 1), rtol=0, atol=1e-7)
    png(tmp_path / "x.png", a, bits, RGB, chunk(b"tRNS", struct.pack(">HHH", *map(int, a[1, 1]))))
    with pytest.raises(ValueError, match="transparent"):
        io.read_image(tmp_path / "x.png")


def test_png_texts_and_profiles_are_passed_over_in_silence(tmp_path, capfd):
    a = picture(8)
    odd = (
        chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile")) + chunk(b"tEXt", b"Software\0x") + chunk(b"sBIT", b"9")
    )
    np.testing.assert_array_equal(
        io.read_image(png(tmp_path / "x.png", a, 8, before=odd)).pixels, (a / 255).astype(np.float32)
    )
    assert capfd.readouterr() == ("", "")


def test_png_checksums_are_checked(tmp_path):
    data = png(tmp_path / "x.png", picture(8), 8, before=chunk(b"eXIf", Image.Exif().tobytes()[6:])).read_bytes()
    for name in (b"IHDR", b"eXIf", b"IDAT", b"IEND"):
        at = data.index(name) + 3
        (tmp_path / "x.png").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(ValueError, match="checksum is wrong"):
            io.read_image(tmp_path / "x.png")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colour", [GREY_ALPHA, RGB_ALPHA])
def test_png_alpha(tmp_path, bits, colour):
    a, full = picture(bits, colour), 2**bits - 1
    a[..., -1] = full
    right = a[..., :-1] @ (LUMA if colour == RGB_ALPHA else np.ones(1)) / full
    np.testing.assert_allclose(io.read_image(png(tmp_path / "x.png", a, bits, colour)).pixels, right, atol=1e-7)
    a[4, 6, -1] -= 1
    with pytest.raises(ValueError, match="transparent"):
        io.read_image(png(tmp_path / "x.png", a, bits, colour))


def test_png_palette_with_transparency(tmp_path):
    index, colours = picture(2, PALETTE), RNG.integers(0, 256, 12, dtype=np.uint8)
    for alpha, right in ((b"\xff\xff", True), (b"\xff\x80", False)):
        png(tmp_path / "x.png", index, 2, PALETTE, chunk(b"PLTE", colours.tobytes()) + chunk(b"tRNS", alpha))
        if right:
            assert io.read_image(tmp_path / "x.png").notes[1] == "opaque alpha channel dropped"
        else:
            with pytest.raises(ValueError, match="transparent"):
                io.read_image(tmp_path / "x.png")


# what each orientation does to an image, told by its corners: first row and first column of the file
TURNED = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.T, 6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].T, 8: lambda a: np.rot90(a),
}  # fmt: skip


@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    a = picture(16)
    right = TURNED[orientation](a / 65535).astype(np.float32)
    for place in ("before", "after"):
        path = png(tmp_path / "x.png", a, 16, **{place: chunk(b"eXIf", exif.tobytes()[6:])})
        np.testing.assert_array_equal(io.read_image(path).pixels, right)
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><y tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    path = png(tmp_path / "x.png", a, 16, before=chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    np.testing.assert_array_equal(io.read_image(path).pixels, right)
    smooth = np.add.outer(np.arange(16), 3 * np.arange(24)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "x.jpg", quality=100, exif=exif)
    np.testing.assert_allclose(io.read_image(tmp_path / "x.jpg").pixels, TURNED[orientation](smooth / 255), atol=0.01)


@pytest.mark.parametrize("orientation", [0, 9])
def test_unknown_orientation_in_exif_means_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    a = picture(8)
    path = png(tmp_path / "x.png", a, 8, before=chunk(b"eXIf", exif.tobytes()[6:]))
    np.testing.assert_array_equal(io.read_image(path).pixels, (a / 255).astype(np.float32))


def netpbm(kind, a, maxval=None, comment=False):
    plain, note = kind in ("P1", "P2", "P3"), " # 9 9 9\n" if comment else "\n"
    head = f"{kind}{note}{a.shape[1]}{note} {a.shape[0]}" + (f"{note}{maxval}\n" if maxval else "\n")
    if plain:
        return head.encode() + b"\n".join(b" ".join(b"%d" % v for v in row) for row in a.reshape(len(a), -1))
    return (
        head.encode()
        + (np.packbits(a.astype(bool), axis=1) if kind == "P4" else a.astype(">u2" if maxval > 255 else "u1")).tobytes()
    )


@pytest.mark.parametrize("comment", [False, True])
@pytest.mark.parametrize("kind", ["P1", "P2", "P3", "P4", "P5", "P6"])
def test_netpbm(tmp_path, kind, comment):
    for maxval in (None,) if kind in ("P1", "P4") else (1, 100, 255, 256, 4095, 65535):
        a = RNG.integers(0, (maxval or 1) + 1, (5, 11, *((3,) if kind in ("P3", "P6") else ())))
        (tmp_path / "x.pgm").write_bytes(netpbm(kind, a, maxval, comment))
        right = 1 - a if maxval is None else a / maxval
        right = right @ LUMA if a.ndim == 3 else right
        np.testing.assert_allclose(io.read_image(tmp_path / "x.pgm").pixels, right, rtol=0, atol=1e-7)


def test_plain_bits_need_no_space(tmp_path):
    (tmp_path / "x.pbm").write_bytes(b"P1 3 2\n010\n1 10")
    np.testing.assert_array_equal(io.read_image(tmp_path / "x.pbm").pixels, [[1, 0, 1], [0, 0, 1]])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["Pf", "PF"])
def test_pfm_counts_rows_from_the_bottom(tmp_path, kind, order):
    a = RNG.random((5, 7, *((3,) if kind == "PF" else ()))).astype(np.float32)
    scale = "-1.0" if order == "<" else "1.0"
    (tmp_path / "x.pfm").write_bytes(f"{kind}\n7 5\n{scale}\n".encode() + a[::-1].astype(order + "f4").tobytes())
    right = a if kind == "Pf" else a.astype(float) @ LUMA
    np.testing.assert_allclose(io.read_image(tmp_path / "x.pfm").pixels, right, rtol=0, atol=1e-7)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_bmp(tmp_path, mode):
    im = Image.fromarray(picture(8, RGB).astype(np.uint8)).convert(mode)
    im.save(tmp_path / "x.bmp")
    right = np.asarray(im.convert("RGB")) @ LUMA / 255
    np.testing.assert_allclose(io.read_image(tmp_path / "x.bmp").pixels, right, rtol=0, atol=1e-7)


def test_jpeg_of_inks(tmp_path):
    inks = np.full((16, 16, 4), (40, 80, 120, 30), np.uint8)
    Image.fromarray(inks, "CMYK").save(tmp_path / "x.jpg", quality=100)  # Adobe's way: inverted in the file
    found = io.read_image(tmp_path / "x.jpg")
    right = (1 - np.array([40, 80, 120]) / 255) * (1 - 30 / 255) @ LUMA
    np.testing.assert_allclose(found.pixels, right, atol=0.01)
    assert found.notes[0] == "CMYK converted to RGB"


@pytest.mark.parametrize("kind", ["<f4", ">f4", ">f8", "<f2", ">u2", "|u1", "|b1"])
@pytest.mark.parametrize("fortran", [False, True])
def test_npy_of_any_order(tmp_path, kind, fortran):
    a = (RNG.random((5, 7)) * {"u": 255, "f": 1, "b": 2}[np.dtype(kind).kind]).astype(kind)
    np.save(tmp_path / "x.npy", np.asfortranarray(a) if fortran else a)
    full = {"|u1": 255, ">u2": 65535}.get(kind, 1)
    np.testing.assert_array_equal(io.read_image(tmp_path / "x.npy").pixels, (a.astype(float) / full).astype(np.float32))


def headed(shape, descr="<f4", data=b"", version=1):
    """A .npy file whose header says what it likes."""
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data


def animated(path):
    png(path, picture(8), 8, before=chunk(b"acTL", struct.pack(">II", 1, 0)))


def two_frames(path):
    first, second = Image.fromarray(np.zeros((8, 8), np.uint8)), Image.fromarray(np.ones((8, 8), np.uint8))
    first.save(path, format="MPO", save_all=True, append_images=[second])


def deep_jpeg(path):
    path.write_bytes(imagecodecs.jpeg_encode(picture(12).astype(np.uint16), bitspersample=12))


def text(data):
    return lambda path: path.write_bytes(data)


def huge(path):
    header = struct.pack(">IIBBBBB", 40000, 40000, 1, 0, 0, 0, 0)
    zeros = chunk(b"IDAT", zlib.compress(bytes(10**6)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + zeros + chunk(b"IEND", b""))


def huge_jpeg(path):
    data = bytearray(imagecodecs.jpeg8_encode(np.zeros((16, 16), np.uint8)))
    at = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, 65000, 65000)
    path.write_bytes(data)


def huge_bmp(path):
    buffer = std.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(buffer, "BMP")
    data = bytearray(buffer.getvalue())
    struct.pack_into("<ii", data, 18, 60000, 60000)
    path.write_bytes(data)


BOMB = "at most 67108864 "
REFUSED = {
    "animated.png": (animated, "one image, got an animation"),
    "frames.jpg": (two_frames, "one image, got 2 frames"),
    "deep.jpg": (deep_jpeg, "8 bits a channel, got 12"),
    "huge.png": (huge, BOMB),
    "huge.jpg": (huge_jpeg, BOMB),
    "huge.bmp": (huge_bmp, BOMB),
    "huge.pgm": (text(b"P5 100000 100000 255\n\0\0"), BOMB),
    "huge.npy": (text(headed((10**5, 10**5), data=bytes(16))), BOMB),
    "empty.npy": (text(headed((0, 5))), "shape (0, 5)"),
    "empty.pgm": (text(b"P5 0 5 255\n"), "at least 1 x 1"),
    "empty.png": (lambda p: png(p, np.zeros((1, 0), int), 8), "at least 1 x 1"),
    "two.pgm": (text(2 * netpbm("P5", np.ones((2, 2), int), 255)), "one image, got more"),
    "scaled.pfm": (text(b"Pf 1 1 2.0\n" + bytes(4)), "scale 1 or -1, got 2"),
    "nan.pfm": (text(b"Pf 1 1 -1\n" + struct.pack("<f", np.nan)), "NaN or Inf"),
    "objects.npy": (text(headed((2, 2), "|O", b"cos\nsystem\n")), "Python objects"),
    "complex.npy": (lambda p: np.save(p, np.zeros((2, 2), complex)), "complex128"),
    "records.npy": (lambda p: np.save(p, np.zeros((2, 2), "f4,f4")), "void64"),
    "words.npy": (lambda p: np.save(p, np.full((2, 2), "x")), "str32"),
    "cube.npy": (lambda p: np.save(p, np.zeros((2, 3, 5))), "shape (2, 3, 5)"),
    "one.npy": (lambda p: np.save(p, np.float32(1)), "shape ()"),
    "far.npy": (lambda p: np.save(p, np.full((2, 2), 1e300)), "[0, 1] scale"),
}  # fmt: skip
DAMAGED = {
    "colours.png": lambda p: png(p, np.array([[0, 2]]), 2, PALETTE, chunk(b"PLTE", bytes(6))),
    "archive.npy": text(b"PK\3\4" + bytes(100)),
    "short.npy": text(headed((5, 7), data=bytes(100))),
    "long.npy": text(headed((5, 7), data=bytes(1000))),
    "future.npy": text(headed((5, 7), data=bytes(140), version=9)),
    "negative.npy": text(headed((-5, -7), data=bytes(140))),
    "code.npy": text(headed((5, 7), data=bytes(140)).replace(b"False", b"exit()")),
    "bits.npy": text(b"\x93NUMPY\x01\x00\xff\xff{"),
    "short.pgm": text(b"P5 5 5 255\n" + bytes(24)),
    "above.pgm": text(b"P5 1 1 7\n\x08"),
    "zero.pgm": text(b"P5 1 1 0\n\0"),
    "words.pgm": text(b"P2 2 1 255 1 x"),
    "few.pgm": text(b"P2 2 2 255 1 2 3"),
    "bare.pgm": text(b"P5"),
    "minus.pgm": text(b"P5 -5 5 255\n" + bytes(25)),
    "pam.pam": text(b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\n\0"),
    "bare.jpg": text(b"\xff\xd8\xff\xe0\0\0"),
    "bare.bmp": text(b"BM123"),
    "bare.png": text(b"\x89PNG\r\n\x1a\n"),
    "web.png": text(b"RIFF\0\0\0\0WEBPVP8 "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(tmp_path, name):
    make, words = REFUSED[name]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}: expected ") as e:
        io.read_image(tmp_path / name)
    assert words in str(e.value)
    assert "damaged" not in str(e.value)


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged(tmp_path, name):
    DAMAGED[name](tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}: expected ") as e:
        io.read_image(tmp_path / name)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.bmp", "x.pgm", "x.npy"])
def test_every_truncation_is_told(tmp_path, name):
    a = picture(8, shape=(9, 11)).astype(np.uint8)
    if name.endswith("npy"):
        np.save(tmp_path / name, a)
    else:
        Image.fromarray(a).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    io.read_image(tmp_path / name)
    # the last bytes of a JPEG only mark its end, those of a BMP fill its first row
    whole = len(data) - {"x.jpg": 2, "x.bmp": 1}.get(name, 0)
    for size in (*range(1, whole, 5), *range(whole - 5, whole)):
        (tmp_path / name).write_bytes(data[:size])
        with pytest.raises(ValueError, match=f"{name}: expected"):
            io.read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["x.jpg", "x.gif", "x", "x.npy"])
def test_only_formats_without_loss_are_written(tmp_path, name):
    with pytest.raises(ValueError, match=r"expected a name that ends in \.tif or \.tiff or \.png for 16 bits"):
        io.write_image(tmp_path / name, np.zeros((2, 2)), 16)


def test_what_cannot_be_written_is_told_before(tmp_path):
    for bits, a, words in (
        (8, np.full((2, 2), np.nan), "finite pixels"), (12, np.zeros((2, 2)), "bits: expected 8, 16 or 32, got 12"),
        (32, np.zeros((2, 2)), "ends in .tif or .tiff for 32 bits"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            io.write_image(tmp_path / "x.png", a, bits)
    assert list(tmp_path.iterdir()) == []
