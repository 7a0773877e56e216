"""What both trainings of D-LADMM share: settings, network, losses, files."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.models.sparse_coding import SparseCoder
from fastrecon.options import check, option
from fastrecon.solvers import DLADMM
from fastrecon.solvers.ladmm import Splitting
from fastrecon.train.commandline import command, settings_of
from fastrecon.train.objective import Objective
from fastrecon.train.recipes.dladmm_loss import LOSSES, gap, gap_literal, weighted
from fastrecon.train.schedule import Schedule
from fastrecon.train.world import World

PROBLEMS = ("sparse-coding", "impulse")
# What sparse-coding takes unless told otherwise: the error in dB of every layer, on new pairs of codes and errors.
SYNTHETIC = {"lam": 0.5, "recombine": True, "loss": "decibel", "deep": 1.0, "steps": 3000, "lr": 0.03, "clip": 1.0}


@dataclass(frozen=True)
class Config:
    """What a run computes."""

    problem: str = option("sparse codes of synthetic data, or images with salt-and-pepper noise", choices=PROBLEMS)
    data: Sequence[str] = option("impulse: folders (or files) of clean training images", (), nargs="+")
    validation_data: Sequence[str] = option(
        "impulse: folders (or files) of validation images; default: a share of --data", (), nargs="+"
    )
    validation: float = option(
        "impulse: share of the images of --data kept for validation", 0.05, within="[0, 1)", type=float
    )
    name: str = option("name of the model; default: dladmm-PROBLEM", "", file_name=True)
    layers: int = option("learned layers K", 15, within="[1, 1000]", type=int)
    lam: float = option("weight of |Z|_1; sparse-coding: 0.5", 0.45, within="[1e-6, 1e6]", type=float)
    beta: float = option("penalty of the LADMM that the layers start from", 1.0, within="[1e-6, 1e6]", type=float)
    e_update: str = option("of E", "residual", choices=("general", "residual"))
    per_row: bool = option("a threshold for each component, not one for all", True)
    start_noise: float = option(
        "deviation of the start from the classical weights, relative to A", 1e-3, within="[0, 1000]", type=float
    )
    constrain: bool = option("project the weights onto a neighbourhood of the classical ones after each step", False)
    radius: float = option("of that neighbourhood, relative to |A|", 1.0, within="[1e-6, 1e6]", type=float)
    loss: str = option(
        "distance from the truth (squared, or in dB: of relative errors), the duality gap with consistent weights, or"
        " as in the authors' code; sparse-coding: decibel", "supervised",
        choices=LOSSES,
    )  # fmt: skip
    deep: float = option(
        "weight of each layer's loss relative to the next one's: 0 only the last counts, 1 all the same;"
        " sparse-coding: 1",
        0.0,
        within="[0, 1]",
        type=float,
    )
    steps: int = option("training steps of the whole run; sparse-coding: 3000", 2000, within="[1, 1e9]", type=int)
    batch: int = option("samples in a step, over all processes", 256, within="[1, 1e6]", type=int)
    lr: float = option("learning rate; sparse-coding: 0.03", 1e-3, within="(0, 1000]", type=float)
    optimiser: str = option("of the parameters", "adam", choices=("adam", "sgd"))
    decay: str = option("of the learning rate over the run", "cosine", choices=("cosine", "halving", "constant"))
    halve_every: int = option("steps, for --decay halving", 1000, within="[1, 1e9]", type=int)
    warmup: int = option("steps over which the learning rate rises", 50, within="[0, 1e9]", type=int)
    clip: float = option("largest norm of the gradient, 0 none; sparse-coding: 1", 0.0, within="[0, 1e6]", type=float)
    ema: float = option(
        "decay of averaged parameters, which are then validated and saved; 0: none", 0.0, within="[0, 1)", type=float
    )
    rows: int = option("sparse-coding: length m of the data", 500, within="[1, 1e5]", type=int)
    columns: int = option("sparse-coding: length d of the codes", 250, within="[1, 1e5]", type=int)
    samples: int = option("sparse-coding: training samples", 10_000, within="[1, 1e8]", type=int)
    recombine: bool = option(
        "train on codes of one sample with errors of another, signs at random; sparse-coding: yes", False
    )
    test_samples: int = option("sparse-coding: test samples", 1_000, within="[1, 1e8]", type=int)
    patch: int = option("impulse: side of the patches", 16, within="[1, 256]", type=int)
    atoms: int = option("impulse: atoms of the dictionary", 512, within="[2, 1e5]", type=int)
    sparsity: float = option(
        "impulse: sparsity with which the dictionary is learned", 0.1, within="(0, 1000]", type=float
    )
    dictionary_patches: int = option(
        "impulse: patches that the dictionary is learned from", 40_000, within="[1, 1e8]", type=int
    )
    share: float = option("impulse: of the pixels that become black or white", 0.1, within="(0, 1)", type=float)
    init: str = option("impulse: start from this model (name or file) and its dictionary", "")
    seed: int = option("of the network, the data and the noise", 0, within="[0, 2147483647]", type=int)
    dtype: str = option("of the arithmetic", "float32", choices=("float32", "float64"))
    validate_every: int = option(
        "steps between validations and checkpoints; default: a twentieth of the run", 0, within="[0, 1e9]", type=int
    )

    def __post_init__(self):
        check(self, "train")
        expect(
            self.problem == "sparse-coding" or bool(self.data), "train", "--data", "folders of training images", "none"
        )

    def schedule(self) -> Schedule:
        """Steps and learning rates."""
        every = self.validate_every or max(1, min(500, self.steps // 20))
        return Schedule(
            self.steps, self.lr, self.decay, self.warmup, self.clip, self.ema, every, self.optimiser, self.halve_every
        )


Truth = TypeVar("Truth")


class Layers(Objective[SparseCoder], Generic[Truth]):
    """The layers of D-LADMM, their losses and files; a subclass gives batches with their truth, and validation.

    Args:
        config, world, folder, fresh: see `Objective`.
        atoms: A [m, d].
        model: SparseCoder or PatchDenoiser.
        facts: about the model, for its file.
    """

    alone = True
    config: Config

    def __init__(
        self, config: Config, world: World, folder: Path, fresh: bool,
        atoms: Tensor, model: type[SparseCoder], facts: dict[str, Any],
    ):  # fmt: skip
        super().__init__(config, world, folder, fresh)
        self.dtype = getattr(torch, config.dtype)
        self._model, self._facts = model, {"name": self.name} | facts
        self.module = self.network(atoms)
        self.generator = torch.Generator().manual_seed(config.seed + 1)
        self.squared_error = config.loss == "supervised"

    def network(self, atoms: Tensor) -> SparseCoder:
        """The untrained network for A, whose norm decides its steps."""
        c = self.config
        torch.manual_seed(c.seed)
        solver = DLADMM(
            atoms.to(self.dtype), c.lam, layers=c.layers, beta=c.beta, e_update=c.e_update,
            per_row=c.per_row, noise=c.start_noise, radius=c.radius,
        )  # fmt: skip
        return self._model(solver, self._facts).to(self.world.device)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name or f"dladmm-{self.config.problem}"

    @abstractmethod
    def batch(self) -> tuple[Tensor, Truth]:
        """This process's share of the next samples [N, m], and their truth."""

    @abstractmethod
    def error(self, s: Splitting, truth: Truth) -> Tensor:
        """The supervised loss of one layer."""

    @abstractmethod
    def relative_error(self, s: Splitting, truth: Truth) -> Tensor:
        """The same relative to the truth, whose logarithm weighs every layer alike however small its error is."""

    def begin_step(self, step: int) -> bool:
        """Projects the weights that training starts from; the network never grows."""
        if step == 0:
            self.after_step()
        return False

    def after_step(self) -> None:
        """Projects the weights onto the neighbourhood of the classical ones, if they are constrained."""
        if self.config.constrain:
            self.module.solver.project()

    def loss(self) -> Tensor:
        """Of the next batch, over the layers that count."""
        x, truth = self.batch()
        return weighted(self.layer_losses(x, truth), self.config.deep)

    def layer_losses(self, x: Tensor, truth: Truth) -> Iterator[Tensor]:
        """The loss of each layer that counts."""
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
        """What the card tells of the data."""
        return {}

    def save(self, path: Path) -> None:
        """Writes the model."""
        self.module.save(path)

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        self.after_step()  # averages of projected weights need not be near the classical ones
        told = {"command": command(self.config, "dladmm", ("problem",)), "settings": settings_of(self.config)}
        self.module.meta["training"] = facts | self.facts() | told
        self.write(self.module, self.save)

    def state_dict(self) -> dict[str, Any]:
        """Network and generator."""
        return {"module": self.module.state_dict(), "generator": self.generator.get_state(), "projected": True}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        self.module.load_state_dict(state["module"])
        self.generator.set_state(state["generator"])
        if not state.get("projected"):  # once that was done at the beginning of the next step
            self.after_step()
