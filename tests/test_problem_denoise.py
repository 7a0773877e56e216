"""Denoising: noise that is given, estimated or drawn; pictures of every kind."""

from pathlib import Path

import numpy as np
import pytest

from fastrecon import io
from fastrecon.problems import PROBLEMS
from fastrecon.problems.denoise import USUAL

DENOISE = PROBLEMS["denoise"]


def waves(*shape):
    """A smooth picture on [0.2, 0.8]."""
    rows, columns = (np.linspace(0, 1, n, dtype=np.float32) for n in shape[:2])
    a = 0.5 + 0.3 * np.sin(9 * rows)[:, None] * np.cos(7 * columns)
    return np.stack([a, a[::-1], 1 - a], -1) if len(shape) == 3 else a


def noisy(sigma, *shape, scale=1.0):
    noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return scale * (waves(*shape) + sigma * noise)


def read(path, pixels, **options):
    np.save(path / "noisy.npy", pixels)
    return DENOISE.read(path / "noisy.npy", DENOISE.Options(**options))


@pytest.mark.parametrize("shape", [(96, 112), (97, 83), (96, 80, 3)], ids=str)
@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_noise_is_estimated(sigma, shape, tmp_path):
    m = read(tmp_path, noisy(sigma, *shape))
    assert m.noise * m.scale == pytest.approx(sigma, rel=0.05)
    assert any(note.startswith(f"noise estimated: {sigma:.1g}"[:-1]) for note in m.notes)
    np.testing.assert_allclose(DENOISE.pixels(DENOISE.start(m), m), noisy(sigma, *shape), atol=1e-6)


def test_noise_that_is_given_is_in_the_unit_of_the_data(tmp_path):
    y = noisy(0.05, 64, 64, scale=100)
    m, told = read(tmp_path, y), read(tmp_path, y, noise=7.0)
    assert m.noise * m.scale == pytest.approx(5, rel=0.1)
    assert told.noise * told.scale == pytest.approx(7)
    assert not any("estimated" in note for note in told.notes)


def test_noise_of_complex_pictures(tmp_path):
    y = (noisy(0.05, 64, 64) + 1j * noisy(0.05, 64, 64)[::-1]).astype(np.complex64)
    m = read(tmp_path, y)
    assert m.noise * m.scale == pytest.approx(0.05, rel=0.1)
    assert m.y.is_complex()


def test_simulated_noise_has_a_usual_level():
    picture = io.Picture(waves(96, 96), Path("p.png"), io.Form())
    m, none, mine = (
        DENOISE.simulate(picture, DENOISE.Options(**options)) for options in ({}, {"noise": 0.0}, {"noise": 0.3})
    )
    assert (m.noise, none.noise, mine.noise) == (USUAL, 0.0, 0.3)
    assert (m.y - m.truth).std().item() == pytest.approx(USUAL, rel=0.05)
    assert (none.y == none.truth).all()


def test_levels_of_a_table():
    assert [c.simulate["noise"] for c in DENOISE.conditions("noise")] == [0.02, 0.05, 0.1, 0.2]
    with pytest.raises(ValueError, match="table"):
        DENOISE.conditions("rates")


@pytest.mark.parametrize("noise", [-1.0, float("nan"), "much"])
def test_noise_that_is_none(noise):
    with pytest.raises(ValueError, match="denoise: --noise: expected a number in"):
        DENOISE.Options(noise=noise)
