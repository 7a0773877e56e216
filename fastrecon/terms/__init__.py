"""Terms of objectives: value, gradient, proximal map."""

from fastrecon.terms import rice
from fastrecon.terms.base import Term
from fastrecon.terms.complex_features import ComplexFeatureNorm
from fastrecon.terms.conjugate_gradients import conjugate_gradients
from fastrecon.terms.feature_norm import FeatureNorm
from fastrecon.terms.group import GroupL21
from fastrecon.terms.group_l0 import GroupL0
from fastrecon.terms.in_basis import InBasis
from fastrecon.terms.l1 import L1
from fastrecon.terms.least_squares import LeastSquares
from fastrecon.terms.lp import Lp
from fastrecon.terms.multiscale import MultiScale
from fastrecon.terms.normal_equations import NormalEquations
from fastrecon.terms.parts import Parts
from fastrecon.terms.ridge import RidgePrior
from fastrecon.terms.scaled import Scaled
from fastrecon.terms.separate_features import SeparateFeatureNorm
from fastrecon.terms.sparse_patches import SparsePatches
from fastrecon.terms.sum import Sum
from fastrecon.terms.total_variation import TV

__all__ = [
    "L1",
    "TV",
    "ComplexFeatureNorm",
    "FeatureNorm",
    "GroupL0",
    "GroupL21",
    "InBasis",
    "LeastSquares",
    "Lp",
    "MultiScale",
    "NormalEquations",
    "Parts",
    "RidgePrior",
    "Scaled",
    "SeparateFeatureNorm",
    "SparsePatches",
    "Sum",
    "Term",
    "conjugate_gradients",
    "rice",
]
