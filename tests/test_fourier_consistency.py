"""Data consistency in k-space: every implementation against eager PyTorch in float64, and against the image domain."""

import pytest
import torch
from torch.library import opcheck
from utils import COMPLEX, assert_compiles, awkward_views, compare, compiles, interpreted, numbers

from fastrecon.ops import fourier_consistency

SHAPES = [  # k, mask
    ((1, 1, 1, 1), (1, 1)),
    ((2, 3, 5, 7), (5, 7)),
    ((3, 1, 20, 27), (3, 1, 20, 27)),
    ((2, 3, 9, 31), (1, 3, 9, 31)),
    ((2, 2, 9, 31), (2, 2, 9, 31)),
]


def eager(k, mask, y):
    residual = mask * k - y
    wide = residual.to(torch.complex128)
    return residual, mask.conj() * residual, (wide.real.square() + wide.imag.square()).sum((1, 2, 3)) / 2


def problem(shapes, dtype, device, complex_mask):
    k, y = (numbers(*shapes[0], dtype=dtype, device=device, seed=s).requires_grad_() for s in (0, 1))
    mask = numbers(*shapes[1], dtype=dtype, device=device, seed=2)
    return k, mask if complex_mask else mask.real.contiguous(), y


@pytest.mark.parametrize("complex_mask", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("dtype", COMPLEX, ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_as_accurate_as_eager(shapes, dtype, complex_mask, device, backend):
    compare(fourier_consistency, eager, *problem(shapes, dtype, device, complex_mask))


@interpreted
@pytest.mark.parametrize("complex_mask", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_triton_kernel(shapes, complex_mask, device, backend):
    compare(fourier_consistency, eager, *problem(shapes, torch.complex64, device, complex_mask))


def test_is_the_value_and_gradient_of_the_data_term(device, backend):
    x = numbers(2, 1, 6, 8, dtype=torch.complex128, device=device).requires_grad_()
    mask = (numbers(6, 8, device=device) > 0).double()
    y = mask * numbers(2, 1, 6, 8, dtype=torch.complex128, device=device, seed=1)
    value = (mask * torch.fft.fft2(x, norm="ortho") - y).abs().square().sum((1, 2, 3)) / 2
    (grad,) = torch.autograd.grad(value.sum(), x)
    _, k_grad, mine = fourier_consistency(torch.fft.fft2(x.detach(), norm="ortho"), mask, y)
    torch.testing.assert_close(mine, value.detach())
    torch.testing.assert_close(torch.fft.ifft2(k_grad, norm="ortho"), grad)


@pytest.mark.parametrize("complex_mask", [False, True], ids=["real", "complex"])
def test_gradients(complex_mask, device, backend):
    k, mask, y = problem(((2, 2, 3, 4), (2, 1, 3, 4)), torch.complex128, device, complex_mask)
    assert torch.autograd.gradcheck(lambda k, y: fourier_consistency(k, mask, y), (k, y))


def test_second_derivative_is_refused(device):
    k, mask, y = problem(SHAPES[1], torch.complex128, device, False)
    (d,) = torch.autograd.grad(fourier_consistency(k, mask, y)[2].square().sum(), k, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d.real.sum().backward()


def test_any_memory_layout_and_lazy_conjugate(device, backend):
    k, mask, y = (t.detach() for t in problem(SHAPES[2], torch.complex64, device, True))
    expected = fourier_consistency(k, mask, y)
    for name in awkward_views(k):
        views = (awkward_views(t)[name] for t in (k, mask, y))
        for mine, other in zip(fourier_consistency(*views), expected, strict=True):
            assert torch.equal(mine, other), name
    conjugate = fourier_consistency(k.conj(), mask.conj(), y.conj())
    torch.testing.assert_close(conjugate[0], expected[0].conj())
    torch.testing.assert_close(conjugate[2], expected[2])


def test_image_has_the_same_bits_in_any_batch(device, backend):
    k, mask, y = (t.detach() for t in problem(((5, 2, 33, 35), (5, 1, 33, 35)), torch.complex64, device, False))
    together = fourier_consistency(k, mask, y)
    for i in range(5):
        one = slice(i, i + 1)
        alone = fourier_consistency(k[one], mask[one], y[one])
        assert all(torch.equal(a, b[one]) for a, b in zip(alone, together, strict=True))


def test_empty(device, backend):
    k = torch.zeros(0, 1, 4, 4, dtype=torch.complex64, device=device)
    assert [t.shape for t in fourier_consistency(k, torch.ones(4, 4, device=device), k)] == [k.shape, k.shape, (0,)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": torch.zeros(1, 1, 4, 4)}, r"k: expected complex \[B, C, H, W\], got"),
        ({"y": torch.zeros(1, 1, 4, 5, dtype=torch.complex64)}, r"y: expected \(1, 1, 4, 4\) complex64"),
        ({"mask": torch.ones(4, 5)}, r"mask: expected \[H, W\] or"),
        ({"mask": torch.ones(4, 4).double()}, "mask: expected dtype torch.float32 or torch.complex64, got"),
        ({"mask": torch.ones(4, 4, requires_grad=True)}, "mask: expected a mask that requires no gradients"),
    ],
)
def test_says_what_is_wrong(arguments, message):
    zero = torch.zeros(1, 1, 4, 4, dtype=torch.complex64)
    with pytest.raises(ValueError, match=f"fourier_consistency: {message}"):
        fourier_consistency(**({"k": zero, "mask": torch.ones(4, 4), "y": zero} | arguments))


@compiles
def test_registration_and_compilation(device):
    k, mask, y = problem(((2, 1, 3, 4), (3, 4)), torch.complex128, device, False)
    opcheck(
        torch.ops.fastrecon.fourier_consistency,
        (k.detach().flatten(2), mask.view(1, 1, 12), y.detach().flatten(2)),
    )
    assert_compiles(fourier_consistency, k, mask, y)
