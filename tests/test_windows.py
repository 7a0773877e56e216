"""Filters over windows, against what they are by definition."""

import pytest
import torch
from torch.nn.functional import avg_pool2d, max_pool2d

from fastrecon.solvers import windows

SIZES = [(1, 1), (5, 9), (16, 3), (31, 40)]


def random(size, channels=2, dtype=torch.float64):
    return torch.randn(2, channels, *size, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("side", [1, 3, 7, 15])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_largest_and_least(size, side):
    x = random(size)
    assert torch.equal(windows.largest(x, side), max_pool2d(x, side, 1, side // 2))
    assert torch.equal(windows.least(x, side), -max_pool2d(-x, side, 1, side // 2))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_closing_fills_dark_spots_and_nothing_else(size):
    x = random(size)
    closed = windows.closing(x, 3)
    assert (closed >= x).all()
    torch.testing.assert_close(windows.closing(closed, 3), closed, rtol=0, atol=0)
    ndimage = pytest.importorskip("scipy.ndimage")
    if min(size) > 2:  # beyond the border SciPy mirrors
        theirs = torch.from_numpy(ndimage.grey_closing(x[0, 0].numpy(), size=(3, 3)))
        torch.testing.assert_close(closed[0, 0, 1:-1, 1:-1], theirs[1:-1, 1:-1], rtol=0, atol=0)


@pytest.mark.parametrize("radius", [0, 1, 4, 60])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_mean_of_what_is_inside(size, radius):
    x = random(size)
    side, reach = 2 * radius + 1, max(size)
    if radius <= reach:
        expected = avg_pool2d(x, side, 1, radius, count_include_pad=False)
    else:
        expected = x.mean((-2, -1), keepdim=True).expand_as(x)
    torch.testing.assert_close(windows.mean(x, radius), expected)


def test_guided_filter_keeps_what_is_linear_in_the_guide():
    guide = random((20, 30), 1)
    x = 3 * guide - 1
    torch.testing.assert_close(windows.guided(x, guide, 4, 1e-12), x, rtol=0, atol=1e-8)
    flat = windows.guided(x, torch.ones_like(guide), 4, 1e-3)  # a guide that says nothing: means of means
    torch.testing.assert_close(flat, windows.mean(windows.mean(x, 4), 4))


def test_guided_filter_solves_its_ridge_regressions():
    x, guide, r, eps = random((9, 11), 1)[:1], random((9, 11), 1)[1:], 2, 0.1
    a, b = torch.zeros(9, 11, dtype=torch.float64), torch.zeros(9, 11, dtype=torch.float64)
    for i in range(9):
        for j in range(11):
            part = slice(max(i - r, 0), i + r + 1), slice(max(j - r, 0), j + r + 1)
            g, v = guide[0, 0][part].flatten(), x[0, 0][part].flatten()
            a[i, j] = ((g * v).mean() - g.mean() * v.mean()) / (g.var(unbiased=False) + eps)
            b[i, j] = v.mean() - a[i, j] * g.mean()
    expected = windows.mean(a[None, None], r) * guide + windows.mean(b[None, None], r)
    torch.testing.assert_close(windows.guided(x, guide, r, eps), expected)
    single = windows.guided(x.float(), guide.float(), r, eps)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-5)
