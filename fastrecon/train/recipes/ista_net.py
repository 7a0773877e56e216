"""ISTA-Net, ISTA-Net+ and LISTA for block compressed sensing: `fastrecon train ista-net`.

Loss: mean squared error of the last phase; of ISTA-Net also what the phases' transforms lack of symmetry,
sum_k mean (Hb H t - t)^2.
Source: Zhang & Ghanem, ISTA-Net, CVPR 2018 (arXiv:1706.07929), sec. 3.3.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon import models
from fastrecon.checks import expect
from fastrecon.models import ISTANetModel
from fastrecon.options import option
from fastrecon.solvers.ista_net import ISTANet
from fastrecon.solvers.lista import LISTA
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.block_cs_base import BlockConfig, BlockObjective
from fastrecon.train.world import World


@dataclass(frozen=True)
class Config(BlockConfig):
    """What a run computes; defaults as in the preset "cpu"."""

    lr: float = option("learning rate", 1e-3, within="(0, 1000]", type=float)
    network: str = option("ista-net or lista", "ista-net", choices=("ista-net", "lista"))
    plus: bool = option("ISTA-Net+, else ISTA-Net", False)
    shared: bool = option("all phases share convolutions and threshold", False)
    symmetry: float = option("weight of the phases' asymmetry in the loss", 0.01, within="[0, 1000]", type=float)


# The published training: 200 epochs of 1,389 steps.
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {},
    "paper": {"steps": 200 * 1389, "batch": 64, "patch": 33, "lr": 1e-4, "decay": "constant", "warmup": 0},
}


class IstaNetTraining(BlockObjective[ISTANetModel]):
    """ISTA-Net and its crops; see `Objective`."""

    alone = False
    config: Config

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        self.recipe = RECIPE
        torch.manual_seed(config.seed)
        operator, q = self.sampling(fresh)
        net: ISTANet | LISTA
        if config.network == "lista":
            net = LISTA(operator, config.phases)
        else:
            net = ISTANet(operator, config.phases, config.channels, config.plus, config.shared)
        title = "LISTA" if config.network == "lista" else "ISTA-Net"
        if fresh and config.init:
            source = models.load(config.init)
            fits = isinstance(source, ISTANetModel) and source.solver.hyperparameters() == net.hyperparameters()
            got = f"{source.name}, of {source.method}"
            expect(fits, "train", "--init", f"a model of {title} with {net.hyperparameters()}", got)
            theirs = dict(source.solver.named_parameters())  # type: ignore[union-attr]
            with torch.no_grad():
                for name, p in net.named_parameters():
                    p.copy_(theirs[name])
        self.module = ISTANetModel(operator, net, q, self.meta, self.blockwise).to(world.device, self.kind())

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name or f"{self._method}-{self.config.ratio:g}"

    @property
    def _method(self) -> str:
        lista = self.config.network == "lista"
        return "lista" if lista else f"ista-net{'-plus' * self.config.plus}"

    def loss(self) -> Tensor:
        """Of the next batch."""
        x, y, x0 = self.batch()
        found, asymmetry = self.module.solver.learn(y, x0)
        error = (found - x).square().mean()
        rest = self.config.symmetry * asymmetry
        return error + (rest if self.config.symmetry else rest.detach())


RECIPE = register(
    Recipe(
        "ista-net",
        "ISTA-Net, ISTA-Net+ or LISTA for block compressed sensing",
        Config,
        IstaNetTraining,
        examples=(
            "ista-net --data train400 --ratio 25 --plus --out runs/ista-net-plus-25",
            "ista-net --out runs/ista-net-plus-25 --resume",
        ),
        presets=PRESETS,
        always=("ratio",),
        timed=True,
    )
)
