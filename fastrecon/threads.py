"""Threads on machines that others use too: who may use how many, and when.

The compiled kernels share their work over a pool of their own, in which nobody waits for a thread that the system does
not run (csrc/pool.h). torch's own operations use OpenMP, whose every region waits for all its threads: beside other
processes a sum that takes ten microseconds then takes milliseconds. So the loops of solvers run small operations of
torch on the calling thread, and give torch its threads back for work that is worth them.
"""

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import torch

from fastrecon.registry import extension

F = TypeVar("F", bound=Callable[..., Any])


class _Section:
    """A section of code in a setting of the extension's, or a decorator that makes a function one.

    Nothing where the extension was not built; a function that torch traces is called as it is.
    """

    def __init__(self, name: str):
        self._enter, self._leave = f"enter_{name}", f"leave_{name}"

    def __enter__(self) -> None:
        if (module := extension()) is not None:
            torch.get_num_threads()  # torch sets OpenMP's number when a thread first asks, and must have by now
            getattr(module, self._enter)()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (module := extension()) is not None:
            getattr(module, self._leave)()

    def __call__(self, function: F) -> F:
        @functools.wraps(function)
        def within(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return function(*args, **kwargs)
            with self:
                return function(*args, **kwargs)

        return within  # type: ignore[return-value]


# torch's operations run on the calling thread; our kernels share their work as ever. Sections may nest.
alone = _Section("alone")
# Within a section of `alone`: torch has its threads back, for transforms and convolutions.
together = _Section("together")
