"""Modules of error-controlled iterations: `fastrecon train denoiser`.

A residual network learns to clean pictures, told how strong to be: of white noise (photographs), or of that and what
missing frequencies leave behind (magnetic resonance images, of which real and imaginary part are cleaned alike).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon import masks, models
from fastrecon.checks import expect
from fastrecon.metrics import psnr
from fastrecon.models import ErrorControlledModel, PADNetModel
from fastrecon.models.error_controlled import SETTINGS
from fastrecon.modules import Cleaned
from fastrecon.networks import ResidualCNN
from fastrecon.operators import Fourier
from fastrecon.options import check, option
from fastrecon.solvers.base import column
from fastrecon.train import images
from fastrecon.train.commandline import last_names
from fastrecon.train.objective import Score
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes import padnet_image
from fastrecon.train.recipes.mri_base import slices_of
from fastrecon.train.recipes.padnet_image import HELD, LOUD, Units
from fastrecon.train.world import World

TASKS = {"photographs": "deblur", "mri": "mri"}  # and the problem that its models are for
SHARE = 0.6  # of the crops of mri have artefacts, the others noise alone
SOME = 0.2  # noise beside artefacts, in units of these


@dataclass(frozen=True)
class Config(padnet_image.Config):
    """What a run computes."""

    data: Sequence[str] = option(
        "folders (or files) of training images; of mri also .npz and .npy files with arrays [N, H, W], real or complex",
        nargs="+",
    )  # fmt: skip
    name: str = option("name of the model; default: denoiser-TASK", "", file_name=True)
    task: str = option("what is cleaned", "photographs", choices=tuple(TASKS))
    rates: Sequence[float] = option(
        "least and largest share of sampled frequencies, of mri", (0.08, 0.4), nargs="+", type=float
    )
    init: str = option("start from the network of this model (name or file), such as padnet-image", "")

    def __post_init__(self):
        super().__post_init__()
        check(self, "train")
        rates = tuple(float(v) for v in self.rates)
        fits = len(rates) == 2 and 0 < rates[0] <= rates[1] <= 1
        expect(fits, "train", "--rates", "two numbers, 0 < LEAST <= LARGEST <= 1", list(rates))
        object.__setattr__(self, "rates", rates)


class Denoiser(Units):
    """A denoiser, its crops and what spoils them; see `Objective`."""

    config: Config  # type: ignore[assignment]

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        if fresh and config.init:
            # normalisation lies within the convolutions of a finished unit, and stays there
            unit = _unit(models.load(config.init))
            self.module = ResidualCNN(**unit.settings).to(world.device)
            self.module.load_state_dict(unit.state_dict())

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name or f"denoiser-{self.config.task}"

    @property
    def complex(self) -> bool:
        """Whether images are complex."""
        return self.config.task == "mri"

    def kind(self) -> torch.dtype:
        """Type of the crops."""
        return torch.complex64 if self.complex else torch.float32

    def read(self) -> images.Images:
        """Pictures, or slices."""
        if not self.complex:
            return super().read()
        quiet = self.world.rank > 0
        return images.Images(slices_of(self.config.data, quiet), slices_of(self.config.validation_data, quiet))

    def artefacts(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """What missing frequencies leave of images, less these: like x."""
        low, high = self.config.rates
        drawn = []
        for _ in range(len(x)):
            rate, pick = torch.rand(2, generator=generator).tolist()
            kind = ("variable", "cartesian", "radial")[int(3 * pick)]
            seed = int(torch.randint(2**31, (), generator=generator))
            rate = max(low + (high - low) * rate, 0.08)  # of which cartesian masks take the centre
            drawn.append(masks.GENERATORS[kind]((x.shape[-2], x.shape[-1]), rate, seed))
        a = Fourier(torch.stack(drawn)[:, None].to(x.device))
        return a.apply_adjoint(a.forward(x), x.shape[-2:]) - x

    def spoiled(self, count: int) -> tuple[Tensor, Tensor]:
        """What spoils the next crops, added to them, and its standard deviation: images and noise [B, 1, P, P]."""
        config, g = self.config, self.generator
        x = self.crops(count)
        low, high = (math.log(s) for s in config.levels)
        level = (low + (high - low) * torch.rand(count, generator=g)).exp().to(x.real)
        if not self.complex:
            return x, torch.randn(x.shape, generator=g).to(x) * column(level, x)
        turn = 2 * math.pi * torch.rand(count, generator=g)  # images of one phase are rare
        x = x * torch.polar(torch.ones(count), turn).to(x).view(-1, 1, 1, 1)
        white = torch.view_as_complex(torch.randn(*x.shape, 2, generator=g)).to(x) * column(level, x)
        e = self.artefacts(x, g)
        size = torch.view_as_real(e).square().mean((1, 2, 3, 4)).sqrt().clamp_min(1e-6)
        e = e * column(torch.minimum(level / size, torch.ones_like(size)), x) + SOME * white
        chosen = torch.rand(count, generator=g) < SHARE
        return x, torch.where(chosen.to(x.device).view(-1, 1, 1, 1), e, white)

    def loss(self) -> Tensor:
        """Mean squared error of the residual, in units of what is usual for the level."""
        x, e = self.spoiled(self.config.batch)
        x, e = (torch.cat((t.real, t.imag)) if t.is_complex() else t for t in (x, e))
        share = slice(self.world.rank, None, self.world.size)
        x, e = x[share], e[share]
        level = e.square().mean((1, 2, 3)).sqrt().clamp_min(1e-4)
        with self._precision():
            found = self.module(x + e, level)
        return ((found - e).square().mean((1, 2, 3)) / level.pow(LOUD)).mean()

    @torch.no_grad()
    def validate(self) -> Score | None:
        """Mean PSNR in dB of validation images: of noise at the levels `HELD`; of mri, of the artefacts of a drawn
        mask too. The same each time.
        """
        if not self.complex:
            return super().validate()
        self.module.eval()
        found, cleaned = [], Cleaned(self.module, self.config.precision == "bfloat16")
        for k, x in enumerate(self.held):
            g = torch.Generator().manual_seed(k)
            noise = torch.view_as_complex(torch.randn(*x.shape, 2, generator=g)).to(x)
            for e in (*(level * noise for level in HELD), self.artefacts(x, g)):
                level = float(torch.view_as_real(e).square().mean().sqrt())
                found.append(psnr(cleaned(x + e, level).abs().clamp(0, 1), x.abs()).item())
        self.module.train()
        self.quality = math.fsum(found) / len(found) if found else None
        return None if self.quality is None else Score("psnr", self.quality)

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        config, quality = self.config, self.quality
        spoilt = f"denoised at levels {HELD[0]:g} and {HELD[1]:g}" + (", and of artefacts" if self.complex else "")
        told = "none" if quality is None else f"PSNR {quality:.2f} dB"
        known = {
            "training data": f"{', '.join(last_names(config.data))}, {self.counts['training']} images",
            "levels": " to ".join(f"{v:g}" for v in config.levels),
            **({"sampling rates": " to ".join(f"{v:g}" for v in config.rates)} if self.complex else {}),
            "validation": f"{self.counts['validation']} images, {spoilt}: {told}",
            "steps": f"{config.steps}, batch {config.batch} crops of {config.patch} x {config.patch}",
            **({"begins with": config.init} if config.init else {}),
            "seed": str(config.seed),
        }
        training = self.training(facts, RECIPE, {"facts": known})
        problem = TASKS[config.task]
        unit = self.module.folded().float()
        self.write(
            ErrorControlledModel(unit, problem, SETTINGS.get(problem), {"name": self.name, "training": training})
        )

    def prepare(self, state: dict[str, Any]) -> None:
        """Makes the network one that takes the state's parameters: with or without normalisation."""
        folded = "convolutions.1.bias" in state["module"]
        if folded != self.module.settings["folded"]:
            settings: dict[str, Any] = self.module.settings | {"folded": folded}
            self.module = ResidualCNN(**settings).to(self.world.device)


def _unit(source: models.Model) -> ResidualCNN:
    """The network that a model cleans images with."""
    unit: object = None
    if isinstance(source, PADNetModel):
        unit = source.rows[0][0]
    elif isinstance(source, ErrorControlledModel):
        unit = source.unit
    fits = isinstance(unit, ResidualCNN) and unit.levels
    expect(fits, "train", "--init", "a model with a network for noise of any level", f"one of {source.method}")
    assert isinstance(unit, ResidualCNN)
    return unit


RECIPE = register(
    Recipe(
        name="denoiser",
        summary="a module of error-controlled iterations: a network that cleans images, told how strong to be",
        Config=Config,
        Objective=Denoiser,
        examples=(
            "denoiser --data photographs --out runs/denoiser",
            "denoiser --task mri --data slices.npz --init padnet-image --out runs/mri",
            "denoiser --out runs/mri --resume",
        ),
        always=("task",),
    )
)
