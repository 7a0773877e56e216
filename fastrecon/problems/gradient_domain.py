"""Deconvolution of slopes, the experiment of Table 1 of PADNet: ADMM, HQS and PADNet on one energy, side by side.

min_g sum over both directions of |kernel * g_c - D_c y|^2 / 2 + lam |g|_p^p, y = kernel * x + noise, for the slopes
g = D x. Where a paper leaves numbers open, those here are ours.

Source: Liu, Fan, Cheng, Wang & Luo, Proximal Alternating Direction Network, AAAI 2018 (arXiv:1711.07653), sec. 5.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastrecon.checks import expect, integer, named, number
from fastrecon.operators import Blur, Gradient, LinearOperator
from fastrecon.ops.reductions import sum_of_squares
from fastrecon.problems.base import add_noise
from fastrecon.solvers import ADMM, HQS, PADNet
from fastrecon.solvers.hqs import continuation
from fastrecon.terms import Lp

ADMM_PENALTY = 0.03  # fixed, as there
HQS_PENALTIES = (0.01, 100.0, 1.25)  # first, last, growth


@dataclass(frozen=True)
class Course:
    """What a method did on every image of a batch.

    Attributes:
        iterations: [B] until |g_k - g_(k-1)| <= tol |g_k|, int64; the limit where that was never so.
        error: [B] |g - D x| / |D x| there.
        errors, changes: [iterations, B] of every iteration, the errors and the relative changes.
    """

    iterations: Tensor
    error: Tensor
    errors: Tensor
    changes: Tensor


def gradient_deconvolution(
    x: Tensor, kernel: Tensor, p: float, lam: float, *, noise: float = 0.01, seed: int = 0, tol: float = 1e-3,
    iterations: int = 60, units: Any = None, implicit: Any = None, padnet: Mapping[str, Any] | None = None,
) -> dict[str, Course]:  # fmt: skip
    """The courses of "admm" and "hqs", of "epadnet" with given `units`, of "ipadnet" with those of `implicit`.

    The estimate 0 has error 1: methods above it are no help.

    Args:
        x: sharp images [B, 1, H, W] on [0, 1].
        kernel: [h, w], odd, applied with a circular boundary.
        p: exponent in [0, 1].
        lam: weight, >= 0.
        noise: standard deviation, on the same scale; drawn from `seed`.
        tol: relative change at which an image is done.
        iterations: at most so many.
        units, implicit: see solvers.padnet.Units; they take slopes [B, 2, H, W]. None: that variant is left out.
        padnet: further options of PADNet.

    Raises:
        ValueError: an argument does not fit.
    """
    op = "gradient_deconvolution"
    fits = isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] == 1 and x.is_floating_point() and len(x) > 0
    expect(fits, op, "x", "grey images [B, 1, H, W]", named(x))
    iterations, tol = integer(iterations, op, "iterations", least=1), number(tol, op, "tol", least=0)
    lam, noise = number(lam, op, "lam", least=0), number(noise, op, "noise", least=0)
    blur, d, prior, more = Blur(kernel), Gradient(), Lp(lam, p), dict(padnet or {})
    b, truth = d(add_noise(blur(x), noise, seed)), d(x)
    several: dict[str, Any] = solvers(blur, lam, p)
    if units is not None:
        several["epadnet"] = PADNet(blur, prior, units, **more)
    if implicit is not None:
        several["ipadnet"] = PADNet(blur, None, implicit, **more)
    return {
        name: course(lambda note, s=s: s(b, b, iterations, 0.0, callback=note), b, truth, tol)
        for name, s in several.items()
    }


def solvers(blur: LinearOperator, lam: float, p: float) -> dict[str, ADMM | HQS]:
    """The classical ones on the same energy: "admm" and "hqs"."""
    prior = Lp(lam, p)
    return {
        "admm": ADMM(blur, prior, ADMM_PENALTY, relaxation=1.0, adaptive=False),
        "hqs": HQS(blur, prior, continuation(*HQS_PENALTIES)),
    }


def course(run: Callable[[Callable[[int, Any], None]], object], start: Tensor, truth: Tensor, tol: float) -> Course:
    """The course of a method, `run(note)`, that calls note(k, state) with slopes state.x after every iteration."""
    errors: list[Tensor] = []
    changes: list[Tensor] = []
    last, size = start, sum_of_squares(truth).sqrt()

    def note(k: int, s: Any) -> None:
        nonlocal last
        errors.append(sum_of_squares(s.x - truth).sqrt() / size)
        changes.append(sum_of_squares(s.x - last).sqrt() / sum_of_squares(s.x).sqrt().clamp_min(1e-300))
        last = s.x

    run(note)
    error, change = torch.stack(errors), torch.stack(changes)
    small = change <= tol
    first = torch.where(small.any(0), small.int().argmax(0), len(small) - 1)
    return Course(first + 1, error.gather(0, first[None])[0], error, change)
