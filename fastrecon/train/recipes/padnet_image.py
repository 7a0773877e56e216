"""Units of PADNet for images: `fastrecon train padnet-image`.

A residual network learns to clean pictures with white noise of any level that the iteration meets; it is told which.
So one unit serves in every iteration, and for blurs and noise that it never saw.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon import models
from fastrecon.checks import expect
from fastrecon.metrics import psnr
from fastrecon.models import ErrorControlledModel
from fastrecon.models.padnet import PADNetModel, Settings
from fastrecon.networks import ResidualCNN, ScalesCNN, described, made
from fastrecon.options import check, option
from fastrecon.solvers.base import column
from fastrecon.train.commandline import last_names
from fastrecon.train.crop_objective import CropObjective
from fastrecon.train.objective import Score
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.schedule import Schedule
from fastrecon.train.world import World

VALIDATION_SIDE = 128
HELD = (0.02, 0.1)  # levels at which it is validated
LOUD = 1.3  # squared errors grow about like level^1.3: images are weighed by the inverse
NETWORKS = ("scales", "cnn")
SCALES = (32, 64, 96)
WIDER = (1, 2, 3, 4, 3, 2, 1)  # Zhang, Zuo, Gu & Zhang, CVPR 2017: sees 33 x 33 pixels
# of the iteration, as they did best in deblurring; see docs/padnet.md
SETTINGS = Settings(
    variant="explicit", lam_noise=0.01, slopes=True, beta=1.0, most=1, pull=0.95, warm=12, iterations=10, tol=1e-3
)


@dataclass(frozen=True)
class Config:
    """What a run computes."""

    data: Sequence[str] = option("folders (or files) of training images", nargs="+")
    validation_data: Sequence[str] = option(
        "folders (or files) of validation images; default: a share of --data", (), nargs="+"
    )
    validation: float = option("share of the images of --data kept for validation", 0.02, within="[0, 1)", type=float)
    name: str = option("name of the model", "padnet-image", file_name=True)
    levels: Sequence[float] = option(
        "least and largest standard deviation of the noise, where white is 1", (0.004, 0.25), nargs="+", type=float
    )
    init: str = option("start from the network of this model (name or file), such as padnet-image", "")
    network: str = option(
        "scales: residual blocks over several scales; cnn: convolutions of pixels", "scales", choices=NETWORKS
    )
    scales: Sequence[int] = option("of scales: channels of the features, the finest first", SCALES, nargs="+", type=int)
    blocks: int = option("of scales: blocks at a scale, each way", 2, within="[1, 16]", type=int)
    layers: int = option("of cnn: convolutions", 7, within="[2, 64]", type=int)
    channels: int = option("of cnn: of the features", 64, within="[1, 512]", type=int)
    dilated: bool = option("of cnn: taps 1, 2, 3, 4, 3, 2, 1 pixels apart, of 7 convolutions", True)
    steps: int = option("training steps", 4500, within="[1, 1e9]", type=int)
    batch: int = option("crops in a step, over all processes", 16, within="[1, 1e6]", type=int)
    patch: int = option("side of the crops in pixels", 64, within="[8, 65536]", type=int)
    lr: float = option("learning rate", 1e-3, within="(0, 1000]", type=float)
    decay: str = option("of the learning rate over the whole run", "cosine", choices=("cosine", "constant"))
    warmup: int = option("steps over which the learning rate rises", 50, within="[0, 1e9]", type=int)
    clip: float = option("largest norm of the gradient; 0: none", 1.0, within="[0, 1e6]", type=float)
    precision: str = option("of the convolutions", "bfloat16", choices=("bfloat16", "float32"))
    seed: int = option("of the network, the split, the crops and the noise", 0, within="[0, 2147483647]", type=int)
    validate_every: int = option(
        "steps between validations and checkpoints; default: a twentieth of the run", 0, within="[0, 1e9]", type=int
    )

    def __post_init__(self):
        check(self, "train")
        given = tuple(float(v) for v in self.levels)
        fits = len(given) == 2 and 0 < given[0] < given[1] < math.inf
        expect(fits, "train", "--levels", "two numbers, 0 < LEAST < LARGEST", list(given))
        object.__setattr__(self, "levels", given)
        object.__setattr__(self, "scales", scales_of(self.scales))
        fits = self.network != "cnn" or not self.dilated or self.layers == len(WIDER)
        expect(fits, "train", "--layers", f"{len(WIDER)}, or --no-dilated", self.layers)

    def schedule(self) -> Schedule:
        """Steps and learning rates."""
        every = self.validate_every or max(1, min(500, self.steps // 20))
        return Schedule(self.steps, self.lr, self.decay, self.warmup, self.clip, 0.0, every)


class Units(CropObjective[Any]):
    """A unit, its crops and their noise; see `Objective`."""

    squared_error = False
    validation_side = VALIDATION_SIDE
    config: Config

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        torch.manual_seed(config.seed)
        network = self.network(config.network)
        if fresh and config.init:  # normalisation lies within the convolutions of a finished unit, and stays there
            network = copy.deepcopy(unit_of(models.load(config.init))).requires_grad_(True)
        self.module = network.to(world.device)
        self.quality: float | None = None

    def network(self, kind: str) -> ResidualCNN | ScalesCNN:
        """A new one of a kind in `NETWORKS`."""
        config = self.config
        if kind == "scales":
            return ScalesCNN(config.scales, config.blocks, 1, levels=True)
        dilations = WIDER if config.dilated else None
        return ResidualCNN(config.layers, config.channels, 1, levels=True, dilations=dilations)

    def loss(self) -> Tensor:
        """Mean squared error of the residual, in units of what is usual for the level."""
        config, world = self.config, self.world
        x = self.crops(config.batch)
        low, high = (math.log(s) for s in config.levels)
        level = (low + (high - low) * torch.rand(config.batch, generator=self.generator)).exp().to(x)
        noise = torch.randn(x.shape, generator=self.generator).to(x) * column(level, x)
        share = slice(world.rank, None, world.size)
        x, level, noise = x[share], level[share], noise[share]
        with self._precision():
            found = self.module(x + noise, level)
        return ((found - noise).square().mean((1, 2, 3)) / level.pow(LOUD)).mean()

    def _precision(self) -> Any:
        half = self.config.precision == "bfloat16"
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=half)

    @torch.no_grad()
    def validate(self) -> Score | None:
        """Mean PSNR in dB of validation images over the levels `HELD`, the same noise each time."""
        self.module.eval()
        found = []
        for k, x in enumerate(self.held):
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(k)).to(x)
            for level in HELD:
                y = x + level * noise
                found.append(psnr((y - self.module(y, level)).clamp(0, 1), x).item())
        self.module.train()
        self.quality = math.fsum(found) / len(found) if found else None
        return None if self.quality is None else Score("psnr", self.quality)

    def prepare(self, state: dict[str, Any]) -> None:
        """Makes the network that of the state."""
        if told := state.get("network"):
            self.module = made(told).to(self.world.device)
        else:  # a run from before there were kinds
            folded = "convolutions.1.bias" in state["module"]
            settings: dict[str, Any] = self.network("cnn").settings | {"folded": folded}
            self.module = ResidualCNN(**settings).to(self.world.device)

    def state_dict(self) -> dict[str, Any]:
        """As of CropObjective, and what kind of network it is, which with an --init may have any size."""
        return super().state_dict() | {"network": described(self.module)}

    def facts(self) -> dict[str, str]:
        """Of data and training, for the card."""
        config, quality = self.config, self.quality
        told = "none" if quality is None else f"PSNR {quality:.2f} dB"
        return {
            "training data": f"{', '.join(last_names(config.data))}, {self.counts['training']} images",
            "levels": " to ".join(f"{v:g}" for v in config.levels),
            "validation": f"{self.counts['validation']} images, denoised at levels {HELD[0]:g} and {HELD[1]:g}: {told}",
            "steps": f"{config.steps}, batch {config.batch} crops of {config.patch} x {config.patch}",
            **({"begins with": last_names([config.init])[0]} if config.init else {}),
            "seed": str(config.seed),
        }

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        training = self.training(facts, RECIPE, {"facts": self.facts()})
        unit = self.module.folded().float()
        self.write(PADNetModel([[unit]], "deblur", SETTINGS, {"name": self.name, "training": training}))


def scales_of(channels: Sequence[int]) -> tuple[int, ...]:
    """Option --scales as it is kept.

    Raises:
        ValueError: there are none or too many, or one is out of range.
    """
    fits = 0 < len(channels) <= 6 and all(0 < c <= 512 for c in channels)
    expect(fits, "train", "--scales", "1 to 6 numbers in [1, 512]", list(channels))
    return tuple(channels)


def unit_of(source: models.Model) -> Any:
    """The network that a model cleans images with."""
    unit: object = None
    if isinstance(source, PADNetModel):
        unit = source.rows[0][0]
    elif isinstance(source, ErrorControlledModel):
        unit = source.unit
    fits = bool(getattr(unit, "levels", False))
    expect(fits, "train", "--init", "a model with a network for noise of any level", f"one of {source.method}")
    return unit


RECIPE = register(
    Recipe(
        name="padnet-image",
        summary="units of PADNet for photographs: a residual network that removes noise of any level",
        Config=Config,
        Objective=Units,
        examples=("fastrecon train padnet-image --data photographs --out unit",),
    )
)
