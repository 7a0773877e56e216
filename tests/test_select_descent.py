"""The decisions of an LDA iteration: which candidate is kept, when eps shrinks, and what is differentiated."""

import numpy as np
import pytest
import torch
from torch.library import opcheck
from utils import COMPLEX, REAL, assert_compiles, awkward_views, compiles, interpreted, numbers, outputs_and_grads

from fastrecon.ops import select_descent, shrink_eps

NAN, INF = float("nan"), float("inf")
DECISIONS = [  # phi_u, phi_v, whether u is kept
    (1.0, 2.0, True),
    (2.0, 1.0, False),
    (1.0, 1.0, True),
    (NAN, 1.0, False),
    (1.0, NAN, True),
    (NAN, NAN, False),
    (INF, INF, True),
    (INF, NAN, True),
    (-INF, INF, True),
]


def decide(shape, dtype, device):
    u, v = (numbers(len(DECISIONS), *shape, dtype=dtype, device=device, seed=s) for s in (0, 1))
    phi_u, phi_v, took = (torch.tensor(column, device=device) for column in zip(*DECISIONS, strict=True))
    x, took_u = select_descent(u.requires_grad_(), v.requires_grad_(), phi_u, phi_v)
    assert torch.equal(took_u, took)
    mask = took.view(-1, *[1] * len(shape))
    assert torch.equal(x, torch.where(mask, u, v))
    d = numbers(*x.shape, dtype=dtype, device=device, seed=2)
    d_u, d_v = torch.autograd.grad(x, (u, v), d)
    assert torch.equal(d_u, torch.where(mask, d, 0))
    assert torch.equal(d_v, torch.where(mask, 0, d))


@pytest.mark.parametrize("dtype", [*REAL, *COMPLEX, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(1, 33, 33), (), (0, 2), (2, 12345)], ids=str)
def test_keeps_the_lower_objective(shape, dtype, device, backend):
    decide(shape, dtype, device)


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_triton_kernel_keeps_the_lower_objective(dtype, device, backend):
    decide((1, 3, 11), dtype, device)


def test_decides_on_differences_that_float32_does_not_see(device, backend):
    u, v = torch.zeros(1, 4, device=device), torch.ones(1, 4, device=device)
    phi = torch.tensor([1.0], dtype=torch.float64, device=device)
    assert not select_descent(u, v, phi + 1e-15, phi)[1]


def test_rejected_nan_leaves_no_trace(device, backend):
    u, v = torch.full((1, 3), NAN, device=device), torch.ones(1, 3, device=device, requires_grad=True)
    x, _ = select_descent(u, v, torch.tensor([NAN], device=device), torch.tensor([1.0], device=device))
    x.sum().backward()
    assert torch.equal(x, v)
    assert torch.equal(v.grad, torch.ones_like(v))


@pytest.mark.parametrize("dtype", [*REAL, *COMPLEX], ids=str)
@pytest.mark.parametrize("shape", [(1, 33, 33), (7,), (2, 12345)], ids=str)
def test_shrinks_where_the_gradient_is_small(shape, dtype, device, backend):
    grad_f, grad_r = (numbers(4, *shape, dtype=dtype, device=device, seed=s) for s in (0, 1))
    wide = torch.promote_types(dtype, torch.float64)
    exact = torch.linalg.vector_norm((grad_f + grad_r).reshape(4, -1), dim=1, dtype=wide)
    eps = (exact.double() / 900 * torch.tensor([0.5, 0.99, 1.01, 2.0], device=device)).to(grad_f.real.dtype)
    grad, norm, eps_next, shrunk = shrink_eps(grad_f, grad_r, eps, 1000, 0.9)
    assert torch.equal(grad, grad_f + grad_r)
    assert norm.dtype == torch.float64
    torch.testing.assert_close(norm, exact.double(), rtol=1e-14, atol=0)
    assert shrunk.tolist() == [False, False, True, True]
    assert torch.equal(eps_next, torch.where(shrunk, 0.9 * eps, eps))


@interpreted
def test_triton_kernel_shrinks_where_the_gradient_is_small(device, backend):
    grad = numbers(3, 1, 40, device=device)
    norm = grad.flatten(1).norm(dim=1)
    ratio = torch.tensor([800, 900.1, 1000], dtype=torch.float64, device=device)
    _, _, eps_next, shrunk = shrink_eps(grad / 2, grad / 2, norm / ratio, 1000, 0.9)
    assert shrunk.tolist() == [True, False, False]
    ratio[0] /= 0.9
    torch.testing.assert_close(norm / eps_next, ratio)


def test_gradient_that_vanishes_and_one_that_is_nan(device, backend):
    grad = torch.tensor([[0.0, 0.0], [NAN, 0.0], [1e-300, 0.0]], dtype=torch.float64, device=device)
    _, norm, _, shrunk = shrink_eps(grad, torch.zeros_like(grad), 1e-9, 1000, 0.9)
    assert shrunk.tolist() == [True, False, True]
    assert norm[0] == 0
    assert norm[1].isnan()


def test_only_eps_is_differentiated(device, backend):
    """The decision is not: d eps_next / d eps is gamma or 1."""
    grad = numbers(2, 5, dtype=torch.float64, device=device).requires_grad_()
    eps = torch.tensor([1e-9, 1.0], dtype=torch.float64, device=device, requires_grad=True)
    total, norm, eps_next, _ = shrink_eps(grad, grad, eps, 1000, 0.9)
    assert not total.requires_grad
    assert not norm.requires_grad
    assert torch.autograd.grad(eps_next.sum(), eps)[0].tolist() == [1.0, 0.9]
    assert torch.autograd.gradcheck(lambda e: shrink_eps(grad.detach(), grad.detach(), e, 1000, 0.9)[2], eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_any_memory_layout(dtype, device, backend):
    u, v = (numbers(3, 5, 7, dtype=dtype, device=device, seed=s) for s in (0, 1))
    phi = numbers(3, device=device)
    x, _ = select_descent(u, v, phi, phi.flip(0))
    grad, norm, _, _ = shrink_eps(u, v, 0.1, 10, 0.5)
    for name, view in awkward_views(u).items():
        assert torch.equal(select_descent(view, v, phi, phi.flip(0))[0], x), name
        assert torch.equal(shrink_eps(view, v, 0.1, 10, 0.5)[0], grad), name
        assert torch.equal(shrink_eps(view, v, 0.1, 10, 0.5)[1], norm), name


def test_image_has_the_same_bits_in_any_batch(device, backend):
    a, b = (numbers(5, 3, 211, dtype=torch.float32, device=device, seed=s) for s in (0, 1))
    together = shrink_eps(a, b, 0.02, 1000, 0.9)
    for i in (4, 0, 2):
        for mine, whole in zip(shrink_eps(a[i : i + 1], b[i : i + 1], 0.02, 1000, 0.9), together, strict=True):
            assert torch.equal(mine[0], whole[i])


def test_empty_batch(device, backend):
    x, phi = torch.zeros(0, 3, device=device), torch.zeros(0, device=device)
    assert [t.shape for t in select_descent(x, x, phi, phi)] == [(0, 3), (0,)]
    assert [t.shape for t in shrink_eps(x, x, phi, 1000, 0.9)] == [(0, 3), (0,), (0,), (0,)]


def test_arrays_in_arrays_out():
    x, took_u = select_descent(np.zeros((2, 3)), np.ones((2, 3)), np.array([1.0, 2.0]), np.array([2.0, 1.0]))
    np.testing.assert_array_equal(x, [[0, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(took_u, [True, False])
    _, norm, eps, shrunk = shrink_eps(np.array([[3.0, 4.0]]), np.zeros((1, 2)), 1.0, 10, 0.5)
    assert (norm.item(), eps.item(), shrunk.item()) == (5.0, 1.0, False)


X, PHI = torch.zeros(2, 3), torch.zeros(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: select_descent(X, X[:, :2], PHI, PHI), r"select_descent: v: expected \(2, 3\) .*, got \(2, 2\)"),
        (lambda: select_descent(X, X.double(), PHI, PHI), "select_descent: v: expected .*float32.*, got .*float64"),
        (lambda: select_descent(X, X, PHI[:1], PHI), r"select_descent: phi_u: expected real \(2,\) .*, got \(1,\)"),
        (lambda: select_descent(X, X, PHI, PHI.int()), "select_descent: phi_v: expected real .*, got .*int32"),
        (lambda: select_descent(PHI[0], PHI[0], PHI, PHI), r"select_descent: u: expected \[B, ...\], got \(\)"),
        (lambda: shrink_eps(X.int(), X, 0.1, 1000, 0.9), "shrink_eps: grad_f: expected .*, got .*int32"),
        (lambda: shrink_eps(X, X[:1], 0.1, 1000, 0.9), r"shrink_eps: grad_r: expected \(2, 3\) .*, got \(1, 3\)"),
        (lambda: shrink_eps(X, X, 0.1, 0, 0.9), "shrink_eps: sigma: expected a number > 0, got 0"),
        (lambda: shrink_eps(X, X, 0.1, 1000, 1.0), r"shrink_eps: gamma: expected a number in \(0, 1\), got 1.0"),
        (lambda: shrink_eps(X, X, torch.ones(3), 1000, 0.9), r"shrink_eps: eps: expected .* \(2,\), got \(3,\)"),
    ],
)
def test_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@compiles
def test_registration_and_compilation(device):
    u, v = (numbers(2, 6, device=device, seed=s) for s in (0, 1))
    phi = torch.tensor([1.0, 2.0], dtype=torch.float64, device=device)
    opcheck(torch.ops.fastrecon.select_descent, (u, v, phi, phi.flip(0)))
    opcheck(torch.ops.fastrecon.select_descent_bwd, (u, phi > 1))
    opcheck(torch.ops.fastrecon.shrink_eps, (u, v, phi, 1.5, 0.9))

    def both(u, v, eps):
        x, _ = select_descent(u, v, phi, phi.flip(0))
        grad, norm, eps_next, _ = shrink_eps(x, v, eps, 1.5, 0.9)
        return x, grad, norm, eps_next

    assert_compiles(both, u.requires_grad_(), v, phi.clone().requires_grad_())
    assert len(outputs_and_grads(both, u, v, phi)) == 5


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_gradients_whose_squares_are_lost(dtype, device, backend):
    for size in (1e200, 1e-200):
        g = torch.full((2, 4), size, dtype=dtype, device=device)
        _, norm, eps, shrunk = shrink_eps(g, g, size, 1.0, 0.5)
        torch.testing.assert_close(norm / size, torch.full_like(norm, 4.0))
        assert not shrunk.any()
        assert (eps == size).all()
