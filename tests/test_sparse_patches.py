"""Sparse patches: the definition against transforms of single patches, the kernel against float64, both as a term."""

import pytest
import torch
from scipy.fft import dctn
from torch.func import vmap
from utils import REAL, assert_no_worse, awkward_views, numbers, relative_error

from fastrecon.operators import Identity
from fastrecon.ops.sparse_patches import cosines, sparse_patches, sparse_patches_ref
from fastrecon.solvers import SmoothDescent
from fastrecon.terms import L1, Scaled, SparsePatches, Sum

SHAPES = [(1, 8, 8), (2, 9, 31), (3, 16, 8), (1, 73, 24), (2, 130, 67), (1, 8, 200)]
RADII = [0.003, 0.1, 3.0]


def images(shape, dtype=torch.float64):
    """With edges and texture, about [0, 1]."""
    b, h, w = shape
    x = numbers(b, 1, h, w, dtype=dtype) / 20
    x[..., h // 3 :, w // 2 :] += 0.4
    return x + 0.3 + 0.02 * torch.arange(w, dtype=dtype).sin()


def exact(x, radius):
    return sparse_patches_ref(x.double(), torch.tensor(radius, dtype=torch.float64))


def test_the_transform_is_orthonormal():
    c = cosines(8)
    torch.testing.assert_close(c @ c.T, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("radius", RADII)
def test_definition_is_that_of_single_patches(radius):
    x = images((1, 11, 13))
    total = 0.0
    for i in range(4):
        for j in range(6):
            c = torch.from_numpy(dctn(x[0, 0, i : i + 8, j : j + 8].numpy(), norm="ortho"))
            total += torch.log1p((c / radius) ** 2).sum() - torch.log1p((c[0, 0] / radius) ** 2)
    torch.testing.assert_close(exact(x, radius)[0][0], total / 64)


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_errs_at_most_twice_as_much_as_the_definition(shape, dtype, radius, unwritten_is_nan):
    x = images(shape, dtype)
    value, slope = exact(x, radius)
    found, grad = sparse_patches(x, radius)
    assert found.dtype == torch.float64
    eager = sparse_patches_ref(x, torch.tensor(radius, dtype=dtype))[1]
    if dtype == torch.float32:
        assert_no_worse([grad], [eager], [slope])
    else:  # the definition is its own judge: rounded coefficients, beside their size and the radius
        size = min(radius, float(x.std()))
        assert relative_error(grad, slope) <= 8 * torch.finfo(dtype).eps * (1 + x.abs().max() / size)
    # 1 + (c / radius)^2 is rounded, and a product of 32 such
    patches = (shape[1] - 7) * (shape[2] - 7)
    assert ((found - value).abs() <= 32 * torch.finfo(dtype).eps * (value + patches / 64)).all()
    for name, view in awkward_views(x).items():
        again, same = sparse_patches(view, radius)
        assert torch.equal(again, found), name
        assert torch.equal(same, grad), name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradient_is_that_of_the_value_and_both_have_derivatives(shape):
    x = images(shape).requires_grad_(True)
    value, grad = sparse_patches(x, 0.1)
    (expected,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(grad, expected)
    torch.testing.assert_close(sparse_patches(x.detach(), 0.1)[1], expected)


def test_derivatives_in_image_and_radius():
    x, radius = images((2, 9, 10)).requires_grad_(True), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sparse_patches, (x, radius))


def test_graphs_and_transforms():
    x = images((3, 12, 10))
    traced = torch.compile(lambda t: sparse_patches(t, 0.1), fullgraph=True, backend="aot_eager", dynamic=True)
    mapped = vmap(lambda t: sparse_patches(t, 0.1))(x[:, None])
    for value, grad in (traced(x), [t[:, 0] for t in mapped]):
        torch.testing.assert_close(value, exact(x, 0.1)[0])
        torch.testing.assert_close(grad, exact(x, 0.1)[1])


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_no_image_depends_on_the_others(dtype):
    x = images((5, 70, 37), dtype)
    value, grad = sparse_patches(x, 0.01)
    for k in range(5):
        alone, slope = sparse_patches(x[k : k + 1], 0.01)
        assert torch.equal(alone[0], value[k])
        assert torch.equal(slope[0], grad[k])


@pytest.mark.parametrize("size", [(7, 20), (20, 7), (1, 1)], ids=str)
def test_images_that_no_patch_fits_into(size):
    x = numbers(2, 1, *size, dtype=torch.float64)
    for t in (x, x.clone().requires_grad_(True)):
        value, grad = sparse_patches(t, 0.1)
        assert (value == 0).all()
        assert (grad == 0).all()
    assert [len(t) for t in sparse_patches(x[:0], 0.1)] == [0, 0]


def test_a_constant_is_sparse_and_so_is_one_frequency():
    flat = torch.full((1, 1, 16, 16), 0.7, dtype=torch.float64)
    value, grad = sparse_patches(flat, 1e-3)
    assert value.item() < 1e-9
    assert grad.abs().max() < 1e-9
    wave = (torch.pi * (2 * torch.arange(8.0) + 1) * 3 / 16).cos().double().expand(1, 1, 8, 8)
    noise = numbers(1, 1, 8, 8, dtype=torch.float64)
    noise = noise * (wave.norm() / noise.norm())
    assert sparse_patches(wave, 1e-3)[0] < sparse_patches(noise, 1e-3)[0] / 20


def test_large_numbers_stay_finite_and_what_is_none_is_told():
    x = numbers(1, 1, 40, 40, dtype=torch.float32)
    for size in (1e15, 1e25, 1e36):
        value, grad = sparse_patches(size * x, 0.003)
        assert torch.isfinite(value).all()
        assert torch.isfinite(grad).all()
    x[0, 0, 20, 20] = float("nan")
    value, grad = sparse_patches(x, 0.003)
    assert torch.isnan(value).all()
    assert torch.isnan(grad[0, 0, 20, 20])
    assert torch.isfinite(grad[0, 0, 0, 0])


@pytest.mark.parametrize("bad", [torch.zeros(1, 2, 8, 8), torch.zeros(1, 8, 8), torch.zeros(1, 1, 8, 8).half()])
def test_what_does_not_fit_is_told(bad):
    with pytest.raises(ValueError, match="sparse_patches: x: expected grey images"):
        sparse_patches(bad, 0.1)
    with pytest.raises(ValueError, match="SparsePatches: radius"):
        SparsePatches(0.0)
    with pytest.raises(ValueError, match="Sum: terms: expected smooth terms"):
        Sum([L1(1.0)])


def test_a_sum_of_terms_is_minimised_and_certified():
    y = images((2, 24, 20)) + 0.05 * numbers(2, 1, 24, 20, dtype=torch.float64, seed=3)
    weights = torch.tensor([1e-4, 3e-4], dtype=torch.float64)
    first, second = Scaled(SparsePatches(0.1), weights), Scaled(SparsePatches(0.5), 1e-3)
    term = Sum([first, second])
    torch.testing.assert_close(term.value(y), first.value(y) + second.value(y))
    torch.testing.assert_close(term.grad(y), first.grad(y) + second.grad(y))
    assert torch.equal(term.take(torch.tensor([1])).value(y[1:]), term.value(y)[1:])
    x, report = SmoothDescent(Identity(), term).solve(y, y, tol=1e-6)
    assert report.converged.all()
    slope = (x - y) + term.grad(x)
    torch.testing.assert_close(slope.flatten(1).norm(dim=1), report.grad_norm)
    for k in range(2):
        one, _ = SmoothDescent(Identity(), term.take(torch.tensor([k]))).solve(y[k : k + 1], y[k : k + 1], tol=1e-6)
        assert torch.equal(one[0], x[k])
