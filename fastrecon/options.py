"""Options: the fields of a frozen dataclass, each with its help and its range, checked in one place."""

import argparse
import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastrecon.checks import expect

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of a file in the run's folder, and nowhere else
NAME_RULE = "letters, digits and . _ -, at most 100, the first a letter or digit"


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
        noun = {int: "an integer", float: "a number"}[kind]
        return f"{noun + ' each' if several else noun} in {self.text}"


def option(text: str, default: Any = dataclasses.MISSING, within: str = "", of: str = "", **parser: Any) -> Any:
    """A field with its help text, the interval of its numbers, and what argparse needs to know.

    One that means something only together with another option, --simulate say, is `of` that.
    """
    bounds = {"within": Interval(within)} if within else {}
    return dataclasses.field(default=default, metadata={"help": text, "of": of, **bounds, **parser})


def check(config: Any, op: str = "train") -> None:
    """Checks every field of a configuration of `op`: kind, range, choices, names.

    Raises:
        ValueError: one line that names the option.
    """
    for field in dataclasses.fields(config):
        expected = _wrong(field, getattr(config, field.name))
        flag = "--" + field.name.replace("_", "-")
        expect(not expected, op, flag, expected, _short(getattr(config, field.name)))


def _wrong(field: Any, value: Any) -> str:
    """What was expected, if `value` is something else."""
    within, kind, choices = (field.metadata.get(k) for k in ("within", "type", "choices"))
    if value is None and field.default is None:
        return ""
    several = "nargs" in field.metadata
    values = list(value) if several and isinstance(value, list | tuple) else [value]
    if within:
        good = bool(values) and all(_is(kind, v) and v in within for v in values)
        return "" if good else within.phrase(kind, several)
    if isinstance(field.default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if choices:
        return "" if value in choices or value == field.default else f"one of {', '.join(choices)}"
    if several:  # an empty name would mean the current folder
        return "" if all(isinstance(v, str) and v for v in values) else "names of folders or files"
    if not isinstance(value, str):
        return "text"
    return NAME_RULE if field.name == "name" and value and not NAME.fullmatch(value) else ""


def _is(kind: type, value: Any) -> bool:
    return isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else f"{value}"
    return text if len(text) <= 60 else text[:57] + "..."


def number(kind: type, within: str) -> Callable[[str], Any]:
    """An argparse type for options that no configuration holds."""
    interval = Interval(within)

    def parse(text: str) -> Any:
        value = kind(text)
        if value not in interval:
            raise argparse.ArgumentTypeError(f"expected {interval.phrase(kind)}, got {_short(value)}")
        return value

    parse.__name__ = kind.__name__  # argparse names it in its message
    return parse


def add_options(parser: argparse.ArgumentParser, kind: Any, without: Sequence[str] = ()) -> None:
    """One option per field of a configuration; options that are not given do not appear in the parsed namespace."""
    for field in dataclasses.fields(kind):
        if field.name in without:
            continue
        parser_options = {k: v for k, v in field.metadata.items() if k != "of"}
        text, within = parser_options.pop("help"), parser_options.pop("within", None)
        facts = [f"in {within.text}"] if within else []
        if field.default not in (dataclasses.MISSING, "", 0, None) and "default" not in text:
            several = isinstance(field.default, tuple)
            facts.append(f"default: {' '.join(f'{v:g}' for v in field.default) if several else field.default}")
        text += f" ({'; '.join(facts)})" if facts else ""
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser_options["action"] = argparse.BooleanOptionalAction
        parser.add_argument(flag, help=text.replace("%", "%%"), default=argparse.SUPPRESS, **parser_options)


def given(args: argparse.Namespace, kind: Any) -> dict[str, Any]:
    """The fields of a configuration that the command line named."""
    return {f.name: getattr(args, f.name) for f in dataclasses.fields(kind) if hasattr(args, f.name)}
