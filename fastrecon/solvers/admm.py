"""ADMM: the alternating direction method of multipliers, each image with its own penalty.

x+ = argmin f(x) + rho / 2 sum_i |K_i x - z_i + w_i|^2;  h = relaxation K_i x+ + (1 - relaxation) z_i
z+ = prox_{g_i / rho}(h + w_i);  w+ = h + w_i - z+

Source: Boyd, Parikh, Chu, Peleato & Eckstein, Distributed Optimization and Statistical Learning via the Alternating
Direction Method of Multipliers, Foundations and Trends in Machine Learning 3 (2011), sec. 3.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastrecon.checks import flag, number
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.reductions import squares
from fastrecon.solvers.base import column
from fastrecon.solvers.splitting import Prior, Splitting, SplittingState, ratio, size_of
from fastrecon.terms.normal_equations import total

BALANCE, FACTOR = 5.0, 2.0  # the penalty is changed by FACTOR where one relative residual is BALANCE times the other
ADAPT_EVERY, ADAPT_UNTIL = 5, 100  # iterations; a penalty that stays is what convergence needs


class ADMM(Splitting[SplittingState]):
    """min |A x - y|^2 / 2 + sum_i g_i(K_i x); converges to a minimiser if the g_i are convex.

    Where the equations of x have no closed form and the fidelity's proximal map has, the fidelity is split as well;
    see `splitting.Plan`.

    Args:
        operator, priors: as of Splitting.
        penalty: rho, > 0, where adaptation starts.
        relaxation: in (0, 2): 1.6 is often faster than 1.
        adaptive: whether each image balances its residuals by doubling or halving rho in its first 100 iterations.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    def __init__(
        self, operator: LinearOperator | None, priors: Sequence[Prior] | Prior, penalty: float = 1.0,
        relaxation: float = 1.6, adaptive: bool = True,
    ):  # fmt: skip
        super().__init__(operator, priors)
        self.penalty = float(number(penalty, "ADMM", "penalty", above=0))
        self.relaxation = float(number(relaxation, "ADMM", "relaxation", above=0, below=2))
        self.adaptive = flag(adaptive, "ADMM", "adaptive")

    def begin(self, x: Tensor, b: Tensor) -> SplittingState:
        """z_i = K_i x, w_i = 0."""
        z = tuple(k.forward(x) for _, k in self.plan.parts)
        unknown = torch.full((len(x),), float("inf"), dtype=torch.float64, device=x.device)
        rho = torch.full_like(unknown, self.penalty)
        w = tuple(torch.zeros_like(t) for t in z)
        return SplittingState(x, b, z, w, rho, unknown, unknown, unknown, self.valued(x))

    def settings(self) -> Any:
        """As of Splitting."""
        return super().settings(), self.relaxation, self.adaptive

    def step(self, s: SplittingState, k: Any) -> SplittingState:
        """One iteration."""
        rho, size = s.penalty, s.x.shape[-2:]
        x, left = self.solved(s, [z - w for z, w in zip(s.z, s.w, strict=True)], rho)
        images, z, w, pulls = [], [], [], []
        for i, (_, span) in enumerate(self.plan.parts):
            image = span.forward(x)
            v = self.relaxation * image + (1 - self.relaxation) * s.z[i] + s.w[i]
            images.append(image)
            z.append(self.proximal(i, v, rho))
            w.append(v - z[i])
            # grad f(x) + K* rho w = rho K* (w - (s.w + image - s.z)), by the equation of x
            pulls.append(span.apply_adjoint(w[i] - s.w[i] - image + s.z[i], size))
        primal = total([squares(a, b) for a, b in zip(images, z, strict=True)]).sqrt()
        dual = left + rho * squares(total(pulls)).sqrt()
        r, t = ratio(primal, torch.maximum(size_of(images), size_of(z))), ratio(dual, rho * size_of(w))
        new = SplittingState(x, s.b, tuple(z), tuple(w), rho, primal, dual, torch.maximum(r, t), self.valued(x))
        due = (k < ADAPT_UNTIL) & (k % ADAPT_EVERY == 4)
        if not self.adaptive or (due is False if isinstance(due, bool) else not bool(due.any())):
            return new
        return self.adapted(new, r, t, due)

    def adapted(self, s: SplittingState, primal: Tensor, dual: Tensor, due: Any) -> SplittingState:
        """With a larger penalty where the relative primal residual is large, a smaller one where the dual is; of the
        images that are `due`, a bool or [B].
        """
        factor = torch.where(primal > BALANCE * dual, FACTOR, torch.where(dual > BALANCE * primal, 1 / FACTOR, 1.0))
        factor = torch.where(due, factor, 1.0) if isinstance(due, Tensor) else factor
        w = tuple(t / column(factor, t) for t in s.w)
        return replace(s, w=w, penalty=s.penalty * factor)
