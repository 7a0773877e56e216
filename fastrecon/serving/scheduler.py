"""`Scheduler`: many requests for images, one machine; every image as if it were alone."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from math import inf
from typing import Any, TypeVar

from typing_extensions import Self

from fastrecon.certificates import Result
from fastrecon.checks import as_tensor, expect, flag, integer, number, size_2d
from fastrecon.models import Model
from fastrecon.operators.base import LinearOperator
from fastrecon.reconstruction import reconstruct
from fastrecon.serving.fiber import End, Fiber, Said, Withdrawn
from fastrecon.serving.flow import Entry, Flow
from fastrecon.serving.request import Busy, Late, Request, pixels_of
from fastrecon.serving.statistics import Counts
from fastrecon.solvers.joint import Loop
from fastrecon.solvers.methods import METHODS

T = TypeVar("T")
MOST = 2**40  # requests or pixels: no limit
ROUNDING = 1e-9  # of sums of shares of a batch
GROUP = 4  # a busy scheduler lets requests in once this part of the batch is free


class Scheduler:
    """Answers requests with as many images at a time as fit, each with the bits that it has alone on a CPU.

    Images of one size whose loops are of one kind are computed as one batch: the same model or method with the same
    settings, and operators of the same kind, each with its own mask or kernel. Batching is continuous: images that are
    done leave the batch, others enter it: learned priors, rigorous LDA, ISTA, FISTA, SGP, ADMM, half-quadratic
    splitting, PADNet, error-controlled iterations, LADMM. Trained phases run in batches that begin together; other
    loops take turns. docs/serving.md has the table.

    Nothing is copied: measurements must not change before their answer is there.

    Args:
        model: what answers: a model, or the name of a method of `fastrecon.reconstruct`; several by names of yours.
        max_batch: images in the works; a request of more is computed when no other is.
        max_queue: requests that wait; beyond, `submit` raises Busy.
        max_pixels: pixels of images in the works, over all models. A request of more is refused.
        max_ahead: full batches, by images or by pixels, whatever is more, that a request may find before it, in the
            works and in the queue; beyond, `submit` raises Busy. So the wait is bounded whatever sizes come.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    def __init__(
        self, model: Model | str | Mapping[str, Model | str], max_batch: int = 16, max_queue: int = 256,
        max_pixels: int = 2**24, max_ahead: float = inf,
    ):  # fmt: skip
        op = type(self).__name__
        self.max_batch = integer(max_batch, op, "max_batch", least=1, most=MOST)
        self.max_queue = integer(max_queue, op, "max_queue", least=1, most=MOST)
        self.max_pixels = integer(max_pixels, op, "max_pixels", least=1, most=MOST)
        self.max_ahead = inf if max_ahead == inf else float(number(max_ahead, op, "max_ahead", above=0))
        models = dict(model) if isinstance(model, Mapping) else {"": model}
        expect(len(models) > 0, op, "model", "at least one model", "none")
        self.models = {str(name): _checked(one) for name, one in models.items()}
        self._changed = threading.Condition()
        self._queue: deque[Request] = deque()
        self._running: list[Request] = []
        self._flows: list[Flow] = []
        self._waiting: list[Entry] = []  # loops that may join a batch in its next iteration
        self._idle: list[Fiber] = []
        self._closed = False
        self._counts = Counts()
        self._worker = threading.Thread(target=self._work, name="fastrecon-scheduler", daemon=True)
        self._worker.start()

    def submit(
        self, y: Any, operator: LinearOperator | None = None, size: tuple[int, int] | None = None,
        rigorous: bool = False, deadline: float | None = None, *, model: str = "", **options: Any,
    ) -> Future[Result]:  # fmt: skip
        """The answer to come, as `model(y, operator, size=size, ...)` gives it. Its `cancel()` works until it is there.

        Args:
            y: measurements [B, ...], a tensor or an array, whose kind is the answer's: of one image, or of several that
                are answered at once.
            operator: A, where the model has none of its own.
            size: (H, W) of the images, where y and A alone do not tell.
            rigorous: whether a model goes on to convergence after its trained phases.
            deadline: seconds from now after which nobody wants the answer: `Late` is raised instead.
            model: which of several; "" is the first.
            options: of the model or the method.

        Raises:
            Busy: the queue is full, or those in it will take longer than the deadline by the last ones' pace.
            ValueError: an argument is of another kind; what the model says of its input comes with the answer.
            RuntimeError: the scheduler takes no more.
        """
        op = type(self).__name__
        name = model or next(iter(self.models))
        expect(name in self.models, op, "model", f"one of {', '.join(self.models)}", repr(name))
        known = operator is None or isinstance(operator, LinearOperator)
        expect(known, op, "operator", "a LinearOperator or None", type(operator).__name__)
        size = None if size is None else size_2d(size, op, "size")
        seconds = None if deadline is None else float(number(deadline, op, "deadline", above=0))
        shape = as_tensor(y, op, "y").shape
        expect(len(shape) > 1 and shape[0] > 0, op, "y", "measurements [B, ...] of at least one image", tuple(shape))
        answers = self.models[name]
        own = operator if operator is not None or isinstance(answers, str) else answers.operator
        told = dict(options) | ({} if size is None else {"size": size})
        if flag(rigorous, op, "rigorous"):
            told["rigorous"] = True
        compute = _bound(answers, y, operator, told)
        return self.run(compute, images=shape[0], pixels=pixels_of(shape, own, size), deadline=seconds)

    def run(
        self, compute: Callable[[], T], *, images: int = 1, pixels: int = 1, deadline: float | None = None
    ) -> Future[T]:
        """What a function of yours returns, whose loops are computed with those of others: `submit` for anything.

        Args:
            compute: calls models or methods of fastrecon; from another thread, never while another computes.
            images: that it has in the works.
            pixels: of them.
            deadline: see `submit`.

        Raises:
            Busy, RuntimeError: see `submit`.
            ValueError: there are too many pixels.
        """
        op = type(self).__name__
        expect(pixels <= self.max_pixels, op, "y", f"measurements of at most {self.max_pixels} pixels", pixels)
        request = Request(compute, images, pixels, deadline)
        with self._changed:
            if self._closed:
                raise RuntimeError(f"{op}: it takes no more requests")
            hopeless = deadline is not None and self._wait() > deadline
            free = max(0, self.max_batch - sum(r.images for r in self._running))  # places that the queue will have
            ahead = sum(self._share(r) for r in (*self._running, *self._queue))
            if hopeless or len(self._queue) - free >= self.max_queue or ahead > self.max_ahead - ROUNDING:
                self._counts.refused += 1
                raise Busy(len(self._queue), self.room_after())
            self._counts.submitted += 1
            self._queue.append(request)
            self._changed.notify_all()
        return request.future

    def stats(self) -> dict[str, Any]:
        """Numbers by their names: requests queued and running, pixels in the works, and those of `Counts`."""
        with self._changed:
            now = {"queued": len(self._queue), "running": len(self._running)}
            now |= {"pixels": sum(r.pixels for r in self._running), "batches": len(self._flows)}
            return now | self._counts.to_dict()

    @property
    def alive(self) -> bool:
        """Whether anybody computes."""
        return self._worker.is_alive()

    def drain(self, timeout: float | None = None) -> bool:
        """Takes no more requests and waits for the answers to all that it has: whether they came within `timeout`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._worker.join(timeout)
        return not self._worker.is_alive()

    def close(self, wait: bool = True) -> None:
        """Takes no more requests and takes back all that it has.

        Args:
            wait: whether until its threads have ended.
        """
        with self._changed:
            self._closed = True
            for request in [*self._queue, *self._running]:
                request.future.cancel()
            self._changed.notify_all()
        if wait:
            self._worker.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.drain()
        else:
            self.close()

    def _share(self, request: Request) -> float:
        """Of a full batch that a request is."""
        return max(request.images / self.max_batch, request.pixels / self.max_pixels)

    def room_after(self) -> float:
        """Seconds in which as many requests are answered as wait, by the last ones' pace."""
        return max(0.1, self._wait(unknown=1.0))

    def _wait(self, unknown: float = 0.0) -> float:
        return (self._counts.pace or unknown) * len(self._queue) / self.max_batch

    # All below runs in the worker's thread.

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._queue or self._running or self._closed):
                    self._changed.wait()
                if self._closed and not (self._queue or self._running):
                    break
                admitted = self._admitted()
            for request in admitted:
                self._begin(request)
            self._turn()
            self._give_up()
        for fiber in self._idle:
            fiber.close()

    def _admitted(self) -> list[Request]:
        """Those that leave the queue now, first come first served."""
        now, found = time.monotonic(), []
        for request in [r for r in self._queue if r.given_up(now)]:
            self._queue.remove(request)
            self._take_back(request)
        images, pixels = sum(r.images for r in self._running), sum(r.pixels for r in self._running)
        if self.max_batch - len(self._queue) < images and self.max_batch - images < self.max_batch // GROUP:
            return found  # several at once soon: what begins together is computed together
        while self._queue:
            images, pixels = images + self._queue[0].images, pixels + self._queue[0].pixels
            if (self._running or found) and (images > self.max_batch or pixels > self.max_pixels):
                break
            request = self._queue.popleft()
            request.started = now
            found.append(request)
            self._running.append(request)
        return found

    def _begin(self, request: Request) -> None:
        fiber = request.fiber = self._idle.pop() if self._idle else Fiber()
        self._heard(request, fiber.start(request.compute))

    def _heard(self, request: Request, said: Said) -> None:
        """Does what a computation asks for: its loop goes to others of its kind, or begins a batch."""
        request.entry = None
        if isinstance(said, Loop):
            request.entry = Entry(said, request)
            self._place(request.entry)
        elif isinstance(said, End):
            self._end(request, said)

    def _place(self, entry: Entry) -> None:
        """Gives a loop its place: in a batch that it may join now or soon, or in one of its own."""
        for flow in self._flows:
            if flow.admit(entry):
                self._counts.joined += flow.k > 0
                return
        if any(flow.soon(entry) for flow in self._flows):
            self._waiting.append(entry)
        else:
            self._flows.append(Flow(entry))

    def _end(self, request: Request, end: End) -> None:
        assert request.fiber is not None
        self._idle.append(request.fiber)
        with self._changed:
            self._running.remove(request)
            if not request.future.set_running_or_notify_cancel():
                self._counts.cancelled += 1
                return
            if end.error is None:
                self._counts.answered(request.queued, request.started, time.monotonic())
            elif isinstance(end.error, Withdrawn | Late):
                self._counts.late += 1
            else:
                self._counts.failed += 1
        if end.error is None:
            request.future.set_result(end.value)
        else:
            request.future.set_exception(end.error)

    def _turn(self) -> None:
        """One iteration of every batch that is worth it, and of every computation by itself."""
        waiting, self._waiting = self._waiting, []
        for entry in waiting:
            self._place(entry)
        for request in [r for r in self._running if r.entry is None]:
            assert request.fiber is not None
            self._heard(request, request.fiber.resume())
        self._flows = [flow for flow in self._flows if flow.images]
        largest = max((len(flow.images) for flow in self._flows), default=0)
        for flow in [*self._flows]:
            count = len(flow.images)
            if count == 0 or not flow.fills(largest):
                continue
            before = flow.k
            try:
                ended = flow.advance()
            except Exception as error:
                self._flows.remove(flow)
                self._failed(flow, error)
                continue
            self._counts.iterations += flow.k - before
            self._counts.images += count * (flow.k - before)
            if not flow.images:
                self._flows.remove(flow)
            for entry in ended:
                self._heard(entry.owner, entry.owner.fiber.resume(entry.run()))

    def _failed(self, flow: Flow, error: Exception) -> None:
        """Finds out whose error it is: each loop goes on alone, and has the next one for itself."""
        parts = [*flow.split()]
        if len(parts) > 1:
            self._flows += parts
            return
        request = parts[0].images[0].loop.owner
        self._heard(request, request.fiber.resume(error))

    def _give_up(self) -> None:
        """Ends the computations that nobody waits for."""
        now = time.monotonic()
        for request in [r for r in self._running if r.given_up(now)]:
            assert request.fiber is not None
            if request.entry is not None:
                self._waiting = [entry for entry in self._waiting if entry is not request.entry]
                for flow in self._flows:
                    flow.withdraw(request.entry)
                self._flows = [flow for flow in self._flows if flow.images]
                request.entry = None
            said = request.fiber.resume(Withdrawn())
            while not isinstance(said, End):  # something on its way out computes once more
                said = request.fiber.resume(Withdrawn())
            self._end(request, End(error=Late(request.seconds or 0.0)))

    def _take_back(self, request: Request) -> None:
        """Answers a request that was never begun."""
        if request.future.set_running_or_notify_cancel():
            self._counts.late += 1
            request.future.set_exception(Late(request.seconds or 0.0))
        else:
            self._counts.cancelled += 1


def _checked(model: Model | str) -> Model | str:
    if isinstance(model, str):
        expect(
            model in METHODS or model == "auto", "Scheduler", "model", "a model or the name of a method", repr(model)
        )
    else:
        expect(isinstance(model, Model), "Scheduler", "model", "a model or the name of a method", type(model).__name__)
    return model


def _bound(
    model: Model | str, y: Any, operator: LinearOperator | None, options: dict[str, Any]
) -> Callable[[], Result]:
    """The call that answers."""
    if isinstance(model, str):
        expect(operator is not None, "Scheduler", "operator", "a LinearOperator for a method", None)
        method, own = model, operator
        return lambda: reconstruct(y, own, method=method, **options)  # type: ignore[arg-type]
    return lambda: model(y, operator=operator, **options)
