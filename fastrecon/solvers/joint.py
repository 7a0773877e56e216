"""Loops that images of other batches may join: what a scheduler computes together, each image as if it were alone.

A solver whose iteration can be shared describes it as a `Joint` and calls `iterate_jointly`. Called as usual, that is
`iterate`. Within a `Meeting`, which a scheduler holds, the loop is handed over, and comes back with its end.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from typing_extensions import Self

from fastrecon.solvers.base import Callback, Row, Run, iterate, put, take
from fastrecon.solvers.meeting import here

S = TypeVar("S")
T = TypeVar("T")


class Joint(ABC, Generic[S]):
    """An iteration of a batch of images, some of which may leave, and others join, at any time.

    What it makes of an image depends on that image's state and problem alone, and on k only as far as `period` says.

    Attributes:
        period: images join where the iterations k of the batch are a multiple of it; 0: before its first alone.
        counts: whether an image's own number of iterations decides: `step` is then told these, int64 [B], where they
            differ, and k is theirs where they do not.
    """

    period: int = 1
    counts: bool = False

    @property
    def ends(self) -> bool:
        """Whether images can be done before their last iteration."""
        return True

    @abstractmethod
    def step(self, s: S, k: Any) -> S:
        """Iteration k = 0, 1, ... of the batch, or of each image; see `counts`."""

    def at_once(self, s: S) -> int:
        """Iterations that are worth one call of `several`, in which nobody can join or leave."""
        return 1

    def several(self, s: S, k: int, count: int, row: Callable[[S], Row] | None) -> tuple[S, Row | None]:
        """Iterations k, ..., k + count - 1, for `count` at most `at_once`, and the `row` of each, [count, B]; `s` stays
        what it is."""
        rows = []
        for each in range(k, k + count):
            s = self.step(s, each)
            rows += [] if row is None else [row(s)]
        return s, table(rows) if rows else None

    @abstractmethod
    def done(self, s: S) -> Tensor:
        """Which images leave, [B] bool."""

    @abstractmethod
    def take(self, which: Tensor) -> Self:
        """Of the images `which` [P] of the batch."""

    @abstractmethod
    def joined(self, others: Sequence[Self], counts: Sequence[int]) -> Self | None:
        """Of this batch and of `others` behind it, so many images each; None: they are of another kind."""


@dataclass(frozen=True)
class Loop(Generic[S]):
    """What `iterate_jointly` was asked for."""

    joint: Joint[S]
    state: S
    iterations: int
    check_every: int
    row: Callable[[S], Row] | None


def iterate_jointly(
    joint: Joint[S], s: S, iterations: int, *, check_every: int = 1, row: Callable[[S], Row] | None = None,
    callback: Callback | None = None,
) -> Run[S]:  # fmt: skip
    """As `iterate` with the step of `joint`. In a meeting others may take part, unless there is a callback."""
    if callback is None and (place := here()) is not None:
        return place.join(Loop(joint, s, iterations, check_every, row))
    return iterate(
        joint.step, s, iterations, done=joint.done if joint.ends else None,
        narrow=lambda which: joint.take(which).step, check_every=check_every, row=row, callback=callback,
    )  # fmt: skip


def by_count(function: Callable[..., T], k: Any, *parts: Any) -> T:
    """function(k, *parts) of states [B, ...] for each number in k, an int or int64 [B], put together again."""
    if not isinstance(k, Tensor):
        return function(k, *parts)
    found = None
    for value in k.unique().tolist():
        which = (k == value).nonzero().flatten()
        if len(which) == len(k):
            return function(value, *parts)
        part = function(value, *(take(p, which) for p in parts))
        # of the first its images, repeated, whose places the others take
        found = take(part, torch.zeros_like(k)) if found is None else found
        found = put(found, which, part)
    assert found is not None
    return found


def table(rows: Sequence[Row]) -> Row:
    """Rows [B] of the history as one, [rows, B]."""
    return {n: torch.stack([row[n] for row in rows]) for n in rows[0]}


def same(*values: Sequence[Any]) -> bool:
    """Whether in each sequence all are equal."""
    return all(v == several[0] for several in values for v in several[1:])
