"""Networks that methods are made of."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from fastrecon.networks.guided_unit import GuidedUnit
from fastrecon.networks.rbf_unit import RBFUnit
from fastrecon.networks.residual_cnn import ResidualCNN
from fastrecon.networks.scales_cnn import ScalesCNN
from fastrecon.networks.squares_cnn import SquaresCNN

# Kinds of units of PADNet, by their names in model files. A kind is made with its `settings`, an instance keeps them.
UNITS: dict[str, type[nn.Module]] = {
    "rbf": RBFUnit,
    "cnn": ResidualCNN,
    "guided": GuidedUnit,
    "squares": SquaresCNN,
    "scales": ScalesCNN,
}


def described(unit: nn.Module) -> dict[str, Any]:
    """Kind and settings of a unit, as model files have them."""
    kind = next(k for k, c in UNITS.items() if type(unit) is c)
    return {"kind": kind, **dict(unit.settings)}  # type: ignore[arg-type]


def made(description: Mapping[str, Any]) -> nn.Module:
    """A new unit of a description; without a kind it is a cnn."""
    settings = dict(description)
    return UNITS[settings.pop("kind", "cnn")](**settings)


__all__ = ["UNITS", "GuidedUnit", "RBFUnit", "ResidualCNN", "ScalesCNN", "SquaresCNN", "described", "made"]
