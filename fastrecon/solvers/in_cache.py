"""Iterations of ISTA and FISTA that a compiled op makes, many in a call, where it knows the operator: m W*.

An iteration of a single image takes a quarter of a millisecond and a dozen passes over arrays that fit a core's cache.
As calls from Python they would come from memory, and cost as much again by being calls.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fastrecon.operators.base import LinearOperator, Masked, Synthesis
from fastrecon.ops.layout import spread_over
from fastrecon.ops.prox_gradient_iterations import prox_gradient_iterations_
from fastrecon.ops.wavelets import lowpass
from fastrecon.solvers.base import Row

AT_ONCE = 1 << 25  # numbers times iterations in a call, about 0.1 s: until then Ctrl-C and progress wait


def known(operator: LinearOperator, x: Tensor, y: Tensor) -> tuple[Masked, Synthesis] | None:
    """The parts of m W*, where there are compiled iterations for it and for x, y of this kind."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or x.dtype != y.dtype:
        return None
    if torch.compiler.is_compiling() or x.ndim != 4 or x.numel() == 0:
        return None
    return _parts(operator)


def _parts(operator: LinearOperator) -> tuple[Masked, Synthesis] | None:
    match operator.stages():
        case (Synthesis(level=level) as synthesis, Masked() as masked) if level > 0:
            return masked, synthesis
    return None


def calls(looks: int, numbers: int, exactly: bool) -> int:
    """Iterations in a call: at most `looks`, and a divisor of that if they end `exactly` at looks."""
    most = min(looks, max(1, AT_ONCE // max(numbers, 1)))
    return next(n for n in range(most, 0, -1) if looks % n == 0) if exactly else most


def own(t: Tensor) -> Tensor:
    """A copy."""
    return t.clone(memory_format=torch.contiguous_format)


@dataclass
class InCache:
    """A step of so many iterations of ISTA or FISTA, in the memory of the state that it is given.

    Attributes:
        solver: ISTA or FISTA, whose weights and rule they are.
        masked, synthesis: its operator.
        y: measurements.
        iterations, stride: of the run, and in a call.
        lasting: whether states given stay what they are.
        given: an x that stays what it is in any case.
        like: x without its numbers.
        trace: of the last call, [B, iterations, 2].
    """

    solver: Any
    masked: Masked
    synthesis: Synthesis
    y: Tensor
    iterations: int
    stride: int
    lasting: bool
    given: Tensor | None
    like: Tensor
    trace: list[Tensor] = field(default_factory=list)

    def step(self, s: Any, k: int) -> Any:
        """All iterations from k up to the next multiple of the stride."""
        fista = hasattr(s, "v")
        none = s.x.new_empty(0)
        v, residual_v, theta = (s.v, s.residual_v, s.theta) if fista else (none, none, torch.ones_like(s.step))
        x, residual = s.x, s.residual
        if self.lasting or x is self.given:
            x, residual = own(x), own(residual)
        if self.lasting or v is s.x:  # as both are at the start
            v, residual_v = own(v), own(residual_v)
        numbers = torch.stack((s.step, theta, s.objective, s.move), 1)
        mask, lam = self.masked.mask.to(x.dtype), spread_over(self.solver.lam, x, "Lasso", "lam")
        taps, level, count = lowpass(self.synthesis.wavelet), self.synthesis.level, self.iterations - k
        trace = prox_gradient_iterations_(
            x, v, residual, residual_v, self.y, mask, lam, numbers, taps, level, min(self.stride, count), fista,
            self.solver.rule == "backtracking",
        )  # fmt: skip
        self.trace[:] = [trace]
        step, theta, objective, square = numbers.unbind(1)
        new = replace(s, x=x, residual=residual, step=step, objective=objective, move=square)
        return replace(new, v=v, residual_v=residual_v, theta=theta) if fista else new

    def row(self, s: Any) -> Row:
        """Of the iterations of the last call; of the state itself at the start."""
        if not self.trace:
            return {"objective": s.objective, "step_norm": s.move.sqrt()}
        objective, square = self.trace[0].unbind(2)
        return {"objective": objective.T, "step_norm": square.sqrt().T}

    def narrow(self, which: Tensor) -> Callable[[Any, int], Any]:
        """The step of the images `which` alone, with their mask and weights."""
        solver = self.solver.take(which, self.like)
        parts = _parts(solver.operator)
        assert parts is not None
        return replace(self, solver=solver, masked=parts[0], y=self.y[which]).step  # the trace is one list for both
