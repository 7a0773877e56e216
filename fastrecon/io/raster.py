"""Decoded pixels, before they become an image: what the readers of all formats agree on."""

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
        full: value of white, and of opaque alpha; 1 for floats; None where numbers have a scale of their own.
        orientation: as TIFF and EXIF count: 1 upright, 2 mirrored, ..., 8 to be turned by 90 degrees to the left.
        notes: what was converted on the way.
        premultiplied: whether colours were multiplied by alpha.
        bits: of the integers in the file, where they became floats on the way; else 0.
        suffix: of files that results are written to.
        affine: rows of [4, 4], as NIfTI has it, of the one slice.
    """

    pixels: np.ndarray
    full: float | None
    orientation: int = 1
    notes: list[str] = field(default_factory=list)
    premultiplied: bool = False
    bits: int = 0
    suffix: str = ".png"
    affine: tuple[tuple[float, ...], ...] | None = None


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
        Refused: NaN or Inf, transparent pixels, complex or signed numbers, or floats on another scale.
    """
    pixels, kind = raster.pixels, raster.pixels.dtype
    known = kind.kind == "f" or (raster.full is not None and kind.kind in "bu")
    refuse(not known, "1, 8 or 16-bit unsigned or floating-point pixels", kind.name)
    a = luma(separated(raster)[0], raster.notes)
    low, high = float(a.min()), float(a.max())
    if pixels.dtype.kind == "f" and beyond(low, high):
        raise Refused(f"expected floating-point pixels on the [0, 1] scale, got [{low:.3g}, {high:.3g}]")
    return scaled(a, raster)


def beyond(low: float, high: float) -> bool:
    """Whether floats of this range are on another scale than [0, 1]."""
    return low < OVERSHOOT[0] or high > OVERSHOOT[1]


def separated(raster: Raster, holes: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """Upright grey [H, W] or colours [H, W, 3] as stored, and which pixels are known, [H, W], None where all are.

    With `holes`, pixels of alpha 0 or NaN are not known, and 0; without, such images are refused.

    Raises:
        Refused: no image, Inf, transparency as said, or no pixel is known.
    """
    a, notes = raster.pixels, raster.notes
    fits = a.ndim == 2 or (a.ndim == 3 and a.shape[2] in (1, 2, 3, 4) and a.dtype.kind != "c")
    refuse(not fits or a.size == 0, "a non-empty image [H, W] or [H, W, channels]", f"shape {a.shape}")
    refuse(a.dtype.kind not in "buifc", "pixels that are numbers", a.dtype.name)
    a = upright(a, raster.orientation)
    known = np.ones(a.shape[:2], bool)
    if a.ndim == 3 and a.shape[2] in (2, 4):
        a, known = _without_alpha(a, raster, holes)
    missing = np.isnan(a) if a.ndim == 2 else np.isnan(a).any(2)
    if np.isinf(a).any() or (missing.any() and not holes):
        raise Refused("expected finite pixels, got NaN or Inf")
    known &= ~missing
    if not known.all():
        refuse(not known.any(), "at least one known pixel", "an image of holes alone")
        a = np.where(known if a.ndim == 2 else known[..., None], a, np.zeros((), a.dtype))
        notes.append(f"{(~known).sum()} of {known.size} pixels are holes (transparent or NaN)")
    if a.ndim == 3 and (a == a[..., :1]).all():
        notes.extend(["equal colour channels read as grey"] if a.shape[2] == 3 else [])
        a = a[..., 0]
    return a, None if known.all() else known


def _without_alpha(a: np.ndarray, raster: Raster, holes: bool) -> tuple[np.ndarray, np.ndarray]:
    full, alpha = raster.full, a[..., -1]
    if full is None or not np.isfinite(alpha).all():
        raise Refused("expected an alpha channel of known scale without NaN or Inf, got another")
    if alpha.min() >= full:
        raster.notes.append("opaque alpha channel dropped")
        return a[..., :-1], np.ones(alpha.shape, bool)
    if not holes:
        raise Refused("expected an opaque image, got transparent pixels: flatten it on a background first")
    half = int(((alpha > 0) & (alpha < full)).sum())
    got = f"{half} pixels between, multiplied by their alpha"
    refuse(half > 0 and raster.premultiplied, "pixels that are opaque or transparent", got)
    if half:
        raster.notes.append(f"{half} half-transparent pixels taken as known")
    return a[..., :-1], alpha > 0


def luma(a: np.ndarray, notes: list[str]) -> np.ndarray:
    """Grey [H, W] of grey [H, W] or colours [H, W, 3]."""
    if a.ndim == 2:
        return a
    notes.append("RGB converted to grey (BT.601 luma)")
    return a.astype(np.float64) @ np.array(LUMA)


def scaled(a: np.ndarray, raster: Raster) -> np.ndarray:
    """Values as stored over white, where that is known: float32, or complex64."""
    if raster.full == 65535 and 0 < (high := float(a.max())) <= TWELVE_BITS:
        raster.notes.append(f"no pixel above {high:g} of {raster.full:g}: dark as it is, or values of 12 bits or fewer")
    wide, narrow = (np.complex128, np.complex64) if a.dtype.kind == "c" else (np.float64, np.float32)
    with np.errstate(over="ignore"):
        out = np.ascontiguousarray(a.astype(wide) / (raster.full or 1), narrow)
    refuse(not np.isfinite(out).all(), "pixels within the range of float32", f"up to {np.abs(a).max():.3g}")
    return out
