"""kernels/convolution.py: 3x3 convolutions of a feature chain, matrix products with fused epilogues (Triton).

  x, d_x [B, CIN, H, W]  images, CIN small        features [B, H, W, C]  channels last, C >= 1
  first layer's weights [CIN, 3, 3, C]            other layers' weights [3, 3, C_in, C_out]
Images, weights and sums have one type; features may be stored in bfloat16 instead if PRECISION is "bf16".
Zero padding is zero after the activation. A program owns BLOCK_M consecutive pixels of one image and all channels, so
that the norm over channels is a reduction inside the tile. Each kernel carries a pair of features through the same
weights if PAIR: the features and their tangents forward, the two cotangents of feature_gradient_vjp backward.
"""

import triton
import triton.language as tl

from fastrecon.kernels.scalar_math import (
    INTERPRETED,
    curve_at,
    divide,
    power_for,
    root,
    slope_at,
    smoothed_norm,
    smoothed_relu,
)


@triton.jit
def _multiply(a, b, total, PRECISION: tl.constexpr):
    """total + a b. The interpreter knows no bfloat16 products and takes exact ones for them."""
    if PRECISION == "bf16":
        kind: tl.constexpr = tl.float32 if INTERPRETED else tl.bfloat16
        return tl.dot(a.to(kind), b.to(kind), total, "ieee", out_dtype=total.dtype)
    else:
        return tl.dot(a, b, total, PRECISION, out_dtype=total.dtype)


@triton.jit
def _pixels(first, H, W, BLOCK_M: tl.constexpr):
    """(image, row, column) [BLOCK_M] of the pixels first (int64), first + 1, ..., counted through all images."""
    area = H * W
    image = first // area
    p = (first - image * area).to(tl.int32) + tl.arange(0, BLOCK_M)
    return image + p // area, p % area // W, p % area % W


@triton.jit
def _shifted(Source, first, row, column, inside, tap, k, H, W, C: tl.constexpr, BLOCK_M: tl.constexpr):
    """Features [BLOCK_M, len(k)] of the pixels' neighbours at `tap`, channels k; zero outside the image."""
    dy = tap // 3 - 1
    dx = tap % 3 - 1
    inside &= (row + dy >= 0) & (row + dy < H) & (column + dx >= 0) & (column + dx < W)
    local = tl.arange(0, BLOCK_M) * C
    tile = Source + (first + dy * W + dx) * C + local[:, None] + k[None, :]
    return tl.load(tile, mask=inside[:, None] & (k < C)[None, :], other=0.0)


@triton.jit
def _patches(X, image, row, column, inside, k, H, W, CIN: tl.constexpr):
    """Entries k of the pixels' neighbourhoods [CIN, 3, 3], a tile [BLOCK_M, len(k)]; zero beyond the last entry."""
    y = row[:, None] + (k % 9 // 3 - 1)[None, :]
    x = column[:, None] + (k % 3 - 1)[None, :]
    inside = inside[:, None] & (k < 9 * CIN)[None, :] & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    tile = X + ((image * CIN)[:, None] + (k // 9)[None, :]) * (H * W) + y * W + x
    return tl.load(tile, mask=inside, other=0.0)


@triton.jit
def _convolve(
    A, B, Weight, first, image, row, column, inside, H, W,
    FIRST: tl.constexpr, TRANSPOSED: tl.constexpr, PAIR: tl.constexpr, CIN: tl.constexpr, C: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A, and B if PAIR, convolved with the weights at the given pixels: two tiles [BLOCK_M, BLOCK_C]."""
    c = tl.arange(0, BLOCK_C)
    a = tl.zeros((BLOCK_M, BLOCK_C), Weight.dtype.element_ty)
    b = a
    if FIRST:
        # the image has more digits than bfloat16 or TF32 keep, and this layer is a small part of the work
        for start in range(0, 9 * CIN, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            mask = (k < 9 * CIN)[:, None] & (c < C)[None, :]
            w = tl.load(Weight + k[:, None] * C + c[None, :], mask=mask, other=0.0)
            a = _multiply(_patches(A, image, row, column, inside, k, H, W, CIN), w, a, "ieee")
            if PAIR:
                b = _multiply(_patches(B, image, row, column, inside, k, H, W, CIN), w, b, "ieee")
    else:
        slices: tl.constexpr = (C + BLOCK_K - 1) // BLOCK_K
        for i in range(9 * slices):
            tap = i // slices
            k = i % slices * BLOCK_K + tl.arange(0, BLOCK_K)
            if TRANSPOSED:
                w = Weight + ((8 - tap) * C + c[None, :]) * C + k[:, None]
            else:
                w = Weight + (tap * C + k[:, None]) * C + c[None, :]
            w = tl.load(w, mask=(k < C)[:, None] & (c < C)[None, :], other=0.0)
            s = _shifted(A, first, row, column, inside, tap, k, H, W, C, BLOCK_M)
            a = _multiply(s, w, a, PRECISION)
            if PAIR:
                s = _shifted(B, first, row, column, inside, tap, k, H, W, C, BLOCK_M)
                b = _multiply(s, w, b, PRECISION)
    return a, b


@triton.jit
def forward_kernel(
    Source, Tangent, Weight, Eps, Cotangent, Out, OutPair, Partial, H, W,
    FIRST: tl.constexpr, LAST: tl.constexpr, ACTIVE: tl.constexpr, PAIR: tl.constexpr, BACK: tl.constexpr,
    DELTA: tl.constexpr, CIN: tl.constexpr, C: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One layer forward. Out gets its output, OutPair the output's tangent; in the last layer the cotangents of its
    pre-activations instead, unless no way BACK follows, and Partial [B, tiles] the tile's share of the value, or if
    PAIR of d_eps."""
    tiles = tl.cdiv(H * W, BLOCK_M)
    problem = (tl.program_id(0) // tiles).to(tl.int64)
    start = tl.program_id(0) % tiles * BLOCK_M
    first = problem * (H * W) + start
    inside = start + tl.arange(0, BLOCK_M) < H * W
    image, row, column = _pixels(first, H, W, BLOCK_M)
    t, dt = _convolve(
        Source, Tangent, Weight, first, image, row, column, inside, H, W,
        FIRST, False, PAIR, CIN, C, BLOCK_M, BLOCK_C, BLOCK_K, PRECISION,
    )  # fmt: skip
    c = tl.arange(0, BLOCK_C)
    tile = first * C + (tl.arange(0, BLOCK_M) * C)[:, None] + c[None, :]
    mask = inside[:, None] & (c < C)[None, :]
    h = smoothed_relu(t, DELTA) if ACTIVE else t
    slope = slope_at(h, DELTA) if ACTIVE else tl.full((BLOCK_M, BLOCK_C), 1.0, t.dtype)
    dh = slope * dt
    if LAST:
        h = tl.where(mask, h, 0.0)  # a(0) > 0 in the padding
        eps = tl.load(Eps + problem)
        scale = power_for(tl.max(tl.abs(h), axis=1))
        scaled = h * scale[:, None]
        size = root(tl.sum(scaled * scaled, axis=1))
        norm = divide(size, scale)
        n = tl.maximum(norm, eps)
        outside = norm > eps
        y = divide(tl.where(outside[:, None], scaled, h), tl.where(outside, size, n)[:, None])
        if PAIR:
            v = tl.load(Cotangent + problem)
            small = norm <= eps
            along = tl.sum(y * dh, axis=1)
            r = divide(dh - y * tl.where(small, 0.0, along)[:, None], n[:, None]) + v * y
            s = slope * r
            if ACTIVE:
                s += curve_at(h, dh, DELTA) * y
            tl.store(OutPair + tile, s, mask=mask)
            q = divide(norm, n)
            share = tl.where(small, -0.5 * v * q * q - divide(along, n), -0.5 * v)
        else:
            share = smoothed_norm(norm, eps)
        if BACK:
            tl.store(Out + tile, slope * y, mask=mask)
        tl.store(Partial + tl.program_id(0), tl.sum(tl.where(inside, share, 0.0).to(tl.float64), axis=0))
    else:
        tl.store(Out + tile, h, mask=mask)
        if PAIR:
            tl.store(OutPair + tile, dh, mask=mask)


@triton.jit
def transposed_kernel(
    Z, S, Weight, Hidden, Tangent, Out, OutPair, H, W,
    PAIR: tl.constexpr, DELTA: tl.constexpr, C: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One layer back: the transposed convolution of Z, and of S if PAIR, times the derivative of the activation below,
    whose output Hidden and tangent are kept from the forward pass."""
    tiles = tl.cdiv(H * W, BLOCK_M)
    start = tl.program_id(0) % tiles * BLOCK_M
    first = (tl.program_id(0) // tiles).to(tl.int64) * (H * W) + start
    inside = start + tl.arange(0, BLOCK_M) < H * W
    image, row, column = _pixels(first, H, W, BLOCK_M)
    q, r = _convolve(
        Z, S, Weight, first, image, row, column, inside, H, W,
        False, True, PAIR, 1, C, BLOCK_M, BLOCK_C, BLOCK_K, PRECISION,
    )  # fmt: skip
    c = tl.arange(0, BLOCK_C)
    tile = first * C + (tl.arange(0, BLOCK_M) * C)[:, None] + c[None, :]
    mask = inside[:, None] & (c < C)[None, :]
    h = tl.load(Hidden + tile, mask=mask, other=0.0).to(q.dtype)
    slope = slope_at(h, DELTA)
    tl.store(Out + tile, slope * q, mask=mask)
    if PAIR:
        dot = tl.load(Tangent + tile, mask=mask, other=0.0)
        tl.store(OutPair + tile, slope * r + curve_at(h, dot, DELTA) * q, mask=mask)


@triton.jit
def image_kernel(
    Z, Weight, Out, H, W,
    CIN: tl.constexpr, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The first layer back: the transposed convolution from C features to the CIN channels of the image."""
    tiles = tl.cdiv(H * W, BLOCK_M)
    start = tl.program_id(0) % tiles * BLOCK_M
    first = (tl.program_id(0) // tiles).to(tl.int64) * (H * W) + start
    p = start + tl.arange(0, BLOCK_M)
    image, row, column = _pixels(first, H, W, BLOCK_M)
    c = tl.arange(0, BLOCK_C)
    for channel in range(CIN):
        total = tl.zeros((BLOCK_M, BLOCK_C), Weight.dtype.element_ty)
        for tap in range(9):
            w = tl.load(Weight + (channel * 9 + 8 - tap) * C + c, mask=c < C, other=0.0)
            total += _shifted(Z, first, row, column, p < H * W, tap, c, H, W, C, BLOCK_M) * w[None, :]
        tl.store(Out + (image * CIN + channel) * (H * W) + p, tl.sum(total, axis=1), mask=p < H * W)


@triton.jit
def weight_kernel(
    Source, Tangent, Z, S, Partial, H, W, total,
    CHUNK: tl.constexpr, FIRST: tl.constexpr, CIN: tl.constexpr, C: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of one layer's weights from CHUNK of the `total` pixels of all images: the correlations of the layer's
    inputs with S and of their tangents with Z. Partial [chunks, CIN, 3, 3, C] if FIRST, else [chunks, 3, 3, C, C]."""
    depth: tl.constexpr = 9 * CIN if FIRST else C
    slices: tl.constexpr = (depth + BLOCK_K - 1) // BLOCK_K
    taps: tl.constexpr = 1 if FIRST else 9
    tap = tl.program_id(0) // slices % taps
    chunk = (tl.program_id(0) // (slices * taps)).to(tl.int64)
    k = tl.program_id(0) % slices * BLOCK_K + tl.arange(0, BLOCK_K)
    c = tl.arange(0, BLOCK_C)
    gradient = tl.zeros((BLOCK_K, BLOCK_C), Z.dtype.element_ty)
    for offset in range(0, CHUNK, BLOCK_M):
        first = chunk * CHUNK + offset
        inside = first + tl.arange(0, BLOCK_M) < total
        image, row, column = _pixels(first, H, W, BLOCK_M)
        if FIRST:
            a = _patches(Source, image, row, column, inside, k, H, W, CIN)
            b = _patches(Tangent, image, row, column, inside, k, H, W, CIN)
        else:
            a = _shifted(Source, first, row, column, inside, tap, k, H, W, C, BLOCK_M)
            b = _shifted(Tangent, first, row, column, inside, tap, k, H, W, C, BLOCK_M)
        tile = first * C + (tl.arange(0, BLOCK_M) * C)[:, None] + c[None, :]
        mask = inside[:, None] & (c < C)[None, :]
        s = tl.load(S + tile, mask=mask, other=0.0)
        z = tl.load(Z + tile, mask=mask, other=0.0)
        gradient = _multiply(tl.trans(a), s, gradient, "ieee" if FIRST else PRECISION)
        gradient = _multiply(tl.trans(b), z, gradient, "ieee" if FIRST else PRECISION)
    out = Partial + ((chunk * taps + tap) * depth + k[:, None]) * C + c[None, :]
    tl.store(out, gradient, mask=(k < depth)[:, None] & (c < C)[None, :])
