"""LDA for block compressed sensing: `fastrecon train lda-cs`.

Loss: mean squared error of the last phase. Each new phase is a copy of the last trained one; at the start of every
stage x = u always, later the lower of u and v. Source: Chen, Liu, Ye & Zhang, arXiv:2007.11245, sec. 4.
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
from fastrecon.operators import BlockSensing, measurements, random_phi
from fastrecon.options import check, option
from fastrecon.solvers import LDA
from fastrecon.train import images
from fastrecon.train.block_start import block_covariance, least_squares_start
from fastrecon.train.commandline import command, last_names, settings_of
from fastrecon.train.objective import Objective, Score
from fastrecon.train.progress import say
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.warm_start import Stage, default_stages, parse_stages
from fastrecon.train.schedule import Schedule
from fastrecon.train.world import World

VALIDATION_SIDE = 264  # pixels: validation images are cropped to at most 8 x 8 blocks of 33


@dataclass(frozen=True)
class Config:
    """What a run computes; defaults as in the preset "cpu"."""

    data: Sequence[str] = option("folders (or files) of training images", nargs="+")
    validation_data: Sequence[str] = option(
        "folders (or files) of validation images; default: a share of --data", (), nargs="+"
    )
    validation: float = option("share of the images of --data kept for validation", 0.05, within="[0, 1)", type=float)
    name: str = option("name of the model; default: lda-cs-RATIO", "", file_name=True)
    ratio: float = option("measurements in per cent of the pixels", 25.0, within="(0, 100]", type=float)
    block: int = option("side of the sampled blocks in pixels", 33, within="[1, 128]", type=int)
    phases: int = option("phases of the finished network", 9, within="[1, 1000]", type=int)
    stages: str = option(
        'warm start "PHASES:SHARE[:SELECT_FROM],...", shares of the steps; default: 3, 5, then --phases', ""
    )
    select_from: float = option(
        "share of each stage after which x is the lower of u and v; before, x = u", 0.5, within="[0, 1]", type=float
    )
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
    channels: int = option("feature channels", 32, within="[1, 4096]", type=int)
    layers: int = option("convolutions", 4, within="[1, 100]", type=int)
    sigma: float = option(
        "epsilon shrinks where |gradient| < sigma * gamma * epsilon", 1e3, within="(0, 1e9]", type=float
    )
    gamma: float = option("factor by which epsilon shrinks", 0.9, within="(0, 1)", type=float)
    eps_mode: str = option(
        "epsilon shrinks per image, by the batch mean, or always", "sample", choices=("sample", "batch", "schedule")
    )
    seed: int = option("of the network, the split and the crops", 0, within="[0, 2147483647]", type=int)
    phi_seed: int = option("of the sampling matrix", 0, within="[0, 2147483647]", type=int)
    start_blocks: int = option("blocks for the least-squares start", 50000, within="[1, 1e9]", type=int)
    init: str = option("start from the network of this model (name or file), say of another ratio", "")
    dtype: str = option("of the arithmetic", "float32", choices=("float32", "float64"))
    validate_every: int = option(
        "steps between validations and checkpoints; default: a fiftieth of the run", 0, within="[0, 1e9]", type=int
    )

    def __post_init__(self):
        check(self, "train")
        multiple = self.patch % self.block == 0
        expect(multiple, "train", "--patch", f"a multiple of {self.block}, the --block", self.patch)
        self.parsed_stages()

    def parsed_stages(self) -> list[Stage]:
        """The warm start; a network that starts from another model needs none."""
        text = self.stages or (f"{self.phases}:1" if self.init else default_stages(self.phases))
        return parse_stages(text, self.phases, self.steps, self.select_from)

    def schedule(self) -> Schedule:
        """Steps and learning rates."""
        every = self.validate_every or max(1, min(1000, self.steps // 50))
        return Schedule(self.steps, self.lr, self.decay, self.warmup, self.clip, self.ema, every)


PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {},
    # The paper's 1,700 epochs of 1,389 steps; x = u in the first 100 epochs of each stage.
    "paper": {
        "phases": 15, "stages": "3:500:0.2,5:200,7:200,9:200,11:200,13:200,15:200", "select_from": 0.5,
        "steps": 1700 * 1389, "batch": 64, "patch": 33, "lr": 1e-4, "decay": "constant", "warmup": 0,
    },
}  # fmt: skip


class LdaCs(Objective[models.BlockSensingModel]):
    """LDA for block compressed sensing, its crops, and the stage of its warm start; see `Objective`.

    `fresh` computes the least-squares start and reads config.init.
    """

    alone = True
    config: Config

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        self.dtype = getattr(torch, config.dtype)
        found = images.Images.load(config.data, config.validation_data, quiet=world.rank > 0)
        found = found.hold(config.validation, config.seed)
        self.counts = found.counts
        self.crops = images.Crops(found.training, config.patch, config.seed, world.device, self.dtype)
        cropped = (images.central(i, VALIDATION_SIDE) for i in found.held)
        self.held = [i[None, None].to(world.device, self.dtype) for i in cropped]
        self.stages = config.parsed_stages()
        self.stage: Stage = self.stages[0]
        self.select = False
        self.module = self._network(fresh)

    def _network(self, fresh: bool) -> models.BlockSensingModel:
        config, n = self.config, self.config.block**2
        torch.manual_seed(config.seed)
        phi = random_phi(measurements(config.ratio, n), n, config.phi_seed)
        q = torch.zeros(n, len(phi), dtype=torch.float64)
        if fresh:
            if self.world.rank == 0:
                say(f"computing the start from {config.start_blocks} blocks")
            sampler = copy.copy(self.crops)
            sampler.generator = torch.Generator().manual_seed(config.seed)
            q = least_squares_start(phi, block_covariance(sampler, config.block, config.start_blocks))
        operator = BlockSensing(phi.to(self.dtype), config.block)
        solver = LDA(
            operator, phases=self.stage.phases, channels=config.channels, layers=config.layers,
            sigma=config.sigma, gamma=config.gamma, eps_mode=config.eps_mode,
        )  # fmt: skip
        if fresh and config.init:
            source = models.load(config.init)
            fits = isinstance(source, models.BlockSensingModel)
            expect(fits, "train", "--init", "a model for block-cs", f"one for {source.problem}")
            assert isinstance(source, models.BlockSensingModel)
            _copy_network(source, solver)
        meta = {"ratio": config.ratio, "name": self.name, "phi_seed": config.phi_seed}
        network = models.BlockSensingModel(
            operator, solver, q.to(self.dtype), meta, blockwise=config.patch == config.block
        )
        return network.to(self.world.device, self.dtype)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name or f"lda-cs-{self.config.ratio:g}"

    @property
    def data(self) -> str:
        """Its images."""
        return (
            f"{self.counts['training']} training and {self.counts['validation']} validation images"
            f" ({self.crops.skipped} smaller than {self.config.patch} pixels left out)"
        )

    def begin_step(self, step: int) -> bool:
        """Enters the stage of `step`; true if the network has grown."""
        self.stage = next(s for s in self.stages if s.begin <= step < s.end)
        self.select = step >= self.stage.select
        if self.module.solver.phases == self.stage.phases:
            return False
        self.module.solver.grow(self.stage.phases)
        return True

    def loss(self) -> Tensor:
        """Mean squared error of the last phase on the next batch."""
        x = self.crops(self.config.batch, self.world.rank, self.world.size)
        with torch.no_grad():
            y = self.module.operator(x)
            x0 = self.module.start(y)
        return (self.module.solver(y, x0, select=self.select)[0] - x).square().mean()

    @torch.no_grad()
    def validate(self) -> Score | None:
        """Mean PSNR in dB over the validation images as in inference."""
        a, found = self.module.operator, []
        for x in self.held:
            result = self.module(a(x), size=x.shape[-2:])
            found.append(psnr(result.x.clamp(0, 1), x).item())
        return Score("psnr", math.fsum(found) / len(found)) if found else None

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        config = self.config
        self.module.meta["training"] = facts | {
            "command": command(config, RECIPE.name, RECIPE.always),
            "data": last_names(config.data),
            "images": self.counts,
            "validation_data": last_names(config.validation_data) or f"{config.validation:g} of the images",
            "stages": list(map(str, self.stages)),
            "settings": settings_of(config),
        }
        self.write(self.module)

    def describe(self) -> str:
        """The stage in a few words."""
        return f"K={self.stage.phases}" + ("" if self.select else " u-only")

    def reschedule(self, config: Config) -> None:
        """Takes settings that differ in their number of steps, before the first."""
        self.config, self.stages = config, config.parsed_stages()
        self.stage = self.stages[0]

    def seconds(self) -> float:
        """What the whole run takes: of each stage with x = u, and with selection."""
        kept, found = (self.module, self.stage, self.select), []
        for stage in self.stages:
            self.module = copy.deepcopy(kept[0])
            if self.module.solver.phases != stage.phases:
                self.module.solver.grow(stage.phases)
            for self.select, count in ((False, stage.select - stage.begin), (True, stage.end - stage.select)):
                found.append(count * self.seconds_per_step() if count else 0.0)
        self.module, self.stage, self.select = kept
        return math.fsum(found)

    def state_dict(self) -> dict[str, Any]:
        """Network, constants, generator, and what tells whether the images are the same on resumption."""
        return {
            "phases": self.module.solver.phases,
            "module": self.module.state_dict(),
            "crops": self.crops.state_dict(),
            "digest": self.crops.digest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`.

        Raises:
            ValueError: the training images are not those of the checkpoint.
        """
        images.expect_same(state, self.crops.digest)
        if state["phases"] != self.module.solver.phases:
            self.module.solver.grow(state["phases"])
        self.module.load_state_dict(state["module"])
        self.crops.load_state_dict(state["crops"])


def _copy_network(source: models.BlockSensingModel, target: LDA) -> None:
    """Copies trained parameters; phases that the source does not have copy its last one."""
    solver = copy.deepcopy(source.solver)
    expect(
        solver.phases <= target.phases, "train", "--init", f"a model of at most {target.phases} phases", solver.phases
    )
    if solver.phases < target.phases:
        solver.grow(target.phases)
    theirs = dict(solver.named_parameters())
    for name, p in target.named_parameters():
        fits = name in theirs and theirs[name].shape == p.shape
        expect(fits, "train", "--init", f"a model with {name} of shape {tuple(p.shape)}", "another network")
        p.data.copy_(theirs[name].detach())


RECIPE = register(
    Recipe(
        "lda-cs",
        "LDA for block compressed sensing",
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
