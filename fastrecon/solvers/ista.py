"""ISTA and FISTA with a fixed step or backtracking, each image with its own.

Source: Beck & Teboulle, A Fast Iterative Shrinkage-Thresholding Algorithm for Linear Inverse Problems, SIAM J. Imaging
Sci. 2 (2009).
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from fastrecon import ops
from fastrecon.checks import behind, expect
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.layout import real_dtype
from fastrecon.ops.prox_gradient_iterations import lerp, next_theta
from fastrecon.solvers.in_cache import InCache, known
from fastrecon.solvers.lasso import Lasso, LassoState
from fastrecon.solvers.safeguard import choose, everywhere

prox_gradient_step, squares = behind(ops.prox_gradient_step), behind(ops.squares)

RULES = ("fixed", "backtracking")


@dataclass(frozen=True)
class IstaState(LassoState):
    """The iterate and its trial step."""

    step: Tensor  # [B] 1 / L_k, float64
    y: Tensor


@dataclass(frozen=True)
class FistaState(IstaState):
    """With the point where FISTA takes its gradient."""

    v: Tensor  # [B, ...]
    residual_v: Tensor  # A v - y
    theta: Tensor  # [B] t_k of the paper, float64


S = TypeVar("S", bound=IstaState)


class _Backtracking(Lasso[S]):
    """Args as of Lasso, and:

    rule: "fixed": step 1 / L. "backtracking": L_0 = L / 8, and L_k doubles where f(x+) exceeds the quadratic model; a
        step that was not accepted costs its image one iteration, so that no iteration applies A twice.
    lipschitz: with backtracking any first guess will do.
    """

    def __init__(
        self, operator: LinearOperator, lam: float | Tensor, lipschitz: float | Tensor | None = None,
        rule: str = "fixed",
    ):  # fmt: skip
        super().__init__(operator, lam, lipschitz)
        expect(rule in RULES, type(self).__name__, "rule", " or ".join(RULES), repr(rule))
        self.rule = rule

    def first_step(self, x: Tensor) -> Tensor:
        """[B]."""
        return self.steps(x) * (8 if self.rule == "backtracking" else 1)

    def several(
        self, s: S, y: Tensor, iterations: int, looks: int, lasting: bool, given: Tensor | None
    ) -> InCache | None:
        """Of ISTA and FISTA themselves, in wavelet coefficients of images, by the operators that are compiled."""
        found = known(self.operator, s.x, y) if type(self).step in (ISTA.step, FISTA.step) else None
        return found and InCache(self, found, y, iterations, looks, lasting, given, s.x[..., :0])

    def accepted(
        self, step: Tensor, square: Tensor, image: Tensor, before: Tensor | None = None, whole: Tensor | None = None
    ) -> Tensor | None:
        """Whether f(v + z) <= f(v) + <grad, z> + |z|^2 / (2 step): here |A z|^2 <= |z|^2 / step, exactly; None for all.

        Args:
            step, square: step and |z|^2, [B].
            image: A z; or A (v + z) - y, where `before` is A v - y and `whole` A (v + z).
        """
        if self.rule == "fixed":
            return None
        unit = torch.finfo(real_dtype(image)).eps
        size, bound = squares(image, before), square / step * (1 + 64 * unit)
        good = size <= bound
        if whole is None or everywhere(good):
            return good
        return size <= bound + (8 * unit) ** 2 * squares(whole)  # what rounding makes of a difference must not count


class ISTA(_Backtracking[IstaState]):
    """x+ = soft(x - step grad f(x), step lam)."""

    period = 1

    def start(self, x: Tensor, y: Tensor) -> IstaState:
        """The state at x."""
        return IstaState(**vars(self.first(x, y)), step=self.first_step(x), y=y)

    def step(self, s: IstaState, k: int) -> IstaState:
        """One iteration. F never increases."""
        grad = self.operator.apply_adjoint(s.residual)
        z, _, square, l1 = prox_gradient_step(s.x, grad, s.step.to(real_dtype(s.x)), self.lam)
        image = self.operator.forward(z)
        x, residual = s.x + z, s.residual + image
        good = self.accepted(s.step, square, image)
        new = IstaState(x, residual, squares(residual) / 2 + l1, square, s.used, s.step, s.y)
        return new if good is None else choose(good, new, replace(s, step=s.step / 2))


def extrapolated(s: FistaState, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """v+ with A v+ - y and t+, from the state before and the new x with A x - y."""
    theta = next_theta(s.theta)
    weight = 1 + (s.theta - 1) / theta
    return lerp(s.x, x, weight), lerp(s.residual, residual, weight), theta


class FISTA(_Backtracking[FistaState]):
    """x+ = soft(v - step grad f(v), step lam), v+ = x+ + (t - 1) / t+ (x+ - x), t+ = (1 + sqrt(1 + 4 t^2)) / 2."""

    period = 1

    def start(self, x: Tensor, y: Tensor) -> FistaState:
        """The state at x, without momentum."""
        s, step = self.first(x, y), self.first_step(x)
        return FistaState(**vars(s), step=step, y=y, v=s.x, residual_v=s.residual, theta=torch.ones_like(step))

    def step(self, s: FistaState, k: int) -> FistaState:
        """One iteration. F may increase."""
        grad = self.operator.apply_adjoint(s.residual_v)
        z, _, square, l1 = prox_gradient_step(s.v, grad, s.step.to(real_dtype(s.x)), self.lam)
        x = s.v + z
        image = self.operator.forward(x)  # not A z: in sums of those rounding grows with the square of the iterations
        residual = image - s.y
        v, residual_v, theta = extrapolated(s, x, residual)
        good = self.accepted(s.step, square, residual, s.residual_v, image)
        new = FistaState(x, residual, squares(residual) / 2 + l1, square, s.used, s.step, s.y, v, residual_v, theta)
        return new if good is None else choose(good, new, replace(s, step=s.step / 2))
