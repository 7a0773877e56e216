"""What tables of trained methods share: models that are shipped, given or trained here, and numbers that are quoted.

A table names its models. A shipped one is taken as it is; another is trained by its recipe into a folder of runs, all
of them together within the minutes of --budget, and found there the next time. A run that was cut short goes on.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch

from fastrecon import io
from fastrecon.checks import expect
from fastrecon.cli import arguments, output
from fastrecon.cli.tables.base import Key, Row, Unit, add_pictures, middle
from fastrecon.io import Picture
from fastrecon.models import Model, load, pretrained
from fastrecon.options import flag_of
from fastrecon.problems.base import PROBLEMS
from fastrecon.solvers.methods import METHODS, Outcome
from fastrecon.train import checkpoint, command
from fastrecon.train.claim import MODEL
from fastrecon.train.recipe import Recipe
from fastrecon.train.recipes import RECIPES

PICTURES = ("astronaut", "brick", "chelsea", "coffee", "grass", "gravel", "rocket")  # of scikit-image, to train on
TESTED = ("camera", "coins", "page", "moon")
BUDGET = 5.0  # minutes
QUOTED, MEASURED = "paper", "here"


@dataclass(frozen=True)
class Wanted:
    """A model of a table.

    Attributes:
        name: of its run.
        method: that runs it.
        recipe: that trains it.
        settings: options of the recipe.
        shipped: name of the model that is taken instead where it is shipped; "": none.
        data: whether the recipe trains on images.
    """

    name: str
    method: str
    recipe: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    shipped: str = ""
    data: bool = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--data, --limit and --side; --train, --budget, --settings, --runs and --take."""
    add_pictures(parser, TESTED)
    add = parser.add_argument
    add(
        "--side", type=arguments.integer(16, 8192), metavar="N", help="pictures cut to the N x N pixels in their middle"
    )
    add(
        "--train", nargs="+", type=arguments.name, metavar="DIR", default=[io.BUNDLED + name for name in PICTURES],
        help="folders or files that models which are not there are trained on, or"
        f" {arguments.BUNDLED_HELP} (default: {' '.join(PICTURES)} of those)",
    )  # fmt: skip
    add(
        "--budget", type=arguments.real(0, 1e6), metavar="MINUTES", default=BUDGET,
        help="for the training of all models that are neither shipped nor in --runs; 0: they are left out (default:"
        f" {BUDGET:g}, in which they learn little)",
    )  # fmt: skip
    add(
        "--settings", nargs="+", type=_setting, metavar="NAME=VALUE", default=[],
        help="options of `fastrecon train` for these trainings, where a recipe has them, such as steps=2000 batch=4, or"
        " lda-cs.init=prior-natural for one recipe; with steps each makes so many, and --budget counts no more",
    )  # fmt: skip
    add("--runs", type=arguments.name, metavar="DIR", help="folder of the trainings (default: runs inside --out)")
    add(
        "--take", nargs="+", type=arguments.name, metavar="NAME=FILE", default=[],
        help="files that are taken for models of these names, as the folder of runs has them",
    )  # fmt: skip


def _setting(text: str) -> tuple[str, str | bool]:
    """Both of NAME=VALUE; NAME with - for _, true and false as what they are."""
    name, _, value = text.partition("=")
    if not (name and value):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {arguments.short(text)}")
    return name.replace("_", "-"), {"true": True, "false": False}.get(value, value)


class Runs:
    """The models of a table: those that are there, and those that the budget trains when they are first asked for.

    Args:
        args: what the command line says.
        wanted: all models of the table, each of another name.

    Raises:
        ValueError: --take names another model, or --settings an option that no recipe of theirs has.
    """

    def __init__(self, args: argparse.Namespace, wanted: Iterable[Wanted]):
        self.args, self.folder = args, Path(args.runs) if args.runs else Path(args.out) / "runs"
        self.wanted = {w.name: w for w in wanted}
        self.taken: dict[str, str] = {}
        for text in args.take:
            name, _, file = text.partition("=")
            known = f"NAME=FILE with one of {', '.join(self.wanted)}"
            expect(name in self.wanted and bool(file), "reproduce", "--take", known, arguments.short(text))
            self.taken[name] = file
        self.settings = dict(args.settings)
        own = {recipe: _own(RECIPES[recipe]) for recipe in {w.recipe for w in self.wanted.values()}}
        known = {name for recipe, names in own.items() for n in names for name in (n, f"{recipe}.{n}")}
        for name in self.settings:
            expect(name in known, "reproduce", "--settings", f"options of {', '.join(sorted(own))}", name)
        self.missing = [name for name in self.wanted if not self._there(name)]

    def has(self, name: str) -> bool:
        """Whether the model is there, or will be."""
        return name not in self.missing or self.args.budget > 0 or "steps" in self.settings

    def model(self, name: str, device: torch.device) -> tuple[Model, str]:
        """The model and where it is, trained if need be."""
        place = self._place(name)
        return _loaded(place, device), place

    def _place(self, name: str) -> str:
        wanted, folder = self.wanted[name], self.folder / name
        if name in self.taken:
            return self.taken[name]
        if wanted.shipped in pretrained():
            return wanted.shipped
        if not finished(folder):
            self._train(wanted, folder)
        return str(folder / MODEL)

    def _there(self, name: str) -> bool:
        return name in self.taken or self.wanted[name].shipped in pretrained() or finished(self.folder / name)

    def _train(self, wanted: Wanted, folder: Path) -> None:
        """Trains for this model's share of the budget, or goes on with what was begun."""
        recipe = RECIPES[wanted.recipe]
        words = ["--out", str(folder), "--device", self.args.device]
        words += ["--threads", str(self.args.threads)] if self.args.threads else []
        if (folder / checkpoint.NAME).is_file():
            words.append("--resume")
        else:
            if "steps" not in self.settings:
                words += ["--minutes", f"{self.args.budget / len(self.missing):g}"]
            words += ["--data", *_photographs(self.args.train)] if wanted.data else []
            given = {n: self.settings.get(f"{recipe.name}.{n}", self.settings.get(n)) for n in _own(recipe)}
            given = {n.replace("-", "_"): value for n, value in given.items() if value is not None}
            for name, value in (given | dict(wanted.settings)).items():
                words += _words(name, value)
        parser = argparse.ArgumentParser(prog=f"fastrecon train {recipe.name}")
        command.add_arguments(parser, recipe)
        with contextlib.redirect_stdout(sys.stderr):
            status = command.run(recipe, parser.parse_args(words))
        if status:  # of a signal that the trainer took: it means the table too
            raise KeyboardInterrupt


def _photographs(names: Sequence[str]) -> list[str]:
    """Folders and files as they are named, for the model's card too; those of scikit-image by their place."""
    bundled = [name for name in names if name.startswith(io.BUNDLED)]
    return [*map(str, arguments.images(bundled) if bundled else []), *(n for n in names if n not in bundled)]


def _words(name: str, value: Any) -> list[str]:
    """An option of a recipe on its command line."""
    if isinstance(value, bool):
        return [flag_of(name) if value else flag_of(name).replace("--", "--no-", 1)]
    return [flag_of(name), *map(str, value if isinstance(value, list | tuple) else (value,))]


def _own(recipe: Recipe) -> list[str]:
    """Names of what `fastrecon train` lets one set of a recipe, but its images."""
    others = {"data", *recipe.fixed, *recipe.without}
    return [f.name.replace("_", "-") for f in fields(cast(Any, recipe.Config)) if f.name not in others]


def finished(folder: Path) -> bool:
    """Whether a run has made all its steps, and its model is there."""
    if not (folder / MODEL).is_file() or not (folder / checkpoint.NAME).is_file():
        return False
    state = checkpoint.latest(folder)[0]
    return state["step"] >= RECIPES[state["kind"]].Config(**state["settings"]).schedule().steps


@cache
def _loaded(place: str, device: torch.device) -> Model:
    return load(place).to(device)


def learned(model: Model) -> int:
    """How many numbers the phases of a model have learned, of which a complex one is two; not those of its sampling."""
    others = ("operator", "fidelity", "minimiser", "q")
    return sum(p.numel() for n, p in model.named_parameters() if not any(part in others for part in n.split(".")))


def picture(path: Path, side: int | None) -> Picture:
    """A picture in grey, its middle."""
    found = io.read_picture(path)
    pixels = found.pixels if found.pixels.ndim == 2 else io.read_image(path).pixels
    return replace(found, pixels=pixels if side is None else middle(pixels, side))


def pictures(args: argparse.Namespace) -> list[tuple[int, Path]]:
    """The pictures of --data, and the seed of each one's masks and noise."""
    return [((args.seed or 0) + k, path) for k, path in enumerate(arguments.images(args.data)[: args.limit])]


def quoted(cells: Mapping[str, Mapping[str, Row]], line: str, column: str) -> list[Unit]:
    """The numbers of a paper, by line and column."""
    found = []
    for at, row in cells.items():
        for head, numbers in row.items():
            key: Key = {line: f"{at}, {QUOTED}", column: head, "image": ""}
            found.append(Unit(key, lambda n=numbers: dict(n) | {"source": "quoted"}))
    return found


def cells(
    args: argparse.Namespace, wanted: Mapping[str, Mapping[str, Wanted]], problem: str, line: str, column: str,
    options: Mapping[str, Mapping[str, Any]],
) -> list[Unit]:  # fmt: skip
    """The models of a table, by line and column, on every picture.

    Args:
        args: of the command line.
        wanted: the models.
        problem: name of the problem.
        line, column: names of both.
        options: of the problem, by line; a sampling that a model has learned takes their place.
    """
    runs = Runs(args, {w.name: w for row in wanted.values() for w in row.values()}.values())
    device, found = arguments.device(args), []
    for seed, path in pictures(args):
        for at, row in wanted.items():
            for head, one in row.items():
                if runs.has(one.name):
                    key: Key = {
                        line: f"{at}, {MEASURED}", column: head, "image": io.shown(path.stem), "side": args.side,
                        "run": one.name, "seed": seed,
                    }  # fmt: skip
                    given = options.get(at, {})
                    measure = lambda n=one.name, p=path, o=given, s=seed: _cell(runs, n, problem, o, p, s, device)  # noqa: E731
                    found.append(Unit(key, measure))
    return found


def _cell(
    runs: Runs, name: str, problem: str, options: Mapping[str, Any], path: Path, seed: int, device: torch.device
) -> Row:
    """The row of a model on a picture."""
    model, place = runs.model(name, device)
    own = {**options, **model.problem_options()}
    row, _ = score(
        problem, own, runs.wanted[name].method, {"model": place}, picture(path, runs.args.side), seed, device
    )
    trained = model.meta.get("training") or {}
    return row | {"parameters": learned(model), "steps": trained.get("steps"), "source": "measured"}


def score(
    problem: str, options: Mapping[str, Any], method: str, settings: Mapping[str, Any], picture: Picture, seed: int,
    device: torch.device, watch: bool = False,
) -> tuple[Row, Outcome]:  # fmt: skip
    """Scores of what a method makes of a simulated measurement, its seconds, and what it answered; with `watch` also
    the NMSE after every iteration."""
    given = PROBLEMS[problem]
    m = given.simulate(picture, given.Options(**options), seed).to(device)
    runner = METHODS[method].ready(device, **settings)
    with torch.no_grad():
        inverse, seen = given.inverse(m), output.Watch(given, m, None)
        begin = time.perf_counter()
        found = runner(inverse, seen) if watch else runner(inverse)
        output.synchronise(device)
        seconds = time.perf_counter() - begin - seen.spent
    scores = given.scores(found.x, m)
    assert scores is not None
    return scores | {"seconds": seconds} | ({"curve": seen.quality} if watch else {}), found
