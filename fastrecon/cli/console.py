"""What commands print. Nothing that happens to stdout costs a result: the work goes on, and the end tells."""

import contextlib
import os
import sys
from collections.abc import Sequence

from fastrecon.io import shown
from fastrecon.startup import CLOSED

_failures: list[OSError] = []


def prepare() -> None:
    """Lets stdout take every character, with ? for what its encoding lacks.

    Raises:
        ValueError: stdout is closed.
    """
    _failures.clear()
    if sys.stdout is None:
        raise ValueError(CLOSED)
    if getattr(sys.stdout, "errors", None) in ("strict", "surrogateescape") and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]


def say(text: str) -> None:
    """Prints text at once. A reader that has gone, as in `fastrecon info | head -1`, misses nothing it wants."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _mute()
    except OSError as e:  # its disk is full
        _failures.append(e)
        _mute()


def complain(text: str) -> None:
    """Prints text on stderr, if anyone can still read that."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def finish() -> None:
    """Flushes stdout.

    Raises:
        RuntimeError: something could not be printed.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _mute()
    except OSError as e:
        _failures.append(e)
        _mute()
    if _failures:
        raise RuntimeError(f"stdout: {_failures[0].strerror}: part of the printed text is lost, files are not")


def _mute() -> None:
    """Sends what comes, and what is buffered, nowhere: the interpreter flushes once more when it leaves."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


class Failures(Exception):
    """Some inputs of a command failed; the others are done. A line for each, after one that counts them."""

    def __init__(self, failed: Sequence[tuple[object, Exception]], total: int, done: int):
        texts = [named(path, e) for path, e in failed]
        head = f"{len(failed)} of {total} inputs failed, {done} done"
        self.lines = [f"{head}: {texts[0]}"] if len(texts) == 1 else [f"{head}:", *texts]
        super().__init__("; ".join(self.lines))


def lines(e: BaseException) -> list[str]:
    """What an error says: a line, or one for each input where a command had many."""
    if isinstance(e, Failures):
        return e.lines
    text = str(e)
    if isinstance(e, OSError) and e.strerror:
        name = "" if e.filename is None else f"{os.fsdecode(e.filename)}: "
        text = f"{name}{e.strerror}"
    text = shown(" ".join(text.split()))
    known = text and isinstance(e, ValueError | TypeError | RuntimeError | OSError | ImportError)
    return [text if known else f"{type(e).__name__}{text and f': {text}'} (FASTRECON_DEBUG=1 shows where)"]


def named(path: object, e: Exception) -> str:
    """What an error says, in a line that names the input it is about."""
    name, text = shown(path), lines(e)[0]
    return text if name in text else f"{name}: {text}"
