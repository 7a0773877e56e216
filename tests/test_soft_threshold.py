"""Soft thresholding: every implementation against eager PyTorch in float64, and the map's own properties."""

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

from fastrecon.ops import soft_threshold

SHAPES = [  # x, tau
    ((1,), ()),
    ((2, 3, 5, 7), ()),
    ((3, 257), (3, 1)),  # a threshold per image
    ((2, 3, 5, 7), (3, 1, 1)),  # per channel
    ((40, 3), (3,)),  # short rows
    ((2, 1031), (2, 1031)),  # everywhere its own
    ((3, 2, 300), (3, 1, 300)),  # must be expanded
    ((1, 1, 2, 600), (1, 2, 1)),
    ((4, 1, 1, 1), (1, 1, 1, 1)),
]


def eager(x, tau):
    """As people write it, safe to differentiate at 0."""
    if not x.is_complex():
        return x.sign() * (x.abs() - tau).clamp_min(0)
    square = x.real.square() + x.imag.square()
    above = square > tau.square()
    modulus = torch.where(above, square, 1).sqrt()
    return x * torch.where(above, 1 - tau / modulus, 0)


def problem(shape, tau_shape, dtype, device):
    x = numbers(*shape, dtype=dtype, device=device)
    tau = numbers(*tau_shape, dtype=x.real.dtype, device=device, seed=1).abs()
    return x.requires_grad_(), tau.requires_grad_()


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_as_accurate_as_eager(shapes, dtype, device, backend):
    compare(soft_threshold, eager, *problem(*shapes, dtype, device))


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("shapes", SHAPES[:5], ids=str)
def test_triton_kernel(shapes, dtype, device, backend):
    compare(soft_threshold, eager, *problem(*shapes, dtype, device))


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
def test_solves_its_minimisation(dtype, device, backend):
    """x - y is tau times a subgradient of the modulus at y."""
    x, tau = numbers(1000, dtype=dtype, device=device), 0.7
    y = soft_threshold(x, tau)
    zero = y == 0
    assert 0 < zero.sum() < 1000
    assert (x[zero].abs() <= tau * (1 + 1e-6)).all()
    torch.testing.assert_close((x - y)[~zero], tau * y[~zero].sgn())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("tau_shape", [(), (3, 1), (4,), (2, 3, 4)], ids=str)
def test_gradients(tau_shape, dtype, device, backend):
    assert torch.autograd.gradcheck(soft_threshold, problem((2, 3, 4), tau_shape, dtype, device))


def test_second_derivative_is_refused(device):
    x, tau = problem((5,), (), torch.float64, device)
    (d_x,) = torch.autograd.grad(soft_threshold(x, tau).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d_x.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_any_memory_layout(dtype, device, backend):
    x = numbers(3, 5, 9, dtype=dtype, device=device)
    tau = numbers(5, 9, dtype=torch.float32, device=device, seed=1).abs()
    expected = soft_threshold(x, tau)
    for name, view in awkward_views(x).items():
        assert torch.equal(soft_threshold(view, tau), expected), name
    for name, view in awkward_views(tau).items():
        assert torch.equal(soft_threshold(x, view), expected), name


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)], ids=str)
def test_empty(shape, device, backend):
    x = torch.zeros(shape, device=device, requires_grad=True)
    tau = torch.ones(shape[-1:], device=device, requires_grad=True)
    y, d_x, d_tau = outputs_and_grads(soft_threshold, x, tau)
    assert y.shape == d_x.shape == shape
    assert torch.equal(d_tau, torch.zeros_like(tau))


def test_special_values(device, backend):
    nan, inf, tiny = float("nan"), float("inf"), 2.0**-149
    x = torch.tensor([0.0, nan, inf, -inf, tiny, -3 * tiny, 1.0, -1.0], device=device)
    tau = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0, tiny, inf, 1.0], device=device)
    expected = torch.tensor([0.0, nan, inf, -inf, tiny, -2 * tiny, 0.0, 0.0], device=device)
    torch.testing.assert_close(soft_threshold(x, tau), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("scale", [1e-30, 1e-42, 1e30], ids=str)
def test_complex_modulus_neither_overflows_nor_vanishes(scale, device, backend):
    x = torch.tensor([3 + 4j, -8 + 6j, 0j], dtype=torch.complex128) * scale
    y = soft_threshold(x.to(device, torch.complex64), torch.tensor(2.0 * scale, device=device))
    expected = x * torch.tensor([0.6, 0.8, 0.0])
    rounding = 2.0**-149 if scale == 1e-42 else 1e-6 * scale
    torch.testing.assert_close(y.cpu().to(torch.complex128), expected, rtol=0, atol=4 * rounding)


def test_image_has_the_same_bits_in_any_batch(device, backend):
    x = numbers(5, 3, 211, dtype=torch.float32, device=device).requires_grad_()
    tau = numbers(5, 1, 1, dtype=torch.float32, device=device, seed=1).abs().requires_grad_()
    (y,) = outputs_and_grads(soft_threshold, x.detach(), tau.detach())
    d_x, d_tau = torch.autograd.grad(soft_threshold(x, tau).square().sum(), (x, tau))
    for i in range(5):
        one, t = x[i : i + 1], tau[i : i + 1]
        assert torch.equal(soft_threshold(one, t), y[i : i + 1])
        own = torch.autograd.grad(soft_threshold(one, t).square().sum(), (x, tau))
        assert torch.equal(own[0][i], d_x[i])
        assert torch.equal(own[1][i], d_tau[i])


def test_arrays_in_arrays_out():
    x = np.linspace(-2, 2, 9)[::-1]
    y = soft_threshold(x, np.full(9, 0.5))
    assert isinstance(y, np.ndarray)
    np.testing.assert_allclose(y, np.sign(x) * np.maximum(np.abs(x) - 0.5, 0))


def test_half_precision_goes_to_the_definition(device):
    x = torch.tensor([2.0, -0.25], dtype=torch.float16, device=device)
    assert torch.equal(soft_threshold(x, 0.5), torch.tensor([1.5, 0.0], dtype=torch.float16, device=device))


@pytest.mark.parametrize(
    ("x", "tau", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), 1.0, "x: expected a real or complex tensor, got .*int64"),
        (torch.zeros(3), -1.0, "tau: expected a number >= 0, got -1.0"),
        (torch.zeros(2, 3), torch.ones(2), r"tau: expected .* broadcasts to \(2, 3\), got \(2,\)"),
        (torch.zeros(3), torch.ones(1, 3), r"tau: expected .* broadcasts to \(3,\), got \(1, 3\)"),
        (torch.zeros(3), torch.ones(3, dtype=torch.complex64), "tau: expected a real tensor .*, got torch.complex64"),
    ],
)
def test_says_what_is_wrong(x, tau, message):
    with pytest.raises(ValueError, match=f"soft_threshold: {message}"):
        soft_threshold(x, tau)


@compiles
def test_registration_and_compilation(device):
    x, tau = numbers(2, 3, 5, device=device), numbers(3, device=device).abs()
    opcheck(torch.ops.fastrecon.soft_threshold_fwd, (x, tau))
    opcheck(torch.ops.fastrecon.soft_threshold_bwd, (x, 2 * x, tau))
    assert_compiles(soft_threshold, *problem((2, 3, 5), (3, 1), torch.float32, device), backend="inductor")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, in which the interpreter computes what is not chosen
@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"], indirect=True)
def test_infinite_numbers_stay(device, backend):
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([complex(inf, 1), complex(-2, -inf), complex(nan, 1), 3 + 4j, 3e38 + 3e38j], device=device)
    tau = torch.tensor([1.0, 1.0, 1.0, 1.0, 1e38], device=device)
    y = soft_threshold(x.requires_grad_(), tau.requires_grad_())
    assert torch.equal(torch.view_as_real(y[:2].detach()), torch.view_as_real(x[:2].detach()))
    assert y[2].isnan()
    torch.testing.assert_close(y[3:].tolist(), [2.4 + 3.2j, (1 - 1 / 18**0.5) * 3e38 * (1 + 1j)])
    d_x, d_tau = torch.autograd.grad(y[:2], (x, tau), torch.ones_like(y[:2]))
    assert d_x[:2].tolist() == [1, 1]
    assert d_tau[:2].tolist() == [-1, 0]
    real = torch.tensor([inf, -inf, nan], device=device)
    assert torch.equal(soft_threshold(real, 1.0)[:2], real[:2])


@pytest.mark.parametrize("dtype", COMPLEX, ids=str)
def test_complex_numbers_of_every_size(dtype, device, backend):
    x, tau = numbers(2, 150, dtype=dtype, device=device), numbers(150, device=device, seed=1).abs().to(dtype.to_real())
    inputs = (x.requires_grad_(), tau.requires_grad_())
    assert_scales(soft_threshold, (1, 0, 0), *inputs, tolerance=tolerance_of(dtype))
