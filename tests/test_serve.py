"""`fastrecon serve` in a process of its own: what clients get through a socket, and a browser at the page."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import browser
import numpy as np
import pytest
from hostile import bombs, fuzzed, sound

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
imagecodecs = pytest.importorskip("imagecodecs")
TOKEN = "a-token-of-many-letters"
ASKED = {"authorization": f"Bearer {TOKEN}"}
FEW = {"problem": "inpaint", "method": "fista", "iterations": "3", "simulate": "1"}
LONG = FEW | {"iterations": "1000000"}

# Opens files to be told, from the moment that all is ready, but for those of Python and of bodies.
WATCHED = """
import os, resource, sys
from pathlib import Path

seen, free = Path("opened").open("w"), False
roots = [sys.prefix, sys.base_prefix, sys.argv.pop(1), "/dev/shm/fastrecon-", "/tmp/fastrecon-", "/proc/", "/sys/"]
roots += ["/dev/null", "uname"]
def hook(event, arguments):
    if free and event in ("open", "os.remove", "os.rename", "os.mkdir", "subprocess.Popen", "os.system"):
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes)) else repr(arguments[0])
        within = event == "os.remove" and arguments[1] != -1  # of a folder of its own
        known = path.startswith(tuple(roots)) or path == "-1" or path.isdigit()
        if not within and not known:
            seen.write(f"{event} {path}\\n")
            seen.flush()
sys.addaudithook(hook)
from fastrecon.serving import telemetry
log = telemetry.Telemetry.log
def told(self, event, **facts):
    global free
    free = free or event == "ready"
    log(self, event, **facts)
telemetry.Telemetry.log = told
from fastrecon.cli.main import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server with room for two requests, in its folder: process, address, folder."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "token").write_text(TOKEN)
    root = str(Path(__file__).parents[1])
    words = "serve lda-cs-25 --port 0 --token-file token --max-batch 1 --max-queue 1 --max-body 1 --body-timeout 5"
    command = [sys.executable, "-c", WATCHED, root, *words.split()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "FASTRECON_MAX_PIXELS": "100000"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, text=True, env=environment, cwd=folder)
        try:
            end = time.monotonic() + 120
            while '"ready"' not in (text := (folder / "log").read_text()):
                assert process.poll() is None, text
                assert time.monotonic() < end, text
                time.sleep(0.05)
            yield process, f"http://127.0.0.1:{json.loads(text.splitlines()[0])['port']}", folder
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def client(served):
    with httpx.Client(base_url=served[1], headers=ASKED, timeout=60) as found:
        yield found


def post(client, params=FEW, content=None, **more):
    content = sound()["png"] if content is None else content
    return client.post("/v1/reconstruct", params=params, content=content, **more)


def error_of(answer, status):
    assert answer.status_code == status, answer.text
    text = answer.json()["error"]
    assert "\n" not in text
    return text


def numbers(client):
    """Requests in the works, of the metrics."""
    lines = client.get("/metrics").text.splitlines()
    return {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("fastrecon_scheduler_")}


def opened(
    served, target="/v1/reconstruct?problem=inpaint&simulate=1&method=fista&iterations=1000000", body=b"", left=0
):
    """A connection over which a request has come but for `left` bytes."""
    sock = socket.create_connection(("127.0.0.1", int(served[1].rpartition(":")[2])))
    head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    sock.sendall(f"{head}Content-Length: {len(body) + left}\r\n\r\n".encode() + body)
    return sock


def told(sock):
    """Status, head and body of what comes back."""
    data = b""
    with sock:
        sock.settimeout(60)
        while part := sock.recv(2**16):
            data += part
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), head, body


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_statuses_through_a_socket(served, client):
    assert post(client).status_code == 200
    error_of(post(client, headers={"authorization": "Bearer no"}), 401)
    assert "at most 1048576 bytes" in error_of(post(client, content=bytes(2**20 + 1)), 413)
    large = imagecodecs.png_encode(np.zeros((400, 300), np.uint8))
    assert "100000 pixels" in error_of(post(client, content=large), 413)
    assert "deadline" in error_of(post(client, LONG | {"deadline": "0.3"}), 504)
    error_of(post(client, content=b"nothing known"), 415)
    with pytest.raises(httpx.HTTPError):  # a million headers
        client.get("/health", headers=[(f"x-{k}", "y" * 50) for k in range(2000)]).raise_for_status()


def test_a_full_server_says_when_to_come_back_and_is_full_no_longer(served, client):
    first = opened(served, body=b"abc", left=10)
    second = opened(served, body=b"abc", left=10)
    until(lambda: post(client).status_code == 429)
    answer = post(client)
    assert int(answer.headers["retry-after"]) >= 1
    assert "room for a request" in error_of(answer, 429)
    assert client.get("/health").status_code == 200
    first.close()
    assert told(second)[0] == 408  # after --body-timeout
    assert post(client).status_code == 200


def test_a_client_that_leaves_frees_its_place(served, client):
    sock = opened(served, body=sound()["png"])
    until(lambda: numbers(client)["fastrecon_scheduler_running"] == 1)
    sock.close()
    until(lambda: numbers(client)["fastrecon_scheduler_running"] == 0)
    assert post(client).status_code == 200


NO_HTTP = (b"\x16\x03\x01 no HTTP\r\n\r\n", b"POST /v1/reconstruct\r\n\r\n", b"\0\r\n\r\n")


@pytest.mark.parametrize("message", NO_HTTP)
def test_what_is_no_http(served, client, message):
    sock = socket.create_connection(("127.0.0.1", int(served[1].rpartition(":")[2])))
    sock.sendall(message)
    status, head, body = told(sock)
    assert status == 400
    assert b"application/json" in head
    assert json.loads(body)["error"]


def test_hostile_bodies_open_no_file_and_take_no_memory(served, client):
    process, _, folder = served
    for kind, body in [*fuzzed(40, seed=9), *bombs().items()]:
        params = {k: v for k, v in FEW.items() if k != "simulate" or kind not in ("npz", "safetensors")}
        answer = post(client, params, body)
        assert answer.status_code in (200, 413, 415, 422), (kind, answer.text)
        if answer.status_code != 200:
            error_of(answer, answer.status_code)
    status = Path(f"/proc/{process.pid}/status")
    if status.exists():
        peak = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        assert int(peak) < 2**20  # KiB
    assert (folder / "opened").read_text() == ""
    assert {p.name for p in folder.iterdir()} == {"token", "log", "opened"}


@pytest.mark.skipif(browser.found() is None, reason="no Chromium: set FASTRECON_BROWSER, or install one")
def test_a_person_at_the_page(served, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photo.png").write_bytes(imagecodecs.png_encode((255 * rng.random((24, 32))).astype(np.uint8)))
    (tmp_path / "broken.png").write_bytes((tmp_path / "photo.png").read_bytes()[:100])
    with browser.Browser() as page:

        def text(name):
            return page.run(f"document.getElementById('{name}').textContent")

        page.open(served[1] + "/")
        page.until("document.getElementById('said').className === 'error'")
        assert "bearer token" in text("said")
        page.run(
            f"(e => {{ e.value = '{TOKEN}'; e.dispatchEvent(new Event('change')); }})(document.getElementById('token'))"
        )
        page.until("document.querySelectorAll('#problem option').length > 1")
        page.drop("#drop", tmp_path / "photo.png")
        assert "photo.png" in text("name")
        page.run("document.getElementById('more').value = 'method=fista&iterations=5'")
        page.run("document.getElementById('go').click()")
        page.until("!document.getElementById('images').hidden")
        for name in ("picture", "map"):
            size = page.until(
                f"(i => i.complete && [i.naturalWidth, i.naturalHeight])(document.getElementById('{name}'))"
            )
            assert size == [32, 24]
        facts = json.loads(text("certificate"))
        assert (facts["method"], facts["map"], facts["certificate"]["iterations"]) == ("fista", "error", 5)
        assert "PSNR" in text("facts")
        assert page.run("document.getElementById('save').download") == "reconstruction.png"
        page.drop("#drop", tmp_path / "broken.png")
        page.run("document.getElementById('go').click()")
        page.until("document.getElementById('said').className === 'error'")
        assert "body: expected a readable image" in text("said")
        assert page.run("document.getElementById('images').hidden")
        assert page.errors == []


def test_sigterm_answers_what_is_inside(served, client):
    process, _, folder = served
    target = "/v1/reconstruct?problem=inpaint&simulate=1&method=fista&iterations=20000&tol=0"  # it takes a while
    sock = opened(served, target, sound()["png"])
    until(lambda: numbers(client)["fastrecon_scheduler_running"] == 1)
    process.send_signal(signal.SIGTERM)
    assert told(sock)[0] == 200
    assert process.wait(60) == 0
    events = [json.loads(line)["event"] for line in (folder / "log").read_text().splitlines()]
    assert events[-1] == "stopped"
