"""LDA with learned sampling, for block compressed sensing: `fastrecon train lda-joint`.

Sampling matrix A, start Q and network learn together, of crops of several blocks: the regulariser sees all of them.
Loss: mean squared error of the last phase, and 0.01 times that of the start Q A x. Source: Chen, Liu, Ye & Zhang,
arXiv:2007.11245, sec. 4.2.2, where A and Q are a convolution and a transposed one.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.models import BlockSensingModel
from fastrecon.operators import BlockSensing, measurements, random_phi
from fastrecon.options import option
from fastrecon.train.block_start import block_covariance, least_squares_start
from fastrecon.train.progress import say
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.lda_cs import Config as FixedConfig
from fastrecon.train.recipes.lda_cs import LdaCs
from fastrecon.train.world import World


@dataclass(frozen=True)
class Config(FixedConfig):
    """What a run computes; defaults as in the preset "cpu"."""

    block: int = option("side of the sampled blocks in pixels", 32, within="[1, 128]", type=int)
    patch: int = option(
        "side of the crops in pixels, a multiple of --block; equal to it: blocks are images of their own", 96,
        within="[1, 65536]", type=int,
    )  # fmt: skip
    first: str = option(
        "sampling matrix to start from: the principal components of blocks, or the Gaussian one of --phi-seed",
        "principal", choices=("principal", "gaussian"),
    )  # fmt: skip
    sampling_rate: float = option(
        "learning rate of sampling matrix and start, by that of the network", 0.1, within="[0, 1000]", type=float
    )
    auxiliary: float = option("weight of the squared error of the start", 0.01, within="[0, 1000]", type=float)


PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {},
    # 89,600 crops an epoch; phases and epochs as of lda-cs
    "paper": {
        "phases": 15, "stages": "3:500:0.2,5:200,7:200,9:200,11:200,13:200,15:200", "select_from": 0.5,
        "steps": 1700 * 1400, "batch": 64, "lr": 1e-4, "decay": "constant", "warmup": 0, "first": "gaussian",
        "sampling_rate": 1.0,
    },
}  # fmt: skip


class LdaJoint(LdaCs):
    """LDA with its sampling, its crops, and the stage of its warm start; see `Objective`."""

    config: Config  # pyright: ignore[reportIncompatibleVariableOverride]  # nobody sets another kind

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        self.recipe = RECIPE
        names = (name for name, _ in self.module.named_parameters())
        sampled = {n: config.sampling_rate for n in names if n.split(".")[-1] in ("phi", "q")}
        self.rates = {**self.rates, **sampled}

    def sampling(self, fresh: bool) -> tuple[BlockSensing, Tensor]:
        """Operator and start, to be learned; zeros for a checkpoint to fill unless `fresh`."""
        phi, q = self._first() if fresh else self._zeros()
        learned = nn.Parameter(phi.to(self.kind()))
        return BlockSensing(learned, self.config.block), nn.Parameter(q.to(self.kind()))

    def _zeros(self) -> tuple[Tensor, Tensor]:
        n = self.config.block**2
        phi = torch.zeros(measurements(self.config.ratio, n), n)
        return phi, phi.T.contiguous()

    def _first(self) -> tuple[Tensor, Tensor]:
        config, n = self.config, self.config.block**2
        if self.world.rank == 0:
            say(f"computing the start from {config.start_blocks} blocks")
        sampler = copy.copy(self.crops)
        sampler.generator = torch.Generator().manual_seed(config.seed)
        covariance = block_covariance(sampler, config.block, config.start_blocks)
        count = measurements(config.ratio, n)
        if config.first == "gaussian":
            phi = random_phi(count, n, config.phi_seed)
        else:
            phi = torch.linalg.eigh(covariance).eigenvectors[:, -count:].T.flip(0).contiguous()
        return phi, least_squares_start(phi, covariance)

    def take_sampling(self, source: BlockSensingModel, operator: BlockSensing, q: Tensor) -> None:
        """Matrix and start of --init, where it has such of the same shape and learned them."""
        if "phi_seed" in source.meta or source.operator.phi.shape != operator.phi.shape:
            return
        with torch.no_grad():
            operator.phi.copy_(source.operator.phi)
            q.copy_(source.q)

    @property
    def meta(self) -> dict[str, Any]:
        """Facts of the model before its training."""
        return {"ratio": self.config.ratio, "name": self.name}

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name or f"lda-joint-{self.config.ratio:g}"

    def loss(self) -> Tensor:
        """Mean squared error of the last phase and of the start on the next batch."""
        x = self.crops(self.config.batch, self.world.rank, self.world.size)
        y = self.module.operator(x)
        x0 = self.module.start(y)
        found = self.module.solver(y, x0, select=self.select)[0]
        rest = self.config.auxiliary * (x0 - x).square().mean()  # what the log calls PSNR is that of the last phase
        return self.misfit(found, x) + (rest - rest.detach())


RECIPE = register(
    Recipe(
        "lda-joint",
        "LDA together with its sampling matrix, for block compressed sensing",
        Config,
        LdaJoint,
        examples=(
            "lda-joint --data bsds500/train --ratio 10 --init lda-cs-10 --phases 11 --out runs/lda-joint-10",
            "lda-joint --out runs/lda-joint-10 --resume",
        ),
        presets=PRESETS,
        always=("ratio",),
        timed=True,
    )
)
