"""What methods share that let anything propose and correct it themselves: PADNet, error-controlled iterations.

F = f + r, f = |A x - y|^2 / 2, and G = f + mu |. - x|^2 / 2 + r. From a proposal v near x a proximal gradient step of G
goes to x+, at which e = (mu - 1/s) (x+ - v) - grad f(v) + grad f(x+) is a subgradient of G, for any v. Where
|e| <= C |x+ - x| with 2 C < mu, x+ is nearly stationary. If it minimised G, up to e, F would have fallen by
(mu / 4 - C^2 / mu) |x+ - x|^2; for nonconvex r, where it need not, that is asked for.

Source: Liu, Cheng, He, Fan, Lin & Luo, On the Convergence of Learning-based Iterative Methods for Nonconvex Inverse
Problems, IEEE Trans. Pattern Anal. Mach. Intell. 42 (2020).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.layout import real_dtype
from fastrecon.ops.reductions import sum_of_squares
from fastrecon.solvers.base import column
from fastrecon.solvers.joint import same
from fastrecon.terms.apart import Apart
from fastrecon.terms.base import Term
from fastrecon.terms.least_squares import LeastSquares

RULES = ("descent", "paper", "monotone")


@dataclass(frozen=True)
class Point:
    """Images, and F there."""

    x: Tensor  # [B, ...]
    residual: Tensor  # A x - y
    fit: Tensor  # [B] f(x), float64
    penalty: Tensor  # [B] r(x)

    @property
    def objective(self) -> Tensor:
        """F(x) [B]."""
        return self.fit + self.penalty


@dataclass(frozen=True)
class Candidate(Point):
    """Where a proposal leads."""

    grad: Tensor  # of f
    square: Tensor  # [B] |x+ - x|^2
    error: Tensor  # [B] |e|
    bound: Tensor  # [B] C |x+ - x|


@dataclass(frozen=True)
class Correction:
    """F, and its steps.

    Attributes:
        fidelity: f, with its measurements.
        prior: r, a term with a proximal map; None: 0, and no steps.
        step: s in (0, 1 / |A|^2): a number, or float64 [B].
        given_mu: mu > 0; None: 1 / s, which makes e = grad f(x+) - grad f(v).
        share: C / mu, in (0, 0.5).
    """

    fidelity: LeastSquares
    prior: Term | None
    step: float | Tensor
    given_mu: float | None
    share: float

    @property
    def mu(self) -> float | Tensor:
        """mu, of each image where steps are."""
        return 1 / self.step if self.given_mu is None else self.given_mu

    def take(self, which: Tensor) -> "Correction":
        """For the images `which` of the batch."""
        prior = None if self.prior is None else self.prior.take(which)
        step = self.step[which] if isinstance(self.step, Tensor) else self.step
        return replace(self, fidelity=self.fidelity.take(which), prior=prior, step=step)

    @staticmethod
    def joined(every: Sequence["Correction"], counts: Sequence[int]) -> "Correction | None":
        """Of several batches, so many images each; None: they are of different kinds."""
        first = every[0]
        fidelity = LeastSquares.joined([c.fidelity for c in every], counts)
        if fidelity is None or not same([(c.given_mu, c.share, c.prior is None) for c in every]):
            return None
        priors = [c.prior for c in every if c.prior is not None]
        steps = [c.step if isinstance(c.step, Tensor) else torch.full((n,), c.step, dtype=torch.float64)
                 for c, n in zip(every, counts, strict=True)]  # fmt: skip
        step = torch.cat([t.to(steps[0].device) for t in steps])
        return replace(first, fidelity=fidelity, prior=Apart.of(priors, counts) if priors else None, step=step)

    def point(self, x: Tensor) -> Point:
        """F at x."""
        residual = self.fidelity.residual(x)
        fit = self.fidelity.value_of(residual)
        return Point(x, residual, fit, torch.zeros_like(fit) if self.prior is None else self.prior.value(x))

    def proximal(self, v: Tensor) -> Tensor:
        """prox_{s r}(v)."""
        assert self.prior is not None
        weight = self.step.to(real_dtype(v)) if isinstance(self.step, Tensor) else self.step
        return self.prior.prox(v, torch.ones(len(v), dtype=real_dtype(v), device=v.device) * weight)

    def descended(self, x: Tensor, grad: Tensor) -> Tensor:
        """A proximal gradient step from x: it decreases F by (1/(2s) - L/2) times its square."""
        return self.proximal(x - each(self.step, x) * grad)

    def move(self, p: Point) -> Tensor:
        """The length [B] of that step, 0 where x is stationary."""
        return sum_of_squares(self.descended(p.x, self.fidelity.grad_of(p.residual, p.x)) - p.x).sqrt()

    def candidate(self, x: Tensor, v: Tensor) -> Candidate:
        """Where the proposal v leads from x."""
        f, mu, s = self.fidelity, self.mu, self.step
        grad = f.grad(v)
        p = self.point(self.proximal(v - each(s, v) * (grad + each(mu, v) * (v - x))))
        new = f.grad_of(p.residual, p.x)
        error = each(mu - 1 / s, v) * (p.x - v) - grad + new
        square, size = sum_of_squares(p.x - x), sum_of_squares(error).sqrt()
        return Candidate(**vars(p), grad=new, square=square, error=size, bound=self.share * mu * square.sqrt())

    def accepted(self, c: Candidate, before: Tensor, rule: str, least: Tensor | None = None) -> Tensor:
        """Where [B] a candidate is good enough by a rule of RULES, F having been `before`; NaN and Inf never are.

        "descent" asks for the bound of the error and the decrease of F that belongs to it, "paper" for the bound
        alone, "monotone" for any decrease alone. Where F is at most `least` [B], what a proximal gradient step from x
        reaches, it makes up for the bound.
        """
        good = (c.square > 0) & torch.isfinite(c.square)
        if rule != "monotone":
            near = c.error <= c.bound
            good &= near if least is None else near | (c.objective <= least)
        if rule == "descent":
            good &= c.objective <= before - self.mu * (0.25 - self.share**2) * c.square
        if rule == "monotone":
            good &= c.objective <= before
        return good


def each(value: float | Tensor, like: Tensor) -> float | Tensor:
    """A number, or one of each image [B] as it meets images."""
    return column(value, like) if isinstance(value, Tensor) else value


def starting_images(op: str, operator: LinearOperator, y: Tensor, x0: Tensor | None) -> Tensor:
    """x0, or the adjoint of A at y, complex where y is.

    Raises:
        ValueError: y or x0 does not fit.
    """
    expect(isinstance(y, Tensor) and y.ndim > 0, op, "y", "measurements [B, ...], a tensor", y)
    expect(x0 is None or isinstance(x0, Tensor), op, "x0", "a tensor or None", x0)
    x = operator.apply_adjoint(y) if x0 is None else x0
    fits = x.ndim == 4 and len(x) == len(y) and (x.is_floating_point() or x.is_complex())
    expect(fits, op, "x0", f"a batch of {len(y)} images [B, C, H, W]", x)
    return x.to(y.dtype) if y.is_complex() and not x.is_complex() else x


def safe_step(op: str, operator: LinearOperator, x: Tensor, given: float | None, norm: float | None = None) -> float:
    """The step given, or 0.99 / |A|^2 for images like x; `norm` is a known bound of |A|.

    Raises:
        ValueError: it is not below 1 / |A|^2.
    """
    norm = operator.norm(x.shape) if norm is None else norm
    limit = 1 / max(norm**2, torch.finfo(torch.float32).tiny)
    step = 0.99 * limit if given is None else given
    expect(step < limit, op, "step", f"a number below 1 / |A|^2 = {limit:.6g}", step)
    return step


def relative(move: Tensor, x: Tensor) -> Tensor:
    """A length over |x| [B], 0 where it is."""
    return torch.where(move == 0, 0, move / sum_of_squares(x).sqrt())
