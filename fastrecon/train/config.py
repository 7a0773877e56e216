"""Settings of `fastrecon train lda-cs`: what is stored in a checkpoint and named in the model's card."""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastrecon.checks import expect


def _option(text: str, default: Any = dataclasses.MISSING, **parser: Any) -> Any:
    """A field with its help text and what argparse needs to know."""
    return dataclasses.field(default=default, metadata={"help": text, **parser})


@dataclass(frozen=True)
class Config:
    """What a run computes; defaults as in the preset "cpu"."""

    data: Sequence[str] = _option("folders (or files) of training images", nargs="+")
    validation_data: Sequence[str] = _option(
        "folders (or files) of validation images; default: a share of --data", (), nargs="+"
    )
    validation: float = _option("share of the images of --data kept for validation", 0.05, type=float)
    name: str = _option("name of the model; default: lda-cs-RATIO", "")
    ratio: float = _option("measurements in per cent of the pixels", 25.0, type=float)
    block: int = _option("side of the sampled blocks in pixels", 33, type=int)
    phases: int = _option("phases of the finished network", 9, type=int)
    stages: str = _option(
        'warm start "PHASES:SHARE[:SELECT_FROM],...", shares of the steps; default: 3, 5, then --phases', ""
    )
    select_from: float = _option(
        "share of each stage after which x is the lower of u and v; before, x = u", 0.5, type=float
    )
    steps: int = _option("training steps of the whole run", 20000, type=int)
    batch: int = _option("crops in a step, over all processes", 8, type=int)
    patch: int = _option(
        "side of the crops in pixels, a multiple of --block; equal to it: blocks are images of their own", 99, type=int
    )
    lr: float = _option("learning rate", 2e-3, type=float)
    decay: str = _option("of the learning rate over the whole run", "cosine", choices=("cosine", "constant"))
    warmup: int = _option("steps over which the learning rate rises", 100, type=int)
    clip: float = _option("largest norm of the gradient; 0: none", 0.0, type=float)
    ema: float = _option("decay of averaged parameters, which are then validated and saved; 0: none", 0.0, type=float)
    channels: int = _option("feature channels", 32, type=int)
    layers: int = _option("convolutions", 4, type=int)
    sigma: float = _option("epsilon shrinks where |gradient| < sigma * gamma * epsilon", 1e3, type=float)
    gamma: float = _option("factor by which epsilon shrinks", 0.9, type=float)
    eps_mode: str = _option(
        "epsilon shrinks per image, by the batch mean, or always", "sample", choices=("sample", "batch", "schedule")
    )
    seed: int = _option("of the network, the split and the crops", 0, type=int)
    phi_seed: int = _option("of the sampling matrix", 0, type=int)
    start_blocks: int = _option("blocks for the least-squares start", 50000, type=int)
    init: str = _option("start from the network of this model (name or file), say of another ratio", "")
    dtype: str = _option("of the arithmetic", "float32", choices=("float32", "float64"))
    validate_every: int = _option(
        "steps between validations and checkpoints; default: a fiftieth of the run", 0, type=int
    )

    def __post_init__(self):
        whole = ("block", "phases", "steps", "batch", "channels", "layers", "start_blocks")
        checks = [
            *((name, getattr(self, name) >= 1, "an integer >= 1") for name in whole),
            ("ratio", 0 < self.ratio <= 100, "a number in (0, 100]"),
            ("validation", 0 <= self.validation < 1, "a share in [0, 1)"),
            ("select_from", 0 <= self.select_from <= 1, "a share in [0, 1]"),
            (
                "patch",
                self.patch in range(self.block, 1 << 20, max(1, self.block)),
                f"a multiple of {self.block}, the --block",
            ),
            ("lr", self.lr > 0, "a number > 0"),
            ("ema", 0 <= self.ema < 1, "a number in [0, 1)"),
        ]
        for name, good, expected in checks:
            expect(good, "train", "--" + name.replace("_", "-"), expected, getattr(self, name))
        parse_stages(self)


@dataclass(frozen=True)
class Stage:
    """Steps begin <= step < end with that many phases; from step `select` on, x is the lower of u and v."""

    phases: int
    begin: int
    select: int
    end: int


def parse_stages(config: Config) -> list[Stage]:
    """The stages of a run; the last has config.phases phases.

    Raises:
        ValueError: the text is not PHASES:SHARE[:SELECT_FROM],... with rising phases and positive shares.
    """
    rows: list[tuple[int, float, float]] = []
    text = config.stages or _default_stages(config)
    form = "PHASES:SHARE[:SELECT_FROM],... with rising phases, positive shares and SELECT_FROM in [0, 1]"
    try:
        for part in text.split(","):
            phases, share, *select = part.split(":")
            rows.append((int(phases), float(share), float(select[0]) if select else config.select_from))
    except ValueError:
        raise ValueError(f"train: --stages: expected {form}, got {text!r}") from None
    rising = all(a[0] < b[0] for a, b in zip([(0, 0, 0), *rows], rows, strict=False))
    expect(rising and all(s > 0 and 0 <= f <= 1 for _, s, f in rows), "train", "--stages", form, repr(text))
    expect(rows[-1][0] == config.phases, "train", "--stages", f"the last to have --phases {config.phases}", repr(text))
    total, done, stages, begin = math.fsum(s for _, s, _ in rows), 0.0, [], 0
    for phases, share, select in rows:
        done += share
        end = round(config.steps * done / total)
        stages.append(Stage(phases, begin, begin + round(select * (end - begin)), end))
        begin = end
    return stages


def _default_stages(config: Config) -> str:
    if config.init:
        return f"{config.phases}:1"
    early = [k for k in (3, 5) if k < config.phases]
    return ",".join([f"{k}:0.15" for k in early] + [f"{config.phases}:{1 - 0.15 * len(early)}"])


PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {},
    # The paper's 1,700 epochs of 1,389 steps; x = u in the first 100 epochs of each stage.
    "paper": {
        "phases": 15, "stages": "3:500:0.2,5:200,7:200,9:200,11:200,13:200,15:200", "select_from": 0.5,
        "steps": 1700 * 1389, "batch": 64, "patch": 33, "lr": 1e-4, "decay": "constant", "warmup": 0,
    },
}  # fmt: skip


def add_options(parser: argparse.ArgumentParser, kind: Any = Config, without: Sequence[str] = ()) -> None:
    """One option per field of a configuration; options that are not given do not appear in the parsed namespace."""
    for field in dataclasses.fields(kind):
        if field.name in without:
            continue
        parser_options = dict(field.metadata)
        text = parser_options.pop("help")
        if field.default not in (dataclasses.MISSING, "", 0) and "default" not in text:
            several = isinstance(field.default, tuple)
            text += f" (default: {' '.join(f'{v:g}' for v in field.default) if several else field.default})"
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser_options["action"] = argparse.BooleanOptionalAction
        parser.add_argument(flag, help=text.replace("%", "%%"), default=argparse.SUPPRESS, **parser_options)


def given(args: argparse.Namespace, kind: Any = Config) -> dict[str, Any]:
    """The fields of a configuration that the command line named."""
    return {f.name: getattr(args, f.name) for f in dataclasses.fields(kind) if hasattr(args, f.name)}


def last_names(paths: Sequence[str]) -> list[str]:
    """Folders and files without the places where they lie, which are nobody else's business."""
    return [Path(p).resolve().name for p in paths]


def command(
    config: Any, kind: str = "lda-cs", always: Sequence[str] = ("ratio",), without: Sequence[str] = ()
) -> str:  # fmt: skip
    """The command that repeats a run; `always` are options named even where they have their default."""
    words = [f"fastrecon train {kind}"]
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
    return " ".join(words)
