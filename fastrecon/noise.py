"""Noise on images, from a generator of the caller: the same on every device."""

import torch
from torch import Tensor

from fastrecon.checks import expect, named, number


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
