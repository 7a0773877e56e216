"""The way in: whoever comes while a server is full is told so before anything is made for them.

A refusal costs a few calls of the system, so that ten times as many clients as a server can answer take little of the
processor from those whom it does answer, however small their pictures are.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable

from fastrecon.serving.door import Refusal
from fastrecon.serving.http import Server
from fastrecon.serving.protocol import WORK, Guarded, message

AT_ONCE = 64  # connections taken between two looks at others
READ = 2**18  # bytes looked at
PAUSE = 1.0  # seconds, where the system has no more connections to give
REST = 0.005  # seconds between two looks of a full server: whoever computes is not woken up for every client
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*(?:\r|$)", re.IGNORECASE)


class Gate:
    """Takes the connections of a socket.

    Args:
        server: whose clients they are.
        sock: that listens.
    """

    def __init__(self, server: Server, sock: socket.socket):
        self.server, self.sock = server, sock
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, make: Callable[[], Guarded]) -> None:
        """Begins; `make` makes the protocol of a connection."""
        self._make = make
        self._loop = asyncio.get_running_loop()
        self.sock.setblocking(False)
        self._loop.add_reader(self.sock.fileno(), self._accept)

    def close(self) -> None:
        """Ends: nobody is heard there any more."""
        if self.sock.fileno() >= 0:
            self._loop.remove_reader(self.sock.fileno())
            self.sock.close()

    def _accept(self) -> None:
        """Takes those who wait. A full server looks again after a rest."""
        self._take()
        if self.server.full(self.server.arriving) is not None:
            self._rest(REST)

    def _rest(self, seconds: float) -> None:
        if self.sock.fileno() >= 0:
            self._loop.remove_reader(self.sock.fileno())
            self._loop.call_later(seconds, self._again)

    def _take(self) -> None:
        for _ in range(AT_ONCE):
            try:
                sock, _ = self.sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as e:  # as many files are open as may be
                self.server.telemetry.log("accept", failure=f"{type(e).__name__}: {e.strerror}")
                self._rest(PAUSE)
                return
            sock.setblocking(False)
            try:
                early = sock.recv(READ)
            except BlockingIOError:  # nothing has come yet
                early = b""
            except OSError:
                sock.close()
                continue
            works = early.startswith(WORK)
            why = self.server.full(self.server.arriving) if works else None
            if why is not None and whole(early):
                self._refuse(sock, why)
            else:
                task = self._loop.create_task(self._handed(sock, early, works and why is None))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _again(self) -> None:
        if self.sock.fileno() >= 0:
            self._loop.add_reader(self.sock.fileno(), self._accept)

    def _refuse(self, sock: socket.socket, why: Refusal) -> None:
        with sock, contextlib.suppress(OSError):  # of a client that has gone
            sock.send(message(why))
        self.server.telemetry.refused(why.status)

    async def _handed(self, sock: socket.socket, early: bytes, arrives: bool) -> None:
        """Gives a connection to a protocol, with what has come already."""
        self.server.arriving += arrives

        def make() -> Guarded:
            made = self._make()
            made.early, made.arrives = early, arrives
            return made

        try:
            await self._loop.connect_accepted_socket(make, sock)
        except OSError:
            self.server.arriving -= arrives
            sock.close()


def whole(data: bytes) -> bool:
    """Whether a request has come to its end: then its connection can be closed without a reset, which would overtake
    the answer.
    """
    head, end, body = data.partition(b"\r\n\r\n")
    length = LENGTH.search(head)
    return bool(end) and length is not None and len(body) >= int(length[1])
