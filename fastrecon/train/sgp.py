"""`fastrecon train sgp` and `fastrecon train unet`: networks that choose the steps of SGP, and the direct baseline.

Cumulative greedy training: stage k fits the network on the iterates of all stages so far, as constants, to one step
x - d grad, shrunk, towards the converged solution; then every image advances by that step and a plain one.
Source: Lee & Chun, eqs. (7) and (8).
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from fastrecon import io
from fastrecon.checks import expect
from fastrecon.train import command
from fastrecon.train.config import given
from fastrecon.train.sgp_task import Config, Stages
from fastrecon.train.trainer import Schedule, Trainer
from fastrecon.train.world import World


def add_arguments(parser: argparse.ArgumentParser, method: str) -> None:
    """The options of `fastrecon train sgp` (method "sgp") or `fastrecon train unet`."""
    command.add_arguments(parser, "targets, model.safetensors, model card")
    for field in dataclasses.fields(Config):
        if field.name == "method" or (field.name == "variant" and method == "unet"):
            continue
        options = dict(field.metadata)
        text = options.pop("help")
        if field.default not in (dataclasses.MISSING, ""):
            text += f" (default: {field.default})"
        parser.add_argument("--" + field.name.replace("_", "-"), help=text, default=argparse.SUPPRESS, **options)
    parser.set_defaults(method=method)


def run(args: argparse.Namespace) -> int:
    """Trains, or continues to train: see `command.run`."""
    return command.run(args, args.method, _started, _resumed)


def _started(args: argparse.Namespace, folder: Path, world: World) -> Trainer:
    options = given(args, Config)
    expect("data" in options, "train", "--data", "folders of training images", "none")
    command.check_new(folder)
    config = Config(**options)
    io.output_folder(folder)
    task = _task(config, folder, world)
    print(f"{task.name}: {task.count} training images, {config.total} steps", file=sys.stderr)
    return Trainer(task, _schedule(config), folder, dataclasses.asdict(config))


def _resumed(args: argparse.Namespace, folder: Path, world: World) -> Trainer:
    state, settings = command.stored(folder, given(args, Config))
    config = Config(**settings)
    trainer = Trainer(_task(config, folder, world), _schedule(config), folder, dataclasses.asdict(config))
    trainer.load(state)
    return trainer


def _task(config: Config, folder: Path, world: World) -> Stages:
    expect(world.size == 1, "train", "processes", "one: a stage's iterates live in its memory", world.size)
    return Stages(config, folder, world.device)


def _schedule(config: Config) -> Schedule:
    return Schedule(config.total, config.lr, "cosine", 20, config.clip, 0.0, config.steps)
