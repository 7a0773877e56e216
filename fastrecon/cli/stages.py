"""Work on many inputs in three parts, so that files are read and written beside the computation."""

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from fastrecon.cli.progress import Progress

S = TypeVar("S")
M = TypeVar("M")
T = TypeVar("T")
SWITCH = 2e-4  # seconds after which a thread that draws or decodes lets the one that computes go on
Submit = Callable[..., Future[Any]]


@dataclass(frozen=True)
class Item:
    """An input, and the folder and stem of its results."""

    path: Path
    prefix: Path = Path()


@dataclass(frozen=True)
class Stages(Generic[S, M]):
    """What is done with an input.

    Attributes:
        read: what is computed with, in any thread.
        compute: what came of it, one input at a time and in their order.
        write: a report of what was written, in any thread.
    """

    read: Callable[[Item], S]
    compute: Callable[[Item, S, Progress], M]
    write: Callable[[Item, M], Any]

    def whole(self, item: Item, progress: Progress) -> Any:
        """The report, all in turn."""
        return self.write(item, self.compute(item, self.read(item), progress))


def one_stage(work: Callable[[Item, Progress], T]) -> Stages[None, T]:
    """Stages of work that reads and writes for itself."""
    return Stages(lambda _: None, lambda item, _, progress: work(item, progress), lambda _, made: made)


def ahead(items: Sequence[Item], submit: Submit, read: Callable[[Item], Any], count: int) -> Iterator[Any]:
    """Each item with what was read of it, a Future, while `count` more are being read."""
    waiting: deque[tuple[Item, Future[Any]]] = deque()
    for item in items:
        waiting.append((item, submit(read, item)))
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


@contextmanager
def threads(jobs: int) -> Iterator[tuple[Submit, Submit]]:
    """What submits to readers and what to writers, `jobs` threads each; without any, all is done at once.

    At the end what was not begun is cancelled, and what is being written is waited for.
    """
    if jobs == 0:
        yield at_once, at_once
        return
    usual = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH)
    readers, writers = ThreadPoolExecutor(jobs, "read"), ThreadPoolExecutor(jobs, "write")
    try:
        yield readers.submit, writers.submit
    finally:
        readers.shutdown(wait=False, cancel_futures=True)
        writers.shutdown(wait=True, cancel_futures=True)
        sys.setswitchinterval(usual)


def at_once(function: Callable[..., T], *arguments: Any) -> Future[T]:
    """What a function returns or raises. What is no Exception, an interruption, is raised here."""
    future: Future[T] = Future()
    try:
        future.set_result(function(*arguments))
    except Exception as e:
        future.set_exception(e)
    return future
