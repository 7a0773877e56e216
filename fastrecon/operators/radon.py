"""Computed tomography: integrals along the rays of parallel or fan beams, and filtered back-projection."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.operators.base import LinearOperator, through
from fastrecon.operators.filters import FILTERS, filtered, view_weights
from fastrecon.ops import Rays, fan_rays, parallel_rays, radon, radon_adjoint
from fastrecon.ops.rays import offsets

FINER = (
    4  # filtered projections are back-projected at a quarter of the spacing: Joseph's weights then add up to 1 +- 1%
)


class Radon(LinearOperator):
    """Line integrals of images: [B, C, H, W] -> [B, C, views, detectors]; `adjoint` is exact to rounding.

    Pixel (i, j) has its centre at x = (j - (W-1)/2) p, y = ((H-1)/2 - i) p. A parallel view at angle t measures along
    x cos t + y sin t = s. A fan has its source at source_distance (sin t, -cos t) and its central ray is the parallel
    one; its detectors lie detector_distance behind the centre of rotation. Model: `fastrecon.ops.radon`.

    Args:
        size: (H, W) of the images in pixels.
        angles: of the views in radians, any; or their number, then evenly over half a turn (parallel) or a full one.
        detectors: how many; None takes the smallest odd number that sees the whole image in every view.
        spacing: of the detectors, in the unit of `pixel`; None takes one pixel at the centre of rotation.
        geometry: "parallel" or "fan".
        source_distance: from the source to the centre of rotation: outside the image. Fan only.
        detector_distance: from the centre of rotation to the detectors, >= 0. Fan only.
        curved: the fan's detectors lie on an arc around the source instead of a line.
        pixel: side of a pixel, in the unit that integrals shall have.

    Raises:
        ValueError: an argument is out of range or does not fit the others.
    """

    def __init__(
        self, size: Sequence[int], angles: int | Sequence[float] | Tensor, detectors: int | None = None,
        spacing: float | None = None, geometry: Literal["parallel", "fan"] = "parallel", *,
        source_distance: float | None = None, detector_distance: float = 0.0, curved: bool = False, pixel: float = 1.0,
    ):  # fmt: skip
        super().__init__()
        op, fan = "Radon", geometry == "fan"
        expect(len(size) == 2 and min(size) > 0, op, "size", "(H, W), both > 0", tuple(size))
        expect(geometry in ("parallel", "fan"), op, "geometry", "parallel or fan", geometry)
        expect(pixel > 0, op, "pixel", "a length > 0", pixel)
        expect(fan or not curved, op, "curved", "False for parallel beams", curved)
        radius = math.hypot(*size) / 2 * pixel
        if fan:
            outside = source_distance is not None and source_distance > radius
            expect(outside, op, "source_distance", f"more than {radius:.6g}, outside the image", source_distance)
            expect(detector_distance >= 0, op, "detector_distance", "a length >= 0", detector_distance)
        else:
            expect(source_distance is None, op, "source_distance", "None for parallel beams", source_distance)
        self.size, self.geometry, self.curved, self.pixel = (size[0], size[1]), geometry, curved, float(pixel)
        self.source_distance = float(source_distance or 0.0)
        self.detector_distance = float(detector_distance)
        self.magnification = 1 + self.detector_distance / self.source_distance if fan else 1.0
        self.spacing = float(spacing) if spacing is not None else pixel * self.magnification
        expect(self.spacing > 0, op, "spacing", "a length > 0", spacing)
        self.angles = self._angles(angles)
        if detectors is None:
            half = math.asin(radius / self.source_distance) if fan else 0.0
            seen = (half if curved else math.tan(half)) * self.reach if fan else radius
            detectors = 2 * math.ceil(seen / self.spacing) + 1
        expect(detectors > 0, op, "detectors", "a number > 0", detectors)
        self.detectors = detectors
        aperture = math.degrees((detectors - 1) * self.spacing / self.reach) if curved else 0.0
        expect(aperture < 180, op, "detectors", "an arc of less than 180 degrees", f"{aperture:.6g} degrees")
        # Plain attributes: buffers would lose their float64 in .float()
        self.rays = self._rays(detectors, self.spacing)
        self._known_norm: float | None = None

    @property
    def reach(self) -> float:
        """From the source to the detectors."""
        return self.source_distance + self.detector_distance

    def _angles(self, angles: int | Sequence[float] | Tensor) -> Tensor:
        if isinstance(angles, int | np.integer):
            expect(angles > 0, "Radon", "angles", "a number of views > 0, or their angles", angles)
            turn = 2 * math.pi if self.geometry == "fan" else math.pi
            return torch.arange(int(angles), dtype=torch.float64) * (turn / int(angles))
        t = torch.as_tensor(angles, dtype=torch.float64).cpu()
        expect(t.ndim == 1 and len(t) > 0, "Radon", "angles", "at least one angle, in one dimension", tuple(t.shape))
        expect(bool(t.isfinite().all()), "Radon", "angles", "finite numbers", "nan or inf")
        return t

    def _rays(self, detectors: int, spacing: float) -> Rays:
        if self.geometry == "parallel":
            return parallel_rays(self.size, self.angles, detectors, spacing, self.pixel)
        distances = self.source_distance, self.detector_distance
        return fan_rays(self.size, self.angles, detectors, spacing, *distances, self.curved, self.pixel)

    def _rays_on(self, device: torch.device) -> Rays:
        if self.rays.lines.device != device:
            self.rays = self.rays.to(device)
        return self.rays

    def _forward(self, x: Tensor) -> Tensor:
        _check("x", x, self.size)
        return radon(x, self._rays_on(x.device))

    def _adjoint(self, y: Tensor, size: Sequence[int] | None) -> Tensor:
        _check("y", y, (len(self.angles), self.detectors))
        expect(size is None or tuple(size) == self.size, "Radon", "size", f"{self.size} or None", size)
        return radon_adjoint(y, self._rays_on(y.device))

    def output_size(self, size: Sequence[int] | None) -> Sequence[int]:
        """(views, detectors)."""
        return len(self.angles), self.detectors

    def _norm(self) -> float:
        """By power iteration, once; a constant image is near the answer, since all weights are >= 0."""
        if self._known_norm is None:
            x, estimate = torch.ones(1, 1, *self.size, dtype=torch.float64, device=self.rays.lines.device), 0.0
            for _ in range(1000):
                x = self.adjoint(self(x / torch.linalg.vector_norm(x).clamp_min(1e-300)))
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

        Views must cover half a turn (parallel) or a full turn (fan), evenly or not. Source: Kak & Slaney, Principles of
        Computerized Tomographic Imaging (1988), eq. (3.21), (3.60), (3.103).

        Args:
            y: [B, C, views, detectors], float32 or float64, or an array with `__dlpack__`.
            filter: "ramp", or with a window against noise: "shepp-logan", "cosine", "hamming", "hann".

        Returns:
            x [B, C, H, W] like y.

        Raises:
            ValueError: y does not fit the geometry, or there is no such filter.
        """
        expect(filter in FILTERS, "Radon.fbp", "filter", f"one of {', '.join(FILTERS)}", filter)
        return through(y, lambda t: self._fbp(t, filter))

    def _fbp(self, y: Tensor, window: str) -> Tensor:
        _check("y", y, (len(self.angles), self.detectors))
        weights = view_weights(self.angles, math.pi if self.geometry == "parallel" else 2 * math.pi).to(y)[:, None]
        rays = self._rays(FINER * (self.detectors - 1) + 1, self.spacing / FINER).to(y.device)
        if self.geometry == "parallel":
            q = filtered(y, self.spacing, window, FINER)
            return radon_adjoint(weights * q, rays) * (self.spacing / FINER / self.pixel**2)
        w, fine = offsets(self.detectors, self.spacing), offsets(rays.axis.shape[1], self.spacing / FINER)
        if self.curved:  # steps are angles
            step, gamma, along = self.spacing / self.reach, w / self.reach, torch.ones_like(fine)
        else:  # steps are lengths at the centre of rotation
            step, gamma = self.spacing / self.magnification, torch.atan(w / self.reach)
            along = torch.cos(torch.atan(fine / self.reach))
        q = filtered(y * gamma.cos().to(y), step, window, FINER, on_arc=self.curved) * along.to(y) * (weights / 2)
        x = y.new_zeros(*y.shape[:2], *self.size)
        for view, t in enumerate(self.angles.tolist()):  # weights depend on pixel and view: one view at a time
            x += radon_adjoint(q[:, :, view : view + 1], rays.views(slice(view, view + 1))) * self._nearness(t, x)
        return x * (step / FINER / self.pixel**2)

    def _nearness(self, t: float, like: Tensor) -> Tensor:
        """source_distance / distance [H, W] of the pixels from the source at angle t: along the central ray, or on an
        arc as the crow flies."""
        x, y = (offsets(n, self.pixel).to(like) for n in (self.size[1], self.size[0]))
        y = -y[:, None]
        depth = self.source_distance - x * math.sin(t) + y * math.cos(t)
        if self.curved:
            depth = torch.hypot(depth, x * math.cos(t) + y * math.sin(t))
        return self.source_distance / depth


def _check(argument: str, t: Tensor, shape: tuple[int, int]) -> None:
    fits = t.ndim == 4 and tuple(t.shape[2:]) == shape and t.dtype in (torch.float32, torch.float64)
    expect(fits, "Radon", argument, f"float32 or float64 [B, C, {shape[0]}, {shape[1]}]", t)
