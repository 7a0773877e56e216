"""Bulk work on a cluster: workers make the files of this machine, also where some die; batches of rows alike."""

import contextlib
import io
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fastrecon as fr
from fastrecon.cli import cluster
from fastrecon.cli.main import main
from fastrecon.serving.ray import Reconstruct, app, settings

SIZE = 33, 40
WORDS = ("--simulate", "--problem", "inpaint", "--method", "fista", "--iterations", "3")


class Ray:
    """What is used of ray, in threads of this process: an actor is a thread."""

    def __init__(self):
        self.open, self.actors, self.dies = False, 0, ()

    def init(self, **options: Any) -> None:
        self.open = True

    def is_initialized(self) -> bool:
        return False

    def shutdown(self) -> None:
        self.open = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, **options: Any) -> Any:
        return lambda kind: SimpleNamespace(remote=lambda *args: _Actor(self, kind, args))

    def cancel(self, reference: "_Reference") -> None:
        reference.told.cancel()


class _Reference:
    def __init__(self, told: Future[Any]):
        self.told = told

    def future(self) -> Future[Any]:
        return self.told


class _Actor:
    def __init__(self, ray: Ray, kind: type, args: tuple[Any, ...]):
        ray.actors += 1
        self.ray, self.thread, self.produce = ray, ThreadPoolExecutor(1), SimpleNamespace(remote=self._produce)
        self.own = self.thread.submit(kind, *args)

    def _produce(self, path: Path, prefix: Path) -> _Reference:
        def call() -> Any:
            if path.stem in self.ray.dies:
                raise OSError("connection reset")
            return self.own.result().produce(path, prefix)

        return _Reference(self.thread.submit(call))


@pytest.fixture
def ray(monkeypatch):
    found = Ray()
    monkeypatch.setitem(sys.modules, "ray", found)  # type: ignore[arg-type]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return found


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder, rng = tmp_path / "in", np.random.default_rng(0)
    folder.mkdir()
    for k in range(5):
        np.save(folder / f"{k}.npy", rng.random(SIZE).astype("f4"))
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def told(capsys, *words: object) -> tuple[int, list[dict[str, Any]], str]:
    status = main(["reconstruct", *WORDS, "--no-figure", "--json", *map(str, words)])
    said = capsys.readouterr()
    return status, json.loads(said.out or "[]"), said.err


def pixels(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix == ".npy"}


def test_workers_make_the_files_of_this_machine(ray, pictures, tmp_path, capsys):
    here = told(capsys, pictures, "--out", tmp_path / "here")
    there = told(capsys, pictures, "--on", "ray", "--out", tmp_path / "there")
    assert here[0] == there[0] == 2
    assert (ray.actors, ray.open) == (2, False)
    assert pixels(tmp_path / "here") == pixels(tmp_path / "there")
    assert len(pixels(tmp_path / "there")) == 5
    assert [Path(row["input"]).name for row in there[1]] == [Path(row["input"]).name for row in here[1]]
    assert there[2] == here[2]
    assert not (tmp_path / "here" / "manifest.json").exists()
    rows = json.loads((tmp_path / "there" / "manifest.json").read_text())
    assert rows == there[1]


def test_a_run_goes_on_and_its_manifest_is_whole(ray, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    ray.dies = "1", "3"  # again and again
    status, rows, err = told(capsys, pictures, "--on", "ray", "--jobs", 3, "--out", out)
    assert (status, ray.actors) == (2, 3)
    assert "3 of 6 inputs failed, 3 done" in err
    assert sum("a worker of the cluster failed (OSError)" in row.get("error", "") for row in rows) == 2
    ray.dies = ()
    (pictures / "bad.png").unlink()
    status, rows, _ = told(capsys, pictures, "--on", "ray", "--out", out)
    assert status == 2  # results exist
    status, rows, _ = told(capsys, pictures, "--on", "ray", "--skip-existing", "--out", out)
    assert (status, [row.get("skipped", False) for row in rows]) == (0, [True] * 3 + [False] * 2)
    found = json.loads((out / "manifest.json").read_text())
    assert all(row["certificate"]["iterations"] == 3 and "history" not in row for row in found)
    assert len(found) == 5


def test_an_interruption_keeps_what_is_done(ray, pictures, tmp_path, capsys, monkeypatch):
    (pictures / "bad.png").unlink()
    usual, calls = cluster.wait, []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return usual(*args, **options)

    monkeypatch.setattr(cluster, "wait", interrupted)
    status, rows, err = told(capsys, pictures, "--on", "ray", "--jobs", 1, "--out", tmp_path / "out")
    assert (status, err) == (130, "fastrecon: interrupted\n")
    assert 1 <= len(rows) < 5
    assert [Path(name).stem[0] for name in sorted(pixels(tmp_path / "out"))] == [str(k) for k in range(len(rows))]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == rows


def test_without_ray(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert told(capsys, pictures, "--on", "ray", "--out", tmp_path / "out")[0] == 2


# ---------------------------------------------------------------- rows of a data set


def bodies(pictures: Path) -> dict[str, Any]:
    paths = sorted(pictures.iterdir())
    return {"path": [str(p) for p in paths], "bytes": [p.read_bytes() for p in paths], "label": np.arange(len(paths))}


OPTIONS: dict[str, Any] = {"problem": "inpaint", "method": "fista", "iterations": 3, "simulate": True}


def test_files_come_back_as_pictures(pictures, tmp_path, capsys):
    told(capsys, pictures, "--out", tmp_path / "here")
    found = Reconstruct(**OPTIONS)(bodies(pictures))
    assert set(found) == {"path", "label", "reconstruction", "certificate", "error"}
    for name, picture, facts, error in zip(
        found["path"], found["reconstruction"], found["certificate"], found["error"], strict=True
    ):
        stem = Path(name).stem
        if stem == "bad":
            assert (picture, facts) == (b"", "")
            assert error.startswith("content-type: expected one of")
            continue
        (tmp_path / "x.npy").write_bytes(picture)
        assert error == ""
        here = np.load(tmp_path / "here" / f"{stem}_reconstruction.npy")
        assert np.array_equal(np.load(tmp_path / "x.npy"), here)
        assert json.loads(facts)["certificate"]["iterations"] == 3


def test_files_are_written_and_skipped_the_next_time(pictures, tmp_path):
    make, batch = Reconstruct(out=tmp_path / "out", **OPTIONS), bodies(pictures)
    first = make(batch)
    assert "reconstruction" not in first
    files = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    assert len(files) == 10
    assert [json.loads(text)["input"] for text in first["certificate"] if text] == batch["path"][:5]
    second = make(batch)
    assert [bool(e) for e in second["error"]] == [False] * 5 + [True]
    assert [json.loads(t or "0") for t in second["certificate"]] == [json.loads(t or "0") for t in first["certificate"]]
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()} == files


def test_measurements_come_back_as_arrays():
    model, rng = fr.load("lda-cs-10"), np.random.default_rng(0)
    y = rng.random((3, 1, 2, model.operator.phi.shape[0])).astype("f4")
    found = Reconstruct("lda-cs-10")({"y": y, "id": np.arange(3)})
    assert set(found) == {"id", "reconstruction", "certificate", "error"}
    for row, x in zip(y, found["reconstruction"], strict=True):
        assert np.array_equal(x, model(row[None]).x[0, 0])
    mask = np.ones((2, 16, 16), "f4")
    mask[:, ::2] = 0
    made = Reconstruct(arrays=["mask"], problem="inpaint", method="fista", iterations=2)
    found = made({"y": rng.random((2, 16, 16)).astype("f4") * mask, "mask": mask})
    assert list(found["error"]) == ["", ""]
    assert found["reconstruction"][0].shape == (16, 16)
    bad = made({"y": np.full((1, 16, 16), np.nan, "f4"), "mask": mask[:1]})
    assert bad["error"][0]
    assert bad["reconstruction"][0].shape == (0, 0)


def test_who_drops_it_keeps_no_threads():
    made = Reconstruct()
    scheduler = made.scheduler
    assert scheduler.alive
    del made
    assert scheduler.drain(timeout=10)


def test_what_a_batch_lacks_is_told(tmp_path):
    with pytest.raises(ValueError, match="Reconstruct: batch: expected a column bytes or y, got"):
        Reconstruct()({"x": np.zeros(1)})
    with pytest.raises(ValueError, match="Reconstruct: batch: expected a column path, got"):
        Reconstruct(out=tmp_path)({"bytes": [b""]})


# ---------------------------------------------------------------- serve run fastrecon.serving.ray:app


def test_settings_in_words_and_in_values():
    s = settings({"model": "lda-cs-10,lda-cs-25", "max_replicas": "8", "deadline": "2.5", "local": "true", "gpus": 0.5})
    assert (s.model, s.max_replicas, s.deadline, s.local, s.gpus) == ("lda-cs-10,lda-cs-25", 8, 2.5, True, 0.5)
    assert s.waiting == s.max_batch + s.max_queue


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("models", "lda-cs-10", "app: models: expected one of model, device, .*, got an unknown name"),
        ("max_batch", "many", "app: max_batch: expected an integer in"),
        ("max_batch", "0", "app: --max-batch: expected an integer in"),
        ("deadline", "nan", "app: --deadline: expected a number in"),
    ],
)
def test_wrong_settings_are_told(name, value, message):
    with pytest.raises(ValueError, match=message):
        settings({name: value})


# ---------------------------------------------------------------- on a real cluster

real = pytest.mark.skipif(
    os.environ.get("FASTRECON_RAY") != "1",
    reason="FASTRECON_RAY=1 asks for it: a cluster is a dozen processes, which start for minutes where two cores are "
    "busy with other tests, and Ray gives up after 30 s",
)
PATIENCE = 300.0  # seconds for what Ray starts
SLOW = {  # Ray gives up on what starts slowly, and its workers step back for all other processes
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120", "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}  # fmt: skip


untidy = pytest.mark.filterwarnings(  # Ray about itself
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def local_cluster():
    os.environ.update(SLOW)  # read where Ray is imported
    pytest.importorskip("ray.serve")
    import ray

    for trial in range(4):  # Ray waits 30 s for its own processes, and no longer
        try:
            ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20)
            break
        except Exception:
            ray.shutdown()
            if trial == 3:
                raise
    yield ray
    ray.shutdown()


@real
@untidy
def test_a_cluster(local_cluster, pictures, tmp_path, capsys):
    data = pytest.importorskip("ray.data")
    told(capsys, pictures, "--threads", 1, "--out", tmp_path / "here")
    assert told(capsys, pictures, "--on", "ray", "--jobs", 1, "--out", tmp_path / "there")[0] == 2
    assert pixels(tmp_path / "here") == pixels(tmp_path / "there")
    files = data.read_binary_files(str(pictures), include_paths=True)
    rows = files.map_batches(Reconstruct, fn_constructor_kwargs=OPTIONS, concurrency=1, batch_size=3).take_all()
    assert sorted(Path(row["path"]).stem for row in rows if not row["error"]) == list("01234")
    for row in rows:
        if not row["error"]:
            name = f"{Path(row['path']).stem}_reconstruction.npy"
            assert row["reconstruction"] == (tmp_path / "here" / name).read_bytes()


def replicas() -> list[int]:
    """The processes of replicas that compute, those of other clusters of this machine too."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"ServeReplica:default:fastrecon" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return sorted(found)


@real
@untidy
def test_a_killed_replica_is_replaced_and_nobody_is_left_without_an_answer(local_cluster):
    httpx, serve = pytest.importorskip("httpx"), pytest.importorskip("ray.serve")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    others = replicas()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(app({"model": "lda-cs-10", "min_replicas": 2, "max_replicas": 2, "max_batch": 2}))
    body = io.BytesIO()
    np.save(body, np.random.default_rng(0).random((3, 3, 109)).astype("f4"))
    answers, ends = [], threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=PATIENCE) as client:
            while not ends.is_set():
                url = f"http://127.0.0.1:{port}/v1/reconstruct?model=lda-cs-10"
                answers.append(client.post(url, content=body.getvalue()))
                if answers[-1].status_code != 200:
                    time.sleep(float(answers[-1].headers["retry-after"]))

    def until(condition: Callable[[], bool]) -> None:
        ends_at = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < ends_at
            time.sleep(0.2)

    askers = [threading.Thread(target=ask) for _ in range(6)]
    for asker in askers:
        asker.start()
    until(lambda: len(answers) > 20)
    killed, *_ = alive = [p for p in replicas() if p not in others]
    assert len(alive) == 2
    os.kill(killed, signal.SIGKILL)
    state = "default", "fastrecon"
    until(lambda: len(set(replicas()) - set(others) - set(alive)) == 1)
    until(lambda: serve.status().applications[state[0]].deployments[state[1]].replica_states.get("RUNNING") == 2)
    count = len(answers)
    until(lambda: len(answers) > count + 20)
    ends.set()
    for asker in askers:
        asker.join()
    serve.shutdown()
    good = [answer for answer in answers if answer.status_code == 200]
    assert {answer.status_code for answer in answers} <= {200, 429, 503}
    assert len({answer.content for answer in good}) == 1
    assert all(set(a.json()) == {"error"} for a in answers if a.status_code != 200)
    assert answers[-1].status_code in (200, 429)
