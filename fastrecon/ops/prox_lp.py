"""The proximal map of lam |x|^p for 0 <= p <= 1, by generalised shrinkage solved to machine precision.

y = argmin_z |z - x|^2 / 2 + lam |z|^p: 0 where |x| <= tau(lam, p), else the larger root of z - |x| + lam p z^(p-1) = 0
in the direction of x. p = 1 is soft, p = 0 hard thresholding.
Source: Zuo, Meng, Zhang, Feng & Zhang, A Generalized Iterated Shrinkage Algorithm for Non-convex Sparse Coding,
ICCV 2013. Their two fixed-point steps are inexact; Halley's method, of third order, takes their place.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastrecon.checks import accepts_arrays, expect, number
from fastrecon.ops.function import Function, differentiated, past_dispatcher, with_derivative
from fastrecon.ops.layout import DTYPES, collapse, parts, plain, rescaled, shaped, single, strength, whole, wide_dtype
from fastrecon.ops.reductions import sum_of
from fastrecon.ops.soft_threshold import soft_threshold
from fastrecon.registry import compiled, define, extension

HALLEY_STEPS = 5  # from z = |x|, below one unit in the last place of float64 |x| for every p in [0, 1]


def threshold(lam: Tensor, p: float) -> Tensor:
    """tau(lam, p), 2013 paper eq. (12), as one power: sqrt(2 lam) at p = 0, lam at p = 1."""
    return ((2 - p) ** (2 - p) * (2 - 2 * p) ** (p - 1) * lam) ** (1 / (2 - p))


def _shrinkage(x: Tensor, lam: Tensor, p: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """For real numbers x [R, M, S, 1 or 2]: whether |x| > tau; |x| (1 elsewhere); r = |y| / |x|; d|y| / d|x| = 1 / (1 -
    (1 - p) lam p |y|^(p-2)); x / |x|.
    """
    h, norm, down = rescaled(x, -1)
    lam, modulus = lam[:, None, None].double(), norm / down
    above = ~(modulus <= threshold(lam, p).to(modulus.dtype))  # NaN comes through
    lam = lam.to(modulus.dtype)
    a = torch.where(above, modulus, 1)
    c = torch.where(above & (modulus < torch.inf), lam * p * a ** (p - 1) / a, 0)  # infinite ones stay
    r = torch.ones_like(a)  # in units of |x|: f(r) = r - 1 + c r^(p-1)
    for _ in range(HALLEY_STEPS):
        u = c * r ** (p - 1)
        f, slope = r - 1 + u, r - (1 - p) * u  # f, and r f'
        r = r - 2 * r * f * slope / (2 * slope * slope - (1 - p) * (2 - p) * f * u)
    return above, a, r, r / (r - (1 - p) * c * r ** (p - 1)), h / torch.where(above, norm, 1)


def prox_lp_fwd_ref(x: Tensor, lam: Tensor, p: float) -> Tensor:
    """The definition, x [R, M, S], lam [M]: y like x."""
    numbers = parts(x)
    above, _, r, *_ = _shrinkage(numbers, lam, p)
    return whole(torch.where(above, numbers * r, 0), x)


def prox_lp_bwd_ref(d_y: Tensor, x: Tensor, lam: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """The definition of the derivative (0 where |x| <= tau). Returns d_x like x, d_lam [M]."""
    above, a, r, slope, unit = _shrinkage(parts(x), lam, p)
    d = parts(d_y)
    along = (unit * d).sum(-1, keepdim=True)
    d_x = r * d + (slope - r) * along * unit
    d_lam = -torch.where(above, along * slope * p * (r * a) ** (p - 1), 0).sum((0, 2, 3))
    return whole(torch.where(above, d_x, 0), x), d_lam.to(lam.dtype)


def _fwd_cpu(x: Tensor, lam: Tensor, p: float):
    if x.dtype not in DTYPES or x.numel() == 0:
        return NotImplemented
    x, lam = x.contiguous(), lam.contiguous()
    y = torch.empty_like(x)
    extension().prox_lp_fwd(  # type: ignore[union-attr]
        DTYPES[x.dtype], x.data_ptr(), lam.data_ptr(), y.data_ptr(), *x.shape, p
    )
    return y


def _bwd_cpu(d_y: Tensor, x: Tensor, lam: Tensor, p: float):
    if x.dtype not in DTYPES or x.numel() == 0:
        return NotImplemented
    d_y, x, lam = d_y.contiguous(), x.contiguous(), lam.contiguous()
    d_x, d_lam = torch.empty_like(x), torch.empty_like(lam)
    extension().prox_lp_bwd(  # type: ignore[union-attr]
        DTYPES[x.dtype], d_y.data_ptr(), x.data_ptr(), lam.data_ptr(), d_x.data_ptr(), d_lam.data_ptr(), *x.shape, p
    )
    return d_x, d_lam


_fwd = define(
    "prox_lp_fwd(Tensor x, Tensor lam, float p) -> Tensor",
    "prox_lp",
    ref=prox_lp_fwd_ref,
    cpu=_fwd_cpu,
    fake=lambda x, lam, p: shaped(x),
)
_bwd = define(
    "prox_lp_bwd(Tensor d_y, Tensor x, Tensor lam, float p) -> (Tensor d_x, Tensor d_lam)",
    "prox_lp",
    ref=prox_lp_bwd_ref,
    cpu=_bwd_cpu,
    fake=lambda d_y, x, lam, p: shaped(x, lam),
)


def lp_value(c: Tensor, p: float) -> Tensor:
    """sum_i |c_i|^p of every image of c [B, ...]: [B] in float64, differentiable; at p = 0 the number of nonzeros."""
    if p > 0 and past_dispatcher() and c.is_cpu and c.dtype in DTYPES and c.numel() > 0 and not differentiated(c):
        c, value = plain(c), torch.empty(len(c), dtype=torch.float64)
        compiled().lp_value(DTYPES[c.dtype], c.data_ptr(), value.data_ptr(), len(c), c.numel() // len(c), p)
        return value
    size = c.to(wide_dtype(c)).abs()
    return sum_of(size.pow(p) if p else (size != 0).to(size.dtype))


class ProxLp(Function):
    """x [R, M, S] and lam [M] to y, differentiable once in both by the implicit function theorem."""

    definition = staticmethod(with_derivative(prox_lp_fwd_ref, prox_lp_bwd_ref))
    kernel = staticmethod(_fwd_cpu)

    @staticmethod
    def forward(x, lam, p):  # noqa: D102
        return _fwd(x, lam, p)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: D102
        x, lam, ctx.p = inputs
        ctx.save_for_backward(x, lam)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_y):  # noqa: D102
        return *_bwd(d_y, *ctx.saved_tensors, ctx.p), None


@accepts_arrays
def prox_lp(x: Tensor, lam: float | Tensor, p: float) -> Tensor:
    """The proximal map argmin_z |z - x|^2 / 2 + lam |z|^p, elementwise; 0 where two minimisers tie.

    Args:
        x: real or complex, any shape.
        lam: weight, >= 0: a number, or a real tensor that broadcasts to x.
        p: exponent in [0, 1]: 0 is hard, 1 soft thresholding.

    Returns:
        y like x, differentiable once in x and lam; the jump at the threshold contributes nothing.

    Raises:
        ValueError: shapes, types or devices do not fit, or p is out of range.

    Source: Zuo et al., A Generalized Iterated Shrinkage Algorithm for Non-convex Sparse Coding, ICCV 2013.
    """
    op = "prox_lp"
    p = float(number(p, op, "p", least=0, most=1))
    expect(x.is_floating_point() or x.is_complex(), op, "x", "a real or complex tensor", x)
    if p == 1:
        return soft_threshold(x, strength(lam, x, op, "lam"))
    if (one := single(lam, x, op, "lam")) is not None:
        y = torch.empty_like(x)
        compiled().prox_lp_fwd(DTYPES[x.dtype], x.data_ptr(), one.data_ptr(), y.data_ptr(), 1, 1, x.numel(), p)
        return y
    weight = strength(lam, x, op, "lam")
    return ProxLp.call(*collapse(x, weight, op, "lam"), p).view(x.shape)
