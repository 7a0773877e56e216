"""A unit of filters and learned radial functions: G(v) = sum_i back_i * phi_i(filters_i * v).

Source: Schmidt & Roth, Shrinkage Fields for Effective Image Restoration, CVPR 2014, whose functions are these; in
PADNet (arXiv:1711.07653) for the slopes of images.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.checks import choice, expect, flag, integer
from fastrecon.ops.rbf_unit import BOUNDARIES, STEP, rbf_unit

CENTRES = 53  # on [-260, 260] / 255


def cosines(count: int, channels: int, side: int) -> Tensor:
    """[count, channels, side, side]: the basis of cosines without its constant, lowest frequencies first, for one
    channel after the other; where it has no more, its elements again."""
    t = (torch.arange(side) + 0.5) * (math.pi / side)
    rows = torch.stack([torch.cos(k * t) for k in range(side)])
    rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    order = sorted(((i, j) for i in range(side) for j in range(side)), key=lambda k: (sum(k), k))[1:]
    filters = torch.zeros(count, channels, side, side)
    for k in range(count):
        i, j = order[k // channels % len(order)]
        filters[k, k % channels] = torch.outer(rows[i], rows[j])
    return filters


class RBFUnit(nn.Module):
    """G(v) for images v [B, C, H, W]; every filter takes all C channels, such as both directions of slopes.

    Args:
        in_channels: C.
        filters: number of them.
        side: of the filters in pixels, odd.
        centres: of every radial function, 10 / 255 apart and even about 0.
        tied: the second filters are the first, rotated by a half turn, which makes G a gradient; else they have
            parameters of their own.
        boundary: see ops.rbf_unit.

    Attributes:
        settings: the arguments.

    Raises:
        ValueError: an argument is out of range.
    """

    joins = True  # an image has its bits in any batch, on the CPU

    def __init__(
        self, in_channels: int = 1, filters: int = 24, side: int = 5, centres: int = CENTRES, tied: bool = True,
        boundary: str = "circular",
    ):  # fmt: skip
        super().__init__()
        op = "RBFUnit"
        channels, count = integer(in_channels, op, "in_channels", least=1), integer(filters, op, "filters", least=1)
        side, centres = integer(side, op, "side", least=3, most=15), integer(centres, op, "centres", least=2, most=1000)
        expect(side % 2 == 1, op, "side", "an odd number", side)
        self.boundary, tied = choice(boundary, BOUNDARIES, op, "boundary"), flag(tied, op, "tied")
        self.settings: dict[str, Any] = {
            "in_channels": channels, "filters": count, "side": side, "centres": centres, "tied": tied,
            "boundary": self.boundary,
        }  # fmt: skip
        self.filters = nn.Parameter(cosines(count, channels, side))
        self.back = None if tied else nn.Parameter(self.filters.detach().flip(-1, -2).clone())
        # phi(t) is about t / 10 within the centres, before the mean over the places of a pixel in a filter
        c = (torch.arange(centres) - (centres - 1) / 2) * STEP
        self.weights = nn.Parameter((0.04 * c).expand(count, -1).clone())

    def forward(self, v: Tensor) -> Tensor:
        """G(v) like v."""
        weights = self.weights / self.filters[0, 0].numel()
        return rbf_unit(v, self.filters, weights, self.back, boundary=self.boundary)
