"""deepinv 0.5 with fastrecon's operators, priors, models and loops."""

from fastrecon.adapters.deepinv.accelerate import accelerate
from fastrecon.adapters.deepinv.denoisers import TVDenoiser, WaveletDenoiser
from fastrecon.adapters.deepinv.operators import from_physics
from fastrecon.adapters.deepinv.physics import as_physics
from fastrecon.adapters.deepinv.priors import FeaturePrior, L12Prior, TVPrior, WaveletPrior
from fastrecon.adapters.deepinv.reconstructor import as_reconstructor
from fastrecon.adapters.deepinv.tomography import radon_like

__all__ = [
    "FeaturePrior",
    "L12Prior",
    "TVDenoiser",
    "TVPrior",
    "WaveletDenoiser",
    "WaveletPrior",
    "accelerate",
    "as_physics",
    "as_reconstructor",
    "from_physics",
    "radon_like",
]
