"""Image quality per image of a batch [B, ...] against references: PSNR, SSIM, NMSE and relative error, [B] each."""

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from fastrecon.checks import accepts_arrays, choice, expect, number
from fastrecon.ops.layout import norm_of, parts

FAINT = 1e-60  # data ranges below have fourth powers that vanish, or overflow above the inverse


def _pair(x: Tensor, ref: Tensor, op: str) -> tuple[Tensor, Tensor]:
    expect(x.ndim >= 2, op, "x", "a batch [B, ...]", x)
    expect(ref.shape == x.shape and ref.device == x.device, op, "ref", x, ref)
    wide = torch.complex128 if x.is_complex() or ref.is_complex() else torch.float64
    return x.to(wide).flatten(1), ref.to(wide).flatten(1)


def _norms(t: Tensor) -> Tensor:
    return norm_of(parts(t), 1, 2)[:, 0, 0]  # whose squares neither vanish nor overflow


@accepts_arrays
def psnr(x: Tensor, ref: Tensor, peak: float = 1.0) -> Tensor:
    """10 log10(peak^2 / mean |x - ref|^2) in dB, [B], peak > 0: no clipping, no rounding, no border left out."""
    x, ref = _pair(x, ref, "psnr")
    number(peak, "psnr", "peak", above=0)
    return 20 * torch.log10(peak * math.sqrt(x.shape[1]) / _norms(x - ref))


@accepts_arrays
def nmse_db(x: Tensor, ref: Tensor) -> Tensor:
    """10 log10(|x - ref|^2 / |ref|^2) in dB, [B]."""
    x, ref = _pair(x, ref, "nmse_db")
    return 20 * torch.log10(_norms(x - ref) / _norms(ref))


@accepts_arrays
def relative_error(x: Tensor, ref: Tensor) -> Tensor:
    """|x - ref| / |ref|, [B]."""
    x, ref = _pair(x, ref, "relative_error")
    return _norms(x - ref) / _norms(ref)


@accepts_arrays
def ssim(x: Tensor, ref: Tensor, data_range: float = 1.0, window: str = "uniform") -> Tensor:
    """Structural similarity of real images [B, C, H, W], averaged over pixels and channels, [B].

    Args:
        x: images.
        ref: references.
        data_range: largest minus smallest value an image may have, > 0.
        window: "uniform", 7x7 with sample covariances (scikit-image's default), or "gaussian", 11x11 with standard
            deviation 1.5 and population covariances (the paper's).

    Only windows inside the image count.

    Source: Wang, Bovik, Sheikh & Simoncelli, Image Quality Assessment: From Error Visibility to Structural Similarity,
    IEEE Trans. Image Process. 13 (2004).
    """
    op = "ssim"
    expect(x.ndim == 4 and x.is_floating_point(), op, "x", "real images [B, C, H, W]", x)
    expect(ref.shape == x.shape and ref.device == x.device, op, "ref", x, ref)
    number(data_range, op, "data_range", above=0)
    choice(window, ("uniform", "gaussian"), op, "window")
    if window == "uniform":
        profile, sample = torch.full((7,), 1 / 7, dtype=torch.float64), 49 / 48
    else:
        t = torch.arange(-5, 6, dtype=torch.float64)
        profile, sample = torch.exp(-t.square() / (2 * 1.5**2)), 1.0
        profile /= profile.sum()
    side = len(profile)
    expect(min(x.shape[-2:]) >= side, op, "x", f"at least {side}x{side} pixels", x)
    kernel = profile.to(x.device)

    def mean(t: Tensor) -> Tensor:  # [P, 1, H, W], over every window
        return conv2d(conv2d(t, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))

    a, b = (t.double().reshape(-1, 1, *t.shape[-2:]) for t in (x, ref))
    if not FAINT < data_range < 1 / FAINT:  # a power of two: the ratio below stays as it is
        unit = 2.0 ** -math.frexp(data_range)[1]
        a, b, data_range = a * unit, b * unit, data_range * unit
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = (sample * (mean(t * t) - m * m) for t, m in ((a, mean_a), (b, mean_b)))
    cov = sample * (mean(a * b) - mean_a * mean_b)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return similarity.reshape(*x.shape[:2], similarity.shape[2] * similarity.shape[3]).mean(dim=(1, 2))
