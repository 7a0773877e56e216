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

from fastrecon.networks import SquaresCNN
from fastrecon.options import option
from fastrecon.solvers import rain
from fastrecon.train import images
from fastrecon.train.objective import Score
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.photographs_base import colours, crop
from fastrecon.train.recipes.separation_base import GOOD, VALIDATION_SIDE, SeparationConfig, SeparationObjective
from fastrecon.train.world import World

VALIDATION_RAINS = 3  # of each photograph
DRY = 0.05  # share of crops without rain, which shall stay as they are
DILATIONS = (1, 1, 2, 4, 4, 2, 1, 1)  # of squares of 2 x 2 pixels: sees 66 x 66


@dataclass(frozen=True)
class Config(SeparationConfig):
    """What a run computes."""

    data: Sequence[str] = option("folders (or files) of colour photographs without rain", nargs="+")
    name: str = option("name of the model", "streaks", file_name=True)
    channels: int = option("of the features", 48, within="[1, 256]", type=int)
    seed: int = option("of the network, the split, the crops and the rain", 0, within="[0, 2147483647]", type=int)


class Streaks(SeparationObjective):
    """A network, its photographs and their rain; see `Objective`."""

    config: Config
    problem = "derain"

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        training, held = self.photographs(colours)
        self.begin(training, len(held))
        rains = range(VALIDATION_RAINS)
        self.held = [self._validated(x, k * VALIDATION_RAINS + i) for k, x in enumerate(held) for i in rains]
        self.draws = rain.Draws(config.seed)
        self.generator = self.draws.generator

    def network(self) -> SquaresCNN:
        """A new one."""
        return SquaresCNN(len(DILATIONS), self.config.channels, 3, DILATIONS)

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
        model, found = self.finished(), []
        for y, x in self.held:
            dry = model.clean(y.to(self.world.device)).cpu().clamp(0, 1)
            found.append(-10 * math.log10((dry - x).square().mean().item() + GOOD))
        return self.scored(found)

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        self.export_for(facts, RECIPE, "with rain that is drawn", f" with {VALIDATION_RAINS} such rains each")


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
