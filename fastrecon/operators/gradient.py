"""The gradient of images: circular forward differences down and to the right."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.gradient import gradient, gradient_adjoint
from fastrecon.ops.layout import real_dtype


class Gradient(LinearOperator):
    """D: images [B, C, H, W] to slopes [B, 2 C, H, W], real or complex: x[i + 1, j] - x[i, j] of every channel, then
    x[i, j + 1] - x[i, j]; the last row and column meet the first.

    D* D is circulant, with eigenvalues 4 sin^2(pi i / H) + 4 sin^2(pi j / W): what blurs and Fourier samplings are
    joined with in closed form. Norm: at most sqrt(8), and just that for even H and W.

    Source: Wang, Yang, Yin & Zhang, A New Alternating Minimization Algorithm for Total Variation Image Reconstruction,
    SIAM J. Imaging Sci. 1 (2008).

    Raises:
        ValueError: an input is no batch of images, or of slopes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Slopes of images."""
        expect(x.ndim == 4, "Gradient", "x", "images [B, C, H, W]", x)
        return gradient(x)

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Minus the divergence of slopes."""
        expect(y.ndim == 4 and y.shape[1] % 2 == 0, "Gradient", "y", "slopes [B, 2 C, H, W]", y)
        self._same_size(size, y)
        return gradient_adjoint(y)

    def spectrum(self, like: Tensor) -> Tensor:
        """4 sin^2(pi i / H) + 4 sin^2(pi j / W)."""
        h, w = like.shape[-2:]
        down, right = (4 * torch.sin(math.pi / n * torch.arange(n, dtype=torch.float64)).square() for n in (h, w))
        right = right if like.is_complex() else right[: w // 2 + 1]
        return (down[:, None] + right)[None, None].to(like.device, real_dtype(like))

    def _norm_of(self, shape: Sequence[int]) -> float | None:
        return math.sqrt(sum(4 * math.sin(math.pi / n * (n // 2)) ** 2 for n in shape[-2:] if n)) if shape else None
