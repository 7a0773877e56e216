"""What the loop trains: the contract of a recipe's objective."""

import contextlib
import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from fastrecon import threads
from fastrecon.models.base import Model
from fastrecon.train.claim import MODEL
from fastrecon.train.export import write_pair
from fastrecon.train.world import World

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Score:
    """What a validation found: the metric's name, which becomes a column of the log, its value, and its direction.

    The best model of a run is the one with the best score; NaN is never the best.
    """

    metric: str
    value: float
    higher_is_better: bool = True

    @property
    def signed(self) -> float:
        """A number of which more is better."""
        return self.value if self.higher_is_better else -self.value


class Objective(ABC, Generic[Network]):
    """A network with its loss, its data, and what becomes of it; the loop knows nothing else of what it trains.

    Args:
        config: settings of the run.
        world: the processes of this run, and the device; each process takes its share of every batch.
        folder: of the run.
        fresh: whether to compute what training starts from; false if a checkpoint brings it.

    Attributes:
        module: the network; its parameters that require gradients are trained.
        squared_error: whether the loss is a mean squared error on images of [0, 1], which has a PSNR.
        alone: whether torch's operations in a step are so small that threads cost more than they bring; our own
            kernels keep theirs. False where the network is one of convolutions.
        rates: learning rates of parameters by name, in units of that of the run, where they are others.
    """

    squared_error: bool = True
    alone: ClassVar[bool] = False
    rates: Mapping[str, float] = {}
    module: Network
    config: Any

    @abstractmethod
    def __init__(self, config: Any, world: World, folder: Path, fresh: bool = True):
        self.config, self.world, self.folder = config, world, folder

    @property
    @abstractmethod
    def name(self) -> str:
        """The model's name."""

    @property
    def data(self) -> str:
        """What it learns from, in a few words for the first line of a run."""
        return "its own data"

    def begin_step(self, step: int) -> bool:
        """Called before each step; true if the parameters are now others (the network has grown)."""
        return False

    @abstractmethod
    def loss(self) -> Tensor:
        """The mean loss of this process's share of the next batch, a scalar."""

    def after_step(self) -> None:
        """Called after each step of the optimiser: projections of the weights."""

    def validate(self) -> Score | None:
        """The score on what is kept for validation; None if nothing is."""
        return None

    @abstractmethod
    def export(self, facts: dict[str, Any]) -> None:
        """Writes the model and its card into the run's folder (`write`), with what is known of its training."""

    def write(self, model: Model, save: Callable[[Path], object] | None = None) -> None:
        """Writes a model, with `save` if its own way will not do, and its card."""
        write_pair(self.folder / MODEL, save or model.save, self.card, model.card())

    @property
    def card(self) -> Path:
        """The card's file in the run's folder."""
        return self.folder / f"{self.name}.md"

    def finish(self) -> None:
        """Called once, at the end of a whole run, in the first process: figures and tables."""

    def describe(self) -> str:
        """The current stage in a word or two, for the log and the progress line."""
        return ""

    def reschedule(self, config: Any) -> None:
        """Takes settings that differ in their number of steps, before the first."""
        self.config = config

    def seconds(self) -> float:
        """What the whole run takes, measured; leaves everything as it was."""
        return self.config.schedule().steps * self.seconds_per_step()

    def seconds_per_step(self, tries: int = 2) -> float:
        """Loss and gradients at the current stage, measured; leaves everything as it was."""
        kept = copy.deepcopy(self.state_dict())
        elapsed = 0.0
        for timed in (False, True):  # the first call loads and tunes
            started = time.perf_counter()
            with threads.alone if self.alone else contextlib.nullcontext():
                for _ in range(tries if timed else 1):
                    self.loss().backward()
            if self.world.device.type == "cuda":
                torch.cuda.synchronize()
            elapsed = (time.perf_counter() - started) / tries
        self.module.zero_grad(set_to_none=True)
        self.load_state_dict(kept)
        return elapsed

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that a continuation needs: parameters, stage, generators; tensors, numbers, text."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`.

        Raises:
            ValueError: the data are not those of the checkpoint.
        """
