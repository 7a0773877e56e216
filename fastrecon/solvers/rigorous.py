"""Rigorous mode of LDA, GD-Net and AGD-Net: iterations that provably converge, whatever the network has learned.

The gradient step v is found by backtracking until phi_eps(v) - phi_eps(x) <= -c |v - x|^2; the method's own candidate
follows with the accepted step and is taken where it is lower still. Then phi_eps(x) + m eps / 2 never increases,
reductions of eps included (Chen, Liu, Ye & Zhang, arXiv:2007.11245, Lemma 3.4, Theorem 3.5).

Decisions rest on changes of the objective, not on differences of its values: the data term's change is exact
(LeastSquares.change), the regulariser's is the difference of two sums unless the mean of the slopes at both ends agrees
with it to rounding; then the slopes, which do not cancel, are the more accurate of the two.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import Self

from fastrecon.certificates import ITERATION_LIMIT, Report
from fastrecon.checks import choice, expect, integer, number
from fastrecon.operators.joining import joined
from fastrecon.ops.reductions import inner, sum_of_squares
from fastrecon.ops.select_descent import select_descent
from fastrecon.solvers.base import Callback, Run, column, put, take, where
from fastrecon.solvers.descent import DescentState, UnrolledDescent
from fastrecon.solvers.joint import Joint, iterate_jointly, same
from fastrecon.solvers.search import FIRST_STEPS, Search, backtrack, change_of, first_step
from fastrecon.threads import alone

SUFFICIENT = 0.35  # c of the descent condition, the paper's value


@dataclass(frozen=True)
class RigorousState:
    """Where rigorous mode stands: the iterate, and what its line search remembers, per image."""

    alpha: Tensor  # [B] step to start from, float64
    grad: Tensor  # like x: the gradient of phi_eps one iterate before; NaN before the first
    stuck: Tensor  # [B] bool: no step decreased the objective
    left: Tensor  # [B] iterations that it may still make, int64
    at: DescentState


class RigorousDescent(UnrolledDescent):
    """Trained phases that can be continued until they converge; a subclass gives its `candidate`."""

    def candidate(self, s: DescentState, v: Tensor, step: Tensor, alpha: Tensor, *sizes: Tensor) -> Tensor | None:
        """What may take the place of the gradient step v = x - step grad phi_eps(x); None for v itself.

        Args:
            s: state at x.
            v: like x.
            step: accepted size [B], float64, found from alpha [B].
            sizes: the method's other step sizes [B] that go with a gradient step alpha.
        """
        return None

    def beyond(self, last: Sequence[Tensor], alpha: Tensor) -> tuple[Tensor, ...]:
        """The other step sizes [B], float64, that go with alpha [B] after the phases, whose `last` sizes are given."""
        return tuple(size.double().expand(len(alpha)) for size in last[1:])

    def balanced(self) -> Self:
        """The network whose phi is the one that the learned steps mean: here this one, as f and r share their steps."""
        return self

    def descend(
        self, s: DescentState, y: Tensor, sync: bool, alpha: Tensor, *sizes: Tensor
    ) -> tuple[DescentState, Search]:
        """One iteration at fixed eps, from first steps alpha [B] and others that go with them, in float64.

        An image none of whose steps was accepted stays where it is. Without `sync` every trial is computed for all, and
        there are fewer.
        """
        f, r = self.fidelity, self.regulariser
        assert s.r is not None
        assert s.merit is not None
        at_x, grad = s.r, s.grad_f + s.r.grad
        slope_f, slope = inner(s.grad_f, grad), sum_of_squares(grad)
        curvature = sum_of_squares(f.operator.forward(grad))
        v, at_v, change_v = s.x, at_x, torch.zeros_like(alpha)

        def accept(step: Tensor, which: Tensor) -> Tensor:
            nonlocal v, at_v, change_v
            d = -column(step, grad) * grad[which]
            tried = r.evaluate(s.x[which] + d, s.eps[which])
            change_f = step * (step / 2 * curvature[which] - slope_f[which])  # f along the gradient is a known parabola
            change = change_f + change_of(take(at_x, which), tried, d)
            v, at_v = v.index_copy(0, which, s.x[which] + d), put(at_v, which, tried)
            change_v = change_v.index_copy(0, which, change)
            return change <= -SUFFICIENT * step.square() * slope[which]

        search = backtrack(accept, alpha, sync=sync)
        x, at_new, change, taken = v, at_v, change_v, torch.zeros_like(s.passed)
        u = self.candidate(s, v, search.step, alpha, *sizes)
        if u is not None:
            at_u = r.evaluate(u, s.eps)
            change_u = f.change(s.grad_f, u - s.x) + change_of(at_x, at_u, u - s.x)
            x, taken = select_descent(u, v, change_u, change_v)
            at_new, change = where(taken, at_u, at_v), torch.where(taken, change_u, change_v)
        residual = f.residual(x, y)
        new = self.accept(s, x, f.grad_of(residual, x), at_new, f.value_of(residual), taken)
        new = replace(new, merit=s.merit + change, trials=s.trials + search.trials)
        return where(search.accepted, new, s), search

    @torch.no_grad()
    @alone
    def solve(
        self, y: Tensor, x0: Tensor, iterations: int = 50_000, tol: float = 1.5e-5, *, balance: bool = False,
        dtype: torch.dtype | None = torch.float64, steps: str = "barzilai-borwein", check_every: int = 1,
        history: bool = True, callback: Callback | None = None,
    ) -> tuple[Tensor, Report]:  # fmt: skip
        """Runs the trained phases and then Algorithm 1 with backtracking until its termination test.

        Args:
            y: measurements [B, ...].
            x0: initial images [B, in_channels, H, W].
            iterations: at most this many after the trained phases.
            tol: an image is done once sigma * eps < tol and |grad phi_eps(x)| < sigma * gamma * eps at that eps (one
                test more than Algorithm 1 asks, so that both hold for what the report states).
            balance: whether to run the network `balanced`, whose phi is the one that the learned steps mean.
            dtype: precision of the iterations; the result has that of x0. Near convergence the gradient is smaller than
                the rounding of its float32 terms, hence float64; None keeps the precision of the network.
            steps: the step that backtracking tries first: "grow", the last one, doubled where it was accepted at once;
                or "barzilai-borwein", which needs two to four times fewer evaluations. Both accept by the same rule.
            check_every: iterations between two looks at who is done.
            history: whether to record every iteration in the report.
            callback: called with k = 1, 2, ... and the state after the k-th iteration that follows the phases; see
                `reductions_left`.

        Returns:
            The images and their report. phi_eps(x) + m eps / 2 never increases after the trained phases.

        Raises:
            ValueError: an argument does not fit.
        """
        iterations, tol = integer(iterations, "solve", "iterations", least=0), number(tol, "solve", "tol", above=0)
        check_every = integer(check_every, "solve", "check_every", least=1)
        known = (None, torch.float32, torch.float64)
        expect(dtype in known, "solve", "dtype", "torch.float32, torch.float64 or None", dtype)
        choice(steps, FIRST_STEPS, "solve", "steps")
        expect(callback is None or callable(callback), "solve", "callback", "a function or None", callback)
        if self.minimiser is not None:
            wide = dtype in (torch.float64, None)
            expect(wide, "solve", "dtype", "torch.float64 or None for a network with a minimiser", dtype)
            return self.minimiser.solve(self, y, x0, iterations, tol, steps, check_every, history, callback)
        kind, net = x0.dtype, copy.deepcopy(self.balanced() if balance else self)
        if dtype is not None:
            net, y, x0 = net.to(dtype), *(t.to(dtype.to_complex() if t.is_complex() else dtype) for t in (y, x0))
        phases = net.run(y, x0, history=history)
        most = torch.full_like(phases.count, iterations)
        found = net.run_on(phases.state, y, most, tol, steps, check_every, history, callback)
        s, rows = found.state.at, phases.history
        if rows is not None and found.history is not None:
            rows = {k: torch.cat((v, found.history[k][1:])) for k, v in rows.items()}
        count, done = phases.count + found.count, net.done(s, tol)
        return s.x.to(kind), net.report(s, rows, done, count, ITERATION_LIMIT, found.state.stuck)

    def run_on(
        self, s: DescentState, y: Tensor, iterations: Tensor, tol: float, steps: str = "barzilai-borwein",
        check_every: int = 1, history: bool = True, callback: Callback | None = None,
    ) -> Run[RigorousState]:  # fmt: skip
        """At most so many iterations [B] from a state on; see `solve`. Sets `eps_mode`: each image decides about its
        own."""
        self.eps_mode = "sample"
        last = [sizes[-1] for sizes in self.step_sizes()]
        alpha = last[0].double().expand(len(y)).clone()
        start = RigorousState(alpha, torch.full_like(s.x, float("nan")), torch.zeros_like(s.passed), iterations, s)
        return iterate_jointly(
            Descending(self, y, tol, steps, last), start, int(iterations.max()), check_every=check_every,
            row=(lambda t: self.row(t.at)) if history else None,
            callback=None if callback is None else lambda k, t: callback(k, t.at),
        )  # fmt: skip

    def done(self, s: DescentState, tol: float) -> Tensor:
        """Whether each image passes the termination test, [B] bool."""
        assert s.norm is not None
        eps = s.eps.double()
        return (self.sigma * eps < tol) & (s.norm < self.sigma * self.gamma * eps)


@dataclass(frozen=True)
class Descending(Joint[RigorousState]):
    """The iteration of a batch."""

    net: RigorousDescent
    y: Tensor
    tol: float
    steps: str
    last: Sequence[Tensor]  # step sizes of the last phase
    period = 2  # the first step to try is one of two in turn

    def step(self, t: RigorousState, k: int) -> RigorousState:
        """Of an image in its first iteration nothing is known of the gradient before, whatever k is."""
        s = self.net.begin_phase(t.at)
        assert s.r is not None
        grad = s.grad_f + s.r.grad
        first = first_step(self.steps, s.x - s.previous, grad - t.grad, t.alpha, k, 1 / SUFFICIENT)
        s, search = self.net.descend(s, self.y, True, first, *self.net.beyond(self.last, first))
        # a step accepted at once may have been too small; one that was not needs no second proof next time
        alpha = torch.where(search.trials == 1, 2 * search.step, search.step)
        return RigorousState(alpha, grad, ~search.accepted, t.left - 1, s)

    def done(self, t: RigorousState) -> Tensor:
        """By the termination test, without a step, or without iterations left."""
        return self.net.done(t.at, self.tol) | t.stuck | (t.left <= 0)

    def take(self, which: Tensor) -> "Descending":
        """Of these images."""
        return replace(self, net=self.net.take(which), y=self.y[which])

    def joined(self, others: Sequence["Descending"], counts: Sequence[int]) -> "Descending | None":
        """With those of the same network, test and rule."""
        every = [self, *others]
        net = joined([d.net for d in every], counts) if same(*_settings(every)) else None
        return None if net is None else replace(self, net=net, y=torch.cat([d.y for d in every]))


def _settings(every: Sequence[Descending]) -> tuple[Sequence[object], ...]:
    return [d.tol for d in every], [d.steps for d in every], [[t.tolist() for t in d.last] for d in every]


def reductions_left(eps: Tensor, sigma: float, gamma: float, tol: float) -> Tensor:
    """How many reductions of eps [B] the termination test still needs: the least k with sigma * gamma^k * eps < tol."""
    exact = torch.log(tol / (sigma * eps.double())) / torch.log(torch.tensor(gamma, dtype=torch.float64))
    return exact.floor().clamp_min(-1).long() + 1
