"""A unit that refines transmissions of hazy photographs: `fastrecon train padnet-haze`.

Photographs without haze get some, of a depth that is made up: slopes and smooth fields, before them things whose edges
are edges of the photograph. The unit takes the boundary transmission and the photograph to the transmission, and is
judged by the scene that comes out. That is one iteration of the implicit PADNet, which starts there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fastrecon.checks import expect
from fastrecon.models.padnet import PADNetModel, Settings
from fastrecon.networks.guided_unit import GuidedUnit
from fastrecon.options import check, option
from fastrecon.solvers import haze, windows
from fastrecon.train import images
from fastrecon.train.commandline import last_names
from fastrecon.train.objective import Score
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.photographs_base import PhotographObjective
from fastrecon.train.schedule import Schedule
from fastrecon.train.world import World

CROPS = 2  # of each hazy photograph
VALIDATION_SIDE = 256
AIR, SCATTERING = (0.7, 1.0), (0.5, 1.5)
TINT, NOISE = 0.05, 0.01
BLEND, RIDGE = 12, 1e-2  # radius in pixels and ridge of the filter that leaves of a photograph its large parts
KNOWN = 0.3  # share of photographs whose light is known; of others it is estimated, as it will be
MAPS = 0.3  # weight of the squared error of transmissions, beside that of scenes
GOOD = 1e-4  # squared errors below, where white is 1, are not worth much
USE = Settings(variant="implicit", rho=1.0, growth=1.05, most=1, iterations=1, tol=0.0)


@dataclass(frozen=True)
class Config:
    """What a run computes."""

    data: Sequence[str] = option("folders (or files) of colour photographs without haze", nargs="+")
    validation_data: Sequence[str] = option(
        "folders (or files) of validation photographs; default: a share of --data", (), nargs="+"
    )
    validation: float = option("share of --data kept for validation", 0.05, within="[0, 1)", type=float)
    name: str = option("name of the model", "padnet-haze", file_name=True)
    layers: int = option("convolutions", 17, within="[2, 64]", type=int)
    channels: int = option("of the features", 32, within="[1, 256]", type=int)
    steps: int = option("training steps", 3000, within="[1, 1e9]", type=int)
    batch: int = option(f"crops in a step, {CROPS} of each photograph", 16, within="[1, 1e6]", type=int)
    patch: int = option("side of the crops in pixels", 128, within="[16, 65536]", type=int)
    lr: float = option("learning rate", 1e-3, within="(0, 1000]", type=float)
    decay: str = option("of the learning rate over the whole run", "cosine", choices=("cosine", "constant"))
    warmup: int = option("steps over which the learning rate rises", 100, within="[0, 1e9]", type=int)
    clip: float = option("largest norm of the gradient; 0: none", 10.0, within="[0, 1e6]", type=float)
    precision: str = option("of the convolutions", "bfloat16", choices=("bfloat16", "float32"))
    seed: int = option("of the unit, the split, the crops and the haze", 0, within="[0, 2147483647]", type=int)
    validate_every: int = option(
        "steps between validations and checkpoints; default: a fortieth of the run", 0, within="[0, 1e9]", type=int
    )

    def __post_init__(self):
        check(self, "train")
        fits = self.batch % CROPS == 0
        expect(fits, "train", "--batch", f"a multiple of {CROPS}", self.batch)

    def schedule(self) -> Schedule:
        """Steps and learning rates."""
        every = self.validate_every or max(1, min(500, self.steps // 40))
        return Schedule(self.steps, self.lr, self.decay, self.warmup, self.clip, 0.0, every)


@dataclass(frozen=True)
class Scene:
    """A photograph [1, 3, H, W] without haze, and its large parts, of which depths are made."""

    photograph: Tensor
    parts: Tensor

    @classmethod
    def of(cls, pixels: np.ndarray) -> "Scene":
        """Of pixels [H, W, 3] or [H, W] on [0, 1]."""
        a = torch.from_numpy(np.ascontiguousarray(pixels)).float()
        x = (a.expand(3, *a.shape) if a.ndim == 2 else a.movedim(-1, 0))[None].contiguous()
        parts = [windows.guided(c, c, BLEND, RIDGE) for c in x.split(1, 1)]
        return cls(x, torch.cat(parts, 1))


class Draws:
    """Random numbers of haze, from one generator."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Numbers in [low, high)."""
        return low + (high - low) * torch.rand(shape, generator=self.generator)

    def number(self, low: float, high: float) -> float:
        """One."""
        return self.uniform(low, high, 1).item()

    def field(self, size: Sequence[int]) -> Tensor:
        """A slope over [H, W] on [0, 1], towards any side, most often up, and as often with smooth hills on it."""
        h, w = size
        angle = 0.0 if self.number(0, 1) < 0.6 else self.number(-math.pi, math.pi)
        rows, columns = torch.linspace(1, 0, h)[:, None], torch.linspace(-0.5, 0.5, w)
        a = math.cos(angle) * rows + math.sin(angle) * columns
        if self.number(0, 1) < 0.5:
            hills = self.uniform(0, 1, 1, 1, 4, 5)
            a = a + self.number(0, 1) * interpolate(hills, size=(h, w), mode="bicubic", align_corners=True)[0, 0]
        low, high = a.amin(), a.amax()
        return (a - low) / (high - low).clamp_min(1e-6)

    def depth(self, scene: Scene) -> Tensor:
        """[H, W], about on [0, 1]: a field, before it up to three things that end where parts of the photograph do."""
        a = self.field(scene.photograph.shape[-2:])
        for _ in range(int(self.number(0, 4))):
            direction = self.uniform(-1, 1, 3)
            value = (scene.parts[0] * direction[:, None, None]).sum(0)
            cut = value.flatten()[:: max(1, value.numel() // 1000)].quantile(self.number(0.2, 0.8)).item()
            width = self.number(0.005, 0.03)  # of the edge, in units of the photograph
            inside = torch.sigmoid((value - cut) / width)
            near = self.number(0, 0.7) + self.number(0, 0.3) * self.field(a.shape)
            a = torch.lerp(a, torch.minimum(a, near) if self.number(0, 1) < 0.7 else near, inside)
        return a

    def haze(self, scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
        """The photograph with haze, its transmission, and the light of the air."""
        near, far = self.number(0, 0.4), self.number(0.6, 1.8)
        optical = self.number(*SCATTERING) * (near + (far - near) * self.depth(scene))
        light = (self.number(*AIR) + TINT * self.uniform(-1, 1, 1, 3, 1, 1)).clamp(0.6, 1)
        t = torch.exp(-optical)[None, None]
        x = haze.hazy(scene.photograph, t, light)
        noise = torch.randn(x.shape, generator=self.generator)
        x = (x + self.number(0, NOISE) * noise).clamp(0, 1)
        return (255 * x).round() / 255, t, light


def known_light(photograph: Tensor) -> Tensor:
    """The light as it is estimated, never so dark that it cannot be."""
    return haze.airlight(photograph).clamp_min(haze.DARKEST + 0.1)


def asked(photograph: Tensor, light: Tensor) -> Tensor:
    """What the unit is given [B, 4, H, W]: the boundary transmission and its guide."""
    return torch.cat((haze.boundary(photograph, light), haze.guide(photograph, light)), 1)


class HazeUnit(PhotographObjective[GuidedUnit]):
    """A unit and its hazy photographs; see `Objective`."""

    squared_error = False
    config: Config

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        training, held = self.photographs(Scene.of)
        self.scenes = [s for s in training if min(s.photograph.shape[-2:]) >= config.patch]
        expect(len(self.scenes) > 0, "train", "--patch", "no larger than the photographs", config.patch)
        self.held = [self._validated(s, k) for k, s in enumerate(held)]
        self.counts = {"training": len(self.scenes), "validation": len(self.held)}
        self.draws = Draws(config.seed)
        self.generator = self.draws.generator
        torch.manual_seed(config.seed)
        self.module = GuidedUnit(config.layers, config.channels).to(world.device)
        self.digest = images.digest([s.photograph for s in self.scenes])

    @staticmethod
    def _validated(scene: Scene, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """What the unit is asked, light and scene, of the middle of a photograph, with the same haze each time."""
        photograph, _, _ = Draws(seed).haze(scene)
        light = known_light(photograph)
        parts = asked(photograph, light), photograph, scene.photograph
        v, photograph, truth = (images.central(t, VALIDATION_SIDE).contiguous() for t in parts)
        return torch.cat((v, photograph), 1), light, truth

    def batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What the unit is asked [B, 4, P, P], hazy crops, true ones, transmissions and lights."""
        config, found = self.config, []
        for _ in range(config.batch // CROPS):
            scene = self.scenes[int(self.draws.number(0, len(self.scenes)))]
            photograph, t, air = self.draws.haze(scene)
            light = air if self.draws.number(0, 1) < KNOWN else known_light(photograph)
            whole = torch.cat((photograph, scene.photograph, t), 1)
            for _ in range(CROPS):
                top, left = (int(self.draws.number(0, n - config.patch + 1)) for n in whole.shape[-2:])
                crop = whole[..., top : top + config.patch, left : left + config.patch]
                crop = crop.flip(-1) if self.draws.number(0, 1) < 0.5 else crop
                found.append((*crop.split((3, 3, 1), 1), light))
        share = slice(self.world.rank, None, self.world.size)
        photo, truth, true, light = (torch.cat(t).to(self.world.device) for t in zip(*found[share], strict=True))
        return asked(photo, light), photo, truth, true, light

    def refined(self, v: Tensor) -> Tensor:
        """Transmissions [B, 1, H, W]: the first iteration."""
        low = self.config.precision == "bfloat16"
        with torch.autocast(v.device.type, torch.bfloat16, enabled=low):
            g = self.module(v)
        return v[:, :1] - g[:, :1].float()

    def loss(self) -> Tensor:
        """The mean over the crops of the logarithm of squared errors, of scenes and, in part, of transmissions.

        Their mean would be that of the few whose light is far off, which no transmission mends.
        """
        v, photo, truth, true, light = self.batch()
        t = self.refined(v)
        found = (photo - light) / t.clamp_min(haze.FLOOR) + light
        error = (found - truth).square().mean((1, 2, 3)) + MAPS * (t - true).square().mean((1, 2, 3))
        return (error + GOOD).log().mean()

    @torch.no_grad()
    def validate(self) -> Score | None:
        """Mean PSNR in dB of scenes, by the unit as it will be used."""
        unit, total = self.module.folded(), 0.0
        for both, light, truth in self.held:
            v, photograph = both.split((4, 3), 1)
            t = v[:, :1] - unit(v.to(self.world.device))[:, :1].cpu()
            error = haze.radiance(photograph, t, light).clamp(0, 1) - truth
            total -= 10 * math.log10(max(error.square().mean().item(), 1e-12))
        return Score("psnr", total / len(self.held)) if self.held else None

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        config = self.config
        told = {
            "training data": f"{', '.join(last_names(config.data))}, {self.counts['training']} photographs",
            "validation": f"{self.counts['validation']} photographs, PSNR {facts.get('validation_psnr')} dB",
        }
        training = self.training(facts, RECIPE, told)
        unit = self.module.folded().cpu()
        self.write(PADNetModel([[unit]], "dehaze", USE, {"name": self.name, "training": training}))


RECIPE = register(
    Recipe(
        "padnet-haze",
        "the unit of PADNet that refines transmissions of hazy photographs",
        Config,
        HazeUnit,
        examples=(
            "padnet-haze --data photos --out runs/haze",
            "padnet-haze --out runs/haze --resume",
        ),
        timed=True,
    )
)
