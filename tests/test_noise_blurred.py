"""Noise of blurred photographs, told by what the blur leaves dark."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from fastrecon import zoo
from fastrecon.io import Form, Picture
from fastrecon.noise import estimate, estimate_blurred
from fastrecon.operators import Blur, gaussian_kernel, motion_kernel
from fastrecon.problems import PROBLEMS
from fastrecon.solvers.methods import METHODS

SIZE = (256, 240)
KERNEL = motion_kernel(19, 4)


def blurred(kernel: torch.Tensor, count: int = 2) -> torch.Tensor:
    return Blur(kernel)(zoo.scenes(count, *SIZE)).double()


def coloured(rate: float) -> torch.Tensor:
    """Noise [1, 1, H, W] of standard deviation exp(-rate (|f| - 0.15)) at frequency f."""
    f = torch.fft.fftfreq(SIZE[0])[:, None].hypot(torch.fft.rfftfreq(SIZE[1]))
    white = torch.fft.rfft2(zoo.numbers(1, 1, *SIZE, seed=3).double())
    return torch.fft.irfft2(white * (-rate * (f - 0.15)).exp(), s=SIZE)


@pytest.mark.parametrize("sigma", [0.005, 0.02, 0.1])
@pytest.mark.parametrize("kernel", [KERNEL, gaussian_kernel(2.0, 13)], ids=["motion", "gaussian"])
def test_white_noise_is_found(kernel, sigma):
    y = blurred(kernel) + sigma * zoo.numbers(2, 1, *SIZE, seed=1)
    found = estimate_blurred(y, kernel)
    assert found.tolist() == pytest.approx([sigma] * 2, rel=0.1)
    assert found[1] == estimate_blurred(y[1:], kernel)[0]


@pytest.mark.parametrize("rate", [2.0, 3.5])
def test_coloured_noise_is_found_where_deconvolution_decides(rate):
    y = blurred(KERNEL, 1) + 0.01 * coloured(rate)
    assert estimate_blurred(y, KERNEL).item() == pytest.approx(0.01, rel=0.15)
    assert estimate(y).item() < 0.006


def test_what_tells_too_little_is_left_to_the_finest_details():
    y = blurred(torch.ones(1, 1)) + 0.02 * zoo.numbers(2, 1, *SIZE, seed=1)
    assert torch.equal(estimate_blurred(y, torch.ones(1, 1)), estimate(y))  # nothing is dark
    assert estimate_blurred(y[:0], KERNEL).shape == (0,)
    assert estimate_blurred(torch.full((1, 3, 40, 40), 0.5), KERNEL[4:9]).item() < 1e-12  # constant
    with pytest.raises(ValueError, match="estimate_blurred: kernel: expected a tensor"):
        estimate_blurred(y, torch.ones(3, 400))
    with pytest.raises(ValueError, match="estimate_blurred: y: expected real images"):
        estimate_blurred(torch.zeros(4, 4), KERNEL)


def test_a_photograph_without_a_level_is_read_with_this_one(tmp_path):
    y = (blurred(KERNEL, 1) + 0.01 * coloured(3.5)).clamp(0, 1)
    pytest.importorskip("PIL.Image").fromarray((255 * y[0, 0]).round().byte().numpy()).save(tmp_path / "y.png")
    np.save(tmp_path / "k.npy", KERNEL.numpy())
    m = PROBLEMS["deblur"].read(tmp_path / "y.png", PROBLEMS["deblur"].Options(kernel=str(tmp_path / "k.npy")))
    assert m.noise == pytest.approx(0.01, rel=0.2)
    assert any("noise estimated" in note for note in m.notes)


def test_auto_goes_on_as_long_as_the_picture_changes():
    skimage = pytest.importorskip("skimage.data")
    picture = Picture(skimage.coins()[40:168, 40:168].astype(np.float32) / 255, Path("x.png"), Form())
    problem = PROBLEMS["deblur"]

    def made(**options):
        m = problem.simulate(picture, problem.Options(**options))
        return m, problem.inverse(m), problem.auto(problem.inverse(m))

    assert not made(boundary="free")[2].settings
    assert not made(noise=0.01)[2].settings  # circular
    m, inverse, chosen = made(boundary="free", noise=0.01)
    found = [METHODS["prior"].ready(torch.device("cpu"), **s)(inverse) for s in ({}, chosen.settings)]
    whole, sooner = (problem.scores(f.x, m)["psnr"] for f in found)
    assert sooner == pytest.approx(whole, abs=0.02)
    assert found[1].report.converged.all()
    assert found[1].report.iterations.item() < 0.8 * found[0].report.iterations.item()
