"""What a card tells of a run: its settings, and the command line that repeats it."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastrecon.options import flag_of

PLACES = ("data", "validation_data", "init", "model")  # settings that say where things lie on this machine


def last_names(paths: Sequence[str]) -> list[str]:
    """Folders and files without the places where they lie, which are nobody else's business."""
    return [Path(p).resolve().name for p in paths]


def command(config: Any, kind: str, always: Sequence[str] = (), without: Sequence[str] = ()) -> str:
    """The command that repeats a run.

    Args:
        config: its settings.
        kind: the recipe.
        always: options named even where they have their default.
        without: fields that are no options.
    """
    words = ["fastrecon", "train", kind]
    for field in dataclasses.fields(config):
        value, flag = getattr(config, field.name), flag_of(field.name)
        unset = value == field.default or (not value and not field.default)
        if field.name in without or (unset and field.name not in always):
            continue
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif field.name in PLACES:
            words += [flag, *last_names([value] if isinstance(value, str) else value)]
        else:
            words += [flag, *map(_word, value if isinstance(value, list | tuple) else [value])]
    return " ".join(map(shlex.quote, words))


def settings_of(config: Any) -> dict[str, Any]:
    """The settings of a run for its card, without the places on this machine."""
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in PLACES}


def _word(value: Any) -> str:
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return repr(value) if isinstance(value, float) and float(short) != value else short
