"""D-LADMM as a task of the training loop: what its two kinds share, and salt-and-pepper denoising."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon import models
from fastrecon.checks import expect
from fastrecon.metrics import psnr
from fastrecon.models.card import dladmm_card
from fastrecon.models.sparse_coding import PatchDenoiser, SparseCoder
from fastrecon.noise import salt_and_pepper
from fastrecon.solvers import DLADMM
from fastrecon.solvers.ladmm import Splitting
from fastrecon.train import data
from fastrecon.train.commandline import command, last_names
from fastrecon.train.dictionary import learn_dictionary
from fastrecon.train.dladmm_config import DladmmConfig
from fastrecon.train.dladmm_loss import gap, gap_literal, weighted
from fastrecon.train.export import write_pair
from fastrecon.train.progress import say
from fastrecon.train.world import World

PLACES = ("data", "validation_data", "init")
VALIDATION_PATCHES = 32  # a side: validation images are cropped to so many patches


class DladmmTask:
    """Network, generator, losses, files; a subclass gives batches with their truth, and validation.

    Args:
        config: settings.
        world: the processes of this run, and the device.
        atoms: A [m, d].
        model: SparseCoder or PatchDenoiser.
        facts: about the model, for its file.
    """

    metric: str = "psnr"
    sign: int = 1

    def __init__(
        self, config: DladmmConfig, world: World, atoms: Tensor, model: type[SparseCoder], facts: dict[str, Any]
    ):
        self.config, self.world, self.dtype = config, world, getattr(torch, config.dtype)
        torch.manual_seed(config.seed)
        solver = DLADMM(
            atoms.to(self.dtype), config.lam, layers=config.layers, beta=config.beta, e_update=config.e_update,
            per_row=config.per_row, noise=config.start_noise, radius=config.radius,
        )  # fmt: skip
        self.module = model(solver, {"name": self.name, "lam": config.lam} | facts).to(world.device)
        self.generator = torch.Generator().manual_seed(config.seed + 1)

    @property
    def name(self) -> str:
        """The model's name."""
        raise NotImplementedError

    @property
    def squared_error(self) -> bool:
        """Whether the loss is one, and has a PSNR."""
        return self.config.loss == "supervised"

    def batch(self) -> tuple[Tensor, Any]:
        """This process's share of the next samples [N, m], and their truth."""
        raise NotImplementedError

    def error(self, s: Splitting, truth: Any) -> Tensor:
        """The supervised loss of one layer."""
        raise NotImplementedError

    def relative_error(self, s: Splitting, truth: Any) -> Tensor:
        """The same relative to the truth, whose logarithm weighs every layer alike however small its error is."""
        raise NotImplementedError

    def prepare(self, step: int) -> bool:
        """Projects what the last step changed; the network never grows."""
        if self.config.constrain:
            self.module.solver.project()
        return False

    def loss(self) -> Tensor:
        """Of the next batch, over the layers that count."""
        x, truth = self.batch()
        return weighted(self._losses(x, truth), self.config.deep)

    def _losses(self, x: Tensor, truth: Any) -> Iterator[Tensor]:
        solver = self.module.solver
        for s in solver.states(x, last=self.config.deep == 0):
            if self.config.loss == "supervised":
                yield self.error(s, truth)
            elif self.config.loss == "decibel":
                yield 10 * torch.log10(self.relative_error(s, truth))
            else:
                yield (gap if self.config.loss == "gap" else gap_literal)(s, x, solver.a.atoms, solver.lam)

    def describe(self) -> str:
        """The network in a word."""
        return f"K={self.config.layers}"

    def facts(self) -> dict[str, Any]:
        """What the card tells about the data."""
        return {}

    def export(self, folder: Path, facts: dict[str, Any]) -> None:
        """model.safetensors and its card."""
        if self.config.constrain:
            self.module.solver.project()
        settings = {k: v for k, v in dataclasses.asdict(self.config).items() if k not in PLACES}
        told = {"command": command(self.config, "dladmm", ("task",)), "settings": settings}
        self.module.meta["training"] = facts | self.facts() | told
        card, page = self.card(folder)
        save = partial(self.module.save, half=isinstance(self.module, PatchDenoiser))
        write_pair(folder / "model.safetensors", save, card, page(self.module.meta))

    def card(self, folder: Path) -> tuple[Path, Callable[[dict[str, Any]], str]]:
        """The card's file, and what makes its text."""
        return folder / f"{self.name}.md", dladmm_card

    def state_dict(self) -> dict[str, Any]:
        """Network and generator."""
        return {"module": self.module.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        self.module.load_state_dict(state["module"])
        self.generator.set_state(state["generator"])


class Denoise(DladmmTask):
    """Salt-and-pepper denoising of patches: a dictionary learned from clean patches, then the layers from noisy ones.

    The truth of Z is not known, but that of A Z is: the supervised loss is |A Z - clean patch|^2 / m.

    Args:
        config, world: see DladmmTask.
        fresh: whether to learn the dictionary (or read config.init); false if a checkpoint brings it.
    """

    def __init__(self, config: DladmmConfig, world: World, fresh: bool = True):
        self.config = config
        images, held = data.load_and_hold(
            config.data, config.validation_data, config.validation, config.seed, quiet=world.rank > 0
        )
        self.images = {"training": len(images), "validation": len(held)}
        self.crops = data.Crops(images, config.patch, config.seed, world.device, getattr(torch, config.dtype))
        self.held = [_central(i, config.patch)[None, None].to(world.device, getattr(torch, config.dtype)) for i in held]
        self.world = world
        start = self._start(fresh)
        atoms = torch.eye(config.patch**2, config.atoms) if start is None else start.a.atoms
        facts = {"task": "salt-and-pepper", "noise": config.noise, "patch": config.patch}
        super().__init__(config, world, atoms, PatchDenoiser, facts)
        if start is not None and config.init:
            self.module.solver.load_state_dict(start.state_dict())

    def _start(self, fresh: bool) -> DLADMM | None:
        config = self.config
        if not fresh:
            return None
        if config.init:
            solver = models.load(config.init).solver
            shape = (config.patch**2, config.atoms, config.layers)
            fits = isinstance(solver, DLADMM) and (*solver.a.atoms.shape, solver.layers) == shape
            expect(fits, "train", "--init", f"a D-LADMM model of --patch, --atoms, --layers {shape}", config.init)
            return solver
        sampler = copy.copy(self.crops)  # the same images, another sequence
        sampler.generator = torch.Generator().manual_seed(config.seed)
        if self.world.rank == 0:
            say(f"learning a dictionary of {config.atoms} atoms from {config.dictionary_patches} patches")
        patches = sampler(config.dictionary_patches).flatten(1).cpu()
        return DLADMM(learn_dictionary(patches, config.atoms, config.sparsity, 1.0, seed=config.seed), layers=1)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name or "dladmm-saltpepper"

    def batch(self) -> tuple[Tensor, Tensor]:
        """Noisy patches [N, m] and the clean ones."""
        clean = self.crops(self.config.batch).flatten(1)
        noisy = salt_and_pepper(clean, self.config.noise, self.generator)  # of the whole batch in every process
        share = slice(self.world.rank, None, self.world.size)
        return noisy[share].contiguous(), clean[share]

    def error(self, s: Splitting, truth: Tensor) -> Tensor:
        """Mean squared error of A Z."""
        return (s.az - truth).square().mean()

    def relative_error(self, s: Splitting, truth: Tensor) -> Tensor:
        """|A Z - clean patch|^2 / |clean patch|^2 over the batch."""
        return (s.az - truth).square().sum() / truth.square().sum()

    @torch.no_grad()
    def validate(self) -> float | None:
        """Mean PSNR over the validation images, the same noise each time; None if there are none."""
        found = []
        for k, x in enumerate(self.held):
            noisy = salt_and_pepper(x, self.config.noise, torch.Generator().manual_seed(k))
            found.append(psnr(self.module(noisy).x.clamp(0, 1), x).item())
        return math.fsum(found) / len(found) if found else None

    def facts(self) -> dict[str, Any]:
        """Images."""
        names = last_names(self.config.validation_data) or f"{self.config.validation:g} of the images"
        return {"data": last_names(self.config.data), "images": self.images, "validation_data": names}

    def state_dict(self) -> dict[str, Any]:
        """Network, generators, and what tells whether the images are the same on resumption."""
        known = {"pixels": self.crops.pixels.numel(), "digest": self.crops.digest()}
        return super().state_dict() | {"crops": self.crops.state_dict()} | known

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`.

        Raises:
            ValueError: the training images are not those of the checkpoint.
        """
        self.crops.expect_same(state)
        super().load_state_dict(state)
        self.crops.load_state_dict(state["crops"])


def _central(image: Tensor, patch: int) -> Tensor:
    side = VALIDATION_PATCHES * patch
    h, w = (min(s, side) for s in image.shape)
    top, left = (image.shape[0] - h) // 2, (image.shape[1] - w) // 2
    return image[top : top + h, left : left + w]
