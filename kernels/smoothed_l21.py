"""kernels/smoothed_l21.py: smoothed l2,1 norm and its gradient field in one pass over the features (Triton).

  g    [B, C, N]  features of B problems, N pixels   eps   [B]  smoothing radius of each problem, > 0
  dual [B, C, N]  d value / d g = g / max(|g|, eps)  norm  [B, N]  |g_n|, Euclidean over channels
  value [B]       sum_n h(|g_n|), h(t) = t^2 / (2 eps) for t <= eps, t - eps / 2 beyond
Definition: fastrecon/ops/smoothed_l21.py.  Maths: Chen, Liu, Ye & Zhang, arXiv:2007.11245, eqs. (8)-(9).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrecon.kernels.launch import blocks, group_tile, launch, ready
from fastrecon.kernels.scalar_math import divide, power_for, smoothed_norm, towards, widen
from fastrecon.kernels.sums import ordered_sum


@triton.jit
def _fwd_kernel(
    G, Eps, Dual, Norm, Partial, N, C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    tiles = tl.cdiv(N, BLOCK_N)
    b = (tl.program_id(0) // tiles).to(tl.int64)  # widen before multiplying by sizes
    n = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    scale = tl.full((BLOCK_N,), 1.0, tl.float64)
    if G.dtype.element_ty == tl.float64:  # squares of narrower types neither overflow nor vanish in float64
        big = tl.zeros((BLOCK_N,), tl.float64)
        for start in range(0, C, BLOCK_C):
            c = start + tl.arange(0, BLOCK_C)
            mask = (c < C)[:, None] & (n < N)[None, :]
            g = tl.abs(tl.load(G + (b * C + c[:, None]) * N + n[None, :], mask=mask, other=0.0))
            big = tl.maximum(big, tl.max(g, axis=0))
        scale = power_for(big)
    square = tl.zeros((BLOCK_N,), tl.float64)
    far_square = tl.zeros((BLOCK_N,), tl.float64)  # of the direction of a group with infinities
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        mask = (c < C)[:, None] & (n < N)[None, :]
        g = widen(tl.load(G + (b * C + c[:, None]) * N + n[None, :], mask=mask, other=0.0)).to(tl.float64)
        g *= scale[None, :]
        square += tl.sum(g * g, axis=0)
        far = towards(g)
        far_square += tl.sum(far * far, axis=0)
    eps = widen(tl.load(Eps + b))
    size = tl.sqrt(square)
    endless = size == float("inf")
    norm = (size / scale).to(eps.dtype)
    tl.store(Norm + b * N + n, norm, mask=n < N)
    share = tl.where(n < N, smoothed_norm(norm, eps), 0.0)
    # one slot per tile instead of an atomic: the same sum on every run
    tl.store(Partial + tl.program_id(0), tl.sum(share.to(tl.float64), axis=0))
    outside = (norm > eps) | (norm != norm)
    inverse = tl.where(outside, scale / tl.where(outside, size, 1.0), 1 / eps.to(tl.float64))[None, :]
    direction = 1 / tl.sqrt(tl.where(endless, far_square, 1.0))[None, :]
    for start in range(0, C, BLOCK_C):  # the features again, from the cache
        c = start + tl.arange(0, BLOCK_C)
        mask = (c < C)[:, None] & (n < N)[None, :]
        tile = (b * C + c[:, None]) * N + n[None, :]
        g = widen(tl.load(G + tile, mask=mask, other=0.0))
        if G.dtype.element_ty == tl.float64:  # divided: a single channel gives exactly 1
            h = tl.where(outside[None, :], g * scale[None, :] / tl.where(outside, size, 1.0)[None, :], g / eps)
        else:
            h = g.to(tl.float64) * inverse
        h = tl.where(endless[None, :], towards(g).to(tl.float64) * direction, h)
        tl.store(Dual + tile, h.to(widen(g).dtype).to(Dual.dtype.element_ty), mask=mask)


@triton.jit
def _bwd_kernel(
    DValue, DDual, Eps, Dual, Norm, DG, Partial, N, C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    tiles = tl.cdiv(N, BLOCK_N)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    n = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    eps = widen(tl.load(Eps + b))
    v = tl.load(DValue + b).to(eps.dtype)
    norm = tl.load(Norm + b * N + n, mask=n < N, other=0.0)
    along = tl.zeros((BLOCK_N,), norm.dtype)
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        mask = (c < C)[:, None] & (n < N)[None, :]
        tile = (b * C + c[:, None]) * N + n[None, :]
        y = widen(tl.load(Dual + tile, mask=mask, other=0.0))
        along += tl.sum(y * widen(tl.load(DDual + tile, mask=mask, other=0.0)), axis=0)
    small = norm <= eps
    radius = tl.maximum(norm, eps)
    ratio = divide(norm, radius)
    share = tl.where(small, -0.5 * v * ratio * ratio - divide(along, radius), -0.5 * v)
    tl.store(Partial + tl.program_id(0), tl.sum(tl.where(n < N, share, 0.0).to(tl.float64), axis=0))
    across = tl.where(small, 0.0, along)[None, :]  # within the ball the dual is linear in g: nothing to project out
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        mask = (c < C)[:, None] & (n < N)[None, :]
        tile = (b * C + c[:, None]) * N + n[None, :]
        y = widen(tl.load(Dual + tile, mask=mask, other=0.0))
        dy = widen(tl.load(DDual + tile, mask=mask, other=0.0))
        d_g = v * y + divide(dy - y * across, radius[None, :])
        tl.store(DG + tile, d_g.to(DG.dtype.element_ty), mask=mask)


def smoothed_l21_fwd(g: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns value [B] and norm [B, N] in at least float32, dual like g."""
    g, eps = ready(g), ready(eps)
    B, C, N = g.shape
    wide = torch.promote_types(g.dtype, torch.float32)
    tile = group_tile(C, N)
    tiles = blocks(N, tile["BLOCK_N"])
    dual, norm = torch.empty_like(g), torch.empty((B, N), dtype=wide, device=g.device)
    partial = torch.empty((B, tiles, 1), dtype=torch.float64, device=g.device)
    launch(_fwd_kernel, B * tiles, g, eps, dual, norm, partial, N, C=C, **tile)
    return ordered_sum(partial, wide)[:, 0], dual, norm


def smoothed_l21_bwd(d_value: Tensor, d_dual: Tensor, eps: Tensor, dual: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """Returns d_g like dual and d_eps like eps."""
    d_value, d_dual, eps, dual, norm = (ready(t) for t in (d_value, d_dual, eps, dual, norm))
    B, C, N = dual.shape
    tile = group_tile(C, N)
    tiles = blocks(N, tile["BLOCK_N"])
    d_g, partial = torch.empty_like(dual), torch.empty((B, tiles, 1), dtype=torch.float64, device=dual.device)
    launch(_bwd_kernel, B * tiles, d_value, d_dual, eps, dual, norm, d_g, partial, N, C=C, **tile)
    return d_g, ordered_sum(partial, eps.dtype)[:, 0]
