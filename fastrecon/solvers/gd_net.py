"""GD-Net and AGD-Net: LDA without its split step, and the same with learned momentum. They share LDA's code.

Source: Chen, Liu, Ye & Zhang, arXiv:2007.11245, sec. 4.3.1 (its AGD-Net formula omits grad r_eps; it is meant).
"""

from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.operators.base import LinearOperator
from fastrecon.solvers.base import column
from fastrecon.solvers.descent import DescentState
from fastrecon.solvers.rigorous import RigorousDescent


class GDNet(RigorousDescent):
    """Gradient descent with learned steps: x+ = x - alpha grad phi_eps(x)."""

    def step_sizes(self) -> tuple[Tensor, ...]:
        """alpha."""
        return (self.alpha,)

    def step(self, s: DescentState, y: Tensor, select: bool, *sizes: Tensor) -> DescentState:
        """One phase."""
        s = self.begin_phase(s)
        kept = s.r is not None and not torch.is_grad_enabled()
        grad_r = s.r.grad if s.r is not None and kept else self.regulariser.grad(s.x, s.eps)
        x = self.move(s, s.x - sizes[0] * (s.grad_f + grad_r), *sizes[1:])
        if s.r is None or not select:
            return self.accept_learned(s, x, y)
        residual = self.fidelity.residual(x, y)
        value = self.fidelity.value_of(residual.detach())
        none = torch.zeros_like(s.took_u)
        return self.accept(s, x, self.fidelity.grad_of(residual, x), self.regulariser.evaluate(x, s.eps), value, none)

    def move(self, s: DescentState, v: Tensor, *sizes: Tensor) -> Tensor:
        """The new iterate from the gradient step v."""
        return v


class AGDNet(GDNet):
    """The same with momentum: x+ = x - alpha grad phi_eps(x) + theta (x - x-), theta learned from 0 on."""

    def __init__(self, operator: LinearOperator, phases: int = 9, channels: int = 32, layers: int = 4, **options: Any):
        super().__init__(operator, phases, channels, layers, **options)
        self.raw_theta = nn.Parameter(torch.zeros(phases))

    def step_sizes(self) -> tuple[Tensor, ...]:
        """alpha and theta."""
        return self.alpha, self.raw_theta

    def move(self, s: DescentState, v: Tensor, *sizes: Tensor) -> Tensor:
        """v plus the momentum."""
        return v + sizes[0] * (s.x - s.previous)

    def candidate(self, s: DescentState, v: Tensor, step: Tensor, alpha: Tensor, *sizes: Tensor) -> Tensor:
        """v plus the momentum of the last phase."""
        return v + column(sizes[0], v) * (s.x - s.previous)
