"""HTTP/1.1 of a server under pressure: who waits too long, and who comes while it is full, is told at little cost.

A full server says so before anything is parsed; see also gate.py, which most of those do not pass.
"""

import json
from functools import lru_cache
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from fastrecon.serving.door import Refusal
from fastrecon.serving.http import HEADERS, Server

HEAD_SECONDS = 10.0  # for the head of a request to come
LINGER_SECONDS = 1.0  # in which a client that is refused may read why
REASONS = {400: "Bad Request", 429: "Too Many Requests", 503: "Service Unavailable"}
WORK = b"POST /v1/reconstruct"


def protocol(server: Server, connections: int) -> type[H11Protocol]:
    """The protocol of a connection to `server`, of which there may be so many at once."""

    class Served(Guarded):
        served, most = server, connections

    return Served


class Lingering:
    """A transport that waits a little before it closes on somebody who still sends: at once, a reset would overtake
    the answer.
    """

    def __init__(self, transport: Any, protocol: "Guarded"):
        self.transport, self.protocol = transport, protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def close(self) -> None:
        """Once the client has had time to read."""
        if self.protocol.sends and self.transport.can_write_eof() and not self.transport.is_closing():
            self.protocol.refused = True
            self.transport.write_eof()
            self.transport.resume_reading()
            self.protocol.loop.call_later(LINGER_SECONDS, self.transport.close)
        else:
            self.transport.close()


class Guarded(H11Protocol):
    """A connection; `protocol` makes the class of a server."""

    served: Server
    most: int
    refused = False
    early, arrives = b"", False  # what the gate has read; whether it counts as arriving

    def connection_made(self, transport: Any) -> None:
        """Begins to wait for a head, or with what has come of it."""
        super().connection_made(Lingering(transport, self))  # type: ignore[arg-type]
        self._late = self.loop.call_later(HEAD_SECONDS, self._close)
        if self.early:
            self.data_received(self.early)
        if self.arrives:  # once the request is inside, which is counted there
            self.loop.call_soon(self._arrived)

    def _arrived(self) -> None:
        self.served.arriving -= 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no more."""
        self._late.cancel()
        super().connection_lost(exc)

    @property
    def sends(self) -> bool:
        """Whether more of a request may come."""
        return self.refused or (self.cycle is not None and self.cycle.more_body)

    def data_received(self, data: bytes) -> None:
        """Reads on, unless there is nothing to be had here."""
        if self.refused:
            return
        if self.cycle is None or self.cycle.response_complete:
            if len(self.connections) > self.most:
                self.refuse(Refusal(503, f"server: expected at most {self.most} connections, got more"))
                return
            if data.startswith(WORK) and (why := self.served.full()) is not None:
                self.refuse(why)
                return
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """To what is no HTTP."""
        self.refuse(Refusal(400, "request: expected HTTP/1.1, got something else"))

    def refuse(self, why: Refusal) -> None:
        """Answers, reads nothing more, and closes."""
        self.refused = True
        self.transport.write(message(why))
        self.transport.close()
        self.served.telemetry.refused(why.status)

    def _close(self) -> None:
        if self.cycle is None:
            self.transport.close()


def message(why: Refusal) -> bytes:
    """The answer to somebody who is refused, whole."""
    return _message(why.status, str(why), tuple(why.headers.items()))


@lru_cache(maxsize=256)
def _message(status: int, text: str, more: tuple[tuple[str, str], ...]) -> bytes:
    body = json.dumps({"error": text}).encode()
    headers = [
        *HEADERS, (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"), *((k.encode(), v.encode()) for k, v in more),
    ]  # fmt: skip
    head = f"HTTP/1.1 {status} {REASONS[status]}\r\n".encode()
    return head + b"".join(b"%s: %s\r\n" % pair for pair in headers) + b"\r\n" + body
