"""Convolution, a learned sum of Gaussians for every map, convolution: the unit of shrinkage fields, and its derivative.

G(v) = sum_i back_i * phi_i(filters_i * v),  phi_i(t) = sum_j w_ij exp(-(t - c_j)^2 / (2 sigma^2)), centres c_j on an
even grid around 0. With back_i = filters_i rotated by a half turn, G is the gradient of sum_i rho_i(filters_i * v),
rho_i' = phi_i, where the boundary is circular.
Source: Schmidt & Roth, Shrinkage Fields for Effective Image Restoration, CVPR 2014; Chen & Pock, Trainable Nonlinear
Reaction Diffusion (arXiv:1508.02848).
"""

import math
from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d, conv_transpose2d, pad

from fastrecon.checks import accepts_arrays, choice, expect, number
from fastrecon.ops.by_image import by_image
from fastrecon.ops.function import Function
from fastrecon.ops.layout import DTYPES, shaped
from fastrecon.registry import compiled, define

STEP = 10 / 255  # between centres, and sigma
BOUNDARIES = {"circular": "circular", "zero": "constant", "replicate": "replicate", "reflect": "reflect"}
SHARE = 16  # intervals of the kernel's table in a sigma: cubics err by less than 1e-7 of a weight
TAIL = 8  # sigmas after which a Gaussian counts as 0
MOST_INTERVALS, SIDES = 8192, (3, 5, 7)  # of the compiled kernel


def _centres(weights: Tensor, spacing: float) -> Tensor:
    """c_j of weights [F, J]."""
    J = weights.shape[1]
    return (torch.arange(J, dtype=weights.dtype, device=weights.device) - (J - 1) / 2) * spacing


def _maps(t: Tensor, weights: Tensor, spacing: float, sigma: float) -> Tensor:
    """phi_i(t_i) of maps [B, F, H, W]."""
    total = torch.zeros_like(t)
    for c, w in zip(_centres(weights, spacing), weights.unbind(1), strict=True):
        total = total + w[:, None, None] * torch.exp(((t - c) / sigma).square() / -2)
    return total


def rbf_unit_fwd_ref(x: Tensor, filters: Tensor, back: Tensor, weights: Tensor, spacing: float, sigma: float) -> Tensor:
    """The definition, differentiable by autograd: x [B, C, H + 2 (K - 1), W + 2 (K - 1)]; filters and back [F, C, K,
    K]; weights [F, J]. Returns y [B, C, H, W]: no convolution pads."""
    return conv2d(_maps(conv2d(x, filters), weights, spacing, sigma), back.transpose(0, 1))


def rbf_unit_vjp_ref(
    d_y: Tensor, x: Tensor, filters: Tensor, back: Tensor, weights: Tensor, spacing: float, sigma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The definition of the derivative: d_x, d_filters, d_back, d_weights."""
    if d_y.numel() == 0:
        return torch.zeros_like(x), torch.zeros_like(filters), torch.zeros_like(back), torch.zeros_like(weights)
    t, d_z = conv2d(x, filters), conv_transpose2d(d_y, back.transpose(0, 1))
    z, slope, d_weights = torch.zeros_like(t), torch.zeros_like(t), []
    for c, w in zip(_centres(weights, spacing), weights.unbind(1), strict=True):
        far = (t - c) / sigma
        bell = torch.exp(far.square() / -2)
        z = z + w[:, None, None] * bell
        slope = slope - w[:, None, None] * (bell * far)
        d_weights.append((d_z * bell).sum((0, 2, 3)))
    d_t = d_z * (slope / sigma)
    d_filters = conv2d(x.transpose(0, 1), d_t.transpose(0, 1)).transpose(0, 1)  # sums over images and pixels
    d_back = conv2d(z.transpose(0, 1), d_y.transpose(0, 1))
    return conv_transpose2d(d_t, filters), d_filters, d_back, torch.stack(d_weights, 1)


@cache
def _cubics(J: int, spacing: float, sigma: float) -> Tensor:
    """[J, N, 8] float64: of every Gaussian and of its derivative, on N intervals around 0, the cubics in u, 0 <= u <= 1
    within an interval, that are right at Chebyshev's four points."""
    half = math.ceil(((J - 1) / 2 * spacing / sigma + TAIL) * SHARE)
    u = (1 - torch.cos((torch.arange(4, dtype=torch.float64) + 0.5) * (math.pi / 4))) / 2
    t = (torch.arange(-half, half, dtype=torch.float64)[:, None] + u) * (sigma / SHARE)
    far = (t - _centres(torch.empty(1, J, dtype=torch.float64), spacing)[:, None, None]) / sigma
    bell = torch.exp(far.square() / -2)
    powers = torch.linalg.inv(u[:, None] ** torch.arange(4, dtype=torch.float64))
    return torch.cat([values @ powers.T for values in (bell, -bell * far / sigma)], -1)


def _table(weights: Tensor, spacing: float, sigma: float) -> Tensor:
    """[F, N, 8] float32 as csrc/rbf_unit.cpp reads it."""
    cubics = _cubics(weights.shape[1], spacing, sigma)
    return (weights.double() @ cubics.flatten(1)).float().view(-1, *cubics.shape[1:])


def _has_kernel(x: Tensor, filters: Tensor, weights: Tensor, spacing: float, sigma: float) -> bool:
    intervals = ((weights.shape[1] - 1) * spacing / sigma + 2 * TAIL) * SHARE
    small = x.shape[2] <= 2 * (filters.shape[2] - 1) or x.shape[3] <= 2 * (filters.shape[2] - 1)
    fits = filters.shape[2] in SIDES and intervals <= MOST_INTERVALS and filters.numel() > 0
    return x.dtype == torch.float32 and fits and x.numel() > 0 and not small


def _sizes(x: Tensor, filters: Tensor, table: Tensor, sigma: float) -> tuple[float, ...]:
    B, C, H, W = x.shape
    F, _, K, _ = filters.shape
    return B, C, H - 2 * (K - 1), W - 2 * (K - 1), F, K, table.shape[1], SHARE / sigma


def _fwd_cpu(x: Tensor, filters: Tensor, back: Tensor, weights: Tensor, spacing: float, sigma: float):
    if not _has_kernel(x, filters, weights, spacing, sigma):
        return NotImplemented
    x, filters, back = x.contiguous(), filters.contiguous(), back.contiguous()
    table = _table(weights, spacing, sigma)
    y, sizes = _unwritten(x, filters), _sizes(x, filters, table, sigma)
    compiled().rbf_unit_fwd(DTYPES[x.dtype], *(t.data_ptr() for t in (x, filters, back, table, y)), *sizes)
    return y


def _vjp_cpu(d_y: Tensor, x: Tensor, filters: Tensor, back: Tensor, weights: Tensor, spacing: float, sigma: float):
    if not _has_kernel(x, filters, weights, spacing, sigma):
        return NotImplemented
    d_y, x, filters, back = d_y.contiguous(), x.contiguous(), filters.contiguous(), back.contiguous()
    table = _table(weights, spacing, sigma)
    d_x, d_filters, d_back = torch.empty_like(x), torch.empty_like(filters), torch.empty_like(back)
    d_table = torch.empty(*table.shape[:2], 4, dtype=torch.float64)
    arrays = (d_y, x, filters, back, table, d_x, d_filters, d_back, d_table)
    sizes = _sizes(x, filters, table, sigma)
    compiled().rbf_unit_vjp(DTYPES[x.dtype], *(t.data_ptr() for t in arrays), *sizes)
    cubics = _cubics(weights.shape[1], spacing, sigma)
    d_weights = d_table.flatten(1) @ cubics[..., :4].flatten(1).T
    return d_x, d_filters, d_back, d_weights.to(weights.dtype)


def _unwritten(x: Tensor, filters: Tensor) -> Tensor:
    B, C, H, W = x.shape
    border = 2 * (filters.shape[2] - 1)
    return x.new_empty(B, C, H - border, W - border)


_fwd = define(
    "rbf_unit_fwd(Tensor x, Tensor filters, Tensor back, Tensor weights, float spacing, float sigma) -> Tensor",
    "rbf_unit",
    ref=by_image(rbf_unit_fwd_ref, 0),
    cpu=_fwd_cpu,
    fake=lambda x, filters, *_: _unwritten(x, filters),
)
_vjp = define(
    "rbf_unit_vjp(Tensor d_y, Tensor x, Tensor filters, Tensor back, Tensor weights, float spacing, float sigma)"
    " -> (Tensor d_x, Tensor d_filters, Tensor d_back, Tensor d_weights)",
    "rbf_unit",
    ref=rbf_unit_vjp_ref,
    cpu=_vjp_cpu,
    fake=lambda d_y, x, filters, back, weights, *_: shaped(x, filters, back, weights),
)


class RbfUnit(Function):
    """y of padded images, filters, back and weights, differentiable once in all of them."""

    definition = staticmethod(rbf_unit_fwd_ref)

    @staticmethod
    def forward(x, filters, back, weights, spacing, sigma):  # noqa: D102
        return _fwd(x, filters, back, weights, spacing, sigma)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: D102
        *tensors, ctx.spacing, ctx.sigma = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_y):  # noqa: D102
        return *_vjp(d_y, *ctx.saved_tensors, ctx.spacing, ctx.sigma), None, None


@accepts_arrays
def rbf_unit(
    v: Tensor, filters: Tensor, weights: Tensor, back: Tensor | None = None, *, spacing: float = STEP,
    sigma: float = STEP, boundary: str = "circular",
) -> Tensor:  # fmt: skip
    """The unit G(v) = sum_i back_i * phi_i(filters_i * v), phi_i a sum of Gaussians of width sigma.

    Args:
        v: images [B, C, H, W], real.
        filters: [F, C, K, K], K odd, applied as correlations.
        weights: w [F, J] of Gaussians around J centres, `spacing` apart and even about 0.
        back: [F, C, K, K]; None: the filters, rotated by a half turn.
        spacing, sigma: > 0, in the unit of the maps filters_i * v.
        boundary: what v is continued by, K - 1 pixels on each side: "circular", "zero", "replicate" or "reflect".

    Returns:
        G(v) like v, differentiable once in v, filters, weights and back. In float32 the compiled kernel's phi_i is
        right to 1e-7 of its largest weight.

    Raises:
        ValueError: shapes, types or devices do not fit, or v is smaller than its continuation asks for.

    Source: Schmidt & Roth, Shrinkage Fields for Effective Image Restoration, CVPR 2014.
    """
    op = "rbf_unit"
    expect(v.ndim == 4 and v.is_floating_point(), op, "v", "real images [B, C, H, W]", v)
    side = filters.shape[-1] if filters.ndim == 4 else 0
    fits = filters.ndim == 4 and filters.shape[1:] == (v.shape[1], side, side) and side % 2 == 1 and len(filters) > 0
    expect(fits, op, "filters", f"[F, {v.shape[1]}, K, K] with odd K", filters)
    fits = weights.ndim == 2 and len(weights) == len(filters) and weights.shape[1] > 0
    expect(fits, op, "weights", f"[{len(filters)}, J]", weights)
    spacing, sigma = (float(number(n, op, name, above=0)) for n, name in ((spacing, "spacing"), (sigma, "sigma")))
    mode = BOUNDARIES[choice(boundary, BOUNDARIES, op, "boundary")]
    back = filters.flip(-1, -2) if back is None else back
    expect(back.shape == filters.shape, op, "back", f"{tuple(filters.shape)}", back)
    for name, t in (("filters", filters), ("weights", weights), ("back", back)):
        expect(t.dtype == v.dtype and t.device == v.device, op, name, f"{v.dtype} on {v.device}", t)
    border = side - 1
    least = {"circular": border, "reflect": border + 1}.get(boundary, 1)
    expect(min(v.shape[2:]) >= max(least, 1), op, "v", f"images of at least {max(least, 1)} pixels a side", v)
    x = pad(v, [border] * 4, mode=mode if v.shape[0] > 0 else "constant")
    return RbfUnit.call(x, filters, back, weights, spacing, sigma)
