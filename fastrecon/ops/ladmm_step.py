"""What linearised ADMM does between its matrix products, for min f(Z) + g(E) subject to X = A Z + B E.

Rows are samples: the products Z A^T and U W read both factors with unit stride, and these passes the parameters of all
m components. r = q + e - x, q = A z, is the residual; u = dual + beta r is what the next product W1^T takes. All
parameters belong to the components, never to a sample.

Source: Xie, Wu, Zhong, Liu & Lin, Differentiable Linearized ADMM (arXiv:1905.06179), eqs. (3)-(6).
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastrecon.checks import accepts_arrays, describe, expect
from fastrecon.ops.layout import DTYPES
from fastrecon.registry import compiled, define

UPDATES = ("general", "residual", "given")  # of E; their numbers are those of csrc/ladmm_step.cpp
GENERAL, RESIDUAL, GIVEN = range(3)


def _shrink(v: Tensor, tau: Tensor) -> Tensor:
    return (v - tau).clamp_min(0) + (v + tau).clamp_max(0)


def ladmm_shrink_fwd_ref(z: Tensor, p: Tensor, tau: Tensor) -> Tensor:
    """The definition, z and p [N, D], tau [D]: soft(z - p, tau)."""
    return _shrink(z - p, tau)


def ladmm_shrink_bwd_ref(d_next: Tensor, z_next: Tensor) -> tuple[Tensor, Tensor]:
    """The definition of the derivative: d_z [N, D] (d_p is its negative), d_tau [D].

    z_next tells where |z - p| > tau: there |z - p| - tau is not zero in floating point.
    """
    d_z = torch.where(z_next == 0, 0, d_next)
    return d_z, -(z_next.sign() * d_z).sum(0)


def ladmm_step_fwd_ref(
    q: Tensor, x: Tensor, e: Tensor, dual: Tensor, beta: Tensor, w: Tensor, tau: Tensor, beta_next: Tensor, update: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition, q, x, e, dual [N, M], parameters [M]: e_next (empty where given), dual_next, arg."""
    if update == GENERAL:
        e = _shrink(e - w * (dual + beta * (q + e - x)), tau)
    elif update == RESIDUAL:
        e = _shrink(x - q - w * dual, tau)
    r = q + e - x
    dual = dual + beta * r
    return q.new_empty(0) if update == GIVEN else e, dual, dual + beta_next * r


def ladmm_step_bwd_ref(
    d_e: Tensor, d_dual: Tensor, d_arg: Tensor, q: Tensor, x: Tensor, e: Tensor, dual: Tensor, e_next: Tensor,
    beta: Tensor, w: Tensor, beta_next: Tensor, update: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The definition of the derivative: d_q (d_x is its negative), d_e (empty for the residual update), d_dual like q;
    those of beta, w, tau, beta_next as rows of [4, M].
    """
    after = e if update == GIVEN else e_next
    r = q + after - x
    total = d_dual + d_arg
    d_r = beta * total + beta_next * d_arg
    d_beta, d_next = (r * total).sum(0), (r * d_arg).sum(0)
    if update == GIVEN:
        zero = torch.zeros_like(beta)
        return d_r, d_e + d_r, total, torch.stack((d_beta, zero, zero, d_next))
    d_v = torch.where(after == 0, 0, d_e + d_r)
    d_tau = -(after.sign() * d_v).sum(0)
    if update == RESIDUAL:
        d_w = -(dual * d_v).sum(0)
        return d_r - d_v, q.new_empty(0), total - w * d_v, torch.stack((d_beta, d_w, d_tau, d_next))
    h = q + e - x
    d_h = -w * beta * d_v
    d_w = -((dual + beta * h) * d_v).sum(0)
    d_beta = d_beta - (w * h * d_v).sum(0)
    return d_r + d_h, d_v + d_h, total - w * d_v, torch.stack((d_beta, d_w, d_tau, d_next))


def ladmm_shrink_ref_(z: Tensor, p: Tensor, tau: Tensor) -> None:
    """z becomes soft(z - p, tau)."""
    z.copy_(ladmm_shrink_fwd_ref(z, p, tau))


def ladmm_step_ref_(
    q: Tensor, x: Tensor, e: Tensor, dual: Tensor, arg: Tensor, beta: Tensor, w: Tensor, tau: Tensor, beta_next: Tensor,
    update: int,
) -> None:  # fmt: skip
    """ladmm_step_fwd with e and dual overwritten by their successors, arg by the new one."""
    e_next, dual_next, arg_next = ladmm_step_fwd_ref(q, x, e, dual, beta, w, tau, beta_next, update)
    if update != GIVEN:
        e.copy_(e_next)
    dual.copy_(dual_next)
    arg.copy_(arg_next)


def _addresses(*tensors: Tensor) -> list[int]:
    return [t.data_ptr() for t in tensors]


def _has_kernel(t: Tensor) -> bool:
    return t.dtype in (torch.float32, torch.float64) and t.numel() > 0


def _shrink_fwd_cpu(z: Tensor, p: Tensor, tau: Tensor):
    if not _has_kernel(z):
        return NotImplemented
    z, p, tau = z.contiguous(), p.contiguous(), tau.contiguous()
    z_next = torch.empty_like(z)
    compiled().ladmm_shrink_fwd(DTYPES[z.dtype], *_addresses(z, p, tau, z_next), *z.shape)
    return z_next


def _shrink_bwd_cpu(d_next: Tensor, z_next: Tensor):
    if not _has_kernel(z_next):
        return NotImplemented
    d_next, z_next = d_next.contiguous(), z_next.contiguous()
    d_z, d_tau = torch.empty_like(z_next), torch.empty_like(z_next[0])
    compiled().ladmm_shrink_bwd(DTYPES[z_next.dtype], *_addresses(d_next, z_next, d_z, d_tau), *z_next.shape)
    return d_z, d_tau


def _step_fwd_cpu(q, x, e, dual, beta, w, tau, beta_next, update):
    if not _has_kernel(q):
        return NotImplemented
    inputs = [t.contiguous() for t in (q, x, e, dual, beta, w, tau, beta_next)]
    dual_next, arg = torch.empty_like(inputs[0]), torch.empty_like(inputs[0])
    e_next = q.new_empty(0) if update == GIVEN else torch.empty_like(arg)
    outputs = (arg if update == GIVEN else e_next, dual_next, arg)
    compiled().ladmm_step_fwd(DTYPES[q.dtype], update, *_addresses(*inputs, *outputs), *q.shape)
    return e_next, dual_next, arg


def _step_bwd_cpu(d_e, d_dual, d_arg, q, x, e, dual, e_next, beta, w, beta_next, update):
    if not _has_kernel(q):
        return NotImplemented
    after = e if update == GIVEN else e_next
    inputs = [t.contiguous() for t in (d_e, d_dual, d_arg, q, x, e, dual, after, beta, w, beta_next)]
    d_q, d_dual_in = torch.empty_like(inputs[3]), torch.empty_like(inputs[3])
    d_e_in = q.new_empty(0) if update == RESIDUAL else torch.empty_like(d_q)
    d_parameters = torch.empty_like(inputs[3][:1].expand(4, -1), memory_format=torch.contiguous_format)
    compiled().ladmm_step_bwd(
        DTYPES[q.dtype],
        update,
        *_addresses(*inputs, d_q, d_q if update == RESIDUAL else d_e_in, d_dual_in, d_parameters),
        *q.shape,
    )
    return d_q, d_e_in, d_dual_in, d_parameters


def _shrink_cpu_(z: Tensor, p: Tensor, tau: Tensor):
    if not (_has_kernel(z) and z.is_contiguous()):
        return NotImplemented
    p, tau = p.contiguous(), tau.contiguous()
    compiled().ladmm_shrink_fwd(DTYPES[z.dtype], *_addresses(z, p, tau, z), *z.shape)
    return None


def _step_cpu_(q, x, e, dual, arg, beta, w, tau, beta_next, update):
    if not (_has_kernel(q) and all(t.is_contiguous() for t in (e, dual, arg))):
        return NotImplemented
    q, x, beta, w, tau, beta_next = (t.contiguous() for t in (q, x, beta, w, tau, beta_next))
    addresses = _addresses(q, x, e, dual, beta, w, tau, beta_next, e, dual, arg)
    compiled().ladmm_step_fwd(DTYPES[q.dtype], update, *addresses, *q.shape)
    return None


_PARAMETERS = "Tensor beta, Tensor w, Tensor tau, Tensor beta_next, int update"
FAMILY = "ladmm_step"
_shrink_fwd = define(
    "ladmm_shrink_fwd(Tensor z, Tensor p, Tensor tau) -> Tensor", FAMILY, ref=ladmm_shrink_fwd_ref, cpu=_shrink_fwd_cpu
)
_shrink_bwd = define(
    "ladmm_shrink_bwd(Tensor d_next, Tensor z_next) -> (Tensor d_z, Tensor d_tau)",
    FAMILY,
    ref=ladmm_shrink_bwd_ref,
    cpu=_shrink_bwd_cpu,
)
_step_fwd = define(
    f"ladmm_step_fwd(Tensor q, Tensor x, Tensor e, Tensor dual, {_PARAMETERS})"
    " -> (Tensor e_next, Tensor dual_next, Tensor arg)",
    FAMILY,
    ref=ladmm_step_fwd_ref,
    cpu=_step_fwd_cpu,
)
_step_bwd = define(
    "ladmm_step_bwd(Tensor d_e, Tensor d_dual, Tensor d_arg, Tensor q, Tensor x, Tensor e, Tensor dual, Tensor e_next,"
    " Tensor beta, Tensor w, Tensor beta_next, int update)"
    " -> (Tensor d_q, Tensor d_e_in, Tensor d_dual_in, Tensor d_parameters)",
    FAMILY,
    ref=ladmm_step_bwd_ref,
    cpu=_step_bwd_cpu,
)
_shrink_inplace = define(
    "ladmm_shrink_(Tensor(a!) z, Tensor p, Tensor tau) -> ()", FAMILY, ref=ladmm_shrink_ref_, cpu=_shrink_cpu_
)
_step_inplace = define(
    f"ladmm_step_(Tensor q, Tensor x, Tensor(a!) e, Tensor(b!) dual, Tensor(c!) arg, {_PARAMETERS}) -> ()",
    FAMILY,
    ref=ladmm_step_ref_,
    cpu=_step_cpu_,
)


class LadmmShrink(torch.autograd.Function):
    """z, p [N, D], tau [D] to soft(z - p, tau), differentiable once; only the result is kept."""

    @staticmethod
    def forward(z, p, tau):  # noqa: D102
        return _shrink_fwd(z, p, tau)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: D102
        ctx.save_for_backward(output)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_next):  # noqa: D102
        d_z, d_tau = _shrink_bwd(d_next, *ctx.saved_tensors)
        return d_z, -d_z if ctx.needs_input_grad[1] else None, d_tau


class LadmmStep(torch.autograd.Function):
    """q, x, e, dual [N, M] and parameters [M] to e_next, dual_next, arg; differentiable once in all of them."""

    @staticmethod
    def forward(q, x, e, dual, beta, w, tau, beta_next, update):  # noqa: D102
        return _step_fwd(q, x, e, dual, beta, w, tau, beta_next, update)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: D102
        q, x, e, dual, beta, w, _, beta_next, ctx.update = inputs
        ctx.save_for_backward(q, x, e, dual, output[0], beta, w, beta_next)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_e, d_dual, d_arg):  # noqa: D102
        if ctx.update == GIVEN:
            d_e = torch.zeros_like(d_dual)  # e is handed on outside
        d_q, d_e, d_dual, d_parameters = _step_bwd(d_e, d_dual, d_arg, *ctx.saved_tensors, ctx.update)
        d_e = None if ctx.update == RESIDUAL else d_e
        return d_q, -d_q if ctx.needs_input_grad[1] else None, d_e, d_dual, *d_parameters.unbind(), None


def _row(value: float | Tensor, like: Tensor, op: str, argument: str) -> Tensor:
    """A parameter of the columns of `like` [N, M] as [M]."""
    if not isinstance(value, Tensor):
        return torch.full(like.shape[1:], float(value), dtype=like.dtype, device=like.device)
    fits = value.shape in ((), (1,), like.shape[1:])
    expect(fits, op, argument, f"a number or shape ({like.shape[1]},)", tuple(value.shape))
    same = value.dtype == like.dtype and value.device == like.device
    expect(same, op, argument, f"{str(like.dtype).removeprefix('torch.')} on {like.device}", describe(value))
    return value.expand(like.shape[1])


def _same(op: str, like: Tensor, name: str, **others: Tensor) -> None:
    expect(like.ndim == 2 and like.is_floating_point(), op, name, "a real matrix [N, M]", describe(like))
    for argument, t in others.items():
        same = t.shape == like.shape and t.dtype == like.dtype and t.device == like.device
        expect(same, op, argument, describe(like), describe(t))


@accepts_arrays
def ladmm_shrink(z: Tensor, p: Tensor, tau: float | Tensor, inplace: bool = False) -> Tensor:
    """The Z step after its product p = (dual + beta r) W1: soft(z - p, tau), in one pass.

    Args:
        z: codes [N, D], one sample a row.
        p: like z.
        tau: threshold, >= 0: a number or [D].
        inplace: whether z itself becomes the result (not differentiable).

    Returns:
        The new z, differentiable once in z, p and tau; the derivative at the threshold is taken as 0.

    Raises:
        ValueError: shapes, types or devices do not fit.
    """
    op = "ladmm_shrink"
    _same(op, z, "z", p=p)
    tau = _row(tau, z, op, "tau")
    if not inplace:
        return LadmmShrink.apply(z, p, tau)
    _shrink_inplace(z, p, tau)
    return z


@accepts_arrays
def ladmm_step(
    q: Tensor, x: Tensor, e: Tensor, dual: Tensor, beta: float | Tensor, w: float | Tensor, tau: float | Tensor,
    beta_next: float | Tensor, update: str = "general", arg: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Everything that follows the product q = A z+ in an iteration with B = I, in one pass.

    e+ by `update`:
        "general": soft(e - w (dual + beta (q + e - x)), tau), the linearised step with W2 = diag(w)
        "residual": soft(x - q - w dual, tau), the exact step for w = 1 / beta; e is not read
        "given": e itself; of a general B, pass B e+ here
    and then r = q + e+ - x, dual+ = dual + beta r, arg = dual+ + beta_next r.

    Args:
        q: A z+ [N, M], one sample a row.
        x: data, like q.
        e: like q.
        dual: multipliers, like q.
        beta: penalty, > 0: a number or [M].
        w: step of e, > 0: a number or [M].
        tau: threshold of e, >= 0: a number or [M].
        beta_next: penalty of the next iteration's product, a number or [M].
        update: how e+ is found.
        arg: where to write arg, like q; e and dual are overwritten by e+ and dual+ too then (not differentiable).

    Returns:
        e+, dual+, arg, differentiable once in all arguments; the derivative at the threshold is taken as 0.

    Raises:
        ValueError: shapes, types or devices do not fit.
    """
    op = "ladmm_step"
    _same(op, q, "q", x=x, e=e, dual=dual, **({} if arg is None else {"arg": arg}))
    expect(update in UPDATES, op, "update", f"one of {', '.join(UPDATES)}", repr(update))
    named = {"beta": beta, "w": w, "tau": tau, "beta_next": beta_next}
    parameters = [_row(value, q, op, argument) for argument, value in named.items()]
    code = UPDATES.index(update)
    if arg is not None:
        _step_inplace(q, x, e, dual, arg, *parameters, code)
        return e, dual, arg
    found = LadmmStep.apply(q, x, e, dual, *parameters, code)
    return e if code == GIVEN else found[0], found[1], found[2]
