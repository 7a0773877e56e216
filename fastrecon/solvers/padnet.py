"""Proximal alternating direction networks: units that know nothing of the problem, inside a method that checks them.

u+    = argmin_u f(u) + mu / 2 |u - x|^2 + rho / 2 |u - (v - dual)|^2
v+    : from u+ + dual, v <- v - rho^(-1/2) G(v), one unit G after the other
x+    = prox_{s r}(v+ - s grad f_x(v+)),  grad f_x(v) = grad f(v) + mu (v - x)
dual+ = dual + u+ - v+,  rho+ = growth rho

e = (mu - 1/s) (x+ - v+) - grad f(v+) + grad f(x+) is a subgradient of f + mu |. - x|^2 / 2 + r at x+, for any v+. The
paper takes x+ where |e| <= C |x+ - x|, or after the last unit whatever it is; that makes x+ nearly stationary, which
for nonconvex r is no descent. Here x+ must decrease F = f + r by (mu / 4 - C^2 / mu) |x+ - x|^2 as well. In place of
the bound F(x+) <= F(p) will do, p a proximal gradient step from x: units that go far never meet the bound, but may well
end lower than that step. Where no unit leads to such a point, nor half, a quarter or an eighth of the way to the last
one's, p takes its place, and always decreases F by (1 / (2 s) - L / 2) |p - x|^2. So F converges and |x+ - x| -> 0
whatever the units do; |e| or |p - x| -> 0 with it, and every limit is stationary.

Source: Liu, Fan, Cheng, Wang & Luo, Proximal Alternating Direction Network: A Globally Converged Deep Unrolling
Framework, AAAI 2018 (arXiv:1711.07653).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.certificates import CorrectedReport, MisfitReport, Status
from fastrecon.checks import choice, expect, flag, integer, number
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.layout import real_dtype
from fastrecon.ops.reductions import sum_of_squares
from fastrecon.solvers.base import Callback, Run, column, where, with_parts
from fastrecon.solvers.correction import Correction, each, relative, safe_step, starting_images
from fastrecon.solvers.joint import Joint, iterate_jointly, same
from fastrecon.terms.base import Term
from fastrecon.terms.least_squares import LeastSquares
from fastrecon.threads import alone

Unit = Callable[[Tensor], Tensor]  # G: a step for images [B, C, H, W], like them
RULES = ("descent", "paper")
SHARES = (0.5, 0.25, 0.125)  # of the way to a proposal that was refused
HIGHEST = 1e15  # rho grows no further: what units add is below float32's rounding by then


@dataclass(frozen=True)
class PadState:
    """Where the iteration stands, per image."""

    x: Tensor  # [B, C, H, W]
    v: Tensor
    dual: Tensor
    rho: Tensor  # [B] float64
    objective: Tensor  # [B] F(x), float64; of the implicit variant f(x)
    move: Tensor  # [B] |x - x_k|^2 of the last iteration
    error: Tensor  # [B] |e|
    bound: Tensor  # [B] C |x - x_k|
    units: Tensor  # [B] asked so far, int64
    accepted: Tensor  # [B] iterations whose proposal was taken, int64


class Units:
    """The units of every iteration: unit(k, t), t = 0, 1, ...; None after the last of an iteration.

    Args:
        given: G, the same everywhere; or a list of them for every iteration; or a list of such lists, one an iteration.
            The last list serves for all iterations that follow. One with data of its own for each image has a method
            take(which), itself for the images `which` of the batch.
        most: units asked in an iteration.
        clip: R: outputs longer than R, a norm over the image, are shortened to it; None: as they are.
    """

    def __init__(self, given: Any, most: int, clip: float | None):
        self.given, self.most = given, most
        self.clip = None if clip is None else float(number(clip, "PADNet", "clip", above=0))
        rows: list[Any] | None = list(given) if isinstance(given, Sequence | nn.ModuleList) else None
        several = bool(rows) and all(isinstance(r, Sequence | nn.ModuleList) for r in rows or [])
        self.rows: list[list[Unit]] | None = None if rows is None else [list(r) for r in rows] if several else [rows]
        everyone = [given] if self.rows is None else [u for row in self.rows for u in row]
        fits = len(everyone) > 0 and all(callable(u) for u in everyone) and all(self.rows or [[1]])
        expect(fits, "PADNet", "units", "a function of images, a list of them, or a list of lists", given)

    def unit(self, k: int, t: int) -> Unit | None:
        """The unit t of iteration k."""
        if t >= self.most:
            return None
        if self.rows is None:
            return self.given
        row = self.rows[min(k, len(self.rows) - 1)]
        return row[t] if t < len(row) else None

    def take(self, which: Tensor) -> "Units":
        """Those for the images `which` of the batch: units with a `take` of their own are asked for it."""

        def one(u: Any) -> Unit:
            return u.take(which) if hasattr(u, "take") else u

        given = one(self.given) if self.rows is None else [[one(u) for u in row] for row in self.rows]
        return Units(given, self.most, self.clip)

    @property
    def joins(self) -> bool:
        """Whether all say that an image has its bits in any batch."""
        everyone = [self.given] if self.rows is None else [u for row in self.rows for u in row]
        return all(getattr(u, "joins", False) is True for u in everyone)

    def asked(self, v: Tensor, alpha: Tensor, k: Any, t: int) -> tuple[Tensor, Tensor] | None:
        """v less alpha times what unit t of iteration k says of it, and which images [B] had one; None: none has."""
        unit = self.unit(k, t)
        if unit is None:
            return None
        return v - alpha * self.applied(unit, v), torch.ones(len(v), dtype=torch.bool, device=v.device)

    def applied(self, unit: Unit, v: Tensor) -> Tensor:
        """unit(v), clipped."""
        g = unit(v)
        fits = isinstance(g, Tensor) and g.shape == v.shape and g.dtype == v.dtype
        expect(fits, "PADNet", "units", f"outputs like {tuple(v.shape)} {v.dtype}", g)
        if self.clip is None:
            return g
        return g * column((self.clip / sum_of_squares(g).sqrt()).clamp_max(1), g)


class Gathered:
    """The units of several batches at work on their images: as of `Units`, each iteration k [B] of its own.

    Args:
        parts: of each batch, and how many images it has.
    """

    def __init__(self, parts: Sequence[tuple[Units, int]]):
        self.parts = [part for part in parts if part[1] > 0]

    def take(self, which: Tensor) -> "Gathered":
        """Those for the images `which`, which keep their order."""
        found, begin = [], 0
        for units, count in self.parts:
            own = which[(which >= begin) & (which < begin + count)] - begin
            found.append((units if len(own) == count else units.take(own), len(own)))
            begin += count
        return Gathered(found)

    def asked(self, v: Tensor, alpha: Tensor, k: Any, t: int) -> tuple[Tensor, Tensor] | None:
        """As of Units."""
        numbers = k.tolist() if isinstance(k, Tensor) else [k] * len(v)
        found, seen, begin = [], [], 0
        for units, count in self.parts:
            images, each = slice(begin, begin + count), sorted({*numbers[begin : begin + count]})
            assert len(each) == 1  # those of a batch came together
            told = units.asked(v[images], alpha[images], each[0], t)
            nothing = torch.zeros(count, dtype=torch.bool, device=v.device)
            found.append(v[images] if told is None else told[0])
            seen.append(nothing if told is None else told[1])
            begin += count
        had = torch.cat(seen)
        return (torch.cat(found), had) if bool(had.any()) else None


class PADNet(nn.Module):
    """min F(x) = |A x - y|^2 / 2 + r(x) with units in the way (explicit); without r a plug-and-play ADMM (implicit).

    Of the implicit variant x+ is v+: nothing is minimised, and nothing certified but the misfit.

    Args:
        operator: A, from images [B, C, H, W]; with a closed form (see LeastSquares.prox) an iteration costs two
            transforms and two gradients.
        prior: r, a term with a proximal map; None: implicit.
        units: see Units; each is called with images like x, real or complex as they are, and its outputs are taken
            without gradients.
        rule: "descent", as above; or "paper": the error condition alone, and the last unit's point where none meets it.
        mu: of the text above, > 0; None: 1 / s, which makes e = grad f(x+) - grad f(v+).
        error: C / mu, in (0, 0.5).
        rho, growth: the first rho, > 0, and its growth, >= 1.
        most: units asked in an iteration, at most.
        clip: see Units: with it the paper's Condition 2 holds for all units.
        step: s in (0, 1 / |A|^2); None: 0.99 / |A|^2.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    def __init__(
        self, operator: LinearOperator, prior: Term | None, units: Any, *, rule: str = "descent",
        mu: float | None = None, error: float = 0.45, rho: float = 1.0, growth: float = 1.5, most: int = 5,
        clip: float | None = None, step: float | None = None,
    ):  # fmt: skip
        super().__init__()
        op = "PADNet"
        expect(isinstance(operator, LinearOperator), op, "operator", "a LinearOperator", type(operator).__name__)
        fits = prior is None or (isinstance(prior, Term) and prior.proximable)
        expect(fits, op, "prior", "a term with a proximal map, or None", prior)
        self.fidelity, self.prior = LeastSquares(operator), prior
        self.rule = choice(rule, RULES, op, "rule")
        self.mu = None if mu is None else float(number(mu, op, "mu", above=0))
        self.error = float(number(error, op, "error", above=0, below=0.5))
        self.rho = number(rho, op, "rho", above=0)
        self.growth: float | Tensor = number(growth, op, "growth", least=1)
        self.units: Units | Gathered = Units(units, integer(most, op, "most", least=1), clip)
        self.modules_of_units = nn.ModuleList(u for u in self._everyone() if isinstance(u, nn.Module))
        self.given_step = None if step is None else float(number(step, op, "step", above=0))
        self.correction = Correction(self.fidelity, prior, 1.0, self.mu, self.error)  # of the batch at hand

    def _everyone(self) -> list[Unit]:
        assert isinstance(self.units, Units)
        rows = self.units.rows
        return [self.units.given] if rows is None else [u for row in rows for u in row]

    def started(self, x: Tensor) -> PadState:
        """The state before the first iteration."""
        objective = self.objective(x)
        none, count = torch.zeros_like(objective), torch.zeros_like(objective, dtype=torch.int64)
        return PadState(
            x, x, torch.zeros_like(x), none + self.rho, objective, none + float("inf"), none, none, count, count
        )

    def objective(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """F(x) [B] in float64; of the implicit variant f(x)."""
        value = self.fidelity.value(x, y)
        return value if self.prior is None else value + self.prior.value(x)

    def fallback(self, s: PadState) -> tuple[Tensor, Tensor | None]:
        """A proximal gradient step from x, and F there; x itself where rounding leaves no decrease. By the paper's rule
        there is none: x, and None.
        """
        if self.rule != "descent":
            return s.x, None
        c = self.correction
        new = c.point(c.descended(s.x, self.fidelity.grad(s.x)))
        lower = new.objective <= s.objective
        return where(lower, new.x, s.x), torch.where(lower, new.objective, s.objective)

    def pulled(self, s: PadState) -> tuple[Tensor, Tensor]:
        """u of the next iteration, and what its units' outputs are multiplied by."""
        mu, rho = self.correction.mu, s.rho
        pull = (each(mu, s.x) * s.x + column(rho, s.x) * (s.v - s.dual)) / column(mu + rho, s.x)
        u = self.fidelity.prox(pull, (1 / (mu + rho)).to(real_dtype(s.x)))
        return u, column(rho.rsqrt(), u)

    def grown(self, rho: Tensor) -> Tensor:
        """rho of the next iteration."""
        return (rho * self.growth).clamp_max(HIGHEST)

    def judged(
        self, s: PadState, u: Tensor, v: Tensor, least: Tensor | None, share: float = 1.0
    ) -> tuple[PadState, Tensor]:
        """Where a share of the way to v leads, and for which images [B] that is accepted."""
        found = self.correction.candidate(s.x, v if share == 1 else s.x + share * (v - s.x))
        good = self.correction.accepted(found, s.objective, self.rule, least)
        return PadState(
            found.x, v, s.dual + u - v, s.rho, found.objective, found.square, found.error, found.bound, s.units,
            s.accepted + 1,
        ), good  # fmt: skip

    def step(self, s: PadState, k: Any) -> PadState:
        """Iteration k = 0, 1, ..., or of each image its own, int64 [B]."""
        rho = s.rho
        u, alpha = self.pulled(s)
        v = u + s.dual
        if self.prior is None:
            return self._implicit(s, u, v, alpha, k)
        taken, t = torch.zeros_like(rho, dtype=torch.bool), 0
        x, least = self.fallback(s)
        best: Any = None
        asked = torch.zeros_like(s.units)
        while not bool(taken.all()) and (answer := self.units.asked(v, alpha, k, t)) is not None:
            v, had = answer
            asked, t = asked + (had & ~taken), t + 1
            one, good = self.judged(s, u, v, least)
            best = one if best is None else where(taken | ~had, best, one)
            taken = taken | (good & had)
        assert best is not None  # there is one unit at least in every iteration
        for share in SHARES if least is not None else ():
            if bool(taken.all()):
                break
            one, good = self.judged(s, u, v, least, share)
            best, taken = where(taken, best, one), taken | good
        if least is not None and not bool(taken.all()):
            nothing = torch.zeros_like(s.error)
            # the path of the units is left: u = v = x without a multiplier
            state = PadState(
                x, x, torch.zeros_like(x), rho, least, sum_of_squares(x - s.x), nothing, nothing, s.units,
                s.accepted,
            )  # fmt: skip
            best = where(taken, best, state)
        return PadState(**{**vars(best), "units": s.units + asked, "rho": self.grown(rho)})

    def _implicit(self, s: PadState, u: Tensor, v: Tensor, alpha: Tensor, k: Any) -> PadState:
        units, t = s.units, 0
        while (answer := self.units.asked(v, alpha, k, t)) is not None:
            v, had = answer
            units, t = units + had, t + 1
        nothing, move = torch.zeros_like(s.error), sum_of_squares(v - s.x)
        return PadState(
            v, v, s.dual + u - v, self.grown(s.rho), self.objective(v), move, nothing, nothing, units, s.accepted + 1
        )

    @torch.no_grad()
    @alone
    def forward(
        self, y: Tensor, x0: Tensor | None = None, iterations: int = 30, tol: float = 1e-3, *, history: bool = False,
        callback: Callback | None = None,
    ) -> tuple[Tensor, CorrectedReport | MisfitReport]:  # fmt: skip
        """Runs the iteration.

        Args:
            y: measurements [B, ...].
            x0: start [B, C, H, W]; None takes the adjoint of A at y.
            iterations: at most this many, >= 0.
            tol: >= 0: an image is done, and leaves the batch, once |x - x_k| <= tol |x|. 0: never.
            history: whether to record every iteration.
            callback: called after every iteration with its number 1, 2, ... and the state.

        Returns:
            x [B, C, H, W], without gradients, and the report: CorrectedReport, of the implicit variant MisfitReport.

        Raises:
            ValueError: an argument does not fit, or the step is not below 1 / |A|^2.
        """
        op = "PADNet"
        iterations, tol = integer(iterations, op, "iterations", least=0), number(tol, op, "tol", least=0)
        history = flag(history, op, "history")
        operator = self.fidelity.operator
        x = starting_images(op, operator, y, x0)
        solver = self.of(LeastSquares(operator, y), safe_step(op, operator, x, self.given_step))
        first = solver.started(x)
        found = iterate_jointly(
            Proposing(solver, tol), first, iterations, callback=callback, row=_row if history else None
        )
        return found.state.x, solver.certificate(found, y)

    def of(self, fidelity: LeastSquares, step: float) -> "PADNet":
        """The same for the measurements of `fidelity`, with step s."""
        correction = Correction(fidelity, self.prior, step, self.mu, self.error)
        return with_parts(self, fidelity=fidelity, correction=correction)

    def take(self, which: Tensor) -> "PADNet":
        """For the images `which` of the batch."""
        growth = self.growth[which] if isinstance(self.growth, Tensor) else self.growth
        return self._with(self.correction.take(which), self.units.take(which), growth)

    def joined(self, others: Sequence["PADNet"], counts: Sequence[int]) -> "PADNet | None":
        """Of the images of this batch and of `others` behind it, so many each; None: they are of another kind."""
        every, parts = [self, *others], []
        if not same([(n.rule, n.error) for n in every]):
            return None
        for net, count in zip(every, counts, strict=True):
            if isinstance(net.units, Units) and not net.units.joins:
                return None
            parts += net.units.parts if isinstance(net.units, Gathered) else [(net.units, count)]
        correction = Correction.joined([n.correction for n in every], counts)
        if correction is None:
            return None
        growth = [
            n.growth if isinstance(n.growth, Tensor) else torch.full((c,), n.growth, dtype=torch.float64)
            for n, c in zip(every, counts, strict=True)
        ]
        return self._with(correction, Gathered(parts), torch.cat([g.to(growth[0].device) for g in growth]))

    def _with(self, correction: Correction, units: Units | Gathered, growth: float | Tensor) -> "PADNet":
        fidelity, prior = correction.fidelity, correction.prior
        return with_parts(self, fidelity=fidelity, prior=prior, correction=correction, units=units, growth=growth)

    def certificate(self, found: Run[PadState], y: Tensor) -> CorrectedReport | MisfitReport:
        """What the report says, objective and stationarity made anew at x."""
        s = found.state
        if self.prior is None:
            misfit, size = (sum_of_squares(t).sqrt() for t in (self.fidelity.residual(s.x), y))
            finite = torch.isfinite(misfit)
            text = "units minimise no objective: the end of their iterations"
            return MisfitReport(misfit, misfit / size, torch.zeros_like(finite), Status(text, ~finite & finite, finite))
        p = self.correction.point(s.x)
        move = self.correction.move(p)
        finite = torch.isfinite(p.objective + move)
        return CorrectedReport(
            objective=p.objective, error=s.error, error_bound=s.bound, step_norm=move,
            relative_step=relative(move, s.x), accepted=s.accepted, units=s.units,
            iterations=found.count, converged=found.done & finite,
            status=Status("iteration limit", found.done, finite), history=found.history,
        )  # fmt: skip


@dataclass(frozen=True)
class Proposing(Joint[PadState]):
    """The iteration of a batch."""

    net: PADNet
    tol: float
    counts = True

    @property
    def ends(self) -> bool:
        """Whether there is a test."""
        return self.tol > 0

    def step(self, s: PadState, k: Any) -> PadState:
        """Of the network."""
        return self.net.step(s, k)

    def done(self, s: PadState) -> Tensor:
        """By the relative change."""
        return s.move <= self.tol**2 * sum_of_squares(s.x)

    def take(self, which: Tensor) -> "Proposing":
        """Of these images."""
        return replace(self, net=self.net.take(which))

    def joined(self, others: Sequence["Proposing"], counts: Sequence[int]) -> "Proposing | None":
        """With those of the same test and rule; units stay with their images."""
        every = [self, *others]
        net = self.net.joined([d.net for d in others], counts) if same([d.tol for d in every]) else None
        return None if net is None else replace(self, net=net)


def _row(s: PadState) -> dict[str, Tensor]:
    return {
        "objective": s.objective, "error": s.error, "error_bound": s.bound, "units": s.units, "accepted": s.accepted
    }  # fmt: skip
