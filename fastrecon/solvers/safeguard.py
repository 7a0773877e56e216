"""The safeguard of learned iterations: a candidate that passes a test is taken, a fallback that is known to be safe
elsewhere. Each image decides for itself.

The test is the method's own: its objective decreases, its residual shrinks, its certificate holds. What it must be for
the iteration to converge whatever the candidates are stands in the method's file.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor

from fastrecon.solvers.base import where

S = TypeVar("S")


def choose(good: Tensor, candidate: S, fallback: S | Callable[[], S]) -> S:
    """The candidate for the images where the test `good` [B] holds, the fallback for the others; NaN passes no test.

    Args:
        good: [B] bool.
        candidate: a tensor [B, ...], or a state of such.
        fallback: like it, or a function that computes it for all images, which is asked only where some image needs it;
            on a GPU and in a traced graph, where looking makes the host wait, always.
    """
    if everywhere(good):
        return candidate
    other = cast(S, fallback() if callable(fallback) else fallback)
    return where(good, candidate, other)


def everywhere(good: Tensor) -> bool:
    """Whether all images passed their test `good` [B]; False where the host would have to wait to know."""
    return not (good.is_cuda or torch.compiler.is_compiling()) and bool(good.all())
