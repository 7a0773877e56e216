"""What trainings share of the regulariser that rigorous mode of a trained LDA minimises."""

from pathlib import Path
from typing import Any

from fastrecon.solvers.minimiser import Minimiser


class OfMinimiser:
    """An objective whose module is a model with a minimiser, made from that of --model."""

    config: Any
    module: Any

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name or Path(self.config.model).stem

    @property
    def minimiser(self) -> Minimiser:
        """What is trained."""
        found = self.module.solver.minimiser
        assert isinstance(found, Minimiser)
        return found
