"""Circular differences of images down and to the right, D, and their adjoint D*, minus the divergence.

Where nothing is differentiated on the CPU one pass of a kernel, to the bits of the definition.
"""

import torch
from torch import Tensor

from fastrecon import registry
from fastrecon.ops.function import differentiated, past_dispatcher
from fastrecon.ops.layout import DTYPES, plain


def gradient_ref(x: Tensor) -> Tensor:
    """The definition, x [B, C, H, W]: slopes [B, 2 C, H, W], those down before those to the right."""
    return torch.cat((x.roll(-1, -2) - x, x.roll(-1, -1) - x), 1)


def gradient_adjoint_ref(y: Tensor) -> Tensor:
    """The definition, y [B, 2 C, H, W]: [B, C, H, W]."""
    down, right = y.chunk(2, 1)
    return (down.roll(1, -2) - down) + (right.roll(1, -1) - right)


def _by_kernel(t: Tensor) -> bool:
    return past_dispatcher() and t.is_cpu and t.dtype in DTYPES and t.numel() > 0 and not differentiated(t)


def gradient(x: Tensor) -> Tensor:
    """D x [B, 2 C, H, W] of images [B, C, H, W], real or complex; differentiable."""
    if not _by_kernel(x):
        return gradient_ref(x)
    x, (b, c, h, w) = plain(x), x.shape
    y = x.new_empty(b, 2 * c, h, w)
    registry.compiled().gradient(DTYPES[x.dtype], x.data_ptr(), y.data_ptr(), b, c, h, w, False)
    return y


def gradient_adjoint(y: Tensor) -> Tensor:
    """D* y [B, C, H, W] of slopes [B, 2 C, H, W], real or complex; differentiable."""
    if not _by_kernel(y):
        return gradient_adjoint_ref(y)
    y, (b, c, h, w) = plain(y), y.shape
    x = y.new_empty(b, c // 2, h, w)
    registry.compiled().gradient(DTYPES[y.dtype], x.data_ptr(), y.data_ptr(), b, c // 2, h, w, True)
    return x
