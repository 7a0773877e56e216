"""Smoothed l2,1 norm of features and its gradient field.

value = sum_n h(|g_n|) with |g_n| the Euclidean norm over channels, h(t) = t^2 / (2 eps) for t <= eps and t - eps / 2
beyond; its gradient in g is the dual field g_n / max(|g_n|, eps).
Source: Chen, Liu, Ye & Zhang, Learnable Descent Algorithm for Nonsmooth Nonconvex Image Reconstruction
(arXiv:2007.11245), eqs. (8)-(10).
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastrecon.checks import accepts_arrays, expect, per_image
from fastrecon.ops.by_image import by_image
from fastrecon.ops.function import Function
from fastrecon.ops.layout import DTYPES, rescaled, shaped
from fastrecon.registry import define, extension


def smoothed_l21_fwd_ref(g: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The definition, g [B, C, N], eps [B]. Returns value [B] and norm [B, N] in at least float32, dual like g."""
    wide = g.to(torch.promote_types(g.dtype, torch.float32))
    h, size, down = rescaled(wide, 1)
    norm, e = (size / down)[:, 0], eps[:, None].to(wide.dtype)
    value = torch.where(norm <= e, norm * (norm / e) / 2, norm - e / 2).sum(-1)
    dual = torch.where((norm > e)[:, None], h / size, wide / torch.maximum(norm, e)[:, None])
    return value, dual.to(g.dtype), norm


def smoothed_l21_bwd_ref(
    d_value: Tensor, d_dual: Tensor, eps: Tensor, dual: Tensor, norm: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition of the derivative. Returns d_g like dual, d_eps [B]."""
    y, dy, e, v = dual.to(norm.dtype), d_dual.to(norm.dtype), eps[:, None].to(norm.dtype), d_value[:, None]
    small = norm <= e
    along = (y * dy).sum(1)
    across = torch.where(small, 0, along)[:, None]  # within the ball the dual is linear in g: nothing to project out
    d_g = v[:, None] * y + (dy - y * across) / torch.maximum(norm, e)[:, None]
    d_eps = torch.where(small, -v / 2 * (norm / e).square() - along / e, -v / 2).sum(-1)
    return d_g.to(dual.dtype), d_eps.to(eps.dtype)


def _fwd_cpu(g: Tensor, eps: Tensor):
    if g.dtype not in DTYPES or g.is_complex() or g.numel() == 0:
        return NotImplemented
    g, eps = g.contiguous(), eps.to(g.dtype).contiguous()
    value, dual, norm = torch.empty_like(eps), torch.empty_like(g), g.new_empty(g.shape[0], g.shape[2])
    extension().smoothed_l21_fwd(  # type: ignore[union-attr]
        DTYPES[g.dtype], g.data_ptr(), eps.data_ptr(), value.data_ptr(), dual.data_ptr(), norm.data_ptr(), *g.shape
    )
    return value, dual, norm


def _bwd_cpu(d_value: Tensor, d_dual: Tensor, eps: Tensor, dual: Tensor, norm: Tensor):
    if dual.dtype not in DTYPES or dual.is_complex() or dual.numel() == 0:
        return NotImplemented
    arguments = [t.to(dual.dtype).contiguous() for t in (d_value, d_dual, eps, dual, norm)]
    d_g, d_eps = torch.empty_like(arguments[3]), torch.empty_like(arguments[2])
    extension().smoothed_l21_bwd(  # type: ignore[union-attr]
        DTYPES[dual.dtype], *(t.data_ptr() for t in arguments), d_g.data_ptr(), d_eps.data_ptr(), *dual.shape
    )
    return d_g, d_eps


def _fwd_fake(g: Tensor, eps: Tensor):
    batch, _, pixels = g.shape
    wide = torch.promote_types(g.dtype, torch.float32)
    return g.new_empty(batch, dtype=wide), shaped(g), g.new_empty(batch, pixels, dtype=wide)


_fwd = define(
    "smoothed_l21_fwd(Tensor g, Tensor eps) -> (Tensor value, Tensor dual, Tensor norm)",
    "smoothed_l21",
    ref=by_image(smoothed_l21_fwd_ref, 0, 1),
    cpu=_fwd_cpu,
    fake=_fwd_fake,
)
_bwd = define(
    "smoothed_l21_bwd(Tensor d_value, Tensor d_dual, Tensor eps, Tensor dual, Tensor norm)"
    " -> (Tensor d_g, Tensor d_eps)",
    "smoothed_l21",
    ref=smoothed_l21_bwd_ref,
    cpu=_bwd_cpu,
    fake=lambda d_value, d_dual, eps, dual, norm: shaped(dual, eps),
)


class SmoothedL21(Function):
    """Value and dual, differentiable once in g and eps."""

    kernel = staticmethod(_fwd_cpu)

    @staticmethod
    def definition(g, eps):
        """In float64, where the squares of other types neither vanish nor overflow, and without 0 / 0 at g = 0."""
        norm, e = torch.linalg.vector_norm(g.double(), dim=1), eps[:, None].double()
        value = torch.where(norm <= e, norm * (norm / e) / 2, norm - e / 2).sum(-1)
        wide = torch.promote_types(g.dtype, torch.float32)
        return value.to(wide), (g / torch.maximum(norm, e)[:, None]).to(g.dtype), norm.to(wide)

    @staticmethod
    def forward(g, eps):  # noqa: D102
        return _fwd(g, eps)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: D102
        _, dual, norm = output
        ctx.mark_non_differentiable(norm)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[1], dual, norm)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_value, d_dual, _):  # noqa: D102
        eps, dual, norm = ctx.saved_tensors
        if d_dual is None:  # only the value is used: its gradient is already there
            if d_value is None:
                return None, None
            d_eps = -d_value / 2 * (norm / eps[:, None]).clamp_max(1).square().sum(-1)
            return d_value[:, None, None].to(dual.dtype) * dual, d_eps.to(eps.dtype)
        return _bwd(norm.new_zeros(eps.shape) if d_value is None else d_value, d_dual, eps, dual, norm)


@accepts_arrays
def smoothed_l21(g: Tensor, eps: float | Tensor) -> tuple[Tensor, Tensor]:
    """Smoothed l2,1 norm of g per image, and its gradient field.

    Args:
        g: real features [B, C, ...]; the Euclidean norm is taken over dimension 1.
        eps: smoothing radius, > 0: a number, or [B].

    Returns:
        value [B] (float32 for half precision) and dual = g / max(|g|, eps) like g, the gradient of value in g. Both are
        differentiable once in g and eps.

    Raises:
        ValueError: shapes, types or devices do not fit.

    Source: Chen, Liu, Ye & Zhang, arXiv:2007.11245, eqs. (8)-(10).
    """
    op = "smoothed_l21"
    expect(g.ndim >= 2 and g.is_floating_point(), op, "g", "real [B, C, ...]", g)
    flat = g.contiguous().view(g.shape[0], g.shape[1], math.prod(g.shape[2:]))
    value, dual, _ = SmoothedL21.call(flat, per_image(eps, g, op, "eps", above=0))
    return value, dual.view(g.shape)
