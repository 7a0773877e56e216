"""Losses of D-LADMM, one number a layer: distance from the truth, and the duality gap that needs no truth.

Source: Xie, Wu, Zhong, Liu & Lin, Differentiable Linearized ADMM (arXiv:1905.06179), eqs. (7), (8).
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fastrecon.solvers.ladmm import Splitting

LOSSES = ("supervised", "decibel", "gap", "gap-literal")


def _outside(t: Tensor, bound: float) -> Tensor:
    """A soft penalty on |t| > bound, entry by entry."""
    return softplus(t - bound) + softplus(-t - bound)


def gap(s: Splitting, x: Tensor, atoms: Tensor, lam: float) -> Tensor:
    """f(Z) + g(E) - d(dual), d = -<dual, X> with |A^T dual| <= lam and |dual| <= 1 relaxed to penalties.

    Sums over each sample divided by m, mean over the samples.
    """
    primal = lam * s.z.abs().sum(1) + s.e.abs().sum(1)
    penalty = _outside(s.dual @ atoms, lam).sum(1) + _outside(s.dual, 1.0).sum(1)
    return (primal + penalty + (s.dual * x).sum(1)).mean() / x.shape[1]


def gap_literal(s: Splitting, x: Tensor, atoms: Tensor, lam: float) -> Tensor:
    """The same as in the authors' code: means over matrices of different sizes, so that f counts m / d times."""
    penalty = _outside(s.dual @ atoms, lam).mean() + _outside(s.dual, 1.0).mean()
    return lam * s.z.abs().mean() + s.e.abs().mean() + penalty + (s.dual * x).mean()


def weighted(losses: Iterable[Tensor], deep: float) -> Tensor:
    """The mean of the layers' losses, each weighing `deep` times as much as the next; deep = 0: the last one."""
    rows = list(losses)
    if deep == 0:
        return rows[-1]
    weights = [deep ** (len(rows) - 1 - k) for k in range(len(rows))]
    return torch.stack([w * r for w, r in zip(weights, rows, strict=True)]).sum() / sum(weights)
