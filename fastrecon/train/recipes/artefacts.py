"""What missing frequencies leave behind, taken off: `fastrecon train artefacts`, for magnetic resonance images.

A network learns to clean images in the course of the iteration that will use it (models/error_controlled.py), all of
whose steps are differentiated: only what is there at the end counts. Told the strength of each step, one network serves
in all; masks of all kinds and rates are drawn, and it is told of none. Real and imaginary part are cleaned alike. A
network that already cleans photographs (--init padnet-image) is far ahead of a new one.

Source: data consistency between networks as in Schlemper, Caballero, Hajnal, Price & Rueckert, A Deep Cascade of
Convolutional Neural Networks for Dynamic MR Image Reconstruction, IEEE Trans. Med. Imaging 37 (2018); one network for
all steps, Aggarwal, Mani & Jacob, MoDL: Model-Based Deep Learning Architecture for Inverse Problems, IEEE Trans. Med.
Imaging 38 (2019).
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fastrecon import masks, models
from fastrecon.checks import expect
from fastrecon.metrics import psnr
from fastrecon.models import ErrorControlledModel
from fastrecon.models.error_controlled import FAR, SETTINGS, Settings
from fastrecon.modules import falling
from fastrecon.networks import ScalesCNN, described, made
from fastrecon.operators import Fourier
from fastrecon.options import option
from fastrecon.solvers.base import column
from fastrecon.train.commandline import last_names
from fastrecon.train.objective import Score
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.mri_base import CropsConfig, SlicesObjective
from fastrecon.train.recipes.padnet_image import SCALES, scales_of, unit_of
from fastrecon.train.world import World

VALIDATION_SIDE = 160
PROBLEM = "mri"
KINDS = ("variable", "gaussian", "cartesian", "radial")
LEAST = 0.08  # of the frequencies, which cartesian masks take in the middle
HELD = (0.1, 0.3)  # shares of the frequencies at which it is validated, image by image
QUIET = 1e-6  # squared errors below are not worth much
TINY = 1e-6
NEAR = 0.7 * FAR  # a first answer that changes an image by more of its size is dear: it would not be taken
DEAR = 10.0  # how dear
OWN = 0.35  # of the crops keep their phase
TURNS = 4  # random numbers along a side, of which phases are smooth functions


@dataclass(frozen=True)
class Config(CropsConfig):
    """What a run computes."""

    name: str = option("name of the model", "artefacts-mri", file_name=True)
    rates: Sequence[float] = option(
        "least and largest share of sampled frequencies", (0.08, 0.4), nargs="+", type=float
    )
    noise: float = option(
        "largest standard deviation of each number of k-space, where white is 1; half of the images have none", 0.03,
        within="[0, 1]", type=float,
    )  # fmt: skip
    iterations: int = option("of the iteration", 10, within="[2, 1000]", type=int)
    init: str = option("start from the network of this model (name or file), such as padnet-image", "")
    scales: Sequence[int] = option(
        "channels of the features, the finest scale first, without --init", SCALES, nargs="+", type=int
    )
    blocks: int = option("blocks at a scale, each way, without --init", 2, within="[1, 16]", type=int)
    steps: int = option("training steps", 2000, within="[1, 1e9]", type=int)
    batch: int = option("crops in a step", 2, within="[1, 1e6]", type=int)
    lr: float = option("learning rate", 1e-4, within="(0, 1000]", type=float)
    warmup: int = option("steps over which the learning rate rises", 20, within="[0, 1e9]", type=int)
    clip: float = option("largest norm of the gradient; 0: none", 1.0, within="[0, 1e6]", type=float)
    precision: str = option("of the convolutions", "bfloat16", choices=("bfloat16", "float32"))

    def __post_init__(self):
        super().__post_init__()
        rates = tuple(float(v) for v in self.rates)
        fits = len(rates) == 2 and LEAST <= rates[0] <= rates[1] <= 1
        expect(fits, "train", "--rates", f"two numbers, {LEAST} <= LEAST <= LARGEST <= 1", list(rates))
        object.__setattr__(self, "rates", rates)
        object.__setattr__(self, "scales", scales_of(self.scales))


class Artefacts(SlicesObjective[Any]):
    """The network, its slices and their masks; see `Objective`.

    Attributes:
        settings: of the iteration.
    """

    squared_error = False
    validation_side = VALIDATION_SIDE
    config: Config

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        torch.manual_seed(config.seed)
        network: Any = ScalesCNN(config.scales, config.blocks, 1, levels=True)
        if fresh and config.init:
            network = copy.deepcopy(unit_of(models.load(config.init))).requires_grad_(True)
        self.module = network.to(world.device)
        self.quality: float | None = None
        self.settings: Settings = replace(SETTINGS[PROBLEM], iterations=config.iterations, tol=0.0)

    def drawn_mask(self, kind: str, rate: float, seed: int, size: tuple[int, int]) -> Tensor:
        """A mask [1, H, W]."""
        return masks.GENERATORS[kind](size, rate, seed)[None].to(self.world.device)

    def drawn(self) -> tuple[Tensor, Tensor, Tensor, float]:
        """An image [1, P, P], what is known of its k-space, which part of it that is, and the noise in it."""
        g, config = self.generator, self.config
        x = self.crops(1)[0]
        rate, kind, loud, power, gain, turn, own = torch.rand(7, generator=g).tolist()
        field = torch.randn(1, 1, TURNS, TURNS, generator=g) * torch.rand(1, generator=g)
        phase = 2 * math.pi * turn + interpolate(field, x.shape[-2:], mode="bicubic", align_corners=True)[0]
        phase = phase * (own > OWN)
        x = x * torch.polar(torch.full_like(phase, 1 + 0.5 * gain), phase).to(x)  # of measurements white is
        # the brightest pixel of zeros filled in
        low, high = config.rates
        size = (x.shape[-2], x.shape[-1])
        seed = int(torch.randint(2**31, (), generator=g))
        mask = self.drawn_mask(KINDS[int(len(KINDS) * kind)], low + (high - low) * rate, seed, size)
        least = min(self.settings.faint, config.noise)
        sigma = least * (config.noise / least) ** power if config.noise and loud < 0.5 else 0.0
        white = torch.view_as_complex(torch.randn(*x.shape, 2, generator=g)).to(x)
        return x, mask * (torch.fft.fft2(x, norm="ortho") + sigma * white), mask, sigma

    def iterated(self, y: Tensor, mask: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 1, H, W] of k-space y with noise [B] by the iteration, its check left out; and by how much of its
        size the first answer has changed each [B].
        """
        s, sigma = self.settings, noise.clamp_min(self.settings.faint)
        told = torch.tensor([falling(s.strengths[0], s.strengths[1] * v, s.iterations) for v in sigma.tolist()])
        x, moved = torch.fft.ifft2(y, norm="ortho"), None
        for level in told.to(y.real).T:
            rho = column((sigma.to(level) / level).square() / s.pull, x)
            k = torch.fft.fft2(x, norm="ortho")
            u = torch.fft.ifft2(torch.where(mask > 0, (y + rho * k) / (1 + rho), k), norm="ortho")
            with torch.autocast(u.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
                found = self.module(_parts(u), level.repeat(2)).float()
            off = torch.complex(*found.chunk(2))
            x = u - off
            moved = _size(off) / _size(u).clamp_min(TINY) if moved is None else moved
        assert moved is not None
        return x, moved

    def loss(self) -> Tensor:
        """Mean logarithm of squared errors, and what first answers cost that would not be taken."""
        *tensors, noise = zip(*(self.drawn() for _ in range(self.config.batch)), strict=True)
        x, y, mask = (torch.stack(t) for t in tensors)
        found, moved = self.iterated(y, mask, torch.tensor(noise))
        error = _size(found - x).square() / x[0].numel()
        return ((error + QUIET).log() + DEAR * (moved - NEAR).clamp_min(0)).mean()

    @torch.no_grad()
    def validate(self) -> Score | None:
        """Mean PSNR in dB of the moduli of validation images by the whole iteration: a mask of each kind, the same each
        time.
        """
        found, model = [], self.model({})
        for k, x in enumerate(self.held):
            for kind in KINDS:
                mask = self.drawn_mask(kind, HELD[k % len(HELD)], k, (x.shape[-2], x.shape[-1]))
                a = Fourier(mask[None])
                result = model(a(x), operator=a, history=False)
                found.append(psnr(result.x.abs().clamp(0, 1), x.abs()).item())
        self.quality = math.fsum(found) / len(found) if found else None
        return None if self.quality is None else Score("psnr", self.quality)

    def model(self, meta: dict[str, Any]) -> ErrorControlledModel:
        """The network as it is, in its iteration."""
        return ErrorControlledModel(self.module.folded().float(), PROBLEM, self.settings, meta)

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        config, quality = self.config, self.quality
        told = "none" if quality is None else f"PSNR {quality:.2f} dB"
        where = f"masks of each kind at {HELD[0]:g} or {HELD[1]:g}"
        known = {
            "training data": f"{', '.join(last_names(config.data))}, {self.counts['training']} images",
            "sampling": f"{', '.join(KINDS)}, {' to '.join(f'{v:g}' for v in config.rates)} of the frequencies",
            "noise": f"none, or {min(self.settings.faint, config.noise):g} to {config.noise:g} in k-space",
            "validation": f"{self.counts['validation']} images, {where}: {told}",
            "steps": f"{config.steps}, batch {config.batch} crops of {config.patch} x {config.patch}",
            **({"begins with": last_names([config.init])[0]} if config.init else {}),
            "seed": str(config.seed),
        }
        self.write(self.model({"name": self.name, "training": self.training(facts, RECIPE, {"facts": known})}))

    def prepare(self, state: dict[str, Any]) -> None:
        """Makes the network that of the state, which with --init may have any size."""
        self.module = made(state["network"]).to(self.world.device)

    def state_dict(self) -> dict[str, Any]:
        """As of CropObjective, and what kind of network it is."""
        return super().state_dict() | {"network": described(self.module)}


def _size(x: Tensor) -> Tensor:
    """|x| [B]."""
    return torch.linalg.vector_norm(torch.view_as_real(x), dim=(1, 2, 3, 4))


def _parts(x: Tensor) -> Tensor:
    """Real and then imaginary parts [2 B, 1, H, W]."""
    return torch.cat((x.real, x.imag))


RECIPE = register(
    Recipe(
        name="artefacts",
        summary="a module of error-controlled iterations: a network that takes off what missing frequencies leave",
        Config=Config,
        Objective=Artefacts,
        examples=(
            "artefacts --data slices.npz --init padnet-image --out runs/artefacts",
            "artefacts --out runs/artefacts --resume",
        ),
        processes=False,
    )
)
