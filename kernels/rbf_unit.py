"""kernels/rbf_unit.py: convolution, a sum of Gaussians for every map, convolution, and the derivative (Triton).

  x, d_x [B, C, H + 2 (K - 1), W + 2 (K - 1)]   y, d_y [B, C, H, W]   filters, back [F, C, K, K]   weights [F, J]
  t = filters * x, z = phi(t) [B, F, H + K - 1, W + K - 1], y = back * z;  phi_i(t) = sum_j w_ij g((t - c_j) / sigma)
  d_z = back^T d_y, d_t = d_z phi'(t), d_x = filters^T d_t, d_w_ij = sum d_z_i g((t_i - c_j) / sigma)
  d_filters[f, c, d] = sum_p d_t[f, p] x[c, p + d],  d_back[f, c, d] = sum_p d_y[c, p] z[f, p + d]
Maps pass through memory once; sums over pixels have a fixed order.
Definition: fastrecon/ops/rbf_unit.py.  Maths: Schmidt & Roth, CVPR 2014.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrecon.kernels.launch import blocks, launch, power_of_2, ready
from fastrecon.kernels.sums import ordered_sum

_PIXELS = 256  # of a program
_CHUNK = 4096  # of a part of a sum, at most


@triton.jit
def _maps_kernel(
    X, DY, Filters, Back, Weights, Z, DT, Partial, F, H, W, spacing, sigma,
    C: tl.constexpr, K: tl.constexpr, J: tl.constexpr, DERIVATIVE: tl.constexpr, BLOCK: tl.constexpr,
    BLOCK_J: tl.constexpr,
):  # fmt: skip
    """z of BLOCK pixels of a map; with DERIVATIVE d_t too, and their parts of d_w."""
    HT, WT, WX = H + K - 1, W + K - 1, W + 2 * (K - 1)
    size_x = (H + 2 * (K - 1)) * WX
    tiles = tl.cdiv(HT * WT, BLOCK)
    b = (tl.program_id(0) // (F * tiles)).to(tl.int64)
    f = tl.program_id(0) // tiles % F
    p = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    inside = p < HT * WT
    row, column = p // WT, p % WT
    t = tl.zeros((BLOCK,), X.dtype.element_ty)
    d_z = tl.zeros((BLOCK,), X.dtype.element_ty)
    for tap in range(C * K * K):
        c, i, j = tap // (K * K), tap // K % K, tap % K
        at = X + (b * C + c) * size_x + (row + i) * WX + column + j
        t += tl.load(Filters + f * C * K * K + tap) * tl.load(at, mask=inside, other=0.0)
        if DERIVATIVE:
            r, q = row - i, column - j
            known = inside & (r >= 0) & (r < H) & (q >= 0) & (q < W)
            d = tl.load(DY + (b * C + c) * H * W + r * W + q, mask=known, other=0.0)
            d_z += tl.load(Back + f * C * K * K + tap) * d
    z = tl.zeros_like(t)
    slope = tl.zeros_like(t)
    entry = tl.arange(0, BLOCK_J)
    sums = tl.zeros((BLOCK_J,), tl.float64)
    for j in range(J):
        far = (t - (j - (J - 1) / 2) * spacing) / sigma
        bell = tl.load(Weights + f * J + j) * tl.exp(far * far * -0.5)
        z += bell
        if DERIVATIVE:
            slope -= bell * far
            share = tl.where(inside, d_z * tl.exp(far * far * -0.5), 0.0)
            sums += tl.where(entry == j, tl.sum(share.to(tl.float64), axis=0), 0.0)
    out = (b * F + f) * HT * WT + p
    tl.store(Z + out, z.to(Z.dtype.element_ty), mask=inside)
    if DERIVATIVE:
        tl.store(DT + out, (d_z * slope / sigma).to(DT.dtype.element_ty), mask=inside)
        part = (b * tiles + tl.program_id(0) % tiles) * F + f
        tl.store(Partial + part * J + entry, sums, mask=entry < J)


@triton.jit
def _gather_kernel(
    Maps, Taps, Out, C, H, W, HM, WM,
    F: tl.constexpr, K: tl.constexpr, TRANSPOSED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out [B, C, H, W]: the sum over maps [B, F, HM, WM] and taps [F, C, K, K] of taps[d] maps[p + d], or [p - d]."""
    tiles = tl.cdiv(H * W, BLOCK)
    b = (tl.program_id(0) // (C * tiles)).to(tl.int64)
    c = tl.program_id(0) // tiles % C
    p = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    row, column = p // W, p % W
    total = tl.zeros((BLOCK,), Maps.dtype.element_ty)
    for tap in range(F * K * K):
        f, i, j = tap // (K * K), tap // K % K, tap % K
        if TRANSPOSED:
            r, q = row - i, column - j
        else:
            r, q = row + i, column + j
        known = (p < H * W) & (r >= 0) & (r < HM) & (q >= 0) & (q < WM)
        value = tl.load(Maps + (b * F + f) * HM * WM + r * WM + q, mask=known, other=0.0)
        total += tl.load(Taps + (f * C + c) * K * K + i * K + j) * value
    tl.store(Out + (b * C + c) * H * W + p, total.to(Out.dtype.element_ty), mask=p < H * W)


@triton.jit
def _products_kernel(
    A, S, Partial, M, N, H, W, HS, WS, chunks,
    K: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Partial [B * chunks, M, N, K, K]: sums over CHUNK pixels p of a [B, M, H, W] of a[m, p] s[n, p + d]."""
    pair = tl.program_id(0) % (M * N)
    part = (tl.program_id(0) // (M * N)).to(tl.int64)
    b, m, n = part // chunks, pair // N, pair % N
    tap = tl.arange(0, BLOCK_K)
    sums = tl.zeros((BLOCK_K,), tl.float64)
    for start in range(0, CHUNK, BLOCK):
        p = (part % chunks) * CHUNK + start + tl.arange(0, BLOCK)
        inside = p < H * W
        a = tl.load(A + (b * M + m) * H * W + p, mask=inside, other=0.0)
        row, column = p // W, p % W
        for d in range(K * K):
            at = S + (b * N + n) * HS * WS + (row + d // K) * WS + column + d % K
            product = a * tl.load(at, mask=inside, other=0.0)
            sums += tl.where(tap == d, tl.sum(product.to(tl.float64), axis=0), 0.0)
    tl.store(Partial + (part * M * N + pair) * K * K + tap, sums, mask=tap < K * K)


def _fits(x: Tensor) -> bool:
    return x.dtype in (torch.float32, torch.float64) and x.numel() > 0 and x.shape[2] * x.shape[3] < 2**30


def _run_maps(
    x: Tensor, d_y: Tensor | None, filters: Tensor, back: Tensor, weights: Tensor, spacing: float, sigma: float
) -> tuple[Tensor, Tensor, Tensor]:
    B, C, HX, WX = x.shape
    F, _, K, _ = filters.shape
    J, H, W = weights.shape[1], HX - 2 * (K - 1), WX - 2 * (K - 1)
    tiles = blocks((H + K - 1) * (W + K - 1), _PIXELS)
    z = x.new_empty(B, F, H + K - 1, W + K - 1)
    d_t = z if d_y is None else torch.empty_like(z)
    partial = torch.empty(1, 1 if d_y is None else B * tiles, F * J, dtype=torch.float64, device=x.device)
    launch(
        _maps_kernel, B * F * tiles, x, x if d_y is None else d_y, filters, back, weights, z, d_t, partial, F, H, W,
        spacing, sigma, C=C, K=K, J=J, DERIVATIVE=d_y is not None, BLOCK=_PIXELS, BLOCK_J=power_of_2(J),
    )  # fmt: skip
    return z, d_t, partial


def _gather(maps: Tensor, taps: Tensor, H: int, W: int, transposed: bool) -> Tensor:
    (B, F, HM, WM), (_, C, K, _) = maps.shape, taps.shape
    out = maps.new_empty(B, C, H, W)
    launch(
        _gather_kernel, B * C * blocks(H * W, _PIXELS), maps, taps, out, C, H, W, HM, WM, F=F, K=K,
        TRANSPOSED=transposed, BLOCK=_PIXELS,
    )  # fmt: skip
    return out


def _products(a: Tensor, s: Tensor, K: int) -> Tensor:
    (B, M, H, W), (_, N, HS, WS) = a.shape, s.shape
    chunk = power_of_2(H * W, _PIXELS, _CHUNK)
    chunks = blocks(H * W, chunk)
    partial = torch.empty(1, B * chunks, M * N * K * K, dtype=torch.float64, device=a.device)
    launch(
        _products_kernel, B * chunks * M * N, a, s, partial, M, N, H, W, HS, WS, chunks, K=K, BLOCK=_PIXELS,
        CHUNK=chunk, BLOCK_K=power_of_2(K * K),
    )  # fmt: skip
    return ordered_sum(partial, a.dtype).view(M, N, K, K)


def rbf_unit_fwd(x: Tensor, filters: Tensor, back: Tensor, weights: Tensor, spacing: float, sigma: float) -> Tensor:
    """Returns y."""
    border = 2 * (filters.shape[-1] - 1)
    H, W = x.shape[2] - border, x.shape[3] - border
    if not _fits(x) or H < 1 or W < 1:
        return NotImplemented
    x, filters, back, weights = ready(x), ready(filters), ready(back), ready(weights)
    z, _, _ = _run_maps(x, None, filters, back, weights, spacing, sigma)
    return _gather(z, back, H, W, transposed=False)


def rbf_unit_vjp(
    d_y: Tensor, x: Tensor, filters: Tensor, back: Tensor, weights: Tensor, spacing: float, sigma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns d_x, d_filters, d_back, d_weights."""
    if not _fits(x) or d_y.numel() == 0:
        return NotImplemented
    d_y, x, filters, back, weights = ready(d_y), ready(x), ready(filters), ready(back), ready(weights)
    z, d_t, partial = _run_maps(x, d_y, filters, back, weights, spacing, sigma)
    K = filters.shape[-1]
    return (
        _gather(d_t, filters, x.shape[2], x.shape[3], transposed=True),
        _products(d_t, x, K),
        _products(d_y, z, K).transpose(0, 1).contiguous(),
        ordered_sum(partial, weights.dtype).view(weights.shape),
    )
