"""Circular differences of images and their adjoint: the kernel has the definition's bits, and D* is the adjoint."""

import pytest
import torch
from torch.func import vmap
from utils import COMPLEX, REAL, awkward_views, numbers

from fastrecon.ops.gradient import gradient, gradient_adjoint, gradient_adjoint_ref, gradient_ref

SHAPES = [(1, 1, 1, 1), (2, 3, 1, 5), (2, 1, 7, 1), (3, 2, 2, 2), (2, 3, 67, 131), (1, 1, 3, 20011), (2, 0, 4, 4)]
WAYS = [(gradient, gradient_ref, 1), (gradient_adjoint, gradient_adjoint_ref, 2)]
ways = pytest.mark.parametrize(("function", "definition", "planes"), WAYS, ids=["forward", "adjoint"])


def images(shape, planes, dtype=torch.float64):
    b, c, h, w = shape
    return numbers(b, planes * c, h, w, dtype=dtype)


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@ways
def test_kernel_has_the_bits_of_the_definition(function, definition, planes, shape, dtype, unwritten_is_nan):
    x = images(shape, planes, dtype)
    expected = definition(x)
    assert torch.equal(function(x), expected)
    for name, view in awkward_views(x).items():
        assert torch.equal(function(view), expected), name
    if x.is_complex():
        assert torch.equal(function(x.conj()), definition(x.conj().resolve_conj()))


def test_differences_of_a_ramp():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    down, right = gradient(x)[0]
    assert torch.equal(down, torch.tensor([[4.0] * 4, [4.0] * 4, [-8.0] * 4]))
    assert torch.equal(right, torch.tensor([[1.0, 1.0, 1.0, -3.0]] * 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", SHAPES[:5], ids=str)
def test_is_the_adjoint(shape, dtype):
    x, y = images(shape, 1, dtype), images(shape, 2, dtype)
    left, right = torch.vdot(y.flatten(), gradient(x).flatten()), torch.vdot(gradient_adjoint(y).flatten(), x.flatten())
    assert (left - right).abs() <= 1e-13 * x.norm() * y.norm()


@ways
def test_derivatives(function, definition, planes):
    x = images((2, 2, 3, 4), planes).requires_grad_()
    assert torch.autograd.gradcheck(function, (x,))
    assert torch.autograd.gradgradcheck(lambda t: function(t).square(), (x,))
    assert torch.equal(vmap(function)(x[:, None]), definition(x)[:, None])


@ways
def test_special_values_stay_where_they_are(function, definition, planes):
    x = images((1, 1, 6, 7), planes, torch.float32)
    x[0, 0, 2, 3], x[0, 0, 4, 6] = float("nan"), float("inf")
    torch.testing.assert_close(function(x), definition(x), rtol=0, atol=0, equal_nan=True)
