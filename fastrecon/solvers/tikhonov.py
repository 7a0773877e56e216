"""Method "tikhonov": min |A x - y|^2 / 2 + lam |P x|^2 / 2, P the gradient of images or the identity.

In closed form, in float64, where A and P are diagonal together; by conjugate gradients for every other operator. The
weight is that at which |A x - y| is what the noise makes it (Morozov), and without noise that of generalised
cross-validation, whose trace takes one random probe where there is no closed form.

Source: Tikhonov & Arsenin, Solutions of Ill-Posed Problems, Winston 1977; Golub, Heath & Wahba, Generalized
Cross-Validation as a Method for Choosing a Good Ridge Parameter, Technometrics 21 (1979).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrecon.certificates import ITERATION_LIMIT
from fastrecon.operators.base import itself
from fastrecon.ops.reductions import inner, sum_of_squares
from fastrecon.options import check, option
from fastrecon.solvers.base import column
from fastrecon.solvers.linear import Map, certificate, gain, laplacian, least, like_images, wrapped_laplacian
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, method
from fastrecon.solvers.wiener import Spectrum, spectrum, weight
from fastrecon.terms.conjugate_gradients import conjugate_gradients

HALVINGS = 12  # of the range of log10 lam / |A|^2, by conjugate gradients
RANGE = (-8.0, 2.0)
TRIED = (-1, -2, -3, -4, -5, -6)  # log10 lam / |A|^2 that cross-validation compares there


@dataclass(frozen=True)
class TikhonovOptions:
    """Options of Tikhonov's method."""

    lam: str = option("weight: a number; auto: by the noise, where unknown by generalised cross-validation", "auto")
    penalty: str = option("what is squared: gradient of the image, or identity", "gradient",
                          choices=("gradient", "identity"))  # fmt: skip
    iterations: int = option("at most so many conjugate gradients for a weight", 200, within="[1, 1e6]", type=int)
    tol: float = option("relative residual at which they end", 1e-5, within="[0, 1]", type=float)

    def __post_init__(self):
        check(self, "tikhonov")
        weight(self.lam, "tikhonov")


def numbers(y: Tensor) -> Tensor:
    """How many real numbers were measured of each image [B]: what is exactly 0 was not."""
    return (2 if y.is_complex() else 1) * (y != 0).flatten(1).sum(1).double()


def halved(misfit: Callable[[Tensor], Tensor], target: Tensor, scale: Tensor | float, steps: int) -> Tensor:
    """Weights [B] at which misfit(weights), which grows with them, is the target [B]."""
    low, high = (torch.full_like(target, end) for end in RANGE)
    for _ in range(steps):
        middle = (low + high) / 2
        above = misfit(scale * 10**middle) > target
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return scale * 10**low


def _closed(found: Spectrum, inverse: Inverse) -> Tensor:
    """The weight [B] where all is diagonal."""
    s, z = found.factors.abs().square(), found.measured.abs().square()
    told = (s > 0).expand(z.shape)
    total = lambda t: torch.where(told, t.expand(z.shape), 0).flatten(1).sum(1)  # noqa: E731
    peak = torch.where(told, s.expand(z.shape), 0).flatten(1).amax(1).clamp_min(1e-300)

    def left(w: Tensor) -> Tensor:
        grown = column(w, z) * found.penalty
        return grown / (s + grown).clamp_min(1e-300)

    if inverse.noise:
        each = 2 if inverse.y.is_complex() else 1
        target = total(torch.full_like(z, each * inverse.noise**2))
        return halved(lambda w: total(left(w).square() * z), target, peak, 60)
    return least(lambda w: total(left(w).square() * z).clamp_min(1e-300).log() - 2 * total(left(w)).log(), -16, 2, peak)


@method("tikhonov", TikhonovOptions, "smooth images: squared gradient, by closed form or conjugate gradients")
def tikhonov(options: TikhonovOptions, device: torch.device) -> Runner:
    """Images [B, C, H, W] of any operator."""

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        x0 = like_images(inverse, inverse.first())
        given, found = weight(options.lam, "tikhonov"), spectrum(inverse, x0, options.penalty)
        if found is None:
            return _iterated(inverse, x0, given, options, watch)
        w = _closed(found, inverse) if given is None else torch.full((len(x0),), given, device=x0.device).double()
        x = found.solve(w).to(x0.dtype)
        done, none = torch.ones_like(w, dtype=torch.bool), torch.zeros_like(w, dtype=torch.int64)
        penalty = itself if options.penalty == "identity" else wrapped_laplacian
        return Outcome(x, certificate(inverse, x, w, penalty, none, done, "closed form"))

    return run


def _iterated(
    inverse: Inverse, x0: Tensor, given: float | None, options: TikhonovOptions, watch: Watch | None
) -> Outcome:
    a, y, size = inverse.operator, inverse.y, (x0.shape[-2], x0.shape[-1])
    penalty: Map = itself if options.penalty == "identity" else laplacian
    scale = gain(a, x0, inverse.norm) ** 2 or 1.0
    solves = 1 if given is not None else HALVINGS + 1 if inverse.noise else 2 * len(TRIED) + 1
    x, done, count = torch.zeros_like(x0), torch.zeros(len(x0), dtype=torch.bool, device=x0.device), None
    made = 0

    def solve(w: Tensor, y: Tensor, start: Tensor) -> Tensor:
        nonlocal done, count, made
        v = column(w, start).to(start.dtype)

        def normal(x: Tensor) -> Tensor:
            return a.apply_adjoint(a.forward(x), size) + v * penalty(x)

        first = a.apply_adjoint(y, size) - normal(start)
        # the tolerance is meant for A* y, not for what is left of it at the start
        ends = options.tol * (sum_of_squares(a.apply_adjoint(y, size)) / sum_of_squares(first).clamp_min(1e-300)).sqrt()
        ran = conjugate_gradients(normal, first, float(ends.min()), options.iterations, 10 if y.is_cuda else 1)
        done, count = ran.converged, ran.iterations if count is None else count + ran.iterations
        made += 1
        if watch is not None:
            watch(made, solves, lambda: start + ran.x, "weights")
        return start + ran.x

    if given is not None:
        w = torch.full((len(x0),), given, dtype=torch.float64, device=x0.device)
    elif inverse.noise:
        target = numbers(y) * inverse.noise**2

        def misfit(w: Tensor) -> Tensor:
            nonlocal x
            x = solve(w, y, x)
            return sum_of_squares(a.forward(x) - y)

        w = halved(misfit, target, scale, HALVINGS)
    else:
        w = _validated(inverse, x0, scale, solve)
    x = solve(w, y, x)
    assert count is not None
    return Outcome(x, certificate(inverse, x, w, penalty, count, done, ITERATION_LIMIT))


def _validated(inverse: Inverse, x0: Tensor, scale: float, solve: Callable[..., Tensor]) -> Tensor:
    """The best of the weights tried [B], by generalised cross-validation."""
    a, y = inverse.operator, inverse.y
    generator = torch.Generator().manual_seed(0)
    probe = (torch.randint(2, y.shape, generator=generator) * 2 - 1).to(y) * (y != 0)
    x = pilot = torch.zeros_like(x0)
    best = chosen = None
    for power in TRIED:
        w = torch.full((len(y),), scale * 10.0**power, dtype=torch.float64, device=y.device)
        x, pilot = solve(w, y, x), solve(w, probe, pilot)
        trace = inner(probe, probe - a.forward(pilot)).clamp_min(1e-300)
        score = sum_of_squares(a.forward(x) - y) / trace.square()
        better = torch.ones_like(score, dtype=torch.bool) if best is None else score < best
        best = score if best is None else torch.where(better, score, best)
        chosen = w if chosen is None else torch.where(better, w, chosen)
    assert chosen is not None
    return chosen
