"""Error-controlled iterations: any module proposes, F = |A x - y|^2 / 2 + r(x) disposes.

u   = A_g(A_f(x)),  A_f(x) = argmin_u f(u) + rho / 2 |u - x|^2,  A_g the module, of which nothing is known
u~  = prox_{s r}(u - s (grad f(u) + mu (u - x))),  with its error d = (mu - 1/s) (u~ - u) + grad f(u~) - grad f(u)
v   = u~ if |d| <= C |u~ - x| and F(u~) <= F(x) - (mu / 4 - C^2 / mu) |u~ - x|^2, else x
x+  = prox_{s r}(v - s grad f(v))

So F falls by (1/(2s) - L/2) |x+ - v|^2 at least whatever the module says, |x+ - v| -> 0, and every limit is stationary.
The paper accepts by the error alone; that F falls then is proved for global minimisers only, see solvers/correction.py.

Source: Liu, Optimization Learning: Perspective, Method, and Applications, IJCAI 2020, Algorithm 1 (inexact iFIMA), and
the monotone eFIMA, of Liu, Cheng, He, Fan, Lin & Luo, On the Convergence of Learning-based Iterative Methods for
Nonconvex Inverse Problems, IEEE Trans. Pattern Anal. Mach. Intell. 42 (2020).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.certificates import ControlledReport, Status
from fastrecon.checks import choice, expect, flag, integer, number
from fastrecon.modules.asking import Modules
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.layout import real_dtype
from fastrecon.ops.reductions import sum_of_squares
from fastrecon.solvers.base import Callback, Run, check_measurements, where, with_parts
from fastrecon.solvers.correction import RULES, Correction, Point, relative, safe_step, starting_images
from fastrecon.solvers.joint import Joint, iterate_jointly, same
from fastrecon.solvers.safeguard import choose
from fastrecon.terms.base import Term
from fastrecon.terms.least_squares import LeastSquares
from fastrecon.threads import alone, together

Rho = float | Sequence[float | Tensor] | None


@dataclass(frozen=True)
class ControlledState(Point):
    """Where the iteration stands, per image."""

    move: Tensor  # [B] |x - x_k|^2 of the last iteration
    error: Tensor  # [B] |d| of the last proposal
    bound: Tensor  # [B] what it was allowed to be
    accepted: Tensor  # [B] proposals, int64
    failed: Tensor  # [B] iterations in which the module had no answer, int64

    @classmethod
    def start(cls, p: Point) -> "ControlledState":
        """The state before the first iteration."""
        none = torch.zeros_like(p.fit)
        count = torch.zeros_like(p.fit, dtype=torch.int64)
        return cls(**vars(p), move=none + float("inf"), error=none, bound=none, accepted=count, failed=count)


@dataclass(frozen=True)
class Control:
    """What asks the module and judges it.

    Attributes:
        correction: F and its steps.
        modules: A_g.
        rho: of A_f in every iteration, the last for all that follow; None: there is no A_f.
        rule: of correction.RULES.
        reasons: texts of what modules did wrong, collected on the way.
    """

    correction: Correction
    modules: Modules
    rho: tuple[float | Tensor, ...] | None
    rule: str
    reasons: list[str]

    def pull(self, x: Tensor, k: int) -> Tensor:
        """1 / rho [B] of iteration k for images like x."""
        assert self.rho is not None
        every = torch.ones(len(x), dtype=real_dtype(x), device=x.device)
        return (every * (1 / self.rho[min(k, len(self.rho) - 1)])).to(every)

    def rho_of(self, which: Tensor) -> tuple[float | Tensor, ...] | None:
        """rho for the images `which` of the batch."""
        return self.rho and tuple(r[which] if isinstance(r, Tensor) else r for r in self.rho)

    def proposal(self, x: Tensor, k: Any) -> tuple[Tensor, Tensor]:
        """u of iteration k from x, and where [B] there is none."""
        u = x
        if self.rho is not None:
            u = self.correction.fidelity.prox(x, self.pull(x, k))
        with together:
            answer = self.modules.asked(u, k, self.reasons)
        return answer.u, answer.failed

    def step(self, s: ControlledState, k: Any) -> ControlledState:
        """Iteration k = 0, 1, ..."""
        c = self.correction
        u, failed = self.proposal(s.x, k)
        found = c.candidate(s.x, u)
        good = c.accepted(found, s.objective, self.rule) & ~failed
        v = choose(good, Point(found.x, found.residual, found.fit, found.penalty), Point(*point_of(s)))
        grad = choose(good, found.grad, lambda: c.fidelity.grad_of(s.residual, s.x))
        new = c.point(c.descended(v.x, grad))
        p = where(new.objective <= v.objective, new, v)  # rounding may leave no decrease
        return ControlledState(
            **vars(p), move=sum_of_squares(p.x - s.x), error=found.error, bound=found.bound,
            accepted=s.accepted + good, failed=s.failed + failed,
        )  # fmt: skip

    def take(self, which: Tensor) -> "Control":
        """For the images `which` of the batch."""
        return replace(
            self, correction=self.correction.take(which), modules=self.modules.take(which), rho=self.rho_of(which)
        )  # fmt: skip


@dataclass(frozen=True)
class Gathered(Control):
    """Of several batches, each of which asks its own modules about its own images, as it does alone.

    Attributes:
        parts: of each batch, and how many images it has.
    """

    parts: tuple[tuple[Control, int], ...] = ()

    @classmethod
    def of(cls, every: Sequence[Control], counts: Sequence[int]) -> "Gathered | None":
        """Of batches of so many images each; None: they are of different kinds."""
        correction = Correction.joined([c.correction for c in every], counts)
        if correction is None or not same([(c.rule, c.rho is None) for c in every]):
            return None
        parts: list[tuple[Control, int]] = []
        for c, count in zip(every, counts, strict=True):
            parts += c.parts if isinstance(c, Gathered) else [(c, count)]
        first = every[0]
        return cls(correction, first.modules, first.rho, first.rule, first.reasons, tuple(parts))

    def proposal(self, x: Tensor, k: Any) -> tuple[Tensor, Tensor]:
        """As of Control, for iteration k, or of each image its own, int64 [B]."""
        numbers = k.tolist() if isinstance(k, Tensor) else [k] * len(x)
        firsts = [sum(count for _, count in self.parts[:i]) for i in range(len(self.parts))]
        if self.rho is not None:
            pulls = [c.pull(x[i : i + count], numbers[i]) for (c, count), i in zip(self.parts, firsts, strict=True)]
            x = self.correction.fidelity.prox(x, torch.cat(pulls))
        with together:
            answers = [
                c.modules.asked(x[i : i + count], numbers[i], c.reasons)
                for (c, count), i in zip(self.parts, firsts, strict=True)
            ]
        return torch.cat([a.u for a in answers]), torch.cat([a.failed for a in answers])

    def take(self, which: Tensor) -> "Gathered":
        """For the images `which` of the batch."""
        parts, first = [], 0
        for c, count in self.parts:
            own = which[(which >= first) & (which < first + count)] - first
            if len(own) == count:
                parts.append((c, count))
            elif len(own):
                parts.append((replace(c, modules=c.modules.take(own), rho=c.rho_of(own)), len(own)))
            first += count
        return replace(self, correction=self.correction.take(which), parts=tuple(parts))


@dataclass(frozen=True)
class Controlling(Joint[ControlledState]):
    """The iteration of a batch."""

    control: Control
    tol: float
    counts = True

    @property
    def ends(self) -> bool:
        """Whether there is a test."""
        return self.tol > 0

    def step(self, s: ControlledState, k: Any) -> ControlledState:
        """Asks and judges."""
        return self.control.step(s, k)

    def done(self, s: ControlledState) -> Tensor:
        """By the relative change."""
        return s.move <= self.tol**2 * sum_of_squares(s.x)

    def take(self, which: Tensor) -> "Controlling":
        """Of these images."""
        return replace(self, control=self.control.take(which))

    def joined(self, others: Sequence["Controlling"], counts: Sequence[int]) -> "Controlling | None":
        """With those of the same test and rule; modules stay with their images."""
        every = [self, *others]
        control = Gathered.of([d.control for d in every], counts) if same([d.tol for d in every]) else None
        return None if control is None else replace(self, control=control)


def point_of(p: Point) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fields of a point."""
    return p.x, p.residual, p.fit, p.penalty


class ErrorControlled(nn.Module):
    """min F(x) = |A x - y|^2 / 2 + r(x) with modules in the way that may be anything.

    Args:
        fidelity: f, or A of it: an operator from images [B, C, H, W]. With a closed form (see LeastSquares.prox) A_f
            costs two transforms.
        prior: r, a term with a proximal map.
        modules: A_g: a callable x -> x like x, or one for each iteration; see modules.asking.Modules. None: x itself.
            It is asked without gradients, with a copy.
        strengths: of modules that are told how strong to be, for each iteration; the last for all that follow.
        rho: of A_f, > 0: a number, or for each iteration a number or one of each image [B]; None: the module sees x.
        rule: "descent", as above; "paper", by the error alone, where F may rise; "monotone", by F alone: u~ is taken
            wherever F(u~) <= F(x). F falls, and limits are stationary, by "descent" and by "monotone".
        mu: of the text above, > 0; None: 1 / s. The smaller, the more of u is in u~, and the closer the test.
        error: C / mu, in (0, 0.5).
        step: s in (0, 1 / |A|^2); None: 0.99 / |A|^2.
        norm: a bound of |A| where one is known; None: it is found out.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    def __init__(
        self, fidelity: LeastSquares | LinearOperator, prior: Term, modules: Any = None, *,
        strengths: Sequence[float] | None = None, rho: Rho = None, rule: str = "descent", mu: float | None = None,
        error: float = 0.45, step: float | None = None, norm: float | None = None,
    ):  # fmt: skip
        super().__init__()
        op = type(self).__name__
        self.fidelity = fidelity_of(fidelity, op)
        self.prior = prior_of(prior, op)
        self.modules_given = Modules(itself if modules is None else modules, strengths, op)
        self.networks = nn.ModuleList(self.modules_given.networks())
        self.rho, self.rule = rho_of(rho, op), choice(rule, RULES, op, "rule")
        self.mu = None if mu is None else float(number(mu, op, "mu", above=0))
        self.error = float(number(error, op, "error", above=0, below=0.5))
        self.given_step = None if step is None else float(number(step, op, "step", above=0))
        self.norm = None if norm is None else float(number(norm, op, "norm", above=0))
        self.control: Control | None = None  # of the batch at hand

    def objective(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """F(x) [B] in float64."""
        return self.fidelity.value(x, y) + self.prior.value(x)

    @torch.no_grad()
    @alone
    def forward(
        self, y: Tensor, x0: Tensor | None = None, iterations: int = 30, tol: float = 1e-4, *, history: bool = False,
        callback: Callback | None = None,
    ) -> tuple[Tensor, ControlledReport]:  # fmt: skip
        """Runs the iteration.

        Args:
            y: measurements [B, ...].
            x0: start [B, C, H, W]; None takes the adjoint of A at y.
            iterations: at most this many, >= 0.
            tol: >= 0: an image is done, and leaves the batch, once |x - x_k| <= tol |x|. 0: never.
            history: whether to record every iteration.
            callback: called after every iteration with its number 1, 2, ... and the state.

        Returns:
            x [B, C, H, W], without gradients, and the report.

        Raises:
            ValueError: an argument does not fit, the step is not below 1 / |A|^2, or a module was made for images on
                another range.
        """
        op = type(self).__name__
        iterations, tol = integer(iterations, op, "iterations", least=0), number(tol, op, "tol", least=0)
        history = flag(history, op, "history")
        operator = self.fidelity.operator
        x = starting_images(op, operator, y, x0)
        self.modules_given.check_range(x)
        step = safe_step(op, operator, x, self.given_step, self.norm)
        correction = Correction(replaced(self.fidelity, y), self.prior, step, self.mu, self.error)
        control = Control(correction, self.modules_given, self.rho, self.rule, [])
        solver = with_parts(self, control=control)
        found = iterate_jointly(
            Controlling(control, tol), ControlledState.start(correction.point(x)), iterations, callback=callback,
            row=_row if history else None,
        )  # fmt: skip
        return found.state.x, solver.certificate(found)

    def certificate(self, found: Run[ControlledState]) -> ControlledReport:
        """What the report says, objective and stationarity made anew at x."""
        assert self.control is not None
        s, c = found.state, self.control.correction
        p = c.point(s.x)
        move = c.move(p)
        finite = torch.isfinite(p.objective + move)
        return ControlledReport(
            objective=p.objective, error=s.error, error_bound=s.bound, step_norm=move,
            relative_step=relative(move, s.x), accepted=s.accepted, units=found.count,
            rejected=found.count - s.accepted, failed=s.failed, iterations=found.count, converged=found.done & finite,
            status=Status("iteration limit", found.done, finite), history=found.history,
            reasons=tuple(self.control.reasons),
        )  # fmt: skip

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """Looks at measurements; their shape and device are the operator's to judge.

        Raises:
            ValueError: they are not numeric, or hold NaN or Inf.
        """
        check_measurements(y, type(self).__name__)

    def compute(self, y: Tensor, **options: Any) -> tuple[Tensor, ControlledReport]:
        """As `forward`, for measurements that passed `check`."""
        return self(y, **options)

    def capturable(self, tol: float = 1e-4, **options: Any) -> bool:
        """Whether the host is asked nothing, unless by a module."""
        return tol == 0


def itself(x: Tensor) -> Tensor:
    """x."""
    return x


def fidelity_of(given: LeastSquares | LinearOperator, op: str) -> LeastSquares:
    """f of an argument that may be its operator alone."""
    fits = isinstance(given, LeastSquares | LinearOperator)
    expect(fits, op, "fidelity", "a LeastSquares or its LinearOperator", type(given).__name__)
    return given if isinstance(given, LeastSquares) else LeastSquares(given)


def prior_of(given: Term, op: str) -> Term:
    """r, if it has a proximal map."""
    expect(isinstance(given, Term) and given.proximable, op, "prior", "a term with a proximal map", given)
    return given


def rho_of(given: Rho, op: str) -> tuple[float | Tensor, ...] | None:
    """rho of every iteration; the values of tensors are not looked at."""
    if given is None:
        return None
    several = list(given) if isinstance(given, list | tuple) else [given]
    expect(len(several) > 0, op, "rho", "numbers > 0, or None", given)
    return tuple(r if isinstance(r, Tensor) else float(number(r, op, "rho", above=0)) for r in several)


def replaced(fidelity: LeastSquares, y: Tensor) -> LeastSquares:
    """f of other measurements."""
    return LeastSquares(fidelity.operator, y, fidelity.tol, fidelity.iterations)


def _row(s: ControlledState) -> dict[str, Tensor]:
    return {
        "objective": s.objective, "error": s.error, "error_bound": s.bound, "accepted": s.accepted, "failed": s.failed
    }  # fmt: skip
