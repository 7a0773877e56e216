"""`fastrecon train dladmm`: trains D-LADMM, or continues to."""

import argparse
import dataclasses

from fastrecon import models
from fastrecon.checks import expect
from fastrecon.options import add_options, given
from fastrecon.train import command
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
    return command.run(args, "dladmm", DladmmConfig, _started, _resumed, _finish)


def _finish(trainer: Trainer, world: World) -> None:
    if isinstance(trainer.task, Synthetic):
        best = models.load(trainer.folder / "model.safetensors")  # as exported
        trainer.task.module = best.to(world.device)
        trainer.task.finish(trainer.folder)


def _started(run: command.Run) -> Trainer:
    options = given(run.args, DladmmConfig)
    expect("task" in options, "train", "--task", f"one of {', '.join(TASKS)}", "none")
    config = DladmmConfig(**(SYNTHETIC if options["task"] == "synthetic" else {}) | options)
    run.check_batch(config.batch)
    task: DladmmTask = TASKS[config.task](config, run.world)
    run.say(f"{task.name}: {task.facts().get('images', 'synthetic data')}, {config.steps} steps")
    return Trainer(task, _schedule(config), run.folder, dataclasses.asdict(config), run.world)


def _resumed(run: command.Run, config: DladmmConfig) -> Trainer:
    task: DladmmTask = TASKS[config.task](config, run.world, fresh=False)
    return Trainer(task, _schedule(config), run.folder, dataclasses.asdict(config), run.world)


def _schedule(c: DladmmConfig) -> Schedule:
    every = c.validate_every or max(1, min(500, c.steps // 20))
    return Schedule(c.steps, c.lr, c.decay, c.warmup, c.clip, c.ema, every, c.optimiser, c.halve_every)
