"""Where a computation runs: by itself, or in a meeting, which computes the loops of several callers in turn."""

from contextvars import ContextVar
from typing import Any, Protocol

import torch


class Meeting(Protocol):
    """Who computes loops of several callers."""

    def join(self, loop: Any) -> Any:
        """The `Run` in which a `Loop` ended."""
        ...

    def rest(self) -> None:
        """Lets others compute between two iterations of a loop that nobody can join."""
        ...


meeting: ContextVar[Meeting | None] = ContextVar("meeting", default=None)


def here() -> Meeting | None:
    """The meeting of the caller; None: there is none."""
    return None if torch.compiler.is_compiling() else meeting.get()
