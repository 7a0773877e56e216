"""Masks of operators: one for all images, or one for each."""

from typing import Any

import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.ops.layout import real_dtype


def mask_of(mask: Any, op: str) -> Tensor:
    """A real mask [H, W] or [B, 1, H, W], of whatever number type, as a floating-point tensor [1 or B, 1, H, W].

    Raises:
        ValueError: it has another shape, is complex, negative, or not finite.
    """
    m = torch.as_tensor(mask)
    expect(not m.is_complex(), op, "mask", "a real or boolean mask", m)
    m = m if m.is_floating_point() else m.to(torch.get_default_dtype())
    fits = m.ndim == 2 or (m.ndim == 4 and m.shape[1] == 1)
    expect(fits and m.numel() > 0, op, "mask", "a mask [H, W], or one for each image [B, 1, H, W]", m)
    good = bool((torch.isfinite(m) & (m >= 0)).all())  # once, when the operator is made
    expect(good, op, "mask", "finite numbers >= 0", "others")
    return (m[None, None] if m.ndim == 2 else m).contiguous()


def fit(mask: Tensor, x: Tensor, op: str, argument: str) -> Tensor:
    """The mask in the precision of x [B, C, H, W], once it is known to fit."""
    expect(x.ndim == 4, op, argument, "a batch [B, C, H, W]", x)
    b, _, h, w = mask.shape
    expect(x.shape[2:] == mask.shape[2:], op, argument, f"{h}x{w} as the mask", x)
    expect(b in (1, x.shape[0]), op, argument, f"a batch of {b}, one for each mask", x)
    expect(x.device == mask.device, op, argument, f"a tensor on {mask.device}, as the mask", x)
    return mask.to(real_dtype(x))
