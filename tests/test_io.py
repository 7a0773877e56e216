"""Files in and out: what is read is what was written, and what cannot be read is told in one line."""

import json
import math
import os

import numpy as np
import pytest

pytest.importorskip("tifffile")
pytest.importorskip("PIL")

import tifffile
from PIL import Image
from safetensors.numpy import save_file

from fastrecon import io

RNG = np.random.default_rng(0)
GREY8 = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
RGB8 = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
FLOATS = RNG.random((5, 7))


def luma(rgb, full):
    return (0.299 * rgb[..., 0].astype(float) + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2]) / full


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".pgm"])
def test_grey_8_bits(tmp_path, suffix):
    Image.fromarray(GREY8).save(tmp_path / f"x{suffix}")
    image = io.read_image(tmp_path / f"x{suffix}")
    np.testing.assert_array_equal(image.pixels, (GREY8 / 255).astype(np.float32))
    assert image.pixels.dtype == np.float32
    assert image.notes == ()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_16_bits(tmp_path, suffix):
    Image.fromarray(GREY16).save(tmp_path / f"x{suffix}")
    np.testing.assert_array_equal(io.read_image(tmp_path / f"x{suffix}").pixels, (GREY16 / 65535).astype(np.float32))


def test_compressed_tiff(tmp_path):
    Image.fromarray(GREY16).save(tmp_path / "x.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(io.read_image(tmp_path / "x.tif").pixels, (GREY16 / 65535).astype(np.float32))


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_float_tiff_and_npy(tmp_path, kind):
    tifffile.imwrite(tmp_path / "x.tif", FLOATS.astype(kind))
    np.save(tmp_path / "x.npy", FLOATS.astype(kind))
    for name in ("x.tif", "x.npy"):
        np.testing.assert_array_equal(io.read_image(tmp_path / name).pixels, FLOATS.astype(kind).astype(np.float32))


def test_one_bit(tmp_path):
    Image.fromarray(GREY8 > 127).save(tmp_path / "x.png")
    np.testing.assert_array_equal(io.read_image(tmp_path / "x.png").pixels, GREY8 > 127)


def test_colour_becomes_luma_and_says_so(tmp_path):
    Image.fromarray(RGB8).save(tmp_path / "x.png")
    image = io.read_image(tmp_path / "x.png")
    np.testing.assert_allclose(image.pixels, luma(RGB8, 255), atol=1e-7)
    assert image.notes == ("RGB converted to grey (BT.601 luma)",)


def test_deep_colour_tiff_keeps_its_depth(tmp_path):
    deep = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", deep, photometric="rgb")
    tifffile.imwrite(tmp_path / "planes.tif", np.moveaxis(deep, 2, 0), photometric="rgb", planarconfig="separate")
    for name in ("x.tif", "planes.tif"):
        np.testing.assert_allclose(io.read_image(tmp_path / name).pixels, luma(deep, 65535), atol=1e-7)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_palettes(tmp_path, suffix):
    indexed = Image.fromarray(GREY8 % 4).convert("P")
    indexed.putpalette([255, 0, 0, 0, 255, 0, 10, 10, 10, 0, 0, 255])
    indexed.save(tmp_path / f"x{suffix}")
    colours = np.array([[255, 0, 0], [0, 255, 0], [10, 10, 10], [0, 0, 255]])
    image = io.read_image(tmp_path / f"x{suffix}")
    np.testing.assert_allclose(image.pixels, luma(colours[GREY8 % 4], 255), atol=1e-7)
    assert image.notes == ("palette looked up", "RGB converted to grey (BT.601 luma)")


def test_identity_grey_palette_is_exact(tmp_path):
    indexed = Image.fromarray(GREY8).convert("P")
    indexed.putpalette(np.repeat(np.arange(256, dtype=np.uint8), 3).tolist())
    indexed.save(tmp_path / "x.tif")
    np.testing.assert_array_equal(io.read_image(tmp_path / "x.tif").pixels, (GREY8 / 255).astype(np.float32))


def test_opaque_alpha_is_dropped(tmp_path):
    opaque = np.full((5, 7, 1), 255, np.uint8)
    Image.fromarray(np.concatenate((RGB8, opaque), 2)).save(tmp_path / "x.png")
    image = io.read_image(tmp_path / "x.png")
    np.testing.assert_allclose(image.pixels, luma(RGB8, 255), atol=1e-7)
    assert image.notes[0] == "opaque alpha channel dropped"


def test_orientation_is_obeyed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated: to be turned by 90 degrees clockwise
    Image.fromarray(GREY8).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(
        io.read_image(tmp_path / "x.png").pixels, np.rot90(GREY8 / 255, -1).astype(np.float32)
    )


def transparent(path):
    Image.fromarray(np.concatenate((RGB8, np.zeros((5, 7, 1), np.uint8)), 2)).save(path)


def truncated(path):
    Image.fromarray(RNG.integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])


def pages(path):
    tifffile.imwrite(path, np.stack([GREY8, GREY8]), photometric="minisblack")


BAD_IMAGES = {
    "missing.png": (lambda p: None, "no such file"),
    "folder.png": (lambda p: p.mkdir(), "a folder"),
    "empty.png": (lambda p: p.touch(), "0 bytes"),
    "text.png": (lambda p: p.write_text("not an image"), "damaged or unknown"),
    "text.tif": (lambda p: p.write_text("not an image"), "damaged or unknown"),
    "text.npy": (lambda p: p.write_text("not an array"), "damaged or unknown"),
    "truncated.png": (truncated, "damaged or unknown"),
    "pages.tif": (pages, "2 pages"),
    "transparent.png": (transparent, "transparent"),
    "nan.npy": (lambda p: np.save(p, np.array([[0.5, np.nan]])), "NaN or Inf"),
    "inf.tif": (lambda p: tifffile.imwrite(p, np.array([[np.inf, 0]], np.float32)), "NaN or Inf"),
    "none.npy": (lambda p: np.save(p, np.zeros((0, 4))), "shape (0, 4)"),
    "line.npy": (lambda p: np.save(p, np.zeros(4)), "shape (4,)"),
    "scale.npy": (lambda p: np.save(p, np.array([[0.0, 255.0]])), "[0, 1] scale"),
    "signed.npy": (lambda p: np.save(p, np.zeros((2, 2), np.int16)), "int16"),
    "object.npy": (lambda p: np.save(p, np.array([[{}]]), allow_pickle=True), "Python objects"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_image(tmp_path, name):
    make, words = BAD_IMAGES[name]
    make(tmp_path / name)
    with pytest.raises((ValueError, FileNotFoundError)) as e:
        io.read_image(tmp_path / name)
    assert str(tmp_path / name) in str(e.value)
    assert words in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("bits", "suffix", "worst"), [(8, ".png", 0.5 / 255), (16, ".png", 0.5 / 65535), (32, ".tif", 1e-7)]
)
def test_images_come_back(tmp_path, bits, suffix, worst):
    io.write_image(tmp_path / f"x{suffix}", FLOATS.astype(np.float32), bits)
    np.testing.assert_allclose(io.read_image(tmp_path / f"x{suffix}").pixels, FLOATS, atol=worst * 1.001)


def test_integers_are_clipped_and_floats_are_not(tmp_path):
    beyond = np.array([[-0.25, 1.25]], np.float32)
    io.write_image(tmp_path / "x.png", beyond, 16)
    io.write_image(tmp_path / "x.tif", beyond, 32)
    np.testing.assert_array_equal(io.read_image(tmp_path / "x.png").pixels, [[0, 1]])
    np.testing.assert_array_equal(io.read_image(tmp_path / "x.tif").pixels, beyond)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_measurements_come_back(tmp_path, suffix):
    m = io.Measurements(RNG.random((2, 3, 4)).astype(np.float32), (50, 70), {"model": "lda-cs-25", "noise": 0.5})
    io.write_measurements(tmp_path / f"m{suffix}", m)
    again = io.read_measurements(tmp_path / f"m{suffix}")
    np.testing.assert_array_equal(again.y, m.y)
    assert again.size == (50, 70)
    assert again.facts == {"model": "lda-cs-25", "noise": "0.5"}


def test_measurements_of_others(tmp_path):
    y = RNG.random((1, 2, 3, 4))
    np.savez(tmp_path / "m.npz", y=y)
    save_file({"y": y}, tmp_path / "m.safetensors")
    np.save(tmp_path / "m.npy", y)
    for name in ("m.npz", "m.safetensors", "m.npy"):
        m = io.read_measurements(tmp_path / name)
        np.testing.assert_array_equal(m.y, y[0])
        assert m.size is None


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"x": np.zeros(3)}, "expected an array y"),
        ({"y": np.zeros((2, 3))}, "[rows, cols, m]"),
        ({"y": np.zeros((1, 1, 4), np.int64)}, "int64"),
        ({"y": np.full((1, 1, 4), np.nan)}, "NaN or Inf"),
        ({"y": np.zeros((1, 1, 4)), "size": np.array([3])}, "size: expected (height, width), got [3]"),
        ({"y": np.zeros((1, 1, 4)), "size": np.array("large")}, "size: expected (height, width), got large"),
        ({"y": np.array(1.0)}, "[rows, cols, m]"),
        ({"y": np.array([[[{}]]])}, "y: expected an array of numbers, got one of Python objects"),
    ],
)
def test_bad_measurements(tmp_path, contents, words):
    np.savez(tmp_path / "m.npz", **contents)
    with pytest.raises(ValueError, match=r"m\.npz") as e:
        io.read_measurements(tmp_path / "m.npz")
    assert words in str(e.value)
    assert "\n" not in str(e.value)


def test_bad_measurements_alone(tmp_path):
    path = tmp_path / "m.npy"
    np.save(path, np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"m\.npy: y: expected float32 or float64 \[rows, cols, m\]"):
        io.read_measurements(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="damaged or unknown"):
        io.read_measurements(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_damaged_measurements(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    io.write_measurements(path, io.Measurements(np.ones((2, 2, 50), np.float32), None, {}))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="damaged or unknown"):
        io.read_measurements(path)


def test_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"before")
    with pytest.raises(TypeError), io.atomic(path) as f:
        f.writelines([b"half", None])
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["x.bin"]
    with io.atomic(path) as f:
        f.write(b"after")
        assert path.read_bytes() == b"before"  # nobody sees the new file until it is whole
    assert path.read_bytes() == b"after"


def test_json_says_what_it_can(tmp_path):
    io.write_json(tmp_path / "x.json", {"a": [1.5, math.inf, (math.nan, None)], "b": tmp_path})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1.5, None, [None, None]], "b": str(tmp_path)}


def test_folders_are_listed_in_order(tmp_path):
    for name in ("b.PNG", "a.tif", "notes.txt", ".hidden.png", "m.npz"):
        (tmp_path / name).write_text("x")
    assert [p.name for p in io.expand([tmp_path])] == ["a.tif", "b.PNG"]
    assert [p.name for p in io.expand([tmp_path / "notes.txt", tmp_path], io.MEASUREMENT_SUFFIXES)] == [
        "notes.txt",
        "m.npz",
    ]
    with pytest.raises(ValueError, match=r"found none"):
        io.expand([tmp_path], (".jpg",))
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such file"):
        io.expand([tmp_path / "nowhere"])


def test_output_folder(tmp_path):
    assert io.output_folder(tmp_path / "a" / "b").is_dir()
    assert not os.listdir(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="writable output folder"):
        io.output_folder(tmp_path / "file" / "under")
    with pytest.raises(ValueError, match="writable output folder"):
        io.output_folder(tmp_path / "file")
