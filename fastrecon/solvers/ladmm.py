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
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastrecon.certificates import ITERATION_LIMIT, SplittingReport, Status
from fastrecon.checks import expect, flag, integer, kind, number
from fastrecon.operators.dictionary import Dictionary
from fastrecon.ops.block_product import row_product
from fastrecon.ops.function import transformed
from fastrecon.ops.ladmm_step import UPDATES, ladmm_shrink, ladmm_step
from fastrecon.threads import alone

E_UPDATES = ("general", "residual")
MARGIN = 1.01  # L1 / (beta |A|^2) and L2 / (beta |B|^2)
CHECK = 10  # iterations between two looks at the duality gap


@dataclass(frozen=True)
class Splitting:
    """Where the iteration stands, one sample a row: z [N, d], e [N, p], dual, A z and B e [N, m]."""

    z: Tensor
    e: Tensor
    dual: Tensor
    az: Tensor
    be: Tensor

    def __getitem__(self, which: Tensor) -> "Splitting":
        return Splitting(*(getattr(self, f.name)[which] for f in fields(self)))

    def where(self, condition: Tensor, other: "Splitting") -> "Splitting":
        """This state for the samples where `condition` [N] holds, the other elsewhere."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Splitting(*(torch.where(condition[:, None], a, b) for a, b in pairs))

    def put(self, which: Tensor, part: "Splitting") -> "Splitting":
        """This state with the samples `which` replaced by those of `part`."""
        pairs = ((getattr(self, f.name), getattr(part, f.name)) for f in fields(self))
        return Splitting(*(a.index_copy(0, which, b) for a, b in pairs))


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
        e = be if self.b is None else x.new_zeros(len(x), self.b.atoms.shape[1])
        return Splitting(x.new_zeros(len(x), self.a.atoms.shape[1]), e, dual, az, be)

    def argument(self, s: Splitting, x: Tensor, beta: Tensor) -> Tensor:
        """dual + beta (A Z + B E - X), what the product of the Z step takes."""
        return s.dual + beta * (s.az + s.be - x)

    def iterate(self, s: Splitting, x: Tensor, arg: Tensor, w: Weights, beta_next: Tensor) -> tuple[Splitting, Tensor]:
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
            s, arg = self.iterate(s, x, arg, w, weights[min(k + 1, len(weights) - 1)].beta)
            yield s

    def sequence(self, iterations: int) -> Sequence[Weights]:
        """The weights of so many iterations."""
        raise NotImplementedError

    def stack(self) -> Stack:
        """The same for B = I, stacked."""
        raise NotImplementedError

    @torch.no_grad()
    def advance(self, s: Splitting, x: Tensor, iterations: int) -> Splitting:
        """The state so many iterations after s, in whose memory it may lie."""
        if self.b is not None or transformed():
            return deque(self.chain(x, self.sequence(iterations), s), maxlen=1).pop()
        x, stack = x.contiguous(), self.stack()
        vectors = (p.expand(-1, n) for p, n in zip(stack[2:], (s.z.shape[1], *[x.shape[1]] * 3), strict=True))
        torch.ops.fastrecon.ladmm_iterations_(
            x, self.a.atoms, s.z, s.e, s.dual, s.az, self.argument(s, x, stack.beta[0]), stack.w1, stack.l1, *vectors,
            iterations, UPDATES.index(self.e_update),
        )  # fmt: skip
        return Splitting(s.z, s.e, s.dual, s.az, s.e)

    def run(self, x: Tensor, iterations: int) -> Splitting:
        """The state so many iterations after zero, for x [N, m]."""
        return self.advance(self.start(x), x, iterations)

    def recorded(self, x: Tensor, weights: Sequence[Weights], rows: list[dict[str, Tensor]]) -> Splitting:
        """The last state of `chain`; the certificate after every iteration is added to `rows`."""
        s = self.start(x)
        for s in self.chain(x, weights):
            rows.append(self.values(s, x))
        return s

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
        history: list[dict[str, Tensor]] | None = None,
    ) -> SplittingReport:  # fmt: skip
        """The certificate of s; `unfinished` says why samples stopped that have not converged."""
        found = self.values(s, x)
        converged = found["gap"] <= tol * found["feasible"].clamp_min(1)
        taken, count = (
            c if isinstance(c, Tensor) else torch.full((len(x),), c, device=x.device) for c in (accepted, iterations)
        )
        finite = torch.isfinite(found["objective"] + found["primal_residual"]) & ~found["gap"].isnan()
        converged &= finite
        names = ("objective", "primal_residual", "gap")
        rows = None if history is None else {n: torch.stack([h[n] for h in history]) for n in names}
        return SplittingReport(
            found["objective"], found["primal_residual"], found["gap"], taken, count, converged,
            Status(unfinished, converged, finite), rows,
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
        return self.iterate(s, x, self.argument(s, x, self.beta), self.weights, self.beta)[0]

    @torch.no_grad()
    @alone
    def forward(
        self, x: Tensor, iterations: int = 150, tol: float = 1e-4, history: bool = False
    ) -> tuple[Splitting, SplittingReport]:
        """A fixed number of iterations from zero for x [N, m]; the report says whether gap <= tol max(1, objective)."""
        iterations, tol = integer(iterations, "LADMM", "iterations", least=1), number(tol, "LADMM", "tol", above=0)
        flag(history, "LADMM", "history")
        rows: list[dict[str, Tensor]] | None = [] if history else None
        s = self.run(x, iterations) if rows is None else self.recorded(x, self.sequence(iterations), rows)
        return s, self.report(s, x, iterations, 0, tol, f"{iterations} iterations only", rows)

    @torch.no_grad()
    @alone
    def solve(
        self, x: Tensor, s: Splitting | None = None, tol: float = 1e-4, max_iterations: int = 20_000,
        done: Tensor | int = 0, accepted: Tensor | int = 0, progress: Callable[[int, Tensor], None] | None = None,
    ) -> tuple[Splitting, SplittingReport]:  # fmt: skip
        """Iterates each sample until its duality gap is at most tol max(1, objective).

        Args:
            x: data [N, m].
            s: where to start; default zero.
            tol: > 0.
            max_iterations: >= 0: at most that many, and a few more up to the next look at the gap (every 10).
            done, accepted: iterations and accepted learned layers to report on top.
            progress: called after every look with the iteration and the gaps [N].

        Raises:
            ValueError: x does not fit, or a number is out of range.
        """
        tol, max_iterations = (
            number(tol, "LADMM", "tol", above=0),
            integer(max_iterations, "LADMM", "max_iterations", least=0),
        )
        expect(progress is None or callable(progress), "LADMM", "progress", "a function or None", progress)
        x = self.checked(x)
        s = self.start(x) if s is None else s
        found = self.values(s, x)
        gap, count = found["gap"], torch.zeros(len(x), dtype=torch.int64, device=x.device)
        open_ = (gap > tol * found["feasible"].clamp_min(1)).nonzero().flatten()
        for k in range(0, max_iterations, CHECK):
            if len(open_) == 0:
                break
            data = x[open_]
            part = self.advance(s[open_], data, CHECK)
            s, found = s.put(open_, part), self.values(part, data)
            gap, count = (
                gap.index_copy(0, open_, found["gap"]),
                count.index_add(0, open_, torch.full_like(open_, CHECK)),
            )
            if progress:
                progress(k + CHECK, gap)
            open_ = open_[found["gap"] > tol * found["feasible"].clamp_min(1)]  # a NaN does not come back
        return s, self.report(s, x, count + done, accepted, tol, ITERATION_LIMIT)
