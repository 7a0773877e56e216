"""Error-controlled iterations over several blocks: y = A_1 x_1 + ... + A_n x_n + noise, each with modules of its own.

F(x_1, ..., x_n) = |sum_i A_i x_i - y|^2 / 2 + sum_i r_i(x_i). Block after block makes the step of
solvers/error_controlled.py, the others as they stand (Gauss-Seidel), and has its own check: F never increases.

Source: Liu, Optimization Learning: Perspective, Method, and Applications, IJCAI 2020; mFIMA of Liu, Cheng, He, Fan, Lin
& Luo, On the Convergence of Learning-based Iterative Methods for Nonconvex Inverse Problems, IEEE Trans. Pattern Anal.
Mach. Intell. 42 (2020).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.certificates import BlocksReport, Status
from fastrecon.checks import choice, expect, flag, integer, number
from fastrecon.modules.asking import Modules
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.reductions import sum_of_squares
from fastrecon.solvers.base import Callback, Run, check_measurements, iterate, with_parts
from fastrecon.solvers.correction import RULES, Correction, safe_step, starting_images
from fastrecon.solvers.error_controlled import Control, ControlledState, Rho, itself, prior_of, replaced, rho_of
from fastrecon.terms.base import Term
from fastrecon.terms.least_squares import LeastSquares
from fastrecon.threads import alone


@dataclass(frozen=True)
class Block:
    """One block of unknown images.

    Attributes:
        operator: A_i, from images [B, C, H, W] to what y is like.
        prior: r_i, a term with a proximal map.
        modules, strengths, rho: as of ErrorControlled.
    """

    operator: LinearOperator
    prior: Term
    modules: Any = None
    strengths: Sequence[float] | None = None
    rho: Rho = None


@dataclass(frozen=True)
class BlocksState:
    """Where the iteration stands: the state of every block, whose residual is that of all."""

    parts: tuple[ControlledState, ...]

    @property
    def objective(self) -> Tensor:
        """F [B]."""
        return self.parts[-1].fit + _total([s.penalty for s in self.parts])

    @property
    def x(self) -> tuple[Tensor, ...]:
        """The images of every block."""
        return tuple(s.x for s in self.parts)


class ErrorControlledBlocks(nn.Module):
    """min |sum_i A_i x_i - y|^2 / 2 + sum_i r_i(x_i) with modules in the way of every block that may be anything.

    Args:
        blocks: two or more as a rule; in this order they are seen to.
        rule, mu, error: as of ErrorControlled, of all blocks.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    def __init__(
        self, blocks: Sequence[Block], *, rule: str = "descent", mu: float | None = None, error: float = 0.45
    ):  # fmt: skip
        super().__init__()
        op = type(self).__name__
        fits = isinstance(blocks, list | tuple) and len(blocks) > 0 and all(isinstance(b, Block) for b in blocks)
        expect(fits, op, "blocks", "a list of Block", blocks)
        for b in blocks:
            fits = isinstance(b.operator, LinearOperator)
            expect(fits, op, "blocks", "operators that are LinearOperators", type(b.operator).__name__)
        self.fidelities = nn.ModuleList(LeastSquares(b.operator) for b in blocks)
        self.priors = nn.ModuleList(prior_of(b.prior, op) for b in blocks)
        self.modules_given = [Modules(itself if b.modules is None else b.modules, b.strengths, op) for b in blocks]
        self.networks = nn.ModuleList(m for given in self.modules_given for m in given.networks())
        self.rho = [rho_of(b.rho, op) for b in blocks]
        self.rule = choice(rule, RULES, op, "rule")
        self.mu = None if mu is None else float(number(mu, op, "mu", above=0))
        self.error = float(number(error, op, "error", above=0, below=0.5))
        self.controls: tuple[Control, ...] = ()  # of the batch at hand
        self.y: Tensor | None = None

    @torch.no_grad()
    @alone
    def forward(
        self, y: Tensor, x0: Sequence[Tensor], iterations: int = 30, tol: float = 1e-4, *, history: bool = False,
        callback: Callback | None = None,
    ) -> tuple[tuple[Tensor, ...], BlocksReport]:  # fmt: skip
        """Runs the iteration.

        Args:
            y: measurements [B, ...].
            x0: start of every block, [B, C, H, W] each.
            iterations: at most this many over all blocks, >= 0.
            tol: >= 0: an image is done, and leaves the batch, once every block has |x - x_k| <= tol |x|, |x| over all
                blocks. 0: never.
            history: whether to record every iteration.
            callback: called after every iteration with its number 1, 2, ... and the state.

        Returns:
            The images of every block, without gradients, and the report.

        Raises:
            ValueError: an argument does not fit, or a module was made for images on another range.
        """
        op = type(self).__name__
        iterations, tol = integer(iterations, op, "iterations", least=0), number(tol, op, "tol", least=0)
        history, fidelities = flag(history, op, "history"), [_least_squares(f) for f in self.fidelities]
        fits = isinstance(x0, list | tuple) and len(x0) == len(fidelities)
        expect(fits, op, "x0", f"{len(fidelities)} batches of images", x0)
        start = [starting_images(op, f.operator, y, x) for f, x in zip(fidelities, x0, strict=True)]
        reasons: list[str] = []
        controls = []
        for f, prior, modules, rho, x in zip(
            fidelities, self.priors, self.modules_given, self.rho, start, strict=True
        ):  # fmt: skip
            modules.check_range(x)
            assert isinstance(prior, Term)
            correction = Correction(f, prior, safe_step(op, f.operator, x, None), self.mu, self.error)
            controls.append(Control(correction, modules, rho, self.rule, reasons))
        solver = with_parts(self, controls=tuple(controls), y=y)
        found = iterate(
            solver.step, solver.started(start), iterations, callback=callback, row=_row if history else None,
            done=(lambda s: _settled(s, tol)) if tol > 0 else None, narrow=solver.narrowed,
        )  # fmt: skip
        return found.state.x, solver.certificate(found)

    def started(self, x0: Sequence[Tensor]) -> BlocksState:
        """The state before the first iteration."""
        images = [c.correction.fidelity.operator.forward(x) for c, x in zip(self.controls, x0, strict=True)]
        parts = []
        for i, (c, x) in enumerate(zip(self.controls, x0, strict=True)):
            own = self._alone(c, images, i)
            parts.append(ControlledState.start(own.correction.point(x)))
        return BlocksState(tuple(parts))

    def _alone(self, c: Control, images: Sequence[Tensor], i: int) -> Control:
        """The problem of block i, the others as they stand, with `images` A_j x_j."""
        assert self.y is not None
        rest = self.y - _total([a for j, a in enumerate(images) if j != i]) if len(images) > 1 else self.y
        return replace(c, correction=replace(c.correction, fidelity=replaced(c.correction.fidelity, rest)))

    def step(self, s: BlocksState, k: int) -> BlocksState:
        """Iteration k = 0, 1, ... over all blocks."""
        parts = list(s.parts)
        images = [c.correction.fidelity.operator.forward(p.x) for c, p in zip(self.controls, parts, strict=True)]
        for i, c in enumerate(self.controls):
            own = self._alone(c, images, i)
            residual = own.correction.fidelity.residual(parts[i].x)  # as the other blocks left it
            fit = own.correction.fidelity.value_of(residual)
            parts[i] = own.step(replace(parts[i], residual=residual, fit=fit), k)
            if i + 1 < len(parts):
                images[i] = own.correction.fidelity.operator.forward(parts[i].x)
        return BlocksState(tuple(replace(p, residual=parts[-1].residual, fit=parts[-1].fit) for p in parts))

    def narrowed(self, which: Tensor) -> Callable[[BlocksState, int], BlocksState]:
        """`step` for the images `which` of the batch."""
        assert self.y is not None
        return with_parts(self, controls=tuple(c.take(which) for c in self.controls), y=self.y[which]).step

    def certificate(self, found: Run[BlocksState]) -> BlocksReport:
        """What the report says, objective and stationarity made anew."""
        parts = found.state.parts
        images = [c.correction.fidelity.operator.forward(p.x) for c, p in zip(self.controls, parts, strict=True)]
        moves, penalties, fit = [], [], None
        for i, (c, s) in enumerate(zip(self.controls, parts, strict=True)):
            own = self._alone(c, images, i).correction
            p = own.point(s.x)
            moves.append(own.move(p))
            penalties.append(p.penalty)
            fit = p.fit
        assert fit is not None
        objective, move = fit + _total(penalties), _total([m.square() for m in moves]).sqrt()
        finite = torch.isfinite(objective + move)
        size = _total([sum_of_squares(s.x) for s in parts]).sqrt()
        count, accepted, failed = (
            found.count, torch.stack([s.accepted for s in parts]), torch.stack([s.failed for s in parts])
        )  # fmt: skip
        return BlocksReport(
            objective=objective, error=_total([s.error for s in parts]), error_bound=_total([s.bound for s in parts]),
            step_norm=move, relative_step=torch.where(move == 0, 0, move / size), accepted=accepted.sum(0),
            units=count * len(parts), rejected=count * len(parts) - accepted.sum(0), failed=failed.sum(0),
            accepted_by_block=accepted, failed_by_block=failed, iterations=count, converged=found.done & finite,
            status=Status("iteration limit", found.done, finite), history=found.history,
            reasons=tuple(self.controls[0].reasons),
        )  # fmt: skip

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """Looks at measurements; their shape and device are the operators' to judge.

        Raises:
            ValueError: they are not numeric, or hold NaN or Inf.
        """
        check_measurements(y, type(self).__name__)


def _total(parts: Sequence[Tensor]) -> Tensor:
    """Their sum, from the left."""
    total = parts[0]
    for p in parts[1:]:
        total = total + p
    return total


def _least_squares(f: nn.Module) -> LeastSquares:
    assert isinstance(f, LeastSquares)
    return f


def _settled(s: BlocksState, tol: float) -> Tensor:
    size = _total([sum_of_squares(p.x) for p in s.parts])
    return torch.stack([p.move <= tol**2 * size for p in s.parts]).all(0)


def _row(s: BlocksState) -> dict[str, Tensor]:
    counts = {f"{n}_{i + 1}": getattr(p, n) for i, p in enumerate(s.parts) for n in ("accepted", "failed")}
    return {"objective": s.objective} | counts
