"""The geometry of a scan, as numbers that a file can hold, and what a sinogram tells of it."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.operators import Radon
from fastrecon.problems.base import Fact, Measurement

FEW_VIEWS, STEADY = 5, 0.25  # views, detectors: centres of mass that lie so near to a sine tell where it turns
AIR = 0.9  # of the largest numbers: line integrals beside the object are below


@dataclass(frozen=True)
class Scan:
    """Parallel or fan beams through images of `size` pixels, as of operators.Radon, all lengths in pixels.

    Attributes:
        size: (H, W).
        angles: of the views in radians.
        detectors: how many.
        spacing: of the detectors.
        geometry: parallel or fan.
        source: from it to the centre of rotation, 0 for parallel beams.
        behind: from the centre of rotation to the detectors.
        curved: whether the detectors lie on an arc.
        centre: (row, column) of rotation.
        offset: of the middle of the detectors from the central ray.
    """

    size: tuple[int, int]
    angles: tuple[float, ...]
    detectors: int
    spacing: float
    geometry: str
    source: float
    behind: float
    curved: bool
    centre: tuple[float, float]
    offset: float

    @classmethod
    def like(cls, radon: Radon) -> "Scan":
        """Of an operator whose pixel has side 1."""
        return cls(
            radon.size, tuple(radon.angles.tolist()), radon.detectors, radon.spacing, radon.geometry,
            radon.source_distance, radon.detector_distance, radon.curved, radon.centre, radon.offset,
        )  # fmt: skip

    @classmethod
    def of(cls, m: Measurement) -> "Scan":
        """Among the facts of measurements."""
        number = m.number
        return cls(
            m.size, tuple(m.tensor("angles").tolist()), m.y.shape[-1], number("spacing"), m.text("geometry"),
            number("source"), number("behind"), bool(m.facts["curved"]), (number("row"), number("column")),
            number("offset"),
        )  # fmt: skip

    def facts(self) -> dict[str, Fact]:
        """For measurements."""
        return {
            "angles": torch.tensor(self.angles, dtype=torch.float64), "spacing": self.spacing,
            "geometry": self.geometry, "source": self.source, "behind": self.behind, "curved": self.curved,
            "row": self.centre[0], "column": self.centre[1], "offset": self.offset,
        }  # fmt: skip

    def radon(self, pixel: float = 1.0) -> Radon:
        """The operator, with integrals in the unit in which a pixel has side `pixel`."""
        return _radon(self, pixel)

    def seen(self) -> Tensor:
        """Which pixels all views see whatever their angle, [H, W] bool: those within a circle."""
        half = self.detectors / 2 * self.spacing - abs(self.offset)  # to the edge of the last detector
        radius = half
        if self.geometry == "fan":
            reach = self.source + self.behind
            radius = self.source * math.sin(half / reach if self.curved else math.atan(half / reach))
        row, column = (torch.arange(n) - c for n, c in zip(self.size, self.centre, strict=True))
        return torch.hypot(row[:, None], column) <= radius

    def unit(self) -> float:
        """The side of a pixel for which |A| = 1."""
        return 1 / self.radon().norm()


@lru_cache(maxsize=4)
def _radon(scan: Scan, pixel: float) -> Radon:
    fan = scan.geometry == "fan"
    return Radon(
        scan.size, torch.tensor(scan.angles, dtype=torch.float64), scan.detectors, scan.spacing * pixel,
        "fan" if fan else "parallel", source_distance=scan.source * pixel if fan else None,
        detector_distance=scan.behind * pixel, curved=scan.curved, pixel=pixel, centre=scan.centre,
        offset=scan.offset * pixel,
    )  # fmt: skip


@lru_cache(maxsize=8)
def even_scan(size: tuple[int, int], views: int) -> Radon:
    """Parallel beams over half a turn that see all of the images, in the unit in which the norm is 1."""
    scan = Scan.like(Radon(size, views))
    return scan.radon(scan.unit())


def views_first(sinogram: np.ndarray, views: int, axes: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """A sinogram as [views, detectors], and a remark.

    Args:
        sinogram: [views, detectors] or [detectors, views].
        views: how many angles there are.
        axes: which it is, "views" or "detectors" first; "auto": as the angles tell.

    Raises:
        ValueError: it has another number of views, or both sizes are that number.
    """
    rows, columns = sinogram.shape
    got = f"{rows} x {columns}"
    if axes == "auto":
        both = "--axes views or --axes detectors, whichever is first, for as many detectors as views"
        expect(not rows == columns == views, "ct", "--axes", both, got)
        counts = " or ".join(dict.fromkeys((str(rows), str(columns))))
        expect(views in (rows, columns), "ct", "--angles", f"{counts} of them for a sinogram of {got}", views)
        axes = "views" if rows == views else "detectors"
    count, other = (rows, columns) if axes == "views" else (columns, rows)
    other = " (transposed? --axes)" if other == views else ""
    expect(count == views, "ct", "--angles", f"one for each of {count} views", f"{views} angles{other}")
    if axes == "views":
        return sinogram, ()
    return np.ascontiguousarray(sinogram.T), (f"detectors first: {got} turned to {columns} x {rows}",)


def looks_like_counts(y: np.ndarray) -> bool:
    """Whether [views, detectors] is largest beside the object, where line integrals are about 0."""
    high, low = np.quantile(y, (0.99, 0.01))
    beside = float(np.median(y[:, [0, -1]]))
    return y.shape[1] > 2 and high > low and beside - low > AIR * (high - low) and float(np.median(y)) < beside


def axis_of(y: np.ndarray, angles: np.ndarray) -> float | None:
    """The detector that the axis of rotation falls on, by the centres of mass of parallel views [views, detectors].

    They lie on a sine around it. None where they do not: fan beams, objects that are wider than the detector, noise.
    """
    t, mass = angles, y.sum(1, dtype=np.float64)
    if len(t) < FEW_VIEWS or mass.min() <= 0:
        return None
    centres = (y * np.arange(y.shape[1])).sum(1, dtype=np.float64) / mass
    waves = np.stack([np.ones_like(t), np.cos(t), np.sin(t)], 1)
    found, _, rank, _ = np.linalg.lstsq(waves, centres, rcond=None)
    left = float(np.sqrt(np.mean(np.square(waves @ found - centres))))
    wide = np.ptp(t) > math.pi / 2
    inside = 0 <= found[0] <= y.shape[1] - 1
    return float(found[0]) if rank == 3 and wide and inside and left < STEADY else None
