"""Pictures of any kind, depth and scale, with holes, and results in the same kind."""

import os

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("imagecodecs")

import tifffile
from PIL import Image

from fastrecon import io

RNG = np.random.default_rng(0)
GREY8, RGB8 = (RNG.integers(0, 256, shape, dtype=np.uint8) for shape in ((5, 7), (5, 7, 3)))
GREY16, RGB16 = (RNG.integers(0, 65536, shape, dtype=np.uint16) for shape in ((5, 7), (5, 7, 3)))
FLOATS = RNG.random((5, 7)).astype(np.float32)
COMPLEX = (RNG.standard_normal((5, 7)) + 1j * RNG.standard_normal((5, 7))).astype(np.complex64)


def save(path, a):
    if path.suffix == ".npy":
        np.save(path, a)
    elif path.suffix == ".tif" or a.dtype == np.uint16:
        colour = "rgb" if a.ndim == 3 else "minisblack"
        if path.suffix == ".tif":
            tifffile.imwrite(path, a, photometric=colour)
        else:
            io.write_picture(path.with_suffix(""), a / 65535, io.Form(".png", "uint16"))
    else:
        Image.fromarray(a).save(path)
    return path


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.npy"])
@pytest.mark.parametrize("a", [GREY8, RGB8, GREY16, RGB16], ids=["grey8", "rgb8", "grey16", "rgb16"])
def test_integers_come_back_as_they_were(tmp_path, name, a):
    found = io.read_picture(save(tmp_path / name, a))
    np.testing.assert_array_equal(found.pixels, (a / np.iinfo(a.dtype).max).astype(np.float32))
    assert found.known is None
    assert found.white == 1
    assert found.form == io.Form(name[1:], a.dtype.name)
    assert found.form.bits == 8 * a.itemsize
    again = io.write_picture(tmp_path / "out", found.pixels, found.form)
    assert again == tmp_path / f"out{name[1:]}"
    np.testing.assert_array_equal(io.read_picture(again).pixels, found.pixels)
    grey = io.read_picture(tmp_path / name, colour=False)
    np.testing.assert_array_equal(grey.pixels, io.read_image(tmp_path / name).pixels)


@pytest.mark.parametrize("scale", [0.05, 1, 4000])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", ["x.tif", "x.npy"])
def test_floats_are_taken_on_any_scale(tmp_path, name, dtype, scale):
    a = (FLOATS * scale - scale / 3).astype(dtype)
    found = io.read_picture(save(tmp_path / name, a))
    np.testing.assert_array_equal(found.pixels, a.astype(np.float32))
    assert found.pixels.dtype == np.float32
    assert (found.white, "a scale of their own" in " ".join(found.notes)) == (
        (1, False) if scale == 1 else (None, True)
    )
    assert found.form == io.Form(name[1:], "float64" if dtype == np.float64 else "float32")
    again = io.write_picture(tmp_path / "out", found.pixels, found.form)
    assert np.load(again).dtype.name == found.form.dtype if name == "x.npy" else True
    np.testing.assert_array_equal(io.read_picture(again).pixels, found.pixels)


def test_colour_of_floats(tmp_path):
    a = RNG.random((5, 7, 3)).astype(np.float32) * 2 - 0.5
    found = io.read_picture(save(tmp_path / "x.tif", a))
    np.testing.assert_array_equal(found.pixels, a)
    again = io.write_picture(tmp_path / "out", found.pixels, found.form)
    np.testing.assert_array_equal(io.read_picture(again).pixels, a)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_images(tmp_path, dtype):
    found = io.read_picture(save(tmp_path / "x.npy", COMPLEX.astype(dtype)))
    np.testing.assert_array_equal(found.pixels, COMPLEX)
    assert (found.pixels.dtype, found.white) == (np.complex64, None)
    assert found.form == io.Form(".npy", np.dtype(dtype).name)
    again = io.write_picture(tmp_path / "out", found.pixels, found.form)
    np.testing.assert_array_equal(np.load(again), COMPLEX.astype(dtype))
    with pytest.raises(ValueError, match=r"got complex64"):
        io.read_image(tmp_path / "out.npy") if dtype == np.complex64 else io.read_image(
            save(tmp_path / "y.npy", COMPLEX)
        )
    for form in (io.Form(".tif", "float32"), io.Form(".png", "uint8"), io.Form(".tif", "complex64")):
        with pytest.raises(ValueError, match=r"out\.(tif|png): expected real pixels"):
            io.write_picture(tmp_path / "out", found.pixels, form)


@pytest.mark.parametrize("name", ["x.npy", "x.tif"])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32])
def test_whole_numbers_without_a_known_white(tmp_path, name, dtype):
    found = io.read_picture(save(tmp_path / name, (GREY8.astype(np.int64) * 7).astype(dtype)))
    np.testing.assert_array_equal(found.pixels, GREY8 * np.float32(7))
    assert (found.white, found.form) == (None, io.Form(name[1:], "float32"))
    with pytest.raises(ValueError, match=np.dtype(dtype).name if name == "x.npy" else "bits"):
        io.read_image(tmp_path / name)


def test_formats_that_are_not_written_become_png_or_tiff(tmp_path):
    for name, form in (("x.jpg", io.Form()), ("x.bmp", io.Form()), ("x.ppm", io.Form())):
        Image.fromarray(RGB8).save(tmp_path / name)
        assert io.read_picture(tmp_path / name).form == form
    (tmp_path / "x.pgm").write_bytes(b"P5 7 5 65535\n" + GREY16.astype(">u2").tobytes())
    assert io.read_picture(tmp_path / "x.pgm").form == io.Form(".png", "uint16")
    (tmp_path / "x.pfm").write_bytes(b"Pf 7 5 -1\n" + FLOATS.tobytes())
    assert io.read_picture(tmp_path / "x.pfm").form == io.Form(".tif", "float32")
    tifffile.imwrite(tmp_path / "x.tif", np.dstack([RGB8, GREY8]), photometric="separated")
    assert io.read_picture(tmp_path / "x.tif").form == io.Form(".tif", "uint8")


def test_forms_with_other_bits():
    assert io.Form().with_bits(16) == io.Form(".png", "uint16")
    assert io.Form().with_bits(32) == io.Form(".tif", "float32")
    assert io.Form(".tif", "uint16").with_bits(8) == io.Form(".tif", "uint8")
    assert io.Form(".npy", "uint8").with_bits(64) == io.Form(".npy", "float64")
    assert io.Form(".npy", "float32").with_bits(8) == io.Form(".png", "uint8")
    with pytest.raises(ValueError, match="expected 8, 16, 32 or 64, got 12"):
        io.Form().with_bits(12)


def test_names_keep_their_dots(tmp_path):
    assert io.Form().path(tmp_path / "a.b") == tmp_path / "a.b.png"


@pytest.mark.parametrize("deep", [False, True])
def test_holes_by_alpha(tmp_path, deep):
    alpha = np.full((5, 7), 255, np.uint8)
    alpha[1, 2], alpha[3, 4] = 0, 128
    a = np.dstack([RGB8, alpha])
    if deep:
        tifffile.imwrite(tmp_path / "x.tif", a.astype(np.uint16) * 257, photometric="rgb", extrasamples=["unassalpha"])
    else:
        Image.fromarray(a).save(tmp_path / "x.png")
    path = tmp_path / ("x.tif" if deep else "x.png")
    found = io.read_picture(path, holes=True)
    assert found.known is not None
    np.testing.assert_array_equal(found.known, alpha > 0)
    right = (RGB8 / 255).astype(np.float32)
    right[1, 2] = 0
    np.testing.assert_array_equal(found.pixels, right)
    assert found.notes == ("1 half-transparent pixels taken as known", "1 of 35 pixels are holes (transparent or NaN)")
    with pytest.raises(ValueError, match="expected an opaque image, got transparent pixels"):
        io.read_picture(path)


def test_colours_multiplied_by_their_alpha(tmp_path):
    alpha = np.full((5, 7), 255, np.uint8)
    alpha[1, 2] = 0
    tifffile.imwrite(tmp_path / "x.tif", np.dstack([RGB8, alpha]), photometric="rgb", extrasamples=["assocalpha"])
    assert io.read_picture(tmp_path / "x.tif", holes=True).known is not None
    alpha[3, 4] = 128
    tifffile.imwrite(tmp_path / "x.tif", np.dstack([RGB8, alpha]), photometric="rgb", extrasamples=["assocalpha"])
    with pytest.raises(ValueError, match=r"opaque or transparent, got 1 pixels between, multiplied by their alpha"):
        io.read_picture(tmp_path / "x.tif", holes=True)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
@pytest.mark.parametrize("name", ["x.tif", "x.npy"])
def test_holes_by_nan(tmp_path, name, shape):
    a = RNG.random(shape).astype(np.float32)
    a[2, 3] = np.nan
    path = save(tmp_path / name, a)
    found = io.read_picture(path, holes=True)
    assert found.known is not None
    assert np.argwhere(~found.known).tolist() == [[2, 3]]
    np.testing.assert_array_equal(found.pixels, np.nan_to_num(a))
    with pytest.raises(ValueError, match="finite pixels"):
        io.read_picture(path)


def test_without_holes_all_is_known(tmp_path):
    assert io.read_picture(save(tmp_path / "x.png", RGB8), holes=True).known is None
    Image.fromarray(np.dstack([RGB8, np.full((5, 7), 255, np.uint8)])).save(tmp_path / "y.png")
    found = io.read_picture(tmp_path / "y.png", holes=True)
    assert (found.known, found.notes) == (None, ("opaque alpha channel dropped",))


def test_holes_turn_with_the_picture(tmp_path):
    alpha, exif = np.full((5, 7), 255, np.uint8), Image.Exif()
    alpha[1, 2], exif[0x0112] = 0, 6
    Image.fromarray(np.dstack([RGB8, alpha])).save(tmp_path / "x.png", exif=exif)
    found = io.read_picture(tmp_path / "x.png", holes=True)
    np.testing.assert_array_equal(found.known, np.rot90(alpha > 0, -1))
    assert found.pixels.shape == (7, 5, 3)


BAD = {
    "inf.npy": (np.array([[np.inf, 0]]), "finite pixels"),
    "huge.npy": (np.array([[1e300, 0]]), "within the range of float32, got up to 1e+300"),
    "holes.npy": (np.full((3, 3), np.nan), "at least one known pixel"),
    "four.npy": (np.zeros((2, 3, 4, 5)), "shape (2, 3, 4, 5)"),
    "planes.npy": (np.zeros((3, 6, 7)), "shape (3, 6, 7)"),
    "complex.npy": (np.zeros((6, 7, 3), np.complex64), "shape (6, 7, 3)"),
    "text.npy": (np.array([["a"]]), "numbers, got str"),
    "alpha.npy": (np.full((2, 2, 2), np.nan), "alpha channel"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures(tmp_path, name):
    a, words = BAD[name]
    np.save(tmp_path / name, a)
    with pytest.raises(ValueError, match="expected") as e:
        io.read_picture(tmp_path / name, holes=True)
    assert str(e.value).startswith(f"{tmp_path / name}: ")
    assert words in str(e.value)
    assert "\n" not in str(e.value)


def test_an_input_is_never_written_over(tmp_path):
    path = save(tmp_path / "x.png", GREY8)
    before, found = path.read_bytes(), io.read_picture(path)
    os.link(path, tmp_path / "y.png")
    for prefix in ("x", "y"):
        with pytest.raises(ValueError, match=rf"{prefix}\.png: expected another file than what was read"):
            io.write_picture(tmp_path / prefix, found.pixels, found.form, inputs=[found.path])
    assert path.read_bytes() == before
    io.write_picture(tmp_path / "z", found.pixels, found.form, inputs=[found.path])


@pytest.mark.parametrize(
    ("pixels", "form", "words"),
    [
        (np.full((2, 2), np.nan), io.Form(), "finite pixels to write in 8 bits"),
        (np.zeros((0, 4)), io.Form(), "got shape (0, 4)"),
        (np.zeros((2, 4, 2)), io.Form(".tif", "float32"), "got shape (2, 4, 2)"),
        (np.zeros((2, 2)), io.Form(".png", "float32"), "8 or 16 bits for PNG, got float32"),
        (np.zeros((2, 2)), io.Form(".gif"), "expected a name that ends in"),
    ],
)
def test_what_cannot_be_written(tmp_path, pixels, form, words):
    with pytest.raises(ValueError, match=r"x\.") as e:
        io.write_picture(tmp_path / "x", pixels, form)
    assert words in str(e.value)
    assert os.listdir(tmp_path) == []
