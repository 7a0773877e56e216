"""kernels/prox_gradient_step.py: one proximal gradient step, as a direction, with its sums, in one pass (Triton).

  x, grad, z  [B, N]  real or complex   z = soft(x - step grad, step lam) - x    step, lam  [1 or B, 1 or N]  real
  sums  [B, 3]  float64: Re <grad, z>, |z|^2, sum lam |x + z|, in an order that depends on N alone
Definition: fastrecon/ops/prox_gradient_step.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrecon.kernels.launch import TILE, blocks, launch, parts, ready
from fastrecon.kernels.scalar_math import divide, rescaled, widen
from fastrecon.kernels.sums import ordered_sum


@triton.jit
def _step_kernel(
    X, Grad, Step, Lam, Z, Partial, N, step_image, step_entry, lam_image, lam_entry,
    PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(N, BLOCK)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    n = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    at = (b * N + n) * PARTS
    step = widen(tl.load(Step + b * step_image + n * step_entry, mask=mask, other=0.0))
    lam = widen(tl.load(Lam + b * lam_image + n * lam_entry, mask=mask, other=0.0))
    tau = step * lam
    x = widen(tl.load(X + at, mask=mask, other=0.0))
    g = widen(tl.load(Grad + at, mask=mask, other=0.0))
    u = x - step * g
    if PARTS == 1:
        size = tl.maximum(tl.abs(u) - tau, 0.0, propagate_nan=tl.PropagateNan.ALL)
        z = tl.where(u < 0, -size, size) - x
    else:
        x_im = widen(tl.load(X + at + 1, mask=mask, other=0.0))
        g_im = widen(tl.load(Grad + at + 1, mask=mask, other=0.0))
        u_im = x_im - step * g_im
        _, _, norm, scale = rescaled(u, u_im)
        keep = norm <= tau * scale
        factor = tl.where(keep, 0.0, divide(norm - tau * scale, tl.where(keep, 1.0, norm)))
        size = divide(norm, scale) * factor
        z = u * factor - x
        z_im = (u_im * factor - x_im).to(Z.dtype.element_ty)
        tl.store(Z + at + 1, z_im, mask=mask)
    z = z.to(Z.dtype.element_ty)
    tl.store(Z + at, z, mask=mask)
    wide_g = g.to(tl.float64)
    wide_z = z.to(tl.float64)
    slope = wide_g * wide_z
    square = wide_z * wide_z
    if PARTS == 2:
        wide_g = g_im.to(tl.float64)
        wide_z = z_im.to(tl.float64)
        slope += wide_g * wide_z
        square += wide_z * wide_z
    out = Partial + tl.program_id(0).to(tl.int64) * 3
    tl.store(out, tl.sum(slope, axis=0))
    tl.store(out + 1, tl.sum(square, axis=0))
    tl.store(out + 2, tl.sum((lam * size).to(tl.float64), axis=0))


@triton.jit
def _squares_kernel(X, Minus, Partial, N, DIFFER: tl.constexpr, BLOCK: tl.constexpr):
    tiles = tl.cdiv(N, BLOCK)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    n = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(X + b * N + n, mask=n < N, other=0.0).to(tl.float64)
    if DIFFER:
        x -= tl.load(Minus + b * N + n, mask=n < N, other=0.0).to(tl.float64)
    tl.store(Partial + tl.program_id(0), tl.sum(x * x, axis=0))


def squares(x: Tensor, minus: Tensor | None = None) -> Tensor:
    """Returns |x - minus|^2 float64 [B] of x [B, N]."""
    if x.numel() == 0:
        return NotImplemented
    N = x[:1].numel() * (2 if x.is_complex() else 1)
    numbers, others = parts(x)[0], parts(x if minus is None else minus)[0]
    tiles = blocks(N, TILE)
    partial = torch.empty((len(x), tiles, 1), dtype=torch.float64, device=x.device)
    launch(_squares_kernel, len(x) * tiles, numbers, others, partial, N, DIFFER=minus is not None, BLOCK=TILE)
    return ordered_sum(partial, torch.float64)[:, 0]


def strides(value: Tensor) -> tuple[int, int]:
    """Strides of [1 or B, 1 or N] that repeat what is 1."""
    return (value.shape[1] if value.shape[0] > 1 else 0), int(value.shape[1] > 1)


def prox_gradient_step(x: Tensor, grad: Tensor, step: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    """Returns z like x, sums float64 [B, 3]."""
    if x.numel() == 0:
        return NotImplemented
    z, step, lam = torch.empty_like(x, memory_format=torch.contiguous_format), ready(step), ready(lam)
    (B, N), count = x.shape, 2 if x.is_complex() else 1
    block = TILE // count
    tiles = blocks(N, block)
    partial = torch.empty((B, tiles, 3), dtype=torch.float64, device=x.device)
    arrays = (parts(x)[0], parts(grad)[0], step, lam, parts(z)[0], partial)
    launch(_step_kernel, B * tiles, *arrays, N, *strides(step), *strides(lam), PARTS=count, BLOCK=block)
    return z, ordered_sum(partial, torch.float64)
