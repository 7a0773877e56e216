"""How far a command is: a bar where stderr is a terminal, else a line now and then.

Lines are written by the program alone: who calls a command from Python owns stderr, and can ask.
"""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from fastrecon import io
from fastrecon.cli import console
from fastrecon.startup import is_program

T = TypeVar("T")
LOG_SECONDS = 10.0  # between two lines where there is no terminal
BAR_SECONDS = 0.5  # between two looks of the bar
FORMAT = "{percentage:3.0f}%|{bar}| {desc} [{elapsed}<{remaining}]"


class Progress:
    """Follows `total` items and the steps inside each. A thread of its own tells, so that steps cost nothing.

    Args:
        total: number of items.
        unit: what one is called.
    """

    def __init__(self, total: int, unit: str = "image"):
        from tqdm import tqdm

        self.total, self.unit, self.count, self.name = total, unit, 0, ""
        self.share, self.what = 0.0, ""
        self.began, self.over = time.monotonic(), threading.Event()
        # smoothing 0: the time left follows from the mean speed
        self.bar: Any = tqdm(
            total=total, disable=None, leave=False, dynamic_ncols=True, smoothing=0, bar_format=FORMAT, miniters=0
        )
        self.thread = threading.Thread(target=self._follow, name="progress", daemon=True)
        self.thread.start()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None) -> None:
        self.over.set()
        self.thread.join()
        with contextlib.suppress(OSError, ValueError):
            self.bar.close()

    def item(self, name: object) -> None:
        """The next item begins."""
        self.count, self.name, self.share, self.what = self.count + 1, io.shown(name), 0.0, ""

    def part(self, done: float, total: float, what: str = "iterations", **more: object) -> None:
        """So much of the item is done."""
        self.share = min(done / total, 1.0) if total > 0 else 0.0
        self.what = f"{done:.0f} of {total:.0f} {what}" + "".join(f", {k} {v}" for k, v in more.items())

    def say(self, text: str) -> None:
        """Prints a result on stdout, past the bar."""
        with self.bar.external_write_mode():
            console.say(text)

    def fraction(self) -> float:
        """Of the whole."""
        return (max(self.count - 1, 0) + self.share) / max(self.total, 1)

    def text(self) -> str:
        """Where it stands, in words."""
        where = f"{self.unit} {self.count} of {self.total}" if self.count else f"0 of {self.total} {self.unit}s"
        return ": ".join(filter(None, (where, self.name, self.what)))

    def line(self) -> str:
        """The same with the time that has gone by, and the time left if that can be told."""
        spent, done = time.monotonic() - self.began, self.fraction()
        left = f", about {spent * (1 - done) / done:.0f} s left" if done > 0 else ""
        return f"fastrecon: {self.text()} ({spent:.0f} s{left})"

    def _follow(self) -> None:
        while not self.over.wait(LOG_SECONDS if self.bar.disable else BAR_SECONDS):
            with contextlib.suppress(OSError, ValueError):  # stderr has gone
                if self.bar.disable and is_program():
                    console.complain(self.line())
                elif not self.bar.disable:
                    self.bar.n = self.fraction() * self.total
                    self.bar.set_description_str(self.text())


def over(items: Iterable[T], unit: str) -> Iterator[T]:
    """The items, followed."""
    items = list(items)
    if not items:
        return
    with Progress(len(items), unit) as progress:
        for item in items:
            progress.item("")
            yield item
