"""What trainings on photographs share whose weather is drawn: the photographs, what is held of them, the generator."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from fastrecon import io
from fastrecon.train import images
from fastrecon.train.commandline import command, last_names, settings_of
from fastrecon.train.objective import Objective
from fastrecon.train.progress import track
from fastrecon.train.recipe import Recipe

Network = TypeVar("Network", bound=nn.Module)
T = TypeVar("T")


class PhotographObjective(Objective[Network]):
    """A network and its photographs; see `Objective`. Its configuration has `data`, `validation_data`, `validation`,
    `seed` and `name`.

    Attributes:
        counts: of the photographs, for the card.
        generator: of the weather on them.
        digest: what tells the photographs from others.
    """

    counts: dict[str, int]
    generator: torch.Generator
    digest: str

    def photographs(self, of: Callable[[np.ndarray], T]) -> tuple[list[T], list[T]]:
        """What `of` makes of the pixels of each photograph: to train on, and for validation."""
        config = self.config
        training, held = (self._read(paths, of) for paths in (config.data, config.validation_data))
        if not held and config.validation > 0:
            order = images.drawn(len(training), config.seed)
            count = min(len(training) - 1, max(1, round(config.validation * len(training))))
            held, training = [training[i] for i in order[:count]], [training[i] for i in sorted(order[count:])]
        return training, held

    def _read(self, inputs: Sequence[str], of: Callable[[np.ndarray], T]) -> list[T]:
        paths = io.expand(inputs)
        shown = track(paths, "reading photographs", len(paths), "image", self.world.rank > 0 or not paths)
        return [of(io.read_picture(p).pixels) for p in shown]

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name

    @property
    def data(self) -> str:
        """Its photographs."""
        return f"{self.counts['training']} training and {self.counts['validation']} validation photographs"

    def training(self, facts: dict[str, Any], recipe: Recipe, told: dict[str, str]) -> dict[str, Any]:
        """What the model keeps of its training; `told` is for the card."""
        config = self.config
        return facts | {
            "command": command(config, recipe.name), "data": last_names(config.data), "images": self.counts,
            "facts": told, "settings": settings_of(config),
        }  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """The network, the generator, and what tells whether the photographs are the same on resumption."""
        return {
            "module": self.module.state_dict(), "generator": self.generator.get_state(), "digest": self.digest,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`.

        Raises:
            ValueError: the photographs are not those of the checkpoint.
        """
        images.expect_same(state, self.digest)
        self.module.load_state_dict(state["module"])
        self.generator.set_state(state["generator"])
