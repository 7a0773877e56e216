"""How many vectors are not zero: the pixels with an edge, of the slopes of an image.

Source: Xu, Lu, Xu & Jia, Image Smoothing via L0 Gradient Minimization, ACM Trans. Graph. 30 (2011).
"""

import torch
from torch import Tensor

from fastrecon.ops.layout import wide_dtype
from fastrecon.ops.reductions import sum_of
from fastrecon.terms.base import Weight, Weighted


class GroupL0(Weighted):
    """sum_n weight [x[b, :, n] != 0]: groups run over the channels of x [B, C, ...].

    Args:
        weight: as of Weighted: broadcastable to [B, 1, ...].

    Raises:
        ValueError: the weight is negative or not real.
    """

    proximable = True

    def value(self, x: Tensor) -> Tensor:
        """Their weighted number [B] in float64."""
        some = (x != 0).any(1, keepdim=True).to(wide_dtype(x))
        return sum_of(some * self.weights(x))

    def prox(self, v: Tensor, weight: Weight) -> Tensor:
        """Groups as they are where half their square is above the weight, else 0."""
        square = torch.linalg.vector_norm(v, dim=1, keepdim=True).square()
        return torch.where(square / 2 > self.scaled(v, weight), v, 0)
