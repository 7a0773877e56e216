"""Masks in files: images, arrays, transparency."""

import numpy as np
import pytest

pytest.importorskip("PIL")

from PIL import Image

from fastrecon import io

RNG = np.random.default_rng(0)
MASK = RNG.random((5, 7)) < 0.5
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)


@pytest.mark.parametrize("a", [MASK, MASK * 1, MASK * 1.0, MASK.astype(np.uint8) * 255, MASK[None]], ids=str)
def test_arrays(tmp_path, a):
    np.save(tmp_path / "m.npy", a)
    np.savez(tmp_path / "m.npz", mask=a, other=GREY)
    np.savez(tmp_path / "one.npz", pattern=a)
    for name in ("m.npy", "m.npz", "one.npz"):
        found = io.read_mask(tmp_path / name, (5, 7))
        np.testing.assert_array_equal(found, MASK)
        assert found.dtype == bool


@pytest.mark.parametrize("size", [None, (5, 7)])
def test_images(tmp_path, size):
    white = MASK.astype(np.uint8) * 255
    Image.fromarray(white).save(tmp_path / "grey.png")
    Image.fromarray(MASK).save(tmp_path / "bits.png")
    Image.fromarray(np.dstack([white] * 3)).save(tmp_path / "colour.png")
    Image.fromarray(np.dstack([GREY, GREY.T.reshape(5, 7), GREY, white])).save(tmp_path / "alpha.png")
    Image.fromarray(np.dstack([white] * 3 + [np.full_like(white, 255)])).save(tmp_path / "opaque.png")
    for name in ("grey", "bits", "colour", "alpha", "opaque"):
        np.testing.assert_array_equal(io.read_mask(tmp_path / f"{name}.png", size), MASK)


def test_a_row_is_one_of_all_rows(tmp_path):
    np.save(tmp_path / "m.npy", MASK[0])
    np.testing.assert_array_equal(io.read_mask(tmp_path / "m.npy", (5, 7)), np.broadcast_to(MASK[0], (5, 7)))


@pytest.mark.parametrize(
    ("a", "words"),
    [
        (GREY, "expected a mask of 0 and 1 (or 0 and 255), got"),
        (MASK.T, "expected a mask of 5 x 7, got shape (7, 5): transposed?"),
        (MASK[:4], "expected a mask of 5 x 7, got shape (4, 7)"),
        (MASK * 0.5, "got 2 values: 0, 0.5"),
        (MASK - 1.0, "got 2 values: -1, 0"),
        (np.where(MASK, 1, np.nan), "got 2 values: 1, nan"),
        (MASK & False, "expected a mask with at least one 1, got 0 everywhere"),
        (MASK * 1j, "expected a mask of 0 and 1, got complex128"),
    ],
)
def test_bad_masks(tmp_path, a, words):
    np.save(tmp_path / "m.npy", a)
    with pytest.raises(ValueError, match=r"m\.npy: expected") as e:
        io.read_mask(tmp_path / "m.npy", (5, 7))
    assert words in str(e.value)
    assert "\n" not in str(e.value)


def test_colours_are_no_mask(tmp_path):
    Image.fromarray(RNG.integers(0, 2, (5, 7, 3), dtype=np.uint8) * 255).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match=r"m\.png: expected a grey mask, got colours"):
        io.read_mask(tmp_path / "m.png")
