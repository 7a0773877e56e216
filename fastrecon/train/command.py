"""What every `fastrecon train KIND` does: joins the processes, starts or resumes a run, trains, says how it ended."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastrecon.checks import expect
from fastrecon.train import checkpoint
from fastrecon.train.trainer import CHECKPOINT, Trainer
from fastrecon.train.world import World

MOVABLE = ("data", "validation_data")  # settings that a resumed run may change: the same images may have moved
Start = Callable[[argparse.Namespace, Path, World], Trainer]


def add_arguments(parser: argparse.ArgumentParser, contents: str) -> None:
    """--out, which will hold `contents`, --resume, --device and --threads."""
    add = parser.add_argument
    add("--out", required=True, help=f"folder of the run: checkpoint, log, {contents}")
    add("--resume", action="store_true", help="continue the run in --out with its own settings")
    add("--device", default="auto", help="cpu, cuda, cuda:N, or auto: cuda if there is one (default)")
    add("--threads", type=int, help="CPU threads of each process (default: all)")


def run(
    args: argparse.Namespace, kind: str, start: Start, resume: Start,
    finish: Callable[[Trainer, World], object] | None = None,
) -> int:  # fmt: skip
    """Trains, or continues to train; 0 at the end, 130 if interrupted (the run can be resumed then).

    Args:
        args: the command line.
        kind: of the model, as `fastrecon train` calls it.
        start, resume: make the trainer of a new run and of one to continue.
        finish: what rank 0 does at the end.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: one line each, naming the option.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    world, folder = World.join(_device(args.device)), Path(args.out)
    try:
        trainer = (resume if args.resume else start)(args, folder, world)
        done = trainer.run()
    finally:
        world.leave()
    if world.rank == 0:
        if done and finish:
            finish(trainer, world)
        steps = f"step {trainer.step} of {trainer.schedule.steps}"
        again = f"interrupted after {steps}; to continue: fastrecon train {kind} --out {folder} --resume"
        print(f"trained: {folder / 'model.safetensors'}" if done else again, file=sys.stderr)
    return 0 if done else 130


def check_new(folder: Path) -> None:
    """Raises ValueError where a run has been before."""
    free = not (folder / CHECKPOINT).exists()
    expect(free, "train", "--out", "a new folder, or --resume to continue", f"a run in {str(folder)!r}")


def check_batch(batch: int, world: World) -> None:
    """Raises ValueError unless the processes can share the batch."""
    shared = batch % world.size == 0
    expect(shared, "train", "--batch", f"a multiple of the {world.size} processes", batch)


def stored(folder: Path, changed: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The checkpoint of a run and its settings, in which what may change is changed.

    Raises:
        FileNotFoundError, ValueError: there is none, it is damaged, or another setting differs.
    """
    state = checkpoint.load(folder / CHECKPOINT)
    settings = state["settings"]
    for name, value in changed.items():
        if name not in MOVABLE:
            option = "--" + name.replace("_", "-")
            expect(settings[name] == value, "train", option, f"{settings[name]} as in the checkpoint", value)
    return state, settings | changed


def _device(name: str) -> torch.device:
    kind, _, index = name.partition(":")
    known = kind in ("auto", "cpu", "cuda") and (not index or (kind == "cuda" and index.isdigit()))
    expect(known, "train", "--device", "cpu, cuda, cuda:N or auto", repr(name))
    count = torch.cuda.device_count()
    expect(kind != "cuda" or int(index or 0) < count, "train", "--device", f"one of {count} CUDA devices", repr(name))
    return torch.device("cuda" if count else "cpu") if kind == "auto" else torch.device(name)
