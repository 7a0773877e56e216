"""Options: the fields of a frozen dataclass, each with its help and its range, checked in one place.

The same class makes the options of a command (`add_options`, `given`) and the arguments of a function in Python.
"""

import argparse
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

from fastrecon.checks import expect

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # one part of a path, and a harmless one
FILE_NAME_RULE = "letters, digits and . _ -, at most 100, the first a letter or digit"
_NOUNS = {int: "an integer", float: "a number"}

C = TypeVar("C")


@dataclass(frozen=True)
class Interval:
    """What numbers an option takes: "[1, 1e9]", "(0, 1)"; the ends are finite, so that NaN and Inf lie in none."""

    text: str

    def __contains__(self, value: float) -> bool:
        low, high = (float(end) for end in self.text[1:-1].split(","))
        above = low < value if self.text[0] == "(" else low <= value
        return above and (value < high if self.text[-1] == ")" else value <= high)

    def phrase(self, kind: type, several: bool = False) -> str:
        """For messages: "an integer in [1, 1e9]"."""
        noun = _NOUNS[kind]
        return f"{noun + ' each' if several else noun} in {self.text}"


def option(
    text: str,
    default: Any = dataclasses.MISSING,
    within: str = "",
    of: str = "",
    file_name: bool = False,
    **parser: Any,
) -> Any:
    """A field of a dataclass that is an option.

    Args:
        text: its help, with the unit where there is one.
        default: its value unless given; None where it may be missing; none at all where it must be given.
        within: the interval of its numbers: "(0, 100]".
        of: another option, --simulate say, without which it means nothing.
        file_name: whether it becomes part of a file's name.
        parser: what argparse needs to know: `type` of a number, bool where None is the default, `choices`, `nargs`.
    """
    bounds = {"within": Interval(within)} if within else {}
    return dataclasses.field(
        default=default, metadata={"help": text, "of": of, "file_name": file_name, **bounds, **parser}
    )


def flag_of(name: str) -> str:
    """A field as the command line calls it: "--lam-factor"."""
    return "--" + name.replace("_", "-")


def is_switch(field: dataclasses.Field[Any]) -> bool:
    """Whether an option has no value on the command line: --name, or --no-name."""
    return isinstance(field.default, bool) or field.metadata.get("type") is bool


def make(kind: Callable[..., C], values: Mapping[str, Any], op: str) -> C:
    """A configuration with these fields.

    Raises:
        ValueError: one that has no default is missing; a field is wrong, see `check`.
    """
    for field in dataclasses.fields(cast(Any, kind)):
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        choices = field.metadata.get("choices")
        expected = f"one of {', '.join(map(str, choices))}" if choices else field.metadata["help"]
        expect(not needed or field.name in values, op, flag_of(field.name), expected, "none")
    return kind(**values)


def options_of(config: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a configuration that are options; others are for callers in Python alone."""
    return [field for field in dataclasses.fields(config) if "help" in field.metadata]


def check(config: Any, op: str) -> None:
    """Checks every field of a configuration of `op`: kind, range, choices, names.

    Raises:
        ValueError: one line that names the option.
    """
    for field in options_of(config):
        value = getattr(config, field.name)
        expected = _wrong(field, value)
        expect(not expected, op, flag_of(field.name), expected, _short(value))


def _wrong(field: dataclasses.Field[Any], value: Any) -> str:
    """What was expected, if `value` is something else."""
    within, kind, choices = (field.metadata.get(k) for k in ("within", "type", "choices"))
    if value is None and field.default is None:
        return ""
    several = "nargs" in field.metadata
    values: list[Any] = list(value) if several and isinstance(value, list | tuple) else [value]
    if within:
        good = bool(values) and all(_is(kind or float, v) and v in within for v in values)
        return "" if good else within.phrase(kind or float, several)
    if is_switch(field):
        return "" if isinstance(value, bool) else "true or false"
    if choices:
        good = value == field.default or (bool(values) and all(v in choices for v in values))
        return "" if good else f"one of {', '.join(map(str, choices))}"
    if kind in (int, float):
        return "" if values and all(_is(kind, v) and math.isfinite(float(v or 0)) for v in values) else _NOUNS[kind]
    if several:  # an empty name would mean the current folder
        return "" if all(isinstance(v, str) and v for v in values) else "names of folders or files"
    if not isinstance(value, str):
        return "text"
    return FILE_NAME_RULE if field.metadata.get("file_name") and value and not FILE_NAME.fullmatch(value) else ""


def _is(kind: type, value: Any) -> bool:
    return isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else f"{value}"
    return text if len(text) <= 60 else text[:57] + "..."


def number(kind: type, within: str) -> Callable[[str], Any]:
    """An argparse type for options that no configuration holds."""
    interval = Interval(within)

    def parse(text: str) -> Any:
        value = _converted(kind, text, interval.phrase(kind))
        if value not in interval:
            raise argparse.ArgumentTypeError(f"expected {interval.phrase(kind)}, got {_short(value)}")
        return value

    return parse


def parsed(field: dataclasses.Field[Any], text: str) -> Any:
    """The value of an option that is no switch, from words; its range is looked at by `check`.

    Raises:
        argparse.ArgumentTypeError: it is no number where one is wanted, or empty.
    """
    within = field.metadata.get("within")
    kind = field.metadata.get("type", float if within else str)
    if kind is str and not text.strip():  # "" in Python means the default, which nobody asks for here
        raise argparse.ArgumentTypeError(f"expected a name or a text, got {_short(text)}")
    return _converted(kind, text, within.phrase(kind) if within else _NOUNS.get(kind, "text"))


def _converted(kind: Callable[[str], Any], text: str, expected: str) -> Any:
    try:
        return kind(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {_short(text)}") from None


def add_options(parser: argparse.ArgumentParser, kind: Any, without: Sequence[str] = (), group: str = "") -> None:
    """One option per field of a configuration; options that are not given do not appear in the parsed namespace.

    Args:
        parser: of a command.
        kind: the dataclass.
        without: fields that are no options.
        group: the heading of these options in the help; "": none of their own.
    """
    target = parser.add_argument_group(group) if group else parser
    for field in options_of(kind):
        if field.name in without:
            continue
        parser_options = {k: v for k, v in field.metadata.items() if k not in ("of", "file_name")}
        text, within = parser_options.pop("help"), parser_options.pop("within", None)
        facts = [f"in {within.text}"] if within else []
        if field.default not in (dataclasses.MISSING, None, "", (), 0) and "default" not in text:
            several = isinstance(field.default, tuple)
            facts.append(f"default: {' '.join(map(_plain, field.default if several else (field.default,)))}")
        text += f" ({'; '.join(facts)})" if facts else ""
        if is_switch(field):
            parser_options |= {"action": argparse.BooleanOptionalAction, "type": None}
        elif not ({"choices", "nargs"} & parser_options.keys()) or within or "type" in parser_options:
            parser_options["type"] = partial(parsed, field)
        target.add_argument(
            flag_of(field.name), help=text.replace("%", "%%"), default=argparse.SUPPRESS, **parser_options
        )


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def given(args: argparse.Namespace, kind: Any) -> dict[str, Any]:
    """The fields of a configuration that the command line named."""
    return {f.name: getattr(args, f.name) for f in options_of(kind) if hasattr(args, f.name)}
