"""Convolution, sums of Gaussians, convolution: every implementation against the definition in float64."""

import math

import numpy as np
import pytest
import torch
from torch.library import opcheck
from torch.nn.functional import conv2d, pad
from utils import REAL, assert_compiles, awkward_views, compare, compiles, interpreted, numbers, relative_error

from fastrecon.ops import rbf_unit
from fastrecon.ops.rbf_unit import BOUNDARIES, STEP, _cubics

SHAPES = [  # v, filters, centres
    ((1, 1, 4, 4), (1, 1, 5, 5), 1),
    ((2, 1, 13, 37), (4, 1, 5, 5), 53),
    ((1, 2, 45, 19), (3, 2, 5, 5), 53),
    ((3, 3, 6, 5), (2, 3, 3, 3), 11),
    ((1, 1, 40, 33), (2, 1, 7, 7), 30),
]


def eager(v, filters, weights, back=None, boundary="circular", spacing=STEP, sigma=STEP):
    back = filters.flip(-1, -2) if back is None else back
    border = filters.shape[-1] - 1
    t = conv2d(pad(v, [border] * 4, mode=BOUNDARIES[boundary]), filters)[..., None]
    centres = (torch.arange(weights.shape[1], device=v.device) - (weights.shape[1] - 1) / 2).to(v) * spacing
    z = (weights[:, None, None] * torch.exp(-((t - centres).square()) / (2 * sigma**2))).sum(-1)
    return conv2d(z, back.transpose(0, 1))


def problem(v, filters, J, dtype, device):
    """Maps of the size that slopes of pictures have, and weights that partly cancel."""
    x = 0.15 * numbers(*v, dtype=dtype, device=device)
    k = numbers(*filters, dtype=dtype, device=device, seed=1) / math.prod(filters[1:]) ** 0.5
    w = numbers(filters[0], J, dtype=dtype, device=device, seed=2)
    b = numbers(*filters, dtype=dtype, device=device, seed=3)
    return [t.requires_grad_() for t in (x, k, w, b)]


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_as_accurate_as_eager(shapes, dtype, device, backend):
    v, filters, weights, back = problem(*shapes, dtype, device)
    compare(rbf_unit, eager, v, filters, weights, back)


@interpreted
@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shapes", [((1, 2, 5, 6), (2, 2, 3, 3), 4)], ids=str)
def test_triton_kernel(shapes, dtype, device, backend):
    v, filters, weights, back = problem(*shapes, dtype, device)
    compare(rbf_unit, eager, v, filters, weights, back)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_boundaries(boundary, device, backend):
    v, filters, weights, _ = problem(*SHAPES[1], torch.float64, device)
    ours = lambda v, k, w: rbf_unit(v, k, w, boundary=boundary)  # noqa: E731
    compare(ours, lambda v, k, w: eager(v, k, w, boundary=boundary), v, filters, weights)


def test_own_spacing_and_width(device, backend):
    v, filters, weights, back = problem(*SHAPES[2], torch.float32, device)
    ours = lambda *t: rbf_unit(*t, spacing=0.05, sigma=0.08)  # noqa: E731
    compare(ours, lambda *t: eager(*t, spacing=0.05, sigma=0.08), v, filters, weights, back)


def test_cubics_of_the_kernel_are_right_to_float32():
    """Every Gaussian and its derivative, everywhere, against float64."""
    cubics = _cubics(53, STEP, STEP)
    N = cubics.shape[1]
    u = torch.linspace(0, 1, 33, dtype=torch.float64)
    t = (torch.arange(N)[:, None] - N // 2 + u) * STEP / 16
    powers = u[:, None] ** torch.arange(4)
    for j in (0, 26, 52):
        far = (t - (j - 26) * STEP) / STEP
        bell = torch.exp(-far.square() / 2)
        assert (cubics[j, :, :4] @ powers.T - bell).abs().max() < 1.6e-8
        assert (STEP * (cubics[j, :, 4:] @ powers.T) + bell * far).abs().max() < 4e-8
    assert (cubics[:, [0, -1]].abs() < 1e-9).all()


def test_kernel_reproduces_the_radial_functions(backend):
    """A 1 x 1 average of filters at one pixel leaves phi: over the whole domain and far outside it."""
    t = torch.cat((torch.linspace(-1.6, 1.6, 4001), torch.tensor([-1e6, 1e6, 1e30, 3.0, -3.0])))
    pixel = torch.zeros(1, 1, 3, 3)
    pixel[..., 1, 1] = 1
    w = numbers(1, 53, dtype=torch.float32)
    y = rbf_unit(t.expand(3, -1).contiguous()[None, None], pixel, w)[0, 0, 1]
    far = (t.double()[:, None] - (torch.arange(53) - 26) * 10 / 255) * 25.5
    exact = (w.double() * torch.exp(-far.square() / 2)).sum(-1)
    assert (y - exact).abs().max() < 5e-6  # t = 1 is rounded by 1.5e-6 of a width already
    assert (y[-5:] == 0).all() or (y[-5:].abs() < 1e-13).all()


@pytest.mark.parametrize("own", [False, True])
def test_gradcheck(own, device, backend):
    v, filters, weights, back = problem((2, 2, 5, 4), (2, 2, 3, 3), 5, torch.float64, device)
    inputs = (v, filters, weights, back) if own else (v, filters, weights)
    assert torch.autograd.gradcheck(rbf_unit, inputs)


def test_is_the_gradient_of_an_energy(device, backend):
    """With rotated filters and a circular boundary: its Jacobian is symmetric."""
    v, filters, weights, _ = (t.detach() for t in problem(*SHAPES[1], torch.float32, device))
    a, b = (numbers(*v.shape, dtype=torch.float32, device=device, seed=s) for s in (5, 6))
    v = v.requires_grad_()
    y = rbf_unit(v, filters, weights)
    left, right = ((torch.autograd.grad(y, v, s, retain_graph=True)[0] * o).sum() for s, o in ((a, b), (b, a)))
    assert (left - right).abs() < 1e-4 * left.abs()


def test_second_derivative_is_refused(device, backend):
    v, filters, weights, _ = problem(*SHAPES[0], torch.float32, device)
    (d,) = torch.autograd.grad(rbf_unit(v, filters, weights).square().sum(), v, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d.sum().backward()


def test_any_memory_layout(device, backend):
    tensors = [t.detach() for t in problem(*SHAPES[2], torch.float32, device)]
    expected = rbf_unit(*tensors)
    for k, t in enumerate(tensors):
        for name, view in awkward_views(t).items():
            assert torch.equal(rbf_unit(*tensors[:k], view, *tensors[k + 1 :]), expected), name


def test_image_has_the_same_bits_in_any_batch(device, backend):
    v, filters, weights, _ = problem((5, 1, 40, 21), (3, 1, 5, 5), 53, torch.float32, device)
    y = rbf_unit(v, filters, weights)
    for i in (4, 0, 2):
        assert torch.equal(rbf_unit(v[i : i + 1], filters, weights)[0], y[i])


def test_kernel_gives_the_same_derivative_of_an_image_in_any_batch():
    v, filters, weights, _ = problem((3, 1, 40, 21), (3, 1, 5, 5), 53, torch.float32, "cpu")
    (whole,) = torch.autograd.grad(rbf_unit(v, filters, weights).square().sum(), v)
    own = v[1:2].detach().requires_grad_()
    assert torch.equal(torch.autograd.grad(rbf_unit(own, filters, weights).square().sum(), own)[0][0], whole[1])


@pytest.mark.parametrize("shape", [(0, 1, 8, 8)], ids=str)
def test_empty(shape, device, backend):
    _, filters, weights, _ = problem(*SHAPES[1], torch.float32, device)
    v = torch.zeros(shape, device=device, requires_grad=True)
    y = rbf_unit(v, filters, weights)
    d, d_w = torch.autograd.grad(y.sum(), (v, weights))
    assert y.shape == d.shape == shape
    assert (d_w == 0).all()


def test_hostile_numbers_stay_where_they_are(device, backend):
    v, filters, weights, _ = (t.detach() for t in problem(*SHAPES[1], torch.float32, device))
    v[0, 0, 2, 2] = float("nan")
    y = rbf_unit(v, filters, weights)
    assert y[0].isnan().any()
    assert torch.isfinite(y[1]).all()
    assert torch.isfinite(rbf_unit(torch.full_like(v, 1e30), filters, weights)).all()


@compiles
def test_torch_func(device):
    v, filters, weights, _ = (t.detach() for t in problem((1, 1, 5, 6), (2, 1, 3, 3), 5, torch.float64, device))
    one, _ = torch.func.jvp(lambda v: rbf_unit(v, filters, weights), (v,), (v,))
    torch.testing.assert_close(one, rbf_unit(v, filters, weights))


def test_arrays_in_arrays_out():
    y = rbf_unit(np.zeros((1, 1, 6, 6)), np.ones((2, 1, 3, 3)), np.ones((2, 3)))
    assert isinstance(y, np.ndarray)
    assert y.shape == (1, 1, 6, 6)


K = torch.zeros(2, 1, 5, 5)
W = torch.zeros(2, 9)


@pytest.mark.parametrize(
    ("v", "filters", "weights", "options", "message"),
    [
        (torch.zeros(8, 8), K, W, {}, r"v: expected real images \[B, C, H, W\]"),
        (torch.zeros(1, 2, 8, 8), K, W, {}, r"filters: expected \[F, 2, K, K\] with odd K"),
        (torch.zeros(1, 1, 8, 8), K[..., :4, :4], W, {}, r"filters: expected \[F, 1, K, K\] with odd K"),
        (torch.zeros(1, 1, 8, 8), K, W[:1], {}, r"weights: expected \[2, J\]"),
        (torch.zeros(1, 1, 8, 8), K, W.double(), {}, "weights: expected torch.float32 on cpu"),
        (torch.zeros(1, 1, 8, 8), K, W, {"back": K[:1]}, r"back: expected \(2, 1, 5, 5\)"),
        (torch.zeros(1, 1, 8, 8), K, W, {"sigma": 0}, "sigma: expected a number > 0"),
        (torch.zeros(1, 1, 8, 8), K, W, {"boundary": "odd"}, "boundary: expected one of circular, zero"),
        (torch.zeros(1, 1, 3, 8), K, W, {}, "v: expected images of at least 4 pixels a side"),
    ],
)
def test_says_what_is_wrong(v, filters, weights, options, message):
    with pytest.raises(ValueError, match=f"rbf_unit: {message}"):
        rbf_unit(v, filters, weights, **options)


@compiles
def test_registration_and_compilation(device):
    tensors = [t.detach() for t in problem((2, 1, 9, 8), (2, 1, 3, 3), 5, torch.float32, device)]
    v, filters, weights, back = tensors
    opcheck(torch.ops.fastrecon.rbf_unit_fwd, (v, filters, back, weights, STEP, STEP))
    d_y = numbers(2, 1, 5, 4, dtype=torch.float32, device=device)
    opcheck(torch.ops.fastrecon.rbf_unit_vjp, (d_y, v, filters, back, weights, STEP, STEP))
    assert_compiles(rbf_unit, *(t.requires_grad_() for t in tensors))
    assert relative_error(rbf_unit(*tensors), rbf_unit(*(t.double() for t in tensors))) < 1e-6
