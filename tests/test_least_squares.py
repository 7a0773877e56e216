import pytest
import torch

from fastrecon.operators import BlockSensing, random_phi
from fastrecon.ops.reductions import inner, sum_of_squares
from fastrecon.terms.least_squares import LeastSquares


def problem():
    f = LeastSquares(BlockSensing(random_phi(5, 9), 3))
    x = torch.rand(2, 1, 7, 8, dtype=torch.float64)
    return f, x, torch.rand(2, 3, 3, 5, dtype=torch.float64)


def test_value_is_half_the_squared_residual_of_each_image():
    f, x, y = problem()
    expected = [0.5 * float((f.operator(x[i : i + 1]) - y[i : i + 1]).square().sum()) for i in range(2)]
    assert f.value(x, y).tolist() == pytest.approx(expected)
    assert f.value(x.float().double(), y).dtype == torch.float64


def test_gradient_is_the_derivative_of_the_value():
    f, x, y = problem()
    x.requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(f.value(x, y).sum(), x)[0], f.grad(x, y))
    part = x.detach()[:1, :, :3, :4].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: f.grad(x, y[:1, :1, :2]), part)


def test_change_keeps_its_digits_where_a_difference_of_values_has_none():
    f, x, y = problem()
    d = torch.rand_like(x)
    torch.testing.assert_close(f.change(f.grad(x, y), d), f.value(x + d, y) - f.value(x, y))
    d *= 1e-14
    slope = (f.grad(x, y) * d).flatten(1).sum(1)
    torch.testing.assert_close(f.change(f.grad(x, y), d), slope, rtol=1e-10, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)
def test_sums_are_wide_and_do_not_depend_on_the_batch(dtype):
    t = torch.randn(4, 3, 200, 300, dtype=dtype)
    sums = sum_of_squares(t)
    assert sums.dtype == torch.float64
    wide = t.to(torch.complex128 if t.is_complex() else torch.float64)
    torch.testing.assert_close(sums, (wide * wide.conj()).real.flatten(1).sum(1), rtol=1e-13, atol=0)
    assert torch.equal(sum_of_squares(t[2:3]), sums[2:3])
    if not t.is_complex():
        assert torch.equal(inner(t[1:2], t[2:3]), inner(t, t.roll(-1, 0))[1:2])


def test_sums_of_an_empty_batch():
    x = torch.empty(0, 1, 4, 4)
    assert sum_of_squares(x).shape == inner(x, x).shape == (0,)
