"""The proximal gradient step: every implementation against eager PyTorch in float64, and the step's own properties."""

import pytest
import torch
from torch.library import opcheck
from utils import COMPLEX, REAL, assert_compiles, awkward_views, compare, compiles, interpreted, numbers

from fastrecon.ops import prox_gradient_step, squares

SHAPES = [  # x, step, lam
    ((1, 6), (), ()),
    ((2, 1, 5, 7), (), ()),
    ((3, 1, 20, 27), (3,), (3,)),
    ((2, 1, 9, 31), (2, 1, 9, 31), (9, 31)),
    ((2, 2, 5, 3), (2, 1, 5, 3), (2, 1, 1, 1)),  # expanded over channels
    ((2, 600), (1, 600), (2, 1)),
]


def eager(x, grad, step, lam):
    """As people write it, safe to differentiate at 0."""
    step, lam = (t.view(-1, *[1] * (x.ndim - 1)) if t.shape == x.shape[:1] != x.shape else t for t in (step, lam))
    u, tau = x - step * grad, step * lam
    if x.is_complex():
        square = u.real.square() + u.imag.square()
        above = square > tau.square()
        return u * torch.where(above, 1 - tau / torch.where(above, square, 1).sqrt(), 0) - x
    return u.sign() * (u.abs() - tau).clamp_min(0) - x


def direction(*arguments):
    return prox_gradient_step(*arguments)[0]


def assert_sums_belong_to(z, slope, square, l1, x, grad, lam):
    """They are made in float64 from what is returned; l1 from x + z before x was subtracted."""
    wide = torch.complex128 if x.is_complex() else torch.float64
    x, grad, z = (t.detach().to(wide) for t in (x, grad, z))
    lam = lam.detach().view(-1, *[1] * (x.ndim - 1)) if lam.shape == x.shape[:1] != x.shape else lam.detach()
    dims, unit = tuple(range(1, x.ndim)), torch.finfo(lam.dtype).eps
    torch.testing.assert_close(slope, (grad.conj() * z).real.sum(dims), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(square, z.abs().square().sum(dims), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(l1, (lam.double() * (x + z).abs()).sum(dims), rtol=4 * unit, atol=4 * unit)


def problem(shapes, dtype, device):
    shape, step_shape, lam_shape = shapes
    x, grad = (numbers(*shape, dtype=dtype, device=device, seed=s).requires_grad_() for s in (0, 1))
    step, lam = (numbers(*s, dtype=x.real.dtype, device=device, seed=2).abs() + 0.3 for s in (step_shape, lam_shape))
    return x, grad, step.requires_grad_(), lam.requires_grad_()


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_as_accurate_as_eager(shapes, dtype, device, backend):
    x, grad, step, lam = problem(shapes, dtype, device)
    compare(direction, eager, x, grad, step, lam)
    assert_sums_belong_to(*prox_gradient_step(x, grad, step, lam), x, grad, lam)


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_triton_kernel(shapes, dtype, device, backend):
    x, grad, step, lam = problem(shapes, dtype, device)
    compare(direction, eager, x, grad, step, lam)
    assert_sums_belong_to(*prox_gradient_step(x, grad, step, lam), x, grad, lam)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shapes", [((2, 1, 3, 4), (2,), ()), ((2, 1, 3, 4), (3, 4), (2, 1, 3, 4))], ids=str)
def test_gradients(shapes, dtype, device, backend):
    assert torch.autograd.gradcheck(direction, problem(shapes, dtype, device))


def test_second_derivative_is_refused_and_sums_have_none(device):
    x, grad, step, lam = problem(SHAPES[1], torch.float64, device)
    z, *sums = prox_gradient_step(x, grad, step, lam)
    assert not any(s.requires_grad for s in sums)
    (d,) = torch.autograd.grad(z.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_solves_its_minimisation(dtype, device, backend):
    """p = x + z fulfils 0 in grad + (p - x) / step + lam d|p|, and delta <= -|z|^2 / step."""
    x, grad, step, lam = (t.detach() for t in problem(((3, 1, 20, 27), (3,), (3,)), dtype, device))
    z, slope, square, l1 = prox_gradient_step(x, grad, step, lam)
    p, t, s = x + z, lam[:, None, None, None].expand_as(x), step[:, None, None, None]
    q = -(grad + z / s)
    zero = p.abs() < 1e-14
    assert 0 < zero.sum() < zero.numel()
    assert (q[zero].abs() <= t[zero] * (1 + 1e-12)).all()
    torch.testing.assert_close(q[~zero], t[~zero] * p[~zero].sgn())
    delta = slope + l1 - (t * x.abs()).sum((1, 2, 3))
    assert (delta <= -square / step * (1 - 1e-12)).all()


def test_any_memory_layout(device, backend):
    x, grad = (numbers(3, 5, 9, dtype=torch.float32, device=device, seed=s) for s in (0, 1))
    step = numbers(3, 5, 9, dtype=torch.float32, device=device, seed=2).abs()
    expected = prox_gradient_step(x, grad, step, 0.1)
    for name in awkward_views(x):
        views = (awkward_views(t)[name] for t in (x, grad, step))
        for mine, other in zip(prox_gradient_step(*views, 0.1), expected, strict=True):
            assert torch.equal(mine, other), name


def test_image_has_the_same_bits_in_any_batch(device, backend):
    x, grad = (numbers(5, 1, 33, 35, dtype=torch.float32, device=device, seed=s) for s in (0, 1))
    step = numbers(5, device=device, dtype=torch.float32).abs() + 0.1
    together = prox_gradient_step(x, grad, step, 0.2)
    for i in range(5):
        alone = prox_gradient_step(x[i : i + 1], grad[i : i + 1], step[i : i + 1], 0.2)
        assert all(torch.equal(a[0], b[i]) for a, b in zip(alone, together, strict=True))


def test_empty_and_nan(device, backend):
    z, slope, square, l1 = prox_gradient_step(*(torch.zeros(0, 1, 4, 4, device=device) for _ in range(2)), 1.0, 0.1)
    assert z.shape == (0, 1, 4, 4)
    assert slope.shape == square.shape == l1.shape == (0,)
    x = torch.tensor([[1.0, float("nan")], [1.0, 2.0]], device=device)
    z, slope, *_ = prox_gradient_step(x, torch.ones_like(x), 1.0, 0.1)
    assert z.isnan().tolist() == [[False, True], [False, False]]
    assert slope.isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(2, 3).long()}, r"x: expected a real or complex tensor \[B, ...\], got"),
        ({"grad": torch.zeros(2, 4)}, r"grad: expected \(2, 3\) float32 on cpu, got \(2, 4\)"),
        ({"step": 0.0}, "step: expected a number > 0, got 0.0"),
        ({"lam": -1.0}, "lam: expected a number >= 0, got -1.0"),
        ({"step": torch.ones(4)}, r"step: expected a number, \(2,\) or a shape that broadcasts to \(2, 3\), got"),
        ({"lam": torch.ones(2, dtype=torch.complex64)}, "lam: expected a real tensor or a number"),
    ],
)
def test_says_what_is_wrong(arguments, message):
    defaults = {"x": torch.zeros(2, 3), "grad": torch.zeros(2, 3), "step": 1.0, "lam": 0.1}
    with pytest.raises(ValueError, match=f"prox_gradient_step: {message}"):
        prox_gradient_step(**(defaults | arguments))


@compiles
def test_registration_and_compilation(device):
    x, grad = (numbers(2, 6, device=device, seed=s) for s in (0, 1))
    opcheck(torch.ops.fastrecon.prox_gradient_step, (x, grad, x.abs(), torch.ones(1, 1, dtype=x.dtype, device=device)))
    assert_compiles(direction, *problem(SHAPES[2], torch.float32, device))


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 1, 20, 27), (2, 1031)], ids=str)
def test_squares_are_made_in_float64(shape, dtype, device, backend):
    x = numbers(*shape, dtype=dtype, device=device)
    wide = x.to(torch.complex128 if x.is_complex() else torch.float64)
    torch.testing.assert_close(squares(x), wide.abs().square().flatten(1).sum(1), rtol=1e-13, atol=0)
    assert torch.equal(squares(x[:1]), squares(x)[:1])
    y = x + 1e-3 * numbers(*shape, dtype=dtype, device=device, seed=5)
    apart = (wide - y.to(wide.dtype)).abs().square().flatten(1).sum(1)
    torch.testing.assert_close(squares(x, y), apart, rtol=1e-13, atol=0)
    assert torch.equal(squares(x[:1], y[:1]), squares(x, y)[:1])


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_triton_kernel_of_squares(dtype, device, backend):
    x = numbers(3, 1, 20, 67, dtype=dtype, device=device)
    wide = x.to(torch.complex128)
    torch.testing.assert_close(squares(x), wide.abs().square().sum((1, 2, 3)), rtol=1e-13, atol=0)
    apart = (wide - wide.flip(2)).abs().square().sum((1, 2, 3))
    torch.testing.assert_close(squares(x, x.flip(2)), apart, rtol=1e-13, atol=0)


def test_squares_need_no_gradients(device, backend):
    assert squares(torch.zeros(0, 3, device=device)).shape == (0,)
    with pytest.raises(ValueError, match="squares: x: expected no gradients"):
        squares(torch.zeros(2, 3, requires_grad=True))
    with pytest.raises(ValueError, match=r"squares: minus: expected \(2, 3\) .* got \(3, 2\)"):
        squares(torch.zeros(2, 3), torch.zeros(3, 2))
    opcheck(torch.ops.fastrecon.squares, (numbers(2, 5, device=device),))
    opcheck(torch.ops.fastrecon.squares, (numbers(2, 5, device=device), numbers(2, 5, device=device, seed=1)))
