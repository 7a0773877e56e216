"""`fastrecon train dladmm`: trains D-LADMM, or continues to."""

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

from fastrecon import io, models
from fastrecon.checks import expect
from fastrecon.train import checkpoint
from fastrecon.train.config import add_options, given
from fastrecon.train.dladmm_config import DladmmConfig
from fastrecon.train.dladmm_task import Denoise, DladmmTask
from fastrecon.train.lda_cs import device_of
from fastrecon.train.synthetic import Synthetic
from fastrecon.train.trainer import CHECKPOINT, Schedule, Trainer
from fastrecon.train.world import World

TASKS: dict[str, type[Synthetic] | type[Denoise]] = {"synthetic": Synthetic, "denoise": Denoise}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fastrecon train dladmm`."""
    add = parser.add_argument
    add("--out", required=True, help="folder of the run: checkpoint, log, model.safetensors, card, figure and table")
    add("--resume", action="store_true", help="continue the run in --out with its own settings")
    add("--device", default="auto", help="cpu, cuda, cuda:N, or auto: cuda if there is one (default)")
    add("--threads", type=int, help="CPU threads of each process (default: all)")
    add_options(parser, DladmmConfig)


def run(args: argparse.Namespace) -> int:
    """Trains, or continues to train; 0 at the end, 130 if interrupted (the run can be resumed then).

    Raises:
        ValueError, FileNotFoundError, RuntimeError: one line each, naming the option.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    world, folder = World.join(device_of(args.device)), Path(args.out)
    try:
        trainer = _resumed(args, folder, world) if args.resume else _started(args, folder, world)
        done = trainer.run()
    finally:
        world.leave()
    if world.rank == 0:
        if done and isinstance(trainer.task, Synthetic):
            trainer.task.module = models.load(folder / "model.safetensors").to(world.device)  # the best, as exported
            trainer.task.finish(folder)
        steps = f"step {trainer.step} of {trainer.schedule.steps}"
        again = f"interrupted after {steps}; to continue: fastrecon train dladmm --out {folder} --resume"
        print(f"trained: {folder / 'model.safetensors'}" if done else again, file=sys.stderr)
    return 0 if done else 130


def _started(args: argparse.Namespace, folder: Path, world: World) -> Trainer:
    options = given(args, DladmmConfig)
    expect("task" in options, "train", "--task", f"one of {', '.join(TASKS)}", "none")
    free = not (folder / CHECKPOINT).exists()
    expect(free, "train", "--out", "a new folder, or --resume to continue", f"a run in {args.out!r}")
    config = DladmmConfig(**options)
    shared = config.batch % world.size == 0
    expect(shared, "train", "--batch", f"a multiple of the {world.size} processes", config.batch)
    io.output_folder(folder)
    task: DladmmTask = TASKS[config.task](config, world)
    if world.rank == 0:
        print(f"{task.name}: {task.facts().get('images', 'synthetic data')}, {config.steps} steps", file=sys.stderr)
    return Trainer(task, _schedule(config), folder, dataclasses.asdict(config), world)


def _resumed(args: argparse.Namespace, folder: Path, world: World) -> Trainer:
    state = checkpoint.load(folder / CHECKPOINT)
    settings, changed = state["settings"], given(args, DladmmConfig)
    for name, value in changed.items():
        if name not in ("data", "validation_data"):  # the same images may have moved
            option, stored = "--" + name.replace("_", "-"), settings[name]
            expect(stored == value, "train", option, f"{stored} as in the checkpoint", value)
    config = DladmmConfig(**(settings | changed))
    trainer = Trainer(
        TASKS[config.task](config, world, fresh=False), _schedule(config), folder, dataclasses.asdict(config), world
    )
    trainer.load(state)
    return trainer


def _schedule(c: DladmmConfig) -> Schedule:
    every = c.validate_every or max(1, min(500, c.steps // 20))
    return Schedule(c.steps, c.lr, c.decay, c.warmup, c.clip, c.ema, every, c.optimiser, c.halve_every)
