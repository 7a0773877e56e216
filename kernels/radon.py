"""kernels/radon.py: line integrals of images along rays by Joseph's interpolation, and the exact adjoint (Triton).

  x [N, H, W]   y [N, A, D]   lines [3, A, D]  start, slope, length   axis [A, D]  +-1: steps over rows, +-2: columns
  y = length sum_i ((1 - f) x[i, c] + f x[i, c + 1]),  c + f = start + slope i,  c an integer, zeros outside the image
Positions are taken in units of 2^-32 pixel as int64, which is exact: both directions find the same c and f. The adjoint
has no atomics: a tile of pixels looks up, view by view, which rays can meet it, and adds them in their order.
Definition: fastrecon/ops/radon.py.  Maths: Joseph, IEEE Trans. Med. Imaging 1 (1982).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrecon.kernels.launch import blocks, launch, ready

UNIT = tl.constexpr(2.0**-32)
STRIP = tl.constexpr(16)  # lines summed before they are added to the total: two levels keep rounding small
TILE_SIDE = 16  # pixels: a square meets the fewest rays


@triton.jit
def _fraction(position, like):
    """Cell, int32, and fraction of positions in units of 2^-32, in the type of `like`."""
    return (position >> 32).to(tl.int32), (position & 0xFFFFFFFF).to(like.dtype) * UNIT


@triton.jit
def _radon_kernel(X, Start, Slope, Length, Axis, Y, A, D, H, W, BLOCK: tl.constexpr):
    chunks = tl.cdiv(D, BLOCK)
    d = tl.program_id(0) % chunks * BLOCK + tl.arange(0, BLOCK)
    view = tl.program_id(0) // chunks % A
    n = (tl.program_id(0) // chunks // A).to(tl.int64)
    ray = view.to(tl.int64) * D + d
    rows = tl.abs(tl.load(Axis + ray, mask=d < D, other=1).to(tl.int32)) == 1
    lines, cells = tl.where(rows, H, W), tl.where(rows, W, H)
    line_step, cell_step = tl.where(rows, W, 1), tl.where(rows, 1, W)
    position, slope = tl.load(Start + ray, mask=d < D, other=0), tl.load(Slope + ray, mask=d < D, other=0)
    length = tl.load(Length + ray, mask=d < D, other=0.0)
    image = X + n * H * W
    total = tl.zeros_like(length)
    i, last = 0, tl.maximum(H, W)
    while i < last:
        part = tl.zeros_like(length)
        for _ in tl.static_range(STRIP):
            cell, f = _fraction(position, length)
            pixel = image + (i * line_step.to(tl.int64) + cell * cell_step.to(tl.int64))
            own = (i < lines) & (d < D)
            left = tl.load(pixel, mask=own & (cell >= 0) & (cell < cells), other=0.0)
            right = tl.load(pixel + cell_step, mask=own & (cell >= -1) & (cell < cells - 1), other=0.0)
            part += left * (1 - f) + right * f
            position += slope
            i += 1
        total += part
    tl.store(Y + n * A * D + ray, total * length, mask=d < D)


@triton.jit
def _first_ray(Start, Slope, Axis, row, column, D, distance):
    """The first ray of a view that passes (row, column), its neighbours' order ahead, by more than `distance`."""
    low, high = 0, D
    while low < high:
        d = (low + high) // 2
        axis = tl.load(Axis + d).to(tl.int32)
        slope = tl.load(Slope + d).to(tl.float32) * UNIT
        line, cell = tl.where(tl.abs(axis) == 1, row, column), tl.where(tl.abs(axis) == 1, column, row)
        ahead = (tl.load(Start + d).to(tl.float32) * UNIT + slope * line - cell) / tl.sqrt(1 + slope * slope)
        past = tl.where(axis > 0, ahead, -ahead) > distance
        low, high = tl.where(past, low, d + 1), tl.where(past, d, high)
    return low


@triton.jit
def _weight(position, pixel, like):
    """What a ray that meets lines at `position` gives to `pixel`: 1 - f, f or 0."""
    cell, f = _fraction(position, like)
    return tl.where(pixel == cell, 1 - f, tl.where(pixel == cell + 1, f, 0.0))


@triton.jit
def _radon_adjoint_kernel(Y, Start, Slope, Length, Axis, X, A, D, H, W, SIDE: tl.constexpr):
    across, down = tl.cdiv(W, SIDE), tl.cdiv(H, SIDE)
    first_i, first_j = tl.program_id(0) // across % down * SIDE, tl.program_id(0) % across * SIDE
    n = (tl.program_id(0) // across // down).to(tl.int64)
    i, j = (first_i + tl.arange(0, SIDE))[:, None], (first_j + tl.arange(0, SIDE))[None, :]
    row, column = (first_i + (SIDE - 1) / 2).to(tl.float32), (first_j + (SIDE - 1) / 2).to(tl.float32)
    reach: tl.constexpr = 0.7072 * (SIDE - 1) + 1.1  # to a corner pixel, its neighbour, and float32 of the look-up
    total = tl.zeros((SIDE, SIDE), Length.dtype.element_ty)
    view = 0
    while view < A:
        at = view * D
        d = _first_ray(Start + at, Slope + at, Axis + at, row, column, D, -reach)
        last = _first_ray(Start + at, Slope + at, Axis + at, row, column, D, reach)
        while d < last:
            start, slope = tl.load(Start + at + d), tl.load(Slope + at + d)
            w = tl.load(Y + n * A * D + at + d) * tl.load(Length + at + d)
            if tl.abs(tl.load(Axis + at + d).to(tl.int32)) == 1:
                total += w * _weight(start + slope * i, j, w)
            else:
                total += w * _weight(start + slope * j, i, w)
            d += 1
        view += 1
    tl.store(X + n * H * W + i.to(tl.int64) * W + j, total, mask=(i < H) & (j < W))


def _rays(lines: Tensor, axis: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    start, slope = (lines[:2] * 2.0**32).to(torch.int64)
    return ready(start), ready(slope), ready(lines[2].to(dtype)), ready(axis)


def radon(x: Tensor, lines: Tensor, axis: Tensor) -> Tensor:
    """Returns y [N, A, D] like x."""
    (N, H, W), (A, D) = x.shape, axis.shape
    if x.dtype not in (torch.float32, torch.float64) or x.numel() == 0:
        return NotImplemented
    y = x.new_empty(N, A, D)
    launch(
        _radon_kernel, N * A * blocks(D, 128), ready(x), *_rays(lines, axis, x.dtype), y, A, D, H, W, BLOCK=128
    )  # fmt: skip
    return y


def radon_adjoint(y: Tensor, lines: Tensor, axis: Tensor, height: int, width: int) -> Tensor:
    """Returns x [N, height, width] like y."""
    (A, D), side = axis.shape, TILE_SIDE
    if y.dtype not in (torch.float32, torch.float64) or y.numel() == 0:
        return NotImplemented
    x = y.new_empty(y.shape[0], height, width)
    programs = x.shape[0] * blocks(height, side) * blocks(width, side)
    launch(_radon_adjoint_kernel, programs, ready(y), *_rays(lines, axis, y.dtype), x, A, D, height, width, SIDE=side)
    return x
