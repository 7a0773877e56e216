"""Wiener, Tikhonov, conjugate gradients: closed forms against dense algebra, weights by noise, what cannot be."""

from typing import Any

import pytest
import torch

import fastrecon as fr
from fastrecon import masks
from fastrecon.metrics import psnr
from fastrecon.operators import Blur, Crop, Fourier, Identity, Inpainting, gaussian_kernel
from fastrecon.operators.callables import Callables
from fastrecon.solvers import automatic
from fastrecon.solvers.linear import fourier_penalty, laplacian, wrapped_laplacian
from fastrecon.solvers.methods import METHODS, Inverse

SIZE = (24, 20)
BLUR = Blur(gaussian_kernel(1.0, 5))


def picture(size=SIZE, count=1):
    rows, columns = (torch.linspace(0, 1, n) for n in size)
    x = 0.5 + 0.3 * torch.sin(9 * rows)[:, None] * torch.cos(7 * columns) + 0.2 * (rows > 0.5)[:, None]
    return torch.stack([x.roll(3 * i, 0) for i in range(count)])[:, None]


def noisy(x, sigma, seed=1):
    return x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def matrix(function, size=SIZE):
    """A linear map of images as a matrix, float64."""
    units = torch.eye(size[0] * size[1], dtype=torch.float64).view(-1, 1, *size)
    return torch.stack([function(u[None]).flatten() for u in units], 1)


@pytest.mark.parametrize("method", ["wiener", "tikhonov"])
@pytest.mark.parametrize("boundary", ["circular", "free"])
def test_the_minimiser_is_that_of_dense_algebra(method, boundary):
    a = BLUR if boundary == "circular" else Crop(SIZE, 2, 2, (20, 16)) @ BLUR
    if method == "wiener" and boundary == "free":
        with pytest.raises(ValueError, match="wiener: operator: expected one that the Fourier transform makes diag"):
            fr.reconstruct(a(picture()), a, method=method, size=SIZE)
        return
    y = noisy(a(picture()), 0.01)
    more = {"tol": 1e-8, "iterations": 2000} if method == "tikhonov" else {}
    x, report = fr.reconstruct(y, a, method=method, size=SIZE, lam="0.02", **more)
    dense = matrix(lambda u: a(u.float()).double())
    penalty = matrix(wrapped_laplacian if boundary == "circular" else laplacian)
    expected = torch.linalg.solve(dense.T @ dense + 0.02 * penalty, dense.T @ y.double().flatten())
    torch.testing.assert_close(x.flatten().double(), expected, rtol=0, atol=1e-4)
    assert report.relative_residual.item() < 1e-4
    assert report.converged.all()
    assert report.weight.item() == pytest.approx(0.02)


def test_identity_penalty_of_a_mask_is_in_closed_form():
    mask = (torch.rand(SIZE, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    a = Inpainting(mask)
    x, report = fr.reconstruct(a(picture()), a, method="tikhonov", penalty="identity", lam="0.5")
    torch.testing.assert_close(x, mask * picture() / 1.5)
    assert report.iterations.item() == 0


def test_differences_are_diagonal_where_the_transform_is_fourier():
    x = picture().double()
    for a in (BLUR, Fourier(torch.ones(SIZE)), Fourier(torch.ones(SIZE), centred="both")):
        like = x.to(torch.complex128) if a.complex_input else x
        basis = a.diagonal(like)
        assert basis is not None
        grown = fourier_penalty(basis, like)
        assert grown is not None
        torch.testing.assert_close(basis.inverse(grown * basis.transform(like)), wrapped_laplacian(like))
    assert fourier_penalty(Inpainting(torch.ones(SIZE)).diagonal(x), x) is None


def test_laplacian_is_that_of_forward_differences():
    d = lambda u: torch.cat([u.diff(dim=-2).flatten(), u.diff(dim=-1).flatten()])  # noqa: E731
    dense = matrix(d, (4, 5))
    torch.testing.assert_close(matrix(laplacian, (4, 5)), dense.T @ dense)


@pytest.mark.parametrize("boundary", ["circular", "free"])
def test_tikhonov_leaves_as_much_as_the_noise(boundary):
    a = BLUR if boundary == "circular" else Crop(SIZE, 2, 2, (20, 16)) @ BLUR
    y = noisy(a(picture(count=2)), 0.02)
    _, report = fr.reconstruct(y, a, method="tikhonov", size=SIZE, noise=0.02)
    expected = 0.02 * y[0].numel() ** 0.5
    torch.testing.assert_close(report.misfit, torch.full((2,), expected, dtype=torch.float64), rtol=0.02, atol=0)


def test_conjugate_gradients_stop_at_the_noise_image_by_image():
    a = Blur(gaussian_kernel(1.5, 7))
    y = noisy(a(picture(count=3)), 0.02)
    y[2] = noisy(a(picture()), 0.002)[0]
    x, report = fr.reconstruct(y, a, method="cg", noise=0.02)
    assert (report.misfit <= 0.02 * y[0].numel() ** 0.5).all()
    assert report.converged.all()
    assert list(report.status) == ["converged"] * 3
    for i in range(3):
        alone = fr.reconstruct(y[i : i + 1], a, method="cg", noise=0.02)
        assert torch.equal(alone.x[0], x[i])
        assert alone.report.iterations[0] == report.iterations[i]
    x, report = fr.reconstruct(a(picture()).double(), a.double(), method="cg", iterations=5000, tol=1e-9)
    assert report.relative_residual.item() < 1e-8


def test_least_squares_of_a_pair_of_functions_and_of_complex_images():
    phi = torch.randn(300, 480, generator=torch.Generator().manual_seed(0)) / 20
    pair = Callables(lambda x: x.flatten(1) @ phi.T, lambda y: (y @ phi).view(-1, 1, *SIZE), (1, *SIZE))
    x, report = fr.reconstruct(pair(picture()), pair, method="cg", iterations=500)
    torch.testing.assert_close(x.flatten(), torch.linalg.pinv(phi) @ (phi @ picture().flatten()), atol=1e-3, rtol=0)
    a = Fourier((torch.rand(SIZE, generator=torch.Generator().manual_seed(3)) < 0.5).float())
    y = a(picture() * (1 + 0.5j))
    for method in ("cg", "tikhonov", "wiener", "dct"):
        x, report = fr.reconstruct(y, a, method=method)
        assert x.is_complex()
        assert report.relative_misfit.item() < 0.2


def test_pictures_are_better_than_the_blurred_one_without_and_with_noise():
    x = picture((64, 64))
    a = Blur(gaussian_kernel(1.5, 9))
    for sigma in (0.0, 0.01, 0.05):
        y = noisy(a(x), sigma)
        before = psnr(y, x).item()
        for method in ("wiener", "tikhonov", "cg", "dct"):
            for noise in {sigma, None}:
                if noise is None and method in ("cg", "dct"):
                    continue  # least squares of noise, of which nobody told
                found = fr.reconstruct(y, a, method=method, noise=noise).x
                assert psnr(found, x).item() > before + 0.5, (method, sigma, noise)


@pytest.mark.parametrize("method", ["wiener", "tikhonov", "cg", "dct", "auto"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)], ids=str)
@pytest.mark.parametrize("value", [0.0, 0.5, 1000.0])
def test_constant_and_tiny_images(method, size, value):
    a = Blur(torch.full((1, 1), 0.5))
    x = torch.full((2, 1, *size), value)
    for noise in (None, 0.0, 0.1):
        found = fr.reconstruct(a(x), a, method=method, noise=noise).x
        torch.testing.assert_close(found, x, rtol=1e-2, atol=0.5 if noise else 1e-4)


@pytest.mark.parametrize("method", ["wiener", "tikhonov", "cg", "dct", "auto"])
def test_bad_noise_is_one_line(method):
    y = BLUR(picture())
    wrong: list[Any] = [-0.1, float("nan"), float("inf"), "much"]
    for noise in wrong:
        with pytest.raises(ValueError, match="reconstruct: noise: expected"):
            fr.reconstruct(y, BLUR, method=method, noise=noise)


@pytest.mark.parametrize(("method", "lam"), [("wiener", "-1"), ("tikhonov", "nan"), ("wiener", "strong")])
def test_bad_weight_is_one_line(method, lam):
    assert METHODS[method]
    with pytest.raises(ValueError, match=f"{method}: --lam: expected auto or a number >= 0"):
        fr.reconstruct(BLUR(picture()), BLUR, method=method, lam=lam)


@pytest.mark.parametrize("method", ["wiener", "tikhonov", "dct"])
def test_data_on_another_scale(method):
    y = noisy(BLUR(picture((32, 32))), 0.02)
    one, other = (fr.reconstruct(s * y, BLUR, method=method, noise=0.02 * s).x for s in (1.0, 500.0))
    torch.testing.assert_close(other / 500, one, rtol=0, atol=2e-3)


def test_what_is_chosen_and_why():
    x, mask = picture(), (torch.rand(SIZE) < 0.5).float()

    def chosen(a, noise):
        return automatic(Inverse(a(x), a, SIZE, noise))

    assert chosen(BLUR, None).method == "tikhonov"
    assert "there is no noise" in chosen(BLUR, 0.0).why
    assert "not known" in chosen(BLUR, None).why
    assert chosen(BLUR, 0.01).method == "prior"
    assert (chosen(Inpainting(mask), 0.0).method, chosen(Fourier(mask), 0.0).method) == ("prior", "prior")
    assert chosen(Fourier(mask), 0.01).method == "prior"
    assert chosen(Identity(), 0.0).method == "dct"  # which leaves y as it is
    assert "the noise is 0.01" in chosen(BLUR, 0.01).why
    assert chosen(Inpainting(mask), None).method == "dct"
    assert chosen(Fourier(mask), None).method == "dct"
    assert chosen(Crop(SIZE, 2, 2, (20, 16)) @ BLUR, None).method == "dct"


@pytest.mark.parametrize(("kind", "rate"), [("variable", 0.3), ("cartesian", 0.3), ("radial", 0.3)])
def test_frequencies_without_noise_are_filled_in_by_the_learned_prior(kind, rate):
    data = pytest.importorskip("skimage.data")
    x = torch.from_numpy(data.camera()[100:196, 180:276] / 255).float()[None, None]
    a = Fourier(masks.GENERATORS[kind](x.shape[-2:], rate, 1))
    found, others = (fr.reconstruct(a(x), a, method, noise=0.0).x.real for method in ("auto", "dct"))
    assert fr.metrics.psnr(found, x) > fr.metrics.psnr(others, x)
