"""scikit-image's functions by import swap: its numbers, or nearer to what both compute."""

import numpy as np
import pytest
import torch
from skimage import data, restoration, transform
from skimage.util import img_as_float

from fastrecon.adapters import skimage as ours


@pytest.fixture(scope="module")
def photo():
    x = img_as_float(data.camera())[100:164, 100:165]
    return x + 0.05 * np.random.default_rng(0).standard_normal(x.shape)


def near(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def disc(n):
    t = np.arange(n) - n // 2
    r = t[:, None] ** 2 + t**2
    return np.exp(-r / (n / 5) ** 2) * (r <= (n // 2 - 1) ** 2)


@pytest.mark.parametrize("circle", [True, False])
@pytest.mark.parametrize("n", [63, 64])
def test_sinograms_and_back(n, circle):
    x, theta = disc(n), np.arange(0, 180, 3.0)
    y = transform.radon(x, theta, circle)
    assert ours.radon(x, theta, circle).shape == y.shape
    assert near(ours.radon(x, theta, circle), y) < 1e-2
    for name in ("ramp", "hann", None):
        theirs = transform.iradon(y, theta, filter_name=name, circle=circle)
        mine = ours.iradon(y, theta, filter_name=name, circle=circle)
        assert mine.shape == theirs.shape
        assert near(mine, theirs) < 2e-2, name
    assert isinstance(ours.radon(torch.from_numpy(x)), torch.Tensor)


def test_total_variation_has_the_lower_objective(photo):
    def objective(x):
        d = np.zeros((2, *x.shape))
        d[0, :-1], d[1, :, :-1] = np.diff(x, axis=0), np.diff(x, axis=1)
        return ((x - photo) ** 2).sum() / 2 + 0.1 * np.sqrt((d**2).sum(0)).sum()

    theirs, mine = restoration.denoise_tv_chambolle(photo, 0.1), ours.denoise_tv_chambolle(photo, 0.1)
    assert objective(mine) <= objective(theirs)
    assert near(mine, restoration.denoise_tv_chambolle(photo, 0.1, 1e-9, 5000)) < 5e-3
    colour = np.stack([photo, photo[::-1]], -1)
    both = ours.denoise_tv_chambolle(colour, 0.1, channel_axis=-1)
    np.testing.assert_allclose(both[..., 0], mine, atol=1e-12)


@pytest.mark.parametrize("method", ["BayesShrink", "VisuShrink"])
@pytest.mark.parametrize("wavelet", ["db1", "sym4", "bior2.2"])
@pytest.mark.filterwarnings("ignore:Wavelet thresholding was designed")
def test_wavelets_are_theirs(photo, wavelet, method):
    for sigma in (None, 0.1):
        theirs = restoration.denoise_wavelet(photo, sigma, wavelet, method=method)
        mine = ours.denoise_wavelet(photo, sigma, wavelet, method=method)
        np.testing.assert_allclose(mine, theirs, atol=1e-9)
    colour = np.stack([photo, photo[::-1], photo[:, ::-1]], -1)
    theirs = restoration.denoise_wavelet(colour, wavelet=wavelet, method=method, channel_axis=-1)
    np.testing.assert_allclose(
        ours.denoise_wavelet(colour, wavelet=wavelet, method=method, channel_axis=-1), theirs, atol=1e-9
    )
    byte = (np.clip(photo, 0, 1) * 255).astype(np.uint8)
    np.testing.assert_allclose(ours.denoise_wavelet(byte), restoration.denoise_wavelet(byte))


def test_richardson_and_lucy(photo):
    psf = np.random.default_rng(1).random((5, 7))
    psf /= psf.sum()
    x = np.clip(photo, 0.01, 1)
    for options in ({}, {"filter_epsilon": 0.3}, {"clip": False}):
        theirs = restoration.richardson_lucy(x, psf, 10, **options)
        np.testing.assert_allclose(ours.richardson_lucy(x, psf, 10, **options), theirs, atol=1e-8)
    found, chain = ours.unsupervised_wiener(x, psf, rng=0)
    np.testing.assert_allclose(found, restoration.unsupervised_wiener(x, psf, rng=0)[0])
    assert "noise" in chain


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ours.radon(np.zeros((2, 3, 4))), "radon: image: expected an image"),
        (lambda: ours.iradon(np.zeros((8, 4)), np.zeros(3)), "iradon: theta: expected 4 angles"),
        (lambda: ours.iradon(np.zeros((8, 4)), filter_name="box"), "iradon: filter_name: expected one of"),
        (lambda: ours.iradon(np.zeros((8, 4)), interpolation="cubic"), "iradon: interpolation: expected"),
        (lambda: ours.denoise_tv_chambolle(np.zeros((4, 4)), 0), "denoise_tv_chambolle: weight: expected"),
        (lambda: ours.denoise_wavelet(np.zeros((4, 4)), method="x"), "denoise_wavelet: method: expected"),
        (lambda: ours.richardson_lucy(np.zeros((4, 4)), np.zeros(3)), "richardson_lucy: psf: expected"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
