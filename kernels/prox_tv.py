"""kernels/prox_tv.py: the proximal map of total variation by fast gradient projection on the dual (Triton).

  y, x [B, G, H, W]   p, dual [B, G, 2, H, W]   lam [B]   sums [B, 2] float64: gap, objective   count [B] int64
Definition: fastrecon/ops/prox_tv.py.

An iteration is one launch: a program makes x = y - D* q of its pixels and of those right and below of them anew, which
lie in the cache. Three dual arrays take turns. Every eight iterations two launches look at the gap: an image that is
done costs no memory traffic from then on, and the host never asks.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrecon.kernels.launch import blocks, launch, ready
from fastrecon.kernels.scalar_math import divide, root
from fastrecon.kernels.sums import ordered_sum

BLOCK = 512  # pixels of a program
LOOK = 8  # iterations between two looks at the gap, as of the definition


@triton.jit
def _momentum_kernel(Weight, N):
    """w_j = (t_j - 1) / t_(j+1), j iterations after a start or restart."""
    t = tl.load(Weight)  # 1, in float64
    j = 0
    while j < N:
        following = (1.0 + root(1.0 + 4.0 * t * t)) / 2.0
        tl.store(Weight + j, (t - 1.0) / following)
        t = following
        j += 1


@triton.jit
def _momentum(U, Old, weight, at, mask):
    u = tl.load(U + at, mask=mask, other=0.0)
    return u + weight * (u - tl.load(Old + at, mask=mask, other=0.0))


@triton.jit
def _primal(Y, U, Old, weight, y_at, u_at, c, r, W, HW, mask):
    """x = y - D* q at pixel (r, c), q = u + weight (u - old)."""
    right = _momentum(U, Old, weight, u_at, mask)
    left = _momentum(U, Old, weight, u_at - 1, mask & (c > 0))
    down = _momentum(U, Old, weight, u_at + HW, mask)
    above = _momentum(U, Old, weight, u_at + HW - W, mask & (r > 0))
    return tl.load(Y + y_at, mask=mask, other=0.0) - ((left - right) + (above - down))


@triton.jit
def _pixels(HW, W, BLOCK: tl.constexpr):
    tiles = tl.cdiv(HW, BLOCK)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    i = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    return b, i, i // W, i % W, i < HW


@triton.jit
def _start_kernel(P, Lam, U, H, W, HW, G: tl.constexpr, ISOTROPIC: tl.constexpr, BLOCK: tl.constexpr):
    """u = lam p, within the ball, and 0 where there is no difference."""
    b, i, r, c, mask = _pixels(HW, W, BLOCK)
    lam = tl.load(Lam + b)
    across = tl.zeros((BLOCK,), U.dtype.element_ty)
    along = tl.zeros((BLOCK,), U.dtype.element_ty)
    for g in range(G):
        at = (b * G + g) * 2 * HW + i
        a = lam * tl.load(P + at, mask=mask & (c < W - 1), other=0.0)
        d = lam * tl.load(P + at + HW, mask=mask & (r < H - 1), other=0.0)
        across += a * a
        along += d * d
    keep_a, keep_d = _shrinkage(across, along, lam, ISOTROPIC)
    for g in range(G):
        at = (b * G + g) * 2 * HW + i
        a = lam * tl.load(P + at, mask=mask & (c < W - 1), other=0.0)
        d = lam * tl.load(P + at + HW, mask=mask & (r < H - 1), other=0.0)
        tl.store(U + at, a * keep_a, mask=mask)
        tl.store(U + at + HW, d * keep_d, mask=mask)


@triton.jit
def _shrinkage(across, along, lam, ISOTROPIC: tl.constexpr):
    """What the projection multiplies both directions by, from their sums of squares."""
    if ISOTROPIC:
        across = across + along
        along = across
    size_a = root(across)
    size_d = root(along)
    keep_a = tl.where(size_a > lam, divide(lam + 0 * size_a, tl.where(size_a > lam, size_a, 1.0)), 1.0)
    keep_d = tl.where(size_d > lam, divide(lam + 0 * size_d, tl.where(size_d > lam, size_d, 1.0)), 1.0)
    return keep_a, keep_d


@triton.jit
def _step_kernel(
    Y, Lam, U, Old, New, Weight, Since, Done, k, H, W, HW,
    G: tl.constexpr, ISOTROPIC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    b, i, r, c, mask = _pixels(HW, W, BLOCK)
    mask = mask & (tl.load(Done + b) == 0)
    lam = tl.load(Lam + b)
    j = k - tl.load(Since + b)
    weight = tl.where(j > 0, tl.load(Weight + tl.maximum(j - 1, 0)), 0.0).to(Y.dtype.element_ty)
    across = tl.zeros((BLOCK,), Y.dtype.element_ty)
    along = tl.zeros((BLOCK,), Y.dtype.element_ty)
    last_c = c == W - 1
    last_r = r == H - 1
    for g in range(G):
        y_at = (b * G + g) * HW + i
        u_at = (b * G + g) * 2 * HW + i
        x = _primal(Y, U, Old, weight, y_at, u_at, c, r, W, HW, mask)
        beside = _primal(Y, U, Old, weight, y_at + 1, u_at + 1, c + 1, r, W, HW, mask & (c < W - 1))
        under = _primal(Y, U, Old, weight, y_at + W, u_at + W, c, r + 1, W, HW, mask & (r < H - 1))
        a = _momentum(U, Old, weight, u_at, mask) + tl.where(last_c, 0.0, beside - x) / 8
        d = _momentum(U, Old, weight, u_at + HW, mask) + tl.where(last_r, 0.0, under - x) / 8
        tl.store(New + u_at, a, mask=mask)
        tl.store(New + u_at + HW, d, mask=mask)
        across += a * a
        along += d * d
    keep_a, keep_d = _shrinkage(across, along, lam, ISOTROPIC)
    tl.debug_barrier()
    for g in range(G):
        u_at = (b * G + g) * 2 * HW + i
        a = tl.load(New + u_at, mask=mask, other=0.0)
        d = tl.load(New + u_at + HW, mask=mask, other=0.0)
        tl.store(New + u_at, a * keep_a, mask=mask)
        tl.store(New + u_at + HW, d * keep_d, mask=mask)


@triton.jit
def _look_kernel(
    Y, Lam, U, Done, Partial, H, W, HW,
    G: tl.constexpr, ISOTROPIC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of each tile: lam |D x| - <D x, u>, and lam |D x| + |x - y|^2 / 2."""
    b, i, r, c, mask = _pixels(HW, W, BLOCK)
    mask = mask & (tl.load(Done + b) == 0)
    across = tl.zeros((BLOCK,), tl.float64)
    along = tl.zeros((BLOCK,), tl.float64)
    product = tl.zeros((BLOCK,), tl.float64)
    data = tl.zeros((BLOCK,), tl.float64)
    last_c = c == W - 1
    last_r = r == H - 1
    for g in range(G):
        y_at = (b * G + g) * HW + i
        u_at = (b * G + g) * 2 * HW + i
        x = _primal(Y, U, U, 0.0, y_at, u_at, c, r, W, HW, mask)
        beside = _primal(Y, U, U, 0.0, y_at + 1, u_at + 1, c + 1, r, W, HW, mask & (c < W - 1))
        under = _primal(Y, U, U, 0.0, y_at + W, u_at + W, c, r + 1, W, HW, mask & (r < H - 1))
        a = tl.where(last_c, 0.0, beside - x).to(tl.float64)
        d = tl.where(last_r, 0.0, under - x).to(tl.float64)
        across += a * a
        along += d * d
        product += a * tl.load(U + u_at, mask=mask, other=0.0).to(tl.float64)
        product += d * tl.load(U + u_at + HW, mask=mask, other=0.0).to(tl.float64)
        moved = (x - tl.load(Y + y_at, mask=mask, other=0.0)).to(tl.float64)
        data += moved * moved
    size = root(across + along) if ISOTROPIC else root(across) + root(along)
    size *= tl.load(Lam + b).to(tl.float64)
    out = Partial + tl.program_id(0).to(tl.int64) * 2
    tl.store(out, tl.sum(tl.where(mask, size - product, 0.0), axis=0))
    tl.store(out + 1, tl.sum(tl.where(mask, size + data / 2, 0.0), axis=0))


@triton.jit
def _decide_kernel(Found, Tol, Sums, Last, Since, Count, Done, k, B, BLOCK: tl.constexpr):
    b = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = (b < B) & (tl.load(Done + b, mask=b < B, other=1) == 0)
    gap = tl.load(Found + 2 * b, mask=mask, other=0.0)
    objective = tl.load(Found + 2 * b + 1, mask=mask, other=0.0)
    gap = tl.where(gap < 0, 0.0, gap)
    tl.store(Sums + 2 * b, gap, mask=mask)
    tl.store(Sums + 2 * b + 1, objective, mask=mask)
    tl.store(Count + b, k + tl.zeros((BLOCK,), tl.int64), mask=mask)
    more = gap > tl.load(Tol) * objective
    tl.store(Done + b, tl.where(more, 0, 1).to(tl.int8), mask=mask)
    rises = gap > tl.load(Last + b, mask=mask, other=0.0)
    tl.store(Since + b, k + tl.zeros((BLOCK,), tl.int64), mask=mask & rises)
    tl.store(Last + b, gap, mask=mask)


@triton.jit
def _finish_kernel(
    Y, Lam, All, Count, X, Dual, B, H, W, HW, G: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """x and p of the dual array in which an image ended."""
    b, i, r, c, mask = _pixels(HW, W, BLOCK)
    U = All + (tl.load(Count + b) % 3) * B * G * 2 * HW
    lam = tl.load(Lam + b)
    sound = lam >= 0
    for g in range(G):
        y_at = (b * G + g) * HW + i
        u_at = (b * G + g) * 2 * HW + i
        x = _primal(Y, U, U, 0.0, y_at, u_at, c, r, W, HW, mask)
        tl.store(X + y_at, tl.where(sound, x, float("nan")), mask=mask)
        for direction in range(2):
            u = tl.load(U + u_at + direction * HW, mask=mask, other=0.0)
            p = tl.where(lam > 0, divide(u, tl.where(lam > 0, lam, 1.0) + 0 * u), 0.0)
            tl.store(Dual + u_at + direction * HW, tl.where(sound, p, float("nan")), mask=mask)


def prox_tv(
    y: Tensor, lam: Tensor, p: Tensor, tol: float, iterations: int, isotropic: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns x like y, dual like p, sums float64 [B, 2], count int64 [B]."""
    if y.numel() == 0 or y.dtype not in (torch.float32, torch.float64):
        return NotImplemented
    y, lam, p = ready(y), ready(lam), ready(p)
    B, G, H, W = y.shape
    HW, device = H * W, y.device
    tiles = blocks(HW, BLOCK)
    x, dual = torch.empty_like(y), torch.empty_like(p)
    duals = torch.empty((3, *p.shape), dtype=p.dtype, device=device)
    weight = torch.ones(max(iterations, 1), dtype=torch.float64, device=device)
    limit = torch.full((1,), tol, dtype=torch.float64, device=device)
    sums, last = (torch.full((B, n), float("inf"), dtype=torch.float64, device=device) for n in (2, 1))
    since, count = (torch.zeros(B, dtype=torch.int64, device=device) for _ in range(2))
    done = torch.zeros(B, dtype=torch.int8, device=device)
    partial = torch.empty((B, tiles, 2), dtype=torch.float64, device=device)
    shape = {"G": G, "BLOCK": BLOCK}
    kind = shape | {"ISOTROPIC": isotropic}
    launch(_momentum_kernel, 1, weight, len(weight))
    for start in (duals[0], duals[2]):
        launch(_start_kernel, B * tiles, p, lam, start, H, W, HW, **kind)
    for k in range(iterations + 1):
        u, old, new = duals[k % 3], duals[(k + 2) % 3], duals[(k + 1) % 3]
        if k % LOOK == 0 or k == iterations:
            launch(_look_kernel, B * tiles, y, lam, u, done, partial, H, W, HW, **kind)
            found = ordered_sum(partial, torch.float64)
            launch(_decide_kernel, blocks(B, 128), found, limit, sums, last, since, count, done, k, B, BLOCK=128)
        if k < iterations:
            launch(_step_kernel, B * tiles, y, lam, u, old, new, weight, since, done, k, H, W, HW, **kind)
    launch(_finish_kernel, B * tiles, y, lam, duals, count, x, dual, B, H, W, HW, **shape)
    sums = torch.where((lam >= 0)[:, None], sums, float("nan"))
    return x, dual, sums, torch.where(lam >= 0, count, 0)
