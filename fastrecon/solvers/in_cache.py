"""Iterations of ISTA and FISTA that a compiled op makes, many in a call, where it knows the operator: A W*.

An iteration of a single image takes a quarter of a millisecond and a dozen passes over arrays that fit a core's cache.
As calls from Python they would come from memory, and cost as much again by being calls.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fastrecon.operators.base import Convolved, LinearOperator, Synthesis
from fastrecon.ops.image_operator import BLUR, MASK, Parts, usable
from fastrecon.ops.layout import DTYPES, spread_over
from fastrecon.ops.prox_gradient_iterations import prox_gradient_iterations_
from fastrecon.ops.wavelets import lowpass
from fastrecon.solvers.base import Row

AT_ONCE = 1 << 25  # numbers times iterations in a call, about 0.1 s: until then Ctrl-C and progress wait


@dataclass(frozen=True)
class Known:
    """A W*."""

    parts: Parts
    synthesis: Synthesis


def known(operator: LinearOperator, x: Tensor, y: Tensor) -> Known | None:
    """The parts of A W*, where there are compiled iterations for it and for x, y of this kind."""
    if x.device.type != "cpu" or x.dtype not in DTYPES or x.dtype != y.dtype:
        return None
    if torch.compiler.is_compiling() or x.ndim != 4 or x.numel() == 0:
        return None
    match operator.stages():
        case (Synthesis(level=level) as synthesis, stage) if level > 0 and not isinstance(stage, Synthesis):
            parts = stage if isinstance(stage, Parts) else _convolution(stage, y)
            if parts is not None and (parts.transform == MASK or usable(y, parts)):
                return Known(parts, synthesis)
    return None


def _convolution(stage: Convolved, y: Tensor) -> Parts | None:
    if y.is_complex():
        return None
    size = stage.size(y.shape[-2], y.shape[-1])
    return Parts(BLUR, stage.transfer(size, y.dtype), None, size)


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
        known: its operator.
        y: measurements.
        iterations, looks: of the run, and between two looks at the state.
        lasting: whether states given stay what they are.
        given: an x that stays what it is in any case.
        like: x without its numbers.
        stride: iterations in a call.
        trace: of the last step, [B, iterations, 2].
    """

    solver: Any
    known: Known
    y: Tensor
    iterations: int
    looks: int
    lasting: bool
    given: Tensor | None
    like: Tensor
    stride: int = 0
    trace: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        numbers = max(self.like.shape[:2].numel() * self.y.shape[-2:].numel(), self.y.numel())
        self.stride = self.stride or calls(self.looks, numbers, exactly=self.looks < self.iterations)

    def begin(self, s: Any) -> Any:
        """The state at the start in memory of its own: there the residual is new, and x unless it was given."""
        return s if self.lasting else self.owned(s, s.x is self.given, False)

    def owned(self, s: Any, with_x: bool = True, with_residual: bool = True) -> Any:
        """The state in memory of its own, but for x or the residual where that is not wanted."""
        x, residual = own(s.x) if with_x else s.x, own(s.residual) if with_residual else s.residual
        if not hasattr(s, "v"):
            return replace(s, x=x, residual=residual)
        return replace(s, x=x, residual=residual, v=own(s.v), residual_v=own(s.residual_v))

    def step(self, s: Any, k: int) -> Any:
        """All iterations from k up to the next multiple of the stride."""
        return self.several(self.owned(s) if self.lasting else s, k, min(self.stride, self.iterations - k))

    def several(self, s: Any, k: int, count: int) -> Any:
        """Iterations from k on, in the memory of the state."""
        return self.call(s, count)

    def call(self, s: Any, count: int, schedule: Tensor | None = None) -> Any:
        """So many iterations in one call."""
        fista, a = hasattr(s, "v"), self.known.parts
        none = s.x.new_empty(0)
        v, residual_v, theta = (s.v, s.residual_v, s.theta) if fista else (none, none, torch.ones_like(s.step))
        numbers = torch.stack((s.step, theta, s.objective, s.move), 1)
        lam, mask = spread_over(self.solver.lam, s.x, "Lasso", "lam"), a.mask
        mask = mask if mask.is_complex() else mask.to(lam.dtype)
        trace = prox_gradient_iterations_(
            s.x, v, s.residual, residual_v, self.y, mask, lam, numbers, lowpass(self.known.synthesis.wavelet),
            self.known.synthesis.level, count, fista, self.solver.rule == "backtracking", a.transform,
            None if a.maps is None else a.maps.to(s.x.dtype), a.size or (), a.centred, schedule,
        )  # fmt: skip
        self.trace[:] = [trace]
        step, theta, objective, square = numbers.unbind(1)
        new = replace(s, step=step, objective=objective, move=square)
        return replace(new, theta=theta) if fista else new

    def row(self, s: Any) -> Row:
        """Of the iterations of the last step; of the state itself at the start."""
        if not self.trace:
            return {"objective": s.objective, "step_norm": s.move.sqrt()}
        objective, square = self.trace[0].unbind(2)
        return {"objective": objective.T, "step_norm": square.sqrt().T}

    def narrow(self, which: Tensor) -> Callable[[Any, int], Any]:
        """The step of the images `which` alone, with their mask and weights."""
        solver = self.solver.take(which, self.like)
        y = self.y[which]
        found = known(solver.operator, self.like.new_empty(len(y), *self.like.shape[1:-1], 1), y)
        assert found is not None
        # the trace is one list for both
        return replace(self, solver=solver, known=found, y=y, like=self.like[which]).step
