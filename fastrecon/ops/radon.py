"""Line integrals of images along rays, and their exact adjoint.

The model is Joseph's: a ray steps over the rows (or columns) it crosses, at each it interpolates linearly between the
two nearest pixels, zeros beyond the edge, and the sum is scaled by its length from row to row. It needs two numbers a
step, no branch, and vectorises over neighbouring rays of either geometry; on images finer than the rays it is about as
accurate as area weights, which cost several times as much. The adjoint spreads the same weights back. Source: Joseph,
An Improved Algorithm for Reprojecting Rays through Pixel Images, IEEE Trans. Med. Imaging 1 (1982), 192-196.
"""

import torch
from torch import Tensor

from fastrecon.checks import accepts_arrays, expect
from fastrecon.ops.function import Function
from fastrecon.ops.layout import DTYPES
from fastrecon.ops.rays import Rays
from fastrecon.registry import compiled, define

REAL = (torch.float32, torch.float64)
MARGIN = 2  # zeros on both sides of a row: positions are clamped to them, and the cell of the last has two


def _steps(lines: Tensor, axis: Tensor, view: int, over: int, steps: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of the rays of a view: cells and fractions [steps, D] on padded lines, and whether they step along `over` [D]."""
    line = torch.arange(steps, dtype=lines.dtype, device=lines.device)[:, None]
    position = (lines[0, view] + lines[1, view] * line).clamp(-MARGIN, width)
    cell = position.floor()
    return cell.long() + MARGIN, position - cell, axis[view].abs() == over


def radon_ref(x: Tensor, lines: Tensor, axis: Tensor) -> Tensor:
    """The definition, x [N, H, W], rays [3, A, D] float64 and their axes [A, D]: y [N, A, D]."""
    y, length = x.new_zeros(x.shape[0], *axis.shape), lines[2].to(x.dtype)
    for over, image in ((1, x), (2, x.mT)):
        steps, width = image.shape[1:]
        padded = torch.nn.functional.pad(image, (MARGIN, MARGIN))
        for view in range(axis.shape[0]):
            cell, f, own = _steps(lines, axis, view, over, steps, width)
            cell, f = cell.expand(len(x), *cell.shape), f.to(x.dtype)
            integral = (padded.gather(2, cell) * (1 - f) + padded.gather(2, cell + 1) * f).sum(1)
            y[:, view] += torch.where(own, integral * length[view], 0)
    return y


def radon_adjoint_ref(y: Tensor, lines: Tensor, axis: Tensor, height: int, width: int) -> Tensor:
    """The definition of the adjoint, y [N, A, D]: x [N, H, W]."""
    length, images = lines[2].to(y.dtype), []
    for over, (steps, wide) in ((1, (height, width)), (2, (width, height))):
        padded = y.new_zeros(y.shape[0], steps, wide + 2 * MARGIN)
        for view in range(axis.shape[0]):
            cell, f, own = _steps(lines, axis, view, over, steps, wide)
            cell, f = cell.expand(len(y), *cell.shape), f.to(y.dtype)
            w = torch.where(own, y[:, view] * length[view], 0)[:, None]
            padded.scatter_add_(2, cell, w * (1 - f)).scatter_add_(2, cell + 1, w * f)
        images.append(padded[:, :, MARGIN:-MARGIN])
    return images[0] + images[1].mT


def _cpu(x: Tensor, lines: Tensor, axis: Tensor):
    if x.dtype not in REAL or x.numel() == 0 or axis.numel() == 0:
        return NotImplemented
    x, lines, axis = x.contiguous(), lines.contiguous(), axis.contiguous()
    y = x.new_empty(x.shape[0], *axis.shape)
    compiled().radon(
        DTYPES[x.dtype], x.data_ptr(), lines.data_ptr(), axis.data_ptr(), y.data_ptr(), *x.shape, *axis.shape
    )
    return y


def _adjoint_cpu(y: Tensor, lines: Tensor, axis: Tensor, height: int, width: int):
    if y.dtype not in REAL or y.numel() == 0 or height * width == 0:
        return NotImplemented
    y, lines, axis = y.contiguous(), lines.contiguous(), axis.contiguous()
    x = y.new_empty(y.shape[0], height, width)
    compiled().radon_adjoint(
        DTYPES[y.dtype], y.data_ptr(), lines.data_ptr(), axis.data_ptr(), x.data_ptr(), *x.shape, *axis.shape
    )
    return x


_forward = define(
    "radon(Tensor x, Tensor lines, Tensor axis) -> Tensor",
    "radon",
    ref=radon_ref,
    cpu=_cpu,
    fake=lambda x, lines, axis: x.new_empty(x.shape[0], *axis.shape),
)
_adjoint = define(
    "radon_adjoint(Tensor y, Tensor lines, Tensor axis, SymInt height, SymInt width) -> Tensor",
    "radon",
    ref=radon_adjoint_ref,
    cpu=_adjoint_cpu,
    fake=lambda y, lines, axis, height, width: y.new_empty(y.shape[0], height, width),
)


class Radon(Function):
    """x [N, H, W] to y [N, A, D]: linear, so its derivative is the adjoint, to any order."""

    definition = staticmethod(radon_ref)

    @staticmethod
    def forward(x, lines, axis):  # noqa: D102
        return _forward(x, lines, axis)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: D102
        x, *rays = inputs
        ctx.save_for_backward(*rays)
        ctx.size = x.shape[1:]

    @staticmethod
    def backward(ctx, d_y):  # noqa: D102
        return RadonAdjoint.call(d_y, *ctx.saved_tensors, *ctx.size), None, None


class RadonAdjoint(Function):
    """y [N, A, D] to x [N, H, W], the adjoint of `Radon`, which is its derivative."""

    definition = staticmethod(radon_adjoint_ref)

    @staticmethod
    def forward(y, lines, axis, height, width):  # noqa: D102
        return _adjoint(y, lines, axis, height, width)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: D102
        ctx.save_for_backward(*inputs[1:3])

    @staticmethod
    def backward(ctx, d_x):  # noqa: D102
        return Radon.call(d_x, *ctx.saved_tensors), None, None, None, None


def _check(op: str, argument: str, t: Tensor, shape: tuple[int, int], rays: Rays) -> None:
    fits = t.ndim == 4 and tuple(t.shape[2:]) == shape and t.dtype in REAL
    expect(fits, op, argument, f"float32 or float64 [B, C, {shape[0]}, {shape[1]}]", t)
    expect(rays.lines.device == t.device, op, "rays", f"rays on {t.device}", rays.lines.device)


@accepts_arrays
def radon(x: Tensor, rays: Rays) -> Tensor:
    """Line integrals of images along rays: Joseph's linear interpolation between pixels, zeros outside the image.

    Args:
        x: images [B, C, H, W], float32 or float64, of the size that the rays were made for.
        rays: A views of D rays, from `parallel_rays` or `fan_rays`; their unit is the unit of the integrals' length.

    Returns:
        y [B, C, A, D] like x, differentiable to any order.

    Raises:
        ValueError: shapes, types or devices do not fit.
    """
    _check("radon", "x", x, rays.size, rays)
    y = Radon.call(x.flatten(0, 1), rays.lines, rays.axis)
    return y.view(*x.shape[:2], *rays.axis.shape)


@accepts_arrays
def radon_adjoint(y: Tensor, rays: Rays) -> Tensor:
    """The adjoint of `radon`: every ray's number is spread over the pixels it met, with the same weights.

    Args:
        y: [B, C, A, D], float32 or float64, of as many views and rays.
        rays: as for `radon`.

    Returns:
        x [B, C, H, W] like y with <radon(u), y> = <u, x> to rounding, differentiable to any order.

    Raises:
        ValueError: shapes, types or devices do not fit.
    """
    _check("radon_adjoint", "y", y, (rays.axis.shape[0], rays.axis.shape[1]), rays)
    x = RadonAdjoint.call(y.flatten(0, 1), rays.lines, rays.axis, *rays.size)
    return x.view(*y.shape[:2], *rays.size)
