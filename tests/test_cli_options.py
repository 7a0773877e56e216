"""Every option of every command, problem and method, from the registries and parsers: ranges, names, foreign ones."""

import argparse
import re

import pytest

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

from commands import ok

from fastrecon.cli import arguments
from fastrecon.cli import main as cli
from fastrecon.options import Interval, flag_of, is_switch, options_of
from fastrecon.problems import PROBLEMS
from fastrecon.solvers.methods import METHODS

WORDS = ("nan", "inf", "-inf", "1e300", "99999999999999999999", "many", "", " ", "1" * 5000, "\u0663x")
SIMULATED = "reconstruct @images/disc.png --simulate"
COMMANDS = {
    "simulate": "simulate @images --problem inpaint --out x",
    "reconstruct": "reconstruct @images --simulate --problem inpaint --out x",
    "evaluate": "evaluate --data @images --problem inpaint",
    "demo": "demo --problem inpaint --out x",
    "bench": "bench",
    "tune": "tune",
    "verify": "verify",
    "info": "info",
}
LOOKED_UP = {"--device", "--problem", "--method", "--methods", "--table", "--dtype"}  # in lists: see test_cli_input.py


def problem_of(method: str) -> str:
    """One that the method solves."""
    return next(name for name, p in PROBLEMS.items() if method in p.methods or METHODS[method].solves(name))


OWNERS = {f"--problem {name}": p.Options for name, p in PROBLEMS.items()} | {
    f"--problem {problem_of(name)} --method {name}": m.Options for name, m in METHODS.items()
}
NUMBERS = [
    (words, f.name) for words, config in OWNERS.items() for f in options_of(config)
    if not is_switch(f) and ("within" in f.metadata or f.metadata.get("type") in (int, float))
]  # fmt: skip
CHOICES = [
    (words, f.name) for words, config in OWNERS.items() for f in options_of(config)
    if f.metadata.get("choices")
]  # fmt: skip
TEXTS = [
    (words, f.name) for words, config in OWNERS.items() for f in options_of(config)
    if not is_switch(f) and (words, f.name) not in [*NUMBERS, *CHOICES]
]  # fmt: skip


def field_of(words: str, name: str):
    return next(f for f in options_of(OWNERS[words]) if f.name == name)


def outside(interval: Interval, kind: type) -> list[str]:
    """Numbers just beyond an interval."""
    low, high = (float(v) for v in interval.text[1:-1].split(","))
    step = 1 if kind is int else max(1e-6 * max(abs(low), 1e-300), 5e-324)
    below = low if interval.text[0] == "(" else low - step
    above = high if interval.text[-1] == ")" else high * 1.000001 + (1 if kind is int else 0)
    return [f"{below:.0f}" if kind is int else repr(below), f"{above:.0f}" if kind is int else repr(above)]


def one_line(err: str) -> bool:
    return err.startswith("fastrecon: ") and err.count("\n") == 1 and len(err) < 400


@pytest.mark.parametrize(("words", "name"), NUMBERS)
def test_numbers_out_of_range(run, tmp_path, words, name):
    field = field_of(words, name)
    kind, within = field.metadata.get("type", float), field.metadata["within"]
    fraction = ("1.5",) if kind is int else ()
    for value in (*outside(within, kind), *fraction, *WORDS):
        if value == "99999999999999999999" and float(value) in within:
            continue
        status, out, err = run(f"{SIMULATED} {words} --out", tmp_path / "out", f"{flag_of(name)}={value}")
        assert (status, out) == (2, ""), value
        assert one_line(err), value
        assert f"{flag_of(name)}: expected " in err
        assert f"in {within.text}, got " in err
    assert not (tmp_path / "out").exists()
    assert f"in {within.text}" in " ".join(ok(run(f"reconstruct {words} --help")).split())


@pytest.mark.parametrize(("words", "name"), TEXTS)
def test_empty_texts(run, tmp_path, words, name):
    for value in ("", " "):
        status, out, err = run(f"{SIMULATED} {words} --out", tmp_path / "out", flag_of(name), value)
        assert (status, out) == (2, "")
        assert err.startswith(f"fastrecon: argument {flag_of(name)}: expected a name or a text, got {value!r} ")
        assert one_line(err)


@pytest.mark.parametrize(("words", "name"), CHOICES)
def test_choices(run, tmp_path, words, name):
    status, out, err = run(f"{SIMULATED} {words} {flag_of(name)} nobody --out", tmp_path / "out")
    assert (status, out) == (2, "")
    assert one_line(err)
    assert flag_of(name) in err
    assert "nobody" in err
    assert not (tmp_path / "out").exists()


def switches(config) -> set[str]:
    return {f"--no-{f.name.replace('_', '-')}" for f in options_of(config) if is_switch(f)}


@pytest.mark.parametrize("command", ["reconstruct", "simulate", "evaluate", "demo"])
@pytest.mark.parametrize("words", OWNERS)
def test_options_of_other_problems_and_methods_are_refused(run, place, words, command):
    """Whatever is not among the options of the parser is an error, names in short too."""
    if "--method" in words and command in ("simulate", "evaluate"):
        words = words.partition(" --method")[0]
    line = {"reconstruct": SIMULATED, "simulate": "simulate @images", "evaluate": "evaluate --data @images"}
    base = f"{line.get(command, 'demo')} {words}" + ("" if command == "evaluate" else " --out x")
    own = set(actions(command, base.replace("@", f"{place}/").split()))
    every = {flag_of(f.name) for config in OWNERS.values() for f in options_of(config)}
    every |= {flag for config in OWNERS.values() for flag in switches(config)}
    foreign = sorted(every - own)
    assert foreign
    for flag in foreign if command == "reconstruct" else foreign[::3]:
        status, out, err = run(f"{base} {flag}=1")
        assert (status, out) == (2, ""), flag
        assert one_line(err)
        assert err.startswith(f"fastrecon: unrecognized arguments: {flag}=1 "), err


def test_options_in_short_are_refused(run):
    for short in ("--probl=ct", "--rat=0.3", "--over", "--samp=uniform"):
        status, out, err = run(f"{COMMANDS['reconstruct']} {short}")
        assert (status, out) == (2, "")
        assert err.startswith(f"fastrecon: unrecognized arguments: {short} ")


@pytest.mark.parametrize("name", PROBLEMS)
def test_options_of_simulated_measurements_need_simulate(run, name):
    for f in options_of(PROBLEMS[name].Options):
        if f.metadata.get("of") == "simulate":
            value = f.metadata["choices"][0] if f.metadata.get("choices") else f.default
            status, _, err = run(f"reconstruct @images --problem {name} {flag_of(f.name)} {value} --out x")
            assert (status, err) == (
                2,
                f"fastrecon: {flag_of(f.name)}: expected it with --simulate only, got it without\n",
            )


@pytest.mark.parametrize("name", METHODS)
def test_options_that_mean_nothing_without_a_switch(run, name):
    for f in options_of(METHODS[name].Options):
        if f.metadata.get("of"):
            line = f"{SIMULATED} --problem {problem_of(name)} --method {name} {flag_of(f.name)} {f.default} --out x"
            told = f"expected it with {flag_of(f.metadata['of'])} only, got it without"
            assert run(line) == (2, "", f"fastrecon: {flag_of(f.name)}: {told}\n")
            text = f"{name}:{f.name}={f.default}"
            status, _, err = run(f"evaluate --data @images --problem {problem_of(name)} --methods {text}")
            assert (status, one_line(err)) == (2, True)
            assert told in err


@pytest.mark.parametrize(("words", "name"), [(w, n) for w, n in NUMBERS if "--method" in w])
def test_numbers_of_compared_methods(run, words, name):
    problem, _, method = words.partition(" --method ")
    within, kind = (field_of(words, name).metadata[k] for k in ("within", "type"))
    for value in (*outside(within, kind), "nan", "many", ""):
        status, out, err = run(f"evaluate --data @images {problem} --methods", f"{method}:{name}={value}")
        assert (status, out) == (2, ""), value
        assert one_line(err)
        assert name in err.replace("-", "_")
        assert within.text in err


# Options that all problems share


def actions(command: str, words=()) -> dict[str, argparse.Action]:
    """The options of a command by their names."""
    top = cli.parser(command, words[1:] if words else words)
    (commands,) = (a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    return {flag: a for a in commands.choices[command]._actions for flag in a.option_strings}


def shared() -> list[tuple[str, str]]:
    """Commands and their options with a value that no configuration holds."""
    found = []
    for command, line in COMMANDS.items():
        configs = [config for config in OWNERS.values()]
        own = {flag_of(f.name) for config in configs for f in options_of(config)}
        words = line.replace("@", "./").split()
        for flag, action in actions(command, words).items():
            if action.nargs != 0 and flag not in own | {"--help"} and flag.startswith("--"):
                found.append((command, flag))
    return found


@pytest.mark.parametrize(("command", "flag"), sorted(set(shared())))
def test_shared_options(run, place, command, flag):
    words = COMMANDS[command].replace("@", f"{place}/").split()
    action = actions(command, words)[flag]
    limits = getattr(action.type, "range", None)
    if flag in LOOKED_UP or isinstance(action, argparse.BooleanOptionalAction):
        return
    assert limits or action.choices or action.type is arguments.name, "what may follow is not said"
    beyond = WORDS if limits else ("nobody",) if action.choices else ("", " ")
    if limits:
        least, most = re.fullmatch(r"an? (?:integer from|number >=?) (\S+?),? (?:to|at most) (\S+)", limits).groups()
        beyond = (f"{float(least) - 1:.0f}", f"{float(most) * 2 + 1:.0f}", *WORDS)
    for value in beyond:
        status, out, err = run(COMMANDS[command], f"{flag}={value}")
        assert (status, out) == (2, ""), value
        assert one_line(err)
        assert err.startswith(f"fastrecon: argument {flag}: ")
    if limits and not action.choices:
        assert f"[{limits}]" in " ".join(ok(run(f"{COMMANDS[command]} --help")).split())


def test_long_values_are_cut(run):
    for command in (f"simulate x --out y --format {'z' * 5000}", f"demo --image {'z' * 5000}", "z" * 5000):
        status, _, err = run(command)
        assert status == 2
        assert len(err) < 1000
