"""The proximal map of lam |x|^p: every implementation against iterated shrinkage in float64 and brute force."""

import numpy as np
import pytest
import torch
from torch.library import opcheck
from utils import (
    COMPLEX,
    REAL,
    assert_compiles,
    awkward_views,
    compare,
    compiles,
    interpreted,
    numbers,
    outputs_and_grads,
)

from fastrecon.ops import prox_lp, soft_threshold
from fastrecon.ops.prox_lp import lp_value, threshold

POWERS = [0.0, 0.1, 0.5, 0.8, 0.95, 1.0]
SHAPES = [  # x, lam
    ((1,), ()),
    ((2, 3, 5, 7), (3, 1, 1)),
    ((40, 3), (3,)),
    ((2, 1031), (2, 1031)),
    ((3, 2, 300), (3, 1, 300)),
]


class Eager(torch.autograd.Function):
    """Generalised iterated shrinkage as in the paper, 60 steps, with the derivative of the implicit function."""

    @staticmethod
    def forward(ctx, x, lam, p):
        a = x.abs()
        if p == 1:
            y = (a - lam).clamp_min(0)
        elif p == 0:
            y = torch.where(a > (2 * lam).sqrt(), a, 0)
        else:
            base = 2 * lam * (1 - p)
            above = a > base ** (1 / (2 - p)) + lam * p * base ** ((p - 1) / (2 - p))
            y = torch.where(above, a, 1)
            for _ in range(60):
                y = torch.where(above, a - lam * p * y ** (p - 1), 1)
            y = torch.where(above, y, 0)
        ctx.p = p
        ctx.save_for_backward(x, y, lam)
        return y * x.sgn()

    @staticmethod
    def backward(ctx, d_y):
        x, y, lam = ctx.saved_tensors
        p, above, unit = ctx.p, y > 0, x.sgn()
        size = torch.where(above, y, 1)
        slope = torch.where(above, 1 / (1 - (1 - p) * lam * p * size ** (p - 2)), 0)
        along = (unit.conj() * d_y).real if x.is_complex() else unit * d_y
        d_x = slope * along * unit
        if x.is_complex():
            d_x = d_x + torch.where(above, y / x.abs(), 0) * (d_y - along * unit)
        return d_x, (-along * slope * p * size ** (p - 1)).sum_to_size(lam.shape), None


def problem(shape, lam_shape, dtype, device):
    x = 2 * numbers(*shape, dtype=dtype, device=device)
    lam = 0.1 + 0.5 * numbers(*lam_shape, dtype=x.real.dtype, device=device, seed=1).abs()
    return x.requires_grad_(), lam.requires_grad_()


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("p", POWERS)
def test_as_accurate_as_eager(p, shapes, dtype, device, backend):
    x, lam = problem(*shapes, dtype, device)
    compare(prox_lp, Eager.apply, x, lam, p)


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("p", [0.0, 0.5, 0.8])
def test_triton_kernel(p, dtype, device, backend):
    x, lam = problem((2, 3, 5), (3, 1), dtype, device)
    compare(prox_lp, Eager.apply, x, lam, p)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 0.8, 0.99, 0.9999, 1.0])
def test_is_the_global_minimiser(p, device, backend):
    """No point of a fine grid has a lower objective, and the stationarity residual is rounding."""
    x, lam = torch.linspace(-4, 4, 801, dtype=torch.float64, device=device), 0.7
    y = prox_lp(x, lam, p)

    def objective(z):
        return (z - x).square() / 2 + lam * torch.where(z == 0, 0, z.abs() ** p)  # 0^0 counts as 0

    best = torch.stack([objective(t * x) for t in torch.linspace(0, 1, 4001)]).amin(0)
    assert (objective(y) <= best + 1e-14).all()
    z, a = y[y != 0], x[y != 0]
    assert 100 < len(z) < 800
    assert (z - a + lam * p * z.sgn() * z.abs() ** (p - 1)).abs().max() < 4e-15


@pytest.mark.parametrize("p", [0.2, 0.5, 0.8, 0.99])
def test_jumps_at_the_threshold(p, device, backend):
    lam = torch.tensor([1e-6, 0.3, 1e5], dtype=torch.float64, device=device)
    tau, least = threshold(lam, p), (2 * lam * (1 - p)) ** (1 / (2 - p))
    assert torch.equal(prox_lp(tau * (1 - 1e-12), lam, p), torch.zeros_like(lam))
    torch.testing.assert_close(prox_lp(tau * (1 + 1e-12), lam, p), least, rtol=1e-9 / (1 - p), atol=0)


def test_zero_where_two_minimisers_tie(device, backend):
    x = torch.tensor([2.0, -2.0, 2.0000002], device=device)
    assert torch.equal(prox_lp(x, 2.0, 0.0), torch.tensor([0.0, 0.0, 2.0000002], device=device))


def test_limits(device, backend):
    x = numbers(500, device=device)
    assert torch.equal(prox_lp(x, 0.6, 1.0), soft_threshold(x, 0.6))
    torch.testing.assert_close(prox_lp(x, 0.6, 1 - 1e-9), soft_threshold(x, 0.6), rtol=0, atol=1e-7)
    assert torch.equal(prox_lp(x, 0.6, 0.0), torch.where(x.abs() > 1.2**0.5, x, 0))
    for p in POWERS:
        assert torch.equal(prox_lp(x, 0.0, p), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("p", [0.0, 0.5, 0.8])
def test_gradients(p, dtype, device, backend):
    x, lam = problem((2, 3, 4), (3, 1), dtype, device)
    assert torch.autograd.gradcheck(lambda x, lam: prox_lp(x, lam, p), (x, lam))


def test_second_derivative_is_refused(device):
    x, lam = problem((5,), (), torch.float64, device)
    (d_x,) = torch.autograd.grad(prox_lp(x, lam, 0.5).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d_x.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_any_memory_layout(dtype, device, backend):
    x, lam = (t.detach() for t in problem((3, 5, 9), (5, 9), dtype, device))
    expected = prox_lp(x, lam, 0.5)
    for name, view in awkward_views(x).items():
        assert torch.equal(prox_lp(view, lam, 0.5), expected), name
    for name, view in awkward_views(lam).items():
        assert torch.equal(prox_lp(x, view, 0.5), expected), name


@pytest.mark.parametrize("shape", [(0,), (3, 0)], ids=str)
def test_empty(shape, device, backend):
    x = torch.zeros(shape, device=device, requires_grad=True)
    lam = torch.ones((), device=device, requires_grad=True)
    y, d_x, d_lam = outputs_and_grads(lambda x, lam: prox_lp(x, lam, 0.5), x, lam)
    assert y.shape == d_x.shape == shape
    assert d_lam == 0


@pytest.mark.parametrize("p", [0.0, 0.5, 0.9])
def test_special_values(p, device, backend):
    nan, inf = float("nan"), float("inf")
    x = torch.tensor([0.0, nan, inf, -inf, 1e-42, 1.0], device=device)
    lam = torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0, inf], device=device)
    expected = torch.tensor([0.0, nan, inf, -inf, 0.0, 0.0], device=device)
    torch.testing.assert_close(prox_lp(x, lam, p), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1e4, 1e15])
def test_any_scale(scale, p, device, backend):
    """prox(s x; s^(2-p) lam) = s prox(x; lam)."""
    x = numbers(300, dtype=torch.float32, device=device)
    weight = torch.tensor(0.3, dtype=torch.float64) * scale ** (2 - p)
    y = prox_lp(x.double() * scale, weight.to(device), p) / scale
    torch.testing.assert_close(y, prox_lp(x.double(), 0.3, p), rtol=1e-12, atol=0)
    y = prox_lp(x * scale, weight.float().to(device), p) / scale
    torch.testing.assert_close(y, prox_lp(x, 0.3, p), rtol=2e-5, atol=0)


def test_sparse_and_dense_tiles_agree(device, backend):
    """Numbers below the threshold among those above change nothing."""
    x, lam = 2 + numbers(1000, dtype=torch.float32, device=device).abs(), torch.tensor(0.4, device=device)
    sparse = torch.where(torch.arange(1000, device=device) % 7 == 0, x, 0.01).requires_grad_()
    dense = x.clone().requires_grad_()
    y, d_y = (outputs_and_grads(lambda x: prox_lp(x, lam, 0.5), t) for t in (sparse, dense))
    for mine, whole in zip(y, d_y, strict=True):
        assert torch.equal(mine[::7], whole[::7])
        assert (mine[1::7] == 0).all()


def test_image_has_the_same_bits_in_any_batch(device, backend):
    x, lam = problem((5, 3, 211), (5, 1, 1), torch.float32, device)
    y = prox_lp(x, lam, 0.5)
    d_x, d_lam = torch.autograd.grad(y.square().sum(), (x, lam))
    for i in (4, 0, 2):
        own = prox_lp(x[i : i + 1], lam[i : i + 1], 0.5)
        grads = torch.autograd.grad(own.square().sum(), (x, lam))
        assert torch.equal(own[0], y[i])
        assert torch.equal(grads[0][i], d_x[i])
        assert torch.equal(grads[1][i], d_lam[i])


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize("p", [0.0, 1e-3, 0.5, 2 / 3, 1.0])
def test_value(p, dtype, device):
    """Exact from the rounded numbers, denormals among them, whatever image stands beside."""
    c = numbers(3, 2, 257, dtype=dtype, device=device)
    c[0, 0, :4] = torch.tensor([0.0, torch.finfo(dtype).tiny / 8, torch.finfo(dtype).max / 4, 1e-20])
    c[1] = 0
    wide = c.to(torch.complex128 if c.is_complex() else torch.float64)
    value = lp_value(c, p)
    expected = torch.where(wide == 0, 0, wide.abs().pow(p)).flatten(1).sum(1)
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, expected, rtol=1e-14 if dtype != torch.complex64 else 1e-7, atol=0)
    assert torch.equal(value[2:], lp_value(c[2:], p))
    if p:
        c[2, 1, 3] = float("nan")
        assert lp_value(c, p).isnan().tolist() == [False, False, True]
        c[2, 1, 3] = -float("inf")
        assert lp_value(c, p)[2] == float("inf")


def test_value_is_differentiable(device):
    c = numbers(2, 5, device=device).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: lp_value(c, 0.5), (c,))


def test_arrays_in_arrays_out():
    y = prox_lp(np.array([-3.0, 0.1]), 0.5, 0.0)
    assert isinstance(y, np.ndarray)
    np.testing.assert_array_equal(y, [-3.0, 0.0])


@pytest.mark.parametrize(
    ("x", "lam", "p", "message"),
    [
        (torch.zeros(3), 1.0, 1.5, r"p: expected a number in \[0, 1\], got 1.5"),
        (torch.zeros(3), 1.0, -0.1, r"p: expected a number in \[0, 1\], got -0.1"),
        (torch.zeros(3, dtype=torch.bool), 1.0, 0.5, "x: expected a real or complex tensor, got .* bool"),
        (torch.zeros(3), -1.0, 0.5, "lam: expected a number >= 0, got -1.0"),
        (torch.zeros(2, 3), torch.ones(2), 0.5, r"lam: expected .* broadcasts to \(2, 3\), got \(2,\)"),
    ],
)
def test_says_what_is_wrong(x, lam, p, message):
    with pytest.raises(ValueError, match=f"prox_lp: {message}"):
        prox_lp(x, lam, p)


@compiles
def test_registration_and_compilation(device):
    x, lam = (t.detach() for t in problem((2, 3, 5), (3,), torch.float64, device))
    opcheck(torch.ops.fastrecon.prox_lp_fwd, (x, lam, 0.5))
    opcheck(torch.ops.fastrecon.prox_lp_bwd, (x, 2 * x, lam, 0.5))
    assert_compiles(prox_lp, *problem((2, 3, 5), (3, 1), torch.float32, device), 0.5)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, in which the interpreter computes what is not chosen
@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"], indirect=True)
@pytest.mark.parametrize("p", [0.0, 0.5, 0.9])
def test_infinite_and_huge_numbers(p, device, backend):
    inf = float("inf")
    x = torch.tensor([inf, -inf, 1e38, 2.0], device=device)
    assert torch.equal(prox_lp(x, 0.1, p)[:3], x[:3])
    z = torch.tensor([complex(inf, 1), complex(0, -inf), 1e30 + 1e30j, 1e-30 + 0j], device=device)
    y = prox_lp(z, 0.1, p)
    assert torch.equal(torch.view_as_real(y[:3]), torch.view_as_real(z[:3]))
    assert y[3] == 0
