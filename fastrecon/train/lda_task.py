"""LDA for block compressed sensing as a task of the training loop: network, data, warm start over phases.

Loss: mean squared error of the last phase. Each new phase is a copy of the last trained one; at the start of every
stage x = u always, later the lower of u and v. Source: Chen, Liu, Ye & Zhang, arXiv:2007.11245, sec. 4.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon import models
from fastrecon.checks import expect
from fastrecon.metrics import psnr
from fastrecon.models.card import model_card
from fastrecon.operators import BlockSensing, measurements, random_phi
from fastrecon.solvers import LDA
from fastrecon.train import data
from fastrecon.train.commandline import command, last_names
from fastrecon.train.config import Config, Stage, parse_stages
from fastrecon.train.export import write_pair
from fastrecon.train.progress import say
from fastrecon.train.world import World

PLACES = ("data", "validation_data", "init")  # settings that say where things lie on this machine
VALIDATION_SIDE = 264  # pixels: validation images are cropped to at most 8 x 8 blocks of 33


class LdaCs:
    """The task of the training loop: a Reconstructor, its data, and the stage of its warm start.

    Args:
        config: settings.
        world: the processes of this run, and the device.
        fresh: whether to compute the least-squares start and read config.init; false if a checkpoint brings both.
    """

    metric = "psnr"
    sign = 1

    def __init__(self, config: Config, world: World, fresh: bool = True):
        self.config, self.world, self.dtype = config, world, getattr(torch, config.dtype)
        images, held = data.load_and_hold(
            config.data, config.validation_data, config.validation, config.seed, quiet=world.rank > 0
        )
        self.images = {"training": len(images), "validation": len(held)}
        self.crops = data.Crops(images, config.patch, config.seed, world.device, self.dtype)
        self.held = [_central(i)[None, None].to(world.device, self.dtype) for i in held]
        self.stages = parse_stages(config)
        self.stage: Stage = self.stages[0]
        self.select = False
        self.module = self._network(fresh)

    def _network(self, fresh: bool) -> models.Reconstructor:
        config, n = self.config, self.config.block**2
        torch.manual_seed(config.seed)
        phi = random_phi(measurements(config.ratio, n), n, config.phi_seed)
        q = torch.zeros(n, len(phi), dtype=torch.float64)
        if fresh:
            if self.world.rank == 0:
                say(f"computing the start from {config.start_blocks} blocks")
            sampler = copy.copy(self.crops)
            sampler.generator = torch.Generator().manual_seed(config.seed)
            q = data.least_squares_start(phi, data.block_covariance(sampler, config.block, config.start_blocks))
        operator = BlockSensing(phi.to(self.dtype), config.block)
        solver = LDA(
            operator, phases=self.stage.phases, channels=config.channels, layers=config.layers,
            sigma=config.sigma, gamma=config.gamma, eps_mode=config.eps_mode,
        )  # fmt: skip
        if fresh and config.init:
            _copy_network(models.load(config.init), solver)
        meta = {"task": "block-cs", "ratio": config.ratio, "name": self.name, "phi_seed": config.phi_seed}
        network = models.Reconstructor(operator, solver, q.to(self.dtype), meta, blockwise=config.patch == config.block)
        return network.to(self.world.device, self.dtype)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name or f"lda-cs-{self.config.ratio:g}"

    def prepare(self, step: int) -> bool:
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
    def validate(self) -> float | None:
        """Mean PSNR over the validation images as in inference, in dB; None if there are none."""
        a, found = self.module.operator, []
        for x in self.held:
            result = self.module(a(x), size=x.shape[-2:])
            found.append(psnr(result.x.clamp(0, 1), x).item())
        return math.fsum(found) / len(found) if found else None

    def export(self, folder: Path, facts: dict[str, Any]) -> None:
        """model.safetensors and its card."""
        config = self.config
        training = facts | {
            "command": command(config),
            "data": last_names(config.data),
            "images": self.images,
            "validation_data": last_names(config.validation_data) or f"{config.validation:g} of the images",
            "stages": [f"{s.phases} phases: steps {s.begin} to {s.end}, x = u before {s.select}" for s in self.stages],
            "settings": {k: v for k, v in dataclasses.asdict(config).items() if k not in PLACES},
        }
        self.module.meta["training"] = training
        card, page = self.card(folder)
        write_pair(folder / "model.safetensors", self.module.save, card, page(self.module.meta))

    def card(self, folder: Path) -> tuple[Path, Callable[[dict[str, Any]], str]]:
        """The card's file, and what makes its text."""
        return folder / f"{self.name}.md", model_card

    def describe(self) -> str:
        """The stage in a few words."""
        return f"K={self.stage.phases}" + ("" if self.select else " u-only")

    def state_dict(self) -> dict[str, Any]:
        """Network, constants, generator, and what tells whether the images are the same on resumption."""
        return {
            "phases": self.module.solver.phases,
            "module": self.module.state_dict(),
            "crops": self.crops.state_dict(),
            "pixels": self.crops.pixels.numel(),
            "digest": self.crops.digest(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`.

        Raises:
            ValueError: the training images are not those of the checkpoint.
        """
        self.crops.expect_same(state)
        if state["phases"] != self.module.solver.phases:
            self.module.solver.grow(state["phases"])
        self.module.load_state_dict(state["module"])
        self.crops.load_state_dict(state["crops"])


def _central(image: Tensor) -> Tensor:
    h, w = (min(s, VALIDATION_SIDE) for s in image.shape)
    top, left = (image.shape[0] - h) // 2, (image.shape[1] - w) // 2
    return image[top : top + h, left : left + w]


def _copy_network(source: models.Reconstructor, target: LDA) -> None:
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


def seconds_per_step(task: LdaCs, tries: int = 2) -> list[tuple[float, float]]:
    """Of each stage, measured: with x = u, and with selection. Leaves the task as it was."""
    kept = task.module, task.stage, task.select, task.crops.state_dict()
    found = []
    for stage in task.stages:
        task.module = copy.deepcopy(kept[0])
        if task.module.solver.phases != stage.phases:
            task.module.solver.grow(stage.phases)
        pair = []
        for task.select in (False, True):
            for timed in (False, True):  # the first call loads and tunes
                started = time.perf_counter()
                for _ in range(tries if timed else 1):
                    task.loss().backward()
                if task.crops.pixels.is_cuda:
                    torch.cuda.synchronize()
                elapsed = (time.perf_counter() - started) / tries
            pair.append(elapsed)
        found.append((pair[0], pair[1]))
    task.module, task.stage, task.select = kept[:3]
    task.crops.load_state_dict(kept[3])
    return found


def estimated_seconds(stages: list[Stage], per_step: list[tuple[float, float]]) -> float:
    """Of the whole run."""
    return math.fsum(
        a * (s.select - s.begin) + b * (s.end - s.select) for s, (a, b) in zip(stages, per_step, strict=True)
    )
