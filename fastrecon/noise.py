"""Noise on images, from a generator of the caller: the same on every device."""

import torch
from torch import Tensor

from fastrecon.checks import expect, named, number
from fastrecon.ops.wavelet_transform import dwt2

FEW = 100  # squares of known pixels tell too little


def salt_and_pepper(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """x on [0, 1] with about `share` of its entries replaced, half of them by 0 and half by 1.

    Args:
        x: real, any shape.
        share: in [0, 1].
        generator: on the CPU.

    Raises:
        ValueError: an argument is not of its kind, or share out of range.
    """
    op = "salt_and_pepper"
    expect(isinstance(x, Tensor) and x.is_floating_point(), op, "x", "a real tensor", named(x))
    number(share, op, "share", least=0, most=1)
    fits = isinstance(generator, torch.Generator) and generator.device.type == "cpu"
    expect(fits, op, "generator", "a torch.Generator on the CPU", named(generator))
    u = torch.rand(x.shape, generator=generator, dtype=torch.float64).to(x.device)
    return torch.where(u < share / 2, 0, torch.where(u < share, 1, x))


def estimate(x: Tensor) -> Tensor:
    """Standard deviation [B] of white noise on images [B, C, H, W]: median |c| / 0.6745 of the finest diagonal details.

    Edges are few and faint there, and blur leaves only noise. Of images smaller than 4 pixels a side it is 0.

    Source: Donoho & Johnstone, Ideal Spatial Adaptation by Wavelet Shrinkage, Biometrika 81 (1994).

    Raises:
        ValueError: x is no batch of real images.
    """
    op = "estimate"
    expect(
        isinstance(x, Tensor) and x.ndim == 4 and x.is_floating_point(), op, "x", "real images [B, C, H, W]", named(x)
    )
    h, w = (n - n % 2 for n in x.shape[-2:])
    if min(h, w) < 4:
        return x.new_zeros(len(x), dtype=torch.float64)
    details = dwt2(x[..., :h, :w].contiguous(), "db2", 1)[..., h // 2 :, w // 2 :]
    return details.abs().flatten(1).double().median(1).values / 0.6745


def estimate_known(x: Tensor, known: Tensor) -> Tensor:
    """Standard deviation [B] of white noise on images [B, C, H, W] of which only some pixels are known.

    As `estimate`, from the details (a - b - c + d) / 2 of squares of four pixels that are all known; NaN where there
    are fewer than 100 of them. Fine texture counts as noise: of photographs without any it finds up to 0.035, where
    white is 1.

    Args:
        x: real.
        known: 1 or true where a pixel is known, broadcastable to x.

    Raises:
        ValueError: x is no batch of real images.
    """
    op = "estimate_known"
    expect(
        isinstance(x, Tensor) and x.ndim == 4 and x.is_floating_point(), op, "x", "real images [B, C, H, W]", named(x)
    )
    m = (known > 0).expand(x.shape)
    whole = m[..., :-1, :-1] & m[..., :-1, 1:] & m[..., 1:, :-1] & m[..., 1:, 1:]
    detail = (x[..., :-1, :-1] - x[..., :-1, 1:] - x[..., 1:, :-1] + x[..., 1:, 1:]).abs().double() / 2
    found = [d[w] for d, w in zip(detail, whole, strict=True)]
    return torch.stack([
        d.median() / 0.6745 if len(d) >= FEW else d.new_full((), float("nan")) for d in found
    ]) if len(x) else x.new_zeros(0, dtype=torch.float64)  # fmt: skip
