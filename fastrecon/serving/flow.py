"""A running batch of images that come and go: continuous batching."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastrecon.solvers.base import Row, Run, join, signature, take
from fastrecon.solvers.joint import Joint, Loop, table
from fastrecon.threads import alone

PATIENCE = 8  # turns


@dataclass
class Image:
    """One image of a loop, from where it joins to where it leaves."""

    loop: "Entry"
    count: int = 0  # iterations
    rows: list[Row] = field(default_factory=list)  # [iterations] each, from the start on
    state: Any = None  # where it left
    done: bool = False  # left by the test rather than at the limit

    @property
    def looks(self) -> bool:
        """Whether the test is asked now."""
        own = self.loop.loop
        return self.count % own.check_every == 0 or self.count == own.iterations

    @property
    def ahead(self) -> int:
        """Iterations until the test is asked again, at most those that are left."""
        own = self.loop.loop
        return min(self.left, own.check_every - self.count % own.check_every)

    @property
    def left(self) -> int:
        """Iterations that are left."""
        return self.loop.loop.iterations - self.count

    @property
    def last(self) -> bool:
        """Whether no iteration is left."""
        return self.left <= 0


class Entry:
    """A loop that takes part, and its images; `owner` is told when all have left. Patience: turns that it waited."""

    def __init__(self, loop: Loop[Any], owner: Any):
        self.loop, self.owner, self.patience = loop, owner, 0
        self.size = len(_first(loop.state))
        self.images = [Image(self) for _ in range(self.size)]
        if loop.row is not None:
            first = table([loop.row(loop.state)])
            for i, image in enumerate(self.images):
                image.rows.append(_of(first, i))

    @property
    def ended(self) -> bool:
        """Whether all images have left."""
        return all(image.state is not None for image in self.images)

    def run(self) -> Run[Any]:
        """How the loop ended; the images are let go."""
        state = join([image.state for image in self.images])
        device = _first(state).device
        done = torch.tensor([image.done for image in self.images], device=device)
        count = torch.tensor([image.count for image in self.images], dtype=torch.int64, device=device)
        found = Run(state, done, count, None if self.loop.row is None else self._history())
        self.close()
        return found

    def close(self) -> None:
        """Lets the images go, which hold their loop: else tensors would lie there until Python looks for circles."""
        self.images = []

    def _history(self) -> dict[str, Tensor]:
        """Rows [rows, B]; of an image that left before the others the last is repeated."""
        found = {}
        for n in self.images[0].rows[0]:
            each = [torch.cat([row[n] for row in image.rows]) for image in self.images]
            longest = max(len(row) for row in each)
            found[n] = torch.stack([_long(row, longest) for row in each], 1)
        return found


class Flow:
    """Loops of one kind, computed as one batch.

    Args:
        entry: the first of them.
    """

    def __init__(self, entry: Entry):
        self.joint: Joint[Any] = entry.loop.joint
        self.images: list[Image] = [*entry.images]
        self.k, self.fresh = 0, True  # iterations of the batch; whether somebody has just come
        self.rested = 0  # turns since the last of them
        self._state: Any = entry.loop.state
        self._coming: list[Any] = []
        self.signature = _kind(entry.loop)

    @property
    def state(self) -> Any:
        """Of all images, in their order."""
        if self._coming:
            self._state, self._coming = join([self._state, *self._coming]), []
        return self._state

    def soon(self, entry: Entry) -> bool:
        """Whether it is worth waiting for an iteration in which a loop of this kind may begin."""
        period = self.joint.period
        alike = _kind(entry.loop) == self.signature and len(self.images) > 0
        if not (alike and period > 1 and self.k % period and entry.patience < period):
            return False
        entry.patience += 1
        return True

    def fills(self, largest: int) -> bool:
        """Whether it should go on now, rather than wait for others that may join: it is not small beside the largest
        batch, has waited long enough, or nobody can join.
        """
        self.rested += 1
        return 2 * len(self.images) >= largest or self.rested > PATIENCE or self.joint.period == 0

    def admit(self, entry: Entry) -> bool:
        """Takes a loop in, if it is of this kind and may begin now."""
        period, alike = self.joint.period, _kind(entry.loop) == self.signature and len(self.images) > 0
        if not alike or (self.k % period if period else self.k):
            return False
        found = self.joint.joined([entry.loop.joint], [len(self.images), entry.size])
        if found is None:
            return False
        self.joint, self.fresh = found, True
        self.images += entry.images
        self._coming.append(entry.loop.state)
        return True

    @torch.no_grad()
    @alone
    def advance(self) -> list[Entry]:
        """An iteration of all images, or several where that is one call: the loops that ended by it."""
        self.rested = 0
        ended = self._leave() if self.fresh else []
        if self.images:
            number, count = self._number(), self._at_once()
            row = next((i.loop.loop.row for i in self.images if i.loop.loop.row is not None), None)
            if count > 1:
                state, rows = self.joint.several(self.state, number, count, row)
            else:
                state = self.joint.step(self.state, number)
                rows = None if row is None else table([row(state)])
            self._state, self.k = state, self.k + count
            for image in self.images:
                image.count += count
            self._record(rows)
            ended += self._leave()
        return ended

    def _at_once(self) -> int:
        """Iterations of the next call, at most until somebody may leave."""
        if self.joint.counts:
            return 1
        ahead = min(image.ahead if self.joint.ends else image.left for image in self.images)
        return min(ahead, self.joint.at_once(self.state)) if ahead > 1 else 1

    def _number(self) -> Any:
        """Of the iteration: the batch's, or those of its images."""
        numbers = [image.count for image in self.images] if self.joint.counts else [self.k]
        if all(n == numbers[0] for n in numbers):
            return numbers[0]
        return torch.tensor(numbers, device=_first(self.state).device)

    def withdraw(self, entry: Entry) -> None:
        """Lets the images of a loop go that nobody waits for any more."""
        self._keep([i for i, image in enumerate(self.images) if image.loop is not entry])
        entry.close()

    def split(self) -> "Iterator[Flow]":
        """A flow for each loop, which go on from here."""
        for entry in dict.fromkeys(image.loop for image in self.images):
            which = torch.tensor([i for i, image in enumerate(self.images) if image.loop is entry])
            which = which.to(_first(self.state).device)
            part = object.__new__(Flow)
            part.joint, part._state, part._coming = self.joint.take(which), take(self.state, which), []
            part.images = [self.images[i] for i in which.tolist()]
            part.k, part.fresh, part.signature, part.rested = self.k, self.fresh, self.signature, 0
            yield part

    def _record(self, rows: Row | None) -> None:
        """Adds rows [iterations, B] to the histories of those who want one."""
        for i, image in enumerate(self.images):
            if rows is not None and image.loop.loop.row is not None:
                image.rows.append(_of(rows, i))

    def _leave(self) -> list[Entry]:
        """Lets those go that are done: the loops that end by it."""
        self.fresh = False
        asked = self.joint.ends and any(image.looks for image in self.images)
        done = self.joint.done(self.state).tolist() if asked else [False] * len(self.images)
        stay, left = [], []
        for i, (image, passed) in enumerate(zip(self.images, done, strict=True)):
            image.done = passed and image.looks
            (left if image.done or image.last else stay).append(i)
        if not left:
            return []
        gone = [self.images[i] for i in left]
        for i, image in zip(left, gone, strict=True):
            image.state = take(self.state, torch.tensor([i], device=_first(self.state).device))
        self._keep(stay)
        return [entry for entry in dict.fromkeys(image.loop for image in gone) if entry.ended]

    def _keep(self, stay: list[int]) -> None:
        if len(stay) == len(self.images):
            return
        self.images = [self.images[i] for i in stay]
        if stay:
            which = torch.tensor(stay, device=_first(self.state).device)
            self._state, self.joint = take(self.state, which), self.joint.take(which)


def _kind(loop: Loop[Any]) -> Any:
    return type(loop.joint), signature(loop.state)


def _first(state: Any) -> Tensor:
    """The first tensor of a state."""
    while not isinstance(state, Tensor):
        state = next(iter(vars(state).values()))
    return state


def _of(rows: Row, i: int) -> Row:
    """Rows [iterations, B] of one image, [iterations]."""
    return {n: v[:, i] for n, v in rows.items()}


def _long(row: Tensor, length: int) -> Tensor:
    """So many numbers, the last of `row` repeated."""
    return torch.cat((row, row[-1:].expand(length - len(row))))
