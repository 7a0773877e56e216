"""What `fastrecon train NAME` does with any recipe: joins the processes, starts or resumes a run, trains."""

import argparse
import contextlib
import dataclasses
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from fastrecon import options
from fastrecon.checks import expect
from fastrecon.options import flag_of, given, number
from fastrecon.train import checkpoint
from fastrecon.train.claim import MODEL, Claim
from fastrecon.train.export import mend
from fastrecon.train.loop import Trainer
from fastrecon.train.objective import Objective
from fastrecon.train.progress import duration, say
from fastrecon.train.recipe import Recipe, Settings
from fastrecon.train.world import World

# Settings that a resumed run may change: the same files may have moved; a run that diverged needs smaller steps.
MOVABLE, TUNABLE = ("data", "validation_data", "mask"), ("lr", "clip", "validate_every")
STATE: dict[str, type | tuple[type, ...]] = {
    "settings": dict, "task": dict, "moments": dict, "average": dict, "step": int, "seconds": (int, float),
    "losses": list, "best": (int, float),
}  # fmt: skip
FORMER = "former_"  # before the names of options that were renamed, among the parsed ones
# Problems as they were called once, and now.
PROBLEMS = {"fourier": "mri", "denoise": "impulse", "synthetic": "sparse-coding"}


@dataclass
class Run:
    """A call of `fastrecon train`: the command line, the recipe, the processes, the folder and its lock."""

    args: argparse.Namespace
    recipe: Recipe
    world: World
    folder: Path
    claim: Claim = field(init=False)

    def __post_init__(self):
        self.claim = Claim(self.folder, self.world.rank == 0)

    def say(self, text: str) -> None:
        """One line on standard error, from the first process."""
        if self.world.rank == 0:
            say(text)

    def options(self) -> dict[str, Any]:
        """The settings that the command line names."""
        return given(self.args, self.recipe.Config)

    def check_new(self) -> None:
        """Raises ValueError where a run has been before."""
        for name in (checkpoint.NAME, checkpoint.PREVIOUS, MODEL):
            said = f"{name} in {str(self.folder)!r}"
            expect(not (self.folder / name).exists(), "train", "--out", "a new folder, or --resume to continue", said)

    def objective(self, config: Settings, fresh: bool) -> Objective:
        """What is to be trained.

        Raises:
            ValueError: the processes cannot share its batch.
        """
        size = self.world.size
        expect(self.recipe.processes or size == 1, "train", "processes", "one: iterates live in its memory", size)
        expect(config.batch % size == 0, "train", "--batch", f"a multiple of the {size} processes", config.batch)
        return self.recipe.Objective(config, self.world, self.folder, fresh)

    def trainer(self, config: Settings, objective: Objective) -> Trainer:
        """The loop of a run."""
        settings = dataclasses.asdict(cast(Any, config))
        return Trainer(objective, config.schedule(), settings, self.recipe.name)


def add_arguments(parser: argparse.ArgumentParser, recipe: Recipe) -> None:
    """--out, --resume, --device, --threads, --minutes, presets, and the options of the recipe."""
    add, fields = parser.add_argument, {f.name for f in dataclasses.fields(cast(Any, recipe.Config))}
    add("--out", required=True, help=f"folder of the run: checkpoint, log, {recipe.contents}")
    resumable = ", ".join(flag_of(name) for name in TUNABLE if name in fields)
    add(
        "--resume", action="store_true",
        help=f"continue the run in --out with its own settings, of which {resumable} may be changed",
    )  # fmt: skip
    add("--device", default="auto", help="cpu, cuda, cuda:N, or auto: cuda if there is one (default)")
    add("--threads", type=number(int, "[1, 1024]"), help="CPU threads of each process, in [1, 1024] (default: all)")
    if recipe.presets and recipe.preset_of not in fields:
        names = tuple(recipe.presets)
        text = f"defaults of the other options (default: {names[0]})"
        add(flag_of(recipe.preset_of), choices=names, default=names[0], help=text)
    add(
        "--minutes", type=number(float, "(0, 1e6]"),
        help="choose --steps to take about this long here, in (0, 1e6]; prints the number",
    )  # fmt: skip
    options.add_options(parser, recipe.Config, without=(*recipe.fixed, *recipe.without))
    for name in recipe.renamed:
        add(flag_of(name), dest=FORMER + name, help=argparse.SUPPRESS)


def run(recipe: Recipe, args: argparse.Namespace) -> int:
    """Trains, or continues to train; 0 at the end, 128 + the signal if interrupted (the run can be resumed then).

    Raises:
        ValueError, FileNotFoundError, RuntimeError, OSError: one line each, naming the option or the file.
    """
    for name, now in recipe.renamed.items():
        value = getattr(args, FORMER + name, None)
        known = f"{flag_of(now)} {PROBLEMS.get(str(value), value)}, its name now"
        expect(value is None, "train", flag_of(name), known, f"{flag_of(name)} {value}")
    expect(not (args.resume and args.minutes), "train", "--minutes", "a new run", "--resume: its steps are chosen")
    expect(bool(args.out), "train", "--out", "the name of a folder", repr(args.out))
    if args.threads:
        torch.set_num_threads(args.threads)
    call = Run(args, recipe, World.join(_device(args.device)), Path(args.out))
    with contextlib.ExitStack() as stack:
        stack.callback(call.claim.release)
        try:
            trainer = _resumed(call) if args.resume else _started(call)
            signal = trainer.run()
        except BaseException:
            call.world.abandon()
            raise
        call.world.leave()
        if call.world.rank == 0:
            _end(call, trainer, signal)
    return 128 + signal if signal else 0


def _end(call: Run, trainer: Trainer, signal: int) -> None:
    if signal:
        steps, folder = f"step {trainer.step} of {trainer.schedule.steps}", shlex.quote(str(call.folder))
        say(f"interrupted after {steps}; to continue: fastrecon train {call.recipe.name} --out {folder} --resume")
        return
    if not trainer.exported:
        raise RuntimeError(
            f"train: validation: expected a finite {trainer.metric}, got NaN each time: no model is written;"
            f" start again in another folder with a lower --lr than {trainer.schedule.rate:g}, or other data"
        )
    trainer.objective.finish()
    say(f"trained: {call.folder / MODEL}")


def _started(call: Run) -> Trainer:
    args, recipe, world = call.args, call.recipe, call.world
    call.claim.take()
    if world.rank == 0:  # the others see what this one is about to write
        call.check_new()
    options_given = call.options()
    chosen = options_given.get(recipe.preset_of, getattr(args, recipe.preset_of, ""))
    values = {**recipe.presets.get(chosen, {}), **options_given, **recipe.fixed}
    config = options.make(recipe.Config, values, "train")
    objective, about = call.objective(config, fresh=True), ""
    if args.minutes or recipe.timed:
        call.say("measuring the time of a step")
        seconds = objective.seconds()
        if args.minutes:
            steps = max(1, round(60 * args.minutes * config.steps / max(seconds, 1e-9)))
            steps = int(world.largest(min(steps, 10**9)))
            seconds *= steps / config.steps
            config = dataclasses.replace(cast(Any, config), steps=steps)
            objective.reschedule(config)
        about = f", about {duration(seconds)}"
    call.say(f"{objective.name}: {objective.data}, {config.schedule().steps} steps{about}")
    return call.trainer(config, objective)


def _resumed(call: Run) -> Trainer:
    if not call.folder.is_dir():
        checkpoint.load(call.folder / checkpoint.NAME)  # says that it is missing
    call.claim.take()
    call.say(f"reading the checkpoint in {call.folder}")
    state, path, complaint = checkpoint.latest(call.folder)
    checkpoint.need(path, state, STATE)
    name, wrote = call.recipe.name, state.get("kind") or call.recipe.name
    expect(wrote == name, "train", "--out", f"a run of train {name}", f"one of train {wrote} in {str(path)!r}")
    stored = call.recipe.upgrade(state["settings"])
    settings, changes = _changed(call, path, stored)
    try:
        config = call.recipe.Config(**settings)
    except (ValueError, TypeError) as error:
        same = all(settings[k] == v for k, v in stored.items())
        raise ValueError(f"train: resume: {str(path)!r}: settings: {error}" if same else str(error)) from None
    trainer = call.trainer(config, call.objective(config, fresh=False))
    try:
        trainer.load(state)
    except (KeyError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        key = f"no key {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise ValueError(f"train: resume: {str(path)!r}: expected the state of this network, got {key}") from None
    trainer.changes += [f"{text} from step {trainer.step}" for text in changes]
    if complaint:
        call.say(f"{complaint}: continues from {path.name}, step {trainer.step}")
        damaged = call.folder / checkpoint.NAME
        if call.world.rank == 0 and damaged.exists():  # else the next checkpoint would take the good one's place
            os.replace(damaged, call.folder / checkpoint.DAMAGED)
    call.say(f"continues after step {trainer.step} of {trainer.schedule.steps}" + "".join(f"; {c}" for c in changes))
    if call.world.rank == 0 and not mend(call.folder / MODEL, trainer.objective.card):
        trainer.best, trainer.exported = float("-inf"), False  # the model is gone: the next one is the best
    return trainer


def _changed(call: Run, path: Path, stored: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings of a run with those that the command line changes, and what it changes that may be told.

    Raises:
        ValueError: another setting differs.
    """
    changes, named = [], call.options()
    for name, value in named.items():
        option = flag_of(name)
        if name in MOVABLE or stored.get(name) == value:
            continue
        expect(name in stored, "train", option, f"a setting of the checkpoint {str(path)!r}", value)
        expect(name in TUNABLE, "train", option, f"{stored[name]} as in the checkpoint", value)
        changes.append(f"{option} {value} instead of {stored[name]}")
    return stored | named, changes


def _device(name: str) -> torch.device:
    kind, _, index = name.partition(":")
    known = kind in ("auto", "cpu", "cuda") and (not index or (kind == "cuda" and index.isdecimal()))
    expect(known, "train", "--device", "cpu, cuda, cuda:N or auto", repr(name))
    count = torch.cuda.device_count()
    expect(kind != "cuda" or int(index or 0) < count, "train", "--device", f"one of {count} CUDA devices", repr(name))
    return torch.device("cuda" if count else "cpu") if kind == "auto" else torch.device(name)
