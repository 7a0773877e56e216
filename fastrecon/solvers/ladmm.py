"""Linearised ADMM for min lam |Z|_1 + |E|_1 subject to X = A Z + B E, and the certificate of its iterates.

Z+    = soft(Z - A^T (dual + beta (A Z + B E - X)) / L1, lam / L1)
E+    = soft(E - B^T (dual + beta (A Z+ + B E - X)) / L2, 1 / L2)
dual+ = dual + beta (A Z+ + B E+ - X)
converges for L1 > beta |A|^2, L2 > beta |B|^2; for B = I also with the exact step in E, L2 = beta.

Source: Lin, Liu & Su, Linearized Alternating Direction Method with Adaptive Penalty, NIPS 2011; Xie, Wu, Zhong, Liu &
Lin, Differentiable Linearized ADMM (arXiv:1905.06179), eq. (3).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastrecon.certificates import ITERATION_LIMIT, SplittingReport, Status
from fastrecon.checks import expect, flag, integer, kind, number
from fastrecon.operators.dictionary import Dictionary
from fastrecon.ops.block_product import row_product
from fastrecon.ops.function import transformed
from fastrecon.ops.ladmm_step import ladmm_iterations_, ladmm_shrink, ladmm_step
from fastrecon.solvers.base import Callback, Row, iterate
from fastrecon.solvers.joint import Joint, iterate_jointly, same
from fastrecon.solvers.meeting import here
from fastrecon.threads import alone

E_UPDATES = ("general", "residual")
MARGIN = 1.01  # L1 / (beta |A|^2) and L2 / (beta |B|^2)
CURVES = ("objective", "primal_residual", "gap")  # of the certificate, what the history keeps


@dataclass(frozen=True)
class Splitting:
    """Where the iteration stands, one sample a row: z [N, d], e [N, p], dual, A z and B e [N, m]."""

    z: Tensor
    e: Tensor
    dual: Tensor
    az: Tensor
    be: Tensor


@dataclass(frozen=True)
class Certified(Splitting):
    """The same with what `SplitProblem.values` says about it, [N] float64 each."""

    objective: Tensor
    primal_residual: Tensor
    gap: Tensor
    feasible: Tensor

    def done(self, tol: float) -> Tensor:
        """Whether the gap is at most tol max(1, objective of the feasible point), or will never be known, [N] bool."""
        return ~(self.gap > tol * self.feasible.clamp_min(1))  # a NaN does not come back


def distance(a: Splitting, b: Splitting) -> Tensor:
    """|(z, e, dual) - (z, e, dual)'| of every sample, [N] float64."""
    parts = [getattr(a, k) - getattr(b, k) for k in ("z", "e", "dual")]
    norms = [torch.linalg.vector_norm(p, dim=1, dtype=torch.float64) for p in parts]
    return torch.stack(norms).square().sum(0).sqrt()


class Weights(NamedTuple):
    """One iteration: w1 [m, d] (A / L1), tau1 [d] (lam / L1), beta [m], w2 [m], or [m, p] for a general B (B / L2), and
    tau2 [p] (1 / L2). Vectors of one number serve for all components.
    """

    w1: Tensor
    tau1: Tensor
    beta: Tensor
    w2: Tensor
    tau2: Tensor


class Stack(NamedTuple):
    """Weights of all iterations with B = I: w1 and rows of tau1 [., 1 or d], beta, w2, tau2 [., 1 or m], of each
    iteration or one for all; w1 has to be divided by l1.
    """

    w1: list[Tensor]
    l1: float
    tau1: Tensor
    beta: Tensor
    w2: Tensor
    tau2: Tensor


def curves(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The history [rows, N] of certificates as `SplitProblem.values` gives them."""
    return {name: torch.stack([row[name] for row in rows]) for name in CURVES}


class SplitProblem(nn.Module):
    """min lam |Z|_1 + |E|_1 subject to X = A Z + B E: one iteration with given weights, and the certificate.

    Args:
        a: A, a Dictionary or a matrix [m, d].
        lam: weight of |Z|_1, > 0.
        b: B, a Dictionary or a matrix [m, p]; None: the identity.
        e_update: of B = I: "general", the linearised step, or "residual", soft(X - A Z+ - w2 dual, tau2).
    """

    def __init__(self, a: Dictionary | Tensor, lam: float, b: Dictionary | Tensor | None, e_update: str):
        super().__init__()
        name = type(self).__name__
        self.a = a if isinstance(a, Dictionary) else Dictionary(a)
        self.b = b if b is None or isinstance(b, Dictionary) else Dictionary(b)
        number(lam, name, "lam", above=0)
        expect(e_update in E_UPDATES, name, "e_update", f"one of {', '.join(E_UPDATES)}", repr(e_update))
        if self.b is not None:
            m = self.a.atoms.shape[0]
            expect(e_update == "general", name, "e_update", "general for a general B", repr(e_update))
            expect(self.b.atoms.shape[0] == m, name, "b", f"a matrix of {m} rows", self.b.atoms)
        for argument, matrix in (("a", self.a), ("b", self.b)):
            if matrix is not None:  # looked at once, here, where its norm is to be known too
                size = matrix.atoms.detach().abs().amax().item()
                expect(0 < size < torch.inf, name, argument, "a finite matrix that is not zero", matrix.atoms)
        self.lam, self.e_update = float(lam), e_update

    def checked(self, x: Tensor) -> Tensor:
        """Data x [N, m], contiguous.

        Raises:
            ValueError: x does not fit A.
        """
        m = len(self.a.atoms)
        fits = (
            isinstance(x, Tensor)
            and x.ndim == 2
            and x.shape[1] == m
            and x.dtype == self.a.atoms.dtype
            and x.device == self.a.atoms.device
        )
        expect(fits, type(self).__name__, "x", f"samples [N, {m}] {kind(self.a.atoms)}", x)
        return x.contiguous()

    def start(self, x: Tensor) -> Splitting:
        """Z = 0, E = 0, dual = 0 for data x [N, m]."""
        dual, az, be = (torch.zeros_like(self.checked(x)) for _ in range(3))
        count = x.shape[0]  # not len, which fixes the batch of a traced graph
        e = be if self.b is None else x.new_zeros(count, self.b.atoms.shape[1])
        return Splitting(x.new_zeros(count, self.a.atoms.shape[1]), e, dual, az, be)

    def argument(self, s: Splitting, x: Tensor, beta: Tensor) -> Tensor:
        """dual + beta (A Z + B E - X), what the product of the Z step takes."""
        return s.dual + beta * (s.az + s.be - x)

    def iteration(
        self, s: Splitting, x: Tensor, arg: Tensor, w: Weights, beta_next: Tensor
    ) -> tuple[Splitting, Tensor]:
        """One iteration from s and its argument; also the argument of the next one, whose penalty is beta_next."""
        z = ladmm_shrink(s.z, arg, w.w1, w.tau1)
        a = self.a.atoms
        if self.b is None:
            az, e, dual, arg = ladmm_step(z, a, x, s.e, s.dual, w.beta, w.w2, w.tau2, beta_next, self.e_update)
            return Splitting(z, e, dual, az, e), arg
        unused = w.beta
        az, _, half, _ = ladmm_step(z, a, x, s.be, s.dual, w.beta, unused, unused, beta_next, "given")
        e = ladmm_shrink(s.e, half, w.w2, w.tau2)
        be, _, dual, arg = ladmm_step(e, self.b.atoms, x, az, s.dual, w.beta, unused, unused, beta_next, "given")
        return Splitting(z, e, dual, az, be), arg

    def chain(self, x: Tensor, weights: Sequence[Weights], s: Splitting | None = None) -> Iterator[Splitting]:
        """The state after each of the iterations with these weights, from s or from zero."""
        s = self.start(x) if s is None else s
        arg = self.argument(s, x, weights[0].beta)
        for k, w in enumerate(weights):
            s, arg = self.iteration(s, x, arg, w, weights[min(k + 1, len(weights) - 1)].beta)
            yield s

    def sequence(self, iterations: int) -> Sequence[Weights]:
        """The weights of so many iterations."""
        raise NotImplementedError

    def stack(self) -> Stack:
        """The same for B = I, stacked."""
        raise NotImplementedError

    @torch.no_grad()
    def advance(self, s: Splitting, x: Tensor, iterations: int) -> Splitting:
        """The state so many iterations after s."""
        if self.b is not None or transformed():
            return deque(self.chain(x, self.sequence(iterations), s), maxlen=1).pop()
        own = Splitting(s.z.clone(), s.e.clone(), s.dual.clone(), s.az.clone(), s.be)
        return self._advance_(own, x, iterations)

    def _advance_(self, s: Splitting, x: Tensor, iterations: int) -> Splitting:
        """The same for B = I, in the memory of s."""
        w = self.stack()
        ladmm_iterations_(
            x.contiguous(), self.a.atoms, s.z, s.e, s.dual, s.az, w.w1, w.l1, w.tau1, w.beta, w.w2, w.tau2, iterations,
            self.e_update,
        )  # fmt: skip
        return Splitting(s.z, s.e, s.dual, s.az, s.e)

    @torch.no_grad()
    def run(self, x: Tensor, iterations: int) -> Splitting:
        """The state so many iterations after zero, for x [N, m]."""
        one_by_one, s = self.b is not None or transformed(), self.start(x)
        return self.advance(s, x, iterations) if one_by_one else self._advance_(s, x, iterations)

    def recorded(self, x: Tensor, weights: Sequence[Weights]) -> tuple[Splitting, dict[str, Tensor]]:
        """The last state of `chain`, and the history: the certificate after every iteration."""
        s, rows = self.start(x), []
        for after in self.chain(x, weights, s):
            s = after
            rows.append(self.values(s, x))
        return s, curves(rows)

    @torch.no_grad()
    def values(self, s: Splitting, x: Tensor) -> dict[str, Tensor]:
        """objective, primal_residual, gap, and the objective `feasible` at the feasible point, [N] float64 each.

        dual / max(1, |B^T dual|_inf, |A^T dual|_inf / lam) is dual feasible; (z, e + B^+ (x - A z - B e)) is primal
        feasible where B has a right inverse B^+; for B = I that is (z, x - A z). The gap is never negative.
        """
        a, z, e, dual, data = (t.double() for t in (self.a.atoms, s.z, s.e, s.dual, x))
        rest = data - row_product(z, a.T)
        if self.b is None:
            residual, scale, feasible = rest - e, dual.abs().amax(1), rest
            known = torch.ones_like(scale, dtype=torch.bool)
        else:
            b = self.b.atoms.double()
            residual, scale = rest - row_product(e, b.T), row_product(dual, b).abs().amax(1)
            feasible = e + row_product(residual, torch.linalg.pinv(b).T)
            left = torch.linalg.vector_norm(rest - row_product(feasible, b.T), dim=1)
            known = left <= 1e-9 * torch.linalg.vector_norm(data, dim=1)
        scale = torch.maximum(scale, row_product(dual, a).abs().amax(1) / self.lam).clamp_min(1)
        norm = self.lam * z.abs().sum(1)
        primal = norm + feasible.abs().sum(1)
        gap = (primal + (dual * data).sum(1) / scale).clamp_min(0)  # only rounding is below 0
        return {
            "objective": norm + e.abs().sum(1),
            "primal_residual": torch.linalg.vector_norm(residual, dim=1),
            "gap": torch.where(known, gap, torch.inf),
            "feasible": primal,
        }

    def report(
        self, s: Splitting, x: Tensor, iterations: int | Tensor, accepted: int | Tensor, tol: float, unfinished: str,
        history: dict[str, Tensor] | None = None,
    ) -> SplittingReport:  # fmt: skip
        """The certificate of s; `unfinished` says why samples stopped that have not converged."""
        found = self.values(s, x)
        converged = found["gap"] <= tol * found["feasible"].clamp_min(1)
        taken, count = (
            c if isinstance(c, Tensor) else torch.full((len(x),), c, device=x.device) for c in (accepted, iterations)
        )
        finite = torch.isfinite(found["objective"] + found["primal_residual"]) & ~found["gap"].isnan()
        converged &= finite
        return SplittingReport(
            found["objective"], found["primal_residual"], found["gap"], taken, count, converged,
            Status(unfinished, converged, finite), history,
        )  # fmt: skip


class LADMM(SplitProblem):
    """Linearised ADMM.

    Args:
        a, lam, b, e_update: of the problem, see SplitProblem.
        beta: penalty, > 0.
        l1: at least beta |A|^2; default 1.01 times that.
        l2: at least beta |B|^2; default 1.01 times that, and beta for the residual update.

    Raises:
        ValueError: an argument is out of range: l1 or l2 is too small to converge.
    """

    w1: Tensor
    tau1: Tensor
    beta: Tensor
    w2: Tensor
    tau2: Tensor

    def __init__(
        self, a: Dictionary | Tensor, lam: float = 0.45, b: Dictionary | Tensor | None = None, *, beta: float = 1.0,
        l1: float | None = None, l2: float | None = None, e_update: str = "general",
    ):  # fmt: skip
        super().__init__(a, lam, b, e_update)
        for argument, value in (("beta", beta), ("l1", l1), ("l2", l2)):
            if value is not None or argument == "beta":
                number(value, "LADMM", argument, above=0)
        least1, least2 = beta * self.a.norm() ** 2, beta * (1.0 if self.b is None else self.b.norm() ** 2)
        l1 = MARGIN * least1 if l1 is None else l1
        l2 = (least2 if e_update == "residual" else MARGIN * least2) if l2 is None else l2
        expect(l1 >= least1, "LADMM", "l1", f"at least beta |A|^2 = {least1:.6g}", l1)
        expect(l2 >= least2, "LADMM", "l2", f"at least beta |B|^2 = {least2:.6g}", l2)
        exact = e_update == "general" or l2 == least2
        expect(exact, "LADMM", "l2", f"beta = {beta:g} for the residual update, which is an exact step", l2)
        self.l1, self.l2 = float(l1), float(l2)
        atoms = self.a.atoms.detach()
        second = atoms.new_full((len(atoms),), 1 / l2) if self.b is None else self.b.atoms.detach() / l2
        vectors = {"tau1": lam / l1, "beta": beta, "tau2": 1 / l2}
        constants = {"w1": atoms / l1, "w2": second} | {k: atoms.new_full((1,), v) for k, v in vectors.items()}
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    @property
    def weights(self) -> Weights:
        """Those of every iteration."""
        return Weights(self.w1, self.tau1, self.beta, self.w2, self.tau2)

    def sequence(self, iterations: int) -> Sequence[Weights]:
        """The weights of so many iterations: always the same."""
        return [self.weights] * iterations

    def stack(self) -> Stack:
        """The weights of every iteration."""
        return Stack([self.w1], 1.0, self.tau1[None], self.beta[None], self.w2[None], self.tau2[None])

    def step(self, s: Splitting, x: Tensor) -> Splitting:
        """One iteration."""
        return self.iteration(s, x, self.argument(s, x, self.beta), self.weights, self.beta)[0]

    @torch.no_grad()
    @alone
    def forward(
        self, x: Tensor, iterations: int = 150, tol: float = 1e-4, history: bool = False
    ) -> tuple[Splitting, SplittingReport]:
        """A fixed number of iterations from zero for x [N, m]; the report says whether gap <= tol max(1, objective)."""
        iterations, tol = integer(iterations, "LADMM", "iterations", least=1), number(tol, "LADMM", "tol", above=0)
        flag(history, "LADMM", "history")
        s, rows = self.recorded(x, self.sequence(iterations)) if history else (self.run(x, iterations), None)
        return s, self.report(s, x, iterations, 0, tol, f"{iterations} iterations only", rows)

    def certified(self, s: Splitting, x: Tensor) -> Certified:
        """A state with its certificate."""
        return Certified(s.z, s.e, s.dual, s.az, s.be, **self.values(s, x))

    @torch.no_grad()
    @alone
    def solve(
        self, x: Tensor, s: Splitting | None = None, iterations: int = 20_000, tol: float = 1e-4, *,
        check_every: int = 10, history: bool = False, callback: Callback | None = None,
    ) -> tuple[Splitting, SplittingReport]:  # fmt: skip
        """Iterates each sample until its duality gap is at most tol max(1, objective).

        Args:
            x: data [N, m].
            s: where to start; default zero.
            iterations: >= 0: at most this many.
            tol: > 0.
            check_every: iterations between two looks at the gap.
            history: whether to record the certificate of every look in the report; row 0: the start.
            callback: called at every look with the number of iterations and the state, `Certified`.

        Raises:
            ValueError: x does not fit, or a number is out of range.
        """
        tol, iterations = (
            number(tol, "LADMM", "tol", above=0),
            integer(iterations, "LADMM", "iterations", least=0),
        )
        check_every = integer(check_every, "LADMM", "check_every", least=1)
        flag(history, "LADMM", "history")
        expect(callback is None or callable(callback), "LADMM", "callback", "a function or None", callback)
        x = self.checked(x)

        certified = self.certified

        def step_of(x: Tensor) -> Callable[[Certified, int], Certified]:
            return lambda s, k: certified(self.advance(s, x, min(check_every, iterations - k)), x)

        if here() is not None and callback is None and not history:
            start = certified(self.start(x) if s is None else s, x)
            shared = iterate_jointly(Certifying(self, x, tol), start, iterations, check_every=check_every)
            return shared.state, self.report(shared.state, x, shared.count, 0, tol, ITERATION_LIMIT)
        found = iterate(
            step_of(x), certified(self.start(x) if s is None else s, x), iterations,
            done=lambda s: s.done(tol), narrow=lambda which: step_of(x[which]), check_every=check_every,
            stride=check_every, callback=callback,
            row=(lambda s: {n: getattr(s, n) for n in CURVES}) if history else None,
        )  # fmt: skip
        return found.state, self.report(found.state, x, found.count, 0, tol, ITERATION_LIMIT, found.history)


@dataclass(frozen=True)
class Certifying(Joint[Certified]):
    """Iterations of LADMM for samples x [N, m], each of which goes once its gap is small."""

    solver: LADMM
    x: Tensor
    tol: float

    def step(self, s: Certified, k: Any) -> Certified:
        """One iteration."""
        return self.several(s, k, 1, None)[0]

    def at_once(self, s: Certified) -> int:
        """All until the next look: they are one call."""
        return torch.iinfo(torch.int32).max

    def several(
        self, s: Certified, k: int, count: int, row: Callable[[Certified], Row] | None
    ) -> tuple[Certified, Row | None]:
        """Without rows: whoever wants a history iterates by itself."""
        return self.solver.certified(self.solver.advance(s, self.x, count), self.x), None

    def done(self, s: Certified) -> Tensor:
        """By the duality gap."""
        return s.done(self.tol)

    def take(self, which: Tensor) -> "Certifying":
        """Of these samples."""
        return replace(self, x=self.x[which])

    def joined(self, others: Sequence["Certifying"], counts: Sequence[int]) -> "Certifying | None":
        """With those of the same solver and test."""
        every = [self, *others]
        alike = all(d.solver is self.solver for d in others) and same([d.tol for d in every])
        return replace(self, x=torch.cat([d.x for d in every])) if alike else None
