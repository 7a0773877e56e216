"""`fastrecon reconstruct --on ray`: every input by a worker of a Ray cluster, with the files that are made here."""

import contextlib
import importlib
import importlib.util
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

import torch

from fastrecon import io, plugins
from fastrecon.cli import console
from fastrecon.cli.batch import Full, Outcome, Turns
from fastrecon.cli.progress import Progress
from fastrecon.cli.stages import Item, Stages
from fastrecon.startup import Terminated

Prepare = Callable[[Sequence[str]], Stages[Any, Any]]
AHEAD = 2  # inputs that a worker has: the one that it computes, and the next
RETRIES = 3  # of an input whose worker died


class Worker:
    """What runs in a process of the cluster: the command line, told again.

    Args:
        prepare: what is done with each input, from the words.
        words: of the command after its name.
        folder: that names of files start from.
        threads: of the CPU.
    """

    def __init__(self, prepare: Prepare, words: Sequence[str], folder: str, threads: int):
        os.chdir(folder)
        torch.set_num_threads(threads)
        plugins.load()
        self.stages = prepare(words)

    def produce(self, path: Path, prefix: Path) -> dict[str, Any]:
        """The report of one input, or the failure and its number by the names `error` and `errno`."""
        try:
            return self.stages.whole(Item(path, prefix), _Silent())
        except Exception as e:
            return {"error": console.lines(e)[0], "errno": getattr(e, "errno", None)}


class _Silent(Progress):
    """Progress that nobody sees."""

    def __init__(self):
        pass

    def part(self, done: float, total: float, what: str = "iterations", **more: object) -> None:
        """Nothing."""


def each(
    prepare: Prepare, words: Sequence[str], items: Sequence[Item], line: Callable[[Any], str] | None, jobs: int | None,
    threads: int, gpu: bool,
) -> Outcome:  # fmt: skip
    """As `batch.each`, by workers of the cluster that RAY_ADDRESS names, or of this machine.

    A worker that dies is replaced, and its inputs are made again. An interruption waits for what is being computed.

    Args:
        prepare, words: see `Worker`.
        items, line: see there.
        jobs: workers; None: as many as the cluster has room for.
        threads: of each.
        gpu: whether each needs one.

    Raises:
        ValueError: ray is not installed, or no cluster answers.
    """
    if importlib.util.find_spec("ray") is None:
        raise ValueError("--on: expected ray to be installed, got no such package: pip install 'fastrecon[ray]'")
    outcome = Outcome(len(items))
    if not items:
        return outcome
    with _cluster() as ray, Progress(len(items)) as progress, contextlib.suppress(Full):
        count = min(jobs or _room(ray, threads, gpu), len(items))
        kind = ray.remote(
            num_cpus=threads, num_gpus=int(gpu), max_restarts=-1, max_task_retries=RETRIES,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}},
        )(Worker)  # fmt: skip
        workers = [_Load(kind.remote(prepare, list(words), os.getcwd(), threads)) for _ in range(count)]
        turns = Turns(outcome, lambda report: None if line is None else progress.say(line(report)))
        try:
            for item in items:
                while not (free := [w for w in workers if len(w.current()) < AHEAD]):
                    wait([f for w in workers for f in w.futures], timeout=1.0, return_when=FIRST_COMPLETED)
                    turns.settle(len(turns.pending))
                progress.item(item.path.name)
                turns.pending.append((item, min(free, key=lambda w: len(w.futures)).take(item)))
            turns.settle(0)
        except (KeyboardInterrupt, Terminated) as e:
            outcome.ended = e
            for worker in workers:
                worker.take_back(ray)
            turns.pending = deque((item, f) for item, f in turns.pending if not f.cancelled())
            turns.settle(0)
    if not outcome.results:
        outcome.end()
    return outcome


class _Load:
    """What a worker has to do."""

    def __init__(self, actor: Any):
        self.actor = actor
        self.futures: list[Future[Any]] = []
        self.references: list[Any] = []

    def current(self) -> list[Future[Any]]:
        """What is not done."""
        left = [k for k, f in enumerate(self.futures) if not f.done()]
        self.futures, self.references = [self.futures[k] for k in left], [self.references[k] for k in left]
        return self.futures

    def take(self, item: Item) -> Future[Any]:
        """The report to come."""
        reference = self.actor.produce.remote(item.path, item.prefix)
        future: Future[Any] = Future()
        reference.future().add_done_callback(lambda told: _hand_on(told, future))
        self.futures.append(future)
        self.references.append(reference)
        return future

    def take_back(self, ray: Any) -> None:
        """Lets go of what it has not begun."""
        self.current()
        for future, reference in list(zip(self.futures, self.references, strict=True))[1:]:
            future.cancel()
            ray.cancel(reference)


def _hand_on(told: Future[Any], future: Future[Any]) -> None:
    """A report, or the failure that it tells of."""
    if not future.set_running_or_notify_cancel():
        return
    failure = told.exception()
    if failure is not None:
        future.set_exception(RuntimeError(f"a worker of the cluster failed ({type(failure).__name__})"))
    elif "error" in told.result():
        error = OSError(told.result()["error"]) if told.result()["errno"] else ValueError(told.result()["error"])
        if isinstance(error, OSError):
            error.errno = told.result()["errno"]
        future.set_exception(error)
    else:
        future.set_result(told.result())


def _room(ray: Any, threads: int, gpu: bool) -> int:
    found = ray.cluster_resources()
    most = int(found.get("CPU", 1) // threads)
    return max(1, min(most, int(found.get("GPU", 0))) if gpu else most)


@contextlib.contextmanager
def _cluster() -> Iterator[Any]:
    """ray, connected; what was not connected before is left at the end. Signals stay this program's."""
    ray: Any = importlib.import_module("ray")
    if ray.is_initialized():
        yield ray
        return
    here = threading.current_thread() is threading.main_thread()
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)} if here else {}
    address = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    try:
        ray.init(address=address, **quiet) if address else ray.init(address="local", include_dashboard=False, **quiet)
    except Exception as e:
        raise ValueError(f"--on: expected a Ray cluster that answers, got none: {io.reason(e)}") from e
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        yield ray
    finally:
        ray.shutdown()
