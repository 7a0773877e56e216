"""Sliding cosine transform: patches against plain loops, the same bits in any batch, better pictures, its report."""

import pytest
import torch
from skimage import data

import fastrecon as fr
from fastrecon.masks import GENERATORS
from fastrecon.metrics import psnr
from fastrecon.operators import Blur, Fourier, Identity, Inpainting, gaussian_kernel
from fastrecon.solvers.methods import METHODS, Inverse
from fastrecon.solvers.sliding_dct import ENDED, Patches, SlidingDCT, parts

SIZE = (48, 40)
MASK = (torch.rand(SIZE, generator=torch.Generator().manual_seed(1)) < 0.5).float()


def photo(height=96, width=96):
    return torch.from_numpy(data.camera()[100 : 100 + height, 180 : 180 + width]).float()[None, None] / 255


def noisy(x, sigma):
    return x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))


def looped(x, t, side, step, offset):
    """Thresholding of patches one by one, float64."""
    h, w = x.shape
    k = torch.arange(side, dtype=torch.float64)
    c = (torch.pi * (2 * k + 1) * k[:, None] / (2 * side)).cos() * (2 / side) ** 0.5
    c[0] /= 2**0.5
    whole = torch.nn.functional.pad(x[None, None], [side - 1] * 4, mode="reflect")[0, 0]
    total, share = torch.zeros_like(whole), torch.zeros_like(whole)
    for i in range(offset[0], whole.shape[0] - side + 1, step):
        for j in range(offset[1], whole.shape[1] - side + 1, step):
            z = c @ whole[i : i + side, j : j + side] @ c.T
            keep = z.abs() > t
            keep[0, 0] = True
            total[i : i + side, j : j + side] += c.T @ (z * keep) @ c / keep.sum()
            share[i : i + side, j : j + side] += 1 / keep.sum()
    return (total / share)[side - 1 : side - 1 + h, side - 1 : side - 1 + w]


@pytest.mark.parametrize(("side", "step", "offset"), [(4, 1, (0, 0)), (8, 4, (3, 1)), (5, 2, (1, 0))])
def test_thresholds_are_those_of_patches_one_by_one(side, step, offset):
    x = photo(21, 17).double()
    found = Patches(x, side).threshold(x, torch.tensor([0.1]), step, offset)
    torch.testing.assert_close(found[0, 0], looped(x[0, 0], 0.1, side, step, offset))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 30), (16, 16)], ids=str)
def test_without_a_threshold_images_stay(size):
    x = torch.rand(2, 1, *size, dtype=torch.float64)
    patches, none = Patches(x), torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(patches.threshold(x, none), x)
    torch.testing.assert_close(patches.wiener(x, x, none), x)
    torch.testing.assert_close(patches.denoised(x, none), x)


def test_denoising_is_far_better_than_wavelets_and_the_second_stage_pays():
    x, sigma = photo(), 0.1
    y = noisy(x, sigma)
    first = Patches(x).threshold(y, torch.tensor([0.27]))
    found, report = fr.reconstruct(y, Identity(), method="dct", noise=sigma)
    wavelets = fr.reconstruct(y, Identity(), method="cycle-spinning", noise=sigma).x
    assert psnr(found, x).item() > psnr(first, x).item() + 0.1
    assert psnr(found, x).item() > psnr(wavelets, x).item() + 0.5
    assert list(report.status) == [ENDED]
    assert not report.converged.any()
    torch.testing.assert_close(report.misfit.item(), (found - y).double().norm().item(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["inpaint", "mri", "deblur"])
def test_pictures_are_better_than_those_of_cycle_spinning(kind):
    x, sigma = photo(), 0.02
    mask = GENERATORS["variable" if kind == "mri" else "uniform"]((96, 96), 0.4, 4).float()
    a = {"inpaint": Inpainting(mask), "mri": Fourier(mask), "deblur": Blur(gaussian_kernel(1.5, 9))}[kind]
    y = noisy(a(x), sigma) if kind == "deblur" else a(noisy(x, sigma))
    found = fr.reconstruct(y, a, method="dct", noise=sigma).x
    other = fr.reconstruct(y, a, method="cycle-spinning", noise=sigma).x
    found, other = (t.real if t.is_complex() else t for t in (found, other))
    assert psnr(found, x).item() > psnr(other, x).item() + 0.3


def test_an_image_has_the_bits_it_has_alone():
    masks = (torch.rand(3, 1, *SIZE, generator=torch.Generator().manual_seed(2)) < 0.6).float()
    x = (
        torch.rand(3, 1, *SIZE, generator=torch.Generator().manual_seed(3))
        * torch.tensor([1, 2, 0.1])[:, None, None, None]
    )
    whole = fr.reconstruct(masks * x, Inpainting(masks), method="dct", noise=0.02, iterations=5).x
    for i in range(3):
        one = Inpainting(masks[i : i + 1])
        alone = fr.reconstruct((masks * x)[i : i + 1], one, method="dct", noise=0.02, iterations=5).x
        assert torch.equal(alone[0], whole[i])


def test_noise_that_nobody_knows_is_estimated():
    x, sigma = photo(), 0.1
    y = noisy(x, sigma)
    found = fr.reconstruct(y, Identity()).x
    assert psnr(found, x).item() > psnr(y, x).item() + 5
    torch.testing.assert_close(fr.reconstruct(y, Identity(), noise=0.0).x, y)


def test_known_pixels_are_kept_where_there_is_no_noise():
    x, a = photo(*SIZE), Inpainting(MASK)
    found, report = fr.reconstruct(a(x), a, method="dct")
    assert (MASK * (found - x)).abs().max() < 0.05
    assert report.relative_misfit.item() < 0.01
    assert report.history["misfit"].shape == (81, 1)
    assert psnr(found, x).item() > 22


def test_channels_and_complex_parts_are_planes():
    x = torch.rand(2, 3, 9, 8)
    level = torch.tensor([0.1, 0.3])
    found = parts(lambda t, v: t * v.view(-1, 1, 1, 1), torch.complex(x, 2 * x), level)
    torch.testing.assert_close(found, torch.complex(x, 2 * x) * level.view(2, 1, 1, 1))


def test_the_callback_sees_every_iteration():
    seen = []
    a = Inpainting(MASK)
    solver = SlidingDCT(a, a(photo(*SIZE)), 0.05)
    solver.run(a(photo(*SIZE)), 4, lambda k, s: seen.append((k, s.z.shape)))
    assert seen == [(k, (1, 1, *SIZE)) for k in (1, 2, 3, 4)]


def test_progress_and_options_of_the_method():
    a, told = Inpainting(MASK), []
    run = METHODS["dct"].ready("cpu", iterations=3, patch=4, strength=0.5)
    run(Inverse(a(photo(*SIZE)), a, SIZE, 0.05), lambda done, total, x, what="": told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(ValueError, match=r"dct: --patch: expected an integer in \[1, 64\], got 0"):
        METHODS["dct"].ready("cpu", patch=0)
