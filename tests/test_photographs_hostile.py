"""Odd pictures and options at the door of the problems of photographs: one clear line, or the right answer."""

import numpy as np
import pytest
import tifffile
from commands import ok
from PIL import Image

from fastrecon import io

KERNEL = np.ones((3, 3), np.float32) / 9
NAMES = ("derain", "low-light", "smooth", "dehaze", "impulse", "slopes")
METHODS = {
    "smooth": ("error-controlled", "wls", "guided", "lp"), "low-light": ("wls", "l0"), "derain": ("two-layer",)
}  # fmt: skip
USED = [(name, method) for name in NAMES for method in ("", *METHODS.get(name, ()))]


def picture():
    """[H, W, 3] on [0.1, 0.9]."""
    blocks = np.random.default_rng(0).uniform(0.1, 0.9, (4, 5, 3))
    return blocks.repeat(6, 0).repeat(6, 1).astype(np.float32)


def told(name, path, tmp_path, method="", more=""):
    """The command for a file."""
    np.save(tmp_path / "kernel.npy", KERNEL)
    kernel = f"--kernel {tmp_path}/kernel.npy" if name == "slopes" else ""
    chosen = f"--method {method}" if method else ""
    return f"reconstruct {path} --problem {name} {kernel} {chosen} {more} --no-figure --overwrite --out {tmp_path}/done"


def found(run, name, a, tmp_path, method="", more=""):
    """What is made of an array."""
    np.save(tmp_path / "a.npy", a)
    ok(run(told(name, tmp_path / "a.npy", tmp_path, method, more)))
    return np.load(tmp_path / "done" / "a_reconstruction.npy")


@pytest.mark.parametrize(("name", "method"), USED)
def test_brightness_is_a_unit(run, tmp_path, name, method):
    a = picture()
    a = a / a.max()
    usual = found(run, name, a, tmp_path, method)
    assert np.isfinite(usual).all()
    for scale in (1e6, 1e-6, 3e38, 1e-37):
        other = found(run, name, (a.astype(np.float64) * scale).astype(np.float32), tmp_path, method)
        most = float(np.finfo(np.float32).max) / scale  # no file holds what is brighter
        np.testing.assert_allclose(
            other / np.float64(scale), np.clip(usual.astype(np.float64), -most, most), rtol=0, atol=2e-3
        )
    whole = found(run, name, np.round(60000 * a).astype(np.int64), tmp_path, method)
    np.testing.assert_allclose(whole / np.float64(np.round(60000 * a).max()), usual, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("name", "method"), [u for u in USED if u[0] not in ("low-light", "dehaze")])
@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_one_colour_stays(run, tmp_path, name, method, value):
    a = np.full((24, 30), value, np.float32)
    atol = 0.02 if name == "impulse" and not method else 2e-3
    np.testing.assert_allclose(found(run, name, a, tmp_path, method), a, rtol=0, atol=atol)


def test_light_of_one_colour(run, tmp_path):
    x = found(run, "low-light", np.full((24, 30), 0.4, np.float32), tmp_path)
    assert np.ptp(x) < 1e-5


ODD = {
    "complex": lambda a: (a[..., 0] * (1 + 1j)).astype(np.complex64),
    "nan": lambda a: np.where(a < 0.2, np.nan, a),
    "inf": lambda a: np.where(a < 0.2, np.inf, a),
    "vast": lambda a: 1e300 * a.astype(np.float64),
    "stack": lambda a: np.stack([a] * 2),
    "empty": lambda a: a[:0],
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", NAMES)
def test_arrays_that_are_no_photographs(fails, tmp_path, name, odd):
    np.save(tmp_path / "a.npy", ODD[odd](picture()))
    fails(told(name, tmp_path / "a.npy", tmp_path), words=(f"{tmp_path}/a.npy", "expected"))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "slopes"])
def test_negative_pixels(fails, tmp_path, name):
    np.save(tmp_path / "a.npy", picture() - 0.5)
    fails(told(name, tmp_path / "a.npy", tmp_path), words=(f"{name}: photograph: expected pixels >= 0, got -0.",))
    tifffile.imwrite(tmp_path / "a.tif", (20000 * (picture()[..., 0] - 0.5)).astype(np.int16))
    fails(told(name, tmp_path / "a.tif", tmp_path), words=(f"{name}: photograph: expected pixels >= 0, got -",))


@pytest.mark.parametrize("name", NAMES)
def test_transparent_pixels(fails, tmp_path, name):
    seen = np.arange(24 * 30).reshape(24, 30, 1) % 256
    Image.fromarray(np.concatenate((255 * picture(), seen), -1).astype(np.uint8)).save(tmp_path / "a.png")
    fails(told(name, tmp_path / "a.png", tmp_path), words=("expected an opaque image",))


@pytest.mark.parametrize("name", NAMES)
def test_sixteen_bits(run, tmp_path, name):
    a = picture()
    a[0, 0] = 1  # white
    tifffile.imwrite(tmp_path / "a.tif", np.round(65535 * a).astype(np.uint16), photometric="rgb")
    ok(run(told(name, tmp_path / "a.tif", tmp_path)))
    written = io.read_picture(tmp_path / "done" / "a_reconstruction.tif")
    assert written.form.dtype == "uint16"
    np.testing.assert_allclose(written.pixels, found(run, name, a, tmp_path).clip(0, 1), rtol=0, atol=2e-3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 2), (2, 300)])
@pytest.mark.parametrize("name", NAMES)
def test_small_and_narrow(run, tmp_path, name, shape):
    """An answer of the shape, or one line."""
    a = np.resize(picture()[..., 0], shape).copy()
    np.save(tmp_path / "a.npy", a)
    status, _, said = run(told(name, tmp_path / "a.npy", tmp_path))
    if status == 0:
        assert np.load(tmp_path / "done" / "a_reconstruction.npy").shape == shape
    else:
        assert (status, said.count("\n"), f"{shape[0]}x{shape[1]}" in said) == (2, 1, True)


@pytest.mark.parametrize(
    ("name", "method", "option", "line"),
    [
        ("smooth", "error-controlled", "--p 0.5", "error-controlled: --p: expected none for smooth, got 0.5"),
        ("smooth", "error-controlled", "--pull 2", "error-controlled: --pull: expected none for smooth, got 2.0"),
        ("slopes", "padnet", "--lam 2", "padnet: --lam: expected --variant explicit, where it is given, got 2.0"),
        ("slopes", "padnet", "--rule paper", "padnet: --rule: expected --variant explicit, where it is given"),
        ("dehaze", "padnet", "--p 0.5", "padnet: --p: expected --variant explicit, where it is given, got 0.5"),
    ],
)
def test_options_that_mean_nothing(fails, tmp_path, name, method, option, line):
    np.save(tmp_path / "a.npy", picture())
    fails(told(name, tmp_path / "a.npy", tmp_path, method, option), words=(line,))


def test_least_squares_that_end_early_are_pictures(run, tmp_path):
    a = picture()
    for option in ("--tol 1", "--iterations 1", "--lam 0"):
        x = found(run, "smooth", a, tmp_path, "wls", option)
        assert np.abs(x.mean((0, 1)) - a.mean((0, 1))).max() < 1e-3
