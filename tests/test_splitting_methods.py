"""Methods "admm" and "hqs": pictures, weights from the noise, scales, options that make no sense."""

import pytest
import torch
from skimage import data

import fastrecon as fr
from fastrecon.metrics import psnr
from fastrecon.operators import Blur, Crop, Fourier, Inpainting, gaussian_kernel
from fastrecon.problems.base import PROBLEMS
from fastrecon.solvers.methods import METHODS
from fastrecon.solvers.splitting_methods import weight


def photo(size=64):
    return torch.from_numpy(data.camera()[100 : 100 + size, 180 : 180 + size]).float()[None, None] / 255


def measured(kind, sigma=0.01):
    x = photo()
    mask = (torch.rand(64, 64, generator=torch.Generator().manual_seed(1)) < 0.6).float()
    mask[0, 0] = 1  # the mean
    a = {
        "deblur": lambda: Blur(gaussian_kernel(1.2, 9)),
        "free": lambda: Crop((64, 64), 4, 4, (56, 56)) @ Blur(gaussian_kernel(1.2, 9)),
        "inpaint": lambda: Inpainting(mask), "mri": lambda: Fourier(mask),
    }[kind]()  # fmt: skip
    y = a(x)
    return x, a, y + sigma * torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)


@pytest.mark.parametrize("kind", ["deblur", "free", "inpaint", "mri"])
@pytest.mark.parametrize("method", ["admm", "hqs"])
def test_pictures_are_better_than_where_they_start(method, kind):
    x, a, y = measured(kind)
    found, report = fr.reconstruct(y, a, method=method, noise=0.01)
    assert found.is_complex() == y.is_complex()
    start, inner = a.adjoint(y, (64, 64)), (..., slice(8, 56), slice(8, 56))
    gain = [psnr(t[inner].real.contiguous(), x[inner].contiguous()).item() for t in (start, found)]
    assert gain[1] > gain[0] + 2
    assert report.history["objective"].shape[1] == 1
    assert torch.isfinite(report.objective).all()


@pytest.mark.parametrize("method", ["admm", "hqs"])
def test_other_units_change_nothing(method):
    """y and A 8 times as large."""
    _, a, y = measured("deblur")
    x, _ = fr.reconstruct(y, a, method=method, noise=0.01)
    scaled, _ = fr.reconstruct(8 * y, Blur(8 * a.kernel[0, 0]), method=method, noise=0.08)
    torch.testing.assert_close(scaled, x, rtol=0, atol=5e-3)


@pytest.mark.parametrize("options", [
    {"regulariser": "lp", "p": 0.5}, {"regulariser": "wavelet"}, {"regulariser": "wavelet", "p": 0.0}, {"lam": "0.002"},
    {"lam": "0"}, {"lam_factor": 2.0},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("method", ["admm", "hqs"])
def test_every_regulariser(method, options):
    _, a, y = measured("deblur")
    more = {"iterations": 20} if method == "admm" else {}
    more |= {"p": 1.0} if options.get("regulariser") == "wavelet" and "p" not in options else {}
    x, _ = fr.reconstruct(y, a, method=method, noise=0.01, **(more | options))
    assert (a(x) - y).square().mean().sqrt() < 0.1


def test_weights_grow_with_the_noise():
    assert weight(0.0, 1.0, 1.0) == weight(0.001, 1.0, 1.0) < weight(0.01, 1.0, 1.0)
    assert weight(0.1, 1.0, 1.0) == pytest.approx(0.075, rel=0.1)
    assert weight(0.01, 0.16, 1.0) == pytest.approx(1e-3, rel=0.1)
    assert weight(0.01, 0.16, 0.5) < weight(0.01, 0.16, 1.0)


@pytest.mark.parametrize("problem", ["deblur", "denoise", "inpaint", "mri", "ct"])
def test_problems_know_them(problem):
    assert {"admm", "hqs"} <= set(PROBLEMS[problem].methods)
    assert METHODS["hqs"].solves(problem)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 1.5}, r"--p: expected a number in \[0, 1\], got 1.5"),
        ({"regulariser": "tv", "p": 0.5}, "--p: expected 1, or --regulariser lp or wavelet, got 0.5"),
        ({"regulariser": "l0"}, "--regulariser: expected one of tv, lp, wavelet"),
        ({"lam": "-1"}, "--lam: expected auto or a number >= 0, got -1"),
        ({"lam": "nan"}, "--lam: expected auto or a number >= 0, got nan"),
    ],
)
@pytest.mark.parametrize("method", ["admm", "hqs"])
def test_says_what_is_wrong(method, options, message):
    with pytest.raises(ValueError, match=f"^{method}: {message}"):
        METHODS[method].ready(**options)
