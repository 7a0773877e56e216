"""The l2,1 norm: the sum of the lengths of vectors, such as the channels of a pixel or the two slopes of an image."""

import torch
from torch import Tensor

from fastrecon import ops
from fastrecon.checks import behind
from fastrecon.ops.layout import wide_dtype
from fastrecon.ops.reductions import sum_of
from fastrecon.terms.base import Weight, Weighted

group_soft_threshold = behind(ops.group_soft_threshold)


class GroupL21(Weighted):
    """sum_n weight |x[b, :, n]|: groups run over the channels of x [B, C, ...].

    Args:
        weight: as of Weighted: broadcastable to [B, 1, ...].

    Raises:
        ValueError: the weight is negative or not real.
    """

    proximable = True

    def value(self, x: Tensor) -> Tensor:
        """sum_n weight |x_n| [B] in float64."""
        return sum_of(torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=wide_dtype(x)) * self.weights(x))

    def prox(self, v: Tensor, weight: Weight) -> Tensor:
        """Every group shrunk by the weight in length."""
        return group_soft_threshold(v, self.scaled(v, weight))
