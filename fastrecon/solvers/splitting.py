"""What ADMM and half-quadratic splitting share: F(x) = |A x - y|^2 / 2 + sum_i g_i(K_i x), split into z_i = K_i x.

Both alternate between x, the minimiser of a sum of least squares, and every z_i on its own, by a proximal map.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from fastrecon.certificates import AlternatingReport, Status
from fastrecon.checks import expect, flag, integer, number
from fastrecon.operators.base import Composition, LinearOperator
from fastrecon.operators.identity import Identity
from fastrecon.operators.joining import joined
from fastrecon.ops.layout import real_dtype
from fastrecon.ops.reductions import squares
from fastrecon.solvers.base import Callback, Run, check_measurements, column, with_parts
from fastrecon.solvers.joint import Joint, iterate_jointly, same
from fastrecon.terms.apart import Apart
from fastrecon.terms.base import Term
from fastrecon.terms.least_squares import LeastSquares
from fastrecon.terms.normal_equations import NormalEquations, total
from fastrecon.threads import alone

Prior = Term | tuple[Term, LinearOperator]
INNER_TOL, INNER = 1e-2, 20  # of conjugate gradients from the last x: an iteration reduces their residual so far


@dataclass(frozen=True)
class Plan:
    """How a problem is split for a batch.

    Attributes:
        parts: (g_i, K_i): the priors, and before them the fidelity where it is split too.
        fidelity: |A x - y|^2 / 2 where it stays with x.
        equations: of x: (A* A if it stays) + sum_i K_i* K_i.
    """

    parts: tuple[tuple[Term, LinearOperator], ...]
    fidelity: LeastSquares | None
    equations: NormalEquations

    @classmethod
    def of(
        cls, operator: LinearOperator | None, y: Tensor, priors: Sequence[tuple[Term, LinearOperator]], like: Tensor,
        split: bool = True,
    ) -> "Plan":  # fmt: skip
        """The plan whose equations have a closed form, if there is one: with A where it stands; with the fidelity split
        at x, or, of a window A = M B behind a blur, at B x (Almeida & Figueiredo, Deconvolving Images With Unknown
        Boundaries Using the Alternating Direction Method of Multipliers, IEEE Trans. Image Process. 22 (2013)).

        Args:
            operator: A; None: there is no fidelity.
            y: measurements.
            priors: (g_i, K_i).
            like: images.
            split: whether the fidelity may be.
        """
        spans = [k for _, k in priors]
        if operator is None:
            return cls(tuple(priors), None, NormalEquations(spans, like, INNER_TOL, INNER))
        whole = NormalEquations([operator, *spans], like, INNER_TOL, INNER)
        if not whole.closed and split:
            ways: list[tuple[LinearOperator, LinearOperator]] = [(operator, Identity())]
            if isinstance(operator, Composition):
                ways.append((operator.outer, operator.inner))
            for outer, inner in ways:
                equations = NormalEquations([inner, *spans], like, INNER_TOL, INNER)
                small = like if isinstance(inner, Identity) else inner.forward(like[:1])
                closed = outer.diagonal(small) is not None or outer.row_scale(small.shape[-2:]) is not None
                if equations.closed and closed:
                    return cls(((LeastSquares(outer, y), inner), *priors), None, equations)
        return cls(tuple(priors), LeastSquares(operator, y), whole)

    def take(self, which: Tensor, like: Tensor) -> "Plan":
        """Of the images `which` [P] of the batch, like these."""
        parts = tuple((g.take(which), k.take(which)) for g, k in self.parts)
        fidelity = None if self.fidelity is None else self.fidelity.take(which)
        return self._with(parts, fidelity, like)

    def _with(
        self, parts: tuple[tuple[Term, LinearOperator], ...], fidelity: LeastSquares | None, like: Tensor
    ) -> "Plan":  # fmt: skip
        operators = [k for _, k in parts] if fidelity is None else [fidelity.operator, *(k for _, k in parts)]
        return Plan(parts, fidelity, NormalEquations(operators, like, self.equations.tol, self.equations.iterations))

    def joined(self, others: Sequence["Plan"], counts: Sequence[int], like: Tensor) -> "Plan | None":
        """Of this batch and of `others` behind it, so many images each; None: they are of another kind."""
        every = [self, *others]
        if not same([(len(p.parts), p.fidelity is None, p.equations.closed) for p in every]):
            return None
        parts = []
        for several in zip(*(p.parts for p in every), strict=True):
            g, k = _together([t for t, _ in several], counts), joined([k for _, k in several], counts)
            if g is None or k is None:
                return None
            parts.append((g, k))
        fidelity = None if self.fidelity is None else _together([p.fidelity for p in every], counts)
        if fidelity is None and self.fidelity is not None:
            return None
        assert fidelity is None or isinstance(fidelity, LeastSquares)
        return self._with(tuple(parts), fidelity, like)


def _together(terms: Sequence[Any], counts: Sequence[int]) -> Term | None:
    """Terms of several batches as one; None: least squares of operators of several kinds."""
    if not any(isinstance(t, LeastSquares) for t in terms):
        return Apart.of(terms, counts) if same([type(t) for t in terms if not isinstance(t, Apart)]) else None
    return LeastSquares.joined(terms, counts)


@dataclass(frozen=True)
class SplittingState:
    """Where an iteration stands, per image."""

    x: Tensor  # [B, C, H, W]
    b: Tensor  # A* y like x; 0 where the fidelity is split
    z: tuple[Tensor, ...]
    w: tuple[Tensor, ...]  # in the subdifferential of g_i at z_i, over the penalty
    penalty: Tensor  # [B] float64
    primal: Tensor  # [B] |K x - z|, float64
    dual: Tensor  # [B] |grad f(x) + K* w|
    relative: Tensor  # [B] the larger of both over their scales
    objective: Tensor  # [B] F(x); NaN unless recorded


S = TypeVar("S", bound=SplittingState)


class Splitting(nn.Module, Generic[S]):
    """min F(x) = |A x - y|^2 / 2 + sum_i g_i(K_i x) by iterations that a subclass gives: `begin` and `step`.

    Args:
        operator: A, from images [B, C, H, W] to measurements; None: no fidelity, only the g_i.
        priors: g_i, terms with a proximal map, or pairs (g_i, K_i) with an operator such as Gradient().

    Raises:
        ValueError: an argument is of another kind.
    """

    splits_fidelity = True
    unfinished = "iteration limit"
    plan: Plan

    def __init__(self, operator: LinearOperator | None, priors: Sequence[Prior] | Prior):
        super().__init__()
        name = type(self).__name__
        fits = operator is None or isinstance(operator, LinearOperator)
        expect(fits, name, "operator", "a LinearOperator or None", type(operator).__name__)
        many = isinstance(priors, Sequence) and not _pair(priors)
        several: Any = list(priors) if many else [priors]  # type: ignore[arg-type]
        for prior in several:
            term = prior[0] if _pair(prior) else prior
            fits = isinstance(term, Term) and term.proximable
            expect(fits, name, "priors", "terms with a proximal map, or pairs of one and an operator", prior)
        expect(len(several) > 0, name, "priors", "at least one", "none")
        self.operator = operator
        self.terms = nn.ModuleList(p[0] if _pair(p) else p for p in several)
        self.spans = nn.ModuleList(p[1] if _pair(p) else Identity() for p in several)
        self.record, self.asked = False, True  # of every iteration: the objective, and the residuals

    def pairs(self) -> list[tuple[Any, Any]]:
        """(g_i, K_i)."""
        return list(zip(self.terms, self.spans, strict=True))

    def objective(self, x: Tensor, y: Tensor | None) -> Tensor:
        """F(x) [B] in float64."""
        values = [g.value(k.forward(x)) for g, k in self.pairs()]
        if self.operator is not None:
            values.append(LeastSquares(self.operator).value(x, y))
        return total(values)

    def begin(self, x: Tensor, b: Tensor) -> S:
        """The state at x."""
        raise NotImplementedError

    def step(self, s: S, k: Any) -> S:
        """Iteration k = 0, 1, ..., or of each image its own, int64 [B]."""
        raise NotImplementedError

    def multipliers(self, s: S) -> tuple[Tensor, ...]:
        """w at a state, of the shapes of z."""
        return s.w

    def solved(self, s: S, targets: Sequence[Tensor], penalty: Tensor) -> tuple[Tensor, Tensor]:
        """argmin_x f(x) + penalty / 2 sum_i |K_i x - targets_i|^2, and the residual of its equation [B]."""
        size, rho = s.x.shape[-2:], column(penalty, s.x)
        pulls = [k.apply_adjoint(t, size) for (_, k), t in zip(self.plan.parts, targets, strict=True)]
        weights = [penalty.to(real_dtype(s.x))] * len(pulls)
        if self.plan.fidelity is not None:
            weights = [torch.ones_like(weights[0]), *weights]
        b = total([s.b, *(rho * p for p in pulls)])
        return self.plan.equations.solve(b, weights, s.x)

    def proximal(self, i: int, v: Tensor, penalty: Tensor) -> Tensor:
        """argmin_z g_i(z) + penalty / 2 |z - v|^2."""
        return self.plan.parts[i][0].prox(v, (1 / penalty).to(real_dtype(v)))

    def valued(self, x: Tensor) -> Tensor:
        """F(x) if that is recorded, else NaN."""
        if not self.record:
            return torch.full((len(x),), float("nan"), dtype=torch.float64, device=x.device)
        values = [g.value(k.forward(x)) for g, k in self.plan.parts]
        return total(values if self.plan.fidelity is None else [*values, self.plan.fidelity.value(x)])

    def finished(self, s: S, tol: float) -> Tensor:
        """Which images are done, [B] bool."""
        return s.relative <= tol

    @torch.no_grad()
    @alone
    def forward(
        self, y: Tensor | None, x0: Tensor | None = None, iterations: int = 100, tol: float = 1e-4, *,
        check_every: int = 1, history: bool = False, callback: Callback | None = None,
    ) -> tuple[Tensor, AlternatingReport]:  # fmt: skip
        """Runs the iteration.

        Args:
            y: measurements [B, ...]; None without an operator.
            x0: start [B, C, H, W]; None takes the adjoint of A at y.
            iterations: at most this many, >= 0.
            tol: >= 0: an image is done, and leaves the batch, once both residuals are at most so large beside their
                scales; see AlternatingReport. 0: never, but for residuals of 0.
            check_every: >= 1, iterations between two looks at that; only then the host waits for the device.
            history: whether to record every iteration, which costs one more application of A each.
            callback: called after every iteration with its number 1, 2, ... and the state.

        Returns:
            x [B, C, H, W], without gradients, and the report, made anew at x.

        Raises:
            ValueError: an argument does not fit.
        """
        name = type(self).__name__
        iterations, tol = integer(iterations, name, "iterations", least=0), number(tol, name, "tol", least=0)
        check_every, history = integer(check_every, name, "check_every", least=1), flag(history, name, "history")
        a = self.operator
        if a is None:
            expect(y is None and isinstance(x0, Tensor), name, "x0", "a start, and no y, without an operator", x0)
        else:
            expect(isinstance(y, Tensor) and y.ndim > 0, name, "y", "measurements [B, ...], a tensor", y)
        expect(x0 is None or isinstance(x0, Tensor), name, "x0", "a tensor or None", x0)
        x: Any = a.apply_adjoint(y) if x0 is None and a is not None and y is not None else x0
        fits = x.ndim == 4 and (x.is_floating_point() or x.is_complex()) and (y is None or len(y) == len(x))
        expect(fits, name, "x0", "a batch of images [B, C, H, W], one for each measurement", x)
        if a is not None and y is not None:
            x = x.to(y.dtype) if y.is_complex() and not x.is_complex() else x
            shape = a.shape_of(x)
            expect(shape == y.shape, name, "y", f"measurements {tuple(shape)}", tuple(y.shape))
        plan = Plan.of(a, y if y is not None else x, self.pairs(), x, self.splits_fidelity)
        solver = with_parts(self, plan=plan, record=history, asked=history or tol > 0 or callback is not None)
        b = torch.zeros_like(x) if a is None or y is None else a.apply_adjoint(y, x.shape[-2:]).to(x.dtype)
        first = solver.begin(x, b if plan.fidelity is not None else torch.zeros_like(b))
        found = iterate_jointly(
            Alternating(solver, tol, x), first, iterations, check_every=check_every, callback=callback,
            row=_row if history else None,
        )  # fmt: skip
        return found.state.x, solver.certificate(found, y)

    def settings(self) -> Any:
        """What solvers must have in common to share their iterations, beside the kind of their plans."""
        return type(self), self.record, self.asked

    def take(self, which: Tensor, like: Tensor) -> Self:
        """The same problem of the images `which` of a batch, like these."""
        return with_parts(self, plan=self.plan.take(which, like))

    def joined(self, others: Sequence[Self], counts: Sequence[int], like: Tensor) -> Self | None:
        """Of the images of this batch and of `others` behind it, so many each; None: their plans are of other kinds."""
        plan = self.plan.joined([s.plan for s in others], counts, like)
        return None if plan is None else with_parts(self, plan=plan)

    def certificate(self, found: Run[S], y: Tensor | None) -> AlternatingReport:
        """What the report says about the end of a run: residuals and objective made anew."""
        s, parts, fidelity = found.state, self.plan.parts, self.plan.fidelity
        size, images, w = s.x.shape[-2:], [k.forward(s.x) for _, k in parts], self.multipliers(s)
        slopes = [column(s.penalty, s.x) * k.apply_adjoint(t, size) for (_, k), t in zip(parts, w, strict=True)]
        values = [g.value(v) for (g, _), v in zip(parts, images, strict=True)]
        if fidelity is not None:
            residual = fidelity.residual(s.x)
            slopes.append(fidelity.grad_of(residual, s.x))
            values.append(fidelity.value_of(residual))
        primal = total([squares(a, b) for a, b in zip(images, s.z, strict=True)]).sqrt()
        dual, objective = squares(total(slopes)).sqrt(), total(values)
        finite = torch.isfinite(objective + primal + dual)
        return AlternatingReport(
            objective=objective, primal_residual=primal, dual_residual=dual,
            relative_primal=ratio(primal, torch.maximum(size_of(images), size_of(s.z))),
            relative_dual=ratio(dual, s.penalty * size_of(w)),
            penalty=s.penalty, iterations=found.count, converged=found.done & finite,
            status=Status(self.unfinished, found.done, finite), history=found.history,
        )  # fmt: skip

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """Looks at measurements; their shape and device are the operator's to judge.

        Raises:
            ValueError: they are not numeric, or hold NaN or Inf.
        """
        check_measurements(y, type(self).__name__)

    def compute(self, y: Tensor, **options: Any) -> tuple[Tensor, AlternatingReport]:
        """As `forward`, for measurements that passed `check`."""
        return self(y, **options)

    def capturable(self, **options: Any) -> bool:
        """False: iterations look at their residuals."""
        return False


@dataclass(frozen=True)
class Alternating(Joint[S]):
    """The iteration of a batch."""

    solver: Splitting[S]
    tol: float
    like: Tensor  # x
    counts = True

    @property
    def ends(self) -> bool:
        """Whether there is a test."""
        return self.tol > 0

    def step(self, s: S, k: Any) -> S:
        """Of the solver."""
        return self.solver.step(s, k)

    def done(self, s: S) -> Tensor:
        """By the residuals."""
        return self.solver.finished(s, self.tol)

    def take(self, which: Tensor) -> "Alternating[S]":
        """Of these images."""
        like = self.like[which]
        return replace(self, solver=self.solver.take(which, like), like=like)

    def joined(self, others: Sequence["Alternating[S]"], counts: Sequence[int]) -> "Alternating[S] | None":
        """With those of the same settings and the same kind of plan; terms follow their images."""
        every = [self, *others]
        if not same([d.tol for d in every], [d.solver.settings() for d in every]):
            return None
        like = torch.cat([d.like for d in every])
        solver = self.solver.joined([d.solver for d in others], counts, like)
        return None if solver is None else replace(self, solver=solver, like=like)


def _pair(prior: Any) -> bool:
    return isinstance(prior, tuple) and len(prior) == 2 and isinstance(prior[1], LinearOperator)


def _row(s: SplittingState) -> dict[str, Tensor]:
    return {
        "objective": s.objective, "primal_residual": s.primal, "dual_residual": s.dual, "penalty": s.penalty
    }  # fmt: skip


def size_of(parts: Sequence[Tensor]) -> Tensor:
    """|(t_i)_i| [B]."""
    return total([squares(t) for t in parts]).sqrt()


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, 0 where a is."""
    return torch.where(a == 0, 0, a / b)
