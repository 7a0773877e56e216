"""The process: uvicorn around a `Server`. SIGTERM and Ctrl-C stop accepting, answer what is inside, and end."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial

import uvicorn

from fastrecon.io import reason, shown
from fastrecon.serving.gate import Gate
from fastrecon.serving.http import Server
from fastrecon.serving.protocol import protocol

HEAD_BYTES = 32768  # of the head of a request
SWITCH = 2e-4  # seconds after which a thread that computes lets the one that answers clients in
BACKLOG = 2048  # connections that wait to be taken
SPARE = 1024  # connections beyond the requests that may be inside


class _Lines(logging.Handler):
    """What uvicorn has to say, in lines like ours."""

    def __init__(self, server: Server):
        super().__init__(logging.WARNING)
        self.server = server

    def emit(self, record: logging.LogRecord) -> None:
        """One of them."""
        failure = record.exc_info[1] if record.exc_info else None
        more = {} if failure is None else {"failure": f"{type(failure).__name__}: {reason(failure)}"}
        self.server.telemetry.log("uvicorn", level=record.levelname, message=record.getMessage()[:500], **more)


class _Process(uvicorn.Server):
    """uvicorn that answers signals itself, has its connections from a gate, and leaves with status 0."""

    def __init__(self, config: uvicorn.Config, gate: Gate):
        super().__init__(config)
        self.gate = gate

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As of uvicorn, whose sockets are none."""
        await super().startup([])
        made = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}
        self.gate.open(partial(self.config.http_protocol_class, **made))  # type: ignore[arg-type]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As of uvicorn."""
        self.gate.close()
        await super().shutdown([])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """While it serves."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


def run(server: Server, host: str, port: int, grace: float = 60.0) -> None:
    """Serves until a signal comes, and then answers what is inside, for at most `grace` seconds.

    Raises:
        ValueError: the address cannot be taken.
    """
    config = uvicorn.Config(
        server, host, port, http=protocol(server, server.limits.waiting + SPARE), ws="none", lifespan="on",
        log_config=None, access_log=False, server_header=False, date_header=True, timeout_keep_alive=5,
        timeout_graceful_shutdown=max(1, int(grace)), h11_max_incomplete_event_size=HEAD_BYTES,
    )  # fmt: skip
    sys.setswitchinterval(SWITCH)
    logger = logging.getLogger("uvicorn")
    logger.handlers, logger.propagate = [_Lines(server)], False
    sock = bound(host, port)
    name, number = sock.getsockname()[:2]
    server.telemetry.log("listening", host=name, port=number)

    async def serve() -> None:
        process = _Process(config, Gate(server, sock))
        drained = asyncio.ensure_future(_tell(process, server))
        try:
            await process.serve(sockets=[])
        finally:
            drained.cancel()

    with contextlib.closing(sock):
        asyncio.run(serve())
    server.telemetry.flush()
    server.telemetry.log("stopped", **server.scheduler.stats())


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        ValueError: the address is none of this machine, or taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(found[0], socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(found[4])
        sock.listen(BACKLOG)
    except (OSError, UnicodeError) as e:
        expected = "an address of this machine that is free"
        raise ValueError(f"--host: expected {expected}, got {shown(host)} port {port} ({reason(e)})") from e
    return sock


async def _tell(process: uvicorn.Server, server: Server) -> None:
    """Lets the server know that it is about to stop, before connections are."""
    while not process.should_exit:
        await asyncio.sleep(0.05)
    server.draining = True
