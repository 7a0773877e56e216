"""The networks that LDA is compared with for magnetic resonance imaging: `fastrecon train unrolled-mri`.

ISTA-Net, ISTA-Net+, ADMM-Net and the variational network, each as its paper has it (see `solvers`), on the slices and
masks of lda-mri. Loss: mean squared error of the last phase; of ISTA-Net also what its transforms lack of symmetry.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon import models
from fastrecon.checks import expect
from fastrecon.models.unrolled import SOLVERS, UnrolledModel
from fastrecon.operators import Identity
from fastrecon.options import option
from fastrecon.solvers.unrolled import Unrolled
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.mri_base import MRIConfig, MRIObjective
from fastrecon.train.world import World

SETTINGS: dict[str, dict[str, Any]] = {  # of the networks' papers, and of their complex variants in that of LDA
    "ista-net": {"phases": 11, "plus": False, "complex_features": True, "one_threshold": True},
    "ista-net-plus": {"phases": 11, "plus": True, "complex_features": True, "one_threshold": True},
    "admm-net": {"phases": 15},
    "vn": {"phases": 10},
}


@dataclass(frozen=True)
class Config(MRIConfig):
    """What a run computes."""

    network: str = option("which one", "ista-net-plus", choices=tuple(SOLVERS))
    phases: int = option("phases; 0: as many as in its paper", 0, within="[0, 1000]", type=int)
    lr: float = option("learning rate", 1e-3, within="(0, 1000]", type=float)
    symmetry: float = option(
        "ista-net: weight of the phases' asymmetry in the loss", 0.01, within="[0, 1000]", type=float
    )


class UnrolledMri(MRIObjective[UnrolledModel]):
    """The network, its slices and masks; see `Objective`."""

    config: Config

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        torch.manual_seed(config.seed)
        solver = network(config.network, config.phases)
        if fresh and config.init:
            source = models.load(config.init)
            fits = isinstance(source, UnrolledModel) and source.solver.hyperparameters() == solver.hyperparameters()
            got = f"{source.name}, of {source.method}"
            expect(fits, "train", "--init", f"a model of {config.network} with {solver.hyperparameters()}", got)
            assert isinstance(source, UnrolledModel)
            solver.load_state_dict(source.solver.state_dict())
        self.module = UnrolledModel(config.network, solver, {"name": self.name}).to(world.device)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name or f"{self.config.network}-mri-{100 * self.config.rate:g}"

    def loss(self) -> Tensor:
        """Of the next batch."""
        a, x, y = self.batch_of(self.world)
        found, rest = self.module.for_operator(a).learn(y, self.module.first(a, y))
        rest = self.config.symmetry * rest
        return (found - x).abs().square().mean() + (rest if self.config.symmetry else rest.detach())

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        self.module.meta["training"] = self.training(facts, RECIPE)
        self.write(self.module)


def network(name: str, phases: int = 0) -> Unrolled:
    """A network as its paper has it, or with so many phases."""
    settings = SETTINGS[name] | ({"phases": phases} if phases else {})
    return SOLVERS[name](Identity(), **settings)


RECIPE = register(
    Recipe(
        "unrolled-mri",
        "ISTA-Net, ISTA-Net+, ADMM-Net or a variational network for magnetic resonance imaging",
        Config,
        UnrolledMri,
        examples=(
            "unrolled-mri --network vn --data slices.npz --rate 0.1 --out runs/vn-mri-10",
            "unrolled-mri --out runs/vn-mri-10 --resume",
        ),
        always=("network", "rate"),
        timed=True,
    )
)
