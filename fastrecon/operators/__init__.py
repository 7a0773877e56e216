"""Forward operators: each a module with A(x), A.adjoint(y), A.norm(), composition A @ B and transposition A.T."""

from fastrecon.operators.base import LinearOperator
from fastrecon.operators.block_sensing import BlockSensing, measurements, random_phi
from fastrecon.operators.blur import Blur, gaussian_kernel, motion_kernel
from fastrecon.operators.blurred_slopes import BlurredSlopes
from fastrecon.operators.callables import Callables
from fastrecon.operators.colour_slopes import ColourSlopes
from fastrecon.operators.crop import Crop
from fastrecon.operators.dictionary import Dictionary
from fastrecon.operators.fourier import Fourier
from fastrecon.operators.gradient import Gradient
from fastrecon.operators.identity import Identity
from fastrecon.operators.inpainting import Inpainting
from fastrecon.operators.kirsch import Kirsch
from fastrecon.operators.layers import Layers
from fastrecon.operators.radon import Radon
from fastrecon.operators.wavelet import Wavelet

__all__ = [
    "BlockSensing",
    "Blur",
    "BlurredSlopes",
    "Callables",
    "ColourSlopes",
    "Crop",
    "Dictionary",
    "Fourier",
    "Gradient",
    "Identity",
    "Inpainting",
    "Kirsch",
    "Layers",
    "LinearOperator",
    "Radon",
    "Wavelet",
    "gaussian_kernel",
    "measurements",
    "motion_kernel",
    "random_phi",
]
