"""Public ops: each a definition, compiled kernels behind the torch dispatcher, and an autograd Function."""

from fastrecon.ops.feature_gradient import feature_gradient, feature_value
from fastrecon.ops.group_soft_threshold import group_soft_threshold
from fastrecon.ops.ladmm_step import ladmm_shrink, ladmm_step
from fastrecon.ops.prox_lp import prox_lp
from fastrecon.ops.select_descent import select_descent, shrink_eps
from fastrecon.ops.smoothed_l21 import smoothed_l21
from fastrecon.ops.soft_threshold import soft_threshold

__all__ = [
    "feature_gradient",
    "feature_value",
    "group_soft_threshold",
    "ladmm_shrink",
    "ladmm_step",
    "prox_lp",
    "select_descent",
    "shrink_eps",
    "smoothed_l21",
    "soft_threshold",
]
