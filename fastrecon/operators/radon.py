"""Computed tomography: integrals along the rays of parallel or fan beams, and filtered back-projection."""

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fastrecon import ops
from fastrecon.checks import an_integer, behind, expect, finite_number, in_kind
from fastrecon.operators._filters import FILTERS, SHARPER, filtered, view_weights
from fastrecon.operators._given import Cache
from fastrecon.operators.base import LinearOperator
from fastrecon.ops import Rays, fan_rays, parallel_rays
from fastrecon.ops.back_project import back_project
from fastrecon.ops.by_image import each_image
from fastrecon.ops.rays import check_angles, check_beam, farthest, offsets

radon, radon_adjoint = behind(ops.radon), behind(ops.radon_adjoint)

FINER = 4  # filtered projections of an arc are known at a quarter of its steps, to be interpolated between equal angles


class Radon(LinearOperator):
    """Line integrals of images: [B, C, H, W] -> [B, C, views, detectors]; `adjoint` is exact to rounding.

    The scanner turns about (row, column) `centre`: pixel (i, j) has its centre at x = (j - column) p, y = (row - i) p.
    A parallel view at angle t measures along x cos t + y sin t = s. A fan has its source at
    source_distance (sin t, -cos t) and its central ray is the parallel one; its detectors lie detector_distance behind
    the centre of rotation. Detector d of D lies at s = (d - (D-1)/2) spacing + offset, on the fan's line or arc
    likewise. These are the directions of astra's `parallel` and `fanflat`, whose angles can be taken as they are (its
    images turn about their middle); for scikit-image see `like_skimage`. Model: `fastrecon.ops.radon`.

    Args:
        size: (H, W) of the images in pixels.
        angles: of the views in radians, any; or their number, then evenly over half a turn (parallel) or a full one.
        detectors: how many; None takes the smallest odd number that sees the whole image in every view.
        spacing: of the detectors, from the middle of one to the next, in the unit of `pixel`; None takes one pixel at
            the centre of rotation.
        geometry: "parallel" or "fan".
        source_distance: from the source to the centre of rotation: outside the image. Fan only.
        detector_distance: from the centre of rotation to the detectors, >= 0. Fan only.
        curved: the fan's detectors lie on an arc around the source instead of a line.
        pixel: side of a pixel, in the unit that integrals shall have.
        centre: (row, column) that the scanner turns about, in pixels, also between them; None for the middle of the
            image, ((H-1)/2, (W-1)/2).
        offset: of the middle of the detectors from the central ray, in the unit of `pixel`.

    Raises:
        ValueError: an argument is out of range or does not fit the others, or angles want gradients.
    """

    def __init__(
        self, size: Sequence[int], angles: int | Sequence[float] | Tensor, detectors: int | None = None,
        spacing: float | None = None, geometry: Literal["parallel", "fan"] = "parallel", *,
        source_distance: float | None = None, detector_distance: float = 0.0, curved: bool = False, pixel: float = 1.0,
        centre: Sequence[float] | None = None, offset: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        op, fan = "Radon", isinstance(geometry, str) and geometry == "fan"
        expect(
            fan or (isinstance(geometry, str) and geometry == "parallel"), op, "geometry", "parallel or fan", geometry
        )
        if not fan:
            expect(curved is False, op, "curved", "False for parallel beams", curved)
            expect(source_distance is None, op, "source_distance", "None for parallel beams", source_distance)
            none = finite_number(detector_distance) and detector_distance == 0
            expect(none, op, "detector_distance", "0 for parallel beams", detector_distance)
        beam = detectors, spacing, pixel, centre, offset, fan, curved, source_distance, detector_distance
        self.centre = check_beam(op, size, *beam)
        self.size, self.geometry, self.curved, self.pixel = (int(size[0]), int(size[1])), geometry, curved, float(pixel)
        self.offset = float(offset)
        self.source_distance = float(source_distance or 0.0)
        self.detector_distance = float(detector_distance)
        self.magnification = 1 + self.detector_distance / self.source_distance if fan else 1.0
        self.spacing = float(spacing) if spacing is not None else self.pixel * self.magnification
        self.angles = self._angles(angles)
        if detectors is None:
            radius = farthest(self.size, self.centre) * self.pixel
            half = math.asin(radius / self.source_distance) if fan else 0.0
            seen = (half if curved else math.tan(half)) * self.reach if fan else radius
            detectors = 2 * math.ceil((seen + abs(self.offset)) / self.spacing) + 1
        beam = detectors, self.spacing, *beam[2:]
        check_beam(op, self.size, *beam)  # an arc of as many detectors may go too far round
        self.detectors = int(detectors)
        # Plain attributes: buffers would lose their float64 in .float()
        self.rays = self._rays(self.detectors, self.spacing)
        self._moved = Cache()  # rays on other devices
        self._known_norm: float | None = None

    @classmethod
    def like_skimage(
        cls, size: Sequence[int], theta: Sequence[float] | Tensor | None = None, circle: bool = True
    ) -> "Radon":
        """The geometry of `skimage.transform.radon(image, theta, circle)`, which gives y.T of what this gives.

        scikit-image turns about pixel N // 2, which is half a pixel from the middle where N is even. It interpolates
        the turned image, so that its numbers are about half a percent from these on a phantom.

        Args:
            size: (H, W) of the images.
            theta: angles in degrees; None for 0, 1, ..., 179.
            circle: whether images are 0 outside the circle that fits in: then there are min(H, W) detectors, and of
                an image that is not square the middle counts. Else as many as the diagonal of the longer side.

        Raises:
            ValueError: an argument is out of range.
        """
        op = "Radon.like_skimage"
        expect(isinstance(circle, bool | np.bool_), op, "circle", "True or False", circle)
        check_beam(op, size, None, None, 1.0, None, 0.0)
        degrees = torch.arange(180, dtype=torch.float64) if theta is None else check_angles(op, theta)
        count = min(size) if circle else math.ceil(math.sqrt(2) * max(size))
        before = [-(-(n - count) // 2) if circle else 0 for n in size]  # rows and columns that it leaves out
        centre = [b + (count if circle else n) // 2 for n, b in zip(size, before, strict=True)]
        middle = (count - 1) / 2 - count // 2  # its detector N // 2 sees the centre
        return cls(size, degrees.deg2rad(), count, 1.0, centre=centre, offset=middle)

    @property
    def reach(self) -> float:
        """From the source to the detectors."""
        return self.source_distance + self.detector_distance

    def _angles(self, angles: int | Sequence[float] | Tensor) -> Tensor:
        if an_integer(angles, -(2**62)) or isinstance(angles, bool):
            expect(an_integer(angles, 1), "Radon", "angles", "a number of views > 0, or their angles", angles)
            turn = 2 * math.pi if self.geometry == "fan" else math.pi
            return torch.arange(int(angles), dtype=torch.float64) * (turn / int(angles))  # type: ignore[arg-type]
        return check_angles("Radon", angles)

    def _rays(self, detectors: int, spacing: float) -> Rays:
        place: Any = {"centre": self.centre, "offset": self.offset}
        if self.geometry == "parallel":
            return parallel_rays(self.size, self.angles, detectors, spacing, self.pixel, **place)
        distances = self.source_distance, self.detector_distance
        return fan_rays(self.size, self.angles, detectors, spacing, *distances, self.curved, self.pixel, **place)

    def _rays_on(self, device: torch.device) -> Rays:
        rays = self.rays
        if rays.lines.device != device:
            moved = self._moved.get(device)
            if moved is None:
                with torch.inference_mode(False):
                    moved = rays.to(device)
                self._moved.put(device, moved)
            self.rays = rays = moved
        return rays

    def forward(self, x: Tensor) -> Tensor:
        """The integrals along all rays."""
        _check("x", x, self.size)
        return radon(x, self._rays_on(x.device))

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """The back-projection without a filter."""
        _check("y", y, (len(self.angles), self.detectors))
        expect(size is None or tuple(size) == self.size, "Radon", "size", f"{self.size} or None", size)
        return radon_adjoint(y, self._rays_on(y.device))

    def output_size(self, size: Sequence[int] | None) -> Sequence[int]:
        """(views, detectors)."""
        return len(self.angles), self.detectors

    def input_size(self, size: Sequence[int] | None = None) -> Sequence[int]:
        """(H, W)."""
        return self.size

    def _norm(self) -> float:
        """By power iteration, once; a constant image is near the answer, since all weights are >= 0."""
        if self._known_norm is None:
            x, estimate = torch.ones(1, 1, *self.size, dtype=torch.float64, device=self.rays.lines.device), 0.0
            for _ in range(1000):
                x = self.apply_adjoint(self.forward(x / torch.linalg.vector_norm(x).clamp_min(1e-300)))
                previous, estimate = estimate, torch.linalg.vector_norm(x).item() ** 0.5
                if abs(estimate - previous) <= 1e-7 * estimate:
                    break
            self._known_norm = estimate
        return self._known_norm

    def _noise(self, shape: Sequence[int], seed: int = 0) -> Tensor:
        x = super()._noise(shape, seed)
        return x.to(self.rays.lines.device)

    def fbp(self, y: Any, filter: str = "ramp") -> Any:
        """Filtered back-projection: an image whose integrals are about y, to start iterations from.

        Views must cover half a turn (parallel) or a full turn (fan), evenly or not, and each must see the whole image,
        also where `offset` moves the detectors aside. Source: Kak & Slaney, Principles of
        Computerized Tomographic Imaging (1988), eq. (3.21), (3.60), (3.103).

        Args:
            y: [B, C, views, detectors], float32 or float64, or an array with `__dlpack__`.
            filter: "ramp", or with a window against noise: "shepp-logan", "cosine", "hamming", "hann".

        Returns:
            x [B, C, H, W] like y.

        Raises:
            ValueError: y does not fit the geometry, or there is no such filter.
        """
        known = isinstance(filter, str) and filter in FILTERS
        expect(known, "Radon.fbp", "filter", f"one of {', '.join(FILTERS)}", filter)
        return in_kind(y, lambda t: self._fbp(t, filter), "Radon.fbp", "y")

    def _fbp(self, y: Tensor, window: str) -> Tensor:
        _check("y", y, (len(self.angles), self.detectors))
        if y.numel() == 0:
            return self.apply_adjoint(y)  # as empty
        weights = view_weights(self.angles, math.pi if self.geometry == "parallel" else 2 * math.pi).to(y)[:, None]
        if self.geometry == "parallel":
            q = each_image(lambda t: filtered(t, self.spacing, window, 1, sharper=self._sharper(self.spacing)), y)
            return back_project(weights * q, self._places, self.size)
        w = offsets(self.detectors, self.spacing, self.offset)
        # on an arc steps are angles, on a line lengths at the centre of rotation
        step, gamma = (
            (self.spacing / self.reach, w / self.reach)
            if self.curved
            else (self.spacing / self.magnification, torch.atan(w / self.reach))
        )
        kind = (FINER, True, 0.0) if self.curved else (1, False, self._sharper(self.spacing / self.magnification))
        q = each_image(lambda t: filtered(t, step, window, *kind), y * gamma.cos().to(y))
        q = q * (weights / 2 * self.source_distance ** (1 if self.curved else 2))
        if self.curved:
            q = _on_line(q, gamma, step)
        return back_project(q, self._places, self.size, fan=True, curved=self.curved)

    def _sharper(self, step: float) -> float:
        """What makes up for interpolation between samples `step` apart at the centre of rotation: little where it loses
        frequencies that pixels do not show, more where samples are further apart than pixels."""
        return max(SHARPER, 1 - self.pixel / step)

    @functools.cached_property
    def _places(self) -> Tensor:
        """Where the views see pixels: the numbers [views, 8] of `ops.back_project`."""
        t, (row, column), p = self.angles, self.centre, self.pixel
        cos, sin, zero = t.cos(), t.sin(), torch.zeros_like(t)
        across = [(row * sin - column * cos) * p, -sin * p, cos * p]
        middle = (self.detectors - 1) / 2 - self.offset / self.spacing
        if self.geometry == "parallel":
            across = [v / self.spacing for v in across]
            return torch.stack([across[0] + middle, *across[1:], zero, zero, zero, zero, zero], 1)
        depth = [self.source_distance + (row * cos + column * sin) * p, -cos * p, -sin * p]
        first, slope = middle, self.reach / self.spacing
        if self.curved:
            first = -math.tan((self.offset - (self.detectors - 1) / 2 * self.spacing) / self.reach) * slope
        return torch.stack([*across, *depth, zero + first, zero + slope], 1)


def _on_line(q: Tensor, gamma: Tensor, step: float) -> Tensor:
    """Projections [..., FINER (D - 1) + 1] of equal angles as those at equal tangents, `step` apart from the first."""
    first, last = math.tan(gamma[0]), math.tan(gamma[-1])
    tangents = first + torch.arange(math.ceil((last - first) / step - 1e-9) + 1, dtype=torch.float64) * step
    place = ((torch.atan(tangents) - gamma[0]) * (FINER / step)).clamp(0, q.shape[-1] - 1)
    cell = place.floor().clamp_max(max(q.shape[-1] - 2, 0)).long()
    f, right = (place - cell).to(q), q[..., (cell + 1).clamp_max(q.shape[-1] - 1).to(q.device)]
    return torch.lerp(q[..., cell.to(q.device)], right, f)


def _check(argument: str, t: Tensor, shape: tuple[int, int]) -> None:
    fits = t.ndim == 4 and tuple(t.shape[2:]) == shape and t.dtype in (torch.float32, torch.float64)
    expect(fits, "Radon", argument, f"float32 or float64 [B, C, {shape[0]}, {shape[1]}]", t)
