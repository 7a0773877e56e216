"""`fastrecon train lda-cs`: trains LDA for block compressed sensing, or continues to."""

import argparse
import dataclasses

from fastrecon.checks import expect
from fastrecon.options import add_options, given, number
from fastrecon.train import command
from fastrecon.train.config import PRESETS, Config, parse_stages
from fastrecon.train.lda_task import LdaCs, estimated_seconds, seconds_per_step
from fastrecon.train.progress import duration
from fastrecon.train.trainer import Schedule, Trainer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fastrecon train lda-cs`."""
    command.add_arguments(parser, "model.safetensors, model card")
    add = parser.add_argument
    add("--preset", choices=tuple(PRESETS), default="cpu", help="defaults of the other options (default: cpu)")
    add(
        "--minutes", type=number(float, "(0, 1e6]"),
        help="choose --steps to take about this long here, in (0, 1e6]; prints the number",
    )  # fmt: skip
    add_options(parser, Config)


def run(args: argparse.Namespace) -> int:
    """Trains, or continues to train: see `command.run`."""
    return command.run(args, "lda-cs", Config, _started, _resumed)


def _started(run: command.Run) -> Trainer:
    args, world = run.args, run.world
    options = PRESETS[args.preset] | given(args, Config)
    expect("data" in options, "train", "--data", "folders of training images", "none")
    config = Config(**options)
    run.check_batch(config.batch)
    task = LdaCs(config, world)
    run.say("measuring the time of a step")
    per_step = seconds_per_step(task)
    if args.minutes:
        steps = max(1, round(60 * args.minutes * config.steps / estimated_seconds(task.stages, per_step)))
        config = dataclasses.replace(config, steps=int(world.largest(steps)))
        task.config, task.stages = config, parse_stages(config)
    run.say(
        f"{task.name}: {task.images['training']} training and {task.images['validation']} validation images"
        f" ({task.crops.skipped} smaller than {config.patch} pixels left out), {config.steps} steps,"
        f" about {duration(estimated_seconds(task.stages, per_step))}"
    )
    return Trainer(task, _schedule(config), run.folder, dataclasses.asdict(config), world)


def _resumed(run: command.Run, config: Config) -> Trainer:
    task = LdaCs(config, run.world, fresh=False)
    return Trainer(task, _schedule(config), run.folder, dataclasses.asdict(config), run.world)


def _schedule(config: Config) -> Schedule:
    every = config.validate_every or max(1, min(1000, config.steps // 50))
    return Schedule(config.steps, config.lr, config.decay, config.warmup, config.clip, config.ema, every)
