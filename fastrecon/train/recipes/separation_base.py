"""What trainings share whose network finds the part of a photograph that is to go: rain, or what is no edge."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.models.separation import Separation
from fastrecon.options import check, option
from fastrecon.train import images
from fastrecon.train.commandline import last_names
from fastrecon.train.objective import Score
from fastrecon.train.recipe import Recipe
from fastrecon.train.recipes.photographs_base import PhotographObjective
from fastrecon.train.schedule import Schedule

VALIDATION_SIDE = 192  # pixels
GOOD = 1e-4  # squared errors below, where white is 1, are not worth much


@dataclass(frozen=True)
class SeparationConfig:
    """What a run computes, whatever it separates."""

    data: Sequence[str] = option("folders (or files) of colour photographs", nargs="+")
    validation_data: Sequence[str] = option(
        "folders (or files) of validation photographs; default: a share of --data", (), nargs="+"
    )
    validation: float = option("share of --data kept for validation", 0.1, within="[0, 1)", type=float)
    name: str = option("name of the model", "separation", file_name=True)
    steps: int = option("training steps", 4000, within="[1, 1e9]", type=int)
    batch: int = option("crops in a step, over all processes", 8, within="[1, 1e6]", type=int)
    patch: int = option("side of the crops in pixels, even", 96, within="[16, 65536]", type=int)
    lr: float = option("learning rate", 2e-3, within="(0, 1000]", type=float)
    decay: str = option("of the learning rate over the whole run", "cosine", choices=("cosine", "constant"))
    warmup: int = option("steps over which the learning rate rises", 100, within="[0, 1e9]", type=int)
    clip: float = option("largest norm of the gradient; 0: none", 5.0, within="[0, 1e6]", type=float)
    precision: str = option("of the convolutions", "bfloat16", choices=("bfloat16", "float32"))
    seed: int = option("of the network, the split and the crops", 0, within="[0, 2147483647]", type=int)
    validate_every: int = option(
        "steps between validations and checkpoints; default: a fortieth of the run", 0, within="[0, 1e9]", type=int
    )

    def __post_init__(self):
        check(self, "train")
        expect(self.patch % 2 == 0, "train", "--patch", "an even number", self.patch)

    def schedule(self) -> Schedule:
        """Steps and learning rates."""
        every = self.validate_every or max(1, min(500, self.steps // 40))
        return Schedule(self.steps, self.lr, self.decay, self.warmup, self.clip, 0.0, every)


class SeparationObjective(PhotographObjective[Any]):
    """The network; see `Objective`.

    Attributes:
        learned: photographs [C, H, W] that are learned from.
        quality: PSNR in dB of the last validation.
        problem: of the model.
        level: what the network is told, where it is told anything.
    """

    squared_error = False
    config: Any
    learned: list[Tensor]
    quality: float | None
    problem: str
    level: float | None = None

    def network(self) -> Any:
        """A new one for three colours."""
        raise NotImplementedError

    def begin(self, training: list[Tensor], held: int) -> None:
        """Takes the photographs that are not too small, and makes the network."""
        config = self.config
        self.learned = [x for x in training if min(x.shape[-2:]) >= config.patch]
        expect(len(self.learned) > 0, "train", "--patch", "no larger than the photographs", config.patch)
        self.counts = {"training": len(self.learned), "validation": held}
        self.quality = None
        torch.manual_seed(config.seed)
        self.module = self.network().to(self.world.device)
        self.digest = images.digest(self.learned)

    def shared(self, *batch: Tensor) -> tuple[Tensor, ...]:
        """This process's share of a batch, on its device."""
        share = slice(self.world.rank, None, self.world.size)
        return tuple(t[share].to(self.world.device) for t in batch)

    def without(self, y: Tensor) -> Tensor:
        """Photographs [B, 3, H, W] without what the network finds in them."""
        with torch.autocast(y.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            g = self.module(y) if self.level is None else self.module(y, self.level)
        return y - g.float()

    def finished(self) -> Separation:
        """The network as it is, as it will be used."""
        return Separation(self.module.folded().float(), self.problem, level=self.level)

    def scored(self, found: list[float]) -> Score | None:
        """The mean of what was found of the validation photographs, PSNR in dB."""
        self.quality = sum(found) / len(found) if found else None
        return None if self.quality is None else Score("psnr", self.quality)

    def export_for(self, facts: dict[str, Any], recipe: Recipe, done: str, validation: str) -> None:
        """Writes model.safetensors and its card.

        Args:
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
        model = self.finished().cpu()
        model.meta = {"name": self.name, "training": self.training(facts, recipe, known)}
        self.write(model)
