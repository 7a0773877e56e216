"""Rays through an image, for parallel and fan beams, in the form that the projectors step along.

Pixel (i, j) of an image of H x W pixels has its centre at x = (j - (W-1)/2) p, y = ((H-1)/2 - i) p, p the pixel's side.
A ray at less than 45 degrees from the vertical crosses row i at column `start + slope i`, any other crosses column j at
row `start + slope j`: |slope| <= 1. Starts and slopes are multiples of 2^-32 pixel, so that positions are exact in
float64 and every implementation finds the same pixels and weights, in both directions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

GRID = 2.0**32  # steps of positions in a pixel: up to 2^20 pixels from the image a position has at most 53 bits
FAR = 2.0**20


class Rays(NamedTuple):
    """A views of D rays through images of `size` (H, W) pixels.

    lines: float64 [3, A, D], start and slope in pixels, and the ray's length per row or column it crosses.
    axis: int8 [A, D], 1 for rays that step over rows, 2 over columns; negative where positions fall from ray to ray.
    """

    lines: Tensor
    axis: Tensor
    size: tuple[int, int]

    def to(self, device: torch.device) -> "Rays":
        """The same rays on `device`."""
        return Rays(self.lines.to(device), self.axis.to(device), self.size)

    def views(self, some: slice) -> "Rays":
        """The rays of some views."""
        return Rays(self.lines[:, some].contiguous(), self.axis[some].contiguous(), self.size)


def trace(x: Tensor, y: Tensor, along_x: Tensor, along_y: Tensor, size: Sequence[int], pixel: float) -> Rays:
    """The rays through points (x, y) in direction (along_x, along_y), each [A, D] float64, in the unit of `pixel`.

    Neighbouring rays of a view must not cross within the image, and x sin - y cos of the direction must fall or rise
    from ray to ray as it does for detectors on the right of a source that looks up.
    """
    height, width = size
    rows = along_y.abs() >= along_x.abs()
    across, along = torch.where(rows, along_x, along_y), torch.where(rows, along_y, along_x)
    ratio = across / along
    first_x, first_y = -(width - 1) / 2 * pixel, (height - 1) / 2 * pixel  # centre of pixel (0, 0)
    column = (x + (first_y - y) * ratio - first_x) / pixel  # at row 0
    row = (first_y - y - (first_x - x) * ratio) / pixel  # at column 0
    start = torch.where(rows, column, row).mul(GRID).round().div(GRID).clamp(-FAR, FAR)
    slope = -(ratio.mul(GRID).round() / GRID)  # y falls with i
    length = pixel * torch.hypot(across, along) / along.abs()
    axis = torch.where(rows, 1, 2) * torch.where(along > 0, 1, -1)
    return Rays(torch.stack((start, slope, length)), axis.to(torch.int8), (height, width))


def offsets(count: int, spacing: float) -> Tensor:
    """Positions [count] of detectors `spacing` apart, centred at 0, float64."""
    return (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * spacing


def parallel_rays(size: Sequence[int], angles: Tensor, detectors: int, spacing: float, pixel: float = 1.0) -> Rays:
    """Parallel beams: ray d of the view at angle t is x cos t + y sin t = (d - (D-1)/2) spacing."""
    t, s = angles.double()[:, None], offsets(detectors, spacing)
    cos, sin = (f(t).expand(-1, detectors) for f in (torch.cos, torch.sin))
    return trace(s * cos, s * sin, -sin, cos, size, pixel)


def fan_rays(
    size: Sequence[int], angles: Tensor, detectors: int, spacing: float, source_distance: float,
    detector_distance: float, curved: bool = False, pixel: float = 1.0,
) -> Rays:  # fmt: skip
    """Fan beams from the source at source_distance (sin t, -cos t); the central ray is the parallel one at angle t.

    Detectors lie `spacing` apart, detector_distance behind the centre of rotation, on a line or (`curved`) on an arc
    around the source, ordered like those of a parallel beam.
    """
    t = angles.double()[:, None]
    cos, sin = torch.cos(t), torch.sin(t)
    reach = source_distance + detector_distance
    w = offsets(detectors, spacing)
    forth, aside = (torch.cos(w / reach), torch.sin(w / reach)) if curved else (torch.full_like(w, reach), w)
    source = source_distance * torch.stack((sin, -cos))
    x, y = (c.expand(-1, detectors) for c in source)
    return trace(x, y, aside * cos - forth * sin, aside * sin + forth * cos, size, pixel)
