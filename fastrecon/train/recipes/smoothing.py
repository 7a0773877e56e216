"""A network that smooths photographs between their edges: `fastrecon train smoothing`.

It learns what method "l0" makes of them (solvers/smoothing.py), as few edges as possible, in one pass: no picture has
to be smoothed by hand. Colours change places and white and black do, of which the pictures of "l0" know nothing.

Source: networks in the place of edge-aware filters, Xu, Ren, Yan, Liao & Jia, Deep Edge-Aware Filters, ICML 2015.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrecon.metrics import psnr
from fastrecon.operators import Gradient, Identity
from fastrecon.options import check, option
from fastrecon.solvers.methods import METHODS, Inverse
from fastrecon.train import images
from fastrecon.train.objective import Score
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes import streaks
from fastrecon.train.recipes.photographs_base import colours, crop
from fastrecon.train.recipes.separation_base import GOOD, VALIDATION_SIDE, SeparationObjective
from fastrecon.train.world import World

DILATIONS = (1, 2, 4, 2, 1)  # of squares of 2 x 2 pixels: sees 42 x 42
SLOPES = 2.0  # a wrong slope weighs so many times as much as a wrong pixel: what is flat shall be flat


@dataclass(frozen=True)
class Config(streaks.Config):
    """What a run computes."""

    data: Sequence[str] = option("folders (or files) of colour photographs", nargs="+")
    name: str = option("name of the model", "smoothing", file_name=True)
    lam: float = option("price of an edge in method l0, which is learned", 0.01, within="[1e-9, 1e3]", type=float)
    seed: int = option("of the network, the split and the crops", 0, within="[0, 2147483647]", type=int)

    def __post_init__(self):
        super().__post_init__()
        check(self, "train")


class Smoothing(SeparationObjective):
    """A network, photographs and what "l0" makes of them; see `Objective`."""

    config: Config

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        self.smooth = METHODS["l0"].ready(lam=config.lam)
        training, held = self.photographs(self._pair)
        self.begin(training, len(held), DILATIONS)
        self.held = [images.central(x, VALIDATION_SIDE).contiguous() for x in held]
        self.generator = torch.Generator().manual_seed(config.seed)

    def _pair(self, pixels: np.ndarray) -> Tensor:
        """[6, H, W]: a photograph, and it smoothed."""
        y = colours(pixels)
        return torch.cat((y, self.smooth(Inverse(y[None], Identity(), problem="smooth")).x[0]))

    def batch(self) -> tuple[Tensor, Tensor]:
        """Crops [B, 3, P, P] of photographs and what they shall become, in four orientations, colours anyhow."""
        config, found = self.config, []
        for *at, turned in torch.rand(config.batch, 5, generator=self.generator).tolist():
            pair = crop(self.learned, config.patch, at).unflatten(0, (2, 3))
            pair = pair[:, torch.randperm(3, generator=self.generator)]
            found.append(1 - pair if turned < 0.5 else pair)
        y, x = torch.stack(found, 1)
        y, x = self.shared(y, x)
        return y, x

    def loss(self) -> Tensor:
        """The mean over the crops of the logarithm of squared errors of pixels and, SLOPES times, of slopes."""
        y, x = self.batch()
        error = self.without(y) - x
        slopes = Gradient().forward(error)[..., :-1, :-1]
        total = error.square().mean((1, 2, 3)) + SLOPES * slopes.square().mean((1, 2, 3))
        return (total + GOOD).log().mean()

    @torch.no_grad()
    def validate(self) -> Score | None:
        """Mean PSNR in dB of what the network makes of photographs against what "l0" makes of them."""
        network, found = self.module.folded(), []
        for pair in self.held:
            y, x = (t[None] for t in pair.unflatten(0, (2, 3)))
            found.append(psnr(y - network(y.to(self.world.device)).cpu(), x).item())
        return self.scored(found)

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        done = f"smoothed by l0 with lam = {self.config.lam:g}"
        self.export_for("smooth", facts, RECIPE, done, ", against l0")


RECIPE = register(
    Recipe(
        "smoothing",
        "a network that smooths photographs between their edges, as method l0 does",
        Config,
        Smoothing,
        examples=(
            "smoothing --data photographs --out runs/smoothing",
            "smoothing --out runs/smoothing --resume",
        ),
        timed=True,
    )
)
