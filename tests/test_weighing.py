"""How strongly a prior weighs beside an operator that damps or misses frequencies."""

import numpy as np
import pytest
import torch
from skimage import data

import fastrecon as fr
from fastrecon import masks, zoo
from fastrecon.metrics import psnr
from fastrecon.models.weighing import POWER, SPREAD, spread
from fastrecon.operators import (
    Blur,
    Callables,
    Crop,
    Fourier,
    Identity,
    Inpainting,
    Radon,
    gaussian_kernel,
    motion_kernel,
)

SIZE = (23, 26)
SIGMA = torch.tensor([0.01, 0.1])


def like(complex_: bool = False, size: tuple[int, int] = SIZE, count: int = 2) -> torch.Tensor:
    return zoo.numbers(count, 1, *size, dtype=torch.complex64 if complex_ else torch.float32)


def expected(kernel: torch.Tensor, sigma: float, size: tuple[int, int] = SIZE) -> float:
    """Over all frequencies, one after the other."""
    whole = np.zeros(size)
    whole[: kernel.shape[0], : kernel.shape[1]] = kernel.double().numpy()
    gains = np.abs(np.fft.fft2(whole)) ** 2
    total = 0.0
    for i, f in enumerate(np.fft.fftfreq(size[0])):
        for j, g in enumerate(np.fft.fftfreq(size[1])):
            power = POWER / max(f * f + g * g, 0.25 / max(size) ** 2)
            total += sigma**2 * power / (sigma**2 + gains[i, j] * power) - sigma**2 * power / (sigma**2 + power)
    return sigma + SPREAD * total / (size[0] * size[1])


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("size", [(23, 26), (24, 21)])
def test_it_is_wieners_error_beyond_that_of_the_noise(complex_, size):
    kernel = gaussian_kernel(1.5, 9)
    found = spread(Blur(kernel), like(complex_, size), SIGMA)
    assert found is not None
    assert found.tolist() == pytest.approx([expected(kernel, s.item(), size) for s in SIGMA], rel=1e-5)


def test_noise_alone_is_all_there_is():
    for operator in (Identity(), Blur(torch.ones(1, 1))):
        torch.testing.assert_close(spread(operator, like(), SIGMA), SIGMA.double(), rtol=1e-6, atol=0)


def test_the_unit_of_the_measurements_does_not_matter():
    blur = Blur(gaussian_kernel(1.0, 7))
    found = spread(Blur(255 * blur.kernel[0, 0]), like(), SIGMA, 255.0)
    torch.testing.assert_close(found, spread(blur, like(), SIGMA), rtol=1e-5, atol=0)


def test_a_window_and_zeros_around_the_image_are_as_the_circular_blur():
    kernel = motion_kernel(9, seed=1)
    window = Crop(SIZE, 4, 4, (15, 18)) @ Blur(kernel)
    for other in (window, Blur(kernel, "zero")):
        assert torch.equal(spread(other, like(), SIGMA), spread(Blur(kernel), like(), SIGMA))


def test_each_image_has_that_of_its_own_kernel_and_noise():
    kernels = torch.stack([motion_kernel(9, seed=k)[None] for k in (1, 2)])
    together = spread(Blur(kernels), like(), SIGMA)
    for k in range(2):
        alone = spread(Blur(kernels[k : k + 1]), like(count=1), SIGMA[k : k + 1])
        assert torch.equal(alone[0], together[k])


def test_missing_samples_count_too():
    few, many = (spread(Fourier(masks.radial(SIZE, r)), like(True), SIGMA) for r in (0.2, 0.6))
    assert bool((few > many).all())
    assert bool((many > SIGMA).all())
    few, many = (spread(Inpainting(masks.uniform(SIZE, r)), like(), SIGMA) for r in (0.2, 0.6))
    assert bool((few > many).all())


def test_of_other_operators_frequencies_are_asked():
    """Of a radially symmetric blur given as two functions nearly what is known of it; of a scan it grows with noise."""
    blur, x = Blur(gaussian_kernel(1.5, 13)), like(size=(64, 60))
    functions = Callables(blur.forward, lambda y: blur.apply_adjoint(y, (64, 60)), (1, 64, 60))
    torch.testing.assert_close(spread(functions, x, SIGMA), spread(blur, x, SIGMA), rtol=0.1, atol=0)
    scan = Radon((24, 24), 10)
    norm = scan.norm((1, 1, 24, 24))
    found = spread(scan, like(size=(24, 24)), SIGMA, norm)
    assert bool((found > 1.2 * SIGMA).all())
    assert torch.equal(found[1:], spread(scan, like(size=(24, 24), count=1), SIGMA[1:], norm))


def test_of_samples_their_density_counts():
    """Whether half of the frequencies of each length are there or all of them at half the power; of coils as of one."""
    mask, maps = masks.radial((64, 64), 0.4), torch.ones(4, 64, 64, dtype=torch.complex64) / 2
    x = like(True, (64, 64))
    found = spread(Fourier(mask), x, SIGMA)
    length = 64 * torch.fft.fftfreq(64)[:, None].hypot(torch.fft.fftfreq(64))
    density = torch.stack([mask[(length - r).abs() <= 0.5].mean() for r in length.flatten()]).view(64, 64)
    torch.testing.assert_close(found, spread(Fourier(density.sqrt()), x, SIGMA), rtol=0.1, atol=0)
    torch.testing.assert_close(spread(Fourier(mask, sensitivities=maps), x, SIGMA), found, rtol=1e-3, atol=0)


@pytest.mark.parametrize("sigma", [0.004, 0.03])
@pytest.mark.parametrize("kernel", [motion_kernel(15, seed=3), gaussian_kernel(1.0, 7)], ids=["shake", "gaussian"])
def test_the_shipped_prior_weighs_well(kernel, sigma):
    corners = ((64, 192), (180, 330), (120, 120))  # not the sky alone, which any weight smooths
    crops = [data.camera()[i : i + 96, j : j + 96].astype(np.float32) / 255 for i, j in corners]
    x = torch.from_numpy(np.stack(crops))[:, None]
    y = Blur(kernel)(x) + sigma * zoo.numbers(*x.shape, seed=1)
    found = [fr.reconstruct(y, Blur(kernel), prior="natural", noise=sigma, lam=lam, tol=0.01).x for lam in (0.5, 1, 2)]
    less, right, more = (psnr(f.clamp(0, 1), x).mean().item() for f in found)
    assert right > less + 0.1
    assert right > more - 0.1
