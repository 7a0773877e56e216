"""Public ops: each a definition, compiled kernels behind the torch dispatcher, and an autograd Function."""

from fastrecon.ops.armijo import armijo
from fastrecon.ops.block_product import block_product
from fastrecon.ops.feature_gradient import feature_gradient, feature_value
from fastrecon.ops.fourier_consistency import fourier_consistency
from fastrecon.ops.group_soft_threshold import group_soft_threshold
from fastrecon.ops.ladmm_step import ladmm_shrink, ladmm_step
from fastrecon.ops.prox_gradient_step import prox_gradient_step, squares
from fastrecon.ops.prox_lp import prox_lp
from fastrecon.ops.prox_tv import prox_tv
from fastrecon.ops.radon import radon, radon_adjoint
from fastrecon.ops.rays import Rays, fan_rays, parallel_rays
from fastrecon.ops.rbf_unit import rbf_unit
from fastrecon.ops.select_descent import select_descent, shrink_eps
from fastrecon.ops.smoothed_l21 import smoothed_l21
from fastrecon.ops.soft_threshold import soft_threshold
from fastrecon.ops.wavelet_transform import dwt2, idwt2

__all__ = [
    "Rays",
    "armijo",
    "block_product",
    "dwt2",
    "fan_rays",
    "feature_gradient",
    "feature_value",
    "fourier_consistency",
    "group_soft_threshold",
    "idwt2",
    "ladmm_shrink",
    "ladmm_step",
    "parallel_rays",
    "prox_gradient_step",
    "prox_lp",
    "prox_tv",
    "radon",
    "radon_adjoint",
    "rbf_unit",
    "select_descent",
    "shrink_eps",
    "smoothed_l21",
    "soft_threshold",
    "squares",
]
