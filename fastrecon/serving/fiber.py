"""Computations that stop where they meet others: each has a thread of its own, and one runs at a time.

So a model computes as it does alone, in straight code, and only its loops are computed by somebody else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any

from fastrecon.solvers.joint import Loop
from fastrecon.solvers.meeting import meeting


class Withdrawn(BaseException):
    """Raised where a computation has stopped that nobody waits for any more. No solver catches it."""


@dataclass(frozen=True)
class Rest:
    """What a fiber says that could go on at once."""


@dataclass(frozen=True)
class End:
    """What a fiber says at its end: a value, or the error that it ended with."""

    value: Any = None
    error: BaseException | None = None


Said = Loop[Any] | Rest | End


class Fiber:
    """A thread that computes one function after another, each in pieces: from `start` or `resume` to what it says."""

    def __init__(self):
        self._told: SimpleQueue[Any] = SimpleQueue()
        self._said: SimpleQueue[Said] = SimpleQueue()
        Thread(target=self._run, name="fastrecon-fiber", daemon=True).start()

    def start(self, function: Callable[[], Any]) -> Said:
        """Computes until the function stops or ends."""
        self._told.put(function)
        return self._said.get()

    def resume(self, answer: Any = None) -> Said:
        """Goes on with the answer to what was said; an exception is raised there."""
        self._told.put(answer)
        return self._said.get()

    def close(self) -> None:
        """Ends the thread, which must be at the end of a function."""
        self._told.put(None)

    def join(self, loop: Loop[Any]) -> Any:
        """As of Meeting: says the loop."""
        return self._say(loop)

    def rest(self) -> None:
        """As of Meeting."""
        self._say(Rest())

    def _say(self, said: Said) -> Any:
        self._said.put(said)
        answer = self._told.get()
        if isinstance(answer, BaseException):
            try:
                raise answer
            finally:
                del answer  # it holds this frame, and all tensors of those around it
        return answer

    def _run(self) -> None:
        meeting.set(self)
        while (function := self._told.get()) is not None:
            try:
                end = End(function())
            except Withdrawn:
                end = End(error=Withdrawn())  # without the frames that it came through
            except BaseException as error:  # whatever it is, it is the caller's
                end = End(error=error)
            del function
            self._said.put(end)
            del end
