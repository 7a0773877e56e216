"""The half steps of linearised ADMM for min f(Z) + g(E) subject to X = A Z + B E: a product and all that follows it.

Rows are samples: the products Z A^T and U W read both factors with unit stride, and what follows takes the parameters
of all m components. r = A z + e - x is the residual; arg = dual + beta r is what the next product W1^T takes. All
parameters belong to the components, never to a sample.

Source: Xie, Wu, Zhong, Liu & Lin, Differentiable Linearized ADMM (arXiv:1905.06179), eqs. (3)-(6).
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastrecon.checks import accepts_arrays, choice, expect, held, kind
from fastrecon.ops.block_product import block_product_ref
from fastrecon.ops.function import Function
from fastrecon.ops.layout import DTYPES, shaped
from fastrecon.registry import compiled, define

UPDATES = ("general", "residual", "given")  # of E; their numbers are those of csrc/ladmm_step.cpp
GENERAL, RESIDUAL, GIVEN = range(3)
Product = Callable[[Tensor, Tensor], Tensor]


def _shrink(v: Tensor, tau: Tensor) -> Tensor:
    return (v - tau).relu() - (-v - tau).relu()  # whose derivative is 0 at the kinks


def _row_product(rows: Tensor, matrix: Tensor) -> Tensor:
    return rows @ matrix if rows.is_cuda else block_product_ref(rows[:, None], matrix)[:, 0]


def _by_row(definition: Callable[..., Any]) -> Callable[..., Any]:
    """`definition` with products in which no row depends on how many there are: a vendor's do."""
    return functools.wraps(definition)(functools.partial(definition, product=_row_product))


def ladmm_shrink_fwd_ref(z: Tensor, arg: Tensor, w: Tensor, tau: Tensor, product: Product = torch.matmul) -> Tensor:
    """The definition, z [N, D], arg [N, M], w [M, D], tau [D]: soft(z - arg w, tau)."""
    return _shrink(z - product(arg, w), tau)


def ladmm_shrink_bwd_ref(
    d_next: Tensor, z_next: Tensor, arg: Tensor, w: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The definition of the derivative: d_z [N, D], d_arg [N, M], d_w [M, D], d_tau [D].

    z_next tells where |z - arg w| > tau: there |z - arg w| - tau is not zero in floating point.
    """
    d_z = torch.where(z_next == 0, 0, d_next)
    return d_z, -(d_z @ w.T), -(arg.T @ d_z), -(z_next.sign() * d_z).sum(0)


def ladmm_step_fwd_ref(
    z: Tensor, a: Tensor, x: Tensor, e: Tensor, dual: Tensor, beta: Tensor, w: Tensor, tau: Tensor, beta_next: Tensor,
    update: int, product: Product = torch.matmul,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The definition, z [N, D], a [M, D], x, e, dual [N, M], parameters [M]: q = a z, e_next (empty where given),
    dual_next, arg.
    """
    q = product(z, a.T)
    if update == GENERAL:
        e = _shrink(e - w * (dual + beta * (q + e - x)), tau)
    elif update == RESIDUAL:
        e = _shrink(x - q - w * dual, tau)
    r = q + e - x
    dual = dual + beta * r
    return q, q.new_empty(0) if update == GIVEN else e, dual, dual + beta_next * r


def step_slopes(
    d_e: Tensor, d_dual: Tensor, d_arg: Tensor, q: Tensor, x: Tensor, e: Tensor, dual: Tensor, e_next: Tensor,
    beta: Tensor, w: Tensor, tau: Tensor, beta_next: Tensor, update: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """What the derivative of a step is between its products: d_q, d_e (empty for the residual update), d_dual like q;
    those of beta, w, tau, beta_next as rows of [4, M].
    """
    after = {GENERAL: e_next, GIVEN: e}.get(update)
    if after is None:
        after = _shrink(x - q - w * dual, tau)
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


def ladmm_step_bwd_ref(
    d_q: Tensor, d_e: Tensor, d_dual: Tensor, d_arg: Tensor, z: Tensor, a: Tensor, q: Tensor, x: Tensor, e: Tensor,
    dual: Tensor, e_next: Tensor, beta: Tensor, w: Tensor, tau: Tensor, beta_next: Tensor, update: int,
    a_learned: bool, x_learned: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The definition of the derivative: d_z, d_a, d_x (empty unless learned), then the others of `step_slopes`.

    The given d_q and d_e are empty where nothing else uses q and e_next. Only the general update reads e_next, and the
    residual one no e: it finds e_next again, which is faster than to keep it.
    """
    d_e = d_e if d_e.numel() else torch.zeros_like(q)
    slope, d_e_in, d_dual_in, d_parameters = step_slopes(
        d_e, d_dual, d_arg, q, x, e, dual, e_next, beta, w, tau, beta_next, update
    )  # fmt: skip
    d_q = slope + d_q if d_q.numel() else slope
    d_a, d_x = d_q.T @ z if a_learned else a.new_empty(0), -slope if x_learned else x.new_empty(0)
    return d_q @ a, d_a, d_x, d_e_in, d_dual_in, d_parameters


def ladmm_iterations_ref_(
    x: Tensor, a: Tensor, z: Tensor, e: Tensor, dual: Tensor, q: Tensor, arg: Tensor, w1: list[Tensor], l1: float,
    tau1: Tensor, beta: Tensor, w2: Tensor, tau2: Tensor, iterations: int, update: int,
    product: Product = torch.matmul,
) -> None:  # fmt: skip
    """So many iterations, a shrinkage and a step each, in place, from arg = dual + beta_0 (q + e - x) on.

    Each takes its own of the matrices w1 / l1 and of the rows of parameters [K, ...], or all take the only one; the
    last one's penalty is its own next one. `update` is general or residual.
    """
    for k in range(iterations):
        w, own_tau1, *own = (p[min(k, len(p) - 1)] for p in (w1, tau1, beta, w2, tau2))
        own += [beta[min(k + 1, len(beta) - 1)]]
        z.copy_(ladmm_shrink_fwd_ref(z, arg, w / l1, own_tau1, product))
        found = ladmm_step_fwd_ref(z, a, x, e, dual, *own, update=update, product=product)
        for target, value in zip((q, e, dual, arg), found, strict=True):
            target.copy_(value)


def _addresses(*tensors: Tensor) -> list[int]:
    return [t.data_ptr() for t in tensors]


def _has_kernel(*tensors: Tensor) -> bool:
    return tensors[0].dtype in (torch.float32, torch.float64) and all(t.numel() > 0 for t in tensors)


def _contiguous(*tensors: Tensor) -> list[Tensor]:
    return [t.contiguous() for t in tensors]


def _shrink_fwd_cpu(z, arg, w, tau):
    if not _has_kernel(z, arg):
        return NotImplemented
    inputs = _contiguous(z, arg, w, tau)
    z_next = torch.empty_like(inputs[0])
    compiled().ladmm_shrink_fwd(DTYPES[z.dtype], *_addresses(*inputs, z_next), len(z), *w.shape)
    return z_next


def _shrink_bwd_cpu(d_next, z_next, arg, w):
    if not _has_kernel(z_next, arg):
        return NotImplemented
    inputs = _contiguous(d_next, z_next, arg, w)
    outputs = [torch.empty_like(t) for t in inputs[1:]]
    outputs.append(torch.empty_like(z_next[0]))
    compiled().ladmm_shrink_bwd(DTYPES[z_next.dtype], *_addresses(*inputs, *outputs), len(arg), *w.shape)
    return tuple(outputs)


def _step_fwd_cpu(z, a, x, e, dual, beta, w, tau, beta_next, update):
    if not _has_kernel(z, a, x):
        return NotImplemented
    inputs = _contiguous(z, a, x, e, dual, beta, w, tau, beta_next)
    q, dual_next, arg = (torch.empty_like(inputs[2]) for _ in range(3))
    e_next = q.new_empty(0) if update == GIVEN else torch.empty_like(q)
    outputs = (q, q if update == GIVEN else e_next, dual_next, arg)
    compiled().ladmm_step_fwd(DTYPES[z.dtype], update, *_addresses(*inputs, *outputs), *z.shape, len(a))
    return q, e_next, dual_next, arg


def _step_bwd_cpu(
    d_q, d_e, d_dual, d_arg, z, a, q, x, e, dual, e_next, beta, w, tau, beta_next, update, a_learned, x_learned
):
    if not _has_kernel(z, a, x):
        return NotImplemented
    used = [t.numel() > 0 for t in (d_q, d_e)]
    e, after = {GENERAL: (e, e_next), RESIDUAL: (x, x), GIVEN: (e, e)}[update]  # x: an address that is not read
    outside = [t if use else d_dual for use, t in zip(used, (d_q, d_e), strict=True)]
    inputs = _contiguous(*outside, d_dual, d_arg, z, a, q, x, e, dual, after, beta, w, tau, beta_next)
    d_z, d_dual_in, d_parameters = (torch.empty_like(t) for t in (inputs[4], inputs[6], inputs[6][:1].expand(4, -1)))
    wanted = (a_learned, inputs[5]), (x_learned, inputs[7]), (update != RESIDUAL, inputs[6])
    d_a, d_x, d_e_in = (torch.empty_like(t) if want else t.new_empty(0) for want, t in wanted)
    optional = [t if t.numel() else d_z for t in (d_a, d_x, d_e_in)]  # an address that is not written to
    addresses = _addresses(*inputs, d_z, *optional, d_dual_in, d_parameters)
    compiled().ladmm_step_bwd(
        DTYPES[z.dtype], update, *addresses, *used, a_learned, x_learned, *z.shape, len(a)
    )  # fmt: skip
    return d_z, d_a, d_x, d_e_in, d_dual_in, d_parameters


def _iterations_cpu_(x, a, z, e, dual, q, arg, w1, l1, tau1, beta, w2, tau2, iterations, update):
    state = (z, e, dual, q, arg)
    if not (_has_kernel(z, a, x) and iterations > 0 and all(t.is_contiguous() for t in state)):
        return NotImplemented
    x, a, *w1 = _contiguous(x, a, *w1)
    matrices, rows = torch.tensor(_addresses(*w1)), _contiguous(tau1, beta, w2, tau2)
    compiled().ladmm_iterations(
        DTYPES[z.dtype], update, *_addresses(x, a, matrices), len(w1), l1, *_addresses(*rows, *state),
        *(p.shape[1] if len(p) > 1 else 0 for p in rows), iterations, *z.shape, len(a),
    )  # fmt: skip
    return None


def _step_fwd_fake(z, a, x, e, dual, beta, w, tau, beta_next, update):
    return shaped(x), x.new_empty(0) if update == GIVEN else shaped(x), *shaped(x, x)


def _step_bwd_fake(
    d_q, d_e, d_dual, d_arg, z, a, q, x, e, dual, e_next, beta, w, tau, beta_next, update, a_learned, x_learned
):
    d_a, d_x, d_e = (
        shaped(t) if wanted else t.new_empty(0)
        for t, wanted in ((a, a_learned), (x, x_learned), (x, update != RESIDUAL))
    )
    return shaped(z), d_a, d_x, d_e, shaped(x), x.new_empty(4, x.shape[1])


FAMILY = "ladmm_step"
_shrink_fwd = define(
    "ladmm_shrink_fwd(Tensor z, Tensor arg, Tensor w, Tensor tau) -> Tensor",
    FAMILY,
    ref=_by_row(ladmm_shrink_fwd_ref),
    cpu=_shrink_fwd_cpu,
    fake=lambda z, arg, w, tau: shaped(z),
)
_shrink_bwd = define(
    "ladmm_shrink_bwd(Tensor d_next, Tensor z_next, Tensor arg, Tensor w)"
    " -> (Tensor d_z, Tensor d_arg, Tensor d_w, Tensor d_tau)",
    FAMILY,
    ref=ladmm_shrink_bwd_ref,
    cpu=_shrink_bwd_cpu,
    fake=lambda d_next, z_next, arg, w: (*shaped(z_next, arg, w), w.new_empty(w.shape[1])),
)
_step_fwd = define(
    "ladmm_step_fwd(Tensor z, Tensor a, Tensor x, Tensor e, Tensor dual, Tensor beta, Tensor w, Tensor tau,"
    " Tensor beta_next, int update) -> (Tensor q, Tensor e_next, Tensor dual_next, Tensor arg)",
    FAMILY,
    ref=_by_row(ladmm_step_fwd_ref),
    cpu=_step_fwd_cpu,
    fake=_step_fwd_fake,
)
_step_bwd = define(
    "ladmm_step_bwd(Tensor d_q, Tensor d_e, Tensor d_dual, Tensor d_arg, Tensor z, Tensor a, Tensor q, Tensor x,"
    " Tensor e, Tensor dual, Tensor e_next, Tensor beta, Tensor w, Tensor tau, Tensor beta_next, int update,"
    " bool a_learned, bool x_learned)"
    " -> (Tensor d_z, Tensor d_a, Tensor d_x, Tensor d_e_in, Tensor d_dual_in, Tensor d_parameters)",
    FAMILY,
    ref=ladmm_step_bwd_ref,
    cpu=_step_bwd_cpu,
    fake=_step_bwd_fake,
)
_iterations_ = define(
    "ladmm_iterations_(Tensor x, Tensor a, Tensor(a!) z, Tensor(b!) e, Tensor(c!) dual, Tensor(d!) q, Tensor(e!) arg,"
    " Tensor[] w1, float l1, Tensor tau1, Tensor beta, Tensor w2, Tensor tau2, int iterations, int update) -> ()",
    FAMILY,
    ref=_by_row(ladmm_iterations_ref_),
    cpu=_iterations_cpu_,
    fake=lambda *_: None,
)


class LadmmShrink(Function):
    """z [N, D], arg [N, M], w [M, D], tau [D] to soft(z - arg w, tau), differentiable once; of z the result is kept."""

    definition = staticmethod(ladmm_shrink_fwd_ref)

    @staticmethod
    def forward(z, arg, w, tau):  # noqa: D102
        return _shrink_fwd(z, arg, w, tau)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: D102
        ctx.save_for_backward(output, *inputs[1:3])

    @staticmethod
    @once_differentiable
    def backward(ctx, d_next):  # noqa: D102
        return _shrink_bwd(d_next, *ctx.saved_tensors)


class LadmmStep(Function):
    """z [N, D], a [M, D], x, e, dual [N, M] and parameters [M] to q, e_next, dual_next, arg; differentiable once."""

    definition = staticmethod(ladmm_step_fwd_ref)

    @staticmethod
    def forward(z, a, x, e, dual, beta, w, tau, beta_next, update):  # noqa: D102
        return _step_fwd(z, a, x, e, dual, beta, w, tau, beta_next, update)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: D102
        z, a, x, e, dual, *parameters, ctx.update = inputs
        q, e_next, *_ = output
        unused = q.new_empty(0)
        ctx.set_materialize_grads(False)
        kept = (unused if ctx.update == RESIDUAL else e, dual, e_next if ctx.update == GENERAL else unused)
        ctx.save_for_backward(z, a, q, x, *kept, *parameters)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_q, d_e, d_dual, d_arg):  # noqa: D102
        q, unused = ctx.saved_tensors[2], ctx.saved_tensors[2].new_empty(0)
        outside = [
            unused if t is None or t.shape != q.shape else t for t in (d_q, d_e)
        ]  # e that is given has no e_next
        inside = [torch.zeros_like(q) if t is None else t for t in (d_dual, d_arg)]
        _, *learned = ctx.needs_input_grad[:3]
        *grads, d_parameters = _step_bwd(*outside, *inside, *ctx.saved_tensors, ctx.update, *learned)
        grads = [g if g.shape == q.shape or k < 2 else None for k, g in enumerate(grads)]
        return *grads, *d_parameters.unbind(), None


def _row(value: float | Tensor, like: Tensor, op: str, argument: str, **limits: float) -> Tensor:
    """A parameter of the columns of `like` [N, M] as [M]; `limits` of a number as of `checks.number`."""
    if not isinstance(value, Tensor):
        value = held(value, like.dtype, op, argument, **limits)
        return torch.full(like.shape[1:], value, dtype=like.dtype, device=like.device)
    whole = value.shape == like.shape[1:]
    expect(whole or value.numel() == 1 >= value.ndim, op, argument, f"a number or shape ({like.shape[1]},)", value)
    same = value.dtype == like.dtype and value.device == like.device
    expect(same, op, argument, kind(like), value)
    return value if whole else value.expand(like.shape[1])


def _same(op: str, like: Tensor, name: str, **others: Tensor) -> None:
    expect(like.ndim == 2 and like.is_floating_point(), op, name, "a real matrix [N, M]", like)
    for argument, t in others.items():
        same = t.shape == like.shape and t.dtype == like.dtype and t.device == like.device
        expect(same, op, argument, like, t)


def _factors(op: str, z: Tensor, other: Tensor, matrix: Tensor, names: tuple[str, str, str]) -> None:
    """Checks codes z [N, D] and signals `other` [N, M] against the matrix [M, D] between them."""
    real = z.ndim == 2 and z.is_floating_point()
    expect(real, op, names[0], "a real matrix [N, D]", z)
    for argument, t, shape in (
        (names[1], other, (z.shape[0], None)),
        (names[2], matrix, (other.shape[-1], z.shape[1])),
    ):
        fits = t.ndim == 2 and all(want in (None, n) for want, n in zip(shape, t.shape, strict=True))
        sizes = ", ".join("M" if n is None else f"{n}" for n in shape)
        expect(fits and t.dtype == z.dtype and t.device == z.device, op, argument, f"({sizes}) {kind(z)}", t)


@accepts_arrays
def ladmm_shrink(z: Tensor, arg: Tensor, w: Tensor, tau: float | Tensor) -> Tensor:
    """The Z step, arg = dual + beta r: soft(z - arg w, tau), in one pass over the product.

    Args:
        z: codes [N, D], one sample a row.
        arg: [N, M].
        w: W1 [M, D].
        tau: threshold, >= 0: a number or [D].

    Returns:
        The new z, differentiable once in all arguments; the derivative at the threshold is taken as 0.

    Raises:
        ValueError: shapes, types or devices do not fit.
    """
    op = "ladmm_shrink"
    _factors(op, z, arg, w, ("z", "arg", "w"))
    return LadmmShrink.call(z, arg, w, _row(tau, z, op, "tau", least=0))


@accepts_arrays
def ladmm_step(
    z: Tensor, a: Tensor, x: Tensor, e: Tensor, dual: Tensor, beta: float | Tensor, w: float | Tensor,
    tau: float | Tensor, beta_next: float | Tensor, update: str = "general",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Everything that follows the Z step in an iteration with B = I, in one pass over the product q = A z.

    e+ by `update`:
        "general": soft(e - w (dual + beta (q + e - x)), tau), the linearised step with W2 = diag(w)
        "residual": soft(x - q - w dual, tau), the exact step for w = 1 / beta; e is not read
        "given": e itself; of a general B, pass B e+ here
    and then r = q + e+ - x, dual+ = dual + beta r, arg = dual+ + beta_next r.

    Args:
        z: codes [N, D], one sample a row.
        a: A [M, D].
        x: data [N, M].
        e: like x.
        dual: multipliers, like x.
        beta: penalty, > 0: a number or [M].
        w: step of e, > 0: a number or [M].
        tau: threshold of e, >= 0: a number or [M].
        beta_next: penalty of the next iteration's product, >= 0: a number or [M].
        update: how e+ is found.

    Returns:
        q, e+, dual+, arg, differentiable once in all arguments; the derivative at the threshold is taken as 0.

    Raises:
        ValueError: shapes, types or devices do not fit.
    """
    op = "ladmm_step"
    _factors(op, z, x, a, ("z", "x", "a"))
    _same(op, x, "x", e=e, dual=dual)
    choice(update, UPDATES, op, "update")
    parameters = [
        _row(beta, x, op, "beta", above=0), _row(w, x, op, "w", above=0), _row(tau, x, op, "tau", least=0),
        _row(beta_next, x, op, "beta_next", least=0),
    ]  # fmt: skip
    code = UPDATES.index(update)
    q, e_next, dual_next, arg = LadmmStep.call(z, a, x, e, dual, *parameters, code)
    return q, e if code == GIVEN else e_next, dual_next, arg


@torch.no_grad()
def ladmm_iterations_(
    x: Tensor, a: Tensor, z: Tensor, e: Tensor, dual: Tensor, q: Tensor, w1: list[Tensor], l1: float, tau1: Tensor,
    beta: Tensor, w2: Tensor, tau2: Tensor, iterations: int, update: str,
) -> None:  # fmt: skip
    """So many iterations with B = I, a shrinkage and a step each, in the memory of z, e, dual and q; no gradients.

    Args:
        x: data [N, M], contiguous as are the next four.
        a: A [M, D].
        z: codes [N, D], overwritten.
        e, dual, q: errors, multipliers and A z, like x, overwritten.
        w1, l1: matrices L1 W1 [M, D] of each iteration, or one for all, and L1.
        tau1, beta, w2, tau2: rows [K, 1 or D] and [K, 1 or M] of each iteration, or one for all.
        update: of e, "general" or "residual", see `ladmm_step`.
    """
    vectors = (p.expand(-1, n) for p, n in zip((tau1, beta, w2, tau2), (z.shape[1], *[x.shape[1]] * 3), strict=True))
    arg = dual + beta[0] * (q + e - x)
    _iterations_(x, a, z, e, dual, q, arg, w1, l1, *vectors, iterations, UPDATES.index(update))
