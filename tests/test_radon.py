"""Line integrals along rays: against the definition in float64, brute force, analytic integrals and scikit-image."""

import math

import numpy as np
import pytest
import torch
from torch.library import opcheck
from utils import (
    REAL,
    assert_compiles,
    awkward_views,
    compare,
    compiles,
    interpreted,
    numbers,
    relative_error,
)
from zoo import GEOMETRIES, rays_of

from fastrecon.ops import fan_rays, parallel_rays, radon, radon_adjoint
from fastrecon.ops.radon import radon_adjoint_ref, radon_ref

CASES = [  # image, views, detectors, spacing: wider and narrower than the image, finer and coarser than its pixels
    ((2, 1, 16, 16), 8, 25, 1.0),
    ((1, 3, 19, 31), 5, 70, 1.0),
    ((1, 1, 37, 12), 1, 7, 0.9),
    ((2, 2, 1, 1), 3, 3, 1.0),
    ((1, 1, 1, 40), 4, 1, 1.0),
    ((1, 1, 23, 29), 4, 280, 0.13),
    ((1, 1, 40, 33), 6, 13, 3.7),
    ((1, 1, 3, 530), 3, 61, 9.1),  # several tiles of the adjoint
]


def on(device, rays):
    return rays.to(torch.device(device))


def eager(x, rays):
    return radon_ref(x.flatten(0, 1), rays.lines, rays.axis).unflatten(0, x.shape[:2])


def eager_adjoint(y, rays):
    return radon_adjoint_ref(y.flatten(0, 1), rays.lines, rays.axis, *rays.size).unflatten(0, y.shape[:2])


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_as_accurate_as_the_definition(case, geometry, dtype, device, backend):
    shape, views, detectors, spacing = case
    rays = on(device, rays_of(geometry, shape[2:], views, detectors, spacing))
    x = numbers(*shape, dtype=dtype, device=device).requires_grad_()
    y = numbers(*shape[:2], views, detectors, dtype=dtype, device=device, seed=1).requires_grad_()
    compare(lambda t: radon(t, rays), lambda t: eager(t, rays), x)
    compare(lambda t: radon_adjoint(t, rays), lambda t: eager_adjoint(t, rays), y)


@interpreted
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("case", [((2, 1, 19, 23), 3, 31, 1.0), ((1, 1, 1, 1), 1, 1, 1.0)], ids=str)
def test_triton_kernel(case, geometry, device, backend):
    shape, views, detectors, spacing = case
    rays = on(device, rays_of(geometry, shape[2:], views, detectors, spacing))
    x = numbers(*shape, dtype=torch.float32, device=device).requires_grad_()
    compare(lambda t: radon(t, rays), lambda t: eager(t, rays), x)


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_adjoint_is_exact(geometry, dtype, device, backend):
    rays = on(device, rays_of(geometry, (41, 30), 11, 57, 1.1, 0.7))
    x, y = (numbers(2, 1, *s, dtype=dtype, device=device) for s in ((41, 30), (11, 57)))
    forth, back = (radon(x, rays).double() * y).sum(), (radon_adjoint(y, rays).double() * x).sum()
    scale = radon(x, rays).double().norm() * y.double().norm()
    assert abs(forth - back) / scale < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradients_of_any_order(geometry, device, backend):
    rays = on(device, rays_of(geometry, (5, 4), 3, 7, 1.0))
    x, y = (numbers(1, 2, *s, device=device).requires_grad_() for s in ((5, 4), (3, 7)))
    for function, argument in ((radon, x), (radon_adjoint, y)):
        assert torch.autograd.gradcheck(lambda t, f=function: f(t, rays), argument)
        assert torch.autograd.gradgradcheck(lambda t, f=function: f(t, rays).square(), argument)


def brute_force(x, source, target, pixel):
    """Joseph's integral along one line through two points, pixel by pixel, from the geometry alone."""
    (height, width), (px, py), (dx, dy) = x.shape, source, np.subtract(target, source)
    centre_x, centre_y, total = (width - 1) / 2, (height - 1) / 2, 0.0
    for i in range(height):
        for j in range(width):
            cx, cy = (j - centre_x) * pixel, (centre_y - i) * pixel
            if abs(dy) >= abs(dx):
                weight = 1 - abs(px + (cy - py) * dx / dy - cx) / pixel
                step = pixel * math.hypot(dx, dy) / abs(dy)
            else:
                weight = 1 - abs(py + (cx - px) * dy / dx - cy) / pixel
                step = pixel * math.hypot(dx, dy) / abs(dx)
            total += max(weight, 0.0) * step * x[i, j]
    return total


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_definition_is_what_the_text_says(geometry):
    x, pixel, count, spacing, far, near = numbers(6, 9), 0.8, 11, 0.9, 7.0, 3.0
    for t in (0.0, 0.3, 1.0, 2.0, 4.4):
        cos, sin = math.cos(t), math.sin(t)
        angle = torch.tensor([t], dtype=torch.float64)
        if geometry == "parallel":
            rays = parallel_rays((6, 9), angle, count, spacing, pixel)
        else:
            rays = fan_rays((6, 9), angle, count, spacing, far, near, geometry == "curved", pixel)
        y = radon_ref(x[None], rays.lines, rays.axis)[0, 0]
        for d in range(count):
            s = (d - (count - 1) / 2) * spacing
            if geometry == "parallel":
                ends = (s * cos, s * sin), (s * cos - sin, s * sin + cos)
            else:
                source, gamma = (far * sin, -far * cos), s / (far + near)
                forth, aside = (math.cos(gamma), math.sin(gamma)) if geometry == "curved" else (far + near, s)
                ends = source, (source[0] - forth * sin + aside * cos, source[1] + forth * cos + aside * sin)
            assert y[d].item() == pytest.approx(brute_force(x.numpy(), *ends, pixel), rel=1e-6, abs=1e-8)


ELLIPSES = [  # value, centre, half axes, angle, as parts of half the image's side: a skull, a ventricle, two tumours
    (1.0, (0.0, 0.0), (0.69, 0.92), 0.0),
    (-0.6, (0.22, 0.05), (0.16, 0.41), 0.31),
    (0.8, (-0.3, -0.2), (0.2, 0.12), -0.6),
    (0.5, (0.05, 0.6), (0.1, 0.1), 0.0),
]


def ellipses(side, finer=8):
    """Image [side, side] of the ellipses, pixels averaged over finer x finer points; half its side has length 1."""
    points = (torch.arange(side * finer, dtype=torch.float64) + 0.5) / (side * finer) * 2 - 1
    x, y, image = points[None, :], -points[:, None], 0
    for value, (cx, cy), (a, b), turn in ELLIPSES:
        u = (x - cx) * math.cos(turn) + (y - cy) * math.sin(turn)
        v = (y - cy) * math.cos(turn) - (x - cx) * math.sin(turn)
        image = image + value * ((u / a).square() + (v / b).square() <= 1)
    return image.view(side, finer, side, finer).mean((1, 3))[None, None]


def integrals(t, s):
    """Of the ellipses along the lines x cos t + y sin t = s."""
    total = 0
    for value, (cx, cy), (a, b), turn in ELLIPSES:
        square = (a * torch.cos(t - turn)).square() + (b * torch.sin(t - turn)).square()
        distance = s - cx * torch.cos(t) - cy * torch.sin(t)
        total = total + 2 * value * a * b * (square - distance.square()).clamp_min(0).sqrt() / square
    return total


def lines_of(geometry, views, detectors, spacing, far, near):
    """Angle and distance of the rays as those of parallel beams."""
    t = torch.arange(views, dtype=torch.float64)[:, None] * (2 * math.pi / views) + 0.05
    s = (torch.arange(detectors, dtype=torch.float64) - (detectors - 1) / 2) * spacing
    if geometry == "parallel":
        return t[:, 0], t, s
    gamma = s / (far + near) if geometry == "curved" else torch.atan(s / (far + near))
    return t[:, 0], t - gamma, far * torch.sin(gamma)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_integrals_of_ellipses(geometry, device, backend):
    views, detectors, far, near, error = 24, 61, 2.5, 1.5, {}
    spacing = 0.045 if geometry == "parallel" else 0.08
    angles, t, s = lines_of(geometry, views, detectors, spacing, far, near)
    for side in (50, 100):
        pixel = 2 / side
        if geometry == "parallel":
            rays = parallel_rays((side, side), angles, detectors, spacing, pixel)
        else:
            rays = fan_rays((side, side), angles, detectors, spacing, far, near, geometry == "curved", pixel)
        y = radon(ellipses(side).to(device), on(device, rays))[0, 0].cpu()
        error[side] = relative_error(y, integrals(t, s))
    assert error[50] < 0.02
    assert error[100] < 0.6 * error[50]  # finer pixels come nearer to the edges


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_integrals_of_a_smooth_image_are_right_to_a_thousandth(geometry, device, backend):
    n, sigma, (cx, cy) = 121, 10.0, (9.0, -4.0)
    angles, t, s = lines_of(geometry, 18, 101, 1.0 if geometry == "parallel" else 1.6, 150.0, 90.0)
    x, y = torch.arange(n) - (n - 1) / 2, (n - 1) / 2 - torch.arange(n)[:, None]
    blob = torch.exp(-((x - cx).square() + (y - cy).square()).double() / (2 * sigma**2))
    distance = s - cx * torch.cos(t) - cy * torch.sin(t)
    expected = sigma * math.sqrt(2 * math.pi) * torch.exp(-distance.square() / (2 * sigma**2))
    if geometry == "parallel":
        rays = parallel_rays((n, n), angles, 101, 1.0)
    else:
        rays = fan_rays((n, n), angles, 101, 1.6, 150.0, 90.0, geometry == "curved")
    assert relative_error(radon(blob[None, None].to(device), on(device, rays))[0, 0].cpu(), expected) < 1e-3


def test_agrees_with_scikit_image(device, backend):
    """Which turns the image by linear interpolation and adds up columns: about half a percent away on a phantom."""
    shepp_logan_phantom = pytest.importorskip("skimage.data").shepp_logan_phantom
    skimage_radon = pytest.importorskip("skimage.transform").radon
    phantom = np.pad(shepp_logan_phantom()[::2, ::2], (0, 1))  # 201 pixels: its centre and theirs are one
    degrees = np.arange(0, 180, 5.0)
    theirs = torch.from_numpy(skimage_radon(phantom, degrees, circle=False)).T
    rays = parallel_rays((201, 201), torch.from_numpy(np.deg2rad(degrees)), theirs.shape[1], 1.0)
    ours = radon(torch.from_numpy(phantom)[None, None].to(device), on(device, rays))[0, 0].cpu()
    assert relative_error(ours, theirs) < 0.01


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_an_image_has_the_same_bits_in_any_batch(geometry, dtype, device, backend):
    rays = on(device, rays_of(geometry, (33, 20), 9, 41, 1.0))
    x, y = (numbers(3, 2, *s, dtype=dtype, device=device) for s in ((33, 20), (9, 41)))
    for function, batch in ((radon, x), (radon_adjoint, y)):
        together = function(batch, rays)
        for i in range(3):
            assert torch.equal(function(batch[i : i + 1], rays), together[i : i + 1])
        assert torch.equal(function(batch[:, 1:], rays), together[:, 1:])


def test_same_bits_on_any_number_of_threads():
    rays = rays_of("flat", (120, 150), 30, 140, 1.0)
    x, y = numbers(1, 1, 120, 150, dtype=torch.float32), numbers(1, 1, 30, 140, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append((radon(x, rays), radon_adjoint(y, rays)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_any_memory_layout(device, backend):
    rays = on(device, rays_of("flat", (17, 12), 6, 23, 1.0))
    x, y = (numbers(2, 1, *s, dtype=torch.float32, device=device) for s in ((17, 12), (6, 23)))
    for function, argument in ((radon, x), (radon_adjoint, y)):
        for view in awkward_views(argument).values():
            assert torch.equal(function(view, rays), function(argument, rays))


def test_empty_batch(device, backend):
    rays = on(device, rays_of("flat", (8, 9), 4, 11, 1.0))
    assert radon(torch.zeros(0, 1, 8, 9, device=device), rays).shape == (0, 1, 4, 11)
    assert radon_adjoint(torch.zeros(2, 0, 4, 11, device=device), rays).shape == (2, 0, 8, 9)


def test_nan_stays_on_the_rays_that_meet_it(device, backend):
    rays = on(device, rays_of("flat", (30, 40), 8, 51, 1.0))
    x = torch.ones(1, 1, 30, 40, device=device)
    x[..., 11, 17] = float("nan")
    hit = radon(x, rays).isnan()
    assert 8 <= hit.sum() <= 8 * 6
    assert torch.equal(hit, eager(x, rays).isnan())


def test_arrays_are_answered_in_kind():
    rays, x = rays_of("parallel", (8, 9), 4, 11, 1.0), np.ones((1, 1, 8, 9), np.float32)
    assert isinstance(radon(x, rays), np.ndarray)
    np.testing.assert_array_equal(radon(x, rays), radon(torch.from_numpy(x), rays).numpy())


@pytest.mark.parametrize(
    ("function", "shape", "dtype", "message"),
    [
        (radon, (8, 9), torch.float32, r"radon: x: expected .* \[B, C, 8, 9\], got \(8, 9\) float32 on cpu"),
        (radon, (1, 1, 9, 8), torch.float32, r"radon: x: expected .* \[B, C, 8, 9\], got \(1, 1, 9, 8\)"),
        (radon, (1, 1, 8, 9), torch.float16, "radon: x: expected float32 or float64 .*, got .* float16"),
        (radon_adjoint, (1, 1, 11, 4), torch.float32, r"radon_adjoint: y: expected .* \[B, C, 4, 11\]"),
    ],
)
def test_says_what_is_wrong(function, shape, dtype, message):
    with pytest.raises(ValueError, match=message):
        function(torch.zeros(shape, dtype=dtype), rays_of("parallel", (8, 9), 4, 11, 1.0))


@compiles
def test_registration_and_compilation(device):
    rays = on(device, rays_of("flat", (6, 5), 3, 9, 1.0))
    x, y = numbers(2, 6, 5, device=device), numbers(2, 3, 9, device=device)
    opcheck(torch.ops.fastrecon.radon, (x, rays.lines, rays.axis))
    opcheck(torch.ops.fastrecon.radon_adjoint, (y, rays.lines, rays.axis, 6, 5))
    image = numbers(2, 1, 6, 5, dtype=torch.float32, device=device).requires_grad_()
    assert_compiles(lambda t: radon(t, rays), image, backend="inductor")


@pytest.mark.parametrize("argument", ["size", "angles", "detectors", "spacing", "pixel", "centre", "offset"])
@pytest.mark.parametrize("geometry", ["parallel", "curved"])
def test_numbers_of_rays_out_of_range_are_named(geometry, argument):
    wrong = {
        "size": [(8.5, 8), (0, 8), 8, "88", (True, 8)],
        "angles": [torch.zeros(2, 2), torch.tensor([math.nan]), "all", None, torch.zeros(3, requires_grad=True)],
        "detectors": [0, -1, 2.5, True, None, "9"],
        "spacing": [0, 0.0, -1.0, math.nan, math.inf, True, None],
        "pixel": [0.0, -1.0, math.nan, True],
        "centre": [3.0, (1.0, math.inf), (1.0, 2.0, 3.0)],
        "offset": [math.nan, math.inf, True, "1"],
    }
    right = {"size": (8, 9), "angles": torch.zeros(2), "detectors": 9, "spacing": 1.0}
    make = parallel_rays
    if geometry != "parallel":
        make, right = fan_rays, right | {"source_distance": 20.0, "detector_distance": 5.0, "curved": True}
    assert make(**right).axis.shape == (2, 9)
    for value in wrong[argument]:
        with pytest.raises(ValueError, match=f"^{make.__name__}: {argument}: expected .*, got "):
            make(**(right | {argument: value}))


def test_numbers_of_fans_out_of_range_are_named():
    right = ((8, 9), torch.zeros(2), 9, 1.0)
    for source in (3.0, 0.0, -20.0, math.nan, math.inf, None, True, 1e30):
        with pytest.raises(ValueError, match=r"^fan_rays: source_distance: expected more than 6.02"):
            fan_rays(*right, source, 5.0)
    for detector in (-1.0, math.nan, None, True):
        with pytest.raises(ValueError, match=r"^fan_rays: detector_distance: expected a length >= 0"):
            fan_rays(*right, 20.0, detector)
    with pytest.raises(ValueError, match=r"^fan_rays: detectors: expected an arc of less than 180 degrees, got 183"):
        fan_rays((8, 9), torch.zeros(2), 81, 1.0, 20.0, 5.0, True)
    with pytest.raises(ValueError, match=r"^fan_rays: curved: expected True or False, got 2"):
        fan_rays(*right, 20.0, 5.0, 2)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_rays_about_another_centre(geometry):
    """As the definition says, pixel by pixel."""
    x, pixel, count, spacing, far, near = numbers(6, 9), 0.8, 11, 0.9, 9.0, 3.0
    centre, offset = (1.0, 5.5), -0.7
    for t in (0.3, 2.0, 4.4):
        cos, sin = math.cos(t), math.sin(t)
        angle, place = torch.tensor([t], dtype=torch.float64), {"centre": centre, "offset": offset}
        if geometry == "parallel":
            rays = parallel_rays((6, 9), angle, count, spacing, pixel, **place)
        else:
            rays = fan_rays((6, 9), angle, count, spacing, far, near, geometry == "curved", pixel, **place)
        y = radon_ref(x[None], rays.lines, rays.axis)[0, 0]
        aside_x, aside_y = (centre[1] - 4.0) * pixel, (2.5 - centre[0]) * pixel  # from the middle of the image
        for d in range(count):
            s = (d - (count - 1) / 2) * spacing + offset
            if geometry == "parallel":
                ends = (s * cos, s * sin), (s * cos - sin, s * sin + cos)
            else:
                source, gamma = (far * sin, -far * cos), s / (far + near)
                forth, aside = (math.cos(gamma), math.sin(gamma)) if geometry == "curved" else (far + near, s)
                ends = source, (source[0] - forth * sin + aside * cos, source[1] + forth * cos + aside * sin)
            ends = [(px + aside_x, py + aside_y) for px, py in ends]
            assert y[d].item() == pytest.approx(brute_force(x.numpy(), *ends, pixel), rel=1e-6, abs=1e-8)
