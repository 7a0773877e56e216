"""Masks of operators: one for all images, or one for each."""

from typing import Any

import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.operators._given import tensor_of
from fastrecon.ops.layout import real_dtype

EXPECTED = "a mask [H, W], or one for each image [B, 1, H, W]"


def mask_of(mask: Any, op: str) -> Tensor:
    """A real mask [H, W] or [B, 1, H, W], of whatever number type, as a floating-point tensor [1 or B, 1, H, W].

    Raises:
        ValueError: it has another shape, is complex, negative, or not finite.
    """
    m = tensor_of(mask, op, "mask", EXPECTED)
    expect(not m.is_complex(), op, "mask", "a real or boolean mask", m)
    m = m if m.is_floating_point() else m.to(torch.get_default_dtype())
    fits = (m.ndim == 2 or (m.ndim == 4 and m.shape[1] == 1)) and m.shape[-2:].numel() > 0
    expect(fits, op, "mask", EXPECTED, m)
    good = bool((torch.isfinite(m) & (m >= 0)).all())  # once, when the operator is made
    expect(good, op, "mask", "finite numbers >= 0", "others")
    return each(m)


def each(t: Tensor) -> Tensor:
    """A mask or kernel [H, W] as one for all images [1, 1, H, W]; one for each as it is."""
    return t[None, None] if t.ndim == 2 else t


def largest(mask: Tensor) -> float:
    """The largest weight; 0 of no mask at all."""
    return mask.detach().max().item() if mask.numel() else 0.0


def fit(mask: Tensor, x: Tensor, op: str, argument: str) -> Tensor:
    """The mask in the precision of x [B, C, H, W], once it is known to fit."""
    mask = each(mask)
    b, _, h, w = mask.shape
    numeric = x.is_floating_point() or x.is_complex()
    if not (numeric and x.ndim == 4 and x.shape[2:] == (h, w) and b in (1, x.shape[0]) and x.device == mask.device):
        expect(x.ndim == 4, op, argument, "a batch [B, C, H, W]", x)
        expect(numeric, op, argument, "real or complex numbers", x)
        expect(x.shape[2:] == mask.shape[2:], op, argument, f"{h}x{w} as the mask", x)
        expect(b in (1, x.shape[0]), op, argument, f"a batch of {b}, one for each mask", x)
        expect(False, op, argument, f"a tensor on {mask.device}, as the mask", x)
    return mask.to(real_dtype(x))
