"""What trainings share whose network finds the part of a photograph that is to go: rain, or what is no edge."""

from typing import Any

import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.models.separation import Separation
from fastrecon.networks import SquaresCNN
from fastrecon.train import images
from fastrecon.train.commandline import last_names
from fastrecon.train.objective import Score
from fastrecon.train.recipe import Recipe
from fastrecon.train.recipes.photographs_base import PhotographObjective

VALIDATION_SIDE = 192  # pixels
GOOD = 1e-4  # squared errors below, where white is 1, are not worth much


class SeparationObjective(PhotographObjective[SquaresCNN]):
    """The network; see `Objective`. Its configuration also has `patch`, `channels`, `steps`, `batch`, `precision`.

    Attributes:
        learned: photographs [C, H, W] that are learned from.
        quality: PSNR in dB of the last validation.
    """

    squared_error = False
    learned: list[Tensor]
    quality: float | None

    def begin(self, training: list[Tensor], held: int, dilations: tuple[int, ...]) -> None:
        """Takes the photographs that are not too small, and makes the network."""
        config = self.config
        self.learned = [x for x in training if min(x.shape[-2:]) >= config.patch]
        expect(len(self.learned) > 0, "train", "--patch", "no larger than the photographs", config.patch)
        self.counts = {"training": len(self.learned), "validation": held}
        self.quality = None
        torch.manual_seed(config.seed)
        self.module = SquaresCNN(len(dilations), config.channels, 3, dilations).to(self.world.device)
        self.digest = images.digest(self.learned)

    def shared(self, *batch: Tensor) -> tuple[Tensor, ...]:
        """This process's share of a batch, on its device."""
        share = slice(self.world.rank, None, self.world.size)
        return tuple(t[share].to(self.world.device) for t in batch)

    def without(self, y: Tensor) -> Tensor:
        """Photographs [B, 3, H, W] without what the network finds in them."""
        with torch.autocast(y.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            g = self.module(y)
        return y - g.float()

    def scored(self, found: list[float]) -> Score | None:
        """The mean of what was found of the validation photographs, PSNR in dB."""
        self.quality = sum(found) / len(found) if found else None
        return None if self.quality is None else Score("psnr", self.quality)

    def export_for(self, problem: str, facts: dict[str, Any], recipe: Recipe, done: str, validation: str) -> None:
        """Writes model.safetensors and its card.

        Args:
            problem: of the model.
            facts: of the run.
            recipe: whose run it is.
            done: what was done to the photographs that it learned from.
            validation: what the score is of.
        """
        config = self.config
        told = "none" if self.quality is None else f"PSNR {self.quality:.2f} dB"
        known = {
            "training data": f"{', '.join(last_names(config.data))}, {self.counts['training']} photographs, {done}",
            "validation": f"{self.counts['validation']} photographs{validation}: {told}",
            "steps": f"{config.steps}, batch {config.batch} crops of {config.patch} x {config.patch}",
            "seed": str(config.seed),
        }
        meta = {"name": self.name, "training": self.training(facts, recipe, known)}
        self.write(Separation(self.module.folded().float().cpu(), problem, meta))
