"""Variational networks: gradient steps on the data and on a learned energy of filters, other ones in every phase.

x+ = x - lam A* (A x - y) - sum_i K_i^T phi_i(K_i x), K_i filters of complex images with real responses, phi_i sums of
Gaussians.

Source: Hammernik, Klatzer, Kobler, Recht, Sodickson, Pock & Knoll, Learning a Variational Network for Reconstruction of
Accelerated MRI Data, Magnetic Resonance in Medicine 79 (2018) (arXiv:1704.00447).
"""

from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.checks import integer
from fastrecon.networks.rbf_unit import RBFUnit
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.by_image import each_image
from fastrecon.solvers.unrolled import State, Unrolled, images, planes


class VariationalNetwork(Unrolled):
    """A variational network for complex images.

    Args:
        operator: A.
        phases: K.
        filters: of every phase.
        side: of the filters in pixels, odd.
        centres: Gaussians of every function.
    """

    def __init__(
        self, operator: LinearOperator, phases: int = 10, filters: int = 48, side: int = 11, centres: int = 31
    ):
        super().__init__(operator)
        self.phases = integer(phases, type(self).__name__, "phases", least=1)
        units = (RBFUnit(2, filters, side, centres, boundary="replicate") for _ in range(self.phases))
        self.units = nn.ModuleList(units)
        self.lam = nn.Parameter(torch.ones(self.phases))

    def hyperparameters(self) -> dict[str, Any]:
        """What it is made with."""
        own = self.units[0].settings
        return {"phases": self.phases} | {name: own[name] for name in ("filters", "side", "centres")}  # type: ignore[index]

    def phase(self, k: int, s: State, y: Tensor) -> State:
        """One step, from the same point for data and energy."""
        (x,), unit = s, self.units[k]
        return (x - self.lam[k] * self.gradient(x, y) - images(each_image(unit, planes(x)), x),)
