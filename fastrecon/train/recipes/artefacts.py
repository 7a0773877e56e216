"""What missing frequencies leave behind, taken off: `fastrecon train artefacts`, for magnetic resonance images.

A network learns to clean images in the course of the iteration that will use it (models/error_controlled.py): it sees
what data and its own last answer give, and is told the strength of that iteration. So one network serves in every
iteration; masks of all kinds and rates are drawn, and it is told of none. Real and imaginary part are cleaned alike.
A network that already cleans photographs (--init padnet-image) is far ahead of a new one.

Source: data consistency between networks as in Schlemper, Caballero, Hajnal, Price & Rueckert, A Deep Cascade of
Convolutional Neural Networks for Dynamic MR Image Reconstruction, IEEE Trans. Med. Imaging 37 (2018).
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fastrecon import masks, models
from fastrecon.checks import expect
from fastrecon.metrics import psnr
from fastrecon.models import ErrorControlledModel
from fastrecon.models.error_controlled import Settings
from fastrecon.modules import falling
from fastrecon.networks import ResidualCNN, described, made
from fastrecon.operators import Fourier
from fastrecon.options import check, option
from fastrecon.solvers.base import column
from fastrecon.train import images
from fastrecon.train.commandline import last_names
from fastrecon.train.crop_objective import CropObjective
from fastrecon.train.objective import Score
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.mri_base import slices_of
from fastrecon.train.recipes.padnet_image import WIDER, unit_of
from fastrecon.train.schedule import Schedule
from fastrecon.train.world import World

VALIDATION_SIDE = 160
KINDS = ("variable", "gaussian", "cartesian", "radial")
LEAST = 0.08  # of the frequencies, which cartesian masks take in the middle
HELD = (0.1, 0.3)  # shares of the frequencies at which it is validated, image by image
LOUD = 1.3  # squared errors are weighed by the inverse of this power of what is to be taken off
QUIET = 3e-3  # errors below are not worth much
TURNS = 4  # random numbers along a side, of which phases are smooth functions
# of the iteration; see docs/own-denoiser.md
SETTINGS = Settings(strengths=(0.15, 1.0), pull=30.0, step=0.01, iterations=10, tol=0.0)


@dataclass(frozen=True)
class Config:
    """What a run computes."""

    data: Sequence[str] = option(
        "folders, image files, or .npz and .npy files with arrays [H, W] or [N, H, W], real or complex", nargs="+"
    )
    validation_data: Sequence[str] = option("such of validation images; default: a share of --data", (), nargs="+")
    validation: float = option("share of the images of --data kept for validation", 0.03, within="[0, 1)", type=float)
    name: str = option("name of the model", "artefacts-mri", file_name=True)
    rates: Sequence[float] = option(
        "least and largest share of sampled frequencies", (0.08, 0.4), nargs="+", type=float
    )
    noise: float = option(
        "largest standard deviation of each number of k-space, where white is 1; half of the images have none", 0.03,
        within="[0, 1]", type=float,
    )  # fmt: skip
    init: str = option("start from the network of this model (name or file), such as padnet-image", "")
    channels: int = option("of the features, without --init", 64, within="[1, 512]", type=int)
    steps: int = option("training steps", 2000, within="[1, 1e9]", type=int)
    batch: int = option("crops in a step", 2, within="[1, 1e6]", type=int)
    patch: int = option("side of the crops in pixels", 96, within="[8, 65536]", type=int)
    lr: float = option("learning rate", 3e-4, within="(0, 1000]", type=float)
    decay: str = option("of the learning rate over the whole run", "cosine", choices=("cosine", "constant"))
    warmup: int = option("steps over which the learning rate rises", 20, within="[0, 1e9]", type=int)
    clip: float = option("largest norm of the gradient; 0: none", 1.0, within="[0, 1e6]", type=float)
    precision: str = option("of the convolutions", "bfloat16", choices=("bfloat16", "float32"))
    seed: int = option("of the network, the split, the crops and the masks", 0, within="[0, 2147483647]", type=int)
    validate_every: int = option(
        "steps between validations and checkpoints; default: a twentieth of the run", 0, within="[0, 1e9]", type=int
    )

    def __post_init__(self):
        check(self, "train")
        rates = tuple(float(v) for v in self.rates)
        fits = len(rates) == 2 and LEAST <= rates[0] <= rates[1] <= 1
        expect(fits, "train", "--rates", f"two numbers, {LEAST} <= LEAST <= LARGEST <= 1", list(rates))
        object.__setattr__(self, "rates", rates)

    def schedule(self) -> Schedule:
        """Steps and learning rates."""
        every = self.validate_every or max(1, min(500, self.steps // 20))
        return Schedule(self.steps, self.lr, self.decay, self.warmup, self.clip, 0.0, every)


class Artefacts(CropObjective[Any]):
    """The network, and images on their way; see `Objective`.

    Attributes:
        truth, x: images [B, 1, P, P] and where each of them stands.
        y, mask: their k-space and what is known of it.
        noise: in it [B].
        age: iterations [B] done; an image of full age gives way to another.
    """

    squared_error = False
    validation_side = VALIDATION_SIDE
    config: Config
    WAY = ("truth", "x", "y", "mask", "noise", "age")

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        torch.manual_seed(config.seed)
        # without normalisation: what is to be taken off falls a hundredfold on the way
        network: Any = ResidualCNN(len(WIDER), config.channels, 1, levels=True, dilations=WIDER, folded=True)
        if fresh and config.init:
            network = copy.deepcopy(unit_of(models.load(config.init))).requires_grad_(True)
        self.module = network.to(world.device)
        self.quality: float | None = None
        count, full = config.batch, SETTINGS.iterations
        empty = torch.zeros(count, 1, config.patch, config.patch, dtype=torch.complex64, device=world.device)
        self.truth, self.x, self.y, self.mask = (empty.clone() for _ in range(4))
        self.mask = self.mask.real.contiguous()
        self.noise, self.age = torch.zeros(count, dtype=torch.float64), torch.full((count,), full)
        self.begun = not fresh

    def kind(self) -> torch.dtype:
        """Complex."""
        return torch.complex64

    def read(self) -> images.Images:
        """Slices, real or complex."""
        quiet = self.world.rank > 0
        return images.Images(slices_of(self.config.data, quiet), slices_of(self.config.validation_data, quiet))

    def drawn_mask(self, kind: str, rate: float, seed: int, size: tuple[int, int]) -> Tensor:
        """A mask [1, H, W]."""
        return masks.GENERATORS[kind](size, rate, seed)[None].to(self.world.device)

    def _renew(self, i: int) -> None:
        """Another image in the place of the i-th."""
        g, config = self.generator, self.config
        x = self.crops(1)[0]
        rate, kind, loud, power, gain, turn = torch.rand(6, generator=g).tolist()
        field = torch.randn(1, 1, TURNS, TURNS, generator=g) * torch.rand(1, generator=g)
        phase = 2 * math.pi * turn + interpolate(field, x.shape[-2:], mode="bicubic", align_corners=True)[0]
        x = x * torch.polar(torch.full_like(phase, 1 + 0.5 * gain), phase).to(x)  # images of one phase are rare, and
        # of measurements white is the brightest pixel of zeros filled in
        low, high = config.rates
        size = (x.shape[-2], x.shape[-1])
        seed = int(torch.randint(2**31, (), generator=g))
        mask = self.drawn_mask(KINDS[int(len(KINDS) * kind)], low + (high - low) * rate, seed, size)
        least = min(SETTINGS.faint, config.noise)
        sigma = least * (config.noise / least) ** power if config.noise and loud < 0.5 else 0.0
        white = torch.view_as_complex(torch.randn(*x.shape, 2, generator=g)).to(x)
        self.truth[i], self.mask[i], self.noise[i], self.age[i] = x, mask, sigma, 0
        self.y[i] = mask * (torch.fft.fft2(x, norm="ortho") + sigma * white)
        self.x[i] = torch.fft.ifft2(self.y[i], norm="ortho")

    def _asked(self) -> tuple[Tensor, Tensor]:
        """What the network is to clean, A_f of models/error_controlled.py, and the strength [B] that it is told."""
        s, sigma = SETTINGS, self.noise.clamp_min(SETTINGS.faint)
        told = torch.tensor([
            falling(s.strengths[0], s.strengths[1] * v, s.iterations)[k]
            for v, k in zip(sigma.tolist(), self.age.tolist(), strict=True)
        ], dtype=torch.float64)  # fmt: skip
        rho = column((sigma / told).square() / s.pull, self.x).to(self.mask)
        k = torch.fft.fft2(self.x, norm="ortho")
        k = torch.where(self.mask > 0, (self.y + rho * k) / (1 + rho), k)
        return torch.fft.ifft2(k, norm="ortho"), told.to(self.mask)

    def loss(self) -> Tensor:
        """Mean squared error of what is to be taken off, in units of what is usual for its size."""
        full = SETTINGS.iterations
        for i in range(len(self.age)):
            if self.age[i] == full:
                self._renew(i)
                if not self.begun:  # images are of all ages from the first step on
                    self.age[i] = i * full // len(self.age)
        self.begun = True
        u, told = self._asked()
        e = _parts(u - self.truth)
        with torch.autocast(u.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            found = self.module(_parts(u), torch.cat((told, told))).float()
        with torch.no_grad():
            self.x = u - torch.complex(*found.chunk(2))
        self.age += 1
        level = e.square().mean((1, 2, 3)).sqrt().clamp_min(QUIET)
        return ((found - e).square().mean((1, 2, 3)) / level.pow(LOUD)).mean()

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
        return ErrorControlledModel(self.module.folded().float(), "mri", SETTINGS, meta)

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        config, quality = self.config, self.quality
        told = "none" if quality is None else f"PSNR {quality:.2f} dB"
        where = f"masks of each kind at {HELD[0]:g} or {HELD[1]:g}"
        known = {
            "training data": f"{', '.join(last_names(config.data))}, {self.counts['training']} images",
            "sampling": f"{', '.join(KINDS)}, {' to '.join(f'{v:g}' for v in config.rates)} of the frequencies",
            "noise": f"none, or {min(SETTINGS.faint, config.noise):g} to {config.noise:g} in k-space",
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
        """As of CropObjective, and the images on their way."""
        way = {n: getattr(self, n).clone() for n in self.WAY}
        return super().state_dict() | {"network": described(self.module), "way": way, "begun": self.begun}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`; see `Objective`."""
        super().load_state_dict(state)
        for name, t in state["way"].items():
            setattr(self, name, t.to(getattr(self, name)))
        self.begun = bool(state["begun"])


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
