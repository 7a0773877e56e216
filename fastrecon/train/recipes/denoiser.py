"""Modules of error-controlled iterations: `fastrecon train denoiser`.

A residual network learns to clean pictures of white noise, told how strong to be, from scratch or from a trained one.
Of what missing frequencies leave behind: recipes/artefacts.py.
"""

from dataclasses import dataclass
from typing import Any

from fastrecon.models import ErrorControlledModel
from fastrecon.models.error_controlled import SETTINGS
from fastrecon.options import option
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes import padnet_image
from fastrecon.train.recipes.padnet_image import Units

PROBLEM = "deblur"


@dataclass(frozen=True)
class Config(padnet_image.Config):
    """What a run computes."""

    name: str = option("name of the model", "denoiser", file_name=True)


class Denoiser(Units):
    """A denoiser, its crops and what spoils them; see `Objective`."""

    config: Config  # type: ignore[assignment]

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        meta = {"name": self.name, "training": self.training(facts, RECIPE, {"facts": self.facts()})}
        self.write(ErrorControlledModel(self.module.folded().float(), PROBLEM, SETTINGS[PROBLEM], meta))


RECIPE = register(
    Recipe(
        name="denoiser",
        summary="a module of error-controlled iterations: a network that cleans pictures, told how strong to be",
        Config=Config,
        Objective=Denoiser,
        examples=(
            "denoiser --data photographs --out runs/denoiser",
            "denoiser --data photographs --init padnet-image --out runs/more",
            "denoiser --out runs/denoiser --resume",
        ),
    )
)
