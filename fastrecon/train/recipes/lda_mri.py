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

from fastrecon import models
from fastrecon.checks import expect
from fastrecon.models import BlockSensingModel, DescentModel
from fastrecon.operators import Identity
from fastrecon.options import option
from fastrecon.solvers import LDA
from fastrecon.train.objective import Score
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.mri_base import MRIConfig, MRIObjective
from fastrecon.train.recipes.warm_start import Warm, WarmStarted, copy_network
from fastrecon.train.world import World

SMALL, SINGLE = 0.1, 60.0  # rate of a kernel whose weights have a root mean square of 1 is its inverse; of others
LEAST = 1e-6  # mean squared error that adds to each image's: 60 dB is enough
LOSS = 0.005  # dB on validation images that selection may cost
MARGIN, MOST = 4.0, 2.0**12  # of the weight of r in the comparison of u and v: see `weighed`
FEATURES: dict[str, dict[str, Any]] = {
    "complex": {"complex_features": True}, "real": {"in_channels": 2}, "separate": {"separate": True},
}  # fmt: skip


@dataclass(frozen=True)
class Config(Warm, MRIConfig):
    """What a run computes."""

    features: str = option(
        "complex convolutions; real ones of real and imaginary part as two channels; or of each as an image, separate",
        "complex",
        choices=tuple(FEATURES),
    )
    stages: str = option(
        'warm start "PHASES:SHARE[:SELECT_FROM],...", shares of the steps; default: 3, 5, then --phases', ""
    )
    select_from: float = option(
        "share of each stage after which x is the lower of u and v; before, x = u; 1: u to the end, and r gets the"
        " weight in phi with which u is the lower",
        0.5,
        within="[0, 1]",
        type=float,
    )
    loss: str = option(
        "mean squared error, or the mean logarithm of each image's, by which easy images count as much as hard ones",
        "squared", choices=("squared", "log"),
    )  # fmt: skip
    relative: bool = option(
        "the learning rate is in units of a kernel's size over ten, as a network wants that has been trained before",
        False,
    )
    channels: int = option("features of a layer, complex or real", 16, within="[1, 128]", type=int)
    layers: int = option("convolutions", 4, within="[1, 100]", type=int)
    sigma: float = option(
        "epsilon shrinks where |gradient| < sigma * gamma * epsilon", 1e3, within="(0, 1e9]", type=float
    )
    gamma: float = option("factor by which epsilon shrinks", 0.9, within="(0, 1)", type=float)

    def __post_init__(self):
        super().__post_init__()
        self.parsed_stages()


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
        if config.init and (fresh or config.relative):  # rates are those of its kernels, also where a run goes on
            source = models.load(config.init)
            own = isinstance(source, DescentModel | BlockSensingModel) and isinstance(source.solver, LDA)
            expect(own, "train", "--init", "a model of lda", f"one of {source.method}")
            assert isinstance(source, DescentModel | BlockSensingModel)
            copy_network(source.solver, solver)
        self.module = DescentModel(solver, {"name": self.name}).to(world.device)
        self.squared_error = config.loss == "squared"
        if config.relative:
            self.rates = {n: _rate(p) for n, p in self.module.named_parameters()}

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name or f"lda-mri-{100 * self.config.rate:g}"

    def loss(self) -> Tensor:
        """Mean squared error of the last phase on the next batch, or the mean of its logarithms."""
        a, x, y = self.batch_of(self.world)
        found = self.module.for_operator(a)(y, torch.zeros_like(x), select=self.select)[0]
        error = (found - x).abs().square()
        return error.mean() if self.squared_error else (error.mean((1, 2, 3)) + LEAST).log().mean()

    @property
    def learned_only(self) -> bool:
        """Whether x = u to the end of the run."""
        return self.stages[-1].select == self.stages[-1].end

    @torch.no_grad()
    def validate(self) -> Score | None:
        """As of MRIObjective; with x = u where the run has nothing else."""
        told = {"select": False} if self.learned_only else {}
        return self.quality(self.module, **told) if self.held else None

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        more: dict[str, Any] = {"stages": list(map(str, self.stages))}
        model = self.module
        if self.learned_only and self.held:
            more["weight"], model = self.weighed()
        model.meta["training"] = self.training(facts, RECIPE, more)
        self.write(model)

    @torch.no_grad()
    def weighed(self) -> tuple[float, DescentModel]:
        """A weight c of r with which selection takes the learned steps, and the model with c r.

        Training with x = u leaves the scale of r, and so what u and v are compared by, to chance. Four times the least
        power of two that loses nothing on validation images, so that others have a margin.
        """
        best, c = self.quality(self.module, select=False).value, 1.0
        while c < MOST and not self.quality(self._of(c)).value > best - LOSS:
            c *= 2
        return MARGIN * c, self._of(MARGIN * c)

    def _of(self, c: float) -> DescentModel:
        return DescentModel(self.module.solver.reweighed(c), self.module.meta)


def _rate(p: Tensor) -> float:
    """Of a parameter: a kernel's size over ten; step sizes and radii, which are single numbers, take larger steps."""
    return float(p.detach().square().mean().sqrt()) / SMALL if p.ndim > 1 else SINGLE


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
