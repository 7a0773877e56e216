"""What trainings on photographs share whose weather is drawn: the photographs, what is held of them, the generator."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from fastrecon import io
from fastrecon.train import images
from fastrecon.train.commandline import command, last_names, settings_of
from fastrecon.train.objective import Objective
from fastrecon.train.progress import track
from fastrecon.train.recipe import Recipe

Network = TypeVar("Network", bound=nn.Module)
T = TypeVar("T")


def colours(pixels: np.ndarray) -> Tensor:
    """[3, H, W] of pixels [H, W, 3] or [H, W] on [0, 1]."""
    a = torch.from_numpy(np.ascontiguousarray(pixels)).float()
    return (a.expand(3, *a.shape) if a.ndim == 2 else a.movedim(-1, 0)).contiguous()


def crop(photographs: Sequence[Tensor], side: int, at: Sequence[float]) -> Tensor:
    """A crop [C, side, side] of one of several photographs [C, H, W], by numbers on [0, 1): which of them, how far down
    and across, turned how far."""
    which, down, across, turn = at
    x = photographs[int(which * len(photographs))]
    top, left = (int(u * (n - side + 1)) for u, n in zip((down, across), x.shape[-2:], strict=True))
    return torch.rot90(x[:, top : top + side, left : left + side], int(4 * turn), (-2, -1))


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
