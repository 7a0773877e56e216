"""Line searches of many images at once: each has its own step, its own trials, its own end. They know no solver."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrecon.checks import integer, number
from fastrecon.ops.reductions import inner, sum_of_squares
from fastrecon.terms.base import Evaluation

ROUNDING = 8  # units in the last place of a sum over an image
TRIALS, FIXED_TRIALS = 60, 16  # at most; the trained models take at most 7
FIRST_STEPS = ("barzilai-borwein", "grow")


@dataclass(frozen=True)
class Search:
    """Per image: the step, whether it was accepted, and how many were tried."""

    step: Tensor
    accepted: Tensor
    trials: Tensor


def backtrack(
    accept: Callable[[Tensor, Tensor], Tensor], step: Tensor, shrink: float = 0.5, max_trials: int | None = None,
    sync: bool = True,
) -> Search:  # fmt: skip
    """Shrinks each step until it is accepted.

    Args:
        accept: `accept(step, which)` says for the images `which` [P] whether their steps [P] will do, [P] bool. What it
            keeps of its last call about an image belongs to that image's step.
        step: first steps [B], > 0.
        shrink: factor between trials, in (0, 1).
        max_trials: an image that accepts none of so many keeps its last step, not accepted. None: TRIALS, and
            FIXED_TRIALS without `sync`.
        sync: whether the host may wait for the answers. Then `accept` is asked about an image only until it accepts;
            else it is asked about all images `max_trials` times, about those that have accepted at the same step again.

    Raises:
        ValueError: shrink or max_trials is out of range.
    """
    number(shrink, "backtrack", "shrink", above=0, below=1)
    most = TRIALS if sync else FIXED_TRIALS
    most = most if max_trials is None else integer(max_trials, "backtrack", "max_trials", least=1)
    trials, accepted = torch.zeros_like(step, dtype=torch.int64), torch.zeros_like(step, dtype=torch.bool)
    which = torch.arange(step.shape[0], device=step.device)
    for trial in range(most):
        if trial:
            step = torch.where(accepted, step, shrink * step)
        trials = trials + ~accepted
        if not sync:
            accepted = accepted | accept(step, which)
            continue
        accepted = accepted.index_copy(0, which, accept(step[which], which))
        which = (~accepted).nonzero().flatten()
        if len(which) == 0:
            break
    return Search(step, accepted, trials)


def first_step(rule: str, d: Tensor, change: Tensor, fallback: Tensor, k: int, most: float) -> Tensor:
    """The step [B] to try first in iteration k, from the last move d and the change of the gradient along it.

    Args:
        rule: of FIRST_STEPS. "grow": the fallback. "barzilai-borwein": their two steps in turn, at most `most`, and the
            fallback where the curvature along d is not positive or not known (NaN). Source: Barzilai & Borwein,
            Two-Point Step Size Gradient Methods, IMA J. Numer. Anal. 8 (1988).
        fallback: steps [B].
    """
    if rule == "grow":
        return fallback
    along = inner(d, change)
    step = sum_of_squares(d) / along if k % 2 else along / sum_of_squares(change)
    return torch.where((along > 0) & torch.isfinite(step), step.clamp_max(most), fallback)


def change_of(start: Evaluation, end: Evaluation, d: Tensor) -> Tensor:
    """r(x + d) - r(x) [B], float64, of a smooth term r from its evaluations at both ends of d.

    The difference of the two values, unless the mean of the slopes at both ends agrees with it to rounding; then the
    slopes, which do not cancel, are the more accurate of the two.
    """
    by_values = end.value.double() - start.value.double()
    by_slopes = inner(start.grad, d) / 2 + inner(end.grad, d) / 2
    unit = ROUNDING * torch.finfo(start.value.dtype).eps * start.value.double().abs()
    return torch.where((by_values - by_slopes).abs() <= unit, by_slopes, by_values)
