"""The training loop: Adam or SGD, checkpoints that resume to the same bits, a log, and several processes.

What is trained is an `Objective`; the loop knows nothing of it. Under torchrun each process takes its share of every
batch and the gradients are averaged, so that the result does not depend on the number of processes, up to rounding.
"""

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastrecon import threads
from fastrecon.startup import Terminated
from fastrecon.train import checkpoint
from fastrecon.train.log import VALIDATION, Log, line
from fastrecon.train.objective import Objective, Score
from fastrecon.train.progress import Progress
from fastrecon.train.schedule import Schedule

CHECKPOINT, PREVIOUS = checkpoint.NAME, checkpoint.PREVIOUS
REPORT_EVERY = 20  # steps; the loss is read from the device only then


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM in a list, so that the step in progress can end; a second one ends the program."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if len(seen) > 1:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)
        with contextlib.suppress(OSError):  # print could be interrupted in itself
            os.write(2, b"\nstops after this step; once more: at once, without a checkpoint\n")

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Trainer:
    """Trains in a folder: checkpoint.safetensors and the one before, log.csv, and what the objective exports.

    Args:
        objective: what to train; its folder is that of the run, in which rank 0 writes.
        schedule: steps and rates.
        settings: stored in the checkpoint for whoever resumes; JSON.
        kind: the recipe's name, stored likewise.
    """

    def __init__(self, objective: Objective, schedule: Schedule, settings: dict[str, Any], kind: str = ""):
        self.objective, self.schedule, self.settings, self.kind = objective, schedule, settings, kind
        self.folder, self.world = objective.folder, objective.world
        self.exported, self.changes = False, cast(list[str], [])
        self.metric = "score"  # its name once there was a validation
        self.step, self.seconds, self.best = 0, 0.0, -math.inf
        self.average: dict[str, Tensor] = {}
        self._trained: dict[str, nn.Parameter] = {}
        self._losses: list[Tensor] = []  # since the last report, on the device
        self._optimiser: torch.optim.Optimizer | None = None

    def run(self) -> int:
        """Trains to the end (0), or until a signal (its number); a checkpoint is there either way.

        Raises:
            RuntimeError: the loss or a parameter is not finite; the last checkpoint stays as it is.
            OSError: a file cannot be written.
        """
        lead, total, started = self.world.rank == 0, self.schedule.steps, time.monotonic() - self.seconds
        log = Log(self.folder, self.step) if lead else None
        with contextlib.ExitStack() as stack:
            if log:
                stack.callback(log.close)
            seen = stack.enter_context(interrupts())
            progress = stack.enter_context(Progress(total, "training", self.step, quiet=not lead))
            while self.step < total:
                if self.objective.begin_step(self.step):
                    self.rebuild()
                self.update()
                due = self.step % self.schedule.validate_every == 0 or self.step == total
                report = due or self.step % REPORT_EVERY == 0
                stop = self._signal(seen, report)
                row = self._mean_loss() if report else None
                if row:
                    progress.note(line(row))
                if due or stop:
                    self._check_finite()
                if row and log:
                    self.seconds = time.monotonic() - started
                    score = self._validate() if due else None
                    row |= {VALIDATION + score.metric: score.value} if score else {}
                    log.write(row | {"seconds": round(self.seconds, 2)}, score)
                    if due:
                        left = f"; about {progress.left(1)} left" if self.step < total else ""
                        progress.say(f"step {self.step}/{total}: {line(row)}{left}")
                if due or stop:
                    self.save()
                if stop:
                    return stop
                progress.advance()
        return 0

    def update(self) -> None:
        """One step of the optimiser."""
        if self._optimiser is None:
            self.rebuild()
        with threads.alone if self.objective.alone else contextlib.nullcontext():
            self._update(cast(torch.optim.Optimizer, self._optimiser))

    def _update(self, optimiser: torch.optim.Optimizer) -> None:
        for group in optimiser.param_groups:
            group["lr"] = self.schedule.rate_at(self.step) * group["share"]
        optimiser.zero_grad(set_to_none=True)
        loss = self.objective.loss()
        loss.backward()
        self._losses.append(self._average_over_processes(loss.detach()))
        if self.schedule.clip:
            nn.utils.clip_grad_norm_(self._trained.values(), self.schedule.clip)
        optimiser.step()
        self.step += 1
        if self.schedule.ema:
            decay = min(self.schedule.ema, self.step / (self.step + 10))  # the first steps must not weigh for ever
            for name, p in self._trained.items():
                self.average[name].lerp_(p.detach(), 1 - decay)
        self.objective.after_step()

    def _average_over_processes(self, loss: Tensor) -> Tensor:
        """Replaces the gradients by their mean over all processes; returns the mean loss."""
        if self.world.size == 1:
            return loss
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._trained.values()]
        flat = torch.cat([g.reshape(-1) for g in grads] + [loss.reshape(1)])  # one message: the network is small
        *means, loss = (self.world.total(flat) / self.world.size).split([g.numel() for g in grads] + [1])
        for p, mean in zip(self._trained.values(), means, strict=True):
            p.grad = mean.view_as(p)
        return loss[0]

    def _signal(self, seen: list[int], report: bool) -> int:
        """The signal that ends the run, 0 for none; several processes, which must stop together, ask at reports."""
        first = seen[0] if seen else 0
        if self.world.size == 1:
            return first
        return int(self.world.largest(first)) if report else 0

    def _mean_loss(self) -> dict[str, Any]:
        """The row of the log for the steps since the last report."""
        loss = float(torch.stack(self._losses).mean())
        self._losses.clear()
        if not math.isfinite(loss):
            self._diverged(f"the loss became {loss}")
        row = {"step": self.step, "stage": self.objective.describe(), "rate": self.schedule.rate_at(self.step - 1)}
        squared = self.objective.squared_error
        return row | {"loss": loss} | ({"psnr": -10 * math.log10(max(loss, 1e-20))} if squared else {})

    def _check_finite(self) -> None:
        """Raises RuntimeError for what no continuation can mend: no checkpoint and no model may hold it."""
        values = [p.detach() for p in self._trained.values()] + list(self.average.values()) + self._losses
        if not all(bool(torch.isfinite(v).all()) for v in values):
            self._diverged("the loss or a parameter became NaN or Inf")

    def _diverged(self, what: str) -> None:
        """Raises RuntimeError: what happened, where the last good state is, and how to go on."""
        path = self.folder / CHECKPOINT
        lower = f"a lower --lr than {self.schedule.rate:g}, or --clip"
        lower += "" if path.is_file() else ", or data and settings with a finite loss"
        go_on = (
            f"{path} is from before: go on with --resume and" if path.is_file() else "there is no checkpoint yet: use"
        )
        raise RuntimeError(f"train: {what} before step {self.step}: {go_on} {lower}")

    def rebuild(self, state: dict[str, Any] | None = None) -> None:
        """A new optimiser, from `state` or for a grown network: what fits of moments and averages carries over."""
        moments, average = (state["moments"], state["average"]) if state else (self.moments(), self.average)
        self._trained = {n: p for n, p in self.objective.module.named_parameters() if p.requires_grad}
        optimiser = self._optimiser = self.schedule.optimiser_of(self._groups())
        for name, p in self._trained.items():
            fits = all(v.shape == p.shape for k, v in moments.get(name, {}).items() if k != "step")
            if name in moments and fits:
                optimiser.state[p] = {k: v if k == "step" else v.to(p) for k, v in moments[name].items()}
        self.average = {}
        if self.schedule.ema:
            for name, p in self._trained.items():
                fits = name in average and average[name].shape == p.shape
                self.average[name] = (average[name] if fits else p.detach()).clone().to(p)
        self.best = state["best"] if state else -math.inf  # a grown network replaces the smaller one

    def _groups(self) -> list[dict[str, Any]]:
        """What is trained, by its share of the learning rate."""
        shares: dict[float, list[nn.Parameter]] = {}
        for name, p in self._trained.items():
            shares.setdefault(self.objective.rates.get(name, 1.0), []).append(p)
        return [{"params": group, "share": share} for share, group in shares.items()]

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """The optimiser's state by parameter name."""
        state = self._optimiser.state if self._optimiser else {}
        return {n: state[p] for n, p in self._trained.items() if p in state}

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged parameters in place of the current ones, if averages are kept."""
        current = {n: p.detach().clone() for n, p in self._trained.items()}
        with torch.no_grad():
            for n, a in self.average.items():
                self._trained[n].copy_(a)
            try:
                yield
            finally:
                for n in self.average:
                    self._trained[n].copy_(current[n])

    def _validate(self) -> Score | None:
        """The score of this moment; the best model so far is exported (each one, if nothing is kept for validation)."""
        with self._averaged():
            score = self.objective.validate()
            self.metric = score.metric if score else "psnr"
            signed = score.signed if score else -math.inf
            if score is None or signed > self.best:  # NaN is never larger
                self.best, self.exported = signed, True
                facts: dict[str, Any] = {"steps": self.step}
                facts[VALIDATION + self.metric] = round(score.value, 3) if score else None
                facts |= {"hours": round(self.seconds / 3600, 2), "processes": self.world.size}
                self.objective.export(facts | ({"changes": self.changes} if self.changes else {}))
        return score

    def save(self) -> None:
        """Writes the checkpoint (rank 0; the others have the same state); the one before keeps another name."""
        if self.world.rank == 0:
            # "task": the objective, as the first checkpoints called it
            state = {"settings": self.settings, "task": self.objective.state_dict(), "moments": self.moments()}
            facts = {"average": self.average, "step": self.step, "seconds": self.seconds, "losses": self._losses}
            facts |= {"kind": self.kind, "exported": self.exported, "changes": self.changes}
            # JSON has no infinity
            found = state | facts | {"best": max(self.best, -1e9)}
            checkpoint.save(self.folder / CHECKPOINT, found, self.folder / PREVIOUS)

    def load(self, state: dict[str, Any]) -> None:
        """Continues from the contents of a checkpoint."""
        self.objective.load_state_dict(state["task"])
        self.step, self.seconds, self._losses = state["step"], state["seconds"], state["losses"]
        self.exported, self.changes = state.get("exported", True), list(state.get("changes", []))
        self.rebuild(state)
