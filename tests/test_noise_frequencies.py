"""White noise among the frequencies of a picture: drawn from the law that is assumed, and of photographs."""

import numpy as np
import pytest
import torch

from fastrecon.noise import estimate_frequencies
from fastrecon.problems.base import PROBLEMS
from fastrecon.problems.mri import MRIOptions


def drawn(sigma, seed=0, slope=2.4):
    """Powers of frequencies, two real numbers each."""
    g = torch.Generator().manual_seed(seed)
    f = 0.7 * torch.rand(20000, generator=g, dtype=torch.float64) + 1e-3
    law = 1e-5 / f**slope + sigma**2
    return law * torch.randn(2, len(f), generator=g, dtype=torch.float64).square().mean(0), f


@pytest.mark.parametrize("sigma", [0.003, 0.01, 0.1])
def test_what_was_drawn_is_found(sigma):
    found = estimate_frequencies(*drawn(sigma), torch.tensor(1.5 * sigma)).item()
    assert found == pytest.approx(sigma, rel=0.05)


def test_details_do_not_pass_for_noise():
    power, f = drawn(0.0)
    faint = power[f > 0.63].mean().sqrt()
    assert estimate_frequencies(power, f, faint) == pytest.approx(faint.item() / 2)


def test_units_and_the_bound():
    power, f = drawn(0.01)
    one = estimate_frequencies(power, f, torch.tensor(0.015))
    torch.testing.assert_close(estimate_frequencies(1e8 * power, f, torch.tensor(150.0)), 1e4 * one, rtol=1e-3, atol=0)
    assert estimate_frequencies(power, f, torch.tensor(0.004)) == pytest.approx(0.004)
    assert estimate_frequencies(power, f, torch.tensor(0.03)) == pytest.approx(0.015)


@pytest.mark.parametrize("sigma", [0.02, 0.05])
def test_k_space_of_a_photograph(tmp_path, sigma):
    from skimage.data import coins

    x, rng = coins()[:256, :256] / 255, np.random.default_rng(0)
    y = np.fft.fft2(x, norm="ortho")
    y = y + sigma * (rng.standard_normal(y.shape) + 1j * rng.standard_normal(y.shape))
    np.save(tmp_path / "y.npy", y.astype(np.complex64))
    m = PROBLEMS["mri"].read(tmp_path / "y.npy", MRIOptions(centre="none"))
    assert m.noise is not None
    assert m.noise * m.scale == pytest.approx(sigma, rel=0.1)


def test_of_few_frequencies_the_outermost_tell():
    level = torch.tensor(0.25, dtype=torch.float64)
    for n in (0, 3):
        assert estimate_frequencies(torch.ones(n), torch.full((n,), 0.3), level) == level
