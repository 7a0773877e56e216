"""Monotone quasi-Newton descent for phi(x) = |A x - y|^2 / 2 + r(x) with a smooth, possibly nonconvex r.

Limited-memory BFGS, every image with its own metric, line search and end. Where (1 + w A* A)^-1 has a closed form, or
the operator a `resolvent` near it, the first metric is (A* A + mu)^-1, with mu the curvature of r along the last move:
then only r is left to be learned from the moves, and few evaluations of r are enough, however ill-posed A is. Elsewhere
it is the usual multiple of the identity.

A step t along d is halved until phi(x + t d) - phi(x) <= 1e-4 t <grad phi(x), d>. Decisions rest on changes of the
objective, not on differences of its values: see `search.change_of`; that of the data term is a parabola in t, known
exactly. So phi never increases, and as pairs without curvature are left out and directions that are not downhill
replaced by the gradient, its gradient tends to zero wherever phi is bounded below and its gradient is Lipschitz.

Source: Nocedal & Wright, Numerical Optimization, 2nd ed., Springer 2006, sections 7.2 and 3.1.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastrecon.certificates import ITERATION_LIMIT, SmoothReport, Status
from fastrecon.checks import expect, flag, integer, number
from fastrecon.operators.base import LinearOperator
from fastrecon.operators.callables import Callables, Widened
from fastrecon.operators.joining import joined
from fastrecon.ops.by_image import each_image
from fastrecon.ops.layout import real_dtype, wide_dtype
from fastrecon.ops.reductions import inner, sum_of_squares
from fastrecon.solvers.base import Callback, Row, Run, column, put, take, where
from fastrecon.solvers.joint import Joint, iterate_jointly, same
from fastrecon.solvers.search import backtrack, change_of
from fastrecon.terms.base import Evaluation, Term
from fastrecon.terms.least_squares import LeastSquares
from fastrecon.threads import alone

SUFFICIENT = 1e-4  # share of the decrease that the slope promises
MEMORY = 8  # moves that make the metric: 20 save few evaluations of r, and cost as much in memory as its features
TRIALS = 40
# A x - y, carried along by linearity, is computed anew after so many iterations, and in each where an image is within
# this of its end: there the rounding of x counts, which the carried one does not know.
REFRESH, ALMOST = 16, 10.0
CURVED = 1e-8  # least cosine between a move and the change of the gradient for the pair to be kept, and of a descent
FAINT = 1e-4  # of |A* y|: a gradient of r below that is not waited for
FLAT = 1e-6  # least mu where images lie in [0, 1] and |A| is about 1
# In float32 rounding of the gradient decides where steps, rarely halved more than twice, are halved so often, and where
# a gradient so near to zero, as a share of that of r, has not been shorter for so many iterations.
ROUNDED, NEAR, PATIENCE = 8, 1e-3, 15


@dataclass(frozen=True)
class SmoothState:
    """Where the descent stands, per image."""

    x: Tensor  # [B, C, H, W]
    residual: Tensor  # A x - y
    grad_f: Tensor  # like x
    r: Evaluation  # at x
    objective: Tensor  # [B] phi(x), float64
    norm: Tensor  # [B] |grad phi(x)|, float64
    moves: Tensor  # [B, M, C, H, W] of the last M iterations, at iteration modulo M
    changes: Tensor  # like moves: of the gradient of phi along them
    rho: Tensor  # [B, M] 1 / <move, change>, float64; 0: none
    gamma: Tensor  # [B] <move, change> / |change|^2 of the last, float64
    mu: Tensor  # [B] the same of r alone, inverted; NaN before the first
    least: Tensor  # [B] 1e-4 |A* y|, float64: |grad phi| is compared with |grad r|, and at least with this
    best: Tensor  # [B] the least |grad phi| yet, float64
    waited: Tensor  # [B] iterations since, int64
    trials: Tensor  # [B] steps tried, int64
    made: Tensor  # [B] iterations, int64
    left: Tensor  # [B] iterations that it may still make, int64
    stuck: Tensor  # [B] bool: no step decreases phi, as far as this precision tells

    @property
    def size(self) -> Tensor:
        """What |grad phi| is compared with, [B]."""
        return torch.maximum(_norm(self.r.grad), self.least)


class SmoothDescent:
    """min phi(x) = |A x - y|^2 / 2 + r(x).

    Args:
        operator: A, from images or other batches x [B, ...].
        term: r, smooth; it may have a part for each image.
        rounded: whether r is computed in less than the precision of x; where x is not float64 it is taken to be.

    Raises:
        ValueError: an argument is of another kind, or r has no gradient.
    """

    def __init__(self, operator: LinearOperator, term: Term, rounded: bool = False):
        name = type(self).__name__
        expect(isinstance(operator, LinearOperator), name, "operator", "a LinearOperator", type(operator).__name__)
        expect(isinstance(term, Term) and term.smooth, name, "term", "a smooth term", type(term).__name__)
        self.fidelity, self.term, self.rounded = LeastSquares(operator), term, flag(rounded, name, "rounded")

    @torch.no_grad()
    @alone
    def solve(
        self, y: Tensor, x0: Tensor, iterations: int | Tensor = 1000, tol: float = 1e-3, *, bound: float = 0.0,
        history: bool = True, finish: bool = True, callback: Callback | None = None,
    ) -> tuple[Tensor, SmoothReport]:  # fmt: skip
        """Images where the gradient of phi is nearly zero.

        Args:
            y: measurements [B, ...].
            x0: start [B, ...], of the precision of the iterations.
            iterations: at most this many, >= 0; int64 [B]: of each image.
            tol: >= 0: an image is done, and leaves the batch, once |grad phi(x)| <= tol max(|grad r(x)|, 1e-4 |A* y|):
                once the two sides that balance each other at a stationary point, grad f and -grad r, agree so far.
            bound: >= 0: or once |grad phi(x)| <= bound.
            history: whether to record phi and |grad phi| of every iteration.
            finish: whether images that float32 cannot bring there go on in float64.
            callback: called after every iteration with its number and the state.

        Returns:
            Images like x0 and their certificates, computed anew in float64 at the images that are returned.

        Raises:
            ValueError: an argument does not fit.
        """
        name = type(self).__name__
        if isinstance(iterations, Tensor):
            most = iterations
        else:
            most = torch.full((len(y),), integer(iterations, name, "iterations", least=0), device=y.device)
        bound = number(bound, name, "bound", least=0)
        tol = number(tol, name, "tol", least=0) if bound else number(tol, name, "tol", above=0)
        history, finish = flag(history, name, "history"), flag(finish, name, "finish")
        expect(callback is None or callable(callback), name, "callback", "a function or None", callback)
        fits = isinstance(x0, Tensor) and x0.ndim >= 2 and len(x0) == len(y)
        expect(fits and (x0.is_floating_point() or x0.is_complex()), name, "x0", f"a batch of {len(y)} images", x0)
        exact = self._wide(x0)
        test = Test(tol, bound)
        run = self._run(y, x0, most, test, history, callback)
        s, count, rows = run.state, run.count, run.history
        x, end = s.x, exact.at(s.x, y)
        left = (~test.passed(end) & (count < most) & torch.isfinite(end.norm)).nonzero().flatten()
        if finish and len(left) and real_dtype(x0) != torch.float64:
            wide = exact.take(left)._run(
                y[left].to(wide_dtype(y)), x[left].to(wide_dtype(x)), most[left] - count[left], test, history,
                None if callback is None else _Later(callback, s, left, int(count.max())), s.objective[left],
            )  # fmt: skip
            x = x.index_copy(0, left, wide.state.x.to(x.dtype))
            s = replace(s, trials=s.trials.index_add(0, left, wide.state.trials))
            count = count.index_add(0, left, wide.count)
            rows = _joined(rows, wide.history, left)
            end = put(end, left, exact.take(left).at(x[left], y[left]))
        done, finite = test.passed(end), torch.isfinite(end.objective + end.norm)
        return x, SmoothReport(
            objective=end.objective, misfit=end.misfit, grad_norm=end.norm, relative_gradient=end.relative,
            iterations=count, trials=s.trials, converged=done & finite,
            status=Status(ITERATION_LIMIT, done, finite, ~done & (count < most)), history=rows,
        )  # fmt: skip

    def at(self, x: Tensor, y: Tensor) -> "Point":
        """phi and its gradient at x, in float64; the parts must be of that too."""
        x, y = x.to(wide_dtype(x)), y.to(wide_dtype(y))
        residual, r = self.fidelity.residual(x, y), self.term.evaluate(x)
        f, grad = self.fidelity.value_of(residual), self.fidelity.grad_of(residual, x) + r.grad
        size = torch.maximum(_norm(r.grad), FAINT * _norm(self.fidelity.grad_of(y, x)))
        return Point(f + r.value.double(), (2 * f).sqrt(), _norm(grad), size)

    def take(self, which: Tensor) -> "SmoothDescent":
        """Of the images `which` of the batch."""
        return self._with(self.fidelity.take(which).operator, self.term.take(which))

    def joined(self, others: Sequence["SmoothDescent"], counts: Sequence[int]) -> "SmoothDescent | None":
        """Of the images of this batch and of `others` behind it, so many each; None: they are of another kind."""
        every = [self, *others]
        operator = joined([s.fidelity.operator for s in every], counts)
        term = None if operator is None else joined([s.term for s in every], counts)
        if operator is None or term is None or not same([s.rounded for s in every]):
            return None
        return self._with(operator, term)

    def _with(self, operator: LinearOperator, term: Term) -> "SmoothDescent":
        new = copy.copy(self)
        new.fidelity, new.term = LeastSquares(operator), term
        return new

    def _wide(self, x: Tensor) -> "SmoothDescent":
        """The same in float64."""
        if real_dtype(x) == torch.float64:
            return self
        operator = self.fidelity.operator
        given = any(isinstance(part, Callables) for part in operator.modules())  # who knows what those can take
        wide = Widened(operator, real_dtype(x)) if given else copy.deepcopy(operator).double()
        return self._with(wide, copy.deepcopy(self.term).double())

    def start(self, y: Tensor, x: Tensor) -> SmoothState:
        """The state at x, without memory."""
        residual, r = self.fidelity.residual(x, y), self.term.evaluate(x)
        grad_f = self.fidelity.grad_of(residual, x)
        objective = self.fidelity.value_of(residual) + r.value.double()
        none, norm = x.new_zeros(len(x), MEMORY, *x.shape[1:]), _norm(grad_f + r.grad)
        zero = torch.zeros_like(norm, dtype=torch.int64)
        return SmoothState(
            x, residual, grad_f, r, objective, norm, none, none, rho=objective.new_zeros(len(x), MEMORY),
            gamma=torch.ones_like(norm), mu=torch.full_like(norm, float("nan")),
            least=FAINT * _norm(self.fidelity.grad_of(y, x)), best=norm, waited=zero, trials=zero, made=zero, left=zero,
            stuck=torch.zeros_like(norm, dtype=torch.bool),
        )  # fmt: skip

    def _run(
        self, y: Tensor, x: Tensor, iterations: Tensor, test: "Test", history: bool, callback: Callback | None,
        objective: Tensor | None = None,
    ) -> Run[SmoothState]:  # fmt: skip
        """Iterations in the precision of x; a history goes on from the `objective` of another."""
        closed = self.fidelity.operator.diagonal(x) is not None
        closed = closed or self.fidelity.operator.row_scale(x.shape[-2:]) is not None
        s = replace(self.start(y, x), left=iterations)
        s = s if objective is None else replace(s, objective=objective)

        most = int(iterations.max()) if len(x) else 0
        return iterate_jointly(
            Descending(self, y, closed, test), s, most, row=_row if history else None, callback=callback
        )

    def step(self, s: SmoothState, y: Tensor, k: int, closed: bool, fresh: Tensor) -> SmoothState:
        """Iteration k of the batch; phi never increases. An image that no step brings down forgets its metric, and is
        stuck if it has none.

        Args:
            closed: whether (1 + w A* A)^-1 has a closed form.
            fresh: [B] bool: images whose residual is computed anew.
        """
        f, grad = self.fidelity, s.grad_f + s.r.grad
        d = -self._metric(s, grad, y, k, closed)
        slope, size = inner(grad, d), sum_of_squares(d)
        down = slope < -CURVED * s.norm * size.sqrt()  # false for NaN
        plain = -column(s.gamma, grad) * grad
        d = where(down, d, plain)
        slope = torch.where(down, slope, -s.gamma * s.norm.square())
        known = down & (s.rho > 0).any(1)
        image, slope_f = f.operator.forward(d), inner(s.grad_f, d)
        square = sum_of_squares(image)
        along = -slope / square  # the minimiser of f: a first guess of a length that nothing else tells
        first = torch.where(known | ~torch.isfinite(along), 1.0, along)
        x, at_new, change = s.x, s.r, torch.zeros_like(slope)

        def accept(step: Tensor, which: Tensor) -> Tensor:
            nonlocal x, at_new, change
            term = self.term if len(which) == len(s.x) else self.term.take(which)
            new = s.x[which] + column(step, d) * d[which]
            moved, tried = new - s.x[which], term.evaluate(new)
            lower = step * (slope_f[which] + step / 2 * square[which]) + change_of(take(s.r, which), tried, moved)
            x, at_new = x.index_copy(0, which, new), put(at_new, which, tried)
            change = change.index_copy(0, which, lower)
            return lower <= SUFFICIENT * step * slope[which]

        search = backtrack(accept, first, max_trials=TRIALS)
        taken = s.residual + column(search.step, image) * image
        residual = self._refreshed(taken, x, y, (fresh | ((s.made + 1) % REFRESH == 0)).nonzero().flatten())
        grad_f = f.grad_of(residual, x)
        new = replace(
            s, x=x, residual=residual, grad_f=grad_f, r=at_new, objective=s.objective + change,
            norm=_norm(grad_f + at_new.grad),
        )  # fmt: skip
        new = _remember(s, new, k, down)
        if self.rounded or real_dtype(x) != torch.float64:
            waits = (new.waited >= PATIENCE) & (new.norm < NEAR * new.size)
            new = replace(new, stuck=known & (search.trials > ROUNDED) | waits)
        new = where(search.accepted, new, replace(s, rho=torch.zeros_like(s.rho), stuck=~known))
        return replace(new, trials=s.trials + search.trials, made=s.made + 1, left=s.left - 1)

    def _refreshed(self, residual: Tensor, x: Tensor, y: Tensor, which: Tensor) -> Tensor:
        """Residuals with those of the images `which` computed anew."""
        if len(which) == len(x):
            return self.fidelity.residual(x, y)
        if len(which) == 0:
            return residual
        return residual.index_copy(0, which, self.fidelity.take(which).residual(x[which], y[which]))

    def _metric(self, s: SmoothState, grad: Tensor, y: Tensor, k: int, closed: bool) -> Tensor:
        """The inverse metric at the gradient: two loops over the moves, around the first metric."""
        q, weights, youngest = grad, [], int(s.made.min())

        def known(age: int, new: Tensor, old: Tensor) -> Tensor:  # images that came later have no move so old
            return new if age < youngest else where(s.made > age, new, old)

        for age, j in enumerate(_newest_first(k)):
            weight = s.rho[:, j] * _about(s.moves[:, j], q)
            q = known(age, q - column(weight, q) * s.changes[:, j], q)
            weights.append(weight)
        d = column(s.gamma, q) * q
        mu = s.mu.clamp_min(FLAT)
        weight = torch.where(mu > 0, 1 / mu, 1.0).to(real_dtype(q))
        if closed:
            solved: Tensor | None = self.fidelity.prox(q, weight, torch.zeros_like(y))
        else:
            solved = self.fidelity.operator.resolvent(q, weight)
        if solved is not None:
            d = where(mu > 0, solved / column(mu, q), d)
        for age, j in reversed([*enumerate(_newest_first(k))]):
            back = s.rho[:, j] * _about(s.changes[:, j], d)
            d = known(age, d + column(weights[age] - back, d) * s.moves[:, j], d)
        return d


@dataclass(frozen=True)
class Test:
    """When an image is done: once |grad phi| is at most `tol` times what it is compared with, or at most `bound`."""

    tol: float
    bound: float

    def passed(self, at: "SmoothState | Point") -> Tensor:
        """[B] bool."""
        return self.within(at, 1.0)

    def within(self, at: "SmoothState | Point", factor: float) -> Tensor:
        """[B] bool: whether |grad phi| is at most `factor` times that."""
        return at.norm <= factor * (self.tol * at.size).clamp_min(self.bound)


@dataclass(frozen=True)
class Descending(Joint[SmoothState]):
    """The iteration of a batch."""

    solver: SmoothDescent
    y: Tensor
    closed: bool
    test: Test

    def step(self, s: SmoothState, k: int) -> SmoothState:
        """As of SmoothDescent: k names the places of the moves, and no more."""
        return self.solver.step(s, self.y, k, self.closed, self.test.within(s, ALMOST))

    def done(self, s: SmoothState) -> Tensor:
        """By the test, without a step, or without iterations left."""
        return self.test.passed(s) | s.stuck | (s.left <= 0)

    def take(self, which: Tensor) -> "Descending":
        """Of these images."""
        return replace(self, solver=self.solver.take(which), y=self.y[which])

    def joined(self, others: Sequence["Descending"], counts: Sequence[int]) -> "Descending | None":
        """With those of the same test."""
        every = [self, *others]
        if not same([d.closed for d in every], [d.test for d in every]):
            return None
        solver = self.solver.joined([d.solver for d in others], counts)
        return None if solver is None else replace(self, solver=solver, y=torch.cat([d.y for d in every]))


@dataclass(frozen=True)
class Point:
    """phi, |A x - y|, |grad phi| and what it is compared with, [B] at an image, float64."""

    objective: Tensor
    misfit: Tensor
    norm: Tensor
    size: Tensor

    @property
    def relative(self) -> Tensor:
        """|grad phi| in units of what it is compared with; 0 where it is 0."""
        return torch.where(self.norm == 0, 0.0, self.norm / self.size)


def _about(a: Tensor, b: Tensor) -> Tensor:
    """Re <a, b> [B] in float64 of products in their own precision: enough for a direction, and three times as fast."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    return each_image(lambda p, q: (p * q).flatten(1).sum(1, dtype=torch.float64), a, b)


def _norm(t: Tensor) -> Tensor:
    """|t| [B] in float64."""
    return sum_of_squares(t).sqrt()


def _newest_first(k: int) -> Iterator[int]:
    """Places of the moves before iteration k."""
    return ((k - 1 - age) % MEMORY for age in range(min(k, MEMORY)))


def _remember(s: SmoothState, new: SmoothState, k: int, down: Tensor) -> SmoothState:
    """`new` with the move from s to it; of images whose metric was of no use (not `down`) the move alone."""
    move, change_r = new.x - s.x, new.r.grad - s.r.grad
    change = change_r + (new.grad_f - s.grad_f)
    along, along_r = inner(move, change), inner(move, change_r)
    lengths, size = sum_of_squares(move), sum_of_squares(change)
    good = along > CURVED * (lengths * size).sqrt()
    place = torch.tensor([k % MEMORY], device=move.device)
    rho = torch.where(good, 1 / along, 0.0)
    mu = sum_of_squares(change_r) / along_r
    return replace(
        new, moves=s.moves.index_copy(1, place, move[:, None]), changes=s.changes.index_copy(1, place, change[:, None]),
        rho=torch.where(down[:, None], s.rho, 0.0).index_copy(1, place, rho[:, None]),
        gamma=torch.where(good, along / size, s.gamma),
        mu=torch.where((along_r > 0) & torch.isfinite(mu), mu, s.mu),
        best=torch.minimum(new.norm, s.best), waited=torch.where(new.norm < s.best, 0, s.waited + 1),
    )  # fmt: skip


def _row(s: SmoothState) -> Row:
    return {"objective": s.objective, "grad_norm": s.norm}


@dataclass(frozen=True)
class _Later:
    """Tells of iterations in float64 of the images `which`, after `before` others."""

    callback: Callback
    state: SmoothState
    which: Tensor
    before: int

    def __call__(self, k: int, s: SmoothState) -> None:
        x = self.state.x.index_copy(0, self.which, s.x.to(self.state.x.dtype))
        self.callback(self.before + k, replace(self.state, x=x))


def _joined(first: Row | None, second: Row | None, which: Tensor) -> Row | None:
    """Rows of a batch, and behind them those of the images `which` that went on; the others stay as they were."""
    if first is None or second is None:
        return None
    return {
        name: torch.cat([rows, rows[-1:].repeat(len(second[name]) - 1, 1).index_copy(1, which, second[name][1:])])
        for name, rows in first.items()
    }
