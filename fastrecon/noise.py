"""Noise on images, from a generator of the caller: the same on every device."""

import torch
from torch import Tensor

from fastrecon.checks import expect


def salt_and_pepper(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """x on [0, 1] with about `share` of its entries replaced, half of them by 0 and half by 1.

    Args:
        x: real, any shape.
        share: in [0, 1].
        generator: on the CPU.

    Raises:
        ValueError: share is out of range.
    """
    expect(0 <= share <= 1, "salt_and_pepper", "share", "a number in [0, 1]", share)
    u = torch.rand(x.shape, generator=generator, dtype=torch.float64).to(x.device)
    return torch.where(u < share / 2, 0, torch.where(u < share, 1, x))
