"""`fastrecon train dladmm`: trains D-LADMM, or continues to."""

import argparse
import dataclasses
import sys
from pathlib import Path

from fastrecon import io, models
from fastrecon.checks import expect
from fastrecon.train import command
from fastrecon.train.config import add_options, given
from fastrecon.train.dladmm_config import SYNTHETIC, DladmmConfig
from fastrecon.train.dladmm_task import Denoise, DladmmTask
from fastrecon.train.synthetic import Synthetic
from fastrecon.train.trainer import Schedule, Trainer
from fastrecon.train.world import World

TASKS: dict[str, type[Synthetic] | type[Denoise]] = {"synthetic": Synthetic, "denoise": Denoise}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fastrecon train dladmm`."""
    command.add_arguments(parser, "model.safetensors, card, figure and table")
    add_options(parser, DladmmConfig)


def run(args: argparse.Namespace) -> int:
    """Trains, or continues to train: see `command.run`."""
    return command.run(args, "dladmm", _started, _resumed, _finish)


def _finish(trainer: Trainer, world: World) -> None:
    if isinstance(trainer.task, Synthetic):
        best = models.load(trainer.folder / "model.safetensors")  # as exported
        trainer.task.module = best.to(world.device)
        trainer.task.finish(trainer.folder)


def _started(args: argparse.Namespace, folder: Path, world: World) -> Trainer:
    options = given(args, DladmmConfig)
    expect("task" in options, "train", "--task", f"one of {', '.join(TASKS)}", "none")
    command.check_new(folder)
    config = DladmmConfig(**(SYNTHETIC if options["task"] == "synthetic" else {}) | options)
    command.check_batch(config.batch, world)
    io.output_folder(folder)
    task: DladmmTask = TASKS[config.task](config, world)
    if world.rank == 0:
        print(f"{task.name}: {task.facts().get('images', 'synthetic data')}, {config.steps} steps", file=sys.stderr)
    return Trainer(task, _schedule(config), folder, dataclasses.asdict(config), world)


def _resumed(args: argparse.Namespace, folder: Path, world: World) -> Trainer:
    state, settings = command.stored(folder, given(args, DladmmConfig))
    config = DladmmConfig(**settings)
    trainer = Trainer(
        TASKS[config.task](config, world, fresh=False), _schedule(config), folder, dataclasses.asdict(config), world
    )
    trainer.load(state)
    return trainer


def _schedule(c: DladmmConfig) -> Schedule:
    every = c.validate_every or max(1, min(500, c.steps // 20))
    return Schedule(c.steps, c.lr, c.decay, c.warmup, c.clip, c.ema, every, c.optimiser, c.halve_every)
