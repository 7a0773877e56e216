"""`fastrecon train lda-cs`: trains LDA for block compressed sensing, or continues to."""

import argparse
import dataclasses
import sys
from pathlib import Path

from fastrecon import io
from fastrecon.checks import expect
from fastrecon.train import command
from fastrecon.train.config import PRESETS, Config, add_options, given, parse_stages
from fastrecon.train.lda_task import LdaCs, estimated_seconds, seconds_per_step
from fastrecon.train.trainer import Schedule, Trainer
from fastrecon.train.world import World


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fastrecon train lda-cs`."""
    command.add_arguments(parser, "model.safetensors, model card")
    add = parser.add_argument
    add("--preset", choices=tuple(PRESETS), default="cpu", help="defaults of the other options (default: cpu)")
    add("--minutes", type=float, help="choose --steps to take about this long here; prints the number")
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Trains, or continues to train: see `command.run`."""
    return command.run(args, "lda-cs", _started, _resumed)


def _started(args: argparse.Namespace, folder: Path, world: World) -> Trainer:
    options = PRESETS[args.preset] | given(args)
    expect("data" in options, "train", "--data", "folders of training images", "none")
    command.check_new(folder)
    config = Config(**options)
    command.check_batch(config.batch, world)
    task = LdaCs(config, world)
    io.output_folder(folder)
    per_step = seconds_per_step(task)
    if args.minutes:
        steps = max(1, round(60 * args.minutes * config.steps / estimated_seconds(task.stages, per_step)))
        config = dataclasses.replace(config, steps=int(world.largest(steps)))
        task.config, task.stages = config, parse_stages(config)
    if world.rank == 0:
        hours, minutes = divmod(round(estimated_seconds(task.stages, per_step) / 60), 60)
        print(
            f"{task.name}: {task.images['training']} training and {task.images['validation']} validation images"
            f" ({task.crops.skipped} smaller than {config.patch} pixels left out), {config.steps} steps,"
            f" about {hours} h {minutes:02d} min",
            file=sys.stderr,
        )
    return Trainer(task, _schedule(config), folder, dataclasses.asdict(config), world)


def _resumed(args: argparse.Namespace, folder: Path, world: World) -> Trainer:
    state, settings = command.stored(folder, given(args))
    config = Config(**settings)
    task = LdaCs(config, world, fresh=False)
    trainer = Trainer(task, _schedule(config), folder, dataclasses.asdict(config), world)
    trainer.load(state)
    return trainer


def _schedule(config: Config) -> Schedule:
    every = config.validate_every or max(1, min(1000, config.steps // 50))
    return Schedule(config.steps, config.lr, config.decay, config.warmup, config.clip, config.ema, every)
