"""LDA for magnetic resonance imaging: `fastrecon train lda-mri`.

Loss: mean squared error of the last phase, of complex images from x0 = 0. The warm start is that of lda-cs. Source:
Chen, Liu, Ye & Zhang, arXiv:2007.11245, section 4.2.3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon import io, masks, models
from fastrecon.checks import expect
from fastrecon.io.slices import SUFFIXES
from fastrecon.metrics import psnr
from fastrecon.models import DescentModel
from fastrecon.operators import Fourier, Identity, LinearOperator
from fastrecon.options import check, option
from fastrecon.solvers import LDA
from fastrecon.train import images
from fastrecon.train.objective import Score
from fastrecon.train.progress import track
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.warm_start import Warm, WarmStarted, copy_network
from fastrecon.train.schedule import Schedule
from fastrecon.train.world import World

VALIDATION_SIDE = 256  # pixels: validation images are cropped to at most so many


@dataclass(frozen=True)
class Config(Warm):
    """What a run computes."""

    data: Sequence[str] = option(
        "folders, image files, or .npz and .npy files with arrays [H, W] or [N, H, W], real or complex", nargs="+"
    )
    validation_data: Sequence[str] = option("such of validation images; default: a share of --data", (), nargs="+")
    validation: float = option("share of the images of --data kept for validation", 0.05, within="[0, 1)", type=float)
    name: str = option("name of the model; default: lda-mri-RATE, in per cent", "", file_name=True)
    rate: float = option("share of sampled frequencies", 0.2, within="(0, 1]", type=float)
    sampling: str = option("which frequencies are sampled", "radial", choices=tuple(masks.GENERATORS))
    noise: float = option(
        "standard deviation of each real number of k-space, where the brightest pixel is 1", 0.0, within="[0, 10]",
        type=float,
    )  # fmt: skip
    features: str = option(
        "complex convolutions, or real ones of real and imaginary part", "complex", choices=("complex", "real")
    )
    phases: int = option("phases of the finished network", 11, within="[1, 1000]", type=int)
    stages: str = option(
        'warm start "PHASES:SHARE[:SELECT_FROM],...", shares of the steps; default: 3, 5, then --phases', ""
    )
    select_from: float = option(
        "share of each stage after which x is the lower of u and v; before, x = u", 0.5, within="[0, 1]", type=float
    )
    channels: int = option("features of a layer, complex or real", 16, within="[1, 128]", type=int)
    layers: int = option("convolutions", 4, within="[1, 100]", type=int)
    sigma: float = option(
        "epsilon shrinks where |gradient| < sigma * gamma * epsilon", 1e3, within="(0, 1e9]", type=float
    )
    gamma: float = option("factor by which epsilon shrinks", 0.9, within="(0, 1)", type=float)
    steps: int = option("training steps of the whole run", 20000, within="[1, 1e9]", type=int)
    batch: int = option("crops in a step, over all processes", 4, within="[1, 1e6]", type=int)
    patch: int = option("side of the crops in pixels", 128, within="[8, 65536]", type=int)
    lr: float = option("learning rate", 2e-3, within="(0, 1000]", type=float)
    decay: str = option("of the learning rate over the whole run", "cosine", choices=("cosine", "constant"))
    warmup: int = option("steps over which the learning rate rises", 100, within="[0, 1e9]", type=int)
    clip: float = option("largest norm of the gradient; 0: none", 0.0, within="[0, 1e6]", type=float)
    ema: float = option(
        "decay of averaged parameters, which are then validated and saved; 0: none", 0.0, within="[0, 1)", type=float
    )
    seed: int = option("of the network, the split, the crops and the masks", 0, within="[0, 2147483647]", type=int)
    init: str = option("start from the network of this model (name or file), say of another rate", "")
    validate_every: int = option(
        "steps between validations and checkpoints; default: a fiftieth of the run", 0, within="[0, 1e9]", type=int
    )

    def __post_init__(self):
        check(self, "train")
        self.parsed_stages()

    def schedule(self) -> Schedule:
        """Steps and learning rates."""
        every = self.validate_every or max(1, min(1000, self.steps // 50))
        return Schedule(self.steps, self.lr, self.decay, self.warmup, self.clip, self.ema, every)


class LdaMri(WarmStarted[DescentModel]):
    """LDA for MRI, its crops and masks, and the stage of its warm start; see `Objective`."""

    alone = True
    validation_side = VALIDATION_SIDE

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        self.begin_stages()
        torch.manual_seed(config.seed)
        features: dict[str, Any] = {"complex_features": True} if config.features == "complex" else {"in_channels": 2}
        solver = LDA(
            Identity(), phases=self.stage.phases, channels=config.channels, layers=config.layers, sigma=config.sigma,
            gamma=config.gamma, **features,
        )  # fmt: skip
        if fresh and config.init:
            source = models.load(config.init)
            expect(isinstance(source, DescentModel), "train", "--init", "a model for mri", f"one for {source.problem}")
            assert isinstance(source, DescentModel)
            copy_network(source.solver, solver)
        self.module = DescentModel(solver, {"name": self.name}).to(world.device)

    def kind(self) -> torch.dtype:
        """Complex."""
        return torch.complex64

    def read(self) -> images.Images:
        """Slices, real or complex."""
        quiet = self.world.rank > 0
        return images.Images(_read(self.config.data, quiet), _read(self.config.validation_data, quiet))

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name or f"lda-mri-{100 * self.config.rate:g}"

    def measured(self, x: Tensor, generator: torch.Generator) -> tuple[Fourier, Tensor]:
        """A drawn mask an image, and the noisy samples under it."""
        config, size = self.config, (x.shape[-2], x.shape[-1])
        seeds = torch.randint(2**31, (len(x),), generator=generator).tolist()
        drawn = [masks.GENERATORS[config.sampling](size, config.rate, seed) for seed in seeds]
        mask = torch.stack(drawn)[:, None].to(x.real)
        a = Fourier(mask).to(x.device)
        noise = torch.view_as_complex(torch.randn(*x.shape, 2, generator=generator)).to(x)
        return a, a(x) + config.noise * mask * noise

    @torch.no_grad()
    def batch_of(self, world: World) -> tuple[LinearOperator, Tensor, Tensor]:
        """The operator, images and measurements of this process's share of the next batch, divided as in inference."""
        x = self.crops(self.config.batch)
        a, y = self.measured(x, self.generator)
        white = a.apply_adjoint(y).abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
        mine = torch.arange(world.rank, len(x), world.size, device=x.device)
        return a.take(mine), (x / white)[mine], (y / white)[mine]

    def loss(self) -> Tensor:
        """Mean squared error of the last phase on the next batch."""
        a, x, y = self.batch_of(self.world)
        found = self.module.for_operator(a)(y, torch.zeros_like(x), select=self.select)[0]
        return (found - x).abs().square().mean()

    @torch.no_grad()
    def validate(self) -> Score | None:
        """Mean PSNR in dB of the moduli of validation images as in inference, the same masks each time."""
        found = []
        for k, x in enumerate(self.held):
            a, y = self.measured(x, torch.Generator().manual_seed(k))
            result = self.module(y, a)
            found.append(psnr(result.x.abs().clamp(0, 1), x.abs()).item())
        return Score("psnr", math.fsum(found) / len(found)) if found else None

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        self.module.meta["training"] = self.training(facts, RECIPE, {"stages": list(map(str, self.stages))})
        self.write(self.module)


def _read(inputs: Sequence[str], quiet: bool) -> list[Tensor]:
    """Images [H, W], complex64, each of largest modulus 1; those that are 0 throughout are left out."""
    paths = io.expand(inputs, (*io.IMAGE_SUFFIXES, *SUFFIXES))
    found: list[Tensor] = []
    for path in track(paths, "reading images", len(paths), "file", quiet or not paths):
        several = io.read_slices(path) if path.suffix.lower() in SUFFIXES else [io.read_image(path).pixels]
        found += [torch.from_numpy(i).to(torch.complex64) for i in several]
    return [i / i.abs().max() for i in found if bool(i.abs().max() > 0)]


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
