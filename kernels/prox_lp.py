"""kernels/prox_lp.py: the proximal map of lam |x|^p, 0 <= p <= 1, and its derivative, real or complex (Triton).

  x [R, M, S]   lam [M]  weights, >= 0
  y [R, M, S]   0 where |x| <= tau = K(p) lam^(1/(2-p)), K = (2-p) (2-2p)^((p-1)/(2-p)); else r x, r the root of
                f(r) = r - 1 + c r^(p-1), c = lam p |x|^(p-2), next to 1
  d_x = r d_y + (s - r) <u, d_y> u,  d_lam = -sum <u, d_y> s p |y|^(p-1),  u = x/|x|,  s = d|y|/d|x|
p = 1 is soft thresholding and computed without a power; so is p = 0, hard thresholding.
Definition: fastrecon/ops/prox_lp.py.  Maths: Zuo, Meng, Zhang, Feng & Zhang, ICCV 2013, solved by Halley's method.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrecon.kernels.launch import blocks, launch, parts, power_of_2, ready, strip_tile
from fastrecon.kernels.scalar_math import divide, power, rescaled, widen
from fastrecon.kernels.sums import ordered_sum


@triton.jit
def _strip(block_m, block_q, Q, M, S, ONE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_Q: tl.constexpr):
    """Offsets [BLOCK_M, BLOCK_Q] of a tile of [R, M, S] and their mask; q counts the Q = R x S entries of each m."""
    m = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    first = block_q.to(tl.int64) * BLOCK_Q
    q = first + tl.arange(0, BLOCK_Q)
    if ONE:
        offset = q[None, :] + m[:, None]
    else:  # divide in int32, relative to the tile's first row
        s = (first % S).to(tl.int32) + tl.arange(0, BLOCK_Q)
        offset = ((first // S + s // S)[None, :] * M + m[:, None]) * S + (s % S)[None, :]
    return offset, (m < M)[:, None] & (q < Q)[None, :]


@triton.jit
def _load(X, offset, mask, PARTS: tl.constexpr):
    """Real and imaginary parts; twice the number itself if it is real."""
    if PARTS == 1:
        x = widen(tl.load(X + offset, mask=mask, other=0.0))
        return x, x
    else:
        both = offset[:, :, None] * 2 + tl.arange(0, 2)[None, None, :]
        return tl.split(widen(tl.load(X + both, mask=mask[:, :, None], other=0.0)))


@triton.jit
def _store(Y, offset, re, im, mask, PARTS: tl.constexpr):
    if PARTS == 1:
        tl.store(Y + offset, re.to(Y.dtype.element_ty), mask=mask)
    else:
        both = offset[:, :, None] * 2 + tl.arange(0, 2)[None, None, :]
        tl.store(Y + both, tl.join(re, im).to(Y.dtype.element_ty), mask=mask[:, :, None])


@triton.jit
def _shrinkage(re, im, lam, P: tl.constexpr, STEPS: tl.constexpr, PARTS: tl.constexpr):
    """Whether |x| > tau; |x| (1 elsewhere); |y| / |x| (left out if P = 1 and x is real); c; x / |x| if complex, all
    [BLOCK_M, BLOCK_Q]."""
    if PARTS == 1:
        a = tl.abs(re)
        size = a
        scale = tl.zeros_like(a) + 1
    else:
        re, im, size, scale = rescaled(re, im)
        a = divide(size, scale)
    if P == 1:
        tau = lam
        above = size > lam * scale
    else:
        constant: tl.constexpr = (2 - P) * (2 - 2 * P) ** ((P - 1) / (2 - P))
        tau = tl.where(lam > 0, constant * power(tl.where(lam > 0, lam, 1.0), 1 / (2 - P)), 0.0)
        above = a > tau
    a = tl.where(above, a, 1.0)
    size = tl.where(above, size, 1.0)
    c = tl.zeros_like(a)
    r = c + 1
    if P == 1:
        r = divide(size - lam * scale, size) if PARTS == 2 else r  # a real number is shifted, not scaled
    elif P > 0:
        c = tl.where(above, divide(P * lam * power(a, P - 1), a), 0.0)
        for _ in tl.static_range(STEPS):
            u = c * power(r, P - 1)
            f = r - 1 + u
            slope = r - (1 - P) * u
            r -= divide(2 * r * f * slope, 2 * slope * slope - (1 - P) * (2 - P) * f * u)
    return above, a, r, c, divide(re, size), divide(im, size)


@triton.jit
def _fwd_kernel(
    X, Lam, Y, Q, M, S,
    P: tl.constexpr, STEPS: tl.constexpr, ONE: tl.constexpr, PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    columns = tl.cdiv(M, BLOCK_M)
    block_m = tl.program_id(0) % columns
    offset, mask = _strip(block_m, tl.program_id(0) // columns, Q, M, S, ONE, BLOCK_M, BLOCK_Q)
    m = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    lam = widen(tl.load(Lam + m, mask=m < M, other=0.0))[:, None]
    re, im = _load(X, offset, mask, PARTS)
    above, a, r, _, _, _ = _shrinkage(re, im, lam, P, STEPS, PARTS)
    keep = above | (re != re) | (im != im)  # NaN goes through
    if P == 1 and PARTS == 1:
        re = tl.where(re < 0, lam - a, tl.where(re > 0, a - lam, re))  # exact where x r is rounded twice
    else:
        re *= r
        im *= r
    _store(Y, offset, tl.where(keep, re, 0.0), tl.where(keep, im, 0.0), mask, PARTS)


@triton.jit
def _bwd_kernel(
    DY, X, Lam, DX, Partial, Q, M, S,
    P: tl.constexpr, STEPS: tl.constexpr, ONE: tl.constexpr, PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    columns = tl.cdiv(M, BLOCK_M)
    block_m = tl.program_id(0) % columns
    chunk = tl.program_id(0) // columns
    m = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    lam = widen(tl.load(Lam + m, mask=m < M, other=0.0))[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_Q), tl.float64)
    for i in range(BLOCKS):
        offset, mask = _strip(block_m, chunk.to(tl.int64) * BLOCKS + i, Q, M, S, ONE, BLOCK_M, BLOCK_Q)
        re, im = _load(X, offset, mask, PARTS)
        d_re, d_im = _load(DY, offset, mask, PARTS)
        above, a, r, c, u_re, u_im = _shrinkage(re, im, lam, P, STEPS, PARTS)
        if P == 0:
            slope = r
            rate = tl.zeros_like(r)
        elif P == 1:
            slope = tl.zeros_like(r) + 1
            rate = slope
        else:
            reached = power(r, P - 1)
            slope = divide(r, r - (1 - P) * c * reached)
            rate = slope * P * power(a, P - 1) * reached
        if PARTS == 1:
            d_x = slope * d_re
            along = tl.where(re < 0, -d_re, d_re)
        else:
            along = u_re * d_re + u_im * d_im
            d_x = r * d_re + (slope - r) * along * u_re
            d_im = r * d_im + (slope - r) * along * u_im
        _store(DX, offset, tl.where(above, d_x, 0.0), tl.where(above, d_im, 0.0), mask, PARTS)
        total -= tl.where(above & mask, along * rate, 0.0).to(tl.float64)
    tl.store(Partial + chunk.to(tl.int64) * M + m, tl.sum(total, axis=1), mask=m < M)


def _options(x: Tensor, p: float) -> dict[str, float]:
    _, M, S = x.shape
    steps = 5 if x.dtype in (torch.float64, torch.complex128) else 4  # to machine precision from r = 1 for every p
    return {
        "P": p,
        "STEPS": steps,
        "ONE": M == 1,
        "PARTS": 2 if x.is_complex() else 1,
        **strip_tile(M, S, x.element_size()),
    }


def prox_lp_fwd(x: Tensor, lam: Tensor, p: float) -> Tensor:
    """Returns y like x."""
    R, M, S = x.shape
    if S >= 2**30:
        return NotImplemented  # columns are counted in int32
    options, y = _options(x, p), torch.empty_like(x, memory_format=torch.contiguous_format)
    programs = blocks(M, options["BLOCK_M"]) * blocks(R * S, options["BLOCK_Q"])
    launch(_fwd_kernel, programs, parts(x)[0], ready(lam), parts(y)[0], R * S, M, S, **options)
    return y


def prox_lp_bwd(d_y: Tensor, x: Tensor, lam: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Returns d_x like x, d_lam like lam."""
    R, M, S = x.shape
    if S >= 2**30:
        return NotImplemented
    options, d_x = _options(x, p), torch.empty_like(x, memory_format=torch.contiguous_format)
    tiles = blocks(R * S, options["BLOCK_Q"])
    per_chunk = power_of_2(tiles, 1, 16)
    chunks = blocks(tiles, per_chunk)
    partial = torch.empty((1, chunks, M), dtype=torch.float64, device=x.device)
    launch(
        _bwd_kernel, blocks(M, options["BLOCK_M"]) * chunks, parts(d_y)[0], parts(x)[0], ready(lam), parts(d_x)[0],
        partial, R * S, M, S, BLOCKS=per_chunk, **options,
    )  # fmt: skip
    return d_x, ordered_sum(partial, lam.dtype)[0]
