"""Which problem, method and model a command line means: known before its parser is made, which then has their options.

An option of another problem or method is unknown to that parser, and an error.
"""

import argparse
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastrecon import io, models
from fastrecon.cli import arguments, console
from fastrecon.io.arrays import npz_names
from fastrecon.models.base import Model
from fastrecon.options import add_options, flag_of, given, is_switch, options_of
from fastrecon.problems import file
from fastrecon.problems.base import PROBLEMS, Problem
from fastrecon.solvers.methods import METHODS, Method

FORMER = {  # names of the first version
    "cs": "block-cs", "saltpepper": "impulse", "fourier": "mri", "inpaint": "inpaint", "deblur": "deblur", "ct": "ct",
}  # fmt: skip
FORMER_OPTIONS = {
    "--task": "--problem", "--max-iterations": "--iterations", "--views": "--angles", "--networks": "--methods",
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """What a command line means; None where it does not say.

    Attributes:
        maker: the model that the first file of measurements names; --model may be another.
        automatic: whether the problem chooses among its methods, by the measurements; `method` then has the options.
    """

    problem: Problem[Any] | None
    method: Method | None
    model: Model | None
    maker: Model | None = None
    automatic: bool = False

    def defaults(self) -> dict[str, Any]:
        """Options of the problem that the model brings: its sampling."""
        model = self.model or self.maker
        return {} if model is None else model.problem_options()

    def problem_options(self, args: argparse.Namespace, simulate: bool) -> Any:
        """The options of the problem.

        Raises:
            ValueError: one means simulated measurements, and nothing is simulated.
        """
        assert self.problem is not None
        named = given(args, self.problem.Options)
        options = self.problem.Options(**(self.defaults() | named))
        expect_meant(options, named, {"simulate"} if simulate else set())
        return options

    def method_options(self, args: argparse.Namespace) -> Any:
        """The options of the method.

        Raises:
            ValueError: one means nothing without another, which is not given.
        """
        assert self.method is not None
        named = given(args, self.method.Options)
        options = self.method.Options(**named)
        expect_meant(options, named)
        return options

    def takes(self, model: str) -> bool:
        """Whether the method runs the model of this name.

        Raises:
            ValueError: the method has models, and there is none of that name.
        """
        assert self.method is not None
        trained = any(f.name == "model" for f in options_of(self.method.Options))
        return trained and load(model).method == self.method.name


def expect_option(condition: bool, flag: str, expected: str, value: str | None = None, got: str = "none") -> None:
    """Raises ValueError "FLAG: expected ..., got ..." unless `condition` holds; `value` is the user's, `got` ours."""
    if not condition:
        raise ValueError(f"{flag}: expected {expected}, got {got if value is None else arguments.short(value)}")


def expect_meant(options: Any, named: Collection[str], others: Collection[str] = ()) -> None:
    """Raises ValueError where an option was named that means nothing without a switch: among options, or `others`."""
    for f in options_of(options):
        switch = f.metadata.get("of")
        alone = switch and switch not in others and not getattr(options, switch, False)
        wanted = f"it with {flag_of(switch or '')} only"
        expect_option(not alone or f.name not in named, flag_of(f.name), wanted, got="it without")


def value_of(words: Sequence[str], flag: str) -> str | None:
    """What follows an option, the last time it is given, before there is a parser; argparse looks at it again."""
    found = None
    for k, word in enumerate(words):
        if word == "--":
            break
        if word == flag and k + 1 < len(words):
            found = words[k + 1]
        if word.startswith(f"{flag}="):
            found = word.partition("=")[2]
    return found


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
        expect_option(former is None, old, f"{new}, its name now", got=old)
    name, wanted, file_name = (value_of(words, flag) for flag in ("--problem", "--method", "--model"))
    if name in FORMER and name not in PROBLEMS:
        raise ValueError(f"--problem: expected {FORMER[name]}, its name now, got {name}")
    expect_option(name is None or name in PROBLEMS, "--problem", f"one of {', '.join(PROBLEMS)}", name)
    model = load(file_name) if file_name and file_name.strip() else None
    if name is None and model is not None and model.problem:
        name = model.problem
        known = name in PROBLEMS
        expect_option(known, "--model", f"a model for one of {', '.join(PROBLEMS)}", got=f"one for {model.problem}")
    found, maker = _of_files(words) if inputs else (None, None)
    name = found if name is None else name
    if name is None:
        return Choice(None, None, model)
    problem, maker = PROBLEMS[name], maker if found == name else None
    if model is not None:
        expect_option(model.problem in (name, ""), "--model", f"a model for {name}", got=f"one for {model.problem}")
        fits = wanted in (None, "auto", model.method)
        expect_option(fits, "--method", f"{model.method}, that of --model", wanted)
        wanted = model.method
    usual = problem.methods[0] if maker is None else maker.method
    automatic = wanted in (None, "auto") and (maker is None or maker.name in models.pretrained())
    wanted = usual if wanted is None or wanted == "auto" else wanted
    return Choice(problem, named_method(wanted, problem), model, maker, automatic)


def named_method(name: str, problem: Problem[Any]) -> Method:
    """A method of --method.

    Raises:
        ValueError: there is none of that name for this problem.
    """
    known = [m for m in METHODS if METHODS[m].solves(problem.name)]
    expect_option(name in known, "--method", f"one of {', '.join(known)} for {problem.name}", name)
    return METHODS[name]


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


def _of_files(words: Sequence[str]) -> tuple[str | None, Model | None]:
    """Problem and model that the first file of measurements among the inputs names."""
    for word in _inputs(words):
        path = Path(word)
        try:
            paths = sorted(path.iterdir()) if path.is_dir() else [path]
        except OSError:
            continue
        for file_path in paths:
            name, model = _of_file(file_path)
            if name is not None:
                return name, model
    return None, None


def _inputs(words: Sequence[str]) -> list[str]:
    """The words that are no options and no values of such."""
    flags = {f"--{word}{name.replace('_', '-')}" for name in _switches() for word in ("", "no-")}
    before = [None, *words]
    valued = [w is not None and w.startswith("--") and "=" not in w and w not in flags for w in before]
    return [w for w, value in zip(words, valued, strict=False) if not value and not w.startswith("-")]


def _switches() -> set[str]:
    """Names of the options without a value."""
    configs = [part.Options for part in (*PROBLEMS.values(), *METHODS.values())]
    own = {f.name for c in configs for f in options_of(c) if is_switch(f)}
    return own | {"simulate", "overwrite", "skip_existing", "json", "figure"}


def _of_file(path: Path) -> tuple[str | None, Model | None]:
    """Problem and model that a file of measurements names, as far as it can be read; its faults are told later."""
    try:
        if path.suffix.lower() not in io.MEASUREMENT_SUFFIXES or not path.is_file():
            return None, None
        facts = file.facts_of(path)
        if "problem" not in facts:
            facts = _first_version(path)
    except (OSError, ValueError):
        return None, None
    try:
        return facts.get("problem"), load(str(facts["model"])) if facts.get("model") else None
    except ValueError:
        return facts.get("problem"), None


def _first_version(path: Path) -> dict[str, Any]:
    """What a file of the first version says, also where an entry is wrong."""
    try:
        return io.read_measurements(path).facts | {"problem": "block-cs"}
    except ValueError:
        known = path.suffix.lower() == ".npz" and {"y", "size"} <= set(npz_names(path))
        return {"problem": "block-cs"} if known else {}


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
    own = [f.name for f in options_of(p.Options) if f.metadata.get("of") != "simulate"]
    simulated = [f.name for f in options_of(p.Options) if f.metadata.get("of") == "simulate"]
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
        fields = [f.name for f in options_of(choice.method.Options)]
        if "model" not in fields:
            group.add_argument("--model", metavar="NAME", type=arguments.name, help="a trained model and its method")
        add_options(parser, choice.method.Options, group=f"method {choice.method.name}")


def need(choice: Choice) -> Problem[Any]:
    """The problem.

    Raises:
        ValueError: nothing says which.
    """
    names = ", ".join(PROBLEMS)
    expect_option(choice.problem is not None, "--problem", f"one of {names}, or a --model")
    assert choice.problem is not None
    return choice.problem
