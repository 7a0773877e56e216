"""Modules of fastrecon's ops, to put into networks in the place of hand-written ones."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastrecon import ops
from fastrecon.checks import behind, flag, number, size_2d
from fastrecon.operators import Radon as RadonOperator
from fastrecon.operators import Wavelet
from fastrecon.ops.feature_gradient import smoothed_relu
from fastrecon.ops.wavelet_transform import PERIODIC

soft_threshold = behind(ops.soft_threshold)

__all__ = ["DWT2", "Radon", "SmoothedReLU", "SoftThreshold"]


class SoftThreshold(nn.Module):
    """sign(x) max(|x| - tau, 0) with tau = |parameter|, which is learned; of complex x the length is shrunk.

    Args:
        tau: at the start, >= 0.
        channels: None: one for all; else one for each channel of x [B, channels, ...].
    """

    def __init__(self, tau: float = 0.1, channels: int | None = None):
        super().__init__()
        tau = float(number(tau, "SoftThreshold", "tau", least=0))
        self.tau = nn.Parameter(torch.full((() if channels is None else (channels,)), tau))

    def forward(self, x: Tensor) -> Tensor:
        """x shrunk."""
        tau = self.tau.abs()
        return soft_threshold(x, tau if tau.ndim == 0 else tau.view(-1, *[1] * (x.ndim - 2)))


class SmoothedReLU(nn.Module):
    """The smoothed ReLU of LDA: 0 below -delta, x above delta, a parabola between.

    Args:
        delta: > 0.

    Source: Chen, Liu, Ye & Zhang, arXiv:2007.11245, eq. (33).
    """

    def __init__(self, delta: float = 0.01):
        super().__init__()
        self.delta = float(number(delta, "SmoothedReLU", "delta", above=0))

    def forward(self, x: Tensor) -> Tensor:
        """Each number activated."""
        return smoothed_relu(x, self.delta)


class DWT2(nn.Module):
    """Wavelet coefficients of images [B, C, H, W] in one array, or images from them.

    Args:
        wavelet, level, mode: as of `fastrecon.ops.dwt2`.
        inverse: whether it goes back. In modes other than "periodization" by the adjoint, which is the inverse for
            orthonormal wavelets with "zero".
        size: (H, W) of the images, to go back to in those modes.
    """

    def __init__(
        self, wavelet: str = "sym4", level: int = 3, mode: str = PERIODIC, inverse: bool = False,
        size: Sequence[int] | None = None,
    ):  # fmt: skip
        super().__init__()
        self.inverse = flag(inverse, "DWT2", "inverse")
        self.wavelet = Wavelet(wavelet, level, None if size is None else size_2d(size, "DWT2", "size"), mode=mode)

    def forward(self, x: Tensor) -> Tensor:
        """The coefficients, or the images."""
        return self.wavelet.apply_adjoint(x) if self.inverse else self.wavelet.forward(x)


class Radon(nn.Module):
    """Line integrals of images [B, C, H, W], or with `adjoint` the back-projection of [B, C, views, detectors].

    Args:
        size, angles, options: of `fastrecon.operators.Radon`.
        adjoint: whether it goes back.
    """

    def __init__(
        self, size: Sequence[int], angles: int | Sequence[float] | Tensor, adjoint: bool = False, **options: object
    ):  # fmt: skip
        super().__init__()
        self.adjoint = flag(adjoint, "Radon", "adjoint")
        self.radon = RadonOperator(size, angles, **options)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """The integrals, or the back-projection."""
        return self.radon.apply_adjoint(x) if self.adjoint else self.radon.forward(x)
