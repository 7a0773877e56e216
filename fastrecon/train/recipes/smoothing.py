"""A network that smooths photographs between their edges: `fastrecon train smoothing`.

It learns what the controlled iteration makes of them (models/error_controlled_photographs.py), as few edges as
possible, in one pass: no picture has to be smoothed by hand. Colours change places and white and black do, of which the
teacher knows nothing.

Source: networks in the place of edge-aware filters, Xu, Ren, Yan, Liao & Jia, Deep Edge-Aware Filters, ICML 2015.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrecon.metrics import psnr
from fastrecon.models.error_controlled_photographs import LAM
from fastrecon.networks import ScalesCNN
from fastrecon.operators import Gradient, Identity
from fastrecon.options import option
from fastrecon.solvers.methods import METHODS, Inverse
from fastrecon.train import images
from fastrecon.train.objective import Score
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.padnet_image import SCALES, scales_of
from fastrecon.train.recipes.photographs_base import colours, crop
from fastrecon.train.recipes.separation_base import VALIDATION_SIDE, SeparationConfig, SeparationObjective
from fastrecon.train.world import World

PROBLEM = "smooth"
SLOPES = 4.0  # a wrong slope weighs so many times as much as a wrong pixel: what is flat shall be flat
SMALL = 1e-3  # errors below are not worth much


@dataclass(frozen=True)
class Config(SeparationConfig):
    """What a run computes."""

    name: str = option("name of the model", "smoothing", file_name=True)
    scales: Sequence[int] = option("channels of the features, the finest scale first", SCALES, nargs="+", type=int)
    blocks: int = option("blocks at a scale, each way", 2, within="[1, 16]", type=int)
    lr: float = option("learning rate", 1e-3, within="(0, 1000]", type=float)
    lam: float = option("price of an edge", LAM[PROBLEM], within="[1e-9, 1e3]", type=float)

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "scales", scales_of(self.scales))


class Smoothing(SeparationObjective):
    """A network, photographs and what the teacher makes of them; see `Objective`."""

    config: Config
    problem = PROBLEM

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        # |a x - a y|^2 / 2 + a^2 lam edges has the same minimiser, a times as bright, and so has the network
        self.level = math.sqrt(config.lam)
        self.smooth = METHODS["error-controlled"].ready(lam=config.lam / LAM[PROBLEM])
        training, held = self.photographs(self._pair)
        self.begin(training, len(held))
        self.held = [images.central(x, VALIDATION_SIDE).contiguous() for x in held]
        self.generator = torch.Generator().manual_seed(config.seed)

    def network(self) -> ScalesCNN:
        """A new one, which sees far: edges are decided on by whole regions."""
        return ScalesCNN(self.config.scales, self.config.blocks, 3, levels=True)

    def _pair(self, pixels: np.ndarray) -> Tensor:
        """[6, H, W]: a photograph, and it smoothed."""
        y = colours(pixels)
        return torch.cat((y, self.smooth(Inverse(y[None], Identity(), start=y[None], problem=PROBLEM)).x[0]))

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
        """The mean over the crops of the logarithm of errors of pixels and, SLOPES times, of slopes.

        Errors are absolute, not squared: whoever is not sure of an edge shall decide, not halve it.
        """
        y, x = self.batch()
        error = self.without(y) - x
        slopes = Gradient().forward(error)[..., :-1, :-1]
        total = error.abs().mean((1, 2, 3)) + SLOPES * slopes.abs().mean((1, 2, 3))
        return (total + SMALL).log().mean()

    @torch.no_grad()
    def validate(self) -> Score | None:
        """Mean PSNR in dB of what the network makes of photographs against what the teacher makes of them."""
        model, found = self.finished(), []
        for pair in self.held:
            y, x = (t[None] for t in pair.unflatten(0, (2, 3)))
            found.append(psnr(model.clean(y.to(self.world.device)).cpu(), x).item())
        return self.scored(found)

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        done = f"smoothed by error-controlled with lam = {self.config.lam:g}"
        self.export_for(facts, RECIPE, done, ", against that")


RECIPE = register(
    Recipe(
        "smoothing",
        "a network that smooths photographs between their edges, as the controlled iteration does",
        Config,
        Smoothing,
        examples=(
            "smoothing --data photographs --out runs/smoothing",
            "smoothing --out runs/smoothing --resume",
        ),
        timed=True,
    )
)
