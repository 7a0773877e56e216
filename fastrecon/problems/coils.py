"""Sensitivities of receiver coils: as they are given, else estimated."""

import numpy as np
import torch
from torch import Tensor

from fastrecon import io
from fastrecon.checks import expect

WIDEST, NARROWEST = 24, 8  # samples of the square around the zero frequency that calibrates


def sensitivities(own: np.ndarray | None, path: str, y: Tensor, mask: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Maps [1, coils, H, W] of k-space y [1, coils, H, W] with its zero frequency at (0, 0), and where they are from.

    Args:
        own: those of the file of k-space, if it has some.
        path: of a file of them, or "".
        y: k-space of images with their origin in the corner.
        mask: [1, 1, H, W], 1 where sampled.

    Raises:
        ValueError: there are none and they cannot be estimated, or the file does not fit.
    """
    if path:
        found, note = io.read_maps(path, (y.shape[1], y.shape[2], y.shape[3])), ""
    elif own is not None:
        found, note = own, "coil sensitivities of the file"
    else:
        width = calibration(mask[0, 0].numpy() > 0)
        found, note = espirit(y[0].numpy(), width), f"coil sensitivities by ESPIRiT from {width}x{width} samples"
    maps = torch.from_numpy(np.ascontiguousarray(found, np.complex64))[None]
    expect(bool(maps.abs().max() > 0), "mri", "--maps", "sensitivities that are not all 0", "zeros alone")
    return maps, ((note,) if note else ())


def calibration(sampled: np.ndarray) -> int:
    """Side of the largest square around the zero frequency (0, 0) that is sampled without gaps, at most 24.

    Raises:
        ValueError: it is too small to tell sensitivities.
    """
    middle = np.fft.fftshift(sampled)
    height, width = middle.shape
    best = 0
    for n in range(1, min(WIDEST, height, width) + 1):
        top, left = height // 2 - n // 2, width // 2 - n // 2
        if not middle[top : top + n, left : left + n].all():
            break
        best = n
    wanted = f"coil sensitivities, or {NARROWEST}x{NARROWEST} low frequencies without gaps to estimate them from"
    expect(best >= NARROWEST, "mri", "--maps", wanted, f"none, and {best}x{best} frequencies")
    return best


def espirit(y: np.ndarray, width: int) -> np.ndarray:
    """Maps [coils, H, W] by SigPy. Source: Uecker et al., ESPIRiT, Magn. Reson. Med. 71 (2014).

    Raises:
        ValueError: sigpy is not installed.
    """
    try:
        from sigpy.mri.app import EspiritCalib  # pyright: ignore[reportMissingImports]
    except ImportError as e:
        wanted = "coil sensitivities (a file), or sigpy to estimate them (pip install sigpy)"
        raise ValueError(f"mri: --maps: expected {wanted}, got neither") from e
    coil_images = np.fft.ifft2(y, norm="ortho")
    centred = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(coil_images, (1, 2)), norm="ortho"), (1, 2))
    return np.asarray(EspiritCalib(centred.astype(np.complex64), calib_width=width, show_pbar=False).run())
