"""What can be trained, a method a file: its settings, its objective, and the `Recipe` that names both."""

from fastrecon.train.recipe import RECIPES
from fastrecon.train.recipes import (  # they register themselves
    denoiser,
    dladmm,
    fista,
    ista_net,
    lda_cs,
    lda_cs_minimiser,
    lda_joint,
    lda_mri,
    lda_mri_minimiser,
    padnet_gradient,
    padnet_haze,
    padnet_image,
    prior,
    sgp,
    smoothing,
    streaks,
    unrolled_mri,
)

__all__ = [
    "RECIPES",
    "denoiser",
    "dladmm",
    "fista",
    "ista_net",
    "lda_cs",
    "lda_cs_minimiser",
    "lda_joint",
    "lda_mri",
    "lda_mri_minimiser",
    "padnet_gradient",
    "padnet_haze",
    "padnet_image",
    "prior",
    "sgp",
    "smoothing",
    "streaks",
    "unrolled_mri",
]
