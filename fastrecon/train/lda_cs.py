"""`fastrecon train lda-cs`: trains LDA for block compressed sensing, or continues to."""

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

from fastrecon import io
from fastrecon.checks import expect
from fastrecon.train import checkpoint
from fastrecon.train.config import PRESETS, Config, add_options, given, parse_stages
from fastrecon.train.lda_task import LdaCs, estimated_seconds, seconds_per_step
from fastrecon.train.trainer import CHECKPOINT, Schedule, Trainer
from fastrecon.train.world import World


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fastrecon train lda-cs`."""
    add = parser.add_argument
    add("--out", required=True, help="folder of the run: checkpoint, log, model.safetensors, model card")
    add("--resume", action="store_true", help="continue the run in --out with its own settings")
    add("--preset", choices=tuple(PRESETS), default="cpu", help="defaults of the other options (default: cpu)")
    add("--minutes", type=float, help="choose --steps to take about this long here; prints the number")
    add("--device", default="auto", help="cpu, cuda, cuda:N, or auto: cuda if there is one (default)")
    add("--threads", type=int, help="CPU threads of each process (default: all)")
    add_options(parser)


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
        print(f"trained: {folder / 'model.safetensors'}" if done else _how_to_resume(trainer), file=sys.stderr)
    return 0 if done else 130


def device_of(name: str) -> torch.device:
    """The device that --device asks for."""
    kind, _, index = name.partition(":")
    known = kind in ("auto", "cpu", "cuda") and (not index or (kind == "cuda" and index.isdigit()))
    expect(known, "train", "--device", "cpu, cuda, cuda:N or auto", repr(name))
    count = torch.cuda.device_count()
    expect(kind != "cuda" or int(index or 0) < count, "train", "--device", f"one of {count} CUDA devices", repr(name))
    return torch.device("cuda" if count else "cpu") if kind == "auto" else torch.device(name)


def _how_to_resume(trainer: Trainer) -> str:
    steps = f"step {trainer.step} of {trainer.schedule.steps}"
    return f"interrupted after {steps}; to continue: fastrecon train lda-cs --out {trainer.folder} --resume"


def _started(args: argparse.Namespace, folder: Path, world: World) -> Trainer:
    options = PRESETS[args.preset] | given(args)
    expect("data" in options, "train", "--data", "folders of training images", "none")
    free = not (folder / CHECKPOINT).exists()
    expect(free, "train", "--out", "a new folder, or --resume to continue", f"a run in {args.out!r}")
    config = Config(**options)
    shared = config.batch % world.size == 0
    expect(shared, "train", "--batch", f"a multiple of the {world.size} processes", config.batch)
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
    state = checkpoint.load(folder / CHECKPOINT)
    settings, changed = state["settings"], given(args)
    for name, value in changed.items():
        if name not in ("data", "validation_data"):  # the same images may have moved
            option, stored = "--" + name.replace("_", "-"), settings[name]
            expect(stored == value, "train", option, f"{stored} as in the checkpoint", value)
    config = Config(**(settings | changed))
    task = LdaCs(config, world, fresh=False)
    trainer = Trainer(task, _schedule(config), folder, dataclasses.asdict(config), world)
    trainer.load(state)
    return trainer


def _schedule(config: Config) -> Schedule:
    every = config.validate_every or max(1, min(1000, config.steps // 50))
    return Schedule(config.steps, config.lr, config.decay, config.warmup, config.clip, config.ema, every)
