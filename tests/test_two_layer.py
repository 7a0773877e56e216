"""Rain in two layers: the objective and its minimiser, directions, weights, batches."""

import math

import pytest
import torch

from fastrecon.solvers import rain
from fastrecon.solvers.methods import METHODS
from fastrecon.solvers.two_layer import TwoLayer, across, along, fall


def background(h=32, w=40):
    generator = torch.Generator().manual_seed(3)
    blocks = 0.1 + 0.5 * torch.rand(1, 3, h // 8, w // 8, generator=generator)
    return blocks.repeat_interleave(8, 2).repeat_interleave(8, 3)


def rainy(angle=10.0, level="heavy"):
    b = background()
    return rain.rainy(b, rain.falling(level, angle, b.shape[-2:], 1)), b


def test_differences_turn_with_the_rain():
    x = torch.rand(2, 3, 6, 7)
    up = torch.tensor([0.0, math.pi / 2])
    torch.testing.assert_close(along(x, up)[0], (x.roll(-1, -2) - x)[0])
    torch.testing.assert_close(along(x, up)[1], (x.roll(-1, -1) - x)[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(across(x, up)[0], (x.roll(-1, -1) - x)[0])


@pytest.mark.parametrize("angle", [-30.0, 0.0, 25.0])
def test_the_direction_is_found(angle):
    y = 0.3 + rain.falling("heavy", angle, (64, 64), 0).expand(1, 3, -1, -1)
    found, ratio = fall(y)
    assert abs(math.degrees(found.item()) - angle) <= 10
    assert ratio.item() < 0.85


def test_streaks_come_off():
    y, b = rainy()
    _, streaks, report = TwoLayer()(y, 40)
    before, after = ((t - b).square().mean().item() for t in (y, y - streaks))
    assert after < before / 3
    assert streaks.amin() >= 0
    assert bool((streaks <= y.amin(1, keepdim=True)).all())
    assert report.status[0] in ("converged", "iteration limit")


def test_the_limit_minimises():
    y, _ = rainy()
    y = y.double()
    solver = TwoLayer(lam=0.03, angle=10.0)
    b, streaks, report = solver(y, 300, 1e-4)
    assert bool(report.converged.all())
    least = report.objective.item()
    lam, angle = solver.weights(y)
    by_hand = (
        (y - b - streaks).square().sum() / 2
        + lam * across(b, angle).abs().sum()
        + lam * (2.0 * along(streaks, angle).abs().sum() + 0.15 * streaks.abs().sum())
    )
    assert by_hand.item() == pytest.approx(least, rel=1e-9)
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-4, 1e-2):
        for _ in range(5):
            other = b + scale * torch.randn(b.shape, generator=generator, dtype=b.dtype)
            rain_ = (streaks + scale * torch.randn(streaks.shape, generator=generator, dtype=b.dtype)).clamp_min(0)
            rain_ = torch.minimum(rain_, y.amin(1, keepdim=True))
            assert solver.objective(other, rain_, y).item() >= least * (1 - 1e-4)


def test_batches_are_of_single_pictures():
    y = torch.cat([rainy(10.0)[0], rainy(-20.0, "light")[0]])
    b, r, report = TwoLayer()(y, 24, 1e-2, history=True)
    for k in range(2):
        b1, r1, one = TwoLayer()(y[k : k + 1], 24, 1e-2)
        torch.testing.assert_close(b[k], b1[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(r[k], r1[0], atol=1e-5, rtol=0)
        assert report.iterations[k] == one.iterations[0]


def test_a_dry_picture_keeps_nearly_all():
    b = background()
    _, streaks, _ = TwoLayer()(b, 20)
    assert streaks.abs().mean() < 0.05


@pytest.mark.parametrize(("options", "words"), [({"angle": "steep"}, "--angle"), ({"lam": "0"}, "--lam")])
def test_wrong_options(options, words):
    with pytest.raises(ValueError, match=words):
        METHODS["two-layer"].ready(**options)
    with pytest.raises(ValueError, match="TwoLayer: y"):
        TwoLayer()(torch.zeros(3, 4))
