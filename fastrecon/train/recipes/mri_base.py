"""What all trainings for magnetic resonance imaging share: settings, slices, masks drawn for every crop, validation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastrecon import io, masks
from fastrecon.io.slices import SUFFIXES
from fastrecon.metrics import psnr
from fastrecon.models.base import Model
from fastrecon.operators import Fourier, LinearOperator
from fastrecon.options import check, option
from fastrecon.train import images
from fastrecon.train.crop_objective import CropObjective
from fastrecon.train.objective import Score
from fastrecon.train.progress import track
from fastrecon.train.schedule import Schedule
from fastrecon.train.world import World

VALIDATION_SIDE = 256  # pixels: validation images are cropped to at most so many
SHARES = 1000  # steps of --mask-share

M = TypeVar("M", bound=Model)
N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class CropsConfig:
    """What a run on crops of slices computes, whatever is made of them."""

    data: Sequence[str] = option(
        "folders, image files, or .npz and .npy files with arrays [H, W] or [N, H, W], real or complex", nargs="+"
    )
    validation_data: Sequence[str] = option("such of validation images; default: a share of --data", (), nargs="+")
    validation: float = option("share of the images of --data kept for validation", 0.05, within="[0, 1)", type=float)
    name: str = option("name of the model; default: METHOD-mri-RATE, in per cent", "", file_name=True)
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
    validate_every: int = option(
        "steps between validations and checkpoints; default: a fiftieth of the run", 0, within="[0, 1e9]", type=int
    )

    def __post_init__(self):
        check(self, "train")

    def schedule(self) -> Schedule:
        """Steps and learning rates."""
        every = self.validate_every or max(1, min(1000, self.steps // 50))
        return Schedule(self.steps, self.lr, self.decay, self.warmup, self.clip, self.ema, every)


@dataclass(frozen=True)
class SlicesConfig(CropsConfig):
    """What a run at one rate computes."""

    rate: float = option("share of sampled frequencies", 0.2, within="(0, 1]", type=float)
    sampling: str = option("which frequencies are sampled", "radial", choices=tuple(masks.GENERATORS))
    mask: Sequence[str] = option(
        "masks of --patch x --patch frequencies that crops are sampled by, one each: images, .npy or FILE.npz:NAME, the"
        " zero frequency in the corner or in the middle", (), nargs="+",
    )  # fmt: skip
    mask_share: float = option(
        "share of the crops that --mask samples; the others get drawn masks", 1.0, within="[0, 1]", type=float
    )
    noise: float = option(
        "standard deviation of each real number of k-space, where the brightest pixel is 1", 0.0, within="[0, 10]",
        type=float,
    )  # fmt: skip


@dataclass(frozen=True)
class MRIConfig(SlicesConfig):
    """What a run computes."""

    phases: int = option("phases of the finished network", 11, within="[1, 1000]", type=int)
    init: str = option(
        "start from the network of this model (name or file), say of another rate; of lda-mri also a prior", ""
    )


class SlicesObjective(CropObjective[N]):
    """A network and slices; see `Objective`."""

    config: Any

    def kind(self) -> torch.dtype:
        """Complex."""
        return torch.complex64

    def read(self) -> images.Images:
        """Slices, real or complex."""
        quiet = self.world.rank > 0
        return images.Images(slices_of(self.config.data, quiet), slices_of(self.config.validation_data, quiet))


class MRIObjective(SlicesObjective[M]):
    """A model for MRI, its slices and masks; see `Objective`."""

    validation_side = VALIDATION_SIDE

    def __init__(self, config: Any, world: World, folder: Path, fresh: bool = True):
        size = (config.patch, config.patch)
        given = (io.low_frequencies(io.read_mask(path, size), False)[0] for path in config.mask)
        self.masks = [torch.from_numpy(m).float() for m in given]
        super().__init__(config, world, folder, fresh)

    def measured(self, x: Tensor, generator: torch.Generator) -> tuple[Fourier, Tensor]:
        """A mask an image, given or drawn, and the noisy samples under it."""
        config, size = self.config, (x.shape[-2], x.shape[-1])
        seeds = torch.randint(2**31, (len(x),), generator=generator).tolist()
        mask = torch.stack([self._mask(size, seed) for seed in seeds])[:, None].to(x.real)
        a = Fourier(mask).to(x.device)
        noise = torch.view_as_complex(torch.randn(*x.shape, 2, generator=generator)).to(x)
        return a, a(x) + config.noise * mask * noise

    def _mask(self, size: tuple[int, int], seed: int) -> Tensor:
        """One of --mask in its share of all seeds, where it is of that size; else a drawn one."""
        fitting = [m for m in self.masks if m.shape == size]
        if fitting and seed % SHARES < self.config.mask_share * SHARES:
            return fitting[seed // SHARES % len(fitting)]
        return masks.GENERATORS[self.config.sampling](size, self.config.rate, seed)

    @torch.no_grad()
    def batch_of(self, world: World) -> tuple[LinearOperator, Tensor, Tensor]:
        """The operator, images and measurements of this process's share of the next batch, divided as in inference."""
        x = self.crops(self.config.batch)
        a, y = self.measured(x, self.generator)
        white = a.apply_adjoint(y).abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
        mine = torch.arange(world.rank, len(x), world.size, device=x.device)
        return a.take(mine), (x / white)[mine], (y / white)[mine]

    @torch.no_grad()
    def validate(self) -> Score | None:
        """Mean PSNR in dB of the moduli of validation images as in inference, the same masks each time."""
        return self.quality(self.module) if self.held else None

    def quality(self, model: Model, **options: Any) -> Score:
        """That of `validate`, of any model."""
        found = []
        for k, x in enumerate(self.held):
            a, y = self.measured(x, torch.Generator().manual_seed(k))
            result = model(y, a, **options)
            found.append(psnr(result.x.abs().clamp(0, 1), x.abs()).item())
        return Score("psnr", math.fsum(found) / len(found))


def slices_of(inputs: Sequence[str], quiet: bool) -> list[Tensor]:
    """Images [H, W], complex64, each of largest modulus 1; those that are 0 throughout are left out."""
    paths = io.expand(inputs, (*io.IMAGE_SUFFIXES, *SUFFIXES))
    found: list[Tensor] = []
    for path in track(paths, "reading images", len(paths), "file", quiet or not paths):
        several = io.read_slices(path) if path.suffix.lower() in SUFFIXES else [io.read_image(path).pixels]
        found += [torch.from_numpy(i).to(torch.complex64) for i in several]
    return [i / i.abs().max() for i in found if bool(i.abs().max() > 0)]
