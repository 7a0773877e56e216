"""kernels/fourier_consistency.py: residual, gradient and value of a masked least-squares term in k-space (Triton).

  k, y, residual, grad  [B, C, N]  complex     mask  [1 or B, 1 or C, N]  real or complex
  residual = m k - y, grad = conj(m) residual     value  [B]  float64: |residual|^2 / 2, in an order fixed by C, N
Definition: fastrecon/ops/fourier_consistency.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrecon.kernels.launch import TILE, blocks, launch, parts
from fastrecon.kernels.sums import ordered_sum


@triton.jit
def _consistency_kernel(
    K, Mask, Y, Residual, Grad, Partial, C, N, mask_image, mask_channel,
    MASK_PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(N, BLOCK)
    plane = (tl.program_id(0) // tiles).to(tl.int64)
    n = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    at = 2 * (plane * N + n)
    m = Mask + (plane // C * mask_image + plane % C * mask_channel + n) * MASK_PARTS
    a = tl.load(m, mask=mask, other=0.0)
    re = tl.load(K + at, mask=mask, other=0.0)
    im = tl.load(K + at + 1, mask=mask, other=0.0)
    y_re = tl.load(Y + at, mask=mask, other=0.0)
    y_im = tl.load(Y + at + 1, mask=mask, other=0.0)
    if MASK_PARTS == 1:
        r = a * re - y_re
        s = a * im - y_im
        g = a * r
        h = a * s
    else:
        b = tl.load(m + 1, mask=mask, other=0.0)
        r = a * re - b * im - y_re
        s = a * im + b * re - y_im
        g = a * r + b * s
        h = a * s - b * r
    tl.store(Residual + at, r, mask=mask)
    tl.store(Residual + at + 1, s, mask=mask)
    tl.store(Grad + at, g, mask=mask)
    tl.store(Grad + at + 1, h, mask=mask)
    wide_r = r.to(tl.float64)
    wide_s = s.to(tl.float64)
    tl.store(Partial + tl.program_id(0), tl.sum(wide_r * wide_r + wide_s * wide_s, axis=0) / 2)


def fourier_consistency(k: Tensor, mask: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns residual and grad like k, value float64 [B]."""
    if k.numel() == 0:
        return NotImplemented
    residual, grad = (torch.empty_like(k, memory_format=torch.contiguous_format) for _ in range(2))
    (B, C, N), (images, channels, _) = k.shape, mask.shape
    tiles = blocks(N, TILE)
    partial = torch.empty((B, C * tiles, 1), dtype=torch.float64, device=k.device)
    weights, count = parts(mask)
    arrays = (parts(k)[0], weights, parts(y)[0], parts(residual)[0], parts(grad)[0], partial)
    per = channels * N if images > 1 else 0, N if channels > 1 else 0
    launch(_consistency_kernel, B * C * tiles, *arrays, C, N, *per, MASK_PARTS=count, BLOCK=TILE)
    return residual, grad, ordered_sum(partial, torch.float64)[:, 0]
