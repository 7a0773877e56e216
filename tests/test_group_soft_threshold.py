"""Group soft thresholding: every implementation against eager PyTorch in float64, and the map's own properties."""

import numpy as np
import pytest
import torch
from torch.library import opcheck
from utils import (
    COMPLEX,
    REAL,
    assert_compiles,
    assert_scales,
    awkward_views,
    compare,
    compiles,
    interpreted,
    numbers,
    outputs_and_grads,
    tolerance_of,
)

from fastrecon.ops import group_soft_threshold, soft_threshold

SHAPES = [  # g, tau
    ((1, 1, 1), ()),
    ((2, 3, 5, 7), (2,)),
    ((5, 3), (5,)),
    ((3, 5, 7), (3, 1, 7)),  # a threshold per pixel
    ((2, 32, 17, 17), ()),
    ((2, 3, 331), (1, 1, 331)),
    ((2, 3, 20, 17), (20, 1)),
]


def eager(g, tau):
    """As people write it, safe to differentiate at g = 0."""
    if tau.ndim == 1:
        tau = tau.view(-1, *[1] * (g.ndim - 1))
    square = (g.real.square() + g.imag.square() if g.is_complex() else g.square()).sum(1, keepdim=True)
    above = square > tau.square()
    return g * torch.where(above, 1 - tau / torch.where(above, square, 1).sqrt(), 0)


def problem(shape, tau_shape, dtype, device):
    g = numbers(*shape, dtype=dtype, device=device)
    size = (0.8 + 0.3 * numbers(*tau_shape, device=device, seed=1).abs()) * shape[1] ** 0.5  # of a group's norm
    return g.requires_grad_(), size.to(g.real.dtype).requires_grad_()


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_as_accurate_as_eager(shapes, dtype, device, backend):
    compare(group_soft_threshold, eager, *problem(*shapes, dtype, device))


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("shapes", SHAPES[:4], ids=str)
def test_triton_kernel(shapes, dtype, device, backend):
    compare(group_soft_threshold, eager, *problem(*shapes, dtype, device))


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
def test_solves_its_minimisation(dtype, device, backend):
    """g - y is tau times a subgradient of the norm at y, group by group."""
    g, tau = numbers(2, 3, 500, dtype=dtype, device=device), 1.5
    y = group_soft_threshold(g, tau)
    zero = (y == 0).all(1, keepdim=True)
    assert 0 < zero.sum() < 1000
    assert (torch.where(zero, g, 0).norm(dim=1) <= tau * (1 + 1e-6)).all()
    unit = y / torch.where(zero, 1, y.norm(dim=1, keepdim=True))
    torch.testing.assert_close(torch.where(zero, 0, g - y), tau * unit)


def test_one_channel_is_soft_thresholding(device, backend):
    g = numbers(3, 1, 200, device=device)
    torch.testing.assert_close(group_soft_threshold(g, 0.7), soft_threshold(g, 0.7))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("tau_shape", [(), (2,), (2, 1, 4)], ids=str)
def test_gradients(tau_shape, dtype, device, backend):
    assert torch.autograd.gradcheck(group_soft_threshold, problem((2, 3, 4), tau_shape, dtype, device))


def test_second_derivative_is_refused(device):
    g, tau = problem((2, 2, 5), (), torch.float64, device)
    (d_g,) = torch.autograd.grad(group_soft_threshold(g, tau).square().sum(), g, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d_g.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_any_memory_layout(dtype, device, backend):
    g = numbers(3, 5, 4, 9, dtype=dtype, device=device)
    tau = 2 * numbers(3, 1, 4, 9, dtype=torch.float32, device=device, seed=1).abs()
    expected = group_soft_threshold(g, tau)
    for name, view in awkward_views(g).items():
        assert torch.equal(group_soft_threshold(view, tau), expected), name
    for name, view in awkward_views(tau).items():
        assert torch.equal(group_soft_threshold(g, view), expected), name


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (2, 0, 4)], ids=str)
def test_empty(shape, device, backend):
    g = torch.zeros(shape, device=device, requires_grad=True)
    tau = torch.ones(shape[0], device=device, requires_grad=True)
    y, d_g, d_tau = outputs_and_grads(group_soft_threshold, g, tau)
    assert y.shape == d_g.shape == shape
    assert torch.equal(d_tau, torch.zeros_like(tau))


def test_zero_groups_and_nan(device, backend):
    g = torch.zeros(1, 2, 4, device=device, requires_grad=True)
    tau = torch.zeros(1, device=device, requires_grad=True)
    assert all((t == 0).all() for t in outputs_and_grads(group_soft_threshold, g, tau))
    g = numbers(1, 2, 4, device=device)
    g[0, 1, 2] = float("nan")
    assert group_soft_threshold(g, 0.5).isnan().any(1).nonzero().tolist() == [[0, 2]]


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)  # plain PyTorch loses these squares
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_neither_overflows_nor_vanishes(scale, dtype, device, backend):
    g = scale * torch.tensor([[[3.0, 0.0], [4.0, 0.0]]])
    y = group_soft_threshold(g.to(dtype), 2 * scale)
    torch.testing.assert_close(y, (0.6 * g).to(dtype), rtol=1e-6, atol=0)


def test_image_has_the_same_bits_in_any_batch(device, backend):
    g, tau = problem((5, 8, 7, 61), (5,), torch.float32, device)
    y = group_soft_threshold(g, tau)
    d_g, d_tau = torch.autograd.grad(y.square().sum(), (g, tau))
    for i in (4, 0, 2):
        own = group_soft_threshold(g[i : i + 1], tau[i : i + 1])
        grads = torch.autograd.grad(own.square().sum(), (g, tau))
        assert torch.equal(own[0], y[i])
        assert torch.equal(grads[0][i], d_g[i])
        assert torch.equal(grads[1][i], d_tau[i])


def test_arrays_in_arrays_out():
    g = np.array([[[3.0, 0.3], [4.0, 0.4]]])
    y = group_soft_threshold(g, np.array([1.0]))
    assert isinstance(y, np.ndarray)
    np.testing.assert_allclose(y, [[[2.4, 0.0], [3.2, 0.0]]])


@pytest.mark.parametrize(
    ("g", "tau", "message"),
    [
        (torch.zeros(3), 1.0, r"g: expected real or complex \[B, C, ...\], got \(3,\) float32"),
        (torch.zeros(2, 3, dtype=torch.int32), 1.0, "g: expected real or complex .*, got .* int32"),
        (torch.zeros(2, 3, 4), -1.0, "tau: expected a number >= 0, got -1.0"),
        (torch.zeros(2, 3, 4), torch.ones(4), r"tau: expected a number, shape \(2,\) or .* \(2, 1, 4\), got \(4,\)"),
        (torch.zeros(2, 3, 4), torch.ones(2, 3, 4), r"tau: .* broadcasts to \(2, 1, 4\), got \(2, 3, 4\)"),
    ],
)
def test_says_what_is_wrong(g, tau, message):
    with pytest.raises(ValueError, match=f"group_soft_threshold: {message}"):
        group_soft_threshold(g, tau)


@compiles
def test_registration_and_compilation(device):
    g, tau = numbers(2, 3, 20, device=device), numbers(2, 1, device=device).abs()
    opcheck(torch.ops.fastrecon.group_soft_threshold_fwd, (g, tau))
    opcheck(torch.ops.fastrecon.group_soft_threshold_bwd, (2 * g, g, tau))
    assert_compiles(group_soft_threshold, *problem((2, 3, 4, 5), (2,), torch.float32, device))


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 80), (1, 70, 5)], ids=str)
def test_groups_of_every_size(shape, dtype, device, backend):
    problem_ = problem(shape, (shape[0], 1, shape[2]), dtype, device)
    assert_scales(group_soft_threshold, (1, 0, 0), *problem_, tolerance=tolerance_of(dtype))


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128], ids=str)
def test_triton_kernel_at_every_size(dtype, device, backend):
    problem_ = problem((2, 3, 8), (2, 1, 8), dtype, device)
    assert_scales(group_soft_threshold, (1, 0, 0), *problem_, tolerance=tolerance_of(dtype))


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float16, 6e4), (torch.bfloat16, 3e38), (torch.float32, 3e38), (torch.float64, 1.5e308)],
    ids=str,
)
def test_norms_beyond_the_largest_number(dtype, size, device, backend):
    """|g| itself overflows, the answer does not."""
    g, tau = torch.full((1, 2, 1), size, dtype=dtype, device=device), size / 5
    right = (1 - 1 / (5 * 2**0.5)) * size
    torch.testing.assert_close(
        group_soft_threshold(g, tau).flatten().tolist(), [right] * 2, rtol=2 * torch.finfo(dtype).eps, atol=0
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, in which the interpreter computes what is not chosen
@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"], indirect=True)
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_infinite_groups_stay(dtype, device, backend):
    inf, nan = float("inf"), float("nan")
    g = torch.tensor([[[inf, 1, inf, 3], [2, -inf, -inf, 4]]], dtype=dtype, device=device).requires_grad_()
    tau = torch.full((1, 1, 4), 2.0, dtype=dtype, device=device).requires_grad_()
    y = group_soft_threshold(g, tau)
    assert torch.equal(y[..., :3], g[..., :3])
    torch.testing.assert_close(y[0, :, 3].tolist(), [1.8, 2.4])
    d_g, d_tau = torch.autograd.grad(y[..., :3].sum(), (g, tau))
    assert torch.equal(d_g[..., :3], torch.ones_like(d_g[..., :3]))
    torch.testing.assert_close(d_tau.flatten().tolist(), [-1.0, 1.0, 0.0, 0.0])
    assert group_soft_threshold(torch.tensor([[[nan], [1.0]]], dtype=dtype, device=device), 1.0).isnan().all()
