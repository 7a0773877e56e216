"""SGP: scaled gradient projection with step sizes from a network, safeguarded so that any network converges.

Source: Lee & Chun, Accelerating Optimization Algorithms With Dynamic Parameter Selections Using Convolutional Neural
Networks for Inverse Problems in Image Processing, Algorithms 3 and 4. The default line search is the composite one of
Bonettini, Loris, Porta & Prato, SIAM J. Optim. 26 (2016); the paper's compares f alone and may accept no step at all.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon import ops
from fastrecon.checks import behind, expect, flag, integer, number
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.armijo import MOST_TRIALS, armijo
from fastrecon.ops.layout import real_dtype, spread_over
from fastrecon.solvers.base import column
from fastrecon.solvers.joint import by_count
from fastrecon.solvers.lasso import Lasso, LassoState
from fastrecon.solvers.safeguard import choose

prox_gradient_step, squares = behind(ops.prox_gradient_step), behind(ops.squares)

Network = Callable[..., Tensor]
LIMITS = (1e-2, 1e2)  # of step sizes, in units of 1 / L
DESCENT, LENGTH = 1e-3, 1e3  # c1, c2: z must promise c1 of the decrease of z2 and be at most c2 times as long


def _pair(limits: Any) -> tuple[float, float]:
    """The two numbers of `limits`."""
    two = isinstance(limits, Sequence) and not isinstance(limits, str) and len(limits) == 2
    expect(two, "SGP", "limits", "two numbers > 0 around 1", repr(limits))
    low, high = (number(v, "SGP", "limits") for v in limits)
    expect(0 < low <= 1 <= high, "SGP", "limits", "two numbers > 0 around 1", limits)
    return low, high


@dataclass(frozen=True)
class SGPState(LassoState):
    """The iterate, and how far its network is trusted."""

    t: Tensor  # [B] 1 / L, float64
    gamma1: Tensor  # [B] weight of the network's direction, never increases, float64
    trusted: Tensor  # [B] bool: whether the network is still asked


class SGP(Lasso[SGPState]):
    """With g = grad f(x), t = 1 / L and d = t network(x, g), each iteration of each image is

        x~ = soft(x - d g, lam d),  z1 = soft(x~ - t grad f(x~), lam t) - x,  z2 = soft(x - t g, lam t) - x,
        z  = gamma1 z1 + (1 - gamma1) z2,  or z2 where that is safer,
        x+ = x + gamma2 z with gamma2 from 1, eta, eta^2, ... by Armijo's rule, and gamma1 shrinks with gamma2.

    z2 is taken, and the network never asked again, once gamma1 |z1| <= alpha (1 - gamma1) |z2|. With the composite rule
    z2 is also taken, for this iteration, unless z promises enough decrease and is not too long (DESCENT, LENGTH); then
    sum gamma2 |delta| is finite, z2 tends to 0, and every limit point minimises F whatever the network answers.
    Without a network this is ISTA: one A and one adjoint an iteration; with it, two each.

    Args:
        operator, lam, lipschitz: as of Lasso.
        network: network(x, g) gives step sizes in units of t: [B], [B, 1, ...] or, for a diagonal metric, real and
            broadcastable to x; anything else raises ValueError. They are clamped to `limits`; NaN counts as 1. One with
            a true attribute `dimensionless` is called as network(x / (lam t), g / lam, k), k = 0, 1, ... (the largest
            lam of each image). None: ISTA.
        rule: "composite": F(x + gamma2 z) <= F(x) + beta gamma2 delta. "paper": the same for f alone, at most `trials`
            times; where no step is accepted, x+ = x + z2, which costs one A more.
        alpha, beta, eta1, eta2: of the rules above; eta1 is the factor of gamma1, eta2 that of gamma2.
        gamma1: first weight of z1, in (0, 1].
        trials: length of the ladder of gamma2.
        network_iterations: after so many the network is not asked any more; None: always.
        limits: smallest and largest step size in units of t; None takes the network's own `limits`, or LIMITS.
        bonettini: whether to keep the metric within 1 / delta_k <= d / t <= delta_k, delta_k^2 = 1 + 100 / (k + 1)^2.1,
            whose sum converges (Bonettini & Prato, New Convergence Results for the Scaled Gradient Projection Method,
            Inverse Problems 31 (2015)).
    """

    period, counts = 1, True

    def __init__(
        self, operator: LinearOperator, lam: float | Tensor, lipschitz: float | Tensor | None = None,
        network: Network | None = None, *, rule: str = "composite", alpha: float = 0.1, beta: float = 1e-4,
        eta1: float = 0.5, eta2: float = 0.5, gamma1: float = 1.0, trials: int = 50,
        network_iterations: int | None = None, limits: tuple[float, float] | None = None, bonettini: bool = False,
    ):  # fmt: skip
        super().__init__(operator, lam, lipschitz)
        expect(rule in ("composite", "paper"), "SGP", "rule", "composite or paper", repr(rule))
        number(alpha, "SGP", "alpha", above=0)
        number(beta, "SGP", "beta", above=0, most=0.5)  # beyond, z2 itself may be refused
        number(eta1, "SGP", "eta1", above=0, below=1)
        number(eta2, "SGP", "eta2", above=0, below=1)
        number(gamma1, "SGP", "gamma1", above=0, most=1)
        integer(trials, "SGP", "trials", least=1, most=MOST_TRIALS)
        flag(bonettini, "SGP", "bonettini")
        if network_iterations is not None:
            integer(network_iterations, "SGP", "network_iterations", least=0)
        expect(network is None or callable(network), "SGP", "network", "a function or None", repr(network))
        self.network = network
        if isinstance(network, nn.Module):
            network.eval()
        self.limits = _pair(getattr(network, "limits", LIMITS) if limits is None else limits)
        self.rule, self.alpha, self.beta, self.eta1, self.eta2 = rule, alpha, beta, eta1, eta2
        self.gamma1, self.trials, self.bonettini = gamma1, trials, bonettini
        self.network_iterations = math.inf if network_iterations is None else network_iterations

    def start(self, x: Tensor, y: Tensor) -> SGPState:
        """The state at x."""
        t = self.steps(x)
        trusted = torch.full_like(t, self.network is not None, dtype=torch.bool)
        full = torch.full_like(t, self.gamma1)
        return SGPState(**vars(self.first(x, y)), t=t, gamma1=full, trusted=trusted)

    @property
    def shares(self) -> bool:
        """Whether batches may be put together: who knows what networks of others make of them."""
        return self.network is None or getattr(self.network, "joins", False) is True

    def metric(self, x: Tensor, grad: Tensor, t: Tensor, k: Any) -> Tensor:
        """d: step sizes [B, 1, ...], or like the real part of x."""
        seen = x, grad
        if getattr(self.network, "dimensionless", False):
            lam = spread_over(self.lam, x, "SGP", "lam").amax(1).clamp_min(torch.finfo(real_dtype(x)).tiny)
            seen = x / column(lam * t.to(lam), x), grad / column(lam, x)
        return column(t, x) * by_count(self._sizes, k, *seen)

    def _sizes(self, k: int, x: Tensor, grad: Tensor) -> Tensor:
        """What the network says in iteration k, in units of t."""
        assert self.network is not None
        dimensionless = getattr(self.network, "dimensionless", False)
        d = self.network(x, grad, k) if dimensionless else self.network(x, grad)
        b = x.shape[0]
        expected = f"real step sizes ({b},) or broadcastable to {tuple(x.shape)}, on {x.device}"
        fits = isinstance(d, Tensor) and d.is_floating_point() and d.device == x.device
        expect(fits, "SGP", "network", expected, d if isinstance(d, Tensor) else type(d).__name__)
        if d.shape == (b,):
            d = column(d, x)
        fits = d.ndim == x.ndim and all(a in (1, s) for a, s in zip(d.shape, x.shape, strict=True))
        expect(fits, "SGP", "network", expected, d)
        low, high = self.limits
        if self.bonettini:
            bound = math.sqrt(1 + 100 / (k + 1) ** 2.1)
            low, high = max(low, 1 / bound), min(high, bound)
        return d.to(real_dtype(x)).nan_to_num(1.0, high, low).clamp(low, high)

    def relaxed(self, s: SGPState, grad: Tensor, z2: Tensor, square2: Tensor, k: Any) -> tuple[Tensor, Tensor, Tensor]:
        """z for each image, whether the network is trusted on, and whether z is the network's."""
        t = s.t.to(real_dtype(s.x))
        d = self.metric(s.x, grad, s.t, k)
        first = prox_gradient_step(s.x, grad, d, self.lam)[0]
        middle = s.x + first
        again = self.operator.apply_adjoint(s.residual + self.operator.forward(first))
        z1 = first + prox_gradient_step(middle, again, t, self.lam)[0]
        long = s.gamma1 * squares(z1).sqrt() > self.alpha * (1 - s.gamma1) * square2.sqrt()
        trusted = s.trusted & long
        if isinstance(k, Tensor):  # of images beyond the last iteration with a network nothing is known anew
            long |= k >= self.network_iterations
            trusted = s.trusted & long
        z = torch.lerp(z2, z1, column(s.gamma1, z1).to(z1.dtype))
        good = trusted & torch.isfinite(squares(z)) & (k < self.network_iterations)
        if self.rule == "composite":
            promise = armijo(s.x, z, grad, self.lam, torch.zeros_like(s.t), trials=1)
            good &= promise.delta <= -DESCENT * square2 / s.t
            good &= promise.square <= LENGTH**2 * square2
        return choose(good, z, z2), trusted, good

    def step(self, s: SGPState, k: Any) -> SGPState:
        """One iteration. With the composite rule F never increases."""
        grad = self.operator.apply_adjoint(s.residual)
        z2, _, square2, _ = prox_gradient_step(s.x, grad, s.t.to(real_dtype(s.x)), self.lam)
        z, trusted, used = z2, s.trusted, torch.zeros_like(s.trusted)
        least = k.min() if isinstance(k, Tensor) else k
        asked = self.network is not None and bool(least < self.network_iterations)
        if asked:
            z, trusted, used = self.relaxed(s, grad, z2, square2, k)
        image = self.operator.forward(z)
        found = armijo(
            s.x, z, grad, self.lam, squares(image), beta=self.beta, eta=self.eta2, trials=self.trials, rule=self.rule
        )
        gamma, change = found.gamma, found.change
        if self.rule == "composite":
            gamma, change = (torch.where(found.accepted, v, 0) for v in (gamma, change))
        else:  # no step of the ladder: x + z2, a plain iteration of ISTA
            image2 = self.operator.forward(z2) if asked else image
            plain = armijo(s.x, z2, grad, self.lam, squares(image2), trials=1, rule="paper")
            z, image = choose(found.accepted, z, z2), choose(found.accepted, image, image2)
            gamma = torch.where(found.accepted, gamma, 1)
            change = torch.where(found.accepted, change, plain.change)
        shrunk = found.gamma ** (math.log(self.eta1) / math.log(self.eta2))
        return replace(
            s, x=torch.addcmul(s.x, column(gamma, z).to(z.dtype), z),
            residual=torch.addcmul(s.residual, column(gamma, image).to(image.dtype), image),
            objective=s.objective + change, move=square2, gamma1=s.gamma1 * torch.where(used, shrunk, 1),
            trusted=trusted & (found.accepted | ~used), used=s.used + used,
        )  # fmt: skip

    @property
    def operator_calls(self) -> int:
        """Applications of A in an iteration: with a network one more, and with the paper's rule another."""
        return 1 if self.network is None else 3 if self.rule == "paper" else 2

    @property
    def adjoint_calls(self) -> int:
        """Applications of the adjoint of A in an iteration."""
        return 1 if self.network is None else 2
