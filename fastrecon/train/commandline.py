"""The command line that repeats a run, for its card."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def last_names(paths: Sequence[str]) -> list[str]:
    """Folders and files without the places where they lie, which are nobody else's business."""
    return [Path(p).resolve().name for p in paths]


def command(
    config: Any, kind: str = "lda-cs", always: Sequence[str] = ("ratio",), without: Sequence[str] = ()
) -> str:  # fmt: skip
    """The command that repeats a run; `always` are options named even where they have their default."""
    words = ["fastrecon", "train", kind]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        unset = value == field.default or (not value and not field.default)
        if field.name in without or (unset and field.name not in always):
            continue
        if isinstance(value, bool):
            words.append(("--" if value else "--no-") + field.name.replace("_", "-"))
            continue
        if field.name in ("data", "validation_data"):
            words += ["--" + field.name.replace("_", "-"), *last_names(value)]
        elif isinstance(value, list | tuple):
            words += ["--" + field.name.replace("_", "-"), *(f"{v:g}" for v in value)]
        else:
            text = (
                Path(value).name if field.name == "init" else f"{value:g}" if isinstance(value, float) else str(value)
            )
            words += ["--" + field.name.replace("_", "-"), text]
    return " ".join(map(shlex.quote, words))
