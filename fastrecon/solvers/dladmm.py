"""Differentiable linearised ADMM: K iterations of LADMM whose matrices, steps, thresholds and penalties are learned.

Z+    = soft(Z - W1_k^T (dual + beta_k o (A Z + B E - X)), tau1_k)
E+    = soft(E - W2_k^T (dual + beta_k o (A Z+ + B E - X)), tau2_k), or soft(X - A Z+ - w2_k o dual, tau2_k) for B = I
dual+ = dual + beta_k o (A Z+ + B E+ - X)
beta_k has an entry for each row of X, never for a position in the batch. For B = I, W2_k = diag(w2_k).

Source: Xie, Wu, Zhong, Liu & Lin, Differentiable Linearized ADMM (arXiv:1905.06179), eqs. (4)-(6). Safeguard: Heaton,
Chen, Wang & Yin, Safeguarded Learned Convex Optimization (arXiv:2003.01880).
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.certificates import TRAINED_ONLY, SplittingReport
from fastrecon.checks import flag, integer, number
from fastrecon.operators.dictionary import Dictionary
from fastrecon.ops.function import transformed
from fastrecon.ops.ladmm_layers import ladmm_layers
from fastrecon.solvers.base import Callback
from fastrecon.solvers.descent import positive, raw_from
from fastrecon.solvers.ladmm import LADMM, SplitProblem, Splitting, Stack, Weights, curves, distance
from fastrecon.solvers.safeguard import choose
from fastrecon.threads import alone

STABLE = 0.999  # largest |W1^T diag(beta) A| that `project` leaves: below 1, as L1 > beta |A|^2 asks of LADMM


class DLADMM(SplitProblem):
    """D-LADMM with K learned layers; untrained it is LADMM.

    Args:
        a, lam, b, e_update: of the problem, see SplitProblem.
        layers: K.
        beta, l1, l2: of the LADMM that the layers start from and that continues after them.
        per_row: whether thresholds have an entry for each component of Z and of E, instead of one number.
        noise: standard deviation of what is added to L1 W1_k = A at the start, relative to the mean modulus of A.
        radius: of the neighbourhood |W1_k - A / L1| <= radius |A / L1| (spectral norms) that `project` enforces.
    """

    raw_tau1: Tensor
    raw_beta: Tensor
    raw_tau2: Tensor

    def __init__(
        self, a: Dictionary | Tensor, lam: float = 0.45, b: Dictionary | Tensor | None = None, *, layers: int = 15,
        beta: float = 1.0, l1: float | None = None, l2: float | None = None, e_update: str = "residual",
        per_row: bool = False, noise: float = 0.0, radius: float = 1.0,
    ):  # fmt: skip
        e_update = e_update if b is None else "general"
        super().__init__(a, lam, b, e_update)
        layers, per_row = integer(layers, "DLADMM", "layers", least=1), flag(per_row, "DLADMM", "per_row")
        number(radius, "DLADMM", "radius", above=0)
        number(noise, "DLADMM", "noise", least=0)
        self.classical = LADMM(self.a, lam, self.b, beta=beta, l1=l1, l2=l2, e_update=e_update)
        self.per_row, self.radius = per_row, float(radius)
        w, (m, d) = self.classical.weights, self.a.atoms.shape
        atoms = self.a.atoms.detach()
        spread = noise * atoms.abs().mean()
        # L1 W1_k, entries of the size of A's: Adam's steps are absolute and would drown those of W1_k itself
        self.scaled_w1 = nn.ParameterList([atoms + spread * torch.randn_like(atoms) for _ in range(layers)])
        p = m if self.b is None else self.b.atoms.shape[1]
        sizes = {"tau1": (w.tau1, d if per_row else 1), "beta": (w.beta, m), "tau2": (w.tau2, p if per_row else 1)}
        for name, (value, size) in sizes.items():
            raw = raw_from(value).expand(layers, size).to(value)
            self.register_parameter(f"raw_{name}", nn.Parameter(raw.clone()))
        if self.b is None:
            self.raw_w2 = nn.Parameter(raw_from(w.w2).to(w.w2).expand(layers, -1).clone())
        else:
            self.scaled_w2 = nn.ParameterList([self.b.atoms.detach().clone() for _ in range(layers)])

    @property
    def layers(self) -> int:
        """K."""
        return len(self.scaled_w1)

    def hyperparameters(self) -> dict[str, Any]:
        """What `DLADMM(a, **hyperparameters)` needs to be built anew, B apart."""
        c = self.classical
        return {
            "lam": self.lam, "layers": self.layers, "beta": c.beta.item(), "l1": c.l1, "l2": c.l2,
            "e_update": self.e_update, "per_row": self.per_row, "radius": self.radius,
        }  # fmt: skip

    def weights(self) -> list[Weights]:
        """Those of each layer; all but W1, and W2 of a general B, are positive by softplus."""
        tau1, beta, tau2 = (positive(p).unbind() for p in (self.raw_tau1, self.raw_beta, self.raw_tau2))
        w1 = [p / self.classical.l1 for p in self.scaled_w1]
        w2 = positive(self.raw_w2).unbind() if self.b is None else [p / self.classical.l2 for p in self.scaled_w2]
        return [Weights(*rows) for rows in zip(w1, tau1, beta, w2, tau2, strict=True)]

    def sequence(self, iterations: int) -> list[Weights]:
        """The weights of the first layers."""
        return self.weights()[:iterations]

    def stack(self) -> Stack:
        """The weights of all layers."""
        vectors = (positive(p) for p in (self.raw_tau1, self.raw_beta, self.raw_w2, self.raw_tau2))
        return Stack(list(self.scaled_w1), self.classical.l1, *vectors)

    def states(self, x: Tensor, last: bool = False) -> list[Splitting]:
        """The state after each layer, or only after the `last`, differentiable, for x [N, m]: what losses take."""
        if self.b is not None or transformed():
            states = list(self.chain(x, self.weights()))
            return states[-1:] if last else states
        x = self.checked(x)
        w = self.stack()
        found = ladmm_layers(x, self.a.atoms, w.w1, w.l1, w.tau1, w.beta, w.w2, w.tau2, self.e_update, last)
        return [Splitting(z, e, dual, az, e) for z, e, dual, az in found]

    @alone
    def forward(
        self, x: Tensor, safeguard: bool = False, tol: float = 1e-4, history: bool = False
    ) -> tuple[Splitting, SplittingReport]:
        """The learned layers, without gradients.

        Args:
            x: data [N, m].
            safeguard: whether each sample takes a layer's output only where that is nearer to a fixed point of LADMM,
                and an iteration of LADMM elsewhere.
            tol: the report says whether gap <= tol max(1, objective).
            history: whether to record the certificate after every layer.
        """
        number(tol, "DLADMM", "tol", above=0)
        safeguard, history = flag(safeguard, "DLADMM", "safeguard"), flag(history, "DLADMM", "history")
        with torch.no_grad():
            if safeguard:
                s, accepted, rows = self._safeguarded(x, 0.1, history)
            else:
                s, rows = self.recorded(x, self.weights()) if history else (self.run(x, self.layers), None)
                accepted = self.layers
            return s, self.report(s, x, self.layers, accepted, tol, TRAINED_ONLY, rows)

    @torch.no_grad()
    @alone
    def solve(
        self, x: Tensor, iterations: int = 20_000, tol: float = 1e-4, *, safeguard: bool = True, delta: float = 0.1,
        check_every: int = 10, history: bool = False, callback: Callback | None = None,
    ) -> tuple[Splitting, SplittingReport]:  # fmt: skip
        """The learned layers, then LADMM until the duality gap is at most tol max(1, objective): this converges to a
        minimiser whatever the weights are, as long as the layers' output is finite, which the safeguard ensures.

        Args:
            x: data [N, m].
            iterations, tol, check_every, history, callback: of what follows the layers, see LADMM.solve.
            safeguard: as in forward.
            delta: in (0, 1): a layer is accepted where |w - T(w)| <= (1 - delta) mu, T an iteration of LADMM and mu a
                running mean of the accepted values.
        """
        number(delta, "DLADMM", "delta", above=0, below=1)
        number(tol, "DLADMM", "tol", above=0)
        integer(iterations, "DLADMM", "iterations", least=0)
        if flag(safeguard, "DLADMM", "safeguard"):
            s, accepted, _ = self._safeguarded(x, delta)
        else:
            s = self.run(x, self.layers)
            accepted = torch.full((len(x),), self.layers, device=x.device)
        s, report = self.classical.solve(
            x, s, iterations, tol, check_every=check_every, history=history, callback=callback
        )
        return s, replace(report, iterations=report.iterations + self.layers, accepted=accepted)

    def _safeguarded(
        self, x: Tensor, delta: float, history: bool = False
    ) -> tuple[Splitting, Tensor, dict[str, Tensor] | None]:
        """The state after K layers, each accepted or replaced by an iteration T of LADMM per sample, the numbers
        accepted, and the history."""
        s, rows = self.start(x), []
        after = self.classical.step(s, x)  # T(s)
        mu, accepted = distance(s, after), torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for w in self.weights():
            tried = self.iteration(s, x, self.argument(s, x, w.beta), w, w.beta)[0]
            beyond = self.classical.step(tried, x)
            residual = distance(tried, beyond)
            good = residual <= (1 - delta) * mu  # a NaN is refused
            s = choose(good, tried, after)
            after = choose(good, beyond, lambda s=s: self.classical.step(s, x))
            mu = torch.where(good, 0.5 * mu + 0.5 * residual, mu)
            accepted += good
            if history:
                rows.append(self.values(s, x))
        return s, accepted, curves(rows) if history else None

    @torch.no_grad()
    def project(self) -> None:
        """Back to the neighbourhood of the classical weights, to be called after a training step: W1_k into the ball
        around A / L1 (and W2_k, of a general B, around B / L2), then beta_k down to |W1_k^T diag(beta_k) A| < 1.
        """
        pairs = [(p, self.a.atoms) for p in self.scaled_w1]
        pairs += [] if self.b is None else [(p, self.b.atoms) for p in self.scaled_w2]
        for p, centre in pairs:
            far = torch.linalg.matrix_norm(p - centre, 2) / (self.radius * torch.linalg.matrix_norm(centre, 2))
            p.copy_(centre + (p - centre) / far.clamp_min(1))
        for k, w in enumerate(self.weights()):
            size = torch.linalg.matrix_norm(w.w1.T @ (w.beta[:, None] * self.a.atoms), 2)
            if size > STABLE:
                self.raw_beta[k] = raw_from(w.beta * STABLE / size).to(w.beta)
