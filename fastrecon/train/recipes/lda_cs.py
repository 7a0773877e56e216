"""LDA, GD-Net and AGD-Net for block compressed sensing: `fastrecon train lda-cs`.

Loss: mean squared error of the last phase, or its logarithm; the warm start is that of warm_start.py.
Source: Chen, Liu, Ye & Zhang, arXiv:2007.11245, sec. 4.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon import models
from fastrecon.models.block_sensing import SOLVERS
from fastrecon.operators import BlockSensing
from fastrecon.options import option
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.beginning import begin_as
from fastrecon.train.recipes.block_cs_base import BlockConfig, BlockObjective
from fastrecon.train.recipes.warm_start import WarmConfig, WarmStarted, stages_of
from fastrecon.train.world import World


@dataclass(frozen=True)
class Config(WarmConfig, BlockConfig):
    """What a run computes; defaults as in the preset "cpu"."""

    network: str = option(
        "lda; or gd-net, its gradient steps alone; or agd-net, those with momentum", "lda", choices=tuple(SOLVERS)
    )
    layers: int = option("convolutions", 4, within="[1, 100]", type=int)
    sigma: float = option(
        "epsilon shrinks where |gradient| < sigma * gamma * epsilon", 1e3, within="(0, 1e9]", type=float
    )
    gamma: float = option("factor by which epsilon shrinks", 0.9, within="(0, 1)", type=float)
    eps_mode: str = option(
        "epsilon shrinks per image, by the batch mean, or always", "sample", choices=("sample", "batch", "schedule")
    )

    def __post_init__(self):
        super().__post_init__()
        stages_of(self)


PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {},
    # The paper's 1,700 epochs of 1,389 steps; x = u in the first 100 epochs of each stage.
    "paper": {
        "phases": 15, "stages": "3:500:0.2,5:200,7:200,9:200,11:200,13:200,15:200", "select_from": 0.5,
        "steps": 1700 * 1389, "batch": 64, "patch": 33, "lr": 1e-4, "decay": "constant", "warmup": 0,
    },
}  # fmt: skip


class LdaCs(WarmStarted[models.BlockSensingModel], BlockObjective[models.BlockSensingModel]):
    """LDA for block compressed sensing, its crops, and the stage of its warm start; see `Objective`.

    `fresh` computes the least-squares start and reads config.init.
    """

    config: Config

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        self.recipe = RECIPE
        self.begin_stages()
        self.module = self._network(fresh)
        self.begin_rates()

    def _network(self, fresh: bool) -> models.BlockSensingModel:
        config = self.config
        torch.manual_seed(config.seed)
        operator, q = self.sampling(fresh)
        solver = SOLVERS[config.network](
            operator, phases=self.stage.phases, channels=config.channels, layers=config.layers,
            sigma=config.sigma, gamma=config.gamma, eps_mode=config.eps_mode,
        )  # fmt: skip
        if config.init and (fresh or self.from_init):
            source = begin_as(config.init, solver)
            if fresh and isinstance(source, models.BlockSensingModel):
                self.take_sampling(source, operator, q)
        network = models.BlockSensingModel(operator, solver, q, self.meta, blockwise=self.blockwise)
        return network.to(self.world.device, self.kind())

    def take_sampling(self, source: models.BlockSensingModel, operator: BlockSensing, q: Tensor) -> None:
        """Of --init, where the sampling is learned; here it is not."""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name or f"{self.config.network}-cs-{self.config.ratio:g}"

    def loss(self) -> Tensor:
        """Mean squared error of the last phase on the next batch, or the mean of its logarithms."""
        x, y, x0 = self.batch()
        return self.misfit(self.module.solver(y, x0, select=self.select)[0], x)


RECIPE = register(
    Recipe(
        "lda-cs",
        "LDA, GD-Net or AGD-Net for block compressed sensing",
        Config,
        LdaCs,
        examples=(
            "lda-cs --data train400 --ratio 25 --out runs/lda-cs-25",
            "lda-cs --out runs/lda-cs-25 --resume",
        ),
        presets=PRESETS,
        always=("ratio",),
        timed=True,
    )
)
