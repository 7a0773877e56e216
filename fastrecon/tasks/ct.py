"""Sparse-view computed tomography as functions: measurements of an image, and the image that iterations start from."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.operators import Radon

VIEWS = 144  # Lee & Chun, Accelerating Optimization Algorithms With Dynamic Parameter Selections Using CNNs


class Scan(NamedTuple):
    """operator A; measurements y [B, C, views, detectors]; start [B, C, H, W], a filtered back-projection of y."""

    operator: Radon
    y: Tensor
    start: Tensor


def noisy(y: Tensor, noise: float = 0.0, photons: float | None = None, seed: int = 0) -> Tensor:
    """Integrals y as a scanner gives them.

    Args:
        y: exact integrals of the attenuation, without a unit.
        noise: standard deviation of Gaussian noise, as a part of each image's largest integral.
        photons: that leave for each detector in each view; their number is Poisson, and y is the negative logarithm of
            the part that arrives (at least one). None counts them all.
        seed: of both; the same on every device.

    Raises:
        ValueError: noise or photons are out of range.
    """
    expect(noise >= 0, "ct", "noise", "a number >= 0", noise)
    expect(photons is None or photons >= 1, "ct", "photons", "a number >= 1, or None", photons)
    generator, wide = torch.Generator().manual_seed(seed), y.double().cpu()
    if photons is not None:
        wide = -torch.log(torch.poisson(photons * torch.exp(-wide), generator).clamp_min(1) / photons)
    if noise:
        largest = y.double().cpu().abs().amax((1, 2, 3), keepdim=True)
        wide = wide + noise * largest * torch.randn(wide.shape, generator=generator, dtype=wide.dtype)
    return wide.to(y)


def simulate(
    image: Tensor, views: int = VIEWS, noise: float = 0.0, photons: float | None = None, seed: int = 0,
    filter: str = "hann", **geometry: Any,
) -> Scan:  # fmt: skip
    """Scans images [B, C, H, W] from few views.

    Args:
        image: attenuation per unit of length, which is the side of a pixel unless `geometry` says otherwise.
        views: of the scan, evenly spaced.
        noise: see `noisy`.
        photons: see `noisy`: integrals should then be about 1, so choose `pixel` near 1 / max(H, W).
        seed: of the noise.
        filter: of the start, see `Radon.fbp`.
        geometry: other arguments of `Radon`.
    """
    expect(image.ndim == 4, "ct", "image", "images [B, C, H, W]", image)
    operator = Radon(image.shape[2:], views, **geometry)
    y = noisy(operator(image), noise, photons, seed)
    return Scan(operator, y, operator.fbp(y, filter))
