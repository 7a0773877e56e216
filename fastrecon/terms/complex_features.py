"""The learned regulariser of complex images: a chain of complex convolutions, computed as a real one twice as wide."""

from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.checks import expect
from fastrecon.terms.feature_norm import FeatureNorm


class ComplexFeatureNorm(FeatureNorm):
    """r_eps(x) = sum_i h_eps(|g_i(x)|) of complex images, with features g of a chain of complex convolutions.

    The smoothed ReLU acts on real and imaginary parts one by one, |g_i| is the norm of the moduli, and the gradient is
    that in real and imaginary part: adjoint convolutions with conjugate kernels. In real numbers a layer is one
    convolution, twice as wide, with the kernel (W_r, -W_i; W_i, W_r): what computes FeatureNorm computes this.

    Args:
        channels: complex features of every layer.
        in_channels: channels of the complex images.
        layers, delta, final_activation, precision, eps: as of FeatureNorm.

    Attributes:
        weights: real and imaginary parts of the kernels, [2, out, in, 3, 3] of a layer.

    Source: Chen, Liu, Ye & Zhang, arXiv:2007.11245, section 4.2.3.
    """

    def __init__(self, channels: int = 32, layers: int = 4, in_channels: int = 1, *options: Any, **more: Any):
        super().__init__(channels, layers, in_channels, *options, **more)
        parts = [torch.stack((w, nn.init.xavier_uniform_(torch.empty_like(w)))) for w in self.weights]
        self.weights = nn.ParameterList(w.detach() / 2**0.5 for w in parts)

    def channels_of(self, x: Tensor) -> int:
        """Channels of the images that it takes, which are complex.

        Raises:
            ValueError: x is real.
        """
        expect(x.is_complex(), type(self).__name__, "x", "complex images", x)
        return self.in_channels

    def kernels(self) -> list[Tensor]:
        """Kernels [2 out, 2 in, 3, 3] of the convolutions of real and imaginary parts."""
        return [doubled(re, im) for re, im in self.weights]


def doubled(re: Tensor, im: Tensor) -> Tensor:
    """The real kernel [2 out, 2 in, 3, 3] of a complex one with these parts [out, in, 3, 3]: real parts first."""
    return torch.cat((torch.cat((re, -im), 1), torch.cat((im, re), 1)))
