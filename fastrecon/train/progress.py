"""What a run tells while it works, on standard error: a bar on a terminal, elsewhere a line now and then."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

EVERY = 30.0  # seconds between lines where there is no terminal

T = TypeVar("T")


def say(text: str) -> None:
    """One line; a reader who has gone is no reason to stop."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """In words: "2 h 05 min", "3 min 20 s", "12 s"."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {s:02d} s" if minutes else f"{s} s"


class Progress:
    """Counts to a total and says where it stands and how long the rest will take.

    Args:
        total: where it ends.
        what: is being done.
        done: where it starts.
        unit: of the numbers.
        quiet: say nothing: the process is not the first of its run.
    """

    def __init__(self, total: int, what: str, done: int = 0, unit: str = "step", quiet: bool = False):
        self.total, self.what, self.done, self.unit, self.quiet = total, what, done, unit, quiet
        self.first, self.started = done, time.monotonic()
        self.spoke, self.noted, self._bar = self.started, "", None
        if not quiet and sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar: Any = tqdm(total=total, initial=done, desc=what, unit=unit, smoothing=0.05)

    def __enter__(self) -> "Progress":
        if self._bar is None and not self.quiet:
            say(f"{self.what}: {self.unit} {self.done} of {self.total}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int = 1) -> None:
        """`count` more are done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif not self.quiet and self.done < self.total and time.monotonic() - self.spoke >= EVERY:
            self.say(f"{self.what}: {self.unit} {self.done} of {self.total}{self.noted}, about {self.left()} left")

    def left(self, more: int = 0) -> str:
        """How long the rest will take if it goes on as until now, with `more` done that are not counted yet."""
        done = self.done + more
        passed, steps = time.monotonic() - self.started, max(1, done - self.first)
        return duration(passed / steps * (self.total - done))

    def note(self, text: str) -> None:
        """What the bar or the next line tells besides numbers."""
        self.noted = f", {text}"
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def say(self, text: str) -> None:
        """A line of its own."""
        self.spoke = time.monotonic()
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            say(text)


def track(items: Sequence[T] | Iterable[T], what: str, total: int, unit: str, quiet: bool = False) -> Iterator[T]:
    """`items`, with progress."""
    with Progress(total, what, 0, unit, quiet) as progress:
        for item in items:
            yield item
            progress.advance()
