"""The two decisions of an LDA iteration, per image: which candidate to keep, and whether the smoothing radius shrinks.

Source: Chen, Liu, Ye & Zhang, Learnable Descent Algorithm for Nonsmooth Nonconvex Image Reconstruction
(arXiv:2007.11245), Algorithm 1, lines 5-9.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastrecon.checks import accepts_arrays, expect, number, per_image
from fastrecon.ops.by_image import by_image
from fastrecon.ops.function import Function
from fastrecon.ops.layout import DTYPES, Size, norm_of, outputs, parts, prepare, rows, shaped, size_of
from fastrecon.registry import compiled, define


def select_descent_ref(u: Tensor, v: Tensor, phi_u: Tensor, phi_v: Tensor) -> tuple[Tensor, Tensor]:
    """The definition, u and v [B, N], phi [B]: x like u, took_u bool [B]. NaN counts as higher than any number."""
    took_u = (phi_u <= phi_v) | (phi_v.isnan() & ~phi_u.isnan())
    return torch.where(took_u[:, None], u, v), took_u


def select_descent_bwd_ref(d_x: Tensor, took_u: Tensor) -> tuple[Tensor, Tensor]:
    """The definition of the derivative: d_x to the candidate that was kept, 0 to the other."""
    return torch.where(took_u[:, None], d_x, 0), torch.where(took_u[:, None], 0, d_x)


def shrink_eps_ref(
    grad_f: Tensor, grad_r: Tensor, eps: Tensor, sigma: float, gamma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The definition, gradients [B, N], eps [B]: grad like grad_f, norm float64 [B], eps_next [B], shrunk bool [B]."""
    grad = grad_f + grad_r
    norm = norm_of(parts(grad).double(), 1, 2)[:, 0, 0]
    shrunk = norm < sigma * gamma * eps.double()
    return grad, norm, torch.where(shrunk, gamma * eps, eps), shrunk


def _select_cpu(u: Tensor, v: Tensor, phi_u: Tensor, phi_v: Tensor):
    if u.numel() == 0:
        return NotImplemented
    u, v, phi_u, phi_v = u.contiguous(), v.contiguous(), phi_u.double().contiguous(), phi_v.double().contiguous()
    took_u, taken = outputs("b", len(u))
    return _selected(len(u), u, [t.data_ptr() for t in (u, v, phi_u, phi_v)], taken), took_u


def _selected(batch: int, u: Tensor, given: Sequence[int], taken: int) -> Tensor:
    x = torch.empty_like(u)
    compiled().select_descent(*given, x.data_ptr(), taken, batch, u.nbytes // batch)
    return x


def _select_bwd_cpu(d_x: Tensor, took_u: Tensor):
    if d_x.numel() == 0:
        return NotImplemented
    d_x, took_u = d_x.contiguous(), took_u.contiguous()
    d_u, d_v = torch.empty_like(d_x), torch.empty_like(d_x)
    compiled().select_descent_bwd(
        d_x.data_ptr(), took_u.data_ptr(), d_u.data_ptr(), d_v.data_ptr(),
        d_x.shape[0], d_x.shape[1] * d_x.element_size(),
    )  # fmt: skip
    return d_u, d_v


def _shrink_cpu(grad_f: Tensor, grad_r: Tensor, eps: Tensor, sigma: float, gamma: float):
    real = grad_f.dtype.to_real() if grad_f.is_complex() else grad_f.dtype
    if grad_f.dtype not in DTYPES or grad_r.dtype != grad_f.dtype or eps.dtype != real or grad_f.numel() == 0:
        return NotImplemented
    grad_f, grad_r, eps, size = grad_f.contiguous(), grad_r.contiguous(), eps.contiguous(), size_of(grad_f)
    norm, eps_next, shrunk, *found = outputs("ddb" if size[0] % 2 else "dfb", size[1])
    given = [t.data_ptr() for t in (grad_f, grad_r, eps)]
    return _shrunk(size, grad_f, given, found, sigma, gamma), norm, eps_next, shrunk


def _shrunk(
    size: Size, grad_f: Tensor, given: Sequence[int], found: Sequence[int], sigma: float, gamma: float
) -> Tensor:
    (code, batch, count), grad = size, torch.empty_like(grad_f)
    compiled().shrink_eps(
        code % 2, *given, grad.data_ptr(), *found, batch, count * (2 if code > 1 else 1), sigma, gamma
    )
    return grad


def _shrink_fake(grad_f: Tensor, grad_r: Tensor, eps: Tensor, sigma: float, gamma: float):
    norm, shrunk = (eps.new_empty(eps.shape, dtype=t) for t in (torch.float64, torch.bool))
    return shaped(grad_f), norm, shaped(eps), shrunk


_select = define(
    "select_descent(Tensor u, Tensor v, Tensor phi_u, Tensor phi_v) -> (Tensor x, Tensor took_u)",
    "select_descent",
    ref=select_descent_ref,
    cpu=_select_cpu,
    fake=lambda u, v, phi_u, phi_v: (shaped(u), u.new_empty(u.shape[0], dtype=torch.bool)),
)
_select_bwd = define(
    "select_descent_bwd(Tensor d_x, Tensor took_u) -> (Tensor d_u, Tensor d_v)",
    "select_descent",
    ref=select_descent_bwd_ref,
    cpu=_select_bwd_cpu,
    fake=lambda d_x, took_u: shaped(d_x, d_x),
)
_shrink = define(
    "shrink_eps(Tensor grad_f, Tensor grad_r, Tensor eps, float sigma, float gamma)"
    " -> (Tensor grad, Tensor norm, Tensor eps_next, Tensor shrunk)",
    "select_descent",
    ref=by_image(shrink_eps_ref, 0, 1, 2),
    cpu=_shrink_cpu,
    fake=_shrink_fake,
)


class SelectDescent(Function):
    """The kept candidate, differentiable in it alone: the choice itself is not differentiated."""

    definition = staticmethod(select_descent_ref)
    kernel = staticmethod(_select_cpu)

    @staticmethod
    def forward(u, v, phi_u, phi_v):  # noqa: D102
        return _select(u, v, phi_u, phi_v)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: D102
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx, d_x, _):  # noqa: D102
        return *_select_bwd(d_x, *ctx.saved_tensors), None, None


class ShrinkEps(Function):
    """The smoothed gradient and the next radius, differentiable in the last one: a product of factors gamma."""

    definition = staticmethod(shrink_eps_ref)
    kernel = staticmethod(_shrink_cpu)

    @staticmethod
    def forward(grad_f, grad_r, eps, sigma, gamma):  # noqa: D102
        return _shrink(grad_f, grad_r, eps, sigma, gamma)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: D102
        grad, norm, _, shrunk = output
        ctx.gamma = inputs[4]
        ctx.mark_non_differentiable(grad, norm, shrunk)
        ctx.save_for_backward(shrunk)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_grad, d_norm, d_eps, d_shrunk):  # noqa: D102
        (shrunk,) = ctx.saved_tensors
        return None, None, torch.where(shrunk, ctx.gamma * d_eps, d_eps), None, None


@accepts_arrays
def select_descent(u: Tensor, v: Tensor, phi_u: Tensor, phi_v: Tensor) -> tuple[Tensor, Tensor]:
    """Keeps, for each image, u if phi_u <= phi_v and v otherwise; NaN counts as higher than any number.

    Args:
        u: candidates of the split step [B, ...], real or complex.
        v: candidates of the plain gradient step, the safeguard, like u.
        phi_u: objective at u [B], in any real dtype.
        phi_v: objective at v [B].

    Returns:
        x like u, differentiable in the candidate that was kept, and took_u, bool [B].

    Raises:
        ValueError: shapes, types or devices do not fit.
    """
    op = "select_descent"
    if found := prepare("b", 2, u, v, phi_u, phi_v):
        _, batch, _, took_u, u_at, v_at, phi_u_at, phi_v_at, taken = found
        if phi_u.dtype is not torch.float64 or phi_v.dtype is not torch.float64:
            phi_u, phi_v = phi_u.double(), phi_v.double()
            phi_u_at, phi_v_at = phi_u.data_ptr(), phi_v.data_ptr()
        return _selected(batch, u, (u_at, v_at, phi_u_at, phi_v_at), taken), took_u
    expect(u.ndim >= 1, op, "u", "[B, ...]", u)
    expect(v.shape == u.shape and v.dtype == u.dtype and v.device == u.device, op, "v", u, v)
    for argument, phi in (("phi_u", phi_u), ("phi_v", phi_v)):
        fits = phi.shape == u.shape[:1] and phi.is_floating_point() and phi.device == u.device
        expect(fits, op, argument, f"real ({u.shape[0]},) on {u.device}", phi)
    x, took_u = SelectDescent.call(rows(u), rows(v), phi_u, phi_v)
    return x.view(u.shape), took_u


@accepts_arrays
def shrink_eps(
    grad_f: Tensor, grad_r: Tensor, eps: float | Tensor, sigma: float, gamma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shrinks, for each image, eps to gamma eps if |grad_f + grad_r| < sigma gamma eps.

    Args:
        grad_f: gradient of the data term [B, ...], real or complex.
        grad_r: gradient of the smoothed regulariser, like grad_f.
        eps: smoothing radius, > 0: a number, or [B].
        sigma: > 0.
        gamma: reduction factor in (0, 1).

    Returns:
        grad = grad_f + grad_r, its norm (float64, [B]), eps_next [B], whether it shrunk (bool, [B]). Only eps_next is
        differentiable, and only in eps: the decision is not differentiated.

    Raises:
        ValueError: shapes, types or devices do not fit.
    """
    op = "shrink_eps"
    sigma, gamma = number(sigma, op, "sigma", above=0), number(gamma, op, "gamma", above=0, below=1)
    if type(eps) is Tensor and (found := prepare("drb", 2, grad_f, grad_r, eps)):
        code, batch, count, norm, eps_next, shrunk, f_at, r_at, eps_at, *into = found
        if eps.dtype is eps_next.dtype:
            grad = _shrunk((code, batch, count), grad_f, (f_at, r_at, eps_at), into, sigma, gamma)
            return grad, norm, eps_next, shrunk
    numeric = grad_f.is_floating_point() or grad_f.is_complex()
    expect(grad_f.ndim >= 1 and numeric, op, "grad_f", "[B, ...]", grad_f)
    same = grad_r.shape == grad_f.shape and grad_r.dtype == grad_f.dtype and grad_r.device == grad_f.device
    expect(same, op, "grad_r", grad_f, grad_r)
    radius = per_image(eps, grad_f, op, "eps", above=0)
    grad, norm, eps_next, shrunk = ShrinkEps.call(rows(grad_f), rows(grad_r), radius, float(sigma), float(gamma))
    return grad.view(grad_f.shape), norm, eps_next, shrunk
