"""Minimisers of several least-squares terms: every closed form, and conjugate gradients, against dense solutions."""

import pytest
import torch
from utils import numbers

from fastrecon import registry
from fastrecon.operators import Blur, Crop, Fourier, Gradient, Identity, Inpainting, Radon, Wavelet, gaussian_kernel
from fastrecon.ops.layout import wide_dtype
from fastrecon.terms import NormalEquations

KERNEL = numbers(3, 5, seed=3)  # of any sign


def mask(*shape):
    return (numbers(*shape, seed=4) > 0).double()


JOINT = {  # operators, shape of the images, whether they are complex, whether there is a closed form
    "blur and gradient": ([Blur(KERNEL), Gradient()], (2, 1, 6, 7), False, True),
    "blur and gradient, complex": ([Blur(KERNEL), Gradient()], (2, 1, 6, 7), True, True),
    "blur and gradient, odd": ([Blur(KERNEL), Gradient()], (1, 2, 5, 5), True, True),
    "a kernel for each, and two more": (
        [Blur(numbers(2, 1, 3, 3)), Gradient(), Identity(), Wavelet("haar", 1)], (2, 1, 6, 8), False, True,
    ),
    "sampling and gradient": ([Fourier(0.1 + mask(6, 5)), Gradient()], (2, 1, 6, 5), True, True),
    "sampling in the middle": ([Fourier(mask(2, 1, 6, 5), "both"), Gradient(), Identity()], (2, 1, 6, 5), True, True),
    "isometries": ([Identity(), Wavelet("haar", 1)], (2, 1, 6, 8), False, True),
    "mask and wavelet": ([Inpainting(mask(8, 8)), Wavelet("db2", 1)], (2, 1, 8, 8), False, True),
    "sampling and wavelet": ([Wavelet("db2", 1), Fourier(mask(8, 8), True)], (1, 1, 8, 8), True, True),
    "window and identity": ([Identity(), Crop((6, 6), 1, 2, (3, 4))], (1, 1, 6, 6), False, True),
    "mask and gradient": ([Inpainting(0.1 + mask(6, 5)), Gradient()], (2, 1, 6, 5), False, False),
    "window": ([Crop((6, 6), 1, 1, (4, 4)) @ Blur(KERNEL), Gradient(), Identity()], (1, 1, 6, 6), False, False),
    "scan": ([Radon((6, 6), 4), Gradient(), Identity()], (1, 1, 6, 6), False, False),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", JOINT)
def test_solves_the_dense_equations(name, dtype):
    operators, shape, is_complex, closed = JOINT[name]
    exact = torch.complex128 if is_complex else torch.float64
    kind = dtype.to_complex() if is_complex else dtype
    weights = [(1 + numbers(shape[0], seed=i).abs()).to(dtype) for i in range(len(operators))]
    b = numbers(*shape, dtype=exact).to(kind)
    equations = NormalEquations([a.to(dtype) for a in operators], b, tol=1e-12, iterations=500)
    assert equations.closed == closed
    x, left = equations.solve(b, weights, torch.zeros_like(b))
    n = b[0].numel()
    basis = torch.eye(n, dtype=wide_dtype(b))
    for i in range(shape[0]):
        normal = torch.zeros_like(basis)
        for a, w in zip(operators, weights, strict=True):
            one = a.double().take(torch.tensor([i]))
            columns = torch.cat([one(e.view(1, *shape[1:])).flatten()[None] for e in basis]).T
            normal = normal + w[i].double() * columns.conj().T @ columns
        expected = torch.linalg.solve(normal, b[i].flatten().to(basis))
        unit = torch.finfo(dtype).eps
        size = torch.linalg.cond(normal) * unit * expected.norm()
        assert (x[i].flatten().to(basis) - expected).norm() <= 8 * size + (0 if closed else 1e-9 + 1e3 * size)
    if closed:
        assert (left == 0).all()


@pytest.mark.parametrize("name", ["blur and gradient", "sampling and gradient"])
def test_image_has_the_bits_it_has_alone(name):
    operators, shape, is_complex, _ = JOINT[name]
    b = numbers(3, *shape[1:], dtype=torch.complex64 if is_complex else torch.float32)
    operators, weights = [a.float() for a in operators], [torch.rand(3) + 0.1 for _ in operators]
    whole = NormalEquations(operators, b).solve(b, weights, b)[0]
    for i in range(3):
        one = b[i : i + 1].clone()
        alone = NormalEquations(operators, one).solve(one, [w[i : i + 1] for w in weights], one)[0]
        assert torch.equal(alone, whole[i : i + 1])


def test_what_nobody_sees_is_zero():
    """A kernel of sum 0 and slopes say nothing about the mean."""
    b = numbers(1, 1, 8, 8)
    kernel = torch.tensor([[0.0, 0, 0], [0, 1, -1], [0, 0, 0]], dtype=torch.float64)
    operators = [Blur(kernel), Gradient()]
    x, _ = NormalEquations(operators, b).solve(b, [torch.ones(1, dtype=torch.float64)] * 2, b)
    assert x.mean().abs() < 1e-15
    back = NormalEquations(operators, b).apply(x, [torch.ones(1, dtype=torch.float64)] * 2)
    torch.testing.assert_close(back, b - b.mean())


def test_two_transforms_however_many_terms(monkeypatch):
    b, calls = numbers(1, 1, 16, 16), []
    blur = Blur(gaussian_kernel(1.0, 5, torch.float64))
    equations = NormalEquations([blur, Gradient(), Identity()], b)
    for name in ("rfft2", "irfft2", "fft2", "ifft2"):
        real = getattr(torch.fft, name)
        monkeypatch.setattr(torch.fft, name, lambda *a, real=real, name=name, **k: calls.append(name) or real(*a, **k))
    with registry.using("reference"):  # whose transforms can be counted
        equations.solve(b, [torch.ones(1, dtype=torch.float64)] * 3, b)
    assert calls == ["rfft2", "irfft2"]


def test_an_empty_batch():
    b = torch.empty(0, 1, 4, 4)
    x, left = NormalEquations([Blur(gaussian_kernel(1.0, 3)), Gradient()], b).solve(b, [torch.empty(0)] * 2, b)
    assert x.shape == b.shape
    assert left.shape == (0,)
