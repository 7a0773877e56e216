"""Noise on images, from a generator of the caller: the same on every device."""

import torch
from torch import Tensor

from fastrecon.checks import expect, named, number
from fastrecon.ops.dwt2 import dwt2


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
