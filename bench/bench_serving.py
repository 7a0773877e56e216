"""The scheduler and the server as a whole: the bits of 300 mixed requests, throughput, overload, 1,000 damaged bodies.

    python bench/bench_serving.py                      # all, or some: mixed rigorous overload damaged
    python bench/bench_serving.py overload --seconds 20 --size 64 --apart

Ratios are of one run, interleaved; the tests have small editions of the rest.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import httpx
import imagecodecs
import numpy as np
import serving_zoo  # pyright: ignore[reportMissingImports]
import skimage.data
from hostile import fuzzed  # pyright: ignore[reportMissingImports]

import fastrecon as fr
from fastrecon.serving import Scheduler
from fastrecon.serving.statistics import quantile
from fastrecon.solvers import joint

SIDE, COUNT, BATCH = 132, 24, 8
BATCHES = 9  # full ones, whose median is the time of one


def mixed() -> None:
    """300 requests, random arrivals: every answer has the bits that it has alone."""
    models, asked = serving_zoo.models(), serving_zoo.requests(300, seed=0)
    waits = (0.02 * torch.rand(len(asked), generator=torch.Generator().manual_seed(1))).tolist()
    with Scheduler(models, max_batch=16, max_queue=400) as scheduler:
        futures = []
        for one, wait in zip(asked, waits, strict=True):
            futures.append(scheduler.submit(one.y, model=one.model, **one.options))
            time.sleep(wait)
        found = [future.result() for future in futures]
        stats = scheduler.stats()
    wrong = [one.kind for one, got in zip(asked, found, strict=True) if not serving_zoo.same(got, one.alone(models))]
    print(f"\n300 requests, {len(wrong)} differ; {stats}")
    assert not wrong


@contextmanager
def held() -> Iterator[None]:
    """Batches as static ones are: nobody leaves before all are done."""
    usual = joint.iterate

    def together(step: Any, s: Any, iterations: int, done: Any = None, **options: Any) -> Any:
        if done is None:
            return usual(step, s, iterations, **options)
        asked: Callable[[Any], Tensor] = done
        return usual(step, s, iterations, done=lambda s: asked(s).all().expand(len(asked(s))).clone(), **options)

    joint.iterate = together  # type: ignore[assignment]
    try:
        yield
    finally:
        joint.iterate = usual


def rigorous() -> None:
    """Rigorous requests of mixed difficulty: continuous batching against static batches, and batches of `model(y)`."""
    model, size = fr.load("lda-cs-25"), (SIDE, SIDE)
    pictures = [
        torch.from_numpy(getattr(skimage.data, n)()).float() / 255 for n in ("camera", "moon", "coins", "page", "text")
    ]
    sensing, draw, measured = model.operator, torch.Generator().manual_seed(0), []
    assert sensing is not None
    for k in range(COUNT):
        whole = pictures[int(torch.randint(len(pictures), (1,), generator=draw))]
        top, left = (int(torch.randint(n - SIDE, (1,), generator=draw)) for n in whole.shape)
        x = whole[top : top + SIDE, left : left + SIDE][None, None]
        measured.append(sensing(x if k % 3 else 0.5 + 0.02 * (x - 0.5)))  # some are easy

    def batches() -> None:
        for k in range(0, COUNT, BATCH):
            model(torch.cat(measured[k : k + BATCH]), size=size, rigorous=True)

    def static() -> None:
        with held():
            batches()

    def continuous() -> None:
        with Scheduler(model, max_batch=BATCH) as scheduler:
            futures = [scheduler.submit(y, size=size, rigorous=True) for y in measured]
            for future in futures:
                future.result()

    ways: dict[str, Callable[[], None]] = {
        "static": static,
        "continuous": continuous,
        "batches that images leave": batches,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(3):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            seconds[name].append(time.process_time() - begin)
    best = {name: min(several) for name, several in seconds.items()}
    ratios = {name: round(best[name] / best["continuous"], 2) for name in ways}
    print(f"\nprocessor time over that of continuous batching: {ratios}")
    assert ratios["static"] >= 1.5


@contextmanager
def serving(*words: str) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """`fastrecon serve` in a process of its own, its address, and its folder, in which it logs."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _served(Path(folder), words)


def _served(folder: Path, words: tuple[str, ...]) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    log = folder / "log"
    command = [sys.executable, "-m", "fastrecon", "serve", "lda-cs-25", "--port", "0", *words]
    with log.open("w") as file, subprocess.Popen(command, stderr=file, text=True, cwd=folder) as process:
        try:
            while "listening" not in (text := log.read_text()):
                time.sleep(0.05)
                assert process.poll() is None, text
            yield process, f"http://127.0.0.1:{json.loads(text.splitlines()[0])['port']}", folder
        finally:
            process.kill()


def _load(port: str, target: str, body: Path, *words: str) -> Any:
    """What `load.py` found, in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("load.py")), port, target, str(body), *words]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _processor_time(pid: int) -> float:
    """Seconds that a process has computed."""
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


def overload(seconds: float, side: int, apart: bool, batch: int = 8) -> None:
    """Ten times as many requests as the server can answer: no wrong answer, 429 for the rest, memory and waiting
    bounded. `apart`: the clients have a core of their own, as they have where they are other machines.
    """
    cores = sorted(os.sched_getaffinity(0))
    if apart:
        os.sched_setaffinity(0, cores[:-1])  # which the server inherits
    target = "/v1/reconstruct?problem=inpaint&simulate=1&rate=0.5&method=fista&iterations=100&format=npy"
    with serving("--max-batch", str(batch)) as (process, address, folder):
        if apart:
            os.sched_setaffinity(0, cores[-1:])
        port, body = address.rpartition(":")[2], folder / "body.png"
        body.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(skimage.data.camera()[:side, :side])))
        with httpx.Client(base_url=address, timeout=60) as client:
            while client.get("/ready").status_code != 200:
                time.sleep(0.1)
        full, alone = [], set[str]()
        _load(port, target, body, "--at-once", str(batch))  # warms up
        began = _processor_time(process.pid)
        for _ in range(BATCHES):
            found = _load(port, target, body, "--at-once", str(batch))
            assert found["statuses"] == {"200": batch}, found
            full.append(max(found["seconds"]))
            alone |= set(found["answers"])
        service, costs = sorted(full)[len(full) // 2], [(_processor_time(process.pid) - began) / (BATCHES * batch)]
        rate, began = 10 * batch / service, _processor_time(process.pid)
        found = _load(port, target, body, "--rate", str(rate), "--seconds", str(seconds))
        costs += [(_processor_time(process.pid) - began) / found["statuses"].get("200", 1)]
        text = Path(f"/proc/{process.pid}/status").read_text()
        peak = int(next(v.split()[1] for v in text.splitlines() if "VmHWM" in v))
    os.sched_setaffinity(0, cores)
    p99, p50 = (quantile(found["seconds"], q) for q in ("p99", "p50"))
    print(
        f"\n{rate:.0f} requests/s for {found['took']:.0f} s: {found['statuses']}; p50 {p50:.2f} s, p99 {p99:.2f} s, a"
        f" full batch alone {service:.2f} s: p99 is {p99 / service:.2f} of it; peak {peak / 1024:.0f} MiB; the server"
        f" computes {1e3 * costs[0]:.1f} ms for an answer of those, {1e3 * costs[1]:.1f} ms under load"
    )
    assert set(found["statuses"]) == {"200", "429"}
    assert set(found["answers"]) == alone
    assert len(alone) == 1
    assert peak < 2 * 2**20
    assert p99 < 2 * service


def damaged() -> None:
    """1,000 fuzzed bodies: each has a status and one line, and the server goes on."""
    statuses = Counter[int]()
    with serving() as (process, address, folder), httpx.Client(base_url=address, timeout=60) as client:
        for kind, body in fuzzed(1000):
            simulate = {} if kind in ("npz", "safetensors") else {"simulate": "1"}
            params = {"problem": "inpaint", "method": "fista", "iterations": "3"} | simulate
            answer = client.post("/v1/reconstruct", content=body, params=params)
            statuses[answer.status_code] += 1
            assert answer.status_code == 200 or "\n" not in answer.json()["error"]
        assert process.poll() is None
        assert client.get("/health").status_code == 200
        left = [p for p in folder.iterdir() if p.name != "log"]
    print(f"\n{dict(statuses)}; {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB")
    assert set(statuses) <= {200, 413, 415, 422}
    assert not left


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"mixed": mixed, "rigorous": rigorous, "overload": overload, "damaged": damaged}
    parser.add_argument("parts", nargs="*", choices=[*parts, []])
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--size", type=int, default=256, help="of overload: side of the pictures")
    parser.add_argument("--apart", action="store_true", help="overload: server and clients on cores of their own")
    args = parser.parse_args()
    for name in args.parts or parts:
        print(f"{name} ...", flush=True)
        overload(args.seconds, args.size, args.apart) if name == "overload" else parts[name]()
