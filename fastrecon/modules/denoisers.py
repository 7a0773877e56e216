"""Denoisers as modules: cleaned images of noisy ones and the standard deviation of their noise, where white is 1."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fastrecon import ops
from fastrecon.checks import behind, expect, number
from fastrecon.modules.asking import Module
from fastrecon.operators.wavelet import Wavelet
from fastrecon.ops.layout import real_dtype
from fastrecon.terms.total_variation import TV

soft_threshold = behind(ops.soft_threshold)


def by_parts(function: Module, x: Tensor, channels: int = 1) -> Tensor:
    """What a function of real images [N, channels, H, W] makes of images [B, C, H, W]: of `channels` at a time, and of
    real and imaginary parts on their own.

    Raises:
        ValueError: C is no multiple of `channels`.
    """
    fits = x.ndim == 4 and x.shape[1] % channels == 0
    expect(fits, "modules", "x", f"images with a multiple of {channels} channels", x)
    if x.is_complex():
        parts = torch.view_as_real(x).movedim(-1, 1).flatten(0, 1).contiguous()  # [2 B, C, H, W]
        found = by_parts(function, parts, channels).unflatten(0, (len(x), 2)).movedim(1, -1)
        return torch.view_as_complex(found.contiguous())
    return function(x.reshape(-1, channels, *x.shape[2:])).reshape(x.shape)


class Cleaned(nn.Module):
    """x - G(x) of a network G that answers what to take off an image, such as ResidualCNN; of complex images part by
    part, of several channels one by one.

    Args:
        network: G; one with an attribute `levels` that holds is told the standard deviation of the noise.
        half: whether G computes in bfloat16.
    """

    range = (0.0, 1.0)  # of the images that it was trained for, in modulus

    def __init__(self, network: nn.Module, half: bool = False):
        super().__init__()
        self.network, self.in_half = network, half
        self.levels = bool(getattr(network, "levels", False))
        settings = getattr(network, "settings", {})
        self.channels = int(settings.get("in_channels", 1))

    def forward(self, x: Tensor, sigma: float | None = None) -> Tensor:
        """Cleaned images."""

        def one(v: Tensor) -> Tensor:
            with torch.autocast(v.device.type, torch.bfloat16, enabled=self.in_half):
                g = self.network(v, sigma) if self.levels else self.network(v)
            return v - g.to(v)

        return by_parts(one, x, self.channels)


class WaveletDenoiser(nn.Module):
    """Soft thresholding of the details of an orthonormal wavelet transform, averaged over shifts.

    Args:
        factor: threshold in units of the noise.
        wavelet, level: of the transform.

    Source: Coifman & Donoho, Translation-Invariant De-Noising, in Wavelets and Statistics, Springer 1995.
    """

    SHIFTS = ((0, 0), (1, 2), (2, 1), (3, 3))

    def __init__(self, factor: float = 1.5, wavelet: str = "sym4", level: int = 3):
        super().__init__()
        self.factor = float(number(factor, "WaveletDenoiser", "factor", least=0))
        self.transform = Wavelet(wavelet, level)

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        """Cleaned images."""
        total, step = torch.zeros_like(x), 1 << self.transform.level
        for down, right in self.SHIFTS:
            c = self.transform.forward(torch.roll(x, (down, right), (-2, -1)))
            tau = torch.full(c.shape[-2:], self.factor * sigma, dtype=real_dtype(x), device=x.device)
            tau[: c.shape[-2] // step, : c.shape[-1] // step] = 0  # approximations stay
            found = self.transform.apply_adjoint(soft_threshold(c, tau), x.shape[-2:])
            total = total + torch.roll(found, (-down, -right), (-2, -1))
        return total / len(self.SHIFTS)


class TVDenoiser(nn.Module):
    """The proximal map of total variation.

    Args:
        factor: weight in units of the noise, which for white noise on [0, 1] is about best near 0.8 sigma.
    """

    def __init__(self, factor: float = 0.8):
        super().__init__()
        self.factor = float(number(factor, "TVDenoiser", "factor", least=0))

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        """Cleaned images."""
        return TV(1.0, tol=1e-4).prox(x, self.factor * sigma)


class GuidedFilter(nn.Module):
    """The guided filter with the image as its own guide: linear in every window, and flat where it hardly varies.

    Args:
        radius: of the windows in pixels.
        factor: what counts as hardly, in units of the noise.

    Source: He, Sun & Tang, Guided Image Filtering, IEEE Trans. Pattern Anal. Mach. Intell. 35 (2013).
    """

    def __init__(self, radius: int = 2, factor: float = 1.5):
        super().__init__()
        self.radius, self.factor = radius, float(number(factor, "GuidedFilter", "factor", least=0))

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        """Cleaned images."""
        return by_parts(lambda v: self._filtered(v, (self.factor * sigma) ** 2), x)

    def _filtered(self, v: Tensor, eps: float) -> Tensor:
        mean = self._mean(v)
        variance = (self._mean(v * v) - mean * mean).clamp_min(0)
        a = variance / (variance + eps)
        return self._mean(a) * v + self._mean(mean - a * mean)

    def _mean(self, v: Tensor) -> Tensor:
        side, r = 2 * self.radius + 1, self.radius
        padded = nn.functional.pad(v, (r, r, r, r), mode="replicate")
        return nn.functional.avg_pool2d(padded, side, 1)


class Bank(nn.Module):
    """Denoisers for one strength each: that for the nearest strength is asked.

    Args:
        members: denoisers x -> x by the standard deviation of the noise that they take off.

    Raises:
        ValueError: there is none, or a strength is not > 0.
    """

    def __init__(self, members: Mapping[float, Module]):
        super().__init__()
        expect(len(members) > 0, "Bank", "members", "denoisers by their strength", "none")
        self.strengths = sorted(float(number(s, "Bank", "members", above=0)) for s in members)
        self.members = [members[s] for s in sorted(members)]
        self.networks = nn.ModuleList(m for m in self.members if isinstance(m, nn.Module))

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        """Cleaned images."""
        distance = [abs(s - sigma) for s in self.strengths]
        return self.members[distance.index(min(distance))](x)


def falling(first: float, last: float, count: int) -> Sequence[float]:
    """Strengths of `count` iterations, geometric from the first to the last, or the last where that is above."""
    last = min(first, last)
    return [first * (last / first) ** (k / max(count - 1, 1)) for k in range(count)]
