"""Cycle spinning: its step against plain PyTorch, the same bits in any batch, better pictures, and what it admits."""

import pytest
import torch
from skimage import data

from fastrecon.metrics import psnr
from fastrecon.operators import Blur, Fourier, Inpainting, Wavelet, gaussian_kernel
from fastrecon.solvers import FISTA, CycleSpinning
from fastrecon.solvers.cycle_spinning import DECAY, FIRST, SHIFTED

MASK = (torch.rand(48, 40, generator=torch.Generator().manual_seed(1)) < 0.5).float()


def photo(size: int = 128) -> torch.Tensor:
    return torch.from_numpy(data.camera()[100 : 100 + size, 180 : 180 + size]).float()[None, None] / 255


def plain(a, y, x, lam, iterations, shifts):
    """The same in plain PyTorch, float64."""
    w, v, t = Wavelet("sym4", 3), x, 1.0
    keep = torch.zeros(x.shape[-2:], dtype=torch.bool)
    keep[: x.shape[-2] >> 3, : x.shape[-1] >> 3] = True
    for k in range(iterations):
        u = torch.roll(v - a.adjoint(a(v) - y), shifts[k], (-2, -1))
        c = w(u)
        shrunk = c.sgn() * (c.abs() - max(lam, FIRST * DECAY**k)).clamp_min(0)
        new = torch.roll(w.adjoint(torch.where(keep, c, shrunk)), [-s for s in shifts[k]], (-2, -1))
        t, last = (1 + (1 + 4 * t * t) ** 0.5) / 2, t
        v, x = new + (last - 1) / t * (new - x), new
    return x


@pytest.mark.parametrize("kind", ["inpaint", "mri", "deblur"])
def test_iterations_are_those_of_the_definition(kind):
    x = photo(48)[..., :40].double()
    a = {"inpaint": Inpainting(MASK), "mri": Fourier(MASK), "deblur": Blur(gaussian_kernel(1.0, 5).double())}[kind]
    y = a(x)
    x0 = a.adjoint(y)
    solver = CycleSpinning(a, 0.003, 1.0)
    found, report = solver(y, x0, iterations=12, history=True)
    expected = plain(a, y, x0, 0.003, 12, [solver.shift(k) for k in range(12)])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    assert len({solver.shift(k) for k in range(12)}) > 6
    assert report.history["objective"].shape == (13, 1)


def test_an_image_has_the_bits_it_has_alone():
    masks = (torch.rand(3, 1, 48, 40, generator=torch.Generator().manual_seed(2)) < 0.6).float()
    x = torch.rand(3, 1, 48, 40, generator=torch.Generator().manual_seed(3))
    whole = CycleSpinning(Inpainting(masks), 0.01, 1.0)(masks * x, iterations=9)[0]
    for i in range(3):
        alone = CycleSpinning(Inpainting(masks[i : i + 1]), 0.01, 1.0)((masks * x)[i : i + 1], iterations=9)[0]
        assert torch.equal(alone[0], whole[i])


def test_pictures_are_better_than_those_of_one_transform():
    x = photo()
    mask = (torch.rand(128, 128, generator=torch.Generator().manual_seed(4)) < 0.5).float()
    a, sigma = Inpainting(mask), 0.02
    y = mask * (x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(5)))
    spun, report = CycleSpinning(a, 0.3 * sigma, 1.0)(y, iterations=150)
    w = Wavelet("sym4", 3).T
    fixed = w(FISTA(a @ w, 0.3 * sigma, 1.0)(y, iterations=150)[0])
    assert psnr(spun, x).item() > psnr(fixed, x).item() + 1
    assert list(report.status) == [SHIFTED]
    assert not report.converged.any()


def test_its_certificate_can_be_recomputed():
    x = photo(48)[..., :40]
    a = Inpainting(MASK)
    found, report = CycleSpinning(a, 0.01, 1.0)(a(x), iterations=5)
    c = Wavelet("sym4", 3)(found).abs().double()
    c[..., :6, :5] = 0
    expected = (a(found) - a(x)).double().square().sum() / 2 + 0.01 * c.sum()
    assert report.objective.item() == pytest.approx(expected.item(), rel=1e-6)
