"""Modules of error-controlled iterations: `fastrecon train denoiser`.

A residual network learns to clean pictures of white noise, told how strong to be, from scratch or from a trained one.
Of what missing frequencies leave behind: recipes/artefacts.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastrecon import models
from fastrecon.checks import expect
from fastrecon.models import ErrorControlledModel, PADNetModel
from fastrecon.models.error_controlled import SETTINGS
from fastrecon.networks import ResidualCNN
from fastrecon.options import option
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes import padnet_image
from fastrecon.train.recipes.padnet_image import Units
from fastrecon.train.world import World

PROBLEM = "deblur"


@dataclass(frozen=True)
class Config(padnet_image.Config):
    """What a run computes."""

    name: str = option("name of the model", "denoiser", file_name=True)
    init: str = option("start from the network of this model (name or file), such as padnet-image", "")


class Denoiser(Units):
    """A denoiser, its crops and what spoils them; see `Objective`."""

    config: Config  # type: ignore[assignment]

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        if fresh and config.init:
            # normalisation lies within the convolutions of a finished unit, and stays there
            unit = unit_of(models.load(config.init))
            self.module = ResidualCNN(**unit.settings).to(world.device)
            self.module.load_state_dict(unit.state_dict())

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        known = self.facts() | ({"begins with": self.config.init} if self.config.init else {})
        meta = {"name": self.name, "training": self.training(facts, RECIPE, {"facts": known})}
        self.write(ErrorControlledModel(self.module.folded().float(), PROBLEM, SETTINGS[PROBLEM], meta))

    def prepare(self, state: dict[str, Any]) -> None:
        """Makes the network one that takes the state's parameters: with or without normalisation."""
        folded = "convolutions.1.bias" in state["module"]
        if folded != self.module.settings["folded"]:
            settings: dict[str, Any] = self.module.settings | {"folded": folded}
            self.module = ResidualCNN(**settings).to(self.world.device)


def unit_of(source: models.Model) -> ResidualCNN:
    """The network that a model cleans images with."""
    unit: object = None
    if isinstance(source, PADNetModel):
        unit = source.rows[0][0]
    elif isinstance(source, ErrorControlledModel):
        unit = source.unit
    fits = isinstance(unit, ResidualCNN) and unit.levels
    expect(fits, "train", "--init", "a model with a network for noise of any level", f"one of {source.method}")
    assert isinstance(unit, ResidualCNN)
    return unit


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
