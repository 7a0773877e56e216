"""What all trainings for block compressed sensing share: settings, crops, the sampling with its start, validation."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.metrics import psnr
from fastrecon.models.blocks import BlockModel
from fastrecon.operators import BlockSensing, measurements, random_phi
from fastrecon.options import check, option
from fastrecon.train.block_start import block_covariance, least_squares_start
from fastrecon.train.crop_objective import CropObjective
from fastrecon.train.objective import Score
from fastrecon.train.progress import say
from fastrecon.train.recipe import Recipe
from fastrecon.train.schedule import Schedule

VALIDATION_SIDE = 264  # pixels: validation images are cropped to at most 8 x 8 blocks of 33

M = TypeVar("M", bound=BlockModel)


@dataclass(frozen=True)
class BlockConfig:
    """What a run computes; defaults as in the preset "cpu"."""

    data: Sequence[str] = option("folders (or files) of training images", nargs="+")
    validation_data: Sequence[str] = option(
        "folders (or files) of validation images; default: a share of --data", (), nargs="+"
    )
    validation: float = option("share of the images of --data kept for validation", 0.05, within="[0, 1)", type=float)
    name: str = option("name of the model; default: METHOD-RATIO", "", file_name=True)
    ratio: float = option("measurements in per cent of the pixels", 25.0, within="(0, 100]", type=float)
    block: int = option("side of the sampled blocks in pixels", 33, within="[1, 128]", type=int)
    phases: int = option("phases of the finished network", 9, within="[1, 1000]", type=int)
    channels: int = option("feature channels", 32, within="[1, 4096]", type=int)
    steps: int = option("training steps of the whole run", 20000, within="[1, 1e9]", type=int)
    batch: int = option("crops in a step, over all processes", 8, within="[1, 1e6]", type=int)
    patch: int = option(
        "side of the crops in pixels, a multiple of --block; equal to it: blocks are images of their own",
        99,
        within="[1, 65536]",
        type=int,
    )
    lr: float = option("learning rate", 2e-3, within="(0, 1000]", type=float)
    decay: str = option("of the learning rate over the whole run", "cosine", choices=("cosine", "constant"))
    warmup: int = option("steps over which the learning rate rises", 100, within="[0, 1e9]", type=int)
    clip: float = option("largest norm of the gradient; 0: none", 0.0, within="[0, 1e6]", type=float)
    ema: float = option(
        "decay of averaged parameters, which are then validated and saved; 0: none", 0.0, within="[0, 1)", type=float
    )
    seed: int = option("of the network, the split and the crops", 0, within="[0, 2147483647]", type=int)
    phi_seed: int = option("of the sampling matrix", 0, within="[0, 2147483647]", type=int)
    start_blocks: int = option("blocks for the least-squares start", 50000, within="[1, 1e9]", type=int)
    init: str = option(
        "start from the network of this model (name or file), say of another ratio; or where r is learned, as the"
        " descent of a prior, prior-natural", "",
    )  # fmt: skip
    dtype: str = option("of the arithmetic", "float32", choices=("float32", "float64"))
    validate_every: int = option(
        "steps between validations and checkpoints; default: a fiftieth of the run", 0, within="[0, 1e9]", type=int
    )

    def __post_init__(self):
        check(self, "train")
        multiple = self.patch % self.block == 0
        expect(multiple, "train", "--patch", f"a multiple of {self.block}, the --block", self.patch)

    def schedule(self) -> Schedule:
        """Steps and learning rates."""
        every = self.validate_every or max(1, min(1000, self.steps // 50))
        return Schedule(self.steps, self.lr, self.decay, self.warmup, self.clip, self.ema, every)


class BlockObjective(CropObjective[M]):
    """A model for one sampling matrix, and its crops; see `Objective`."""

    alone = True
    validation_side = VALIDATION_SIDE
    recipe: Recipe

    def kind(self) -> torch.dtype:
        """Of the arithmetic."""
        return getattr(torch, self.config.dtype)

    def sampling(self, fresh: bool) -> tuple[BlockSensing, Tensor]:
        """The operator and its least-squares start Q: computed if `fresh`, else zeros for a checkpoint to fill."""
        config, n = self.config, self.config.block**2
        phi = random_phi(measurements(config.ratio, n), n, config.phi_seed)
        q = torch.zeros(n, len(phi), dtype=torch.float64)
        if fresh:
            if self.world.rank == 0:
                say(f"computing the start from {config.start_blocks} blocks")
            sampler = copy.copy(self.crops)
            sampler.generator = torch.Generator().manual_seed(config.seed)
            q = least_squares_start(phi, block_covariance(sampler, config.block, config.start_blocks))
        return BlockSensing(phi.to(self.kind()), config.block), q.to(self.kind())

    @property
    def meta(self) -> dict[str, Any]:
        """Facts of the model before its training."""
        return {"ratio": self.config.ratio, "name": self.name, "phi_seed": self.config.phi_seed}

    @property
    def blockwise(self) -> bool:
        """Whether crops are single blocks, each an image of its own."""
        return self.config.patch == self.config.block

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """The next crops [B, 1, P, P] of this process, their measurements, and the start from these."""
        x = self.crops(self.config.batch, self.world.rank, self.world.size)
        with torch.no_grad():
            y = self.module.operator(x)
            return x, y, self.module.start(y)

    @torch.no_grad()
    def validate(self) -> Score | None:
        """Mean PSNR in dB over the validation images as in inference."""
        return self.quality(self.module) if self.held else None

    @torch.no_grad()
    def quality(self, model: M, **options: Any) -> Score:
        """That of `validate`, of any model."""
        found = [
            psnr(model(model.operator(x), size=x.shape[-2:], **options).x.clamp(0, 1), x).item() for x in self.held
        ]
        return Score("psnr", math.fsum(found) / len(found))

    def finished(self) -> tuple[dict[str, Any], M]:
        """What else the card is told of the training, and the model to write."""
        return {}, self.module

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        more, model = self.finished()
        model.meta["training"] = self.training(facts, self.recipe, more)
        self.write(model)
