"""Soft thresholding, the proximal map of tau |x|, of real and complex arrays.

y = sign(x) max(|x| - tau, 0); complex: x max(1 - tau / |x|, 0). tau is a number or anything that broadcasts to x.
Source: Beck & Teboulle, A Fast Iterative Shrinkage-Thresholding Algorithm, SIAM J. Imaging Sci. 2 (2009), eq. (1.5).
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastrecon.checks import accepts_arrays, expect
from fastrecon.ops.function import Function, with_derivative
from fastrecon.ops.layout import DTYPES, collapse, parts, rescaled, shaped, single, strength, whole
from fastrecon.registry import compiled, define, extension


def shrink_factor(x: Tensor, tau: Tensor, *dims: int) -> Tensor:
    """max(1 - tau / |x|, 0) of groups of real numbers x along `dims`: 1 for infinite ones. NaN comes through."""
    _, norm, down = rescaled(x, *dims)
    t = tau.to(norm.dtype) * down
    return torch.where(norm <= t, 0, (norm - t) / norm)


def shrink_slopes(d_y: Tensor, x: Tensor, tau: Tensor, *dims: int) -> tuple[Tensor, Tensor]:
    """The derivative of group soft thresholding (0 where |x| <= tau): d_x like x, and d_tau of every group."""
    h, norm, down = rescaled(x, *dims)  # the derivative is the same at every scale
    t = tau.to(norm.dtype) * down
    above = norm > t
    n = torch.where(above, norm, 1)
    unit = h / n
    along = (unit * d_y).sum(dims, keepdim=True)
    return torch.where(above, d_y - t / n * (d_y - along * unit), 0), -torch.where(above, along, 0)


def soft_threshold_fwd_ref(x: Tensor, tau: Tensor) -> Tensor:
    """The definition, x [R, M, S], tau [M]: y like x."""
    if x.is_complex():
        p = parts(x)
        return whole(p * shrink_factor(p, tau[:, None, None], -1), x)
    return x.sign() * (x.abs() - tau[:, None]).clamp_min(0)


def soft_threshold_bwd_ref(d_y: Tensor, x: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """The definition of the derivative (0 where |x| <= tau). Returns d_x like x, d_tau [M]."""
    if x.is_complex():
        d_x, d_tau = shrink_slopes(parts(d_y), parts(x), tau[:, None, None], -1)
        return whole(d_x, x), d_tau.sum((0, 2, 3)).to(tau.dtype)
    d_x = torch.where(x.abs() > tau[:, None], d_y, 0)
    return d_x, -(x.sign() * d_x).sum((0, 2))


def _fwd_cpu(x: Tensor, tau: Tensor):
    if x.dtype not in DTYPES or x.numel() == 0:
        return NotImplemented
    x, tau = x.contiguous(), tau.contiguous()
    y = torch.empty_like(x)
    extension().soft_threshold_fwd(  # type: ignore[union-attr]
        DTYPES[x.dtype], x.data_ptr(), tau.data_ptr(), y.data_ptr(), *x.shape
    )
    return y


def _bwd_cpu(d_y: Tensor, x: Tensor, tau: Tensor):
    if x.dtype not in DTYPES or x.numel() == 0:
        return NotImplemented
    d_y, x, tau = d_y.contiguous(), x.contiguous(), tau.contiguous()
    d_x, d_tau = torch.empty_like(x), torch.empty_like(tau)
    extension().soft_threshold_bwd(  # type: ignore[union-attr]
        DTYPES[x.dtype], d_y.data_ptr(), x.data_ptr(), tau.data_ptr(), d_x.data_ptr(), d_tau.data_ptr(), *x.shape
    )
    return d_x, d_tau


_fwd = define(
    "soft_threshold_fwd(Tensor x, Tensor tau) -> Tensor",
    "soft_threshold",
    ref=soft_threshold_fwd_ref,
    cpu=_fwd_cpu,
    fake=lambda x, tau: shaped(x),
)
_bwd = define(
    "soft_threshold_bwd(Tensor d_y, Tensor x, Tensor tau) -> (Tensor d_x, Tensor d_tau)",
    "soft_threshold",
    ref=soft_threshold_bwd_ref,
    cpu=_bwd_cpu,
    fake=lambda d_y, x, tau: shaped(x, tau),
)


class SoftThreshold(Function):
    """x [R, M, S] and tau [M] to y, differentiable once in both."""

    definition = staticmethod(with_derivative(soft_threshold_fwd_ref, soft_threshold_bwd_ref))
    kernel = staticmethod(_fwd_cpu)

    @staticmethod
    def forward(x, tau):  # noqa: D102
        return _fwd(x, tau)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: D102
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_y):  # noqa: D102
        return _bwd(d_y, *ctx.saved_tensors)


@accepts_arrays
def soft_threshold(x: Tensor, tau: float | Tensor) -> Tensor:
    """Soft thresholding sign(x) max(|x| - tau, 0), the proximal map of tau |x|; complex: x max(1 - tau / |x|, 0).

    Args:
        x: real or complex, any shape.
        tau: threshold, >= 0: a number, or a real tensor that broadcasts to x.

    Returns:
        y like x, differentiable once in x and tau; the derivative where |x| = tau is taken as 0.

    Raises:
        ValueError: shapes, types or devices do not fit.
    """
    op = "soft_threshold"
    if (one := single(tau, x, op, "tau")) is not None:
        y = torch.empty_like(x)
        compiled().soft_threshold_fwd(DTYPES[x.dtype], x.data_ptr(), one.data_ptr(), y.data_ptr(), 1, 1, x.numel())
        return y
    expect(x.is_floating_point() or x.is_complex(), op, "x", "a real or complex tensor", x)
    return SoftThreshold.call(*collapse(x, strength(tau, x, op, "tau"), op, "tau")).view(x.shape)
