"""LDA for magnetic resonance imaging: `fastrecon train lda-mri`.

Loss: mean squared error of the last phase, of complex images from x0 = 0, or its logarithm. The warm start is that of
lda-cs. Source: Chen, Liu, Ye & Zhang, arXiv:2007.11245,
section 4.2.3.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon.models import DescentModel
from fastrecon.operators import Identity
from fastrecon.options import option
from fastrecon.solvers import LDA
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.beginning import begin_as
from fastrecon.train.recipes.mri_base import MRIConfig, MRIObjective
from fastrecon.train.recipes.warm_start import WarmConfig, WarmStarted, stages_of
from fastrecon.train.world import World

FEATURES: dict[str, dict[str, Any]] = {
    "complex": {"complex_features": True}, "real": {"in_channels": 2}, "separate": {"separate": True},
}  # fmt: skip


@dataclass(frozen=True)
class Config(WarmConfig, MRIConfig):
    """What a run computes."""

    features: str = option(
        "complex convolutions; real ones of real and imaginary part as two channels; or of each as an image, separate",
        "complex",
        choices=tuple(FEATURES),
    )
    channels: int = option("features of a layer, complex or real", 16, within="[1, 128]", type=int)
    layers: int = option("convolutions", 4, within="[1, 100]", type=int)
    sigma: float = option(
        "epsilon shrinks where |gradient| < sigma * gamma * epsilon", 1e3, within="(0, 1e9]", type=float
    )
    gamma: float = option("factor by which epsilon shrinks", 0.9, within="(0, 1)", type=float)

    def __post_init__(self):
        super().__post_init__()
        stages_of(self)


class LdaMri(WarmStarted[DescentModel], MRIObjective[DescentModel]):
    """LDA for MRI, its crops and masks, and the stage of its warm start; see `Objective`."""

    alone = True

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        self.begin_stages()
        torch.manual_seed(config.seed)
        solver = LDA(
            Identity(), phases=self.stage.phases, channels=config.channels, layers=config.layers, sigma=config.sigma,
            gamma=config.gamma, **FEATURES[config.features],
        )  # fmt: skip
        if config.init and (fresh or self.from_init):
            begin_as(config.init, solver)
        self.module = DescentModel(solver, {"name": self.name}).to(world.device)
        self.begin_rates()

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name or f"lda-mri-{100 * self.config.rate:g}"

    def loss(self) -> Tensor:
        """Mean squared error of the last phase on the next batch, or the mean of its logarithms."""
        a, x, y = self.batch_of(self.world)
        found = self.module.for_operator(a)(y, torch.zeros_like(x), select=self.select)[0]
        return self.misfit(found, x)

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        more, model = self.finished()
        model.meta["training"] = self.training(facts, RECIPE, more)
        self.write(model)


RECIPE = register(
    Recipe(
        "lda-mri",
        "LDA for magnetic resonance imaging",
        Config,
        LdaMri,
        examples=(
            "lda-mri --data slices.npz --rate 0.1 --out runs/lda-mri-10",
            "lda-mri --out runs/lda-mri-10 --resume",
        ),
        always=("rate",),
        timed=True,
    )
)
