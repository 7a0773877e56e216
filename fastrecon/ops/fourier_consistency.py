"""Residual, gradient and value of a masked least-squares term in k-space, in one pass over it.

For f = |m k - y|^2 / 2 with k the (unitary) Fourier transform of an image and m a mask or a transfer function:
residual = m k - y, grad = conj(m) residual, value = |residual|^2 / 2. The inverse transform of grad is the gradient
of f in the image.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastrecon.checks import accepts_arrays, describe, expect
from fastrecon.ops.by_image import by_image
from fastrecon.ops.function import Function, differentiated
from fastrecon.ops.layout import DTYPES, real_dtype, shaped
from fastrecon.registry import compiled, define


def fourier_consistency_ref(k: Tensor, mask: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The definition, k and y [B, C, N], mask [1 or B, 1 or C, N]: residual and grad like k, value float64 [B]."""
    residual = mask * k - y
    value = residual.to(torch.complex128).abs().square().sum((1, 2)) / 2
    return residual, mask.conj() * residual, value


def _cpu(k: Tensor, mask: Tensor, y: Tensor):
    if k.dtype not in (torch.complex64, torch.complex128) or k.numel() == 0:
        return NotImplemented
    k, mask, y = (t.resolve_conj().resolve_neg().contiguous() for t in (k, mask, y))
    residual, grad, value = torch.empty_like(k), torch.empty_like(k), torch.empty(len(k), dtype=torch.float64)
    images, channels, n = mask.shape
    compiled().fourier_consistency(
        DTYPES[k.dtype], *(t.data_ptr() for t in (k, mask, y, residual, grad, value)), *k.shape,
        channels * n if images > 1 else 0, n if channels > 1 else 0, mask.is_complex(),
    )  # fmt: skip
    return residual, grad, value


_consistency = define(
    "fourier_consistency(Tensor k, Tensor mask, Tensor y) -> (Tensor residual, Tensor grad, Tensor value)",
    "fourier_consistency",
    ref=by_image(fourier_consistency_ref, 0, 1, 2),
    cpu=_cpu,
    fake=lambda k, mask, y: (*shaped(k, k), k.new_empty(k.shape[0], dtype=torch.float64)),
)


class FourierConsistency(Function):
    """Differentiable once in k and y."""

    definition = staticmethod(fourier_consistency_ref)

    @staticmethod
    def forward(k, mask, y):  # noqa: D102
        return _consistency(k, mask, y)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: D102
        ctx.save_for_backward(inputs[1], output[0])

    @staticmethod
    @once_differentiable
    def backward(ctx, d_residual, d_grad, d_value):  # noqa: D102
        mask, residual = ctx.saved_tensors
        weight = d_value.to(real_dtype(residual))[:, None, None]
        d = d_residual + mask * d_grad + weight * residual  # of the residual, by all three ways
        return mask.conj() * d, None, -d


@accepts_arrays
def fourier_consistency(k: Tensor, mask: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Residual m k - y, gradient conj(m) (m k - y) and value |m k - y|^2 / 2 in k-space.

    Args:
        k: Fourier transforms [B, C, H, W], complex.
        mask: m, real or complex, of the precision of k: [H, W], or [B, 1, H, W], [1, C, H, W], [B, C, H, W].
        y: measurements on the full grid, like k.

    Returns:
        residual and grad like k, value [B] in float64; differentiable once in k and y, not in the mask.

    Raises:
        ValueError: shapes, types or devices do not fit, or the mask requires gradients.
    """
    op = "fourier_consistency"
    expect(k.ndim == 4 and k.is_complex(), op, "k", "complex [B, C, H, W]", k)
    same = y.shape == k.shape and y.dtype == k.dtype and y.device == k.device
    expect(same, op, "y", k, y)
    shape = (1,) * (4 - mask.ndim) + tuple(mask.shape)
    fits = len(shape) == 4 and shape[2:] == k.shape[2:] and shape[0] in (1, k.shape[0]) and shape[1] in (1, k.shape[1])
    fits = fits and mask.device == k.device
    expect(fits, op, "mask", f"[H, W] or [B or 1, C or 1, H, W] for {describe(k)}", mask)
    expect(mask.dtype in (k.dtype, real_dtype(k)), op, "mask", f"dtype {real_dtype(k)} or {k.dtype}", mask.dtype)
    learned = differentiated(mask)
    expect(not learned, op, "mask", "a mask that requires no gradients: there are none", "requires_grad or a tangent")
    flat = (k.contiguous().flatten(2), mask.reshape(shape).contiguous().flatten(2), y.contiguous().flatten(2))
    residual, grad, value = FourierConsistency.call(*flat)
    return residual.view(k.shape), grad.view(k.shape), value
