"""What stands before replicas: another answers where one dies, and where none can the client is told so."""

import asyncio
import contextlib
import json

import pytest

pytest.importorskip("starlette")

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from fastrecon.serving.front import Front, alive, called


class Died(Exception):
    pass


class Full(Exception):
    pass


def answered(ask, body: bytes = b"abc", limit: int = 10, bodies: int = 100, seconds: float = 5.0):
    """Status, retry-after and JSON or body of a request whose body comes in two parts."""
    front = Front(ask, limit, bodies, seconds, (Died,), (Full,))
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in (body[:2], body[2:])]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive():
        return messages.pop(0)

    scope = {"type": "http", "method": "POST", "path": "/x", "query_string": b"a=1", "headers": [], "app": object()}
    response = asyncio.run(front.answer(Request(scope, receive)))
    assert front.held == 0
    found = bytes(response.body)
    return response.status_code, response.headers.get("retry-after"), json.loads(found) if found[:1] == b"{" else found


def test_the_answer_of_a_replica_passes():
    async def ask(scope, body):
        assert scope == {"type": "http", "method": "POST", "path": "/x", "query_string": b"a=1", "headers": []}
        return 422, [(b"x-request-id", b"7")], body

    assert answered(ask) == (422, None, b"abc")


def test_another_answers_where_one_dies():
    trials = []

    async def ask(scope, body):
        trials.append(body)
        if len(trials) < 3:
            raise Died
        return 200, [], body

    assert answered(ask) == (200, None, b"abc")
    assert trials == [b"abc"] * 3


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [(Died, 503, "replica: 3 ended"), (Full, 429, "server: full"), (OSError, 503, "replica: expected an answer")],
)
def test_where_none_can_the_client_is_told(error, status, line):
    async def ask(scope, body):
        raise error

    found, again, said = answered(ask)
    assert (found, again) == (status, "1")
    assert said["error"].startswith(line)


def test_what_is_too_much_is_refused_before_a_replica_has_it():
    async def ask(scope, body):
        raise AssertionError

    assert answered(ask, limit=2)[0] == 413
    assert answered(ask, bodies=2)[:2] == (429, "1")


def test_a_deadline_is_kept():
    async def ask(scope, body):
        await asyncio.Event().wait()

    assert answered(ask, seconds=0.01)[0] == 504


def test_an_application_is_called_without_a_server():
    async def home(request):
        return PlainTextResponse(await request.body() + request.query_params["a"].encode(), 201, {"x-y": "z"})

    events = []

    @contextlib.asynccontextmanager
    async def life(app):
        events.append("begins")
        yield
        events.append("ends")

    async def main():
        app = Starlette(routes=[Route("/", home, methods=["POST"])], lifespan=life)
        async with alive(app):
            assert events == ["begins"]
            scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"a=1", "headers": []}
            return await called(app, scope, b"body-")

    status, headers, body = asyncio.run(main())
    assert (status, body, events) == (201, b"body-1", ["begins", "ends"])
    assert (b"x-y", b"z") in headers
