"""What trainings on crops of images share: the images, what is held of them, crops, generators, facts for the card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from fastrecon.train import images
from fastrecon.train.commandline import command, last_names, settings_of
from fastrecon.train.objective import Objective
from fastrecon.train.recipe import Recipe
from fastrecon.train.world import World

Network = TypeVar("Network", bound=nn.Module)


class CropObjective(Objective[Network]):
    """A network and its crops; see `Objective`. Its configuration has `data`, `validation_data`, `validation`, `patch`,
    `seed` and `name`.

    Attributes:
        validation_side: validation images are cropped to so many pixels.
        crops: of the training images.
        held: images kept for validation, [1, 1, H, W] each.
        generator: of what else is drawn.
    """

    validation_side: ClassVar[int]

    def __init__(self, config: Any, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        found = self.read().hold(config.validation, config.seed)
        self.counts = found.counts
        self.crops = images.Crops(found.training, config.patch, config.seed, world.device, self.kind())
        cropped = (images.central(i, self.validation_side) for i in found.held)
        self.held: list[Tensor] = [i[None, None].to(world.device, self.kind()) for i in cropped]
        self.generator = torch.Generator().manual_seed(config.seed)

    def kind(self) -> torch.dtype:
        """Type of the crops."""
        return torch.float32

    def read(self) -> images.Images:
        """Training images, and validation images if they are given."""
        return images.Images.load(self.config.data, self.config.validation_data, quiet=self.world.rank > 0)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name

    @property
    def data(self) -> str:
        """Its images."""
        return (
            f"{self.counts['training']} training and {self.counts['validation']} validation images"
            f" ({self.crops.skipped} smaller than {self.config.patch} pixels left out)"
        )

    def training(self, facts: dict[str, Any], recipe: Recipe, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What the model keeps of its training."""
        config = self.config
        return facts | {
            "command": command(config, recipe.name, recipe.always),
            "data": last_names(config.data),
            "images": self.counts,
            "validation_data": last_names(config.validation_data) or f"{config.validation:g} of the images",
            **(more or {}),
            "settings": settings_of(config),
        }

    def state_dict(self) -> dict[str, Any]:
        """Network, generators, and what tells whether the images are the same on resumption."""
        return {
            "module": self.module.state_dict(),
            "crops": self.crops.state_dict(),
            "generator": self.generator.get_state(),
            "digest": self.crops.digest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`.

        Raises:
            ValueError: the training images are not those of the checkpoint.
        """
        images.expect_same(state, self.crops.digest)
        self.prepare(state)
        self.module.load_state_dict(state["module"])
        self.crops.load_state_dict(state["crops"])
        if "generator" in state:  # the oldest checkpoints of those who draw nothing else have none
            self.generator.set_state(state["generator"])

    def prepare(self, state: dict[str, Any]) -> None:
        """Makes the network one that takes the state's parameters."""
