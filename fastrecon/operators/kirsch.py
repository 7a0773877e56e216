"""Differences in eight directions: the compass filters of Kirsch."""

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.layout import real_dtype

RING = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))  # around the centre of a filter
NORM = math.sqrt(3 * 5**2 + 5 * 3**2)


def compass() -> Tensor:
    """The filters [8, 3, 3], of norm 1, each turned by 45 degrees from the one before; float64."""
    filters = torch.zeros(8, 3, 3, dtype=torch.float64)
    for turn in range(8):
        for k, (i, j) in enumerate(RING):
            filters[turn, i, j] = 5.0 if (k - turn) % 8 < 3 else -3.0
    return filters / NORM


class Kirsch(LinearOperator):
    """D: real grey images [B, 1, H, W] to their correlations [B, 8, H, W] with `compass`, with circular boundary.

    D* D is circulant, so that joint minimisers with blurs and the identity have a closed form.

    Source: Kirsch, Computer Determination of the Constituent Structure of Biological Images, Comput. Biomed. Res. 4
    (1971); as the regulariser of transmissions: Meng et al., ICCV 2013.

    Raises:
        ValueError: an input is no batch of grey images, or of eight channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The eight differences at every pixel."""
        fits = x.ndim == 4 and x.shape[1] == 1 and x.is_floating_point()
        expect(fits, "Kirsch", "x", "real grey images [B, 1, H, W]", x)
        return _mixed([x.roll((1 - i, 1 - j), (-2, -1)) for i, j in RING], 1)

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Their adjoint."""
        fits = y.ndim == 4 and y.shape[1] == 8 and y.is_floating_point()
        expect(fits, "Kirsch", "y", "eight real differences [B, 8, H, W]", y)
        self._same_size(size, y)
        parts = _mixed(list(y.split(1, 1)), -1).split(1, 1)
        return reduce(torch.add, (p.roll((i - 1, j - 1), (-2, -1)) for p, (i, j) in zip(parts, RING, strict=True)))

    def spectrum(self, like: Tensor) -> Tensor:
        """sum_k |F d_k|^2."""
        h, w = like.shape[-2:]
        filters, kernel = compass(), torch.zeros(h, w, dtype=torch.float64)
        taps = filters.flatten(1).T @ filters.flatten(1)  # the sum of their autocorrelations, by pairs of taps
        for p in range(9):
            for q in range(9):
                kernel[(p // 3 - q // 3) % h, (p % 3 - q % 3) % w] += taps[p, q]
        total = (torch.fft.fft2(kernel) if like.is_complex() else torch.fft.rfft2(kernel)).real
        return total.clamp_min(0)[None, None].to(like.device, real_dtype(like))

    def _norm_of(self, shape: Sequence[int]) -> float | None:
        return float(self.spectrum(torch.empty(1, 1, *shape[-2:])).max().sqrt()) if shape else None


def _mixed(parts: list[Tensor], way: int) -> Tensor:
    """[B, 8, H, W]: of each part and the two behind it (way 1) or before it (way -1) 8 times the sum, less 3 times the
    sum of all, over the norm: a library's convolution rounds one image otherwise than a batch."""
    all_of = 3 * reduce(torch.add, parts)
    return (
        torch.cat([8 * (parts[k] + parts[(k + way) % 8] + parts[(k + 2 * way) % 8]) - all_of for k in range(8)], 1)
        / NORM
    )
