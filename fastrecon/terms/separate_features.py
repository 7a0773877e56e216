"""The learned regulariser of real images for complex ones: real and imaginary part are an image each."""

import torch
from torch import Tensor

from fastrecon.terms.feature_norm import FeatureNorm


class SeparateFeatureNorm(FeatureNorm):
    """r_eps(x) = r_eps(Re x) + r_eps(Im x) of complex images [B, C, H, W], with real kernels; of real images r_eps(x).

    So it may be trained with real images alone, and costs half of what complex kernels of as many channels do.

    Args:
        channels, layers, in_channels, delta, final_activation, precision, eps: as of FeatureNorm.
    """

    def channels_of(self, x: Tensor) -> int:
        """Channels of the images that it takes, real or complex."""
        return self.in_channels

    def norms(self, x: Tensor) -> int:
        """As of FeatureNorm; a complex pixel has two."""
        return super().norms(x) * (1 + x.is_complex())

    def _value(self, x: Tensor, eps: float | Tensor, precision: str) -> Tensor:
        if not x.is_complex():
            return super()._value(x, eps, precision)
        value = super()._value(_apart(x), _twice(eps), precision)
        return value[0::2] + value[1::2]

    def _both(self, x: Tensor, eps: float | Tensor, precision: str) -> tuple[Tensor, Tensor]:
        if not x.is_complex():
            return super()._both(x, eps, precision)
        value, grad = super()._both(_apart(x), _twice(eps), precision)
        return value[0::2] + value[1::2], torch.complex(grad[0::2], grad[1::2])

    @torch.no_grad()
    def feature_norms(self, x: Tensor) -> Tensor:
        """Maps [B, H, W] of |g_i(x)|; of complex images the norm of those of real and imaginary part."""
        if not x.is_complex():
            return super().feature_norms(x)
        maps = super().feature_norms(_apart(x))
        return torch.hypot(maps[0::2], maps[1::2])


def _apart(x: Tensor) -> Tensor:
    """Complex images [B, C, H, W] as real ones [2 B, C, H, W]: real and imaginary part of the first, of the second."""
    return torch.view_as_real(x).movedim(-1, 1).flatten(0, 1).contiguous()


def _twice(eps: float | Tensor) -> float | Tensor:
    return eps.repeat_interleave(2) if isinstance(eps, Tensor) and eps.ndim else eps
