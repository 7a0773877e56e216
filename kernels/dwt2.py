"""kernels/dwt2.py: one level of an orthonormal periodised wavelet transform along one axis, and its adjoint (Triton).

  x [P, h, w]  planes, rows `ld` numbers apart, a plane `plane` numbers; real, or complex as PARTS = 2 interleaved reals
  forward   y_k = sum_i g_i x_(2k+i-s),  y_(n/2+k) = sum_i h_i x_(2k+i-s)   n = h or w, s = L/2 - 1, indices modulo n
  inverse   x_(2q+r-s) = sum_m g_(2m+r) y_(q-m) + h_(2m+r) y_(n/2+q-m)      r = 0, 1, indices q - m modulo n/2
A level is two launches: rows, then columns (the inverse: columns, then rows).
Definition: fastrecon/ops/dwt2.py.
"""

from collections.abc import Sequence
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrecon.kernels.launch import blocks, launch, parts
from fastrecon.kernels.scalar_math import widen

BLOCK = 512  # pairs of samples of a program


@triton.jit
def _place(N, S, BLOCK: tl.constexpr):
    """Plane, index k of the pair along the axis, index s of the line, and whether they exist: pairs in memory order."""
    per = tl.cdiv(N // 2 * S, BLOCK)
    p = (tl.program_id(0) // per).to(tl.int64)
    t = (tl.program_id(0) % per) * BLOCK + tl.arange(0, BLOCK)
    return p, t // S, t % S, t < N // 2 * S


@triton.jit
def _analyse_kernel(
    X, Y, Taps, N, S, x_plane, x_axis, x_line, y_plane, y_axis, y_line,
    L: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    p, k, line, mask = _place(N, S, BLOCK)
    x = X + p * x_plane + (line // PARTS) * x_line + line % PARTS
    a = tl.zeros((BLOCK,), Taps.dtype.element_ty)
    d = tl.zeros((BLOCK,), Taps.dtype.element_ty)
    for i in range(L):
        at = (2 * k + (i - L // 2 + 1) + L * N) % N
        v = widen(tl.load(x + at * x_axis, mask=mask, other=0.0))
        a += tl.load(Taps + i) * v
        d += tl.load(Taps + L + i) * v
    y = Y + p * y_plane + (line // PARTS) * y_line + line % PARTS
    tl.store(y + k * y_axis, a.to(Y.dtype.element_ty), mask=mask)
    tl.store(y + (N // 2 + k) * y_axis, d.to(Y.dtype.element_ty), mask=mask)


@triton.jit
def _synthesise_kernel(
    Y, X, Taps, N, S, y_plane, y_axis, y_line, x_plane, x_axis, x_line,
    L: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    p, q, line, mask = _place(N, S, BLOCK)
    y = Y + p * y_plane + (line // PARTS) * y_line + line % PARTS
    even = tl.zeros((BLOCK,), Taps.dtype.element_ty)
    odd = tl.zeros((BLOCK,), Taps.dtype.element_ty)
    half = N // 2
    for m in range(L // 2):
        k = (q - m + L * half) % half
        a = widen(tl.load(y + k * y_axis, mask=mask, other=0.0))
        d = widen(tl.load(y + (half + k) * y_axis, mask=mask, other=0.0))
        even += tl.load(Taps + 2 * m) * a + tl.load(Taps + L + 2 * m) * d
        odd += tl.load(Taps + 2 * m + 1) * a + tl.load(Taps + L + 2 * m + 1) * d
    x = X + p * x_plane + (line // PARTS) * x_line + line % PARTS
    first = (2 * q - (L // 2 - 1) + L * N) % N
    tl.store(x + first * x_axis, even.to(X.dtype.element_ty), mask=mask)
    tl.store(x + (first + 1) % N * x_axis, odd.to(X.dtype.element_ty), mask=mask)


@cache
def _filters(taps: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """g and h [2, L] in the type that computes; kept, because the way to the device makes the host wait."""
    high = [-t if i % 2 else t for i, t in enumerate(reversed(taps))]
    wide = torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
    return torch.tensor([list(taps), high], dtype=wide, device=device)


def _one(kernel, source: Tensor, target: Tensor, filters: Tensor, h: int, w: int, count: int, rows: bool) -> None:
    """One level along the rows (or columns) of the top left h x w numbers of planes of `count` reals a number."""
    n, s = (w, h) if rows else (h, w)
    strides = []
    for t in (source, target):
        ld = t.shape[2] * count
        strides += [t.shape[1] * ld, count if rows else ld, ld if rows else count]
    programs = source.shape[0] * blocks(n // 2 * s * count, BLOCK)
    launch(
        kernel, programs, source, target, filters, n, s * count, *strides,
        L=filters.shape[1], PARTS=count, BLOCK=BLOCK,
    )  # fmt: skip


def dwt2(x: Tensor, taps: Sequence[float], level: int) -> Tensor:
    """Returns coefficients like x [P, H, W]."""
    if level == 0 or x.numel() == 0:
        return NotImplemented
    c, filters = torch.empty_like(x, memory_format=torch.contiguous_format), _filters(tuple(taps), x.dtype, x.device)
    source, count = parts(x)
    between, target = torch.empty_like(source), parts(c)[0]
    for scale in range(level):
        size = x.shape[1] >> scale, x.shape[2] >> scale
        _one(_analyse_kernel, source if scale == 0 else target, between, filters, *size, count, True)
        _one(_analyse_kernel, between, target, filters, *size, count, False)
    return c


def idwt2(c: Tensor, taps: Sequence[float], level: int) -> Tensor:
    """Returns x like c [P, H, W]."""
    if level == 0 or c.numel() == 0:
        return NotImplemented
    x, filters = c.clone(memory_format=torch.contiguous_format), _filters(tuple(taps), c.dtype, c.device)
    target, count = parts(x)
    between = torch.empty_like(target)
    for scale in reversed(range(level)):
        size = c.shape[1] >> scale, c.shape[2] >> scale
        _one(_synthesise_kernel, target, between, filters, *size, count, False)
        _one(_synthesise_kernel, between, target, filters, *size, count, True)
    return x
