"""LDA, the Learnable Descent Algorithm: trained phases, and iterations to convergence.

Source: Chen, Liu, Ye & Zhang, Learnable Descent Algorithm for Nonsmooth Nonconvex Image Reconstruction
(arXiv:2007.11245), Algorithm 1.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from fastrecon.checks import expect, flag, number
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.select_descent import select_descent
from fastrecon.solvers.base import column
from fastrecon.solvers.descent import FLOOR, DescentState, positive, raw_from, raw_of
from fastrecon.solvers.rigorous import RigorousDescent


class LDA(RigorousDescent):
    """Each phase keeps the lower of u (split step, own learned size) and v (plain gradient step, the safeguard):

        z = x - alpha grad f(x),  u = z - tau grad r_eps(z),  v = z - alpha grad r_eps(x) = x - alpha grad phi_eps(x),
        x+ = u if phi_eps(u) <= phi_eps(v) else v;  eps+ = gamma eps if |grad phi_eps(x+)| < sigma gamma eps else eps.

    Args:
        operator: A.
        phases: trained phases K.
        channels: features per layer of the regulariser.
        layers: its convolutions.
        tau: initial size of the split step, > 1e-6.
        safeguard: whether phases without gradients search the step of v by backtracking, so that the objective
            decreases from the first phase on and not only in rigorous mode. On a GPU a phase has 16 trials, always; an
            image that accepts none keeps its place.
        options: as for UnrolledDescent.
    """

    def __init__(
        self, operator: LinearOperator, phases: int = 9, channels: int = 32, layers: int = 4, *,
        tau: float = 0.1, safeguard: bool = False, **options: Any,
    ):  # fmt: skip
        super().__init__(operator, phases, channels, layers, **options)
        self.safeguard = flag(safeguard, type(self).__name__, "safeguard")
        self.raw_tau = raw_of(number(tau, type(self).__name__, "tau", above=FLOOR), phases)

    @property
    def tau(self) -> Tensor:
        """Sizes of the split steps, [K], > 0."""
        return positive(self.raw_tau)

    def reweighed(self, c: Tensor | float) -> Self:
        """A copy with c r in the place of r, whose every u is the same: only phi, and so the choice of u or v, changes.

        Features c g with radius c eps have the value c r_eps, and tau / c takes the same step.

        Raises:
            ValueError: the last layer is activated; its features do not scale with its weights.
        """
        net = copy.deepcopy(self)
        net.reweigh(c)
        return net

    @torch.no_grad()
    def reweigh(self, c: Tensor | float) -> None:
        """Makes r to c r, as in `reweighed`."""
        expect(not self.regulariser.final_activation, "reweighed", "final_activation", "False", True)
        self.raw_tau.copy_(raw_from(self.tau / c))
        self.raw_eps0.copy_(raw_from(self.eps0 * c))
        self.regulariser.weights[-1].mul_(c)

    @torch.no_grad()
    def balanced(self) -> Self:
        """A copy in which r has the weight in phi that the learned steps give it: c r with c = sum tau / sum alpha.

        Training with x = u sees r only through tau grad r, so its scale is arbitrary, and minimising phi to the end may
        smooth far too much or too little. Every u stays as it is, and on average u and v now weigh r alike.

        Raises:
            ValueError: see `reweighed`.
        """
        return self.reweighed(self.tau.sum() / self.alpha.sum())

    def step_sizes(self) -> tuple[Tensor, ...]:
        """alpha and tau."""
        return self.alpha, self.tau

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that rebuild this network around an operator."""
        return super().hyperparameters() | {"safeguard": self.safeguard}

    def step(self, s: DescentState, y: Tensor, select: bool, *sizes: Tensor) -> DescentState:
        """One phase; see the class. In training the graph holds u, and v only for the images that took it."""
        f, r, (a, t) = self.fidelity, self.regulariser, sizes
        training = torch.is_grad_enabled()
        s = self.begin_phase(s)
        if self.safeguard and select and not training:
            alpha, tau = (size.double().expand(s.x.shape[0]) for size in (a, t))
            return self.descend(s, y, not (s.x.is_cuda or torch.compiler.is_compiling()), alpha, tau)[0]
        z = s.x - a * s.grad_f
        u = z - t * r.grad(z, s.eps)
        if s.r is None or not select:
            return self.accept_learned(s, u, y)
        with torch.no_grad():
            v = z - a * s.r.grad
            estimated = not training and self.eps_mode == "sample" and r.can_estimate(u)
            evaluate, value = (r.estimate, r.estimate_value) if estimated else (r.evaluate, r.value)
            at_u, r_v = evaluate(u, s.eps), value(v, s.eps)
            residual_u, residual_v = f.residual(u, y), f.residual(v, y)
            f_u, f_v = f.value_of(residual_u), f.value_of(residual_v)
            if estimated:
                at_u, r_v = r.confirm_order(at_u, r_v, f_u - f_v, u, v, s.eps)
        x, took_u = select_descent(u, v, f_u + at_u.value, f_v + r_v)
        if training:
            which = (~took_u).nonzero().flatten()
            if len(which):
                x = x.index_copy(0, which, z[which] - a * r.grad(s.x[which], s.eps[which]))
            grad_f = f.grad(x, y)
        else:
            chosen = took_u.view(-1, *[1] * (residual_u.ndim - 1))
            grad_f = f.grad_of(torch.where(chosen, residual_u, residual_v), x)
        at_x = r.refresh(at_u, v, s.eps, ~took_u)
        at_x = r.confirm_norm(at_x, grad_f, x, s.eps, self.sigma * self.gamma * s.eps)
        return self.accept(s, x, grad_f, at_x, torch.where(took_u, f_u, f_v), took_u)

    def candidate(self, s: DescentState, v: Tensor, step: Tensor, alpha: Tensor, *sizes: Tensor) -> Tensor:
        """u, with both step sizes in the ratio of tau to alpha."""
        (tau,) = sizes
        z = s.x - column(step, v) * s.grad_f
        return z - column(tau * step / alpha, v) * self.regulariser.grad(z, s.eps)

    def beyond(self, last: Sequence[Tensor], alpha: Tensor) -> tuple[Tensor, ...]:
        """tau, in the ratio to alpha of the last phase."""
        return ((last[1] / last[0]).double() * alpha,)
