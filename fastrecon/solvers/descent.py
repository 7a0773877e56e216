"""What LDA, GD-Net and AGD-Net share: parameters, the rule for eps, the loop over trained phases, the certificate."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from typing_extensions import Self

from fastrecon.certificates import TRAINED_ONLY, Report, Status
from fastrecon.checks import expect, flag, integer, number
from fastrecon.operators.base import LinearOperator
from fastrecon.operators.joining import joined
from fastrecon.ops.layout import real_dtype
from fastrecon.ops.select_descent import shrink_eps
from fastrecon.solvers.base import Callback, Row, Run, with_parts
from fastrecon.solvers.joint import Joint, iterate_jointly
from fastrecon.terms.base import Evaluation
from fastrecon.terms.complex_features import ComplexFeatureNorm
from fastrecon.terms.feature_norm import FeatureNorm
from fastrecon.terms.least_squares import LeastSquares
from fastrecon.terms.separate_features import SeparateFeatureNorm
from fastrecon.threads import alone

FLOOR = 1e-6  # the least value of a step size or of eps_0
EPS_MODES = ("sample", "batch", "schedule")


@dataclass(frozen=True)
class DescentState:
    """Where an iteration stands, per image: the iterate, and the objective there at radius eps.

    r, f, merit and norm are None while nobody asks for them: in training with x = u.
    """

    x: Tensor  # [B, C, H, W]
    previous: Tensor  # like x: the iterate before
    eps: Tensor  # [B]
    next_eps: Tensor  # [B] radius of the next iteration: eps, or gamma * eps where the test was passed
    passed: Tensor  # [B] bool: |grad phi_eps(x)| < sigma * gamma * eps
    grad_f: Tensor  # like x: gradient of f at x
    r: Evaluation | None  # r_eps and its gradient at x, without graph
    f: Tensor | None  # [B] f(x), float64
    merit: Tensor | None  # [B] phi_eps(x) + m eps / 2, float64
    norm: Tensor | None  # [B] |grad phi_eps(x)|, float64
    took_u: Tensor  # [B] counts, int64
    trials: Tensor
    reductions: Tensor


def raw_from(value: Tensor) -> Tensor:
    """The inverse of `positive`, in float64."""
    wide = (value.double() - FLOOR).clamp_min(1e-12)
    return wide + (-(-wide).expm1()).log()


def raw_of(value: float, count: int | None = None) -> nn.Parameter:
    """The parameter whose `positive` is `value`: a scalar, or `count` of them."""
    raw = raw_from(torch.tensor(value, dtype=torch.float64))
    return nn.Parameter((raw if count is None else raw.expand(count)).to(torch.get_default_dtype(), copy=True))


def positive(raw: Tensor) -> Tensor:
    """softplus(raw) + 1e-6."""
    return softplus(raw) + FLOOR


class RigorousObjective(nn.Module):
    """An objective that rigorous mode minimises in place of the phases' own: `minimiser.Minimiser`.

    Attributes:
        sigma: of its termination test; None: that of the phases.
    """

    sigma: float | None = None

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that rebuild it."""
        raise NotImplementedError

    def solve(
        self, net: "UnrolledDescent", y: Tensor, x0: Tensor, iterations: int, tol: float, steps: str, check_every: int,
        history: bool, callback: Callback | None,
    ) -> tuple[Tensor, Report]:  # fmt: skip
        """The phases of `net`, and from their images on a stationary point; as RigorousDescent.solve."""
        raise NotImplementedError


class UnrolledDescent(nn.Module):
    """A fixed number of trained phases on phi_eps(x) = |A x - y|^2 / 2 + r_eps(x), each with step sizes of its own.

    Subclasses name their step sizes in `raw_*` parameters [phases] and give `step_sizes` and `step`.

    Args:
        operator: A.
        phases: trained phases K.
        channels, layers, in_channels, delta, final_activation: of the regulariser, see FeatureNorm; of a complex image
            real and imaginary part are a channel each, unless features are complex.
        complex_features: whether images are complex and the regulariser a ComplexFeatureNorm.
        separate: whether images may be complex, and real and imaginary part are an image each to the regulariser, a
            SeparateFeatureNorm.
        alpha: initial step size of the gradient steps, > 1e-6.
        eps0: initial smoothing radius, > 1e-6.
        sigma, gamma: > 0 and in (0, 1): eps becomes gamma * eps once |grad phi_eps(x)| < sigma * gamma * eps.
        eps_mode: who decides that: each image ("sample"), the mean norm of the batch ("batch": results then depend on
            the batch), or nobody ("schedule": after every phase).

    Attributes:
        minimiser: the objective of rigorous mode, where it is another than that of the phases; None: theirs.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    minimiser: RigorousObjective | None

    def __init__(
        self, operator: LinearOperator, phases: int = 9, channels: int = 32, layers: int = 4, *,
        in_channels: int = 1, delta: float = 0.01, final_activation: bool = False, complex_features: bool = False,
        separate: bool = False, alpha: float = 1.0, eps0: float = 0.01, sigma: float = 1e3, gamma: float = 0.9,
        eps_mode: str = "sample",
    ):  # fmt: skip
        super().__init__()
        name = type(self).__name__
        expect(isinstance(operator, LinearOperator), name, "operator", "a LinearOperator", type(operator).__name__)
        phases = integer(phases, name, "phases", least=1)
        sigma, gamma = number(sigma, name, "sigma", above=0), number(gamma, name, "gamma", above=0, below=1)
        alpha, eps0 = (number(v, name, k, above=FLOOR) for k, v in (("alpha", alpha), ("eps0", eps0)))
        expect(eps_mode in EPS_MODES, name, "eps_mode", f"one of {', '.join(EPS_MODES)}", repr(eps_mode))
        # Python's floats: a NumPy number would promote float32 tensors
        self.sigma, self.gamma, self.eps_mode = float(sigma), float(gamma), eps_mode
        self.fidelity = LeastSquares(operator)
        kind = FeatureNorm
        if flag(complex_features, name, "complex_features"):
            kind = ComplexFeatureNorm
        if flag(separate, name, "separate"):
            expect(not complex_features, name, "separate", "False with complex_features", True)
            kind = SeparateFeatureNorm
        self.regulariser = kind(channels, layers, in_channels, delta, final_activation)
        self.raw_alpha = raw_of(alpha, phases)
        self.raw_eps0 = raw_of(eps0)
        self.minimiser = None

    def smoothing(self, eps: Tensor, x: Tensor) -> Tensor:
        """m eps / 2 [B] in float64, m the number of norms that r sums: what phi exceeds phi_eps by at most."""
        return self.regulariser.norms(x) / 2 * eps.detach().double()

    def merit(self, f: Tensor, r: Evaluation, eps: Tensor, x: Tensor) -> Tensor:
        """phi_eps(x) + m eps / 2 [B] in float64: an upper bound of phi(x)."""
        return f + r.value.double() + self.smoothing(eps, x)

    def row(self, s: DescentState) -> Row:
        """What the history keeps of a state, [B] each."""
        if s.merit is None or s.norm is None:
            return {}
        phi_eps = s.merit - self.smoothing(s.eps, s.x)
        return {"phi_eps": phi_eps, "merit": s.merit, "grad_norm": s.norm, "eps": s.eps.detach().double()}

    @property
    def phases(self) -> int:
        """K."""
        return len(self.raw_alpha)

    @property
    def alpha(self) -> Tensor:
        """Step sizes of the gradient steps, [K], > 0."""
        return positive(self.raw_alpha)

    @property
    def eps0(self) -> Tensor:
        """Smoothing radius of the first phase, > 0."""
        return positive(self.raw_eps0)

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that rebuild this network around an operator."""
        r = self.regulariser
        return {
            "phases": self.phases, "channels": r.channels, "layers": len(r.weights), "delta": r.delta,
            "final_activation": r.final_activation, "sigma": self.sigma, "gamma": self.gamma, "eps_mode": self.eps_mode,
        } | ({} if r.in_channels == 1 else {"in_channels": r.in_channels}) | (
            {"complex_features": True} if isinstance(r, ComplexFeatureNorm) else {}) | (
            {"separate": True} if isinstance(r, SeparateFeatureNorm) else {}) | (
            {} if self.minimiser is None else {"minimiser": self.minimiser.hyperparameters()}
        )  # fmt: skip

    def take(self, which: Tensor) -> Self:
        """The same network for the images `which` of a batch: an operator with parts of each image's own follows."""
        return with_parts(self, fidelity=LeastSquares(self.fidelity.operator.take(which)))

    @torch.no_grad()
    def grow(self, phases: int) -> None:
        """Adds phases up to this number, each a copy of the last trained one. The step sizes become new parameters."""
        integer(phases, "grow", "phases")
        expect(phases >= self.phases, "grow", "phases", f"at least the present {self.phases}", phases)
        for name, raw in list(self.named_parameters(recurse=False)):
            if raw.ndim == 1:
                setattr(self, name, nn.Parameter(torch.cat((raw, raw[-1:].expand(phases - len(raw))))))

    def step_sizes(self) -> tuple[Tensor, ...]:
        """The step sizes of all phases, [K] each, alpha first, as `step` takes them."""
        raise NotImplementedError

    def step(self, s: DescentState, y: Tensor, select: bool, *sizes: Tensor) -> DescentState:
        """One phase, with its step sizes."""
        raise NotImplementedError

    def forward(
        self, y: Tensor, x0: Tensor, select: bool = True, history: bool = False, callback: Callback | None = None
    ) -> tuple[Tensor, Report]:
        """The trained phases.

        Args:
            y: measurements [B, ...].
            x0: initial images [B, in_channels, H, W].
            select: whether each phase chooses between its candidates and tests eps; else the learned step is always
                taken, eps shrinks after every phase, and nothing else is computed (the first epochs of training).
            history: whether to record every phase in the report.
            callback: called after every phase with its number 1, 2, ... and the state.

        Returns:
            The images, differentiable in all parameters where gradients are enabled, and their report.
        """
        found = self.run(y, x0, select, history, callback)
        return found.state.x, self.report(found.state, found.history, torch.zeros_like(found.done))

    @alone
    def run(
        self, y: Tensor, x0: Tensor, select: bool = True, history: bool = False, callback: Callback | None = None
    ) -> Run[DescentState]:
        """The trained phases as `forward` makes them, as a run of iterations."""
        sizes = list(zip(*self.step_sizes(), strict=True))
        found = iterate_jointly(
            Phases(self, y, select, sizes), self.start(y, x0, select), len(sizes),
            row=(lambda s: self.row(self.exact(s))) if history else None, callback=callback,
        )  # fmt: skip
        return replace(found, state=self.exact(found.state))

    def start(self, y: Tensor, x0: Tensor, select: bool = True, eps: Tensor | None = None) -> DescentState:
        """The state at x0 with radii eps [B], or the first one. No test of eps precedes the first phase."""
        op = type(self).__name__
        for argument, t in (("y", y), ("x0", x0)):
            expect(isinstance(t, Tensor) and t.ndim > 0, op, argument, "a batch, a tensor", t)
        channels = self.regulariser.channels_of(x0)
        fits = x0.ndim == 4 and x0.shape[:2] == (y.shape[0], channels)
        expect(fits, op, "x0", f"images [{y.shape[0]}, {channels}, H, W]", x0)
        expect(real_dtype(x0) == self.raw_alpha.dtype, op, "x0", f"dtype {self.raw_alpha.dtype}", x0)
        eps = self.eps0.expand(x0.shape[0]) if eps is None else eps
        zero, never = (torch.zeros(x0.shape[0], dtype=t, device=x0.device) for t in (torch.int64, torch.bool))
        s = DescentState(x0, x0, eps, eps, never, self.fidelity.grad(x0, y), None, None, None, None, zero, zero, zero)
        if not select:
            return s
        with torch.no_grad():
            r, f = self.regulariser.evaluate(x0, eps), self.fidelity.value(x0, y)
            norm = shrink_eps(s.grad_f, r.grad, eps, self.sigma, self.gamma)[1]
            return replace(s, r=r, f=f, merit=self.merit(f, r, eps, x0), norm=norm)

    def begin_phase(self, s: DescentState) -> DescentState:
        """The same iterate with the radius of the next iteration."""
        if s.r is None or s.merit is None:
            return replace(s, eps=s.next_eps, reductions=s.reductions + s.passed)
        with torch.no_grad():
            r = self.regulariser.refresh(s.r, s.x, s.next_eps, s.passed)
            # r_eps rises when eps falls, by at most m times half the fall: anything beyond is rounding
            most = self.smoothing(s.eps.double() - s.next_eps.double(), s.x)
            rise = (r.value.double() - s.r.value.double()).clamp_min(0).minimum(most)
            return replace(s, eps=s.next_eps, r=r, merit=s.merit + (rise - most), reductions=s.reductions + s.passed)

    def accept(
        self, s: DescentState, x: Tensor, grad_f: Tensor, r: Evaluation, f: Tensor, took_u: Tensor
    ) -> DescentState:
        """The state at the new iterate x, with the test that decides the next radius."""
        _, norm, next_eps, passed = shrink_eps(grad_f, r.grad, s.eps, self.sigma, self.gamma)
        if self.eps_mode != "sample":
            small = norm.mean() < self.sigma * self.gamma * s.eps.detach()
            passed = small if self.eps_mode == "batch" else torch.ones_like(passed)
            next_eps = torch.where(passed, self.gamma * s.eps, s.eps)
        return replace(
            s, x=x, previous=s.x, next_eps=next_eps, passed=passed, grad_f=grad_f, r=r, f=f,
            merit=self.merit(f, r, s.eps, x), norm=norm, took_u=s.took_u + took_u,
        )  # fmt: skip

    @torch.no_grad()
    def exact(self, s: DescentState) -> DescentState:
        """The same state, with what was decided, reported in full precision."""
        if s.r is None or s.r.estimated is None or s.f is None:
            return s
        r = replace(self.regulariser.refresh(s.r, s.x, s.eps, s.r.estimated), estimated=None)
        norm = shrink_eps(s.grad_f, r.grad, s.eps, self.sigma, self.gamma)[1]
        return replace(s, r=r, merit=self.merit(s.f, r, s.eps, s.x), norm=norm)

    def accept_learned(self, s: DescentState, x: Tensor, y: Tensor) -> DescentState:
        """The state at the new iterate x of a phase without choices, where eps shrinks always."""
        always = torch.ones_like(s.passed)
        return replace(
            s, x=x, previous=s.x, next_eps=self.gamma * s.eps, passed=always, grad_f=self.fidelity.grad(x, y),
            took_u=s.took_u + 1,
        )  # fmt: skip

    @torch.no_grad()
    def report(
        self, s: DescentState, history: Row | None, converged: Tensor, iterations: Tensor | None = None,
        unfinished: str = TRAINED_ONLY, stalled: Tensor | None = None,
    ) -> Report:  # fmt: skip
        """The certificate of state s: everything at x and eps, as they stand. Nothing is asked of the device."""
        finite = torch.isfinite(s.x).flatten(1).all(1)
        phi = phi_eps = bound = norm = torch.full_like(s.eps, float("nan"), dtype=torch.float64)
        if s.r is not None and s.f is not None and s.norm is not None and not s.x.requires_grad:
            phi_eps = s.f + s.r.value.double()
            bound, norm = self.merit(s.f, s.r, s.eps, s.x), s.norm
            # phi lies between the two (eq. 6): anything beyond is rounding
            phi = (s.f + self.regulariser.nonsmooth_value(s.x).double()).clamp(phi_eps, bound)
            finite = finite & torch.isfinite(bound + norm)
        return Report(
            phi=phi, phi_eps=phi_eps, merit=bound, grad_norm=norm, eps=s.eps.detach().double(),
            iterations=torch.full_like(s.trials, self.phases) if iterations is None else iterations,
            trials=s.trials, took_u=s.took_u, reductions=s.reductions,
            converged=converged & finite, status=Status(unfinished, converged, finite, stalled),
            history=history, trained_phases=self.phases,
        )  # fmt: skip


@dataclass(frozen=True)
class Phases(Joint[DescentState]):
    """The trained phases of a batch, which begin together: each has step sizes of its own."""

    net: UnrolledDescent
    y: Tensor
    select: bool
    sizes: Sequence[tuple[Tensor, ...]]
    period = 0

    @property
    def ends(self) -> bool:
        """False: nobody leaves before the last."""
        return False

    def step(self, s: DescentState, k: int) -> DescentState:
        """Phase k."""
        return self.net.step(s, self.y, self.select, *self.sizes[k])

    def done(self, s: DescentState) -> Tensor:
        """None before the last."""
        return torch.zeros_like(s.passed)

    def take(self, which: Tensor) -> "Phases":
        """Of these images."""
        return replace(self, net=self.net.take(which), y=self.y[which])

    def joined(self, others: Sequence["Phases"], counts: Sequence[int]) -> "Phases | None":
        """With those of the same network, where each image decides about its own eps."""
        every = [self, *others]
        if self.net.eps_mode == "batch" or not all(p.select == self.select for p in others):
            return None
        net = joined([p.net for p in every], counts)
        return None if net is None else replace(self, net=net, y=torch.cat([p.y for p in every]))
