"""Which problem, method and model a command line means: known before its parser is made, which then has their options.

An option of another problem or method is unknown to that parser, and an error.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from fastrecon import io, models
from fastrecon.cli import arguments, console
from fastrecon.models.base import Model
from fastrecon.options import add_options, given
from fastrecon.problems import file
from fastrecon.problems.base import PROBLEMS, Problem
from fastrecon.solvers import methods
from fastrecon.solvers.methods import METHODS, Method, Runner

FORMER = {  # names of the first version
    "cs": "block-cs", "saltpepper": "impulse", "fourier": "mri", "inpaint": "inpaint", "deblur": "deblur", "ct": "ct",
}  # fmt: skip
FORMER_OPTIONS = {
    "--task": "--problem", "--max-iterations": "--iterations", "--views": "--angles", "--networks": "--methods",
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """What a command line means; None where it does not say."""

    problem: Problem[Any] | None
    method: Method | None
    model: Model | None

    def defaults(self) -> dict[str, Any]:
        """Options of the problem that the model brings: its sampling."""
        return {} if self.model is None else self.model.problem_options()

    def problem_options(self, args: argparse.Namespace, simulate: bool) -> Any:
        """The options of the problem.

        Raises:
            ValueError: one means simulated measurements, and nothing is simulated.
        """
        assert self.problem is not None
        named = given(args, self.problem.Options)
        for f in dataclasses.fields(self.problem.Options):
            alone = f.metadata.get("of") == "simulate" and not simulate
            flag = "--" + f.name.replace("_", "-")
            expect_option(not alone or f.name not in named, flag, "it with --simulate only", "it without")
        return self.problem.Options(**(self.defaults() | named))

    def method_options(self, args: argparse.Namespace) -> Any:
        """The options of the method."""
        assert self.method is not None
        return self.method.Options(**given(args, self.method.Options))

    def runner(self, args: argparse.Namespace, device: torch.device) -> Runner:
        """The method, ready."""
        assert self.method is not None
        return self.method.prepare(self.method_options(args), device)


def expect_option(condition: bool, flag: str, expected: str, got: object) -> None:
    """Raises ValueError "FLAG: expected ..., got ..." unless `condition` holds."""
    if not condition:
        raise ValueError(f"{flag}: expected {expected}, got {arguments.short(str(got)) if got else 'none'}")


def value_of(words: Sequence[str], flag: str) -> str | None:
    """What follows an option, before there is a parser; argparse looks at it again."""
    for k, word in enumerate(words):
        if word == flag and k + 1 < len(words):
            return words[k + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def choose(words: Sequence[str], inputs: bool = True) -> Choice:
    """The choice of a command line: --problem, --method and --model, else what a file of measurements says.

    Raises:
        ValueError: a name is unknown, or the three do not fit each other.
    """
    for old, new in FORMER_OPTIONS.items():
        former = next((w for w in words if w == old or w.startswith(f"{old}=")), None)
        if former and old == "--task":
            said = value_of(words, old) or ""
            now = f"--problem {FORMER.get(said, said)}"
            raise ValueError(f"--task: expected {now}, its name now, got --task {arguments.short(said)}")
        expect_option(former is None, old, f"{new}, its name now", old)
    name, wanted, file_name = (value_of(words, flag) for flag in ("--problem", "--method", "--model"))
    if name in FORMER and name not in PROBLEMS:
        raise ValueError(f"--problem: expected {FORMER[name]}, its name now, got {name}")
    expect_option(name is None or name in PROBLEMS, "--problem", f"one of {', '.join(PROBLEMS)}", name)
    model = load(file_name) if file_name and file_name.strip() else None
    if name is None and model is not None:
        name = model.problem
        known = name in PROBLEMS
        expect_option(known, "--model", f"a model for one of {', '.join(PROBLEMS)}", f"one for {model.problem}")
    if name is None and inputs:
        name = next((found for w in words if (found := _problem_of_file(w))), None)
    if name is None:
        return Choice(None, None, model)
    problem = PROBLEMS[name]
    if model is not None:
        expect_option(model.problem == name, "--model", f"a model for {name}", f"one for {model.problem}")
        fits = wanted in (None, "auto", model.method)
        expect_option(fits, "--method", f"{model.method}, that of --model", wanted)
        wanted = model.method
    wanted = problem.methods[0] if wanted in (None, "auto") else wanted
    return Choice(problem, methods.named(wanted, name, "--method"), model)


@lru_cache(maxsize=8)
def load(name: str) -> Model:
    """A model, once.

    Raises:
        ValueError: there is none of that name, or its file is damaged; the line names it.
    """
    try:
        return models.load(name)
    except Exception as e:  # whatever a damaged or foreign file makes its reader trip over
        raise ValueError(console.named(name, e)) from e


def _problem_of_file(word: str) -> str | None:
    path = Path(word)
    try:
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in (".npz", ".safetensors"))
            return file.problem_of(found[0]) if found else None
        known = path.suffix.lower() in (".npz", ".safetensors") and path.is_file()
        found_problem = file.problem_of(path) if known else None
        if known and found_problem is None and not word.startswith("-"):
            io.read_measurements(path)  # the first version's
            return "block-cs"
        return found_problem
    except (OSError, ValueError):
        return None


def add(parser: argparse.ArgumentParser, choice: Choice, simulates: bool, method: bool = True) -> None:
    """--problem, --method, --model and the options of what was chosen."""
    group = parser.add_argument_group("problem")
    group.add_argument(
        "--problem", metavar="NAME", choices=tuple(PROBLEMS),
        help="what was measured: " + "; ".join(f"{p.name}, {p.summary}" for p in PROBLEMS.values()),
    )  # fmt: skip
    if choice.problem is None:
        group.add_argument(
            "--model", metavar="NAME", type=arguments.name, help="a trained model, which says the problem"
        )
        if method:
            group.add_argument("--method", metavar="NAME", help="see --problem NAME --help")
        return
    p = choice.problem
    own = [f.name for f in dataclasses.fields(p.Options) if f.metadata.get("of") != "simulate"]
    simulated = [f.name for f in dataclasses.fields(p.Options) if f.metadata.get("of") == "simulate"]
    add_options(parser, p.Options, simulated, p.name)
    if simulates and simulated:
        add_options(parser, p.Options, own, f"{p.name}, simulated")
    if not method:
        group.add_argument("--model", metavar="NAME", type=arguments.name, help="measure as this model wants it")
        return
    names = [m for m in (*p.methods, *sorted(METHODS)) if m in METHODS and METHODS[m].solves(p.name)]
    told = "; ".join(f"{m}, {METHODS[m].summary}" for m in dict.fromkeys(names))
    group.add_argument("--method", metavar="NAME", help=f"{told} (default: auto, here {p.methods[0]})")
    if choice.method is not None:
        fields = [f.name for f in dataclasses.fields(choice.method.Options)]
        if "model" not in fields:
            group.add_argument("--model", metavar="NAME", type=arguments.name, help="a trained model and its method")
        add_options(parser, choice.method.Options, group=f"method {choice.method.name}")


def need(choice: Choice) -> Problem[Any]:
    """The problem.

    Raises:
        ValueError: nothing says which.
    """
    names = ", ".join(PROBLEMS)
    expect_option(choice.problem is not None, "--problem", f"one of {names}, or a --model", None)
    assert choice.problem is not None
    return choice.problem
