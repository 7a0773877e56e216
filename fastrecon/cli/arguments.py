"""Arguments that several commands share, and how commands answer."""

import argparse
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from fastrecon import io
from fastrecon.cli import console

BUNDLED_HELP = "skimage:NAME, an image that comes inside scikit-image (camera, phantom, ...)"
LONGEST = 40  # characters of a wrong value in a message


def integer(least: int, most: int) -> Callable[[str], int]:
    """An argparse type: an integer in [least, most]. Its `range` is shown by --help."""
    return _number(int, f"an integer from {least} to {most}", lambda v: least <= v <= most)


def real(least: float, most: float, above: bool = False) -> Callable[[str], float]:
    """An argparse type: a number in [least, most], or in (least, most] if `above`."""
    left = f"> {least:g}" if above else f">= {least:g}"
    inside: Any = lambda v: (least < v if above else least <= v) and v <= most  # noqa: E731
    return _number(float, f"a number {left}, at most {most:g}", inside)


def _number(kind: type, expected: str, inside: Callable[[Any], bool]) -> Any:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except (ValueError, OverflowError):
            value = math.nan
        if not inside(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {short(text)}")
        return value

    parse.range = expected  # type: ignore[attr-defined]
    return parse


def name(text: str) -> str:
    """An argparse type: the name of a file, folder or model: not empty, which would mean the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"expected a name, got {short(text)}")
    return text


def short(text: str) -> str:
    """A value in quotes for a message, cut if long."""
    return io.shown(repr(text if len(text) <= LONGEST else f"{text[:LONGEST]}..."))


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device and --threads."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N, or auto: cuda if there is one (default)")
    most = max(16, 4 * (os.cpu_count() or 1))  # beyond, they only wait for each other
    parser.add_argument("--threads", type=integer(1, most), metavar="N", help="CPU threads (default: all)")


def add_jobs(parser: argparse.ArgumentParser, default: int | None = 1, more: str = "") -> None:
    """--jobs."""
    parser.add_argument(
        "--jobs", type=integer(0, 256), default=default, metavar="N",
        help="inputs that are read ahead, and results that are written behind, of the one that is computed, each by"
        f" a thread of its own; 0: all in turn (default: 1){more}",
    )  # fmt: skip


def add_out(parser: argparse.ArgumentParser, what: str, **options: Any) -> None:
    """--out, a folder for `what`, and --overwrite or --skip-existing."""
    parser.add_argument("--out", type=name, metavar="DIR", help=f"folder for {what}", **options)
    choice = parser.add_mutually_exclusive_group()
    add_overwrite(choice)
    choice.add_argument(
        "--skip-existing", action="store_true", help="leave out inputs whose results are there: continue a run"
    )


def add_overwrite(parser: Any) -> None:
    """--overwrite."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace results that exist; else the command refuses to begin"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def device(args: argparse.Namespace) -> torch.device:
    """The device that --device asks for; sets the number of threads that --threads asks for.

    Raises:
        ValueError: there is no such device.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    name = args.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    count = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(kind, 0)
    if not re.fullmatch("[0-9]{1,4}", index or "0") or int(index or 0) >= count:
        known = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ValueError(
            f"--device: expected one of auto, {', '.join(known)} on this machine, got {short(args.device)}"
        )
    return torch.device(name)


def answer(args: argparse.Namespace, value: Any, text: str) -> None:
    """Prints `value` as JSON if --json was given, else `text`."""
    console.say(json.dumps(io.finite(value), indent=2, allow_nan=False) if args.json else text)


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Aligned lines "name  value"."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def images(inputs: Sequence[str], suffixes: Sequence[str] = io.IMAGE_SUFFIXES) -> list[Path]:
    """The files that `inputs` name: folders as io.expand, files unseen, whose faults are told when it is their turn.

    skimage:NAME is an image that comes inside scikit-image.
    """
    found: list[Path] = []
    for text in inputs:
        known = text.startswith(io.BUNDLED) or Path(text).is_dir()
        found += io.expand([text], suffixes) if known else [Path(text)]
    return found


def stems(paths: Sequence[Path]) -> list[str]:
    """The names of the outputs of these inputs.

    Raises:
        ValueError: two of them are the same.
    """
    first: dict[str, Path] = {}
    for path in paths:
        stem = stem_of(path)
        if stem in first:
            both = f"{io.shown(first[stem])} and {io.shown(path)}"
            raise ValueError(f"{both}: expected inputs with different names, got two {short(stem)}")
        first[stem] = path
    return list(first)


def stem_of(path: Path) -> str:
    """The name of an input without what says its format, also of two parts (.nii.gz)."""
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def number(value: float | None, form: str) -> str:
    """A number of a report in words, where None stands for what is not finite."""
    return "not finite" if value is None else format(value, form)


def remarks(notes: Sequence[str]) -> str:
    """Notes in brackets, if any."""
    return f" [{'; '.join(notes)}]" if notes else ""
