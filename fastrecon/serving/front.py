"""What stands before replicas that may die: a request whose replica did is answered by another, or told so.

A request can be sent again without harm: it changes nothing, and its answer has the same bits wherever it is made.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

Call = tuple[dict[str, Any], bytes]  # the scope of ASGI, of what can be sent elsewhere; the body
Told = tuple[int, list[tuple[bytes, bytes]], bytes]  # status, headers, body
TRIALS = 3  # replicas that one request may meet
SCOPE = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers")
SCOPE += ("client", "server")


class Front:
    """Passes requests on.

    Args:
        ask: one of the replicas.
        body: bytes of a body.
        bodies: bytes of all bodies that are here at once.
        seconds: for an answer.
        died: what `ask` raises where the replica died with the request inside.
        full: what it raises where all have as many as they may.
    """

    def __init__(
        self, ask: Callable[[dict[str, Any], bytes], Awaitable[Told]], body: int, bodies: int, seconds: float,
        died: tuple[type[BaseException], ...], full: tuple[type[BaseException], ...],
    ):  # fmt: skip
        self.ask, self.body, self.bodies, self.seconds = ask, body, bodies, seconds
        self.died, self.full, self.held = died, full, 0

    async def answer(self, request: Request) -> Response:
        """Of a replica, or one line of JSON with the status that says why not."""
        parts: list[bytes] = []
        count = 0
        try:
            async for part in request.stream():
                count, self.held = count + len(part), self.held + len(part)
                if count > self.body:
                    return _error(413, f"body: expected at most {self.body} bytes, got more")
                if self.held > self.bodies:
                    return _error(429, f"server: full, with {self.bodies} bytes of bodies", again=True)
                parts.append(part)
            scope = {name: request.scope[name] for name in SCOPE if name in request.scope}
            return await self._passed(scope, b"".join(parts))
        except ClientDisconnect:
            return _error(499, "client: it has gone")
        finally:
            self.held -= count

    async def _passed(self, scope: dict[str, Any], body: bytes) -> Response:
        ends = asyncio.get_running_loop().time() + self.seconds
        for _ in range(TRIALS):
            left = ends - asyncio.get_running_loop().time()
            try:
                status, headers, found = await asyncio.wait_for(self.ask(scope, body), left)
            except self.died:
                continue
            except self.full:
                return _error(429, "server: full, all replicas are", again=True)
            except asyncio.TimeoutError:
                return _error(504, f"deadline: expected an answer within {self.seconds:g} s, got none")
            except Exception as e:
                return _error(503, f"replica: expected an answer, got {type(e).__name__}", again=True)
            response = Response(found, status)
            response.raw_headers = headers
            return response
        return _error(503, f"replica: {TRIALS} ended before they had answered; send the request again", again=True)


def _error(status: int, line: str, again: bool = False) -> Response:
    return JSONResponse({"error": line}, status, {"retry-after": "1"} if again else None)


async def called(app: Any, scope: dict[str, Any], body: bytes) -> Told:
    """What an application of ASGI answers to a request that is whole."""
    status, headers, parts, given = 500, [], [], False

    async def receive() -> dict[str, Any]:
        nonlocal given
        if given:
            await asyncio.Event().wait()  # the client stays: whoever asks is cancelled where it goes
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], [(bytes(name), bytes(value)) for name, value in message["headers"]]
        else:
            parts.append(bytes(message.get("body", b"")))

    await app(dict(scope), receive, send)
    return status, headers, b"".join(parts)


@contextlib.asynccontextmanager
async def alive(app: Any) -> AsyncIterator[None]:
    """The lifespan of an application of ASGI."""
    asked: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    told: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    task = asyncio.ensure_future(app({"type": "lifespan", "asgi": {"version": "3.0"}}, asked.get, told.put))
    await asked.put({"type": "lifespan.startup"})
    await told.get()
    try:
        yield
    finally:
        await asked.put({"type": "lifespan.shutdown"})
        await told.get()
        await task
