"""Kernels in files: arrays and images, made to have odd sides and sum 1."""

import numpy as np
import pytest

pytest.importorskip("PIL")

from PIL import Image

from fastrecon import io

RNG = np.random.default_rng(0)
KERNEL = RNG.random((3, 5))
KERNEL /= KERNEL.sum()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays(tmp_path, dtype):
    np.save(tmp_path / "k.npy", KERNEL.astype(dtype))
    np.savez(tmp_path / "k.npz", psf=KERNEL.astype(dtype), other=KERNEL)
    np.savez(tmp_path / "one.npz", anything=KERNEL[None])
    np.savez(tmp_path / "two.npz", k1=KERNEL, k2=KERNEL.T)
    for name in ("k.npy", "k.npz", "one.npz", "two.npz:k1"):
        kernel, notes = io.read_kernel(f"{tmp_path}/{name}")
        np.testing.assert_allclose(kernel, KERNEL, rtol=1e-6)
        assert kernel.dtype == np.float32
        assert notes == ()
    with pytest.raises(
        ValueError, match=r"two\.npz: expected a kernel called kernel or psf or k, or a single array, got"
    ):
        io.read_kernel(tmp_path / "two.npz")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_images_are_divided_by_their_sum(tmp_path, dtype):
    a = RNG.integers(0, 255, (3, 5)).astype(dtype)
    io.write_picture(tmp_path / "k", a / np.iinfo(dtype).max, io.Form(".png", dtype.__name__))
    kernel, notes = io.read_kernel(tmp_path / "k.png")
    np.testing.assert_allclose(kernel, a / a.sum(), rtol=1e-6)
    assert any("divided by its sum" in note for note in notes)
    Image.fromarray(np.dstack([a.astype(np.uint8)] * 3)).save(tmp_path / "c.png")
    np.testing.assert_allclose(io.read_kernel(tmp_path / "c.png")[0], a / a.sum(), rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 5), (3, 2), (6, 6)])
def test_even_kernels_keep_their_middle(tmp_path, shape):
    ndimage = pytest.importorskip("scipy.ndimage")
    a, x = RNG.random(shape), RNG.random((20, 20))
    np.save(tmp_path / "k.npy", a / a.sum())
    kernel, notes = io.read_kernel(tmp_path / "k.npy")
    assert kernel.shape == tuple(n + 1 - n % 2 for n in shape)
    even, odd = (ndimage.convolve(x, k, mode="wrap") for k in (a / a.sum(), kernel.astype(np.float64)))
    np.testing.assert_allclose(odd, even, atol=1e-6)
    h, w = shape
    assert notes == (f"even kernel {h}x{w} filled up with zeros at its end to odd sides",)


def test_negative_numbers_are_told(tmp_path):
    a = np.array([[-0.125, 1.25, -0.125]])
    np.save(tmp_path / "k.npy", a)
    kernel, notes = io.read_kernel(tmp_path / "k.npy")
    np.testing.assert_array_equal(kernel, a)
    assert notes == ("kernel with negative numbers, down to -0.125",)


@pytest.mark.parametrize(
    ("a", "words"),
    [
        (KERNEL * 1j, "expected a real kernel [h, w], got complex128 (3, 5)"),
        (KERNEL[0], "expected a real kernel [h, w], got float64 (5,)"),
        (np.zeros((2, 3, 3)), "got float64 (2, 3, 3)"),
        (KERNEL * np.nan, "expected a finite kernel, got NaN or Inf"),
        (KERNEL * 0, "expected a kernel of sum > 0, got sum 0"),
        (-KERNEL, "expected a kernel of sum > 0, got sum -1"),
        (np.array([[{}]]), "Python objects"),
    ],
)
def test_bad_kernels(tmp_path, a, words):
    np.save(tmp_path / "k.npy", a)
    with pytest.raises(ValueError, match=r"k\.npy: expected") as e:
        io.read_kernel(tmp_path / "k.npy")
    assert words in str(e.value)
    assert "\n" not in str(e.value)
