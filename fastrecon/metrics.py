"""Image quality per image of a batch [B, ...] against references: PSNR, SSIM, NMSE and relative error, [B] each."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from fastrecon.checks import accepts_arrays, expect


def _pair(x: Tensor, ref: Tensor, op: str) -> tuple[Tensor, Tensor]:
    expect(x.ndim >= 2, op, "x", "a batch [B, ...]", x)
    expect(ref.shape == x.shape and ref.device == x.device, op, "ref", x, ref)
    wide = torch.complex128 if x.is_complex() or ref.is_complex() else torch.float64
    return x.to(wide).flatten(1), ref.to(wide).flatten(1)


def _squares(t: Tensor) -> Tensor:
    return (t.real.square() + t.imag.square() if t.is_complex() else t.square()).sum(1)


@accepts_arrays
def psnr(x: Tensor, ref: Tensor, peak: float = 1.0) -> Tensor:
    """10 log10(peak^2 / mean |x - ref|^2) in dB, [B]: no clipping, no rounding, no border left out."""
    x, ref = _pair(x, ref, "psnr")
    expect(peak > 0, "psnr", "peak", "a number > 0", peak)
    return 10 * torch.log10(peak**2 * x.shape[1] / _squares(x - ref))


@accepts_arrays
def nmse_db(x: Tensor, ref: Tensor) -> Tensor:
    """10 log10(|x - ref|^2 / |ref|^2) in dB, [B]."""
    x, ref = _pair(x, ref, "nmse_db")
    return 10 * torch.log10(_squares(x - ref) / _squares(ref))


@accepts_arrays
def relative_error(x: Tensor, ref: Tensor) -> Tensor:
    """|x - ref| / |ref|, [B]."""
    x, ref = _pair(x, ref, "relative_error")
    return (_squares(x - ref) / _squares(ref)).sqrt()


@accepts_arrays
def ssim(x: Tensor, ref: Tensor, data_range: float = 1.0, window: str = "uniform") -> Tensor:
    """Structural similarity of real images [B, C, H, W], averaged over pixels and channels, [B].

    Args:
        x: images.
        ref: references.
        data_range: largest minus smallest value an image may have.
        window: "uniform", 7x7 with sample covariances (scikit-image's default), or "gaussian", 11x11 with standard
            deviation 1.5 and population covariances (the paper's).

    Only windows inside the image count.

    Source: Wang, Bovik, Sheikh & Simoncelli, Image Quality Assessment: From Error Visibility to Structural Similarity,
    IEEE Trans. Image Process. 13 (2004).
    """
    op = "ssim"
    expect(x.ndim == 4 and x.is_floating_point(), op, "x", "real images [B, C, H, W]", x)
    expect(ref.shape == x.shape and ref.device == x.device, op, "ref", x, ref)
    expect(data_range > 0, op, "data_range", "a number > 0", data_range)
    expect(window in ("uniform", "gaussian"), op, "window", "uniform or gaussian", repr(window))
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
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = (sample * (mean(t * t) - m * m) for t, m in ((a, mean_a), (b, mean_b)))
    cov = sample * (mean(a * b) - mean_a * mean_b)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return similarity.reshape(*x.shape[:2], -1).mean(dim=(1, 2))
