"""Rays through an image, for parallel and fan beams, in the form that the projectors step along.

The scanner turns about row and column `centre` of the image, which is its middle ((H-1)/2, (W-1)/2) unless said
otherwise: pixel (i, j) has its centre at x = (j - column) p, y = (row - i) p, p the pixel's side. Detector d of D lies
at (d - (D-1)/2) spacing + offset on its line or arc.

A ray at less than 45 degrees from the vertical crosses row i at column `start + slope i`, any other crosses column j at
row `start + slope j`: |slope| <= 1. Starts and slopes are multiples of 2^-32 pixel, so that positions are exact in
float64 and every implementation finds the same pixels and weights, in both directions.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastrecon.checks import an_integer, expect, finite_number
from fastrecon.ops.function import differentiated

GRID = 2.0**32  # steps of positions in a pixel: up to 2^20 pixels from the image a position has at most 53 bits
FAR = 2.0**20
FARTHEST = 2.0**30  # pixels from a source: a ray's place in the image is a difference of such lengths in float64


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


def check_beam(
    op: str, size: Any, detectors: Any, spacing: Any, pixel: Any, centre: Any, offset: Any, fan: bool = False,
    curved: Any = False, source_distance: Any = None, detector_distance: Any = 0.0,
) -> tuple[float, float]:  # fmt: skip
    """The centre (row, column) of a geometry that is one; `detectors` and `spacing` may be None.

    Raises:
        ValueError: an argument is out of range or does not fit the others.
    """
    pair = isinstance(size, Sequence) and len(size) == 2 and all(an_integer(n, -(2**62)) for n in size)
    expect(pair, op, "size", "(H, W), two integers", size)
    expect(min(size) > 0, op, "size", "(H, W), both > 0", tuple(size))
    expect(max(size) <= FAR, op, "size", f"(H, W), both at most {FAR:.0f}", tuple(size))
    expect(finite_number(pixel) and pixel > 0, op, "pixel", "a length > 0", pixel)
    whole = detectors is None or an_integer(detectors, -(2**62))
    expect(whole and (detectors is None or 0 < detectors <= FAR), op, "detectors", "a number > 0", detectors)
    expect(spacing is None or (finite_number(spacing) and spacing > 0), op, "spacing", "a length > 0", spacing)
    expect(finite_number(offset), op, "offset", "a length", offset)
    expect(isinstance(curved, bool | np.bool_), op, "curved", "True or False", curved)
    if centre is None:
        centre = (size[0] - 1) / 2, (size[1] - 1) / 2
    fits = isinstance(centre, Sequence | np.ndarray) and len(centre) == 2 and all(map(finite_number, centre))
    expect(fits and max(abs(c) for c in centre) <= FAR, op, "centre", "(row, column) in pixels", centre)
    centre = float(centre[0]), float(centre[1])
    if fan:
        far = finite_number(source_distance) and farthest(size, centre) * pixel < source_distance <= FARTHEST * pixel
        least = f"more than {farthest(size, centre) * pixel:.6g}, outside the image, and at most {FARTHEST:.2g} pixels"
        expect(far, op, "source_distance", least, source_distance)
        behind = finite_number(detector_distance) and 0 <= detector_distance <= FARTHEST * pixel
        expect(behind, op, "detector_distance", "a length >= 0", detector_distance)
        if curved and detectors is not None and spacing is not None:
            half = ((detectors - 1) / 2 * spacing + abs(offset)) / (source_distance + detector_distance)
            got = f"{math.degrees(2 * half):.6g} degrees"
            expect(half < math.pi / 2, op, "detectors", "an arc of less than 180 degrees", got)
    return centre


def farthest(size: Sequence[int], centre: Sequence[float]) -> float:
    """Pixels from (row, column) `centre` to the farthest corner of the image."""
    return math.hypot(*(max(c + 0.5, n - 0.5 - c) for n, c in zip(size, centre, strict=True)))


def check_angles(op: str, angles: Any) -> Tensor:
    """Angles [A] of views as float64 on the CPU, a copy.

    Raises:
        ValueError: they are none, or not finite, or want gradients, which views have not.
    """
    expected = "at least one angle, in one dimension"
    expect(not isinstance(angles, np.ma.MaskedArray), op, "angles", expected, "a masked array")
    try:
        t = torch.as_tensor(np.array(angles) if isinstance(angles, np.ndarray) else angles)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        expect(False, op, "angles", expected, f"a {type(angles).__name__} that is no array of numbers")
        raise
    expect(t.ndim == 1 and len(t) > 0, op, "angles", expected, tuple(t.shape))
    expect(not t.is_complex() and t.dtype != torch.bool, op, "angles", "real numbers", t.dtype)
    wanted = t.requires_grad or differentiated(t)
    expect(not wanted, op, "angles", "angles that want no gradient: views have none", "requires_grad or a tangent")
    t = t.detach().to("cpu", torch.float64, copy=True)
    expect(bool(t.isfinite().all()), op, "angles", "finite numbers", "nan or inf")
    return t


def trace(
    x: Tensor, y: Tensor, along_x: Tensor, along_y: Tensor, size: Sequence[int], pixel: float, centre: Sequence[float]
) -> Rays:
    """The rays through points (x, y) in direction (along_x, along_y), each [A, D] float64, in the unit of `pixel`.

    Neighbouring rays of a view must not cross within the image, and x sin - y cos of the direction must fall or rise
    from ray to ray as it does for detectors on the right of a source that looks up.
    """
    height, width = size
    rows = along_y.abs() >= along_x.abs()
    across, along = torch.where(rows, along_x, along_y), torch.where(rows, along_y, along_x)
    ratio = across / along
    first_x, first_y = -centre[1] * pixel, centre[0] * pixel  # centre of pixel (0, 0)
    column = (x + (first_y - y) * ratio - first_x) / pixel  # at row 0
    row = (first_y - y - (first_x - x) * ratio) / pixel  # at column 0
    start = torch.where(rows, column, row).mul(GRID).round().div(GRID).clamp(-FAR, FAR)
    slope = -(ratio.mul(GRID).round() / GRID)  # y falls with i
    length = pixel * torch.hypot(across, along) / along.abs()
    axis = torch.where(rows, 1, 2) * torch.where(along > 0, 1, -1)
    return Rays(torch.stack((start, slope, length)), axis.to(torch.int8), (height, width))


def offsets(count: int, spacing: float, offset: float = 0.0) -> Tensor:
    """Positions [count] of detectors `spacing` apart, their middle at `offset`, float64."""
    return (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * spacing + offset


def _given(op: str, detectors: Any, spacing: Any) -> None:
    expect(detectors is not None, op, "detectors", "a number > 0", None)
    expect(spacing is not None, op, "spacing", "a length > 0", None)


def parallel_rays(
    size: Sequence[int], angles: Any, detectors: int, spacing: float, pixel: float = 1.0, *,
    centre: Sequence[float] | None = None, offset: float = 0.0,
) -> Rays:  # fmt: skip
    """Parallel beams: ray d of the view at angle t is x cos t + y sin t = (d - (D-1)/2) spacing + offset.

    Args:
        size: (H, W) of the image in pixels.
        angles: of the views in radians, [A].
        detectors: D.
        spacing: of the detectors, in the unit of `pixel`.
        pixel: side of a pixel.
        centre: (row, column) that the scanner turns about, in pixels; None for the middle of the image.
        offset: by which the middle of the detectors is away from where the centre casts its shadow.

    Raises:
        ValueError: an argument is out of range.
    """
    _given("parallel_rays", detectors, spacing)
    centre = check_beam("parallel_rays", size, detectors, spacing, pixel, centre, offset)
    with torch.inference_mode(False):  # gradients of images are taken along these rays later
        t, s = check_angles("parallel_rays", angles)[:, None], offsets(detectors, spacing, offset)
        cos, sin = (f(t).expand(-1, detectors) for f in (torch.cos, torch.sin))
        return trace(s * cos, s * sin, -sin, cos, size, pixel, centre)


def fan_rays(
    size: Sequence[int], angles: Any, detectors: int, spacing: float, source_distance: float,
    detector_distance: float, curved: bool = False, pixel: float = 1.0, *,
    centre: Sequence[float] | None = None, offset: float = 0.0,
) -> Rays:  # fmt: skip
    """Fan beams from the source at source_distance (sin t, -cos t); the central ray is the parallel one at angle t.

    Detectors lie `spacing` apart, detector_distance behind the centre of rotation, on a line or (`curved`) on an arc
    around the source, ordered like those of a parallel beam.

    Args:
        size, angles, detectors, spacing, pixel, centre: as for `parallel_rays`.
        source_distance: from the source to the centre of rotation: outside the image.
        detector_distance: from the centre of rotation to the detectors, >= 0.
        curved: whether the detectors lie on an arc.
        offset: by which the middle of the detectors is away from the central ray, along their line or arc.

    Raises:
        ValueError: an argument is out of range or does not fit the others.
    """
    op = "fan_rays"
    _given(op, detectors, spacing)
    beam = size, detectors, spacing, pixel, centre, offset, True, curved, source_distance, detector_distance
    centre = check_beam(op, *beam)
    with torch.inference_mode(False):
        t = check_angles(op, angles)[:, None]
        cos, sin = torch.cos(t), torch.sin(t)
        reach = source_distance + detector_distance
        w = offsets(detectors, spacing, offset)
        forth, aside = (torch.cos(w / reach), torch.sin(w / reach)) if curved else (torch.full_like(w, reach), w)
        source = source_distance * torch.stack((sin, -cos))
        x, y = (c.expand(-1, detectors) for c in source)
        return trace(x, y, aside * cos - forth * sin, aside * sin + forth * cos, size, pixel, centre)
