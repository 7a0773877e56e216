"""Group soft thresholding, the proximal map of sum_n tau_n |g_n| with |g_n| the Euclidean norm over channels.

y_n = g_n max(1 - tau_n / |g_n|, 0), for real and complex g.
Source: Yuan & Lin, Model selection and estimation in regression with grouped variables, J. R. Stat. Soc. B 68 (2006).
"""

import functools
import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastrecon.checks import accepts_arrays, expect, held
from fastrecon.ops.function import Function, unwatched, with_derivative
from fastrecon.ops.layout import DTYPES, parts, real_dtype, shaped, strength, whole
from fastrecon.ops.soft_threshold import shrink_factor, shrink_slopes
from fastrecon.registry import compiled, define, extension


def group_soft_threshold_fwd_ref(g: Tensor, tau: Tensor) -> Tensor:
    """The definition, g [B, C, N], tau [B, M] with M = 1 or N: y like g."""
    p = parts(g)
    return whole(p * shrink_factor(p, tau[:, None, :, None], 1, 3), g)


def group_soft_threshold_bwd_ref(d_y: Tensor, g: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """The definition of the derivative (0 where |g_n| <= tau_n). Returns d_g like g, d_tau like tau."""
    d_g, d_tau = shrink_slopes(parts(d_y), parts(g), tau[:, None, :, None], 1, 3)
    d_tau = d_tau[:, 0, :, 0]
    return whole(d_g, g), (d_tau.sum(1, keepdim=True) if tau.shape[1] == 1 else d_tau).to(tau.dtype)


def _fwd_cpu(g: Tensor, tau: Tensor):
    if g.dtype not in DTYPES or g.numel() == 0:
        return NotImplemented
    g, tau = g.contiguous(), tau.contiguous()
    y = torch.empty_like(g)
    extension().group_soft_threshold_fwd(  # type: ignore[union-attr]
        DTYPES[g.dtype], g.data_ptr(), tau.data_ptr(), y.data_ptr(), *g.shape, tau.shape[1]
    )
    return y


def _bwd_cpu(d_y: Tensor, g: Tensor, tau: Tensor):
    if g.dtype not in DTYPES or g.numel() == 0:
        return NotImplemented
    d_y, g, tau = d_y.contiguous(), g.contiguous(), tau.contiguous()
    d_g, d_tau = torch.empty_like(g), torch.empty_like(tau)
    extension().group_soft_threshold_bwd(  # type: ignore[union-attr]
        DTYPES[g.dtype], d_y.data_ptr(), g.data_ptr(), tau.data_ptr(), d_g.data_ptr(), d_tau.data_ptr(),
        *g.shape, tau.shape[1],
    )  # fmt: skip
    return d_g, d_tau


_fwd = define(
    "group_soft_threshold_fwd(Tensor g, Tensor tau) -> Tensor",
    "group_soft_threshold",
    ref=group_soft_threshold_fwd_ref,
    cpu=_fwd_cpu,
    fake=lambda g, tau: shaped(g),
)
_bwd = define(
    "group_soft_threshold_bwd(Tensor d_y, Tensor g, Tensor tau) -> (Tensor d_g, Tensor d_tau)",
    "group_soft_threshold",
    ref=group_soft_threshold_bwd_ref,
    cpu=_bwd_cpu,
    fake=lambda d_y, g, tau: shaped(g, tau),
)


class GroupSoftThreshold(Function):
    """g [B, C, N] and tau [B, M] to y, differentiable once in both."""

    definition = staticmethod(with_derivative(group_soft_threshold_fwd_ref, group_soft_threshold_bwd_ref))
    kernel = staticmethod(_fwd_cpu)

    @staticmethod
    def forward(g, tau):  # noqa: D102
        return _fwd(g, tau)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: D102
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_y):  # noqa: D102
        return _bwd(d_y, *ctx.saved_tensors)


@functools.lru_cache(maxsize=64)
def _numbers(tau: float, dtype: torch.dtype, batch: int) -> Tensor:
    return torch.full((batch, 1), held(tau, dtype, "group_soft_threshold", "tau", least=0), dtype=dtype, device="cpu")


@accepts_arrays
def group_soft_threshold(g: Tensor, tau: float | Tensor) -> Tensor:
    """Shrinks each group g[b, :, n] by tau in Euclidean norm: g_n max(1 - tau_n / |g_n|, 0).

    Args:
        g: real or complex [B, C, ...]; groups run over dimension 1.
        tau: threshold, >= 0: a number, [B], or a real tensor that broadcasts to [B, 1, ...].

    Returns:
        y like g, differentiable once in g and tau; the derivative where |g_n| = tau_n is taken as 0.

    Raises:
        ValueError: shapes, types or devices do not fit.
    """
    op = "group_soft_threshold"
    if type(tau) is float and g.dtype in DTYPES and g.ndim >= 2 and unwatched(g):
        (batch, channels), y = g.shape[:2], torch.empty_like(g)
        pixels = g.numel() // (batch * channels)
        t = _numbers(tau, real_dtype(g), batch)
        compiled().group_soft_threshold_fwd(
            DTYPES[g.dtype], g.data_ptr(), t.data_ptr(), y.data_ptr(), batch, channels, pixels, 1
        )
        return y
    numeric = g.is_floating_point() or g.is_complex()
    expect(g.ndim >= 2 and numeric, op, "g", "real or complex [B, C, ...]", g)
    batch, channels, *space = g.shape
    t = strength(tau, g, op, "tau")
    if t.ndim == 1 and t.shape[0] == batch:
        t = t.view(batch, *[1] * (g.ndim - 1))
    shape, whole = (1,) * (g.ndim - t.ndim) + tuple(t.shape), (batch, 1, *space)
    fits = t.ndim <= g.ndim and t.ndim != 1 and all(a in (1, b) for a, b in zip(shape, whole, strict=True))
    expect(fits, op, "tau", f"a number, shape ({batch},) or a shape that broadcasts to {whole}", tuple(t.shape))
    pixels = math.prod(space)
    varies = any(a != 1 for a in shape[2:])
    t = t.view(shape).expand(batch, 1, *(space if varies else shape[2:])).reshape(batch, pixels if varies else 1)
    return GroupSoftThreshold.call(g.contiguous().view(batch, channels, pixels), t).view(g.shape)
