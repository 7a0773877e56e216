"""One proximal gradient step for f(x) + |lam x|_1, as a direction, with the sums that decide about it, in one pass.

z = soft(x - step grad, step lam) - x. The step may be a number per image (ISTA) or a diagonal metric (scaled gradient
projection).
Source: Beck & Teboulle, SIAM J. Imaging Sci. 2 (2009), eq. (1.4); Bonettini, Loris, Porta & Prato, Variable Metric
Inexact Line-Search-Based Methods for Nonsmooth Optimization, SIAM J. Optim. 26 (2016).
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastrecon.checks import accepts_arrays, expect
from fastrecon.ops.by_image import by_image
from fastrecon.ops.function import Function, differentiated, transformed
from fastrecon.ops.layout import (
    DTYPES,
    Size,
    Weights,
    alike,
    outputs,
    plain,
    prepare,
    real_dtype,
    rows,
    shaped,
    size_of,
    spread_over,
    weights,
)
from fastrecon.ops.soft_threshold import SoftThreshold, soft_threshold_fwd_ref
from fastrecon.registry import compiled, define


def prox_gradient_step_ref(
    x: Tensor, grad: Tensor, step: Tensor, lam: Tensor, soft: Callable[..., Tensor] = soft_threshold_fwd_ref
) -> tuple[Tensor, Tensor]:
    """The definition, x and grad [B, N], step and lam [1 or B, 1 or N]: z like x, sums [B, 3] in float64.

    The sums are Re <grad, z>, |z|^2 and sum lam |x + z|.
    """
    u, tau = x - step * grad, (step * lam).expand(x.shape)
    p = soft(u.reshape(1, -1, 1), tau.reshape(-1)).view(x.shape)
    z = p - x
    wide = torch.complex128 if x.is_complex() else torch.float64
    g, d = grad.to(wide), z.to(wide)
    slope = (g.conj() * d).real.sum(1) if x.is_complex() else (g * d).sum(1)
    l1 = (lam.double() * p.to(wide).abs()).sum(1)
    return z, torch.stack((slope, d.abs().square().sum(1), l1), 1)


def strides(value: Tensor) -> tuple[int, int]:
    """Strides of [1 or B, 1 or N] that repeat what is 1."""
    return (value.shape[1] if value.shape[0] > 1 else 0), int(value.shape[1] > 1)


def _cpu(x: Tensor, grad: Tensor, step: Tensor, lam: Tensor):
    real = real_dtype(x)
    if x.dtype not in DTYPES or x.numel() == 0 or step.dtype != real or lam.dtype != real:
        return NotImplemented
    step, lam = step.contiguous(), lam.contiguous()
    x, grad, sums = plain(x), plain(grad), torch.empty(len(x), 3, dtype=torch.float64)
    given = (step, step.data_ptr(), *strides(step)), (lam, lam.data_ptr(), *strides(lam))
    return _stepped(size_of(x), x, x.data_ptr(), grad.data_ptr(), *given, sums.data_ptr()), sums


def _stepped(size: Size, x: Tensor, x_at: int, grad_at: int, steps: Weights, weights: Weights, sums: int) -> Tensor:
    (code, batch, count), (_, step, step_image, step_entry), (_, lam, lam_image, lam_entry) = size, steps, weights
    z = torch.empty_like(x)
    compiled().prox_gradient_step(
        code, x_at, grad_at, step, lam, z.data_ptr(), sums, batch, count, step_image, step_entry,
        lam_image, lam_entry,
    )  # fmt: skip
    return z


def squares_ref(x: Tensor, minus: Tensor | None = None) -> Tensor:
    """The definition, x and minus [B, N]: |x - minus|^2 [B], difference and sum in float64."""
    wide = torch.complex128 if x.is_complex() else torch.float64
    return (x.to(wide) if minus is None else x.to(wide) - minus.to(wide)).abs().square().sum(1)


def _squares_cpu(x: Tensor, minus: Tensor | None = None):
    if x.dtype not in DTYPES or x.numel() == 0:
        return NotImplemented
    return _squared(size_of(x), plain(x), None if minus is None else plain(minus))


def _squared(size: Size, x: Tensor, minus: Tensor | None) -> Tensor:
    (code, batch, count), other = size, x if minus is None else minus
    out, address = outputs("d", batch)
    compiled().squares(code, x.data_ptr(), other.data_ptr(), address, minus is not None, batch, count)
    return out


_squares = define(
    "squares(Tensor x, Tensor? minus=None) -> Tensor",
    "prox_gradient_step",
    ref=by_image(squares_ref, 0, 1),
    cpu=_squares_cpu,
    fake=lambda x, minus=None: x.new_empty(x.shape[0], dtype=torch.float64),
)
_step = define(
    "prox_gradient_step(Tensor x, Tensor grad, Tensor step, Tensor lam) -> (Tensor z, Tensor sums)",
    "prox_gradient_step",
    ref=by_image(prox_gradient_step_ref, 0, 1, 2, 3),
    cpu=_cpu,
    fake=lambda x, grad, step, lam: (shaped(x), x.new_empty(x.shape[0], 3, dtype=torch.float64)),
)


class ProxGradientStep(Function):
    """z, differentiable once in all inputs; the sums decide and are not differentiated."""

    definition = staticmethod(partial(prox_gradient_step_ref, soft=SoftThreshold.definition))
    kernel = staticmethod(_cpu)

    @staticmethod
    def forward(x, grad, step, lam):  # noqa: D102
        return _step(x, grad, step, lam)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: D102
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_z, _):  # noqa: D102
        x, grad, step, lam = ctx.saved_tensors
        u, tau = x - step * grad, (step * lam).expand(x.shape)
        d_u, d_tau = torch.ops.fastrecon.soft_threshold_bwd(d_z.reshape(1, -1, 1), u.reshape(1, -1, 1), tau.reshape(-1))
        d_u, d_tau = d_u.view(x.shape), d_tau.view(x.shape)
        along = (grad.conj() * d_u).real if x.is_complex() else grad * d_u
        d_step = (lam * d_tau - along).sum_to_size(step.shape)
        return d_u - d_z, -step * d_u, d_step, (step * d_tau).sum_to_size(lam.shape)


@accepts_arrays
def prox_gradient_step(
    x: Tensor, grad: Tensor, step: float | Tensor, lam: float | Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The direction z = soft(x - step grad, step lam) - x from x to its proximal gradient step, and three sums.

    Args:
        x: iterates [B, ...], real or complex.
        grad: gradient of the smooth term at x, like x.
        step: > 0: a number, [B], or real and broadcastable to x (a diagonal metric).
        lam: weight of |x|_1, >= 0, in the same forms.

    Returns:
        z like x, differentiable once in all inputs (derivative of the shrinkage 0 where it thresholds to 0), and per
        image in float64, not differentiable: slope = Re <grad, z>, square = |z|^2, l1 = sum_i lam_i |x_i + z_i|.

    Raises:
        ValueError: shapes, types or devices do not fit.
    """
    op = "prox_gradient_step"
    if found := prepare("3", 2, x, grad):
        steps, strength = weights(step, x, op, "step", "above"), weights(lam, x, op, "lam")
        if steps and strength:
            code, batch, count, slope, square, l1, x_at, grad_at, sums = found
            return _stepped((code, batch, count), x, x_at, grad_at, steps, strength, sums), slope, square, l1
    if not (x.ndim >= 1 and (x.is_floating_point() or x.is_complex())):
        expect(False, op, "x", "a real or complex tensor [B, ...]", x)
    if not (grad.shape == x.shape and grad.dtype == x.dtype and grad.device == x.device):
        expect(False, op, "grad", x, grad)
    steps, strength = spread_over(step, x, op, "step", "> 0"), spread_over(lam, x, op, "lam")
    z, sums = ProxGradientStep.call(rows(x), rows(grad), steps, strength)
    slope, square, l1 = sums.unbind(1)
    return z.view(x.shape), slope, square, l1


@accepts_arrays
def squares(x: Tensor, minus: Tensor | None = None) -> Tensor:
    """|x - minus|^2 of every image [B] in float64; not differentiable, it serves decisions.

    Args:
        x: [B, ...], real or complex.
        minus: like x; the difference is formed in float64, and no array of it. None: zero.

    Raises:
        ValueError: x is not numeric, minus is not like it, or one requires gradients.
    """
    if size := alike(1, x) if minus is None else alike(2, x, minus):
        return _squared(size, x, minus)
    if not (x.ndim >= 1 and (x.is_floating_point() or x.is_complex())):
        expect(False, "squares", "x", "a real or complex tensor [B, ...]", x)
    if minus is not None and not (minus.shape == x.shape and minus.dtype == x.dtype and minus.device == x.device):
        expect(False, "squares", "minus", x, minus)
    if differentiated(x, minus):
        name = "x" if differentiated(x) else "minus"
        expect(False, "squares", name, "no gradients asked for: detach it", "requires_grad or tangents")
    function = squares_ref if transformed() else _squares
    return function(rows(x), None if minus is None else rows(minus))
