"""Rigorous mode: the iterations of LDA that provably converge.

The step of v is found by backtracking until phi_eps(v) - phi_eps(x) <= -c |v - x|^2; u follows with the accepted step.
Then phi_eps(x) + m eps / 2 never increases, reductions of eps included (Chen, Liu, Ye & Zhang, arXiv:2007.11245,
Lemma 3.4, Theorem 3.5).

Decisions rest on changes of the objective, not on differences of its values: the data term's change is exact
(LeastSquares.change), the regulariser's is the difference of two sums unless the mean of the slopes at both ends agrees
with it to rounding; then the slopes, which do not cancel, are the more accurate of the two.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastrecon.certificates import ITERATION_LIMIT, Report
from fastrecon.checks import expect, integer, number
from fastrecon.ops.reductions import inner, sum_of_squares
from fastrecon.ops.select_descent import select_descent
from fastrecon.solvers.descent import State, mix, put, row, take
from fastrecon.solvers.search import backtrack, backtrack_blind
from fastrecon.terms.feature_norm import Evaluation
from fastrecon.threads import alone

if TYPE_CHECKING:
    from fastrecon.solvers.lda import LDA

SUFFICIENT = 0.35  # c of the descent condition, the paper's value
STEPS = ("barzilai-borwein", "grow")
ROUNDING = 8  # units in the last place of a sum over an image


def change_of(start: Evaluation, end: Evaluation, d: Tensor) -> Tensor:
    """r_eps(x + d) - r_eps(x) [B], float64, from the evaluations at both ends of d."""
    by_values = end.value.double() - start.value.double()
    by_slopes = inner(start.grad, d) / 2 + inner(end.grad, d) / 2
    unit = ROUNDING * torch.finfo(start.value.dtype).eps * start.value.double().abs()
    return torch.where((by_values - by_slopes).abs() <= unit, by_slopes, by_values)


def descend(
    net: "LDA", s: State, y: Tensor, alpha: Tensor, tau: Tensor, ask: bool = True
) -> tuple[State, Tensor, Tensor]:
    """One iteration at fixed eps, from first steps alpha [B] and tau [B] in float64.

    Unless it may `ask` which images still search, every trial is computed for all, and there are fewer. Returns the
    state, the accepted alpha, and whether one was accepted; an image without one stays where it is.
    """
    f, r = net.fidelity, net.regulariser
    assert s.r is not None
    assert s.merit is not None
    at_x, grad = s.r, s.grad_f + s.r.grad
    slope_f, slope, curvature = inner(s.grad_f, grad), sum_of_squares(grad), sum_of_squares(f.operator.forward(grad))
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

    search = (backtrack if ask else backtrack_blind)(accept, alpha)
    z = s.x - column(search.step, grad) * s.grad_f
    u = z - column(tau * search.step / alpha, grad) * r.grad(z, s.eps)
    at_u = r.evaluate(u, s.eps)
    change_u = f.change(s.grad_f, u - s.x) + change_of(at_x, at_u, u - s.x)
    x, took_u = select_descent(u, v, change_u, change_v)
    chosen, residual = mix(took_u, at_u, at_v), f.residual(x, y)
    new = net.leave(s, x, f.grad_of(residual, x), chosen, f.value_of(residual), took_u)
    new = replace(new, merit=s.merit + torch.where(took_u, change_u, change_v), trials=s.trials + search.trials)
    return mix(search.accepted, new, s), search.step, search.accepted


def first_trial(rule: str, d: Tensor, change: Tensor, last: Tensor, iteration: int) -> Tensor:
    """The step [B] to try first, from the last move d, the change of the gradient along it, and a fallback.

    Barzilai & Borwein, Two-Point Step Size Gradient Methods, IMA J. Numer. Anal. 8 (1988), their two steps in turn.
    """
    if rule == "grow":
        return last
    along = inner(d, change)  # NaN before the first iteration: no move is known yet
    step = sum_of_squares(d) / along if iteration % 2 else along / sum_of_squares(change)
    return torch.where((along > 0) & torch.isfinite(step), step.clamp_max(1 / SUFFICIENT), last)


def reductions_left(eps: Tensor, sigma: float, gamma: float, tol: float) -> Tensor:
    """How many reductions of eps [B] the termination test still needs: the least k with sigma * gamma^k * eps < tol."""
    exact = torch.log(tol / (sigma * eps.double())) / torch.log(torch.tensor(gamma, dtype=torch.float64))
    return exact.floor().clamp_min(-1).long() + 1


@torch.no_grad()
@alone
def solve(
    net: "LDA", y: Tensor, x0: Tensor, tol: float, max_iterations: int, dtype: torch.dtype | None, steps: str,
    history: bool, progress: Callable[[int, State], object] | None,
) -> tuple[Tensor, Report]:  # fmt: skip
    """LDA.solve; see there."""
    tol, max_iterations = (
        number(tol, "solve", "tol", above=0),
        integer(max_iterations, "solve", "max_iterations", least=0),
    )
    expect(
        dtype in (None, torch.float32, torch.float64), "solve", "dtype", "torch.float32, torch.float64 or None", dtype
    )
    expect(steps in STEPS, "solve", "steps", f"one of {', '.join(STEPS)}", repr(steps))
    kind, twin = x0.dtype, copy.deepcopy(net)
    if dtype is not None:
        twin, y, x0 = twin.to(dtype), y.to(dtype), x0.to(dtype)
    s, rows = twin.run(y, x0, history=history)
    twin.eps_mode = "sample"

    alpha = twin.alpha[-1].double().expand(len(x0)).clone()
    tau_over_alpha = (twin.tau[-1] / twin.alpha[-1]).double()
    last_grad = torch.full_like(x0, float("nan"))
    iterations = torch.full_like(s.trials, twin.phases)
    stuck = torch.zeros_like(s.passed)
    for iteration in range(max_iterations):
        which = (~(done(twin, s, tol) | stuck)).nonzero().flatten()
        if len(which) == 0:
            break
        part = twin.enter(take(s, which))
        assert part.r is not None
        grad = part.grad_f + part.r.grad
        first = first_trial(steps, part.x - part.previous, grad - last_grad[which], alpha[which], iteration)
        last_grad = last_grad.index_copy(0, which, grad)
        new, step, accepted = descend(twin, part, y[which], first, tau_over_alpha * first)
        # a step accepted at once may have been too small; one that was not needs no second proof next time
        alpha[which] = torch.where(new.trials == part.trials + 1, 2 * step, step)
        stuck[which] = ~accepted
        iterations[which] += 1
        s = put(s, which, new)
        if history:
            rows.append(row(s))
        if progress is not None:
            progress(iteration, s)
    return s.x.to(kind), twin.report(s, rows, done(twin, s, tol), iterations, ITERATION_LIMIT, stuck)


def done(net: "LDA", s: State, tol: float) -> Tensor:
    """Whether each image passes the termination test, [B] bool."""
    assert s.norm is not None
    eps = s.eps.double()
    return (net.sigma * eps < tol) & (s.norm < net.sigma * net.gamma * eps)


def column(t: Tensor, like: Tensor) -> Tensor:
    """Numbers [B] as [B, 1, 1, 1] of the type of `like`."""
    return t.to(like.dtype)[:, None, None, None]
