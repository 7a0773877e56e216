"""Smoothed l2,1 norm: every implementation against eager PyTorch in float64, and the mathematics of its smoothing."""

import numpy as np
import pytest
import torch
from torch.library import opcheck
from utils import (
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

from fastrecon.ops import smoothed_l21

SHAPES = [(1, 1, 1, 1), (2, 1, 3), (5, 3), (2, 3, 5, 7), (3, 32, 17, 17), (2, 48, 40, 25), (2, 2, 3, 2, 131)]


def eager(g, eps):
    """As people write it, safe to differentiate at g = 0."""
    square, e = g.square().sum(1), eps.view(-1, *[1] * (g.ndim - 2))
    small = square <= e.square()
    n = torch.where(small, e.square(), square).sqrt()
    value = torch.where(small, square / (2 * e), n - e / 2)
    return value.reshape(len(g), -1).sum(1), g / n.unsqueeze(1)


def problem(shape, dtype, device):
    g = numbers(*shape, device=device)
    eps = 1.1 * g.norm(dim=1).reshape(shape[0], -1).mean(1)  # both branches are taken, no pixel sits on the kink
    return g.to(dtype).requires_grad_(), eps.to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_accurate_as_eager(shape, dtype, device, backend):
    compare(smoothed_l21, eager, *problem(shape, dtype, device))


@interpreted
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_triton_kernel(shape, device, backend):
    compare(smoothed_l21, eager, *problem(shape, torch.float32, device))


def test_gradients(device, backend):
    g, eps = problem((2, 3, 4, 5), torch.float64, device)
    assert torch.autograd.gradcheck(smoothed_l21, (g, eps))
    value, dual = smoothed_l21(g, eps)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), g)[0], dual)  # dual really is the gradient of value


@pytest.mark.parametrize("used", [0, 1])
def test_gradients_of_one_output_alone(used, device, backend):
    inputs = problem((2, 3, 40), torch.float64, device)
    compare(lambda g, eps: smoothed_l21(g, eps)[used], lambda g, eps: eager(g, eps)[used], *inputs)


def test_second_derivative_is_refused(device):
    g, eps = problem((1, 2, 5), torch.float64, device)
    (d_g,) = torch.autograd.grad(smoothed_l21(g, eps)[1].square().sum(), g, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d_g.sum().backward()


def test_bounds_of_the_smoothing(device, backend):
    """r_eps <= r <= r_eps + m eps / 2 (eq. 6), |dual| <= 1, and r_eps <= r is attained only in the limit."""
    g = numbers(1, 4, 500, device=device)
    g[..., :7] = 0
    norm = g.norm(dim=1)
    for eps in (1e-6, 0.5, 2.0, 1e6):
        value, dual = smoothed_l21(g, eps)
        assert value < norm.sum() < value + 500 * eps / 2
        assert dual.norm(dim=1).max() <= 1 + 1e-15
        assert (dual[..., :7] == 0).all()


def test_on_the_kink_both_branches_agree(device, backend):
    g = torch.tensor([[[3.0], [4.0]]], dtype=torch.float64, device=device, requires_grad=True)
    value, dual, d_g = outputs_and_grads(lambda g: smoothed_l21(g, 5.0), g)
    assert value == 2.5
    torch.testing.assert_close(dual.flatten().tolist(), [0.6, 0.8])
    assert d_g.isfinite().all()


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_any_memory_layout(dtype, device, backend):
    g, eps = problem((3, 5, 4, 9), dtype, device)
    expected = smoothed_l21(g, eps)
    layouts = awkward_views(g.detach()) | {"channels last": g.detach().to(memory_format=torch.channels_last)}
    for name, view in layouts.items():
        for mine, other in zip(smoothed_l21(view, eps), expected, strict=True):
            assert torch.equal(mine, other), name


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (2, 0, 4)], ids=str)
def test_empty(shape, device, backend):
    g = torch.zeros(shape, device=device, requires_grad=True)
    eps = torch.ones(shape[0], device=device, requires_grad=True)
    value, dual, d_g, d_eps = outputs_and_grads(smoothed_l21, g, eps)
    assert dual.shape == d_g.shape == shape
    assert torch.equal(value, torch.zeros_like(eps))
    assert torch.equal(d_eps, torch.zeros_like(eps))


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)  # plain PyTorch loses these squares
@pytest.mark.parametrize(("scale", "eps"), [(1e-30, 1e-34), (1e30, 1e-34), (1e30, 1e32), (1e-30, 1e-28)])
def test_neither_overflows_nor_vanishes(scale, eps, device, backend):
    g = scale * torch.tensor([[[3.0, 0.0], [4.0, 0.0]]], dtype=torch.float64)
    value, dual = smoothed_l21(g.float(), eps)
    norm = 5 * scale
    expected = norm**2 / (2 * eps) if norm <= eps else norm - eps / 2
    assert value.item() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(dual.double(), g / max(norm, eps), rtol=1e-6, atol=0)


def test_nan_stays_in_its_image_and_pixel(device, backend):
    g = numbers(2, 3, 8, device=device)
    g[0, 1, 2] = float("nan")
    value, dual = smoothed_l21(g, 0.5)
    assert value.isnan().tolist() == [True, False]
    assert dual.isnan().any(1).nonzero().tolist() == [[0, 2]]


def test_image_has_the_same_bits_in_any_batch(device, backend):
    g, eps = problem((5, 8, 7, 61), torch.float32, device)
    together = [*smoothed_l21(g, eps)]
    together += torch.autograd.grad(together[0].sum() + together[1].square().sum(), (g, eps))
    for i in (4, 0, 2):
        one = [*smoothed_l21(g[i : i + 1], eps[i : i + 1])]
        own = torch.autograd.grad(one[0].sum() + one[1].square().sum(), (g, eps))
        for mine, whole in zip((one[0][0], one[1][0], own[0][i], own[1][i]), together, strict=True):
            assert torch.equal(mine, whole[i])


def test_arrays_in_arrays_out():
    g = np.array([[[3.0, 0.3], [4.0, 0.4]]])
    value, dual = smoothed_l21(g, 1.0)
    assert isinstance(value, np.ndarray)
    np.testing.assert_allclose(value, [4.5 + 0.125])
    np.testing.assert_allclose(dual, [[[0.6, 0.3], [0.8, 0.4]]])


def test_half_precision_goes_to_the_definition(device):
    value, dual = smoothed_l21(torch.full((1, 4, 3), 2.0, dtype=torch.bfloat16, device=device), 1.0)
    assert value.dtype == torch.float32
    assert value.item() == 3 * 3.5
    assert torch.equal(dual, torch.full((1, 4, 3), 0.5, dtype=torch.bfloat16, device=device))


@pytest.mark.parametrize(
    ("g", "eps", "message"),
    [
        (torch.zeros(3), 1.0, r"g: expected real \[B, C, ...\], got \(3,\) float32"),
        (torch.zeros(2, 3, dtype=torch.complex64), 1.0, r"g: expected real \[B, C, ...\], got .* complex64"),
        (torch.zeros(2, 3, 4), 0.0, "eps: expected a number > 0, got 0.0"),
        (torch.zeros(2, 3, 4), torch.ones(3), r"eps: expected a number or shape \(2,\), got \(3,\)"),
    ],
)
def test_says_what_is_wrong(g, eps, message):
    with pytest.raises(ValueError, match=f"smoothed_l21: {message}"):
        smoothed_l21(g, eps)


@compiles
def test_registration_and_compilation(device):
    g, eps = (t.detach() for t in problem((2, 3, 20), torch.float64, device))
    opcheck(torch.ops.fastrecon.smoothed_l21_fwd, (g, eps))
    value, dual, norm = torch.ops.fastrecon.smoothed_l21_fwd(g, eps)
    opcheck(torch.ops.fastrecon.smoothed_l21_bwd, (value, g, eps, dual, norm))
    assert_compiles(smoothed_l21, *problem((2, 3, 4, 5), torch.float32, device))


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize(("output", "degrees"), [(0, (1, 0, 0)), (1, (0, -1, -1))])
def test_every_size(output, degrees, dtype, device, backend):
    g, eps = problem((2, 3, 9, 5), dtype, device)
    assert_scales(lambda *x: smoothed_l21(*x)[output], degrees, g, eps, tolerance=tolerance_of(dtype))


@interpreted
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_triton_kernel_at_every_size(dtype, device, backend):
    g, eps = problem((2, 3, 2, 5), dtype, device)
    for output, degrees in ((0, (1, 0, 0)), (1, (0, -1, -1))):
        assert_scales(lambda *x, k=output: smoothed_l21(*x)[k], degrees, g, eps, tolerance=tolerance_of(dtype))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, in which the interpreter computes what is not chosen
@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"], indirect=True)
def test_norms_beyond_the_largest_number(device, backend):
    value, dual = smoothed_l21(torch.full((1, 2, 1), 1e30, dtype=torch.bfloat16, device=device), 1.0)
    torch.testing.assert_close(value.item(), 2**0.5 * 1e30, rtol=1e-2, atol=0)
    torch.testing.assert_close(dual.flatten().tolist(), [0.5**0.5] * 2, rtol=4e-3, atol=0)
    inf = float("inf")
    g = torch.tensor([[[3e38, inf, -inf], [3e38, 1, inf]]], device=device)
    value, dual = smoothed_l21(g, 1.0)
    assert value.item() == inf
    half = 0.5**0.5
    torch.testing.assert_close(dual[0].T.tolist(), [[half, half], [1.0, 0.0], [-half, half]])
