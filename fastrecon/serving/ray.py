"""Serving and bulk work on a Ray cluster (extra `ray`): the server in every replica, the door in every worker.

serve run fastrecon.serving.ray:app model=lda-cs-25,prior-natural max_replicas=4
ray.data.read_binary_files(folder, include_paths=True).map_batches(Reconstruct, ...)
"""

import asyncio
import importlib
import json
import os
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastrecon import io
from fastrecon.checks import expect
from fastrecon.options import check, is_switch, make, option, parsed
from fastrecon.serving import warming
from fastrecon.serving.door import Answer, Door, Work, told
from fastrecon.serving.scheduler import Scheduler
from fastrecon.serving.words import named, token_in

MIB = 2**20
SPARE = 32  # requests that a replica hears beyond those it may have inside, to tell them so


@dataclass(frozen=True)
class Settings:
    """What `serve run fastrecon.serving.ray:app NAME=VALUE ...` takes."""

    model: str = option("shipped models, or files, that requests may name, with commas; all shipped ones", "")
    device: str = option("that computes in a replica: cpu, cuda", "cpu")
    threads: int = option("of the CPU of a replica, which it asks the cluster for", 1, within="[1, 1024]", type=int)
    gpus: float = option("that a replica asks the cluster for", 0.0, within="[0, 16]", type=float)
    min_replicas: int = option("that are there without work", 1, within="[0, 10000]", type=int)
    max_replicas: int = option("that there may be", 4, within="[1, 10000]", type=int)
    max_batch: int = option("images in the works of a replica", 16, within="[1, 4096]", type=int)
    max_queue: int = option("requests that wait beside them; beyond, 429", 4, within="[1, 1e6]", type=int)
    max_pixels: int = option("of the images in the works, and of one request", 2**24, within="[1, 1e12]", type=int)
    max_body: int = option("of a body, in MiB", 64, within="[1, 1e6]", type=int)
    max_bodies: int = option("of all bodies in a replica, in MiB", 512, within="[1, 1e6]", type=int)
    deadline: float = option("seconds for an answer", 300.0, within="(0, 86400]", type=float)
    token_file: str = option("file with the token that clients must send, there where replicas are", "")
    local: bool = option("whether only names of this machine are taken for the server's own", False)

    def __post_init__(self):
        check(self, "app")

    @property
    def waiting(self) -> int:
        """Requests inside a replica."""
        return self.max_batch + self.max_queue


def settings(args: Mapping[str, Any]) -> Settings:
    """The settings in words, as `serve run` has them, or in values, as a file of its configuration.

    Raises:
        ValueError: a name is unknown, or a value is none.
    """
    known, values = {f.name: f for f in fields(Settings)}, {}
    for name, value in args.items():
        expect(name in known, "app", name, f"one of {', '.join(known)}", "an unknown name")
        text = str(value)
        try:
            values[name] = text.lower() in ("1", "true") if is_switch(known[name]) else parsed(known[name], text)
        except Exception as e:
            raise ValueError(f"app: {name}: {e}") from e
    return make(Settings, values, "app")


def server(s: Settings) -> Any:
    """The application of one replica, warm."""
    from fastrecon.serving import http

    torch.set_num_threads(s.threads)
    os.environ.setdefault("FASTRECON_MAX_PIXELS", str(s.max_pixels))  # of readers: nothing larger is decoded
    door = Door(named(s.model.split(",") if s.model else []), s.device)
    ahead = 1 + s.max_queue / s.max_batch  # as in `fastrecon serve`: whoever is let in waits for part of a full batch
    scheduler = Scheduler("auto", s.max_batch, s.max_queue, s.max_pixels, max_ahead=ahead)
    for name in door.models:
        work = warming.work(door, name)
        scheduler.run(lambda work=work: door.compute(work)).result()
    limits = http.Limits(s.max_body * MIB, s.max_bodies * MIB, s.deadline, waiting=s.waiting)
    return http.Server(door, scheduler, limits, token_in(s.token_file or None), local=s.local)


def app(args: Mapping[str, Any]) -> Any:
    """The application for `serve run` and `serve.run`: replicas with a scheduler each, as many as there is work for.

    Args:
        args: names and values of `Settings`.

    Raises:
        ValueError: a name or a value is wrong, or a model cannot be loaded.
    """
    from fastrecon.serving import front

    serve: Any = importlib.import_module("ray.serve")
    s = settings(args)
    Door(named(s.model.split(",") if s.model else []))  # what cannot be loaded is told here, not by each replica again

    errors: Any = importlib.import_module("ray.exceptions")
    full: Any = importlib.import_module("ray.serve.exceptions")

    class Replica:
        async def __init__(self) -> None:
            self.server = await asyncio.to_thread(server, s)
            self.life = front.alive(self.server)
            await self.life.__aenter__()

        async def answer(self, scope: dict[str, Any], body: bytes) -> Any:
            """Of the server of this replica."""
            return await front.called(self.server, scope, body)

        def check_health(self) -> None:
            """Raises where nobody computes any more."""
            if not self.server.scheduler.alive:
                raise RuntimeError("scheduler: its thread has ended")

        async def __del__(self) -> None:
            await self.life.__aexit__(None, None, None)

    class Entrance:
        def __init__(self, replicas: Any) -> None:
            def ask(scope: dict[str, Any], body: bytes) -> Any:
                return _awaited(replicas.answer.remote(scope, body))

            self.front = front.Front(
                ask,
                s.max_body * MIB,
                s.max_bodies * MIB,
                s.deadline,
                (errors.RayActorError,),
                (full.BackPressureError,),
            )

        async def __call__(self, request: Any) -> Any:
            return await self.front.answer(request)

    most = max(s.min_replicas, s.max_replicas)
    replicas: Any = serve.deployment(
        Replica,  # type: ignore[arg-type]
        name="fastrecon",
        max_ongoing_requests=s.waiting + SPARE,
        max_queued_requests=s.waiting + SPARE,
        autoscaling_config={
            "min_replicas": s.min_replicas, "max_replicas": most, "target_ongoing_requests": s.max_batch,
        },
        ray_actor_options={"num_cpus": s.threads, "num_gpus": s.gpus},
        health_check_period_s=5,
        health_check_timeout_s=30,
    )  # fmt: skip
    door: Any = serve.deployment(
        Entrance,  # type: ignore[arg-type]
        name="door",
        max_ongoing_requests=(s.waiting + SPARE) * (most + 1),
        ray_actor_options={"num_cpus": 0},
    )
    return door.bind(replicas.bind())


async def _awaited(response: Any) -> Any:
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise


class Reconstruct:
    """Pictures of files or measurements, for `ray.data.Dataset.map_batches`: one is made in every worker.

    A batch has a column `bytes` of files, as `ray.data.read_binary_files` reads them, or a column `y` of measurements,
    and the arrays beside it that `arrays` names (mask, kernel, ...). It comes back with what else it held and
      reconstruction  the picture, as a file where files came, as an array where arrays did; empty where it failed
      certificate     JSON: scores, certificate, method and why, as a server tells
      error           one line, or ""
    The images of a batch are computed together, each with the bits that it has alone.

    Args:
        model: a shipped model or the file of one; "": none.
        arrays: columns that belong to y.
        device: that computes.
        threads: of the CPU.
        out: folder where picture and certificate of every file are written instead of coming back, by the names in a
            column `path`; a file whose certificate lies there is skipped, so that a run that ended goes on.
        max_pixels: of images in the works.
        options: of `fastrecon reconstruct`: problem, method, noise, simulate, format, ...

    Raises:
        ValueError: the model cannot be loaded.
    """

    def __init__(
        self, model: str = "", arrays: Sequence[str] = (), device: str = "cpu", threads: int = 1,
        out: str | Path | None = None, max_pixels: int = 2**24, **options: Any,
    ):  # fmt: skip
        torch.set_num_threads(threads)
        models = named([model]) if model else {}
        self.arrays, self.out = tuple(arrays), None if out is None else io.output_folder(out)
        self.door, self.scheduler = Door(models, device), Scheduler("auto", max_queue=2**20, max_pixels=max_pixels)
        weakref.finalize(self, self.scheduler.close, wait=False)  # whoever drops this keeps no threads
        self.query = {name: _word(value) for name, value in options.items()}
        self.query |= {"model": next(iter(models))} if models else {}

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its pictures.

        Raises:
            ValueError: it has neither files nor measurements, or files without names where they are to be written.
        """
        op, files = type(self).__name__, "bytes" in batch
        expect(files or "y" in batch, op, "batch", "a column bytes or y", ", ".join(batch))
        expect(self.out is None or "path" in batch, op, "batch", "a column path", ", ".join(batch))
        rows = [
            _Row(self, {name: column[k] for name, column in batch.items()})
            for k in range(len(next(iter(batch.values()))))
        ]
        for row in rows:
            row.begin()
        for row in rows:
            row.end()
        kept = {name: column for name, column in batch.items() if name not in ("bytes", "y", *self.arrays)}
        found = {"certificate": [row.facts for row in rows], "error": [row.error for row in rows]}
        if self.out is None:
            kept["reconstruction"] = _column([row.picture for row in rows])
        return kept | {name: np.array(texts, dtype=object) for name, texts in found.items()}


class _Row:
    """One row of a batch."""

    def __init__(self, owner: Reconstruct, row: Mapping[str, Any]):
        self.owner, self.row, self.facts, self.error = owner, row, "", ""
        self.picture: Any = b"" if "bytes" in row else np.zeros((0, 0), np.float32)
        self.target = None if owner.out is None else owner.out / Path(str(row["path"])).stem
        self._work: Work | None = None
        self._done: Future[Any] | None = None

    @property
    def _report(self) -> Path | None:
        return None if self.target is None else self.target.with_name(f"{self.target.name}_report.json")

    def begin(self) -> None:
        """Reads it, and lets it be computed."""
        if self._report is not None and self._report.exists():
            self.facts = self._report.read_text()
            return
        door = self.owner.door
        try:
            work = self._work = door.read(self._body(), "", self._query(), "")
            run = self.owner.scheduler.run
            self._done = run(lambda: door.compute(work), images=work.images, pixels=work.pixels)
        except Exception as e:  # whatever it is, it costs only this row
            self.error = told(e)

    def end(self) -> None:
        """Waits for the picture."""
        if self._work is None or self._done is None:
            return
        try:
            answer = self.owner.door.answer(self._work, self._done.result())
            self._keep(answer)
        except Exception as e:
            self.error = told(e)

    def _body(self) -> bytes:
        if "bytes" in self.row:
            return bytes(self.row["bytes"])
        file = BytesIO()
        arrays: dict[str, Any] = {name: np.asarray(self.row[name]) for name in ("y", *self.owner.arrays)}
        np.savez(file, **arrays)
        return file.getvalue()

    def _query(self) -> dict[str, str]:
        return self.owner.query if "bytes" in self.row else self.owner.query | {"format": "npy"}

    def _keep(self, answer: Answer) -> None:
        facts = answer.facts | ({"input": str(self.row["path"])} if "path" in self.row else {})
        self.facts = json.dumps(facts)
        if self.target is None or self._report is None:
            self.picture = answer.data if "bytes" in self.row else np.load(BytesIO(answer.data))
            return
        with io.atomic(self.target.with_name(f"{self.target.name}_reconstruction{answer.kind.suffix}")) as file:
            file.write(answer.data)
        io.write_json(self._report, facts)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _column(values: list[Any]) -> np.ndarray:
    """Values of whatever shapes."""
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found
