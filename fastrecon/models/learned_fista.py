"""FISTA with learned first iterations as a model: images sparse in wavelets, by any operator A.

Source: see `solvers.ScheduledFISTA`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastrecon.models import card
from fastrecon.models.base import register
from fastrecon.models.file import Header
from fastrecon.models.sgp import MEASURED, StepOptions, WaveletModel, by_network, rebuilt
from fastrecon.networks.step_schedule import StepSchedule
from fastrecon.operators import LinearOperator
from fastrecon.options import option
from fastrecon.solvers import ScheduledFISTA
from fastrecon.solvers.methods import method

NAME = "learned-fista"


@register(NAME)
class ScheduleModel(WaveletModel[StepSchedule]):
    """FISTA behind the iterations of a trained schedule."""

    method = NAME
    source = "FISTA, behind learned iterations with falling weights (Hale, Yin & Zhang, SIAM J. Optim. 19 (2008))"

    def __init__(self, network: StepSchedule, problem: str, meta: Mapping[str, Any] | None = None):
        super().__init__(network, problem, meta)
        self.iterations = len(network)

    def solver_for(self, operator: LinearOperator, lam: float | Tensor, lipschitz: float | Tensor) -> ScheduledFISTA:
        """As of WaveletModel."""
        return ScheduledFISTA(operator, lam, lipschitz, self.network)

    @classmethod
    def from_file(cls, head: Header, tensors: dict[str, Tensor]) -> "ScheduleModel":
        """The model of what a file holds."""
        return cls(rebuilt(StepSchedule(**head.hyperparameters), tensors), head.problem, head.meta)

    def card(self) -> str:
        """As of Model."""
        settings = card.training_of(self.meta)[1]
        count = sum(p.numel() for p in self.network.parameters())
        what = f"{count} numbers: the weights, steps and momentum of the first {len(self.network)} iterations of FISTA"
        what += ", steps in units of the bands' gains" if self.network.settings["gains"] else ""
        data = [*self.measured(), f"lam {', '.join(f'{v:g}' for v in settings['lam_factor'])} times the paper's"]
        code = ["result = model(A(image), operator=A)  # result.x [B, 1, H, W], result.report"]
        return self.page(what, code, ", ".join(data), "through all of them, towards the least objective")


@dataclass(frozen=True)
class Options(StepOptions):
    """Options of FISTA with learned first iterations."""

    iterations: int = option("at most so many, the learned ones among them", 50, within="[1, 1e6]", type=int)


method(NAME, Options, "images sparse in wavelets by FISTA, first iterations learned", MEASURED)(by_network(NAME))
