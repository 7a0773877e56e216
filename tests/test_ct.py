"""Computed tomography: the operator Radon beyond its row in test_operators.py, and simulated scans."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

pytest.importorskip("skimage")

from skimage.data import shepp_logan_phantom

from fastrecon.operators import Radon
from fastrecon.operators.filters import FILTERS, filtered, view_weights
from fastrecon.tasks import ct

FAN = {"geometry": "fan", "source_distance": 150.0, "detector_distance": 90.0}
GEOMETRIES = {
    "parallel": {"angles": 160},
    "full_turn": {"angles": torch.arange(320, dtype=torch.float64) * (2 * math.pi / 320)},
    "uneven": {"angles": torch.arange(200, dtype=torch.float64).div(200).pow(1.3) * math.pi},
    "coarse_detectors": {"angles": 160, "spacing": 1.3},
    "fine_detectors": {"angles": 160, "spacing": 0.5},
    "flat_fan": {"angles": 320, **FAN},
    "curved_fan": {"angles": 320, **FAN, "curved": True},
    "wide_fan": {"angles": 400, "geometry": "fan", "source_distance": 85.0},
}


def blobs(n=97):
    x, y = torch.arange(n) - (n - 1) / 2, (n - 1) / 2 - torch.arange(n)[:, None]
    square = [(x - cx).square() + (y - cy).square() for cx, cy in ((9, -4), (-20, 14))]
    return (torch.exp(-square[0] / 128) + 0.5 * torch.exp(-square[1] / 72)).double()[None, None]


def relative(x, reference):
    return ((x - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize("pixel", [1.0, 0.4])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_fbp_inverts_a_smooth_image(name, pixel):
    options = {k: v * pixel if k in ("spacing", *FAN) and k != "geometry" else v for k, v in GEOMETRIES[name].items()}
    image = blobs()
    a = Radon(image.shape[2:], pixel=pixel, **options)
    x = a.fbp(a(image))
    assert relative(x, image) < 0.01
    assert (x.mean() / image.mean()).item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("name", ["parallel", "flat_fan", "curved_fan"])
def test_fbp_of_a_phantom(name, filter):
    """Edges cost accuracy, units do not: what is left after smoothing is small, and so is the misfit of the data."""
    image = avg_pool2d(torch.from_numpy(shepp_logan_phantom())[None, None], 4)[..., 5:95, :]
    a = Radon(image.shape[2:], **GEOMETRIES[name])
    x = a.fbp(a(image), filter)
    assert relative(x, image) < (0.2 if filter == "ramp" else 0.36)
    assert relative(avg_pool2d(x, 5), avg_pool2d(image, 5)) < (0.05 if filter == "ramp" else 0.1)
    assert relative(a(x), a(image)) < (0.03 if filter == "ramp" else 0.06)


def test_windows_lessen_noise():
    a = Radon((64, 64), 90)
    noise = torch.randn(1, 1, 90, a.detectors, generator=torch.Generator().manual_seed(0))
    size = {name: a.fbp(noise, name).norm().item() for name in FILTERS}
    assert size["ramp"] > size["shepp-logan"] > size["cosine"] > size["hann"] > 0.2 * size["ramp"]
    assert size["cosine"] > size["hamming"] > size["hann"]


def test_fbp_is_linear_and_differentiable():
    a = Radon((6, 5), 4, geometry="fan", source_distance=9.0)
    y = torch.randn(1, 1, 4, a.detectors, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(a.fbp, y)


def test_filter_is_the_ramp():
    """Of a long cosine: its frequency times it; of samples that are kept: the same as without finer ones."""
    n, step, turns = 1024, 0.5, 40
    y = torch.cos(2 * math.pi * turns / n * torch.arange(n, dtype=torch.float64))
    q = filtered(y, step, "ramp", 4)
    middle = slice(n // 4, 3 * n // 4)
    torch.testing.assert_close(q[::4][middle], y[middle] * turns / (n * step), rtol=0, atol=2e-4)
    torch.testing.assert_close(q[::4], filtered(y, step, "ramp", 1), rtol=0, atol=1e-12)


def test_view_weights_share_the_turn():
    even = torch.arange(6, dtype=torch.float64) * (math.pi / 6)
    torch.testing.assert_close(view_weights(even, math.pi), torch.full((6,), math.pi / 6, dtype=torch.float64))
    uneven = view_weights(torch.tensor([2.0, 0.0, 0.4, 4 * math.pi + 0.9], dtype=torch.float64), math.pi)
    expected = torch.tensor([math.pi - 0.9, math.pi - 1.6, 0.9, 1.6], dtype=torch.float64) / 2
    torch.testing.assert_close(uneven, expected)
    assert view_weights(torch.tensor([0.3]), math.pi).item() == pytest.approx(math.pi)


def test_integrals_have_the_unit_of_the_pixel():
    image = torch.rand(1, 1, 12, 15, dtype=torch.float64)
    for options in ({}, {"geometry": "fan", "source_distance": 20.0, "detector_distance": 5.0}):
        metres = {k: 1e-3 * v if isinstance(v, float) else v for k, v in options.items()}
        in_pixels, in_metres = Radon((12, 15), 7, **options), Radon((12, 15), 7, pixel=1e-3, **metres)
        torch.testing.assert_close(in_metres(image), 1e-3 * in_pixels(image), rtol=1e-6, atol=1e-12)


def test_a_far_source_is_a_parallel_beam():
    image, parallel = blobs(41), Radon((41, 41), 12)
    fan = Radon((41, 41), parallel.angles, parallel.detectors, 1.0, "fan", source_distance=1e6)
    torch.testing.assert_close(fan(image), parallel(image), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("geometry", [{}, FAN, {**FAN, "curved": True}], ids=["parallel", "flat", "curved"])
def test_the_detectors_see_the_whole_image(geometry):
    a = Radon((31, 44), 40, **geometry)
    assert a.detectors % 2 == 1
    wide = Radon((31, 44), 40, a.detectors + 20, **geometry)
    image = torch.ones(1, 1, 31, 44)
    torch.testing.assert_close(wide(image)[..., 10:-10], a(image))
    assert wide(image)[..., [*range(9), *range(-9, 0)]].abs().max() == 0
    assert a(image)[..., [1, -2]].max() > 0


def test_norm_is_remembered_and_survives_a_change_of_dtype():
    a = Radon((20, 20), 9).float()
    assert a.rays.lines.dtype == torch.float64
    assert a.norm() == a.norm((1, 1, 20, 20)) == a.T.norm()
    x = torch.rand(1, 1, 20, 20)
    assert (a(x).norm() / x.norm()).item() <= a.norm() * (1 + 1e-5)


def test_arrays_are_answered_in_kind():
    a, image = Radon((9, 8), 5), np.ones((1, 1, 9, 8), np.float32)
    y = a(image)
    assert isinstance(y, np.ndarray)
    assert isinstance(a.fbp(y), np.ndarray)
    assert a.fbp(y).dtype == np.float32


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Radon((8, 0), 4), r"Radon: size: expected \(H, W\), both > 0, got \(8, 0\)"),
        (lambda: Radon((8, 8), 0), "Radon: angles: expected a number of views > 0"),
        (lambda: Radon((8, 8), [[0.0]]), "Radon: angles: expected at least one angle, in one dimension"),
        (lambda: Radon((8, 8), [float("nan")]), "Radon: angles: expected finite numbers"),
        (lambda: Radon((8, 8), 4, 0), "Radon: detectors: expected a number > 0, got 0"),
        (lambda: Radon((8, 8), 4, spacing=0.0), "Radon: spacing: expected a length > 0, got 0"),
        (lambda: Radon((8, 8), 4, pixel=-1.0), "Radon: pixel: expected a length > 0, got -1"),
        (lambda: Radon((8, 8), 4, geometry="cone"), "Radon: geometry: expected parallel or fan, got cone"),
        (lambda: Radon((8, 8), 4, geometry="fan"), "Radon: source_distance: expected more than 5.65685, .*, got None"),
        (lambda: Radon((8, 8), 4, geometry="fan", source_distance=5.0), "source_distance: expected more than 5.65685"),
        (lambda: Radon((8, 8), 4, source_distance=9.0), "source_distance: expected None for parallel beams, got 9"),
        (lambda: Radon((8, 8), 4, curved=True), "Radon: curved: expected False for parallel beams"),
        (
            lambda: Radon((8, 8), 4, 99, geometry="fan", source_distance=9.0, curved=True),
            "Radon: detectors: expected an arc of less than 180 degrees, got 623.8",
        ),
        (
            lambda: Radon((8, 8), 4, geometry="fan", source_distance=9.0, detector_distance=-1.0),
            "Radon: detector_distance: expected a length >= 0",
        ),
        (lambda: Radon((8, 8), 4)(torch.ones(1, 1, 8, 9)), r"Radon: x: expected .* \[B, C, 8, 8\], got \(1, 1, 8, 9\)"),
        (lambda: Radon((8, 8), 4, 9).adjoint(torch.ones(1, 1, 9, 4)), r"Radon: y: expected .* \[B, C, 4, 9\]"),
        (lambda: Radon((8, 8), 4, 9).adjoint(torch.ones(1, 1, 4, 9), (8, 9)), r"Radon: size: expected \(8, 8\)"),
        (
            lambda: Radon((8, 8), 4, 9).fbp(torch.ones(1, 1, 4, 9), "box"),
            "fbp: filter: expected one of ramp, .*, got box",
        ),
    ],
)
def test_wrong_input_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_a_sparse_scan_and_its_start():
    image = blobs(65).float()
    scan = ct.simulate(image, views=60)
    assert scan.y.shape == (1, 1, 60, scan.operator.detectors)
    assert torch.equal(scan.y, scan.operator(image))
    assert relative(scan.start, image) < 0.02
    fan = ct.simulate(image, views=90, geometry="fan", source_distance=100.0)
    assert relative(fan.start, image) < 0.02


def test_gaussian_noise_has_the_size_asked_for():
    image = torch.cat((blobs(65), 3 * blobs(65))).float()
    clean, y = ct.simulate(image), ct.simulate(image, noise=0.02, seed=4).y
    deviation = (y - clean.y).std((1, 2, 3)) / clean.y.amax((1, 2, 3))
    torch.testing.assert_close(deviation, torch.full((2,), 0.02), rtol=0.03, atol=0)
    assert torch.equal(y, ct.simulate(image, noise=0.02, seed=4).y)
    assert not torch.equal(y, ct.simulate(image, noise=0.02, seed=5).y)


def test_photons_are_counted():
    """The deviation of -log(n / N) is about 1 / sqrt(N exp(-y)); even no photon at all gives a finite number."""
    y = torch.full((1, 1, 200, 100), 1.5, dtype=torch.float64)
    difference = ct.noisy(y, photons=1e4) - y
    assert difference.std().item() == pytest.approx(math.exp(0.75) / 100, rel=0.03)
    assert abs(difference.mean().item()) < 1e-3
    assert ct.noisy(torch.full((1, 1, 4, 4), 100.0), photons=1e3).isfinite().all()
    with pytest.raises(ValueError, match="ct: photons: expected a number >= 1, or None, got 0"):
        ct.noisy(y, photons=0)
    with pytest.raises(ValueError, match="ct: noise: expected a number >= 0, got -1"):
        ct.noisy(y, noise=-1)
