"""Line search of many images at once: each has its own step, its own trials, its own end."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrecon.checks import integer, number

BLIND_TRIALS = 16  # the trained models take at most 7


@dataclass(frozen=True)
class Search:
    """Per image: the step, whether it was accepted, and how many were tried."""

    step: Tensor
    accepted: Tensor
    trials: Tensor


def _check(op: str, shrink: float, max_trials: int) -> None:
    number(shrink, op, "shrink", above=0, below=1)
    integer(max_trials, op, "max_trials", least=1)


def backtrack(
    accept: Callable[[Tensor, Tensor], Tensor], step: Tensor, shrink: float = 0.5, max_trials: int = 60
) -> Search:
    """Shrinks each step until it is accepted.

    Args:
        accept: `accept(step, which)` says for the images `which` [P] whether their steps [P] will do, [P] bool. It is
            asked about an image only until it accepts: what it keeps of its last call belongs to the accepted step.
        step: first steps [B], > 0.
        shrink: factor between trials, in (0, 1).
        max_trials: an image that accepts none of so many keeps its last step, not accepted.

    Raises:
        ValueError: shrink or max_trials is out of range.
    """
    _check("backtrack", shrink, max_trials)
    step, trials = step.clone(), torch.zeros_like(step, dtype=torch.int64)
    accepted = torch.zeros_like(step, dtype=torch.bool)
    which = torch.arange(len(step), device=step.device)
    for trial in range(max_trials):
        if trial:
            step[which] *= shrink
        good = accept(step[which], which)
        trials[which] += 1
        accepted[which] = good
        which = which[~good]
        if len(which) == 0:
            break
    return Search(step, accepted, trials)


def backtrack_blind(
    accept: Callable[[Tensor, Tensor], Tensor], step: Tensor, shrink: float = 0.5, max_trials: int = BLIND_TRIALS
) -> Search:
    """As `backtrack`, asking the host nothing: `accept` is asked about all images `max_trials` times, about those whose
    step it has accepted at that step again.
    """
    _check("backtrack_blind", shrink, max_trials)
    trials, accepted = torch.zeros_like(step, dtype=torch.int64), torch.zeros_like(step, dtype=torch.bool)
    everyone = torch.arange(step.shape[0], device=step.device)
    for trial in range(max_trials):
        if trial:
            step = torch.where(accepted, step, shrink * step)
        trials += ~accepted
        accepted = accepted | accept(step, everyone)
    return Search(step, accepted, trials)
