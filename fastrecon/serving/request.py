"""A request on its way through a scheduler, and what can come back instead of a result."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from fastrecon.operators.base import LinearOperator
from fastrecon.operators.block_sensing import BlockSensing
from fastrecon.serving.fiber import Fiber
from fastrecon.serving.flow import Entry


class Busy(RuntimeError):
    """The queue is full: nothing was taken.

    Attributes:
        retry_after: seconds after which there should be room again.
    """

    def __init__(self, waiting: int, retry_after: float):
        super().__init__(f"Scheduler: queue: expected room for a request, got {waiting} waiting")
        self.retry_after = retry_after


class Late(TimeoutError):
    """The deadline of a request came before its answer."""

    def __init__(self, seconds: float):
        super().__init__(f"Scheduler: deadline: expected an answer within {seconds:g} s, got none")


@dataclass(eq=False)
class Request:
    """One request: what computes its answer, and where it stands."""

    compute: Callable[[], Any]
    images: int
    pixels: int
    seconds: float | None  # from `queued` to the deadline
    future: Future[Any] = field(default_factory=Future)
    queued: float = field(default_factory=time.monotonic)
    started: float = 0.0
    fiber: Fiber | None = None
    entry: Entry | None = None  # of the loop in which it stands

    def given_up(self, now: float) -> bool:
        """Whether nobody waits for it any more."""
        return self.future.cancelled() or self.late(now)

    def late(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.seconds is not None and now > self.queued + self.seconds


def pixels_of(shape: Sequence[int], operator: LinearOperator | None, size: tuple[int, int] | None) -> int:
    """Pixels of the images that measurements of this shape [B, ...] stand for."""
    each = shape[1:]
    if size is None and isinstance(operator, BlockSensing) and len(each) == 3:
        size = (each[0] * operator.block, each[1] * operator.block)
    elif size is None and operator is not None and not isinstance(operator, BlockSensing):
        known = operator.input_size(tuple(each[-2:]) if len(each) == 3 else None)
        size = None if known is None else (int(known[0]), int(known[1]))
    if size is not None:
        return shape[0] * size[0] * size[1]
    count = shape[0]
    for n in each:
        count *= n
    return count
