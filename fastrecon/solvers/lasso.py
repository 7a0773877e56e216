"""What ISTA, FISTA and SGP share: the problem F(x) = |A x - y|^2 / 2 + |lam x|_1, the loop, the certificate.

Everything is per image. The residual A x - y is carried along by linearity, so that an iteration applies A once and its
adjoint once, and the objective comes for free. The loop asks the host nothing between two checks of convergence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from fastrecon import ops
from fastrecon.certificates import ITERATION_LIMIT, ProximalReport, Status
from fastrecon.checks import behind, expect, flag, integer, number
from fastrecon.operators.base import LinearOperator
from fastrecon.operators.joining import joined
from fastrecon.ops.by_image import each_image
from fastrecon.ops.layout import real_dtype, spread_over, wide_dtype
from fastrecon.solvers.base import Callback, Row, Run, check_measurements, iterate, with_parts
from fastrecon.solvers.in_cache import InCache
from fastrecon.solvers.joint import Joint, iterate_jointly, same
from fastrecon.solvers.meeting import here
from fastrecon.threads import alone

prox_gradient_step, squares = behind(ops.prox_gradient_step), behind(ops.squares)


SHARED = 1 << 23  # numbers times iterations in a call of a shared batch, about 0.03 s: until then others wait
FEW = 3  # iterations, below which a call is not worth a copy of the state
NORM_TOL, NORM_ITERATIONS = 1e-6, 1000  # of |A| by power iteration, from below


@dataclass(frozen=True)
class LassoState:
    """Where an iteration stands, per image."""

    x: Tensor  # [B, ...]
    residual: Tensor  # A x - y
    objective: Tensor  # [B] F(x), float64
    move: Tensor  # [B] |z|^2 of the last proximal gradient step, float64
    used: Tensor  # [B] iterations that took a network's direction, int64


S = TypeVar("S", bound=LassoState)


class Lasso(nn.Module, Generic[S]):
    """min F(x) = |A x - y|^2 / 2 + |lam x|_1 by iterations that a subclass gives: `start` and `step`.

    Attributes:
        minimises: whether iterations tend to a minimiser of F, so that they may converge.
        period: of `Joint`: 1 where a step depends on the state alone, 0 where it depends on k; None: images of several
            batches are not computed together. A subclass has that of its parent only if it says so itself.
        unfinished: why an image stopped that did not converge.

    Args:
        operator: A, from images or coefficients x [B, ...] to measurements; for wavelet coefficients
            `A @ Wavelet("sym4", 3).T`.
        lam: weight, >= 0: a number, [B], or real and broadcastable to x, such as `detail_weights`.
        lipschitz: L >= |A|^2, > 0: a number or [B]; None takes the operator's own norm, a bound of it in closed form,
            or its estimate by power iteration, whose calls the report counts.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    minimises = True
    period: int | None = None
    counts = False
    unfinished = ITERATION_LIMIT

    def __init__(self, operator: LinearOperator, lam: float | Tensor, lipschitz: float | Tensor | None = None):
        super().__init__()
        name = type(self).__name__
        expect(isinstance(operator, LinearOperator), name, "operator", "a LinearOperator", type(operator).__name__)
        self.operator = operator
        for argument, value in (("lam", lam), ("lipschitz", lipschitz)):
            real = not isinstance(value, Tensor) or value.is_floating_point()
            expect(real, name, argument, "a number or a real tensor", value)
        if isinstance(lam, Tensor):
            self.register_buffer("lam", lam.detach().clone())
        else:
            self.lam: float | Tensor = float(number(lam, name, "lam", least=0))
        if isinstance(lipschitz, Tensor):
            self.register_buffer("lipschitz", lipschitz.detach().clone())
        else:
            known = None if lipschitz is None else float(number(lipschitz, name, "lipschitz", above=0))
            self.lipschitz: float | Tensor | None = known

    @property
    def shares(self) -> bool:
        """Whether batches may be put together, as far as the method goes."""
        return True

    @property
    def operator_calls(self) -> int:
        """Applications of A in an iteration."""
        return 1

    @property
    def adjoint_calls(self) -> int:
        """Applications of the adjoint of A in an iteration."""
        return 1

    def bounded(self, x: Tensor) -> tuple[Self, int]:
        """The same problem for images like x with L known, and how often that took A and its adjoint."""
        if self.lipschitz is not None:
            return self, 0
        found, count = self.operator.bound(x.shape), 0
        if found is None:
            found, count = self.operator.counted_norm((max(len(x), 1), *x.shape[1:]), NORM_TOL, NORM_ITERATIONS)
        if isinstance(found, Tensor) and found.numel() == 1:
            found = found.reshape(())
        return with_parts(self, lipschitz=found**2), count

    def steps(self, x: Tensor) -> Tensor:
        """1 / L of each image, float64 [B]."""
        found = self.bounded(x)[0].lipschitz
        assert found is not None
        if isinstance(found, Tensor):
            bound = found.to(x.device, torch.float64)
        else:  # filled in on the device: a copy from the host would make it wait
            bound = torch.full((), found, dtype=torch.float64, device=x.device)
        fits = bound.ndim == 0 or bound.shape == x.shape[:1]
        expect(fits, type(self).__name__, "lipschitz", f"a number or ({x.shape[0]},)", tuple(bound.shape))
        return 1 / bound.clamp_min(torch.finfo(torch.float32).tiny).expand(x.shape[0])

    def l1(self, x: Tensor) -> Tensor:
        """|lam x|_1 [B] in float64."""
        kind, lam = wide_dtype(x), spread_over(self.lam, x, type(self).__name__, "lam")
        # image by image: a sum of many rows has another order than that of one, and doubles of all take memory
        return each_image(lambda one, weight: (one.to(kind).abs().flatten(1) * weight.double()).sum(1), x, lam)

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        """F(x) [B] in float64."""
        return squares(self.operator.forward(x) - y) / 2 + self.l1(x)

    def start(self, x: Tensor, y: Tensor) -> S:
        """The state at x."""
        raise NotImplementedError

    def step(self, s: S, k: Any) -> S:
        """Iteration k = 0, 1, ...; see `Joint.counts`."""
        raise NotImplementedError

    def first(self, x: Tensor, y: Tensor) -> LassoState:
        """The part of the state at x that all methods have."""
        image = self.operator.forward(x)
        expect(image.shape == y.shape, type(self).__name__, "y", image, y)  # what broadcasts would be another problem
        residual = image - y
        objective = squares(residual) / 2 + self.l1(x)
        none = torch.zeros_like(objective, dtype=torch.int64)
        return LassoState(x, residual, objective, torch.full_like(objective, float("inf")), none)

    @torch.no_grad()
    @alone
    def forward(
        self, y: Tensor, x0: Tensor | None = None, iterations: int = 100, tol: float = 0.0, *,
        check_every: int = 10, history: bool = False, callback: Callback | None = None,
    ) -> tuple[Tensor, ProximalReport]:  # fmt: skip
        """Runs the iteration.

        Args:
            y: measurements [B, ...].
            x0: start [B, ...]; None takes the adjoint of A at y.
            iterations: at most this many, >= 0.
            tol: >= 0: an image is done, and leaves the batch, once |z| <= tol |x|, z its proximal gradient step with
                step 1 / L; 0: never.
            check_every: >= 1, iterations between two looks at that; only then the host waits for the device.
            history: whether to record F and |z| of every iteration in the report.
            callback: called after every iteration with its number 1, 2, ... and the state.

        Returns:
            x [B, ...], without gradients, and the report: certificates made anew at x by one more A and
            one more adjoint.

        Raises:
            ValueError: an argument does not fit.
        """
        name = type(self).__name__
        iterations, tol = integer(iterations, name, "iterations", least=0), number(tol, name, "tol", least=0)
        check_every, history = integer(check_every, name, "check_every", least=1), flag(history, name, "history")
        expect(isinstance(y, Tensor) and y.ndim > 0, name, "y", "measurements [B, ...], a tensor", y)
        expect(x0 is None or isinstance(x0, Tensor), name, "x0", "a tensor or None", x0)
        expect(callback is None or callable(callback), name, "callback", "a function or None", callback)
        x = self.operator.apply_adjoint(y) if x0 is None else x0
        fits = x.ndim >= 2 and x.shape[0] == y.shape[0] and (x.is_floating_point() or x.is_complex())
        expect(fits, name, "x0", f"a batch of {y.shape[0]} images or coefficients", x)
        solver, calls = self.bounded(x)
        found = solver._run(x, y, x0, iterations, tol, check_every, history, callback)
        report = solver.certificate(found, y, started=x0 is None)
        if calls:
            report = replace(
                report, operator_calls=report.operator_calls + calls, adjoint_calls=report.adjoint_calls + calls
            )
        return found.state.x, report

    def _run(
        self, x: Tensor, y: Tensor, x0: Tensor | None, iterations: int, tol: float, check_every: int, history: bool,
        callback: Callback | None,
    ) -> Run[Any]:  # fmt: skip
        """The iterations from x on; what only they need of their state is gone afterwards, where it is large."""
        s, lasting = self.start(x, y), callback is not None
        looks = 1 if lasting else check_every if tol > 0 else max(iterations, 1)
        several = self.several(s, y, iterations, looks, lasting, x0) if lasting or here() is None else None
        if several is None:
            return iterate_jointly(
                Shrinking(self, tol, x[..., :0]), s, iterations, check_every=check_every,
                row=_row if history else None, callback=callback,
            )  # fmt: skip
        found = iterate(
            several.step, several.begin(s), iterations, check_every=check_every, stride=several.stride,
            callback=callback,
            done=(lambda s: self.done(s, tol)) if tol > 0 else None, narrow=several.narrow,
            row=several.row if history else None,
        )  # fmt: skip
        end = found.state
        return replace(found, state=LassoState(end.x, end.x[:0], end.objective, end.move, end.used))

    def several(
        self, s: S, y: Tensor, iterations: int, looks: int, lasting: bool, given: Tensor | None
    ) -> InCache | None:
        """Steps of several iterations in one call, where those of this problem are compiled; None elsewhere.

        Args:
            s, y, iterations: of the run.
            looks: iterations between two looks at the state.
            lasting: whether states must stay what they are when the next is made.
            given: the x of the caller's, which must stay what it is in any case.
        """
        return None

    def take(self, which: Tensor, x: Tensor) -> Self:
        """The same problem of the images `which` of a batch like x: an operator and weights of their own follow."""
        lam = self.lam
        if isinstance(lam, Tensor) and lam.ndim > 0:
            each = lam.ndim == 1 and lam.shape[0] == x.shape[0]
            lam = lam.view(-1, *[1] * (x.ndim - 1)) if each else lam.view((1,) * (x.ndim - lam.ndim) + lam.shape)
            lam = lam[which] if lam.shape[0] > 1 else lam
        return with_parts(self, operator=self.operator.take(which), lam=lam)

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """Looks at measurements; their shape and device are the operator's to judge.

        Raises:
            ValueError: they are not numeric, or hold NaN or Inf.
        """
        check_measurements(y, type(self).__name__)

    def compute(self, y: Tensor, **options: Any) -> tuple[Tensor, ProximalReport]:
        """As `forward`, for measurements that passed `check`."""
        return self(y, **options)

    def capturable(self, tol: float = 0.0, callback: Callback | None = None, **options: Any) -> bool:
        """Whether `compute` with these options may become a CUDA graph: it asks the host nothing."""
        return tol == 0 and callback is None and self.lipschitz is not None

    def done(self, s: S, tol: float) -> Tensor:
        """Which images are done, bool [B]."""
        return s.move <= tol**2 * squares(s.x)

    def move(self, s: S, residual: Tensor) -> Tensor:
        """|z|^2 [B] of the proximal gradient step z with step 1 / L, at a state whose A x - y is `residual`."""
        grad = self.operator.apply_adjoint(residual)
        return prox_gradient_step(s.x, grad, self.steps(s.x).to(real_dtype(s.x)), self.lam)[2]

    def certificate(self, found: Run[S], y: Tensor, started: bool) -> ProximalReport:
        """What the report says about the end of a run, computed from x, y and the problem alone."""
        x, count = found.state.x, found.count
        residual = self.operator.forward(x) - y
        square = self.move(found.state, residual)
        objective = squares(residual) / 2 + self.l1(x)
        finite = torch.isfinite(objective + square)
        done = found.done if self.minimises else torch.zeros_like(found.done)
        return ProximalReport(
            objective=objective, step_norm=square.sqrt(), relative_step=(square / squares(x).clamp_min(1e-300)).sqrt(),
            iterations=count, operator_calls=2 + self.operator_calls * count,
            adjoint_calls=1 + int(started) + self.adjoint_calls * count, network_iterations=found.state.used,
            converged=done & finite, status=Status(self.unfinished, done, finite), history=found.history,
        )  # fmt: skip


def _row(s: LassoState) -> Row:
    return {"objective": s.objective, "step_norm": s.move.sqrt()}


@dataclass(frozen=True)
class Shrinking(Joint[S]):
    """The iteration of a batch."""

    solver: Lasso[S]
    tol: float
    like: Tensor  # x without its numbers
    kept: list[InCache | None] = field(default_factory=list, init=False, compare=False)  # once it is known

    @property
    def period(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]  # nobody sets it
        """Of the solver."""
        return vars(type(self.solver)).get("period") or 0

    @property
    def counts(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of the solver."""
        return self.solver.counts

    @property
    def ends(self) -> bool:
        """Whether there is a test."""
        return self.tol > 0

    def step(self, s: S, k: Any) -> S:
        """Of the solver."""
        return self.solver.step(s, k)

    def at_once(self, s: S) -> int:
        """As many as are compiled into a call that others can wait for."""
        found = self._in_cache(s)
        return 1 if found is None else max(1, SHARED // max(s.x.numel(), found.y.numel()))

    def several(self, s: S, k: int, count: int, row: Callable[[S], Row] | None) -> tuple[S, Row | None]:
        """Of the solver."""
        found = self._in_cache(s) if count >= FEW else None
        if found is None:
            return super().several(s, k, count, row)
        s = found.several(found.owned(s), k, count)
        return s, None if row is None else found.row(s)

    def _in_cache(self, s: S) -> InCache | None:
        if not self.kept:
            y = getattr(s, "y", None)
            self.kept.append(None if y is None else self.solver.several(s, y, 1, 1, True, None))
        return self.kept[0]

    def done(self, s: S) -> Tensor:
        """By the size of the step."""
        return self.solver.done(s, self.tol)

    def take(self, which: Tensor) -> "Shrinking[S]":
        """Of these images."""
        return replace(self, solver=self.solver.take(which, self.like), like=self.like[which])

    def joined(self, others: Sequence["Shrinking[S]"], counts: Sequence[int]) -> "Shrinking[S] | None":
        """With those of the same test; weights follow their images."""
        every = [self, *others]
        shares = vars(type(self.solver)).get("period") is not None and all(d.solver.shares for d in every)
        if not shares or not same([d.tol for d in every]):
            return None
        lam = _weights([d.solver.lam for d in every], [d.like for d in every])
        plain = [with_parts(d.solver, lam=lam, lipschitz=None) for d in every]  # the first step knows L, no other
        solver = joined(plain, counts)
        return None if solver is None else replace(self, solver=solver, like=torch.cat([d.like for d in every]))


def _weights(lams: Sequence[float | Tensor], likes: Sequence[Tensor]) -> float | Tensor:
    """The weights of several batches as those of their images: numbers, or tensors that broadcast to them."""
    first = lams[0]
    if all(lam is first or (not isinstance(lam, Tensor) and lam == first) for lam in lams) and not _own(first, likes):
        return first
    spread = []
    for lam, like in zip(lams, likes, strict=True):
        t = lam if isinstance(lam, Tensor) else torch.full((), lam, dtype=real_dtype(like), device=like.device)
        t = t.to(like.device, real_dtype(like))
        t = t.view(-1, *[1] * (like.ndim - 1)) if t.shape == like.shape[:1] else t
        spread.append(t.view((1,) * (like.ndim - t.ndim) + t.shape))
    inner = torch.broadcast_shapes(*(t.shape[1:] for t in spread))
    return torch.cat([t.expand(len(like), *inner) for t, like in zip(spread, likes, strict=True)])


def _own(lam: float | Tensor, likes: Sequence[Tensor]) -> bool:
    """Whether each image of a batch has its own."""
    return isinstance(lam, Tensor) and lam.ndim in (1, likes[0].ndim)


def detail_weights(size: tuple[int, int], level: int, lam: float) -> Tensor:
    """lam [H, W] for wavelet coefficients of images of this size: 0 on the approximation, `lam` >= 0 on all details.

    Raises:
        ValueError: lam or level is negative, or the size no pair of numbers > 0.
    """
    op = "detail_weights"
    number(lam, op, "lam", least=0)
    integer(level, op, "level", least=0)
    expect(isinstance(size, Sequence) and len(size) == 2, op, "size", "(H, W)", size)
    for side in size:
        integer(side, op, "size", least=1)
    weights = torch.full(size, float(lam))
    weights[: size[0] >> level, : size[1] >> level] = 0
    return weights
