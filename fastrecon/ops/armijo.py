"""How far to go along a direction z for F(x) = |A x - y|^2 / 2 + |lam x|_1, per image and without the host.

The data term of every trial step is known in closed form after one application of A,
f(x + gamma z) - f(x) = gamma <grad, z> + gamma^2 |A z|^2 / 2, and the l1 term of a whole ladder gamma = eta^j is
evaluated in one pass. With delta = <grad, z> + |lam (x + z)|_1 - |lam x|_1 the composite rule accepts the first
F(x + gamma z) - F(x) <= beta gamma delta + slack.
Source: Tseng & Yun, A Coordinate Gradient Descent Method for Nonsmooth Separable Minimization, Math. Program.
117 (2009); Bonettini, Loris, Porta & Prato, SIAM J. Optim. 26 (2016). Lee & Chun compare f alone (their eq. (5)).
"""

from functools import lru_cache
from itertools import accumulate
from operator import mul
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastrecon.checks import accepts_arrays, choice, expect, integer, number, per_image
from fastrecon.ops.by_image import by_image
from fastrecon.ops.function import differentiated, transformed
from fastrecon.ops.layout import (
    DTYPES,
    kept,
    plain,
    prepare,
    real_dtype,
    rows,
    size_of,
    spread_over,
    weights,
)
from fastrecon.ops.prox_gradient_step import strides
from fastrecon.registry import compiled, define

MOST_TRIALS = 64
RULES = ("composite", "paper")

Rule = tuple[float, float, int, bool]  # beta, eta, the trials, whether the composite rule


class Step(NamedTuple):
    """Per image [B]: the step (the last trial where none was accepted) and, in float64, what it does.

    Attributes:
        gamma: step, a power of eta, float64.
        change: F(x + gamma z) - F(x).
        delta: <grad, z> + |lam (x + z)|_1 - |lam x|_1, the change that the linear model of f promises at gamma = 1.
        slope: Re <grad, z>.
        square: |z|^2.
        accepted: bool.
    """

    gamma: Tensor
    change: Tensor
    delta: Tensor
    slope: Tensor
    square: Tensor
    accepted: Tensor


def ladder(eta: float, trials: int) -> list[float]:
    """1, eta, eta^2, ..., each the product of the last and eta, in every implementation."""
    return list(accumulate([1.0] + [eta] * (trials - 1), mul))


def decide(
    rises: Tensor, slope: Tensor, curvature: Tensor, slack: Tensor, beta: float, eta: float, composite: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """gamma, change and accepted [B] from the rises of the l1 term along the ladder [B, J]; float64."""
    # each made on the device: a copy from the host would make it wait
    gammas = torch.stack([rises.new_full((), g) for g in ladder(eta, rises.shape[1])]).expand(rises.shape)
    data = gammas * slope[:, None] + gammas.square() / 2 * curvature[:, None]
    target = slope + rises[:, 0] if composite else slope
    good = (data + rises if composite else data) <= beta * gammas * target[:, None] + slack[:, None]
    accepted = good.any(1)
    first = torch.where(accepted, good.int().argmax(1), rises.shape[1] - 1)[:, None]
    return gammas.gather(1, first)[:, 0], (data + rises).gather(1, first)[:, 0], accepted


def armijo_ref(
    x: Tensor, z: Tensor, grad: Tensor, lam: Tensor, curvature: Tensor, slack: Tensor, beta: float, eta: float,
    trials: int, composite: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The definition, x, z, grad [B, N], lam [1 or B, 1 or N], curvature and slack float64 [B].

    Returns gamma [B], sums [B, 4] (change, delta, slope, square), accepted bool [B].
    """
    wide = torch.complex128 if x.is_complex() else torch.float64
    x, z, grad, lam = x.to(wide), z.to(wide), grad.to(wide), lam.double()
    slope = (grad.conj() * z).real.sum(1) if x.is_complex() else (grad * z).sum(1)
    rises = torch.stack([(lam * ((x + step * z).abs() - x.abs())).sum(1) for step in ladder(eta, trials)], 1)
    gamma, change, accepted = decide(rises, slope, curvature, slack, beta, eta, composite)
    return gamma, torch.stack((change, slope + rises[:, 0], slope, z.abs().square().sum(1)), 1), accepted


def _cpu(
    x: Tensor, z: Tensor, grad: Tensor, lam: Tensor, curvature: Tensor, slack: Tensor, beta: float, eta: float,
    trials: int, composite: bool,
):  # fmt: skip
    if x.dtype not in DTYPES or x.numel() == 0 or lam.dtype != real_dtype(x):
        return NotImplemented
    x, z, grad = (plain(t) for t in (x, z, grad))
    lam, curvature, slack = (t.contiguous() for t in (lam, curvature, slack))
    gamma, sums = torch.empty(len(x), dtype=torch.float64), torch.empty(len(x), 4, dtype=torch.float64)
    accepted = torch.empty(len(x), dtype=torch.bool)
    code, batch, count = size_of(x)
    arrays = (x, z, grad, lam, curvature, slack, gamma, sums, accepted)
    compiled().armijo(code, *(t.data_ptr() for t in arrays), batch, count, *strides(lam), beta, eta, trials, composite)
    return gamma, sums, accepted


def _checked(beta: Any, eta: Any, trials: Any, rule: Any) -> Rule:
    """What decides, with the numbers that it may be.

    Raises:
        ValueError: one is not.
    """
    op = "armijo"
    beta = float(number(beta, op, "beta", above=0, below=1))
    eta = float(number(eta, op, "eta", above=0, below=1))
    trials = integer(trials, op, "trials", least=1, most=MOST_TRIALS)
    return beta, eta, trials, choice(rule, RULES, op, "rule") == "composite"


@lru_cache(maxsize=64, typed=True)
def _settings(beta: float, eta: float, trials: int, rule: str, slack: float, batch: int) -> tuple[Rule, Tensor, int]:
    """The same, and the slack with its address."""
    allowed = kept(slack, (batch,), torch.float64, "armijo", "slack")
    return _checked(beta, eta, trials, rule), allowed, allowed.data_ptr()


def _fake(x: Tensor, *_: Any):
    batch, sums = x.shape[0], x.new_empty(x.shape[0], 4, dtype=torch.float64)
    return x.new_empty(batch, dtype=torch.float64), sums, x.new_empty(batch, dtype=torch.bool)


_armijo = define(
    "armijo(Tensor x, Tensor z, Tensor grad, Tensor lam, Tensor curvature, Tensor slack, float beta, float eta,"
    " int trials, bool composite) -> (Tensor gamma, Tensor sums, Tensor accepted)",
    "armijo",
    ref=by_image(armijo_ref, 0, 1, 2, 3, 4, 5),
    cpu=_cpu,
    fake=_fake,
)


@accepts_arrays
def armijo(
    x: Tensor, z: Tensor, grad: Tensor, lam: float | Tensor, curvature: Tensor, slack: float | Tensor = 0.0, *,
    beta: float = 1e-4, eta: float = 0.5, trials: int = 20, rule: str = "composite",
) -> Step:  # fmt: skip
    """The first step gamma of 1, eta, eta^2, ... that the Armijo rule accepts, for each image.

    Args:
        x: iterates [B, ...], real or complex.
        z: directions, like x.
        grad: gradient of f at x, like x.
        lam: weight of |x|_1, >= 0: a number, [B], or real and broadcastable to x.
        curvature: |A z|^2 [B].
        slack: rounding to allow, >= 0: a number or [B].
        beta: share of the promised decrease that is asked for, in (0, 1).
        eta: factor between trials, in (0, 1).
        trials: length of the ladder, 1 to 64.
        rule: "composite" as above, or "paper": f(x + gamma z) - f(x) <= beta gamma <grad, z> + slack, which no step
            may ever fulfil.

    Returns:
        Step. Nothing is differentiable: a decision has no derivative.

    Raises:
        ValueError: shapes, types or devices do not fit, or an input requires gradients.
    """
    op = "armijo"
    numbers = type(slack) is type(beta) is type(eta) is float and type(trials) is int and type(rule) is str
    if numbers and (found := prepare("d4b", 3, x, z, grad, curvature)) and (weight := weights(lam, x, op, "lam")):
        (code, batch, count, gamma, change, delta, slope, square, accepted, x_at, z_at, grad_at, bend_at,
         gamma_at, sums_at, accepted_at) = found  # fmt: skip
        if curvature.dtype is not torch.float64:
            curvature = curvature.double()
            bend_at = curvature.data_ptr()
        # both tensors are held until the kernel has read them: the caches may forget them meanwhile
        decision, _slack, slack_at = _settings(beta, eta, trials, rule, slack, batch)
        _lam, lam_at, image, entry = weight
        compiled().armijo(
            code, x_at, z_at, grad_at, lam_at, bend_at, slack_at, gamma_at, sums_at, accepted_at, batch, count, image,
            entry, *decision,
        )  # fmt: skip
        return tuple.__new__(Step, (gamma, change, delta, slope, square, accepted))  # as Step(...), in half the time
    decision = _checked(beta, eta, trials, rule)
    expect(x.ndim >= 1 and (x.is_floating_point() or x.is_complex()), op, "x", "a real or complex [B, ...]", x)
    for argument, t in (("z", z), ("grad", grad)):
        same = t.shape == x.shape and t.dtype == x.dtype and t.device == x.device
        expect(same, op, argument, x, t)
    fits = curvature.shape == x.shape[:1] and curvature.is_floating_point() and curvature.device == x.device
    expect(fits, op, "curvature", f"real ({x.shape[0]},) on {x.device}", curvature)
    learned = differentiated(x, z, grad, curvature)
    expect(not learned, op, "x, z, grad, curvature", "no gradients asked for: detach them", "requires_grad or tangents")
    strength = spread_over(lam, x, op, "lam")
    spare = per_image(slack, curvature.double(), op, "slack", least=0)
    function = armijo_ref if transformed() else _armijo
    gamma, sums, accepted = function(rows(x), rows(z), rows(grad), strength, curvature.double(), spare, *decision)
    change, delta, slope, square = sums.unbind(1)
    return Step(gamma, change, delta, slope, square, accepted)
