"""The server: a status and one line for whatever comes, and the numbers that Python gives for what is sound."""

import asyncio
import json
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import SIDE, bombs, fuzzed, sound

import fastrecon as fr
from fastrecon.io import Form
from fastrecon.operators import Inpainting
from fastrecon.problems import PROBLEMS
from fastrecon.serving import Scheduler, bodies, page
from fastrecon.serving.door import Door

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
CERTIFICATE, Limits, Server = (
    getattr(pytest.importorskip("fastrecon.serving.http"), name) for name in ("CERTIFICATE", "Limits", "Server")
)
gate = pytest.importorskip("fastrecon.serving.gate")
FEW = {"problem": "inpaint", "method": "fista", "iterations": "3"}
TOKEN = "a-token-of-many-letters"


@pytest.fixture(scope="module")
def door():
    return Door({"prior": "prior-natural", "lda": "lda-cs-25"})


@pytest.fixture(scope="module")
def scheduler():
    with Scheduler("auto", max_pixels=2**16) as scheduler:
        yield scheduler


@pytest.fixture
def server(door, scheduler):
    return Server(door, scheduler)


def ask(server, method="POST", path="/v1/reconstruct", **options):
    """The answer to one request."""

    async def one():
        transport = httpx.ASGITransport(server)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **options)

    return asyncio.run(one())


def error_of(answer, status):
    """The one line of an answer that has this status."""
    assert answer.status_code == status, answer.text
    text = answer.json()["error"]
    assert text
    assert "\n" not in text
    assert "/dev/shm" not in text
    assert "/tmp" not in text
    return text


def arrays(**named):
    """A .npz file."""
    import io

    file = io.BytesIO()
    np.savez(file, **named)
    return file.getvalue()


def masked(seed=0):
    draw = torch.Generator().manual_seed(seed)
    mask = (torch.rand(SIDE, SIDE, generator=draw) < 0.6).float()
    return mask * torch.rand(SIDE, SIDE, generator=draw), mask


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors", "h5", "tif", "png"])
def test_answers_have_the_bits_of_python(server, kind):
    y, mask = masked()
    sent = FEW | {"format": kind, "noise": "0.02", "lam": "0.01"}
    answer = ask(server, content=arrays(y=y.numpy(), mask=mask.numpy()), params=sent)
    assert answer.status_code == 200, answer.text
    assert bodies.kind_of(answer.content[:16]).suffix == f".{kind}"
    assert answer.headers["content-type"] == bodies.kind_of(answer.content[:16]).types[0]
    facts = json.loads(answer.headers[CERTIFICATE])
    problem = PROBLEMS["inpaint"]
    with bodies.spooled(arrays(y=y.numpy(), mask=mask.numpy()), bodies.kind_named("application/x-npz")) as path:
        source, files = bodies.unpacked(path, ("mask",))
        m = problem.read(source, problem.Options(noise=0.02, **files))
    inverse = problem.inverse(m)
    outcome = fr.solvers.methods.METHODS["fista"].ready("cpu", iterations=3, lam="0.01")(inverse)
    expected = problem.pixels(outcome.x, m)
    assert facts["certificate"]["objective"] == outcome.report.objective.item()
    if kind in ("npy", "npz", "safetensors", "h5"):
        np.testing.assert_array_equal(pixels_of(answer.content, kind), expected)
    if kind in ("npz", "safetensors"):
        assert facts == certificate_in(answer.content, kind)


def pixels_of(data, kind):
    import io

    if kind == "npy":
        return np.load(io.BytesIO(data))
    if kind == "npz":
        return np.load(io.BytesIO(data))["reconstruction"]
    if kind == "h5":
        import h5py

        with h5py.File(io.BytesIO(data)) as file:
            return file["reconstruction"][()]
    from safetensors.numpy import load

    return load(data)["reconstruction"]


def certificate_in(data, kind):
    import io

    if kind == "npz":
        return json.loads(str(np.load(io.BytesIO(data))["certificate"]))
    length = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["certificate"])


@pytest.mark.parametrize("kind", sorted(sound()))
def test_every_kind_of_body_is_read(server, kind):
    params = FEW | {} if kind in ("npz", "safetensors") else FEW | {"simulate": "true", "rate": "0.5"}
    answer = ask(server, content=sound()[kind], params=params)
    assert answer.status_code == 200, answer.text


def test_measurements_of_the_command_line_say_what_they_are(server, tmp_path):
    from fastrecon.problems import file

    problem = PROBLEMS["deblur"]
    picture = fr.io.Picture(np.random.default_rng(0).random((SIDE, SIDE)).astype(np.float32), Path("x"), Form())
    file.write(tmp_path / "m.npz", problem.simulate(picture, problem.Options(), 0))
    answer = ask(server, content=(tmp_path / "m.npz").read_bytes(), params={"method": "tikhonov"})
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.headers[CERTIFICATE])["problem"] == "deblur"


def test_curl_names_a_kind_that_nobody_asked_for(server):
    headers = {"content-type": "application/x-www-form-urlencoded"}
    asked = FEW | {"simulate": "1"}
    assert ask(server, content=sound()["png"], params=asked, headers=headers).status_code == 200
    error_of(ask(server, content=b"a=1&b=2", params=asked, headers=headers), 415)


def test_a_model_by_its_name(server):
    answer = ask(server, content=sound()["png"], params={"model": "lda", "simulate": "true"})
    assert answer.status_code == 200, answer.text
    facts = json.loads(answer.headers[CERTIFICATE])
    assert (facts["method"], facts["model"], facts["problem"]) == ("lda", "lda", "block-cs")


def test_the_form_that_a_browser_reads(server):
    headers = {"accept": "multipart/form-data"}
    answer = ask(server, content=sound()["png"], params=FEW | {"simulate": "1"}, headers=headers)
    boundary = answer.headers["content-type"].partition("boundary=")[2].encode()
    parts = answer.content.split(b"--" + boundary)[1:-1]
    heads = [part.partition(b"\r\n\r\n")[0] for part in parts]
    assert [h.partition(b'name="')[2].partition(b'"')[0] for h in heads] == [
        b"certificate", b"reconstruction", b"preview", b"map",
    ]  # fmt: skip
    facts = json.loads(parts[0].partition(b"\r\n\r\n")[2])
    assert facts["map"] == "error"
    assert facts["scores"]["psnr"] > 0
    assert all(p.partition(b"\r\n\r\n")[2].startswith(b"\x89PNG") for p in parts[1:])


def test_the_page_is_allowed_its_own_script_and_nothing_else(server):
    answer = ask(server, "GET", "/")
    assert answer.status_code == 200
    assert "script-src 'sha256-" in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http://" not in page.HTML
    assert "https://" not in page.HTML
    import re

    ids, used = re.findall(r'id="(\w+)"', page.HTML), re.findall(r'at\("(\w+)"\)', page.HTML)
    assert set(used) <= set(ids)
    told = ask(server, "GET", "/v1/models").json()
    assert {m["name"] for m in told["models"]} == {"prior", "lda"}
    assert all(p["methods"] for p in told["problems"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/reconstruct", 405),
        ("PUT", "/health", 405),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/v1/models/..%2f..", 404),
        ("POST", "/v1", 404),
    ],
)
def test_other_paths_and_methods(server, method, path, status):
    error_of(ask(server, method, path), status)


@pytest.mark.parametrize(
    ("headers", "status", "line"),
    [
        ({"content-type": "text/html"}, 415, "content-type: expected one of"),
        ({"content-type": "image/tiff"}, 415, "got image/tiff with image/png"),
        ({"content-encoding": "gzip"}, 415, "content-encoding: expected none, got gzip"),
        ({"content-length": "9999999999"}, 413, "body: expected at most"),
        ({"content-length": "-3"}, 400, "content-length"),
        ({"content-length": "1e3"}, 400, "content-length"),
        ({"host": "elsewhere.example"}, 403, "host"),
        ({"origin": "http://elsewhere.example"}, 403, "origin"),
    ],
)
def test_headers_are_looked_at(server, headers, status, line):
    answer = ask(server, content=sound()["png"], params=FEW | {"simulate": "1"}, headers=headers)
    assert line in error_of(answer, status)


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ({}, "--problem: expected one of"),
        ({"problem": "no"}, "--problem: expected one of"),
        ({"problem": "inpaint", "method": "no"}, "--method: expected one of"),
        ({"problem": "inpaint", "method": "lda"}, "--method: expected one of"),
        ({"model": "/etc/passwd"}, "--model: expected one of prior, lda"),
        ({"model": "../weights"}, "--model: expected one of prior, lda"),
        (FEW | {"model": "lda"}, "--model: expected a model for inpaint"),
        (FEW | {"no-such": "1"}, "--no-such: expected one of"),
        (FEW | {"iterations": "0"}, "--iterations: expected an integer in [1, 1e6]"),
        (FEW | {"iterations": "nan"}, "--iterations: expected an integer in [1, 1e6]"),
        (FEW | {"iterations": "1e400"}, "--iterations"),
        (FEW | {"noise": "inf"}, "--noise"),
        (FEW | {"noise": ""}, "--noise"),
        (FEW | {"mask": "/etc/passwd"}, "--mask: expected a number or a word"),
        (FEW | {"mask": "../x.npy"}, "--mask: expected a number or a word"),
        (FEW | {"mask": "x.npy"}, "--mask: expected a number or a word"),
        (FEW | {"mask": "tests"}, "--mask"),
        (FEW | {"wavelet": "no-such", "simulate": "1"}, "wavelet"),
        (FEW | {"rate": "0.5"}, "--rate: expected it with --simulate only"),
        (FEW | {"simulate": "maybe"}, "--simulate: expected true or false"),
        (FEW | {"simulate": "1", "seed": "-1"}, "--seed"),
        (FEW | {"format": "exe"}, "--format: expected one of"),
        (FEW | {"deadline": "-1"}, "--deadline"),
        (FEW | {"deadline": "nan"}, "--deadline"),
        ({"problem": "block-cs"}, "body: expected measurements (.npz, .safetensors, .npy)"),
        ({"problem": "block-cs", "simulate": "1", "block": "1024", "ratio": "100"}, "--block"),
    ],
)
def test_options_are_looked_at(server, params, line):
    assert line in error_of(ask(server, content=sound()["png"], params=params), 422)


def test_an_option_twice(server):
    answer = ask(server, path="/v1/reconstruct?problem=inpaint&problem=mri", content=sound()["png"])
    assert "expected every option once" in error_of(answer, 422)


def test_measurements_with_nan(server):
    y, mask = masked()
    y[3, 4] = float("nan")
    assert "NaN" in error_of(ask(server, content=arrays(y=y.numpy(), mask=mask.numpy()), params=FEW), 422)


def test_an_empty_body(server):
    assert error_of(ask(server, params=FEW), 422) == "body: expected measurements, got nothing"


@pytest.mark.parametrize("name", sorted(bombs()))
def test_bombs(server, name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = ask(server, content=bombs()[name], params=FEW)
    assert answer.status_code in (413, 415, 422)
    error_of(answer, answer.status_code)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024  # KiB: 320 MB are asked for by one


def test_too_many_pixels(door, scheduler, monkeypatch):
    monkeypatch.setenv("FASTRECON_MAX_PIXELS", "100")
    answer = ask(Server(door, scheduler), content=sound()["png"], params=FEW | {"simulate": "1"})
    assert "at most 100 pixels" in error_of(answer, 413)


def test_fuzzed_bodies(server):
    places = [Path.cwd(), Path(bodies.PLACE)]
    before = [set(place.iterdir()) for place in places if place.exists()]
    for kind, body in fuzzed(120, seed=5):
        params = FEW | ({} if kind in ("npz", "safetensors") else {"simulate": "1"})
        answer = ask(server, content=body, params=params, timeout=20)
        assert answer.status_code in (200, 413, 415, 422), (kind, answer.text)
        if answer.status_code != 200:
            error_of(answer, answer.status_code)
    after = [set(place.iterdir()) for place in places if place.exists()]
    assert not [
        p for b, a in zip(before, after, strict=True) for p in a - b if p.name.startswith(("fastrecon-", "body"))
    ]
    assert server.inside == server.held == 0


def test_a_token(door, scheduler):
    server = Server(door, scheduler, token=TOKEN)
    assert ask(server, "GET", "/health").status_code == 200
    for given in ({}, {"authorization": "Bearer no"}, {"authorization": TOKEN}, {"authorization": "Bearer \xff"}):
        headers = [(k.encode(), v.encode("latin-1")) for k, v in given.items()]
        answer = ask(server, content=sound()["png"], params=FEW, headers=headers)
        error_of(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/v1/models", "/metrics"):
        error_of(ask(server, "GET", path), 401)
    good = {"authorization": f"Bearer {TOKEN}"}
    assert ask(server, content=sound()["png"], params=FEW | {"simulate": "1"}, headers=good).status_code == 200


def test_a_full_server_says_when_to_come_back(door, scheduler):
    server = Server(door, scheduler, Limits(waiting=0))
    answer = ask(server, content=sound()["png"], params=FEW)
    error_of(answer, 429)
    assert int(answer.headers["retry-after"]) >= 1
    server = Server(door, scheduler, Limits(bodies=10))
    error_of(ask(server, content=sound()["png"], params=FEW), 429)
    assert server.held == 0


def test_a_deadline(server, scheduler):
    long = FEW | {"simulate": "1", "iterations": "1000000", "deadline": "0.3"}
    start = time.monotonic()
    assert "deadline" in error_of(ask(server, content=sound()["png"], params=long), 504)
    assert time.monotonic() - start < 30
    assert scheduler.stats()["running"] == 0


def test_bodies_that_grow_and_bodies_that_do_not_come(door, scheduler):
    async def growing():
        for _ in range(100):
            yield bytes(1000)

    async def stuck():
        yield sound()["png"][:20]
        await asyncio.sleep(60)

    small = Server(door, scheduler, Limits(body=5000, body_seconds=0.2))
    error_of(ask(small, content=growing(), params=FEW), 413)
    error_of(ask(small, content=stuck(), params=FEW), 408)
    assert small.held == small.inside == 0


def test_a_client_that_leaves_frees_its_place(server, scheduler):
    async def one():
        told = asyncio.Event()

        async def receive():
            if not told.is_set():
                told.set()
                return {"type": "http.request", "body": sound()["png"], "more_body": False}
            while not scheduler.stats()["running"]:
                await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        async def send(message):
            raise AssertionError("nobody listens")

        query = "&".join(f"{k}={v}" for k, v in (FEW | {"simulate": "1", "iterations": "1000000"}).items())
        scope = {
            "type": "http", "method": "POST", "path": "/v1/reconstruct", "query_string": query.encode(), "headers": [],
            "scheme": "http", "server": ("localhost", 80), "root_path": "", "http_version": "1.1",
        }  # fmt: skip
        await server(scope, receive, send)
        end = time.monotonic() + 30
        while scheduler.stats()["running"]:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)

    asyncio.run(one())
    assert server.inside == server.held == 0


def test_metrics_count_answers(server):
    ask(server, content=sound()["png"], params=FEW | {"simulate": "1"})
    ask(server, "GET", "/nowhere")
    text = ask(server, "GET", "/metrics").text
    assert 'fastrecon_requests_total{path="/v1/reconstruct",status="200"} 1.0' in text
    assert 'fastrecon_requests_total{path="other",status="404"} 1.0' in text
    assert "fastrecon_scheduler_queued 0.0" in text


def test_those_who_are_refused_at_the_gate_are_counted(server, capsys):
    for _ in range(3):
        server.telemetry.refused(429)
    text = ask(server, "GET", "/metrics").text
    assert 'fastrecon_requests_total{path="/v1/reconstruct",status="429"} 3.0' in text
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert sum(line["count"] for line in lines if line["event"] == "refused") == 3


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", True),
        (b"POST / HTTP/1.1\r\ncontent-length:3\r\nx: y\r\n\r\nab", False),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nContent-Length: 0\r\n", False),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", False),
    ],
)
def test_a_connection_is_closed_at_once_where_all_has_come(data, whole):
    assert gate.whole(data) == whole


def test_many_at_once_each_get_their_own(server):
    sent = [masked(seed) for seed in range(12)]

    async def all_of_them():
        transport = httpx.ASGITransport(server)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            posts = [
                client.post("/v1/reconstruct", content=arrays(y=y.numpy(), mask=mask.numpy()), params=MANY)
                for y, mask in sent
            ]
            return await asyncio.gather(*posts)

    for (y, mask), answer in zip(sent, asyncio.run(all_of_them()), strict=True):
        assert answer.status_code == 200, answer.text
        alone = fr.reconstruct(y[None, None], Inpainting(mask), method="fista", iterations=9, lam="0.01", norm=1.0)
        np.testing.assert_array_equal(pixels_of(answer.content, "npy"), alone.x[0, 0].numpy())


MANY = FEW | {"iterations": "9", "lam": "0.01", "format": "npy", "noise": "0.02"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--host 0.0.0.0", "--host: expected 127.0.0.1, or a --token-file"),
        ("--host 203.0.113.7 --token-file @images/disc.png", "--token-file: expected one token"),
        ("--port 70000", "--port"),
        ("no-such-model", "no-such-model"),
        ("lda-cs-25 lda-cs-25", "two 'lda-cs-25'"),
        ("--max-batch 0", "--max-batch"),
        ("--token-file no-such-file", "no such file"),
    ],
)
def test_the_command_looks_at_its_options(fails, options, line, monkeypatch):
    monkeypatch.setenv("FASTRECON_MAX_PIXELS", str(2**26))  # which the command sets where nobody has
    fails(f"serve {options}", words=(line,))
