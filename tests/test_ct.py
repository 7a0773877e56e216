"""Computed tomography: the operator Radon beyond its row in test_operators.py."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

pytest.importorskip("skimage")

from skimage.data import shepp_logan_phantom

from fastrecon.operators import Radon
from fastrecon.operators._filters import FILTERS, filtered, view_weights

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


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        (argument, value)
        for argument, values in {
            "size": [(8.5, 8), (8, True), (-8, 8), (8,), 8, "88", None, (2**21, 1)],
            "angles": [True, -3, 2.5, "90", None, [], [1j], [float("inf")], [[0.0]], np.ma.masked_array([0.0, 1.0])],
            "detectors": [0, -1, 2.5, True, "9", float("nan")],
            "spacing": [0, 0.0, -1.0, float("nan"), float("inf"), True, "1"],
            "geometry": ["cone", None, 3, ["fan"]],
            "pixel": [0.0, -1.0, float("nan"), float("inf"), True, "1", 10**400],
            "offset": [float("nan"), float("inf"), True, "1", None, (0.0, 1.0)],
            "centre": [3.0, (1.0,), (1.0, float("nan")), (True, 1.0), "ab", (1e9, 0.0)],
            "curved": [True, 1, "no"],
            "source_distance": [9.0],
            "detector_distance": [1.0, "1", float("nan")],
        }.items()
        for value in values
    ],
    ids=repr,
)
def test_numbers_out_of_range_are_named(argument, value):
    with pytest.raises(ValueError, match=f"^Radon: {argument}: expected .*, got "):
        Radon(**{"size": (8, 8), "angles": 4, argument: value})


@pytest.mark.parametrize("argument", ["source_distance", "detector_distance", "curved", "offset"])
def test_numbers_of_fans_out_of_range_are_named(argument):
    fan = {"geometry": "fan", "source_distance": 9.0, "detector_distance": 1.0}
    wrong = {
        "source_distance": [5.0, 0.0, float("nan"), float("inf"), True, "9", 1e30],
        "detector_distance": [-1.0, float("nan"), float("inf"), True, "9", None],
        "curved": [1, None, "no"],
        "offset": [float("nan"), True],
    }
    for value in wrong[argument]:
        with pytest.raises(ValueError, match=f"^Radon: {argument}: expected .*, got "):
            Radon((8, 8), 4, **{**fan, argument: value})


def test_angles_that_want_gradients_are_refused():
    angles = torch.linspace(0, 3, 5).requires_grad_()
    with pytest.raises(ValueError, match="Radon: angles: expected angles that want no gradient"):
        Radon((8, 8), angles)
    a = Radon((8, 8), angles.detach())
    with torch.no_grad():
        angles.zero_()  # its owner may do that
    torch.testing.assert_close(a.angles, torch.linspace(0, 3, 5, dtype=torch.float32).double())


MOVED = {"centre": (39.0, 52.5), "offset": 1.75}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_fbp_knows_where_the_scanner_turns(name):
    image = blobs()
    a = Radon(image.shape[2:], **GEOMETRIES[name], **MOVED) if name != "wide_fan" else None
    if a is None:
        a = Radon(image.shape[2:], 400, geometry="fan", source_distance=105.0, **MOVED)
    x = a.fbp(a(image))
    assert relative(x, image) < 0.01
    assert (x.mean() / image.mean()).item() == pytest.approx(1, abs=3e-3)


@pytest.mark.parametrize("geometry", [{}, FAN, {**FAN, "curved": True}], ids=["parallel", "flat", "curved"])
def test_a_centre_is_where_the_image_lies(geometry):
    """Zeros around an image move its middle, and turn as it does; an offset moves what the detectors see."""
    image = blobs(33)
    padded = torch.nn.functional.pad(image, (3, 8, 10, 1))
    plain = Radon((33, 33), 20, 71, **geometry)
    moved = Radon((44, 44), 20, 71, centre=(26, 19), **geometry)
    torch.testing.assert_close(moved(padded), plain(image), rtol=1e-7, atol=1e-7)
    shifted = Radon((33, 33), 20, 71, plain.spacing, offset=3 * plain.spacing, **geometry)
    torch.testing.assert_close(shifted(image)[..., :-3], plain(image)[..., 3:], rtol=1e-7, atol=1e-7)
    for other in (moved, shifted):
        assert other.adjoint_test((1, 1, *other.size)) < 1e-12


@pytest.mark.parametrize("geometry", [{}, FAN, {**FAN, "curved": True}], ids=["parallel", "flat", "curved"])
def test_the_detectors_see_the_whole_image_from_any_centre(geometry):
    options = {**geometry, "centre": (40.0, 2.0), "offset": -7.3}
    a = Radon((31, 44), 40, **options)
    wide = Radon((31, 44), 40, a.detectors + 20, **options)
    image = torch.ones(1, 1, 31, 44)
    torch.testing.assert_close(wide(image)[..., 10:-10], a(image))
    assert wide(image)[..., [*range(9), *range(-9, 0)]].abs().max() == 0


@pytest.mark.parametrize("circle", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (51, 51), (50, 71), (61, 40)], ids=str)
def test_like_scikit_image(size, circle):
    transform = pytest.importorskip("skimage.transform")
    row, column = (torch.arange(n, dtype=torch.float64) - n // 2 for n in size)
    inside = row[:, None].square() + column.square() < (min(size) // 2 - 1) ** 2
    blob = torch.exp(-((row[:, None] + 4).square() + (column - 6).square()) / 50) * inside
    theta = np.arange(0, 180, 11.0)
    theirs = torch.from_numpy(transform.radon(blob.numpy(), theta, circle)).T
    a = Radon.like_skimage(size, theta, circle)
    assert relative(a(blob[None, None])[0, 0], theirs) < 2e-3


@pytest.mark.parametrize("circle", [True, False])
@pytest.mark.parametrize("side", [100, 101])
def test_reconstructs_what_scikit_image_scans(side, circle):
    transform = pytest.importorskip("skimage.transform")
    t = np.arange(side) - side // 2
    inside = np.hypot(t[:, None], t) <= side // 2
    image = transform.resize(shepp_logan_phantom(), (side, side), anti_aliasing=True) * inside
    theirs = transform.radon(image, np.arange(180.0), circle)
    back = Radon.like_skimage((side, side), circle=circle).fbp(np.ascontiguousarray(theirs.T)[None, None])[0, 0]
    reference = transform.iradon(theirs, np.arange(180.0), side, circle=circle)
    error, judge = (np.square((x - image) * inside).mean() for x in (back, reference))
    assert error <= judge
    if side == 100:  # half a pixel aside, everything is lost
        plain = Radon((side, side), 180, theirs.shape[0]).fbp(np.ascontiguousarray(theirs.T)[None, None])[0, 0]
        assert np.square((plain - image) * inside).mean() > 5 * error


@pytest.mark.parametrize("wrong", [{"size": (8,)}, {"theta": "all"}, {"theta": [float("nan")]}, {"circle": 2}])
def test_like_scikit_image_names_what_is_wrong(wrong):
    with pytest.raises(ValueError, match=f"^Radon.like_skimage: {'angles' if 'theta' in wrong else next(iter(wrong))}"):
        Radon.like_skimage(**{"size": (8, 8), **wrong})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["parallel", "flat_fan", "curved_fan"])
def test_fbp_gives_the_same_bits_in_any_batch_and_takes_an_empty_one(name, dtype):
    a = Radon((33, 20), **{**GEOMETRIES[name], "angles": 24})
    y = torch.randn(3, 2, 24, a.detectors, dtype=dtype)
    x = a.fbp(y)
    for i in range(3):
        assert torch.equal(a.fbp(y[i : i + 1]), x[i : i + 1])
    assert a.fbp(y[:0]).shape == (0, 2, 33, 20)
    assert a.fbp(y[:, :0]).shape == (3, 0, 33, 20)


def test_a_scanner_made_in_inference_mode_can_be_trained_with():
    with torch.inference_mode():
        a = Radon((9, 8), 5)
        a(torch.ones(1, 1, 9, 8))
    x = torch.ones(1, 1, 9, 8, requires_grad=True)
    (d,) = torch.autograd.grad(a(x).sum(), x)
    torch.testing.assert_close(d, a.adjoint(torch.ones_like(a(x))))


def test_a_scanner_can_be_copied_and_pickled():
    a, x = Radon((9, 8), 5, offset=0.3), torch.rand(1, 1, 9, 8)
    for other in (copy.deepcopy(a), pickle.loads(pickle.dumps(a)), a.double()):
        assert torch.equal(other(x), a(x))
        assert other.norm() == a.norm()
    assert not a.state_dict()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_angles_with_tangents_are_refused():
    with pytest.raises(ValueError, match="angles: expected angles that want no gradient"):
        torch.func.jvp(lambda a: Radon((8, 8), a)(torch.rand(1, 1, 8, 8)), (torch.rand(3),), (torch.ones(3),))
