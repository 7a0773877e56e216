"""Networks that methods are made of."""

from torch import nn

from fastrecon.networks.guided_unit import GuidedUnit
from fastrecon.networks.rbf_unit import RBFUnit
from fastrecon.networks.residual_cnn import ResidualCNN
from fastrecon.networks.squares_cnn import SquaresCNN

# Kinds of units of PADNet, by their names in model files. A kind is made with its `settings`, an instance keeps them.
UNITS: dict[str, type[nn.Module]] = {
    "rbf": RBFUnit,
    "cnn": ResidualCNN,
    "guided": GuidedUnit,
    "squares": SquaresCNN,
}

__all__ = ["UNITS", "GuidedUnit", "RBFUnit", "ResidualCNN", "SquaresCNN"]
