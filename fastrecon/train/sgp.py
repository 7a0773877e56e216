"""`fastrecon train sgp` and `fastrecon train unet`: networks that choose the steps of SGP, and the direct baseline.

Cumulative greedy training: stage k fits the network on the iterates of all stages so far, as constants, to one step
x - d grad, shrunk, towards the converged solution; then every image advances by that step and a plain one.
Source: Lee & Chun, eqs. (7) and (8).
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch

from fastrecon import io
from fastrecon.checks import expect
from fastrecon.train import checkpoint
from fastrecon.train.sgp_task import Config, Stages
from fastrecon.train.trainer import CHECKPOINT, Schedule, Trainer

PLACES = ("data",)


def add_arguments(parser: argparse.ArgumentParser, method: str) -> None:
    """The options of `fastrecon train sgp` (method "sgp") or `fastrecon train unet`."""
    add = parser.add_argument
    add("--out", required=True, help="folder of the run: checkpoint, log, targets, model.safetensors, model card")
    add("--resume", action="store_true", help="continue the run in --out with its own settings")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    add("--threads", type=int, help="CPU threads (default: all)")
    for field in dataclasses.fields(Config):
        if field.name == "method" or (field.name == "variant" and method == "unet"):
            continue
        options = dict(field.metadata)
        text = options.pop("help")
        if field.default not in (dataclasses.MISSING, ""):
            text += f" (default: {field.default})"
        add("--" + field.name.replace("_", "-"), help=text, default=argparse.SUPPRESS, **options)
    parser.set_defaults(method=method)


def run(args: argparse.Namespace) -> int:
    """Trains, or continues to train; 0 at the end, 130 if interrupted (the run can be resumed then).

    Raises:
        ValueError, FileNotFoundError, RuntimeError: one line each, naming the option.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    kind, folder = args.device.partition(":")[0], Path(args.out)
    usable = kind == "cpu" or (kind == "cuda" and torch.cuda.is_available())
    expect(usable, "train", "--device", "cpu, or a CUDA device of this machine", repr(args.device))
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(Config) if hasattr(args, f.name)}
    trainer = (_resumed if args.resume else _started)(given, folder, torch.device(args.device))
    done = trainer.run()
    steps = f"step {trainer.step} of {trainer.schedule.steps}"
    again = f"interrupted after {steps}; to continue: fastrecon train {args.method} --out {folder} --resume"
    print(f"trained: {folder / 'model.safetensors'}" if done else again, file=sys.stderr)
    return 0 if done else 130


def _started(given: dict[str, Any], folder: Path, device: torch.device) -> Trainer:
    expect("data" in given, "train", "--data", "folders of training images", "none")
    free = not (folder / CHECKPOINT).exists()
    expect(free, "train", "--out", "a new folder, or --resume to continue", f"a run in {str(folder)!r}")
    config = Config(**given)
    io.output_folder(folder)
    task = Stages(config, folder, device)
    print(f"{task.name}: {task.count} training images, {config.total} steps", file=sys.stderr)
    return Trainer(task, _schedule(config), folder, dataclasses.asdict(config))


def _resumed(given: dict[str, Any], folder: Path, device: torch.device) -> Trainer:
    state = checkpoint.load(folder / CHECKPOINT)
    settings = state["settings"]
    for name, value in given.items():
        if name not in PLACES:  # the same images may have moved
            option = "--" + name.replace("_", "-")
            expect(settings[name] == value, "train", option, f"{settings[name]} as in the checkpoint", value)
    config = Config(**(settings | given))
    trainer = Trainer(Stages(config, folder, device), _schedule(config), folder, dataclasses.asdict(config))
    trainer.load(state)
    return trainer


def _schedule(config: Config) -> Schedule:
    return Schedule(config.total, config.lr, "cosine", 20, config.clip, 0.0, config.steps)
