"""What every `fastrecon train KIND` does: joins the processes, starts or resumes a run, trains, says how it ended."""

import argparse
import contextlib
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fastrecon.checks import expect
from fastrecon.options import given, number
from fastrecon.train import checkpoint
from fastrecon.train.claim import MODEL, Claim
from fastrecon.train.export import mend
from fastrecon.train.progress import say
from fastrecon.train.trainer import Trainer
from fastrecon.train.world import World

# Settings that a resumed run may change: the same images may have moved; a run that diverged needs smaller steps.
MOVABLE, TUNABLE = ("data", "validation_data"), ("lr", "clip", "validate_every")
STATE: dict[str, type | tuple[type, ...]] = {
    "settings": dict, "task": dict, "moments": dict, "average": dict, "step": int, "seconds": (int, float),
    "losses": list, "best": (int, float),
}  # fmt: skip


@dataclass
class Run:
    """A call of `fastrecon train`: the command line, the kind of model, the processes, the folder and its lock."""

    args: argparse.Namespace
    kind: str
    config: Any
    world: World
    folder: Path
    claim: Claim = field(init=False)

    def __post_init__(self):
        self.claim = Claim(self.folder, self.world.rank == 0)

    def say(self, text: str) -> None:
        """One line on standard error, from the first process."""
        if self.world.rank == 0:
            say(text)

    def check_new(self) -> None:
        """Raises ValueError where a run has been before."""
        for name in (checkpoint.NAME, checkpoint.PREVIOUS, MODEL):
            said = f"{name} in {str(self.folder)!r}"
            expect(not (self.folder / name).exists(), "train", "--out", "a new folder, or --resume to continue", said)

    def check_batch(self, batch: int) -> None:
        """Raises ValueError unless the processes can share the batch."""
        shared = batch % self.world.size == 0
        expect(shared, "train", "--batch", f"a multiple of the {self.world.size} processes", batch)


Start = Callable[[Run], Trainer]
Resume = Callable[[Run, Any], Trainer]


def add_arguments(parser: argparse.ArgumentParser, contents: str) -> None:
    """--out, which will hold `contents`, --resume, --device and --threads."""
    add = parser.add_argument
    add("--out", required=True, help=f"folder of the run: checkpoint, log, {contents}")
    resumable = ", ".join("--" + name.replace("_", "-") for name in TUNABLE)
    add(
        "--resume", action="store_true",
        help=f"continue the run in --out with its own settings, of which {resumable} may be changed",
    )  # fmt: skip
    add("--device", default="auto", help="cpu, cuda, cuda:N, or auto: cuda if there is one (default)")
    add("--threads", type=number(int, "[1, 1024]"), help="CPU threads of each process, in [1, 1024] (default: all)")


def run(
    args: argparse.Namespace, kind: str, config: Any, start: Start, resume: Resume,
    finish: Callable[[Trainer, World], object] | None = None,
) -> int:  # fmt: skip
    """Trains, or continues to train; 0 at the end, 130 if interrupted (the run can be resumed then).

    Args:
        args: the command line.
        kind: of the model, as `fastrecon train` calls it.
        config: the class of its settings.
        start, resume: make the trainer of a new run, and of one to continue, whose settings are given.
        finish: what rank 0 does at the end.

    Raises:
        ValueError, FileNotFoundError, RuntimeError, OSError: one line each, naming the option or the file.
    """
    expect(bool(args.out), "train", "--out", "the name of a folder", repr(args.out))
    if args.threads:
        torch.set_num_threads(args.threads)
    call = Run(args, kind, config, World.join(_device(args.device)), Path(args.out))
    with contextlib.ExitStack() as stack:
        stack.callback(call.claim.release)
        try:
            trainer = _resumed(call, resume) if args.resume else _started(call, start)
            trainer.kind = kind
            done = trainer.run()
        except BaseException:
            call.world.abandon()
            raise
        call.world.leave()
        if call.world.rank == 0:
            _end(call, trainer, done, finish)
    return 0 if done else 130


def _end(call: Run, trainer: Trainer, done: bool, finish: Callable[[Trainer, World], object] | None) -> None:
    if not done:
        steps, folder = f"step {trainer.step} of {trainer.schedule.steps}", shlex.quote(str(call.folder))
        say(f"interrupted after {steps}; to continue: fastrecon train {call.kind} --out {folder} --resume")
        return
    if not trainer.exported:
        raise RuntimeError(
            f"train: validation: expected a finite {trainer.metric}, got NaN each time: no model is written;"
            f" start again in another folder with a lower --lr than {trainer.schedule.rate:g}, or other data"
        )
    if finish:
        finish(trainer, call.world)
    say(f"trained: {call.folder / MODEL}")


def _started(call: Run, start: Start) -> Trainer:
    call.claim.take()
    if call.world.rank == 0:  # the others see what this one is about to write
        call.check_new()
    return start(call)


def _resumed(call: Run, resume: Resume) -> Trainer:
    if not call.folder.is_dir():
        checkpoint.load(call.folder / checkpoint.NAME)  # says that it is missing
    call.claim.take()
    call.say(f"reading the checkpoint in {call.folder}")
    state, path, complaint = checkpoint.latest(call.folder)
    checkpoint.need(path, state, STATE)
    wrote = state.get("kind") or call.kind
    expect(
        wrote == call.kind, "train", "--out", f"a run of train {call.kind}", f"one of train {wrote} in {str(path)!r}"
    )
    settings, changes = _changed(call, path, state["settings"])
    try:
        config = call.config(**settings)
    except (ValueError, TypeError) as error:
        same = all(settings[k] == v for k, v in state["settings"].items())
        raise ValueError(f"train: resume: {str(path)!r}: settings: {error}" if same else str(error)) from None
    trainer = resume(call, config)
    try:
        trainer.load(state)
    except (KeyError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        key = f"no key {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise ValueError(f"train: resume: {str(path)!r}: expected the state of this network, got {key}") from None
    trainer.changes += [f"{text} from step {trainer.step}" for text in changes]
    if complaint:
        call.say(f"{complaint}: continues from {path.name}, step {trainer.step}")
        damaged = call.folder / checkpoint.NAME
        if call.world.rank == 0 and damaged.exists():  # else the next checkpoint would take the good one's place
            os.replace(damaged, call.folder / checkpoint.DAMAGED)
    call.say(f"continues after step {trainer.step} of {trainer.schedule.steps}" + "".join(f"; {c}" for c in changes))
    if call.world.rank == 0 and not mend(call.folder / MODEL, *trainer.task.card(call.folder)):
        trainer.best, trainer.exported = float("-inf"), False  # the model is gone: the next one is the best
    return trainer


def _changed(call: Run, path: Path, stored: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings of a run with those that the command line changes, and what it changes that may be told.

    Raises:
        ValueError: another setting differs.
    """
    changes = []
    for name, value in given(call.args, call.config).items():
        option = "--" + name.replace("_", "-")
        if name in MOVABLE or stored.get(name) == value:
            continue
        expect(name in stored, "train", option, f"a setting of the checkpoint {str(path)!r}", value)
        expect(name in TUNABLE, "train", option, f"{stored[name]} as in the checkpoint", value)
        changes.append(f"{option} {value} instead of {stored[name]}")
    return stored | given(call.args, call.config), changes


def _device(name: str) -> torch.device:
    kind, _, index = name.partition(":")
    known = kind in ("auto", "cpu", "cuda") and (not index or (kind == "cuda" and index.isdecimal()))
    expect(known, "train", "--device", "cpu, cuda, cuda:N or auto", repr(name))
    count = torch.cuda.device_count()
    expect(kind != "cuda" or int(index or 0) < count, "train", "--device", f"one of {count} CUDA devices", repr(name))
    return torch.device("cuda" if count else "cpu") if kind == "auto" else torch.device(name)
