"""Layers of D-LADMM with B = I as one autograd Function: a node for each half step and each parameter takes longer than
what lies between the matrix products. Definition: `ladmm_shrink` and `ladmm_step` in turn.

Source: Xie, Wu, Zhong, Liu & Lin, Differentiable Linearized ADMM (arXiv:1905.06179), eqs. (4)-(6).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastrecon.ops.ladmm_step import RESIDUAL, UPDATES
from fastrecon.threads import alone

_raw = torch.ops.fastrecon


def _plus(total: Tensor, term: Tensor | None) -> Tensor:
    """total + term, either of which may be empty or missing for zero."""
    if term is None or not term.numel():
        return total
    return total + term if total.numel() else term


class LadmmLayers(torch.autograd.Function):
    """Takes the arguments of `ladmm_layers`, the matrices last; gives z, e, dual and A z of each layer in one row."""

    @staticmethod
    @alone  # of torch's threads some would still wait for more, on cores that the products could have
    def forward(ctx, x, a, l1, e_update, last, tau1, beta, w2, tau2, *scaled_w1):  # noqa: D102
        (m, d), K, update = a.shape, len(scaled_w1), UPDATES.index(e_update)
        ctx.l1, ctx.update, ctx.last = l1, update, last
        ctx.sizes, unused = [p.shape for p in (tau1, beta, w2, tau2)], x.new_empty(0)
        tau1, beta, w2, tau2 = (p.expand(K, n) for p, n in ((tau1, d), (beta, m), (w2, m), (tau2, m)))
        e = dual = torch.zeros_like(x)
        z, arg = x.new_zeros(len(x), d), -beta[0] * x
        states, saved = [], []
        for k, scaled in enumerate(scaled_w1):
            w1, beta_next = scaled / l1, beta[min(k + 1, K - 1)]
            saved += [w1, arg, dual, unused if update == RESIDUAL else e]
            z = _raw.ladmm_shrink_fwd(z, arg, w1, tau1[k])
            q, e, dual, arg = _raw.ladmm_step_fwd(z, a, x, e, dual, beta[k], w2[k], tau2[k], beta_next, update)
            saved += [z, q, unused if update == RESIDUAL else e]
            states.append((z, e, dual, q))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, a, beta, w2, tau2, *saved)
        return states[-1] if last else tuple(t for s in states for t in s)

    @staticmethod
    @once_differentiable
    @alone
    def backward(ctx, *d_states):  # noqa: D102
        x, a, beta, w2, tau2, *saved = ctx.saved_tensors
        K, (x_learned, a_learned, *_) = len(beta), ctx.needs_input_grad
        d_z = d_e = d_a = d_x = unused = x.new_empty(0)
        d_dual = d_arg = torch.zeros_like(x)
        d_states = (None,) * (4 * K - len(d_states)) + d_states
        of_rows, of_tau1, of_w1 = [], [], []
        for k in reversed(range(K)):
            w1, arg, dual, e, z, q, e_next = saved[7 * k : 7 * k + 7]
            given_z, given_e, given_dual, given_q = d_states[4 * k : 4 * k + 4]
            d_q, d_e, d_dual = _plus(unused, given_q), _plus(d_e, given_e), _plus(d_dual, given_dual)
            through_a, more_a, more_x, d_e, d_dual, rows = _raw.ladmm_step_bwd(
                d_q, d_e, d_dual, d_arg, z, a, q, x, e, dual, e_next, beta[k], w2[k], tau2[k], beta[min(k + 1, K - 1)],
                ctx.update, a_learned, x_learned,
            )  # fmt: skip
            d_a, d_x = _plus(d_a, more_a), _plus(d_x, more_x)
            d_z = _plus(_plus(through_a, d_z), given_z)
            d_z, d_arg, d_w1, d_tau1 = _raw.ladmm_shrink_bwd(d_z, z, arg, w1)
            of_rows.append(rows)
            of_tau1.append(d_tau1)
            of_w1.append(d_w1.div_(ctx.l1))
        d_beta, d_w2, d_tau2, d_next = torch.stack(of_rows[::-1]).unbind(1)
        d_beta[1:] += d_next[:-1]
        d_beta[-1] += d_next[-1]
        d_beta[0] -= (x * d_arg).sum(0)  # arg = -beta x before the first layer
        d_x = d_x - beta[0] * d_arg if x_learned else None
        found = zip((torch.stack(of_tau1[::-1]), d_beta, d_w2, d_tau2), ctx.sizes, strict=True)
        vectors = (g.sum_to_size(size) for g, size in found)
        return d_x, d_a if a_learned else None, None, None, None, *vectors, *of_w1[::-1]


def ladmm_layers(
    x: Tensor, a: Tensor, w1: Sequence[Tensor], l1: float, tau1: Tensor, beta: Tensor, w2: Tensor, tau2: Tensor,
    update: str, last: bool = False,
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:  # fmt: skip
    """z [N, D], e, dual and A z [N, M] after each of K layers from zero, or only after the `last`; differentiable once.

    Args:
        x: data [N, M].
        a: A [M, D].
        w1, l1: K matrices L1 W1 [M, D], and L1.
        tau1, beta, w2, tau2: [K, 1 or D] and [K, 1 or M].
        update: of e, "general" or "residual", see `ladmm_step`.
    """
    found = LadmmLayers.apply(x, a, l1, update, last, tau1, beta, w2, tau2, *w1)
    return [found[k : k + 4] for k in range(0, len(found), 4)]
