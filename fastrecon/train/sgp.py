"""`fastrecon train sgp` and `fastrecon train unet`: networks that choose the steps of SGP, and the direct baseline.

Cumulative greedy training: stage k fits the network on the iterates of all stages so far, as constants, to one step
x - d grad, shrunk, towards the converged solution; then every image advances by that step and a plain one.
With --unroll the network is trained through whole runs instead, towards the true images.
Source: Lee & Chun, eqs. (7) and (8).
"""

import argparse
import dataclasses

from fastrecon.checks import expect
from fastrecon.options import add_options, given
from fastrecon.train import command
from fastrecon.train.sgp_config import Config
from fastrecon.train.sgp_task import task
from fastrecon.train.trainer import Schedule, Trainer

OF_SGP = ("variant", "stages", "unroll", "first_step", "rise", "target_iterations", "lam_factor")


def add_arguments(parser: argparse.ArgumentParser, method: str) -> None:
    """The options of `fastrecon train sgp` (method "sgp") or `fastrecon train unet`."""
    command.add_arguments(parser, "targets, model.safetensors, model card")
    add_options(parser, Config, without=("method", *(OF_SGP if method == "unet" else ())))
    parser.set_defaults(method=method)


def run(args: argparse.Namespace) -> int:
    """Trains, or continues to train: see `command.run`."""
    return command.run(args, args.method, Config, _started, _resumed)


def _started(run: command.Run) -> Trainer:
    options = given(run.args, Config)
    expect("data" in options, "train", "--data", "folders of training images", "none")
    config = Config(**options)
    return _resumed(run, config)


def _resumed(run: command.Run, config: Config) -> Trainer:
    expect(run.world.size == 1, "train", "processes", "one: iterates live in its memory", run.world.size)
    fit = task(config, run.folder, run.world.device)
    run.say(f"{fit.name}: {fit.count} training images, {config.total} steps")
    return Trainer(fit, Schedule(**config.schedule()), run.folder, dataclasses.asdict(config))
