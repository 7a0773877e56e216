import numpy as np
import pytest
import torch

from fastrecon import masks
from fastrecon.operators import Fourier

SIZES = [(256, 256), (190, 190), (64, 100), (33, 47)]
RANDOM = {
    "uniform": masks.uniform,
    "variable_density": masks.variable_density,
    "gaussian": masks.gaussian,
    "cartesian": masks.cartesian,
}
K_SPACE = [masks.variable_density, masks.gaussian, masks.cartesian, masks.radial]


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.7])
def test_has_its_rate_and_follows_its_seed(name, size, rate):
    make = RANDOM[name]
    mask = make(size, rate, seed=3)
    assert mask.shape == size
    assert mask.unique().tolist() == [0, 1]
    exact = {"uniform": 0.5 / mask.numel(), "cartesian": 0.5 / size[1]}
    n = mask.numel()
    assert abs(mask.mean().item() - rate) <= exact.get(name, 5 * (rate / n) ** 0.5)  # five deviations of a random count
    assert torch.equal(mask, make(size, rate, seed=3))
    assert not torch.equal(mask, make(size, rate, seed=4))


@pytest.mark.parametrize("make", K_SPACE)
def test_patterns_of_k_space_have_the_zero_frequency_where_fourier_wants_it(make):
    x = torch.rand(1, 1, 20, 30, dtype=torch.complex128)
    for centred in (False, True):
        mask = make((20, 30), 0.3, centred=centred)
        assert mask[(10, 15) if centred else (0, 0)] == 1
        y = Fourier(mask, centred)(x).abs()[0, 0]
        assert y.argmax() == (10 * 30 + 15 if centred else 0)
    shifted = torch.fft.ifftshift(make((20, 30), 0.3, centred=True))
    assert torch.equal(make((20, 30), 0.3), shifted)


def test_variable_density_follows_its_formula():
    rate, draws = 0.3, 300
    mean = torch.stack([masks.variable_density((48, 64), rate, s, centred=True) for s in range(draws)]).mean(0).numpy()
    base = np.clip(1 - masks.radius((48, 64)) / np.sqrt(2), 0, 1)
    q = np.log(mean[12:36:6, 16:48:8].clip(1e-3)) / np.log(base[12:36:6, 16:48:8].clip(1e-3, 0.999))
    expected = base ** np.median(q)
    assert abs(expected.mean() - rate) < 0.02
    assert np.abs(mean - expected)[np.arange(48) != 24].max() < 6 * 0.5 / draws**0.5
    assert masks.variable_density((48, 64), 1.0).min() == 1


def test_gaussian_follows_its_formula():
    mean = torch.stack([masks.gaussian((32, 32), 0.3, s, centred=True) for s in range(300)]).mean(0).numpy()
    r2 = masks.radius((32, 32)) ** 2
    bands = [(r2 >= a) & (r2 < b) & (r2 > 0) for a, b in ((0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1.0))]
    slope = [np.log(mean[band].mean() / np.exp(-3 * r2[band]).mean()) / r2[band].mean() for band in bands]
    assert np.ptp(slope[1:]) < 0.2  # log P = -q r^2 with one q everywhere
    assert masks.gaussian((8, 8), 1.0).min() == 1


def test_cartesian_keeps_whole_columns_and_the_centre():
    mask = masks.cartesian((40, 100), 0.25, seed=1, centred=True)
    assert torch.equal(mask, mask[:1].expand(40, 100))
    assert mask[0, 46:54].min() == 1
    assert masks.cartesian((4, 10), 0.2, centre=0.0).sum() == 8


@pytest.mark.parametrize(("side", "lines"), [(190, (17, 33, 50)), (256, (21, 45, 67))])
def test_radial_takes_the_published_numbers_of_diameters(side, lines):
    for rate, count in zip((0.1, 0.2, 0.3), lines, strict=True):
        mask = masks.radial((side, side), rate, centred=True)
        assert np.array_equal(mask.numpy() > 0, masks.diameters((side, side), count))
        assert masks.diameters((side, side), count - 1).mean() < rate <= mask.mean().item()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 4), (31, 32), (48, 48), (20, 57)], ids=str)
def test_radial_takes_the_fewest_diameters(size):
    """As its definition says, which tries one number after the other in full."""
    for rate in (0.05, 0.3, 0.6, 0.8, 0.95, 0.99, 1.0):
        lines = next(n for n in range(1, 4 * sum(size) + 2) if masks.diameters(size, n).mean() >= rate)
        expected = masks.diameters(size, lines)
        assert np.array_equal(masks.radial(size, rate, centred=True).numpy() > 0, expected)


def test_radial_tries_few_diameters_in_full(monkeypatch):
    tried, points, most, diameters = 0, 0, 0, masks.diameters

    def counting(size, lines, beyond=0.0):
        nonlocal tried, points, most
        tried, points, most = tried + (beyond == 0), points + lines * (sum(size) - 2 * beyond), max(most, lines)
        return diameters(size, lines, beyond)

    monkeypatch.setattr(masks, "diameters", counting)
    assert masks.radial((192, 192), 0.95).mean() >= 0.95
    assert tried < 10
    assert points < 384 * most**2 / 2 / 2.5  # of what it would take to try every number in full


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: masks.uniform((4, 4), 0.0), r"uniform: rate: expected a number in \(0, 1\], got 0.0"),
        (lambda: masks.radial((4,), 0.5), r"radial: size: expected \(H, W\), integers >= 1, got tuple \(4,\)"),
        (lambda: masks.cartesian((4, 4), 0.25, centre=0.5), r"cartesian: centre: expected a number in \[0, 0.25\]"),
        (lambda: masks.uniform((4, 4.5), 0.5), r"uniform: size: expected .*, got tuple \(4, 4\.5\)"),
        (lambda: masks.uniform(4, 0.5), r"uniform: size: expected \(H, W\), integers >= 1, got 4"),
        (lambda: masks.uniform((4, 4), True), "uniform: rate: expected a number in .*, got True"),
        (lambda: masks.variable_density((4, 4), float("nan")), "variable_density: rate: expected a number in"),
        (lambda: masks.variable_density((4, 4), "0.5"), "variable_density: rate: expected .*, got str '0.5'"),
        (lambda: masks.uniform((4, 4), 0.5, seed=-1), "uniform: seed: expected an integer in .*, got -1"),
        (lambda: masks.cartesian((4, 4), 0.5, seed=1.5), "cartesian: seed: expected an integer in .*, got 1.5"),
        (lambda: masks.radial((4, 4), 0.5, centred="no"), "radial: centred: expected True or False, got str 'no'"),
    ],
)
def test_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
