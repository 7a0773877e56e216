"""Settings of `fastrecon train lda-cs`: what is stored in a checkpoint and named in the model's card."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastrecon.checks import expect
from fastrecon.options import check, option


@dataclass(frozen=True)
class Config:
    """What a run computes; defaults as in the preset "cpu"."""

    data: Sequence[str] = option("folders (or files) of training images", nargs="+")
    validation_data: Sequence[str] = option(
        "folders (or files) of validation images; default: a share of --data", (), nargs="+"
    )
    validation: float = option("share of the images of --data kept for validation", 0.05, within="[0, 1)", type=float)
    name: str = option("name of the model; default: lda-cs-RATIO", "")
    ratio: float = option("measurements in per cent of the pixels", 25.0, within="(0, 100]", type=float)
    block: int = option("side of the sampled blocks in pixels", 33, within="[1, 128]", type=int)
    phases: int = option("phases of the finished network", 9, within="[1, 1000]", type=int)
    stages: str = option(
        'warm start "PHASES:SHARE[:SELECT_FROM],...", shares of the steps; default: 3, 5, then --phases', ""
    )
    select_from: float = option(
        "share of each stage after which x is the lower of u and v; before, x = u", 0.5, within="[0, 1]", type=float
    )
    steps: int = option("training steps of the whole run", 20000, within="[1, 1e9]", type=int)
    batch: int = option("crops in a step, over all processes", 8, within="[1, 1e6]", type=int)
    patch: int = option(
        "side of the crops in pixels, a multiple of --block; equal to it: blocks are images of their own",
        99,
        within="[1, 65536]",
        type=int,
    )
    lr: float = option("learning rate", 2e-3, within="(0, 1000]", type=float)
    decay: str = option("of the learning rate over the whole run", "cosine", choices=("cosine", "constant"))
    warmup: int = option("steps over which the learning rate rises", 100, within="[0, 1e9]", type=int)
    clip: float = option("largest norm of the gradient; 0: none", 0.0, within="[0, 1e6]", type=float)
    ema: float = option(
        "decay of averaged parameters, which are then validated and saved; 0: none", 0.0, within="[0, 1)", type=float
    )
    channels: int = option("feature channels", 32, within="[1, 4096]", type=int)
    layers: int = option("convolutions", 4, within="[1, 100]", type=int)
    sigma: float = option(
        "epsilon shrinks where |gradient| < sigma * gamma * epsilon", 1e3, within="(0, 1e9]", type=float
    )
    gamma: float = option("factor by which epsilon shrinks", 0.9, within="(0, 1)", type=float)
    eps_mode: str = option(
        "epsilon shrinks per image, by the batch mean, or always", "sample", choices=("sample", "batch", "schedule")
    )
    seed: int = option("of the network, the split and the crops", 0, within="[0, 2147483647]", type=int)
    phi_seed: int = option("of the sampling matrix", 0, within="[0, 2147483647]", type=int)
    start_blocks: int = option("blocks for the least-squares start", 50000, within="[1, 1e9]", type=int)
    init: str = option("start from the network of this model (name or file), say of another ratio", "")
    dtype: str = option("of the arithmetic", "float32", choices=("float32", "float64"))
    validate_every: int = option(
        "steps between validations and checkpoints; default: a fiftieth of the run", 0, within="[0, 1e9]", type=int
    )

    def __post_init__(self):
        check(self)
        multiple = self.patch % self.block == 0
        expect(multiple, "train", "--patch", f"a multiple of {self.block}, the --block", self.patch)
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
    expect(rising and all(0 < s < math.inf and 0 <= f <= 1 for _, s, f in rows), "train", "--stages", form, repr(text))
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
