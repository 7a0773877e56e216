"""Filters over square windows: least, largest and mean values, closing, the guided filter. Windows end at the border.

Source of the last: He, Sun & Tang, Guided Image Filtering, IEEE Trans. Pattern Anal. Mach. Intell. 35 (2013).
"""

import torch
from torch import Tensor


def largest(x: Tensor, side: int) -> Tensor:
    """The largest value of each side x side window of x [B, C, H, W], real, `side` odd; like x.

    Windows of 2, 4, 8, ... pixels from two of half the size: about 2 log2(side) passes.
    """
    for dim in (-2, -1):
        around = list(x.shape)
        around[dim] = side // 2
        border = x.new_full(around, -torch.inf)
        x, reach = torch.cat((border, x, border), dim), 1
        while reach < side:
            step = min(reach, side - reach)
            n = x.shape[dim] - step
            x, reach = torch.maximum(x.narrow(dim, 0, n), x.narrow(dim, step, n)), reach + step
    return x


def least(x: Tensor, side: int) -> Tensor:
    """The least value of each window; see `largest`."""
    return -largest(-x, side)


def closing(x: Tensor, side: int) -> Tensor:
    """The morphological closing of grey values x: dark spots that no window fits into are filled up."""
    return least(largest(x, side), side)


def mean(x: Tensor, radius: int) -> Tensor:
    """The mean of each window of side 2 radius + 1, in time that does not depend on it; float64, like x [B, C, H, W].

    Sums of windows are differences of cumulative sums, which float64 keeps to rounding.
    """
    total, count = x.double(), torch.ones((), dtype=torch.float64, device=x.device)
    for dim in (-2, -1):
        n = x.shape[dim]
        sums = torch.cat((torch.zeros_like(total.narrow(dim, 0, 1)), total.cumsum(dim)), dim)
        at = torch.arange(n, device=x.device)
        low, high = (at - radius).clamp_min(0), (at + radius + 1).clamp_max(n)
        total = sums.index_select(dim, high) - sums.index_select(dim, low)
        size = (high - low).double()
        count = count * (size[:, None] if dim == -2 else size)
    return total / count


def guided(x: Tensor, guide: Tensor, radius: int, eps: float) -> Tensor:
    """The guided filter: x where it is linear in the guide in each window, with ridge eps; like x.

    Args:
        x: [B, C, H, W].
        guide: [B, 1, H, W], on [0, 1].
        radius: of the windows in pixels, >= 0.
        eps: > 0, in squares of the guide's unit.
    """
    g, x64 = guide.double(), x.double()
    centre, height = mean(g, radius), mean(x64, radius)
    slope = (mean(g * x64, radius) - centre * height) / ((mean(g * g, radius) - centre * centre).clamp_min(0) + eps)
    return (mean(slope, radius) * g + mean(height - slope * centre, radius)).to(x)
