"""D-LADMM for images with salt-and-pepper noise, and the recipe of both its trainings: `fastrecon train dladmm`."""

import copy
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon import models
from fastrecon.checks import expect
from fastrecon.metrics import psnr
from fastrecon.models import PatchDenoiser, SparseCoder
from fastrecon.noise import salt_and_pepper
from fastrecon.solvers import DLADMM
from fastrecon.solvers.ladmm import Splitting
from fastrecon.train import images
from fastrecon.train.commandline import last_names
from fastrecon.train.dictionary import learn_dictionary
from fastrecon.train.objective import Objective, Score
from fastrecon.train.progress import say
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.dladmm_base import SYNTHETIC, Config, Layers
from fastrecon.train.recipes.synthetic import Synthetic
from fastrecon.train.world import World

VALIDATION_PATCHES = 32  # a side: validation images are cropped to so many patches
# What a checkpoint may call the problem and the model, from before both had the names of today.
FORMER = {"synthetic": ("sparse-coding", "dladmm-synthetic"), "denoise": ("impulse", "dladmm-saltpepper")}


class Denoise(Layers[Tensor]):
    """Salt-and-pepper denoising of patches: a dictionary learned from clean patches, then the layers from noisy ones.

    The truth of Z is not known, but that of A Z is: the supervised loss is |A Z - clean patch|^2 / m. `fresh` learns
    the dictionary, or reads config.init.
    """

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        dtype = getattr(torch, config.dtype)
        found = images.Images.load(config.data, config.validation_data, quiet=world.rank > 0)
        found = found.hold(config.validation, config.seed)
        self.counts = found.counts
        self.crops = images.Crops(found.training, config.patch, config.seed, world.device, dtype)
        cropped = (images.central(i, VALIDATION_PATCHES * config.patch) for i in found.held)
        self.held = [i[None, None].to(world.device, dtype) for i in cropped]
        start = self._start(config, world) if fresh else None
        atoms = torch.eye(config.patch**2, config.atoms) if start is None else start.a.atoms
        facts = {"share": config.share, "patch": config.patch}
        super().__init__(config, world, folder, fresh, atoms, PatchDenoiser, facts)
        if start is not None and config.init:
            self.module.solver.load_state_dict(start.state_dict())

    def _start(self, config: Config, world: World) -> DLADMM:
        """The dictionary, or the network of config.init."""
        if config.init:
            source, shape = models.load(config.init), (config.patch**2, config.atoms, config.layers)
            expected = f"a D-LADMM model of --patch, --atoms, --layers {shape}"
            expect(isinstance(source, SparseCoder), "train", "--init", expected, config.init)
            assert isinstance(source, SparseCoder)
            fits = (*source.solver.a.atoms.shape, source.solver.layers) == shape
            expect(fits, "train", "--init", expected, config.init)
            return source.solver
        sampler = copy.copy(self.crops)  # the same images, another sequence
        sampler.generator = torch.Generator().manual_seed(config.seed)
        if world.rank == 0:
            say(f"learning a dictionary of {config.atoms} atoms from {config.dictionary_patches} patches")
        patches = sampler(config.dictionary_patches).flatten(1).cpu()
        return DLADMM(learn_dictionary(patches, config.atoms, config.sparsity, 1.0, seed=config.seed), layers=1)

    @property
    def data(self) -> str:
        """Its images."""
        return f"{self.counts['training']} training and {self.counts['validation']} validation images"

    def batch(self) -> tuple[Tensor, Tensor]:
        """Noisy patches [N, m] and the clean ones."""
        clean = self.crops(self.config.batch).flatten(1)
        noisy = salt_and_pepper(clean, self.config.share, self.generator)  # of the whole batch in every process
        share = slice(self.world.rank, None, self.world.size)
        return noisy[share].contiguous(), clean[share]

    def error(self, s: Splitting, truth: Tensor) -> Tensor:
        """Mean squared error of A Z."""
        return (s.az - truth).square().mean()

    def relative_error(self, s: Splitting, truth: Tensor) -> Tensor:
        """|A Z - clean patch|^2 / |clean patch|^2 over the batch."""
        return (s.az - truth).square().sum() / truth.square().sum()

    @torch.no_grad()
    def validate(self) -> Score | None:
        """Mean PSNR in dB over the validation images, the same noise each time."""
        found = []
        for k, x in enumerate(self.held):
            noisy = salt_and_pepper(x, self.config.share, torch.Generator().manual_seed(k))
            found.append(psnr(self.module(noisy).x.clamp(0, 1), x).item())
        return Score("psnr", math.fsum(found) / len(found)) if found else None

    def facts(self) -> dict[str, Any]:
        """Its images, for the card."""
        names = last_names(self.config.validation_data) or f"{self.config.validation:g} of the images"
        return {"data": last_names(self.config.data), "images": self.counts, "validation_data": names}

    def save(self, path: Path) -> None:
        """Writes the model, its matrices in half precision: the dictionary is large."""
        self.module.save(path, half=True)

    def state_dict(self) -> dict[str, Any]:
        """Network, generators, and what tells whether the images are the same on resumption."""
        return super().state_dict() | {"crops": self.crops.state_dict(), "digest": self.crops.digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`.

        Raises:
            ValueError: the training images are not those of the checkpoint.
        """
        images.expect_same(state, self.crops.digest)
        self.module = self.network(state["module"]["solver.a.atoms"])
        super().load_state_dict(state)
        self.crops.load_state_dict(state["crops"])


def objective(config: Config, world: World, folder: Path, fresh: bool = True) -> Objective:
    """The training of the problem."""
    kind = Synthetic if config.problem == "sparse-coding" else Denoise
    return kind(config, world, folder, fresh)


def upgrade(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a checkpoint as they are called now."""
    found = dict(settings)
    if found.get("task") not in FORMER:
        return found
    problem, name = FORMER[found.pop("task")]
    if "noise" in found:
        found["share"] = found.pop("noise")
    return found | {"problem": problem, "name": found.get("name") or name}


RECIPE = register(
    Recipe(
        "dladmm",
        "D-LADMM for sparse coding or salt-and-pepper denoising",
        Config,
        objective,
        examples=(
            "dladmm --problem sparse-coding --out runs/synthetic",
            "dladmm --problem impulse --data train400 --lr 0.03 --steps 4000 --out runs/saltpepper",
        ),
        contents="model.safetensors, card, figure and table",
        presets={"sparse-coding": SYNTHETIC},
        preset_of="problem",
        always=("problem",),
        renamed={"task": "problem", "noise": "share"},
        upgrade=upgrade,
    )
)
