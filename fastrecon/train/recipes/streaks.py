"""A network that separates streaks of rain from photographs: `fastrecon train streaks`.

Clean photographs get rain that is drawn anew for every crop (solvers/rain.py): no pairs of pictures with and without
rain are needed, and none are used.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.options import check, option
from fastrecon.solvers import rain
from fastrecon.train import images
from fastrecon.train.objective import Score
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.photographs_base import colours, crop
from fastrecon.train.recipes.separation_base import GOOD, VALIDATION_SIDE, SeparationObjective
from fastrecon.train.schedule import Schedule
from fastrecon.train.world import World

VALIDATION_RAINS = 3  # of each photograph
DRY = 0.05  # share of crops without rain, which shall stay as they are
DILATIONS = (1, 1, 2, 4, 4, 2, 1, 1)  # of squares of 2 x 2 pixels: sees 66 x 66


@dataclass(frozen=True)
class Config:
    """What a run computes."""

    data: Sequence[str] = option("folders (or files) of colour photographs without rain", nargs="+")
    validation_data: Sequence[str] = option(
        "folders (or files) of validation photographs; default: a share of --data", (), nargs="+"
    )
    validation: float = option("share of --data kept for validation", 0.1, within="[0, 1)", type=float)
    name: str = option("name of the model", "streaks", file_name=True)
    channels: int = option("of the features", 48, within="[1, 256]", type=int)
    steps: int = option("training steps", 4000, within="[1, 1e9]", type=int)
    batch: int = option("crops in a step, over all processes", 8, within="[1, 1e6]", type=int)
    patch: int = option("side of the crops in pixels, even", 96, within="[16, 65536]", type=int)
    lr: float = option("learning rate", 2e-3, within="(0, 1000]", type=float)
    decay: str = option("of the learning rate over the whole run", "cosine", choices=("cosine", "constant"))
    warmup: int = option("steps over which the learning rate rises", 100, within="[0, 1e9]", type=int)
    clip: float = option("largest norm of the gradient; 0: none", 5.0, within="[0, 1e6]", type=float)
    precision: str = option("of the convolutions", "bfloat16", choices=("bfloat16", "float32"))
    seed: int = option("of the network, the split, the crops and the rain", 0, within="[0, 2147483647]", type=int)
    validate_every: int = option(
        "steps between validations and checkpoints; default: a fortieth of the run", 0, within="[0, 1e9]", type=int
    )

    def __post_init__(self):
        check(self, "train")
        expect(self.patch % 2 == 0, "train", "--patch", "an even number", self.patch)

    def schedule(self) -> Schedule:
        """Steps and learning rates."""
        every = self.validate_every or max(1, min(500, self.steps // 40))
        return Schedule(self.steps, self.lr, self.decay, self.warmup, self.clip, 0.0, every)


class Streaks(SeparationObjective):
    """A network, its photographs and their rain; see `Objective`."""

    config: Config

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        training, held = self.photographs(colours)
        self.begin(training, len(held), DILATIONS)
        rains = range(VALIDATION_RAINS)
        self.held = [self._validated(x, k * VALIDATION_RAINS + i) for k, x in enumerate(held) for i in rains]
        self.draws = rain.Draws(config.seed)
        self.generator = self.draws.generator

    @staticmethod
    def _validated(photograph: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """The middle of a photograph with the same rain each time, and without."""
        x = images.central(photograph, VALIDATION_SIDE)[None].contiguous()
        return rain.rainy(x, rain.Draws(seed).streaks(1, x.shape[-2:])), x

    def batch(self) -> tuple[Tensor, Tensor]:
        """Crops [B, 3, P, P] with rain and without, in four orientations and three scales of brightness."""
        config, draws, found = self.config, self.draws, []
        for *at, bright in draws.uniform(0, 1, config.batch, 5).tolist():
            found.append(crop(self.learned, config.patch, at) * (0.5 + 0.5 * min(1.0, 2 * bright)))
        x = torch.stack(found)
        streaks = draws.streaks(config.batch, (config.patch, config.patch))
        wet = (draws.uniform(0, 1, config.batch) >= DRY).view(-1, 1, 1, 1)
        y = (255 * rain.rainy(x, streaks * wet)).round() / 255
        y, x = self.shared(y, x)
        return y, x

    def loss(self) -> Tensor:
        """The mean over the crops of the logarithm of squared errors: a drizzle counts as much as a downpour."""
        y, x = self.batch()
        error = (self.without(y) - x).square().mean((1, 2, 3))
        return (error + GOOD).log().mean()

    @torch.no_grad()
    def validate(self) -> Score | None:
        """Mean PSNR in dB of the network as it will be used, errors of GOOD added: at most 40 dB of each."""
        network, found = self.module.folded(), []
        for y, x in self.held:
            dry = (y - network(y.to(self.world.device)).cpu()).clamp(0, 1)
            found.append(-10 * math.log10((dry - x).square().mean().item() + GOOD))
        return self.scored(found)

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        self.export_for("derain", facts, RECIPE, "with rain that is drawn", f" with {VALIDATION_RAINS} such rains each")


RECIPE = register(
    Recipe(
        "streaks",
        "a network that separates streaks of rain from photographs",
        Config,
        Streaks,
        examples=(
            "streaks --data photographs --out runs/streaks",
            "streaks --out runs/streaks --resume",
        ),
        timed=True,
    )
)
