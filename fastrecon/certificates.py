"""What a solver says about its result: the certificate of every image."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor

from fastrecon.checks import in_kind

CONVERGED = "converged"
TRAINED_ONLY = "trained phases only"
ITERATION_LIMIT = "iteration limit"
STALLED = "no step decreases the objective beyond rounding"
NOT_FINITE = "the iterate is not finite"


class _Pair(NamedTuple):
    x: Any
    report: Any


class Result(_Pair):
    """What a model answers: x, of the kind of its input, and the certificate of every image; a pair of both.

    Attributes:
        method: the name of the method that `fastrecon.reconstruct` took; "": a model or a solver was called.
        why: it took that.
    """

    method: str = ""
    why: str = ""


class Answers(Protocol):
    """What can answer for measurements: it looks at them once, and computes."""

    def check(self, y: Tensor) -> None:
        """Raises ValueError unless y fits."""
        ...

    def compute(self, y: Tensor, **options: Any) -> "tuple[Tensor, Certificate]":
        """What it makes of y [B, ...], and the certificates."""
        ...


def answer(model: Answers, y: Any, **options: Any) -> Result:
    """What `model.compute` makes of y, a tensor or an array, once `model.check` has looked at it."""
    reports: list[Any] = []

    def run(y: Tensor) -> Tensor:
        model.check(y)
        if y.shape[0] == 0:  # what one image would get, without it
            x, report = model.compute(y.new_zeros(1, *y.shape[1:]), **options)
            x, report = x[:0], report.map(lambda _, t: t[..., :0])
        else:
            x, report = model.compute(y, **options)
        reports.append(report)
        return x

    return Result(in_kind(y, run, type(model).__name__, "y"), reports[0])


class Status(Sequence[str]):
    """Why each image of a batch stopped, a text each.

    Made on the device of the images without asking it anything: the codes are read when somebody wants a text.

    Args:
        unfinished: the text of images that did not converge.
        converged: bool [B].
        finite: bool [B]; an image that is not has not converged either.
        stalled: bool [B], images that stopped because no step was good enough.
    """

    LOST = 2  # the code of NOT_FINITE

    def __init__(self, unfinished: str, converged: Tensor, finite: Tensor, stalled: Tensor | None = None):
        codes = torch.where(converged, 0, 1 if stalled is None else torch.where(stalled, 3, 1))
        self.codes, self.texts = torch.where(finite, codes, self.LOST), (CONVERGED, unfinished, NOT_FINITE, STALLED)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, i: Any) -> Any:
        return self._read()[i]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._read() == list(other)

    def __repr__(self) -> str:
        return repr(self._read())

    __hash__ = None  # type: ignore[assignment]

    def _read(self) -> list[str]:
        return [self.texts[code] for code in self.codes.tolist()]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Status":
        """The same texts for the codes that `function` makes of these; 0 stands for success."""
        new = object.__new__(Status)
        new.codes, new.texts = function(self.codes), self.texts
        return new


C = TypeVar("C", bound="Certificate")


class Certificate:
    """What the certificates of all methods share: a dataclass of tensors [B], and `status`, one text an image."""

    NORMS: ClassVar[tuple[str, ...]] = ()  # fields that are norms of parts of an image
    MAXIMA: ClassVar[tuple[str, ...]] = ()  # fields of which an image has that of its worst part

    status: Status
    history: dict[str, Tensor] | None

    def __len__(self) -> int:
        return len(self.status)

    def to_dict(self, i: int) -> dict[str, Any]:
        """The certificate of image i as plain numbers, without its history; None for what is not known."""
        found: dict[str, Any] = {}
        for field in dataclasses.fields(cast(Any, self)):
            value = getattr(self, field.name)
            if isinstance(value, Tensor | Status):
                one = value[i].item() if isinstance(value, Tensor) else value[i]
                found[field.name] = None if isinstance(one, float) and not math.isfinite(one) else one
        return found

    def to_json(self) -> str:
        """The certificates of all images, a JSON list."""
        return json.dumps([self.to_dict(i) for i in range(len(self))], indent=2)

    def map(self: C, function: Callable[[str, Tensor], Tensor]) -> C:
        """The same report with function(name, tensor) for every tensor [..., B], codes of the status included."""
        mapped = {k: function(k, v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        history = None if self.history is None else {k: function(k, v) for k, v in self.history.items()}
        status = self.status.map(lambda codes: function("status", codes))
        return dataclasses.replace(cast(Any, self), **mapped, status=status, history=history)

    def to(self: C, device: torch.device | str, non_blocking: bool = False) -> C:
        """The same report with its tensors on `device`."""
        return self.map(lambda _, t: t.to(device, non_blocking=non_blocking))

    def merged(self: C, parts: int) -> C:
        """The certificate of images made of `parts` consecutive independent entries each.

        Objectives and counts add up, norms are joined, MAXIMA take the largest. The status is that of a part that is
        not finite, else that of the first part that did not converge.
        """
        if parts == 1:
            return self

        def join(name: str, t: Tensor) -> Tensor:
            t = t.unflatten(-1, (-1, parts))
            if name == "status":
                first = t.gather(-1, (t != 0).int().argmax(-1, keepdim=True))[..., 0]
                return torch.where((t == Status.LOST).any(-1), Status.LOST, first)
            if name in self.NORMS:
                return torch.linalg.vector_norm(t, dim=-1)
            return t.amax(-1) if name in self.MAXIMA else t.all(-1) if name == "converged" else t.sum(-1)

        return self.map(join)

    def joined(self: C, others: Sequence[C]) -> C:
        """The certificate of this batch and of `others` behind it, all of one kind."""
        batches = [self, *others]

        def collect(one: C) -> list[Tensor]:
            found: list[Tensor] = []
            one.map(lambda _, t: found.append(t) or t)
            return found

        together = iter([torch.cat(tensors, -1) for tensors in zip(*map(collect, batches), strict=True)])
        return self.map(lambda *_: next(together))


@dataclass(frozen=True)
class ProximalReport(Certificate):
    """The certificate of each image of a batch for F(x) = |A x - y|^2 / 2 + |lam x|_1; anyone can recompute it.

    Attributes:
        objective: [B] F(x), float64.
        step_norm: [B] |z|, z = soft(x - grad f(x) / L, lam / L) - x: zero at the minimisers of F and nowhere else.
        relative_step: [B] |z| / |x|.
        iterations: [B] until the image was done.
        operator_calls: [B] applications of A, this certificate's included.
        adjoint_calls: [B] applications of the adjoint of A, likewise.
        converged: [B] whether |z| <= tol |x| was found.
        status: why each image stopped.
        history: F and |z| after every iteration (row 0: the start), `objective` and `step_norm` [rows, B]; or None.
        network_iterations: [B] iterations that took a network's direction.
    """

    NORMS: ClassVar[tuple[str, ...]] = ("step_norm",)
    MAXIMA: ClassVar[tuple[str, ...]] = (
        "relative_step", "iterations", "operator_calls", "adjoint_calls", "network_iterations",
    )  # fmt: skip

    objective: Tensor
    step_norm: Tensor
    relative_step: Tensor
    iterations: Tensor
    operator_calls: Tensor
    adjoint_calls: Tensor
    network_iterations: Tensor
    converged: Tensor
    status: Status
    history: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class TotalVariationReport(ProximalReport):
    """The certificate of each image of a batch for F(x) = |A x - y|^2 / 2 + lam TV(x); anyone can recompute it.

    Attributes:
        step_norm: [B] a bound of |z|, z the proximal gradient step at x with step 1 / L: the step found, and
            sqrt(2 gap) for what its proximal map may lack. Where A is unitary, of the distance to the minimiser.
        relative_step: [B] that over |x|.
        converged: [B] whether that was found below tol |x|; where A is unitary, the gap below tol F.
        prox_gap: [B] duality gap of the proximal map in that step.
        gap: [B] duality gap of F where A is unitary: F(x) is at most so far above its least value. NaN elsewhere.

    The others are those of ProximalReport.
    """

    prox_gap: Tensor | None = None
    gap: Tensor | None = None


@dataclass(frozen=True)
class Report(Certificate):
    """The certificate of each image of a batch: anyone can recompute it from the image, the measurements and `eps`.

    Attributes:
        phi: [B] objective f(x) + r(x).
        phi_eps: [B] smoothed objective at `eps`; phi_eps <= phi <= merit.
        merit: [B] phi_eps + m eps / 2, m the number of pixels; never increases in rigorous mode.
        grad_norm: [B] norm of the gradient of phi_eps at x.
        eps: [B] smoothing radius.
        iterations: [B] all iterations, trained phases included.
        trials: [B] steps tried by the line search, 0 where there was none.
        took_u: [B] iterations that took the learned branch u; the others took the gradient step v.
        reductions: [B] reductions of eps.
        converged: [B] whether sigma * eps < tol and grad_norm < sigma * gamma * eps.
        status: why each image stopped.
        history: after every iteration (row 0: the start) phi_eps, merit, grad_norm and eps, [rows, B] each; None if not
            recorded.
        trained_phases: iterations from here on carry the descent guarantee.
        scale: [B] what images and measurements were divided by for all of this; None: by nothing.

    Objective values are NaN where nobody evaluated them (in training).
    """

    NORMS: ClassVar[tuple[str, ...]] = ("grad_norm",)
    MAXIMA: ClassVar[tuple[str, ...]] = ("eps",)

    phi: Tensor
    phi_eps: Tensor
    merit: Tensor
    grad_norm: Tensor
    eps: Tensor
    iterations: Tensor
    trials: Tensor
    took_u: Tensor
    reductions: Tensor
    converged: Tensor
    status: Status
    history: dict[str, Tensor] | None = None
    trained_phases: int = 0
    scale: Tensor | None = None


@dataclass(frozen=True)
class SmoothReport(Certificate):
    """The certificate of each image of a batch for phi(x) = |A x - y|^2 / 2 + r(x) with a smooth r, computed in float64
    at the image as it is given; anyone can recompute it.

    Attributes:
        objective: [B] phi(x).
        misfit: [B] |A x - y|.
        grad_norm: [B] |grad phi(x)|: zero at the minimisers of phi, and at its other stationary points.
        relative_gradient: [B] |grad phi(x)| / max(|grad r(x)|, 1e-4 |A* y|): how far the pull of the data and that of r
            are from balancing each other; 0 at stationary points.
        iterations: [B] until the image was done.
        trials: [B] steps tried by the line search, each an evaluation of r.
        converged: [B] whether relative_gradient <= tol.
        status: why each image stopped.
        history: phi and |grad phi| after every iteration (row 0: the start), `objective` and `grad_norm` [rows, B]; or
            None. The objective never increases.
        noise: [B] of a learned prior: the standard deviation of the noise of y that was assumed.
        weight: [B] of it: that of r in phi.
        patch_weight: [B] of it: that of its second term, where it has one.
        scale: [B] of it: what images and measurements were divided by in phi.
        beyond_training: [B] of it: whether it was never trained for such noise.
    """

    NORMS: ClassVar[tuple[str, ...]] = ("misfit", "grad_norm")
    MAXIMA: ClassVar[tuple[str, ...]] = (
        "relative_gradient", "iterations", "noise", "weight", "patch_weight", "scale", "beyond_training",
    )  # fmt: skip

    objective: Tensor
    misfit: Tensor
    grad_norm: Tensor
    relative_gradient: Tensor
    iterations: Tensor
    trials: Tensor
    converged: Tensor
    status: Status
    history: dict[str, Tensor] | None = None
    noise: Tensor | None = None
    weight: Tensor | None = None
    patch_weight: Tensor | None = None
    scale: Tensor | None = None
    beyond_training: Tensor | None = None


@dataclass(frozen=True)
class SplittingReport(Certificate):
    """The certificate of each sample of min lam |z|_1 + |e|_1 subject to x = A z + B e.

    Attributes:
        objective: [B] lam |z|_1 + |e|_1.
        primal_residual: [B] |A z + B e - x|.
        gap: [B] duality gap at the feasible point with this z, >= 0: its objective is at most so far above the optimum.
            Inf where no feasible point is known (a general B without a right inverse).
        accepted: [B] learned layers whose output was taken.
        iterations: [B] all iterations, learned layers included.
        converged: [B] whether gap <= tol * max(1, objective of the feasible point).
        status: why each sample stopped.
        history: objective, primal_residual and gap after every iteration, [rows, B] each; None if not recorded.
    """

    NORMS: ClassVar[tuple[str, ...]] = ("primal_residual",)
    MAXIMA: ClassVar[tuple[str, ...]] = ("iterations",)

    objective: Tensor
    primal_residual: Tensor
    gap: Tensor
    accepted: Tensor
    iterations: Tensor
    converged: Tensor
    status: Status
    history: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class MisfitReport(Certificate):
    """The certificate of each image that no objective stands behind: how far it is from its measurements.

    Attributes:
        misfit: [B] |A x - y|, float64.
        relative_misfit: [B] |A x - y| / |y|.
        converged: [B] false: there is nothing to converge to.
        status: why each image stopped.
        history: None.
    """

    NORMS: ClassVar[tuple[str, ...]] = ("misfit",)
    MAXIMA: ClassVar[tuple[str, ...]] = ("relative_misfit",)

    misfit: Tensor
    relative_misfit: Tensor
    converged: Tensor
    status: Status
    history: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class AlternatingReport(Certificate):
    """The certificate of each image for F(x) = f(x) + sum_i g_i(K_i x), split into z_i = K_i x.

    With w_i in the subdifferential of g_i at z_i, which a proximal map finds, x is stationary where both residuals
    vanish, and a minimiser of convex F.

    Attributes:
        objective: [B] F(x), float64.
        primal_residual: [B] |(K_i x - z_i)_i|.
        dual_residual: [B] |grad f(x) + sum_i K_i* w_i|.
        relative_primal: [B] primal_residual / max(|(K_i x)_i|, |(z_i)_i|).
        relative_dual: [B] dual_residual / |(w_i)|.
        penalty: [B] weight of |K_i x - z_i|^2 / 2 in the last iteration.
        iterations: [B] until the image was done.
        converged: [B] whether both relative residuals were at most `tol`, or as the solver's text says.
        status: why each image stopped.
        history: objective, primal_residual, dual_residual and penalty after every iteration, [rows, B] each; or None.
    """

    NORMS: ClassVar[tuple[str, ...]] = ("primal_residual", "dual_residual")
    MAXIMA: ClassVar[tuple[str, ...]] = ("relative_primal", "relative_dual", "penalty", "iterations")

    objective: Tensor
    primal_residual: Tensor
    dual_residual: Tensor
    relative_primal: Tensor
    relative_dual: Tensor
    penalty: Tensor
    iterations: Tensor
    converged: Tensor
    status: Status
    history: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class CorrectedReport(Certificate):
    """The certificate of each image for F = f + r where units that promise nothing propose, and a test disposes.

    Attributes:
        objective: [B] F(x), float64; it never increased where the rule is "descent".
        error: [B] |e| of the last iteration, e in the subdifferential of f + mu |. - x_k|^2 / 2 + r at x; 0 where that
            took a proximal gradient step.
        error_bound: [B] what the test allowed it to be, C |x - x_k|.
        step_norm: [B] |prox_{s r}(x - s grad f(x)) - x|, 0 where x is stationary: made anew at the end.
        relative_step: [B] the same over |x|.
        accepted: [B] iterations that took what the units proposed; the others took a proximal gradient step.
        units: [B] units asked in all iterations.
        iterations: [B] until the image was done.
        converged: [B] whether |x - x_k| <= tol |x| was found.
        status: why each image stopped.
        history: objective, error, error_bound, units and accepted of every iteration, [rows, B] each; or None.
    """

    NORMS: ClassVar[tuple[str, ...]] = ("error", "error_bound", "step_norm")
    MAXIMA: ClassVar[tuple[str, ...]] = ("relative_step", "iterations")

    objective: Tensor
    error: Tensor
    error_bound: Tensor
    step_norm: Tensor
    relative_step: Tensor
    accepted: Tensor
    units: Tensor
    iterations: Tensor
    converged: Tensor
    status: Status
    history: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class ControlledReport(CorrectedReport):
    """The certificate of each image of error-controlled iterations; anyone can recompute it.

    Attributes:
        error: [B] |d| of the last proposal, accepted or not; see the solver.
        accepted: [B] iterations that took what the module proposed.
        rejected: [B] the others.
        failed: [B] of those: the module raised, changed shape, type or device, or answered NaN or Inf.
        units: [B] proposals: all iterations.
        reasons: what failed, in words, each once; for all images.
        history: objective, error, error_bound, accepted and failed of every iteration, [rows, B] each; or None.

    The others are those of CorrectedReport.
    """

    rejected: Tensor = dataclasses.field(kw_only=True)
    failed: Tensor = dataclasses.field(kw_only=True)
    reasons: tuple[str, ...] = ()

    def to_dict(self, i: int) -> dict[str, Any]:
        """As of Certificate, and the reasons where something failed."""
        found = super().to_dict(i)
        return found | {"reasons": list(self.reasons)} if found["failed"] else found


@dataclass(frozen=True)
class BlocksReport(ControlledReport):
    """The certificate of each image of error-controlled iterations over several blocks of unknowns.

    Attributes:
        objective: [B] of all blocks together.
        error, error_bound: [B] sums over the blocks.
        step_norm: [B] of the proximal gradient steps of all blocks, the others as they stand: 0 where x is stationary.
        accepted, rejected, failed, units: [B] sums over the blocks.
        accepted_by_block, failed_by_block: [blocks, B].
        history: objective, and accepted_i, failed_i of block i = 1, 2, ..., of every iteration; or None.

    The others are those of ControlledReport.
    """

    accepted_by_block: Tensor = dataclasses.field(kw_only=True)
    failed_by_block: Tensor = dataclasses.field(kw_only=True)

    def to_dict(self, i: int) -> dict[str, Any]:
        """As of ControlledReport, of blocks a list."""
        own = {n: getattr(self, n) for n in ("accepted_by_block", "failed_by_block")}
        whole = dataclasses.replace(self, **{n: t.sum(0) for n, t in own.items()})
        return ControlledReport.to_dict(whole, i) | {n: t[:, i].tolist() for n, t in own.items()}


@dataclass(frozen=True)
class LinearReport(Certificate):
    """The certificate of each image of min |A x - y|^2 / 2 + weight |P x|^2 / 2, P the identity or a gradient.

    Attributes:
        objective: [B] float64.
        misfit: [B] |A x - y|.
        relative_misfit: [B] |A x - y| / |y|.
        residual: [B] |A* (A x - y) + weight P* P x|, the residual of the normal equations: 0 at the minimiser.
        relative_residual: [B] the same over |A* y|.
        weight: [B].
        iterations: [B] of conjugate gradients; 0 of a closed form.
        converged: [B] whether the normal equations are solved to the tolerance, or iterations ended where the misfit is
            that of the noise.
        status: why each image stopped.
        history: misfit after every iteration, [rows, B]; None if not recorded.
    """

    NORMS: ClassVar[tuple[str, ...]] = ("misfit", "residual")
    MAXIMA: ClassVar[tuple[str, ...]] = ("relative_misfit", "relative_residual", "weight", "iterations")

    objective: Tensor
    misfit: Tensor
    relative_misfit: Tensor
    residual: Tensor
    relative_residual: Tensor
    weight: Tensor
    iterations: Tensor
    converged: Tensor
    status: Status
    history: dict[str, Tensor] | None = None
