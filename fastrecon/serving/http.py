"""The server: one scheduler behind HTTP. `POST /v1/reconstruct` takes a file and answers with one; see docs/serving.md.

Whatever a client sends, it gets a status and one line, {"error": ...}; nothing of it stays in the queue.
"""

import asyncio
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router

import fastrecon
from fastrecon.checks import expect
from fastrecon.serving import page, warming
from fastrecon.serving.door import Answer, Door, Refusal, Work, told
from fastrecon.serving.request import Busy, Late
from fastrecon.serving.scheduler import Scheduler
from fastrecon.serving.telemetry import Telemetry

CERTIFICATE = "x-fastrecon-certificate"
FORM = "multipart/form-data"
LOCAL = ("localhost", "127.0.0.1", "[::1]", "testserver")
DECODERS = 2  # bodies that are decoded, or answers encoded, at a time


@dataclass(frozen=True)
class Limits:
    """What a server grants.

    Attributes:
        body: bytes of a body.
        bodies: bytes of all bodies that are there at once.
        seconds: from the arrival to the answer, also where a client would wait longer.
        body_seconds: for a body to come.
        waiting: requests inside at once, those in the works included.
    """

    body: int = 64 * 2**20
    bodies: int = 512 * 2**20
    seconds: float = 300.0
    body_seconds: float = 30.0
    waiting: int = 64


class Server:
    """The application, for any ASGI server.

    Args:
        door: what reads and answers.
        scheduler: what computes; it is drained in the end.
        limits: see there.
        token: that clients must send, as `Authorization: Bearer TOKEN`; "": none.
        local: whether only names of this machine are taken for its own, as pages of others may call it from a browser.
    """

    def __init__(
        self, door: Door, scheduler: Scheduler, limits: Limits | None = None, token: str = "", local: bool = True
    ):
        expect(isinstance(door, Door), "Server", "door", "a Door", type(door).__name__)
        self.door, self.scheduler, self.limits = door, scheduler, limits or Limits()
        self.token, self.local, self.telemetry = token, local, Telemetry(scheduler)
        self.inside = self.held = self.arriving = 0  # requests, bytes of their bodies; requests at the gate
        self.ready, self.draining = False, False
        self._threads: CapacityLimiter | None = None
        routes = [
            Route("/", self.home),
            Route("/health", self.health),
            Route("/ready", self.readiness),
            Route("/metrics", self.metrics),
            Route("/v1/models", self.models),
            Route("/v1/reconstruct", self.reconstruct, methods=["POST"]),
        ]
        self.paths = {route.path for route in routes}
        self.app = Router(routes, lifespan=self._lifespan)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI: every answer is counted, every error is one line of JSON."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 0
        facts: dict[str, Any] = {"id": secrets.token_hex(8)}
        scope["fastrecon"] = facts

        async def sent(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *HEADERS, (b"x-request-id", facts["id"].encode())]
            await send(message)

        try:
            request = Request(scope)
            self._admit(request)
            await self.app(scope, receive, sent)
        except Refusal as e:
            await _error(e.status, str(e), e.headers)(scope, receive, sent)
        except ClientDisconnect:
            status = status or GONE
        except Exception as e:
            facts["failure"] = f"{type(e).__name__}: {told(e)}"[:500]
            if not status:
                await _error(500, "server: an error of ours; the log has it under x-request-id")(scope, receive, sent)
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            received = facts.pop("received", 0)
            self.telemetry.answered(path, status, time.monotonic() - began, received, facts)

    def _admit(self, request: Request) -> None:
        """Raises Refusal unless the client may ask."""
        if request.url.path not in self.paths:
            raise Refusal(404, f"path: expected one of {', '.join(sorted(self.paths))}, got another")
        method = "POST" if request.url.path == "/v1/reconstruct" else "GET"
        if request.method not in (method, "HEAD" if method == "GET" else method):
            raise Refusal(405, f"method: expected {method}, got {request.method[:20]}", {"allow": method})
        host = request.headers.get("host", "").rsplit(":", 1)[0] if "host" in request.headers else "localhost"
        if self.local and host not in LOCAL:
            raise Refusal(403, "host: expected a name of this machine, got another")
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
            raise Refusal(403, "origin: expected a page of this server, got another's")
        open_ = ("/", "/health", "/ready")
        if self.token and request.url.path not in open_:
            given = request.headers.get("authorization", "")
            good = hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {self.token}".encode())
            if not good:
                raise Refusal(401, "authorization: expected a bearer token", {"www-authenticate": "Bearer"})

    async def home(self, request: Request) -> Response:
        """The page."""
        return HTMLResponse(page.HTML, headers={"content-security-policy": page.POLICY})

    async def health(self, request: Request) -> Response:
        """200 while the process answers."""
        return JSONResponse({"status": "ok", "fastrecon": fastrecon.__version__})

    async def readiness(self, request: Request) -> Response:
        """200 once every model has answered, until the server drains."""
        good = self.ready and not self.draining
        return JSONResponse({"ready": good, "draining": self.draining}, 200 if good else 503)

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        return PlainTextResponse(self.telemetry.page(), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        """The models, problems and methods that requests may name."""
        return JSONResponse({"models": self.door.describe(), "problems": page.problems()})

    async def reconstruct(self, request: Request) -> Response:
        """A picture and its certificate for a body of measurements."""
        began, facts = time.monotonic(), request.scope["fastrecon"]
        if (why := self.full()) is not None:
            raise why
        self.inside += 1
        try:
            with _Held(self) as held:
                body = await self._body(request, held)
                facts["received"] = len(body)
                work = await self._thread(self._read, request, body)
                del body
            facts |= {"problem": work.problem.name, "method": work.method.name, "model": work.model}
            answer = await self._answered(request, work, began)
        finally:
            self.inside -= 1
        return _response(answer, request.headers.get("accept", ""))

    def full(self, more: int = 0) -> Refusal | None:
        """What somebody is told who wants a picture now, with so many on the way; None: there is room."""
        if self.draining:
            return Refusal(503, "server: it is about to stop", {"retry-after": "5"})
        if self.inside + more >= self.limits.waiting:
            return self._busy(f"{self.inside} requests inside", self.scheduler.room_after())
        return None

    def _read(self, request: Request, body: bytes) -> Work:
        query = dict(request.query_params)
        if len(query) != len(request.query_params.multi_items()):
            raise Refusal(422, "query: expected every option once, got one twice")
        headers = request.headers
        return self.door.read(body, headers.get("content-type", ""), query, headers.get("accept", ""))

    async def _answered(self, request: Request, work: Work, began: float) -> Answer:
        limit = min(self.limits.seconds, work.seconds or self.limits.seconds)
        left = limit - (time.monotonic() - began)
        if left <= 0:
            raise Refusal(504, f"deadline: expected an answer within {limit:g} s, got none")
        if work.pixels > self.scheduler.max_pixels:
            raise Refusal(413, f"body: expected at most {self.scheduler.max_pixels} pixels, got {work.pixels}")
        try:
            future = self.scheduler.run(
                lambda: self.door.compute(work), images=work.images, pixels=work.pixels, deadline=left
            )
        except Busy as e:
            raise self._busy(str(e), e.retry_after) from e
        except RuntimeError as e:
            raise Refusal(503, "server: it is about to stop") from e
        try:
            done = await _unless_gone(request, asyncio.wrap_future(future))
        except Late as e:
            raise Refusal(504, f"deadline: expected an answer within {limit:g} s, got none") from e
        except CancelledError as e:
            raise Refusal(503, "server: it is about to stop") from e
        except (ValueError, TypeError, FileNotFoundError) as e:
            raise Refusal(422, told(e)) from e
        except MemoryError as e:
            raise Refusal(413, f"body: expected what fits into memory ({told(e)})") from e
        finally:
            future.cancel()
        return await self._thread(self.door.answer, work, done, FORM in request.headers.get("accept", ""))

    async def _body(self, request: Request, held: "_Held") -> bytes:
        """The body, as far as it is granted."""
        coding = request.headers.get("content-encoding", "identity")
        if coding != "identity":
            raise Refusal(415, f"content-encoding: expected none, got {coding[:40]}")
        length = request.headers.get("content-length")
        if length is not None:
            good = length.isascii() and length.isdigit() and len(length) < 19
            if not good:
                raise Refusal(400, "content-length: expected a number of bytes, got another text")
            held.grow(int(length))
        body = bytearray()

        async def receive() -> None:
            async for chunk in request.stream():
                body.extend(chunk)
                held.grow(len(body))

        try:
            await asyncio.wait_for(receive(), self.limits.body_seconds)
        except asyncio.TimeoutError as e:
            raise Refusal(408, f"body: expected all of it within {self.limits.body_seconds:g} s", CLOSE) from e
        if not body:
            raise Refusal(422, "body: expected measurements, got nothing")
        return bytes(body)

    def _busy(self, why: str, seconds: float) -> Refusal:
        return Refusal(
            429, f"server: expected room for a request, got {why}", {"retry-after": f"{max(1, ceil(seconds))}"}
        )

    async def _thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self._threads = self._threads or CapacityLimiter(DECODERS)
        return await to_thread.run_sync(function, *arguments, limiter=self._threads)

    @asynccontextmanager
    async def _lifespan(self, app: Any) -> AsyncIterator[None]:
        warm = asyncio.create_task(self._warm())
        try:
            yield
        finally:
            self.draining = True
            warm.cancel()
            await to_thread.run_sync(self.scheduler.drain)

    async def _warm(self) -> None:
        began = time.monotonic()
        for name in self.door.models:
            try:
                work = await to_thread.run_sync(warming.work, self.door, name)
                await asyncio.wrap_future(self.scheduler.run(lambda work=work: self.door.compute(work)))
            except Exception as e:
                self.telemetry.log("warm-up", model=name, failure=told(e))
                return
        self.ready = True
        self.telemetry.log("ready", models=list(self.door.models), seconds=round(time.monotonic() - began, 3))


class _Held:
    """The bytes that a request holds of what all bodies may have."""

    def __init__(self, server: Server):
        self.server, self.bytes = server, 0

    def __enter__(self) -> "_Held":
        return self

    def __exit__(self, *error: Any) -> None:
        self.server.held -= self.bytes

    def grow(self, size: int) -> None:
        """Asks for room for a body of this size in all."""
        limits = self.server.limits
        if size > limits.body:
            raise Refusal(413, f"body: expected at most {limits.body} bytes, got more", CLOSE)
        more = max(0, size - self.bytes)
        if self.server.held + more > limits.bodies:
            raise self.server._busy(f"{self.server.held} bytes of bodies", 1.0)
        self.server.held += more
        self.bytes += more


CLOSE = {"connection": "close"}
GONE = 499  # what is logged where nobody is there to hear an answer
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers=headers)


async def _unless_gone(request: Request, answer: Awaitable[Any]) -> Any:
    """The answer, unless the client goes before it is there."""
    waiting = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ClientDisconnect
        return waiting.result()
    except asyncio.CancelledError as e:
        if waiting.cancelled():
            raise CancelledError from e
        raise
    finally:
        gone.cancel()
        waiting.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _response(answer: Answer, accept: str) -> Response:
    facts = json.dumps(answer.facts)
    if FORM not in accept:
        name = f"reconstruction{answer.kind.suffix}"
        headers = {CERTIFICATE: facts, "content-disposition": f'attachment; filename="{name}"'}
        return Response(answer.data, media_type=answer.kind.types[0], headers=headers)
    boundary = secrets.token_hex(16)
    parts = [
        ("certificate", "certificate.json", "application/json", facts.encode()),
        ("reconstruction", f"reconstruction{answer.kind.suffix}", answer.kind.types[0], answer.data),
        ("preview", "preview.png", "image/png", answer.preview),
        ("map", f"{answer.facts['map']}.png", "image/png", answer.map),
    ]
    body = b""
    for name, file, kind, data in parts:
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\nContent-Type: {kind}'
        )
        body += f"{head}\r\n\r\n".encode() + data + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return Response(body, media_type=f"{FORM}; boundary={boundary}")
