"""Decoded pixels, before they become a grey image: what the readers of all formats agree on."""

from dataclasses import dataclass, field

import numpy as np

from fastrecon.io.limits import Refused, refuse

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, full range
OVERSHOOT = (-1, 2)  # of floats: farther outside [0, 1] they are on another scale
TWELVE_BITS = 4095


@dataclass
class Raster:
    """Pixels as stored, black 0 and white `full`.

    Attributes:
        pixels: [H, W] grey, [H, W, 1 to 4] grey, grey + alpha, RGB, RGB + alpha.
        full: value of white, and of opaque alpha; 1 for floats.
        orientation: as TIFF and EXIF count: 1 upright, 2 mirrored, ..., 8 to be turned by 90 degrees to the left.
        notes: what was converted on the way.
    """

    pixels: np.ndarray
    full: float
    orientation: int = 1
    notes: list[str] = field(default_factory=list)


def upright(a: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, ...] as it is to be seen, from as it is stored (TIFF 6.0, section 8, Orientation)."""
    if orientation >= 5:
        a = a.swapaxes(0, 1)
    down = orientation in (3, 4, 7, 8)
    left = orientation in (2, 3, 6, 7)
    return a[:: -1 if down else 1, :: -1 if left else 1]


def grey(raster: Raster) -> np.ndarray:
    """[H, W] float32 on [0, 1]; `raster.notes` says what was dropped or mixed.

    Raises:
        Refused: NaN or Inf, transparent pixels, or floats on another scale.
    """
    a, full, notes = raster.pixels, raster.full, raster.notes
    fits = a.ndim == 2 or (a.ndim == 3 and a.shape[2] in (1, 2, 3, 4))
    refuse(not fits or a.size == 0, "a non-empty image [H, W] or [H, W, channels]", f"shape {a.shape}")
    refuse(a.dtype.kind not in "buf", "unsigned or floating-point pixels", a.dtype.name)
    if not np.isfinite(a).all():
        raise Refused("expected finite pixels, got NaN or Inf")
    a = upright(a, raster.orientation)
    if a.ndim == 3 and a.shape[2] in (2, 4):
        if a[..., -1].min() < full:
            raise Refused("expected an opaque image, got transparent pixels: flatten it on a background first")
        notes.append("opaque alpha channel dropped")
        a = a[..., :-1]
    if a.ndim == 3 and (a == a[..., :1]).all():
        notes.extend(["equal colour channels read as grey"] if a.shape[2] == 3 else [])
        a = a[..., 0]
    elif a.ndim == 3:
        notes.append("RGB converted to grey (BT.601 luma)")
        a = a.astype(np.float64) @ np.array(LUMA)
    low, high = float(a.min()), float(a.max())
    if raster.pixels.dtype.kind == "f" and (low < OVERSHOOT[0] or high > OVERSHOOT[1]):
        raise Refused(f"expected floating-point pixels on the [0, 1] scale, got [{low:.3g}, {high:.3g}]")
    if full == 65535 and 0 < high <= TWELVE_BITS:
        notes.append(f"no pixel above {high:g} of {full:g}: dark as it is, or values of 12 bits or fewer")
    return np.ascontiguousarray(a.astype(np.float64) / full, np.float32)
