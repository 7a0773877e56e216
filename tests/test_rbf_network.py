"""Units of radial functions as modules, and kernels of shaken cameras."""

import pytest
import torch
from utils import numbers

from fastrecon.networks.rbf_unit import RBFUnit, cosines
from fastrecon.operators import motion_kernel


def test_filters_are_the_cosines_without_their_constant():
    filters = cosines(24, 1, 5).flatten(1)
    torch.testing.assert_close(filters @ filters.T, torch.eye(24), rtol=0, atol=1e-6)
    assert filters.sum(1).abs().max() < 1e-5
    both = cosines(48, 2, 5).flatten(1)
    torch.testing.assert_close(both @ both.T, torch.eye(48), rtol=0, atol=1e-6)
    assert cosines(30, 1, 3).shape == (30, 1, 3, 3)


def test_untrained_one_takes_off_a_tenth_of_what_is_no_local_mean():
    v = 0.1 * numbers(1, 1, 12, 12, dtype=torch.float32)
    g = RBFUnit()(v)
    mean = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(v, [2] * 4, mode="circular"), 5, 1)
    twice = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(mean, [2] * 4, mode="circular"), 5, 1)
    torch.testing.assert_close(g, 0.1 * (v - twice), rtol=0, atol=1e-3)
    assert RBFUnit(2)(torch.zeros(1, 2, 8, 9)).abs().max() < 1e-6


def test_has_a_gradient_in_all_parameters():
    unit = RBFUnit(2, filters=6, side=3, centres=11, tied=False)
    unit(0.1 * numbers(2, 2, 9, 8, dtype=torch.float32)).square().sum().backward()
    assert {n for n, _ in unit.named_parameters()} == {"filters", "back", "weights"}
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in unit.parameters())
    assert RBFUnit(**unit.settings).settings == unit.settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": 0}, "filters: expected an integer >= 1"),
        ({"side": 4}, "side: expected an odd number, got 4"),
        ({"centres": 1}, "centres: expected an integer in"),
        ({"boundary": "odd"}, "boundary: expected one of circular"),
    ],
)
def test_says_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=f"RBFUnit: {message}"):
        RBFUnit(**options)


@pytest.mark.parametrize("side", [3, 13, 37])
def test_motion_kernel(side):
    kernel = motion_kernel(side, 3, torch.float64)
    assert kernel.shape == (side, side)
    assert (kernel >= 0).all()
    torch.testing.assert_close(kernel.sum(), torch.ones((), dtype=torch.float64))
    t = torch.arange(side, dtype=torch.float64) - side // 2
    assert max(abs(float((kernel.sum(d) * t).sum())) for d in (0, 1)) < 1e-9
    filled = (kernel > 0).nonzero()
    assert int((filled.amax(0) - filled.amin(0)).max()) >= side // 2  # it needs the side that was asked for
    assert torch.equal(kernel, motion_kernel(side, 3, torch.float64))
    assert not torch.equal(kernel, motion_kernel(side, 4, torch.float64))


def test_motion_kernel_says_what_is_wrong():
    with pytest.raises(ValueError, match="motion_kernel: side: expected an odd number, got 8"):
        motion_kernel(8)
    with pytest.raises(ValueError, match="motion_kernel: side: expected an integer >= 3"):
        motion_kernel(1)
