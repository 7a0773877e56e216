"""Running a fixed model fast: CUDA graphs, batches, precision, transfers beside computation; on the CPU, threads."""

import contextlib
import copy
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastrecon import products
from fastrecon.certificates import Answers, Certificate, Result, answer
from fastrecon.checks import choice, expect, flag, in_kind, integer
from fastrecon.models import Model

PRECISIONS = ("float32", "tf32", "bfloat16")
MOST_GRAPHS = 32  # shapes that are captured: a graph keeps its workspace; further ones run without
MOST_THREADS = 1024  # the system refuses some thousands, in the middle of the first computation
WARM_UP = 3  # runs before a capture: kernels are compiled, plans made, caches filled


class Runs(Answers, Protocol):
    """What an engine runs: a Model, or a solver that answers for measurements of its own operator."""

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """Raises ValueError unless y fits, on the module's device or `anywhere`."""
        ...

    def capturable(self, **options: Any) -> bool:
        """Whether `compute` with these options asks the host nothing."""
        ...

    def parameters(self) -> Iterator[Tensor]:
        """As of nn.Module."""
        ...

    def buffers(self) -> Iterator[Tensor]:
        """As of nn.Module."""
        ...


class Replays(Protocol):
    """A torch.cuda.CUDAGraph."""

    def replay(self) -> None:
        """Runs it again."""
        ...


@dataclass(frozen=True)
class _Graph:
    """A captured run from y to x and report, which lie where they are."""

    graph: Replays
    y: Tensor
    x: Tensor
    report: Certificate

    def __call__(self, y: Tensor) -> tuple[Tensor, Certificate]:
        """What the model makes of y, a batch of at most the size captured."""
        count = len(y)
        self.y[:count].copy_(y)
        self.graph.replay()
        return self.x[:count].clone(), self.report.map(lambda _, t: t[..., :count].clone())


class Engine:
    """`Engine(model)(y, ...)` answers as `model(y, ...)` does, sooner: for many inputs of few shapes.

    On a GPU all phases of a network are captured once for each shape as a CUDA graph and replayed with one launch;
    batches are filled up to the next power of two (only the matrix products of D-LADMM may round differently then).
    What asks the host on the way (rigorous mode, a tolerance, a callback) runs without graph, exactly. On the CPU the
    answers are those of the model, bit for bit in float32.

    The engine has a copy of the model: later changes of the original do not show. It serves one thread at a time.

    Args:
        model: a Model, ISTA, FISTA or SGP, on the device that shall compute. A solver is captured where its `lipschitz`
            is given; a call with an operator of its own is not.
        precision: of products in steps that decide nothing. "float32". "tf32", on a GPU: the regulariser's gradient in
            the steps of LDA, GD-Net and AGD-Net, and the products of D-LADMM. "bfloat16": the former only. Mean PSNR of
            the shipped LDA models over Set11 changes by less than 0.001 dB: measured for bfloat16 on the CPU, for both
            with a GPU's rounding emulated. What is reported is never rounded so, whatever torch may do, and no
            decision either, except that on a CPU LDA chooses by bfloat16 where that is clear by ten times its error.
        graph: whether to capture graphs.
        max_batch: larger batches are computed in parts; solvers, and models whose operator comes with the call, take
            every batch whole: the operator may hold a mask for each image.
        threads: of the CPU while the engine computes, 1 to 1024; None leaves their number as it is.

    Raises:
        ValueError: an argument is out of range, or the model has no steps that could use this precision.
    """

    def __init__(
        self, model: Runs, precision: str = "float32", graph: bool = True, max_batch: int = 64,
        threads: int | None = None,
    ):  # fmt: skip
        answers = isinstance(model, nn.Module) and all(hasattr(model, k) for k in ("check", "compute", "capturable"))
        expect(answers, "Engine", "model", "a model or a solver of fastrecon", type(model).__name__)
        choice(precision, PRECISIONS, "Engine", "precision")
        graph = flag(graph, "Engine", "graph")
        max_batch = integer(max_batch, "Engine", "max_batch", least=1)
        threads = threads if threads is None else integer(threads, "Engine", "threads", least=1, most=MOST_THREADS)
        self.model = copy.deepcopy(model)
        self.graph, self.max_batch, self.threads = graph, max_batch, threads
        if isinstance(self.model, nn.Module):
            self.model.eval()
        if isinstance(self.model, Model):
            self.model.set_precision(precision)
        else:
            expect(precision == "float32", type(model).__name__, "precision", "float32", repr(precision))
        tensors = [*self.model.parameters(), *self.model.buffers()]
        self.device = tensors[0].device if tensors else torch.device("cpu")
        self._graphs: dict[Any, _Graph] = {}
        self._streams: list[Any] = []
        self._pool: Any = None
        self._last: Any = None  # the event after the last replay

    @torch.no_grad()
    def __call__(self, y: Any, **options: Any) -> Result:
        """As `model(y, **options)`."""
        return answer(self, y, **options)

    def map(self, inputs: Iterable[Any], **options: Any) -> Iterator[Result]:
        """The results for many inputs in host memory, in their order and of their kind.

        On a GPU the next input goes up from pinned memory, and the last result down to it, while the present one is
        computed; `inputs` may be a generator that reads files meanwhile.

        Args:
            inputs: batches y.
            options: of every call.
        """
        if self.device.type != "cuda":
            for y in inputs:
                yield self(y, **options)
            return
        waiting: deque[tuple[Any, Tensor, Any, Any]] = deque()
        for y in inputs:
            waiting.append(self._start(y, options))
            if len(waiting) > 1:
                yield _finish(*waiting.popleft())
        while waiting:
            yield _finish(*waiting.popleft())

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """As the model."""
        self.model.check(y, anywhere)

    @property
    def independent(self) -> bool:
        """Whether batches may be cut and filled up."""
        return isinstance(self.model, Model) and self.model.independent

    @torch.no_grad()
    def compute(self, y: Tensor, **options: Any) -> tuple[Tensor, Certificate]:
        """As the model, for input that passed `check`."""
        with self._settings():
            parts = [self._run(part, options) for part in (y.split(self.max_batch) if self.independent else [y])]
        (x, report), others = parts[0], parts[1:]
        if others:
            return torch.cat([x, *(part[0] for part in others)]), report.joined([part[1] for part in others])
        return x, report

    def _run(self, y: Tensor, options: dict[str, Any]) -> tuple[Tensor, Certificate]:
        if not self._captures(y, options):
            return self.model.compute(y, **options)
        key = (self._bucket(len(y)), y.shape[1:], y.dtype, tuple(sorted(options.items())))
        if key not in self._graphs:
            if len(self._graphs) >= MOST_GRAPHS:
                return self.model.compute(y, **options)
            self._graphs[key] = self._capture(y, key[0], options)
        with self._turn(y.device) if y.is_cuda else contextlib.nullcontext():
            return self._graphs[key](y)

    @contextlib.contextmanager
    def _turn(self, device: torch.device) -> Iterator[None]:
        """Graphs share their workspace: one is replayed at a time, on whatever streams, and its results copied out."""
        with torch.cuda.device(device):
            stream = torch.cuda.current_stream()
            if self._last is not None:
                stream.wait_event(self._last)
            yield
            self._last = stream.record_event()

    def _captures(self, y: Tensor, options: dict[str, Any]) -> bool:
        able = self.graph and y.is_cuda and len(y) > 0 and all(map(_plain, options.values()))
        return able and self.model.capturable(**options)

    def _bucket(self, count: int) -> int:
        """The size of the batch in which `count` inputs ride."""
        if not self.independent:
            return count
        return min(1 << (count - 1).bit_length(), self.max_batch)

    def _capture(self, y: Tensor, count: int, options: dict[str, Any]) -> _Graph:
        own = y[:1].expand(count, *y.shape[1:]).clone(memory_format=torch.contiguous_format)
        with torch.cuda.device(y.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self.model.compute(own, **options)
            torch.cuda.current_stream().wait_stream(side)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=side):  # torch's own may be of another device
                x, report = self.model.compute(own, **options)
        return _Graph(graph, own, x, report)

    def _start(self, y: Any, options: dict[str, Any]) -> tuple[Any, Tensor, Any, Any]:
        """Sends y up, computes and sends the result down: (y, x and report on the host, the event when they are)."""
        found: list[Any] = []
        with torch.cuda.device(self.device):
            if not self._streams:
                self._streams = [torch.cuda.Stream() for _ in range(3)]
            up, main, down = self._streams
            up.wait_stream(torch.cuda.current_stream())
            main.wait_stream(torch.cuda.current_stream())

            def launch(y: Tensor) -> Tensor:
                self.model.check(y, anywhere=True)
                with torch.cuda.stream(up):
                    here = (y if y.is_cuda else y.pin_memory()).to(self.device, non_blocking=True)
                main.wait_stream(up)
                with torch.cuda.stream(main):
                    x, report = self.compute(here, **options)
                    here.record_stream(main)
                down.wait_stream(main)
                with torch.cuda.stream(down):
                    found.extend((_to_host(x, down), report.map(lambda _, t: _to_host(t, down)), down.record_event()))
                return y

            in_kind(y, launch, "Engine", "y")
        return y, *found

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        """The engine's threads, and exact products where the model asks for no others; the caller's afterwards."""
        threads = torch.get_num_threads()
        try:
            if self.threads is not None:
                torch.set_num_threads(self.threads)
            with products.exact():
                yield
        finally:
            torch.set_num_threads(threads)


def _plain(value: Any) -> bool:
    """Whether an option can be part of a graph's key: a tensor may hold other numbers next time."""
    return (
        value is None
        or isinstance(value, bool | int | float | str)
        or (isinstance(value, tuple) and all(map(_plain, value)))
    )


def _to_host(t: Tensor, stream: Any) -> Tensor:
    """t in pinned memory, once `stream`, the present one, gets there."""
    host = torch.empty(t.shape, dtype=t.dtype, pin_memory=True)
    host.copy_(t, non_blocking=True)
    t.record_stream(stream)
    return host


def _finish(y: Any, x: Tensor, report: Any, done: Any) -> Result:
    done.synchronize()
    return Result(in_kind(y, lambda _: x, "Engine", "y"), report)
