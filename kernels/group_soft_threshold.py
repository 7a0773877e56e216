"""kernels/group_soft_threshold.py: shrinkage of channel vectors in Euclidean norm, real or complex (Triton).

  g [B, C, N]  groups g[b, :, n]    tau [B, M]  thresholds, >= 0, M = 1 or N    y [B, C, N]  g_n max(1 - tau_n/|g_n|, 0)
  d_g = (1 - tau/|g|) d_y + tau/|g| <u, d_y> u and d_tau = -<u, d_y>, u = g/|g|, where |g| > tau; 0 elsewhere
A complex tensor is read as [B, C, N, 2] real numbers: the Euclidean norm and the derivative are those of R^2.
Definition: fastrecon/ops/group_soft_threshold.py.  Maths: Yuan & Lin, J. R. Stat. Soc. B 68 (2006).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrecon.kernels.launch import blocks, group_tile, launch, parts, ready
from fastrecon.kernels.scalar_math import power_for, towards, widen
from fastrecon.kernels.sums import ordered_sum


@triton.jit
def _tile(b, n, start, N, C: tl.constexpr, BLOCK_C: tl.constexpr, PARTS: tl.constexpr):
    """Offsets and mask [BLOCK_C, PARTS, BLOCK_N] of channels start, start + 1, ... at pixels n of problem b."""
    c = (start + tl.arange(0, BLOCK_C))[:, None, None]
    part = tl.arange(0, PARTS)[None, :, None]
    return ((b * C + c) * N + n[None, None, :]) * PARTS + part, (c < C) & (n < N)[None, None, :] & (part < PARTS)


@triton.jit
def _kernel(
    DY, G, Tau, Out, DTau, N,
    C: tl.constexpr, ONE: tl.constexpr, PARTS: tl.constexpr, BACKWARD: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(N, BLOCK_N)
    b = (tl.program_id(0) // tiles).to(tl.int64)  # widen before multiplying by sizes
    n = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    scale = tl.full((BLOCK_N,), 1.0, tl.float64)
    if G.dtype.element_ty == tl.float64:  # squares of narrower types neither overflow nor vanish in float64
        big = tl.zeros((BLOCK_N,), tl.float64)
        for start in range(0, C, BLOCK_C):
            tile, mask = _tile(b, n, start, N, C, BLOCK_C, PARTS)
            g = tl.abs(tl.load(G + tile, mask=mask, other=0.0))
            big = tl.maximum(big, tl.max(tl.max(g, axis=1), axis=0))
        scale = power_for(big)
    square = tl.zeros((BLOCK_N,), tl.float64)
    inner = tl.zeros((BLOCK_N,), tl.float64)
    far_square = tl.zeros((BLOCK_N,), tl.float64)  # of the direction of a group with infinities
    far_inner = tl.zeros((BLOCK_N,), tl.float64)
    for start in range(0, C, BLOCK_C):
        tile, mask = _tile(b, n, start, N, C, BLOCK_C, PARTS)
        g = widen(tl.load(G + tile, mask=mask, other=0.0)).to(tl.float64) * scale[None, None, :]
        square += tl.sum(tl.sum(g * g, axis=1), axis=0)
        if BACKWARD:
            d = widen(tl.load(DY + tile, mask=mask, other=0.0)).to(tl.float64)
            inner += tl.sum(tl.sum(g * d, axis=1), axis=0)
            far = towards(g)
            far_square += tl.sum(tl.sum(far * far, axis=1), axis=0)
            far_inner += tl.sum(tl.sum(far * d, axis=1), axis=0)
    m = b + n * 0 if ONE else b * N + n
    tau = widen(tl.load(Tau + m, mask=n < N, other=0.0))
    norm = tl.sqrt(square)
    limit = tau.to(tl.float64) * scale
    inside = norm <= limit
    endless = norm == float("inf")
    safe = tl.where(inside, 1.0, norm)
    factor = tl.where(inside, 0.0, tl.where(endless, 1.0, (norm - limit) / safe)).to(tau.dtype)
    along = tl.where(endless, far_inner / tl.sqrt(tl.where(endless, far_square, 1.0)), inner / safe)
    along = tl.where(inside, 0.0, along).to(tau.dtype)
    inverse = tl.where(inside | endless, 0.0, scale / safe)
    if BACKWARD:
        if ONE:
            tl.store(DTau + tl.program_id(0), tl.sum(-along.to(tl.float64), axis=0))
        else:
            tl.store(DTau + m, (-along).to(DTau.dtype.element_ty), mask=n < N)
    radial = tl.where(inside | endless, 0.0, (limit / safe).to(tau.dtype) * along)
    for start in range(0, C, BLOCK_C):  # the groups again, from the cache
        tile, mask = _tile(b, n, start, N, C, BLOCK_C, PARTS)
        g = widen(tl.load(G + tile, mask=mask, other=0.0))
        if BACKWARD:
            d = widen(tl.load(DY + tile, mask=mask, other=0.0))
            unit = tl.where(endless[None, None, :], 0.0, g.to(tl.float64) * inverse[None, None, :]).to(g.dtype)
            out = factor[None, None, :] * d + radial[None, None, :] * unit
        else:
            out = factor[None, None, :] * g
        tl.store(Out + tile, out.to(Out.dtype.element_ty), mask=mask)


def group_soft_threshold_fwd(g: Tensor, tau: Tensor) -> Tensor:
    """Returns y like g."""
    B, C, N = g.shape
    (real, count), tau, y = parts(g), ready(tau), torch.empty_like(g, memory_format=torch.contiguous_format)
    tile = group_tile(C, N, count)
    launch(
        _kernel, B * blocks(N, tile["BLOCK_N"]), real, real, tau, parts(y)[0], real, N,
        C=C, ONE=tau.shape[1] == 1, PARTS=count, BACKWARD=False, **tile,
    )  # fmt: skip
    return y


def group_soft_threshold_bwd(d_y: Tensor, g: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Returns d_g like g and d_tau like tau."""
    B, C, N = g.shape
    (real, count), tau, d_g = parts(g), ready(tau), torch.empty_like(g, memory_format=torch.contiguous_format)
    tile = group_tile(C, N, 2 * count)  # two arrays: half as many of each, or registers spill
    tiles = blocks(N, tile["BLOCK_N"])
    one = tau.shape[1] == 1
    d_tau = torch.empty((B, tiles, 1), dtype=torch.float64, device=g.device) if one else torch.empty_like(tau)
    launch(
        _kernel, B * tiles, parts(d_y)[0], real, tau, parts(d_g)[0], d_tau, N,
        C=C, ONE=one, PARTS=count, BACKWARD=True, **tile,
    )  # fmt: skip
    return d_g, ordered_sum(d_tau, tau.dtype) if one else d_tau
