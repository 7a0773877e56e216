"""The first and last moments of the program: signals, and streams that are closed. Standard library only.

`fastrecon/__init__.py` calls `guard` before anything heavy is imported. As a library nothing is touched.
"""

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "terminated: the terminal has gone"}
CLOSED = "stdout: expected an open stream, got a closed one (/dev/null takes what nobody wants)"
_state = {"program": False}


class Terminated(BaseException):
    """A signal asks the program to end. Not an Exception: only who cleans up may hold it up."""

    def __init__(self, number: int):
        super().__init__(WORDS[signal.Signals(number)])
        self.status = 128 + number


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Puts garbage collection off: a pass over all that torch keeps alive lasts longer than our imports.

    What was made meanwhile joins the oldest generation unlooked at: it stays.
    """
    usual = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if usual:
            if gc.get_freeze_count() == 0:  # else somebody keeps objects out of all collections
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def is_program() -> bool:
    """Whether this process is `fastrecon ...` or `python -m fastrecon ...`, and not a program that imports us."""
    if _state["program"] or not sys.argv:
        return _state["program"]
    if sys.argv[0] != "-m":  # what python puts there while it looks for the package
        return os.path.basename(sys.argv[0]).removesuffix(".exe") == "fastrecon"
    names = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
    return names[:1] in (["fastrecon"], ["fastrecon.cli.main"])


def guard() -> None:
    """As a program: from now on a signal ends it with one line, which is right while nothing has been begun.

    Raises:
        SystemExit: stdout is closed.
    """
    if not is_program():
        return
    _state["program"] = True
    for number in range(3):  # a closed one would lend its number to the next file that is opened
        with contextlib.suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:  # print(file=None) would go to stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:  # told before the imports: they take seconds
        print(f"fastrecon: {CLOSED}", file=sys.stderr)
        raise SystemExit(2)
    _install(_leave)


def _leave(number: int, _: Any) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"fastrecon: {WORDS[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)  # an exception would pass through the imports of others, which may keep it


def _quit(number: int, _: Any) -> None:
    os._exit(128 + number)


def _raise(number: int, _: Any) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated(number)


def _install(handler: Any) -> dict[signal.Signals, Any]:
    """Makes `handler` answer the signals that nobody else handles; returns what did before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    ours = (signal.SIG_DFL, signal.default_int_handler, _leave, _raise, _quit)
    found = {number: signal.getsignal(number) for number in WORDS}
    found = {number: before for number, before in found.items() if before in ours}  # nohup ignores some
    for number in found:
        signal.signal(number, handler)
    return found


@contextlib.contextmanager
def signals() -> Iterator[None]:
    """While a command runs: signals raise KeyboardInterrupt or Terminated, so that everything is cleaned up.

    After that the program ends at once where a signal comes: everything is said, the interpreter has only to leave.
    """
    before = _install(_raise)
    try:
        yield
    finally:
        if is_program():
            _install(_quit)
        else:
            for number, handler in before.items():
                signal.signal(number, handler)
