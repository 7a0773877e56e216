"""Recipes: what `fastrecon train NAME` needs to know of a method. `register` makes one known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fastrecon.checks import expect
from fastrecon.train.objective import Objective
from fastrecon.train.schedule import Schedule
from fastrecon.train.world import World


class Settings(Protocol):
    """A frozen dataclass of `options.option` fields, checked when it is made: what a run computes."""

    @property
    def batch(self) -> int:
        """Samples in a step, over all processes."""
        ...

    @property
    def steps(self) -> int:
        """What --minutes chooses."""
        ...

    def schedule(self) -> Schedule:
        """Steps and learning rates."""
        ...


class MakesObjective(Protocol):
    """An Objective, or a function that chooses one by the settings."""

    def __call__(self, config: Any, world: World, folder: Path, fresh: bool = True) -> Objective:
        """The objective of a run; see `Objective`."""
        ...


@dataclass(frozen=True)
class Recipe:
    """A method that can be trained.

    Attributes:
        name: of the command `fastrecon train NAME`, and in checkpoints.
        summary: what it trains, after "Train ".
        Config: the class of its settings, whose fields are the command's options.
        Objective: what makes the objective of a run.
        examples: command lines for the help.
        contents: what a run's folder holds besides checkpoint and log.
        presets: defaults of the options, by the value of the option `preset_of`.
        preset_of: the option whose value chooses among `presets`: one of Config's, or "preset" for one of its own,
            whose first value is the default.
        fixed: settings that are no options of this command.
        without: fields of Config that are no options of this command and keep their defaults.
        always: options that a card's command names even where they have their default.
        timed: whether a new run measures and tells how long it will take; with --minutes every recipe does.
        processes: whether several processes may share the batch.
        renamed: what options are called now, by what they were called once: who uses those is told.
        upgrade: settings as they are now, of those in an older checkpoint.
    """

    name: str
    summary: str
    Config: Callable[..., Settings]
    Objective: MakesObjective
    examples: tuple[str, ...] = ()
    contents: str = "model.safetensors, model card"
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    preset_of: str = "preset"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    always: tuple[str, ...] = ()
    timed: bool = False
    processes: bool = True
    renamed: Mapping[str, str] = field(default_factory=dict)
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict


RECIPES: dict[str, Recipe] = {}


def register(recipe: Recipe) -> Recipe:
    """Makes a recipe known as `fastrecon train NAME`; returns it.

    Raises:
        ValueError: another one has its name.
    """
    known = RECIPES.setdefault(recipe.name, recipe)
    expect(known is recipe, "register", "name", "one that no other recipe has", repr(recipe.name))
    return recipe
