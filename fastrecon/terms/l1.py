"""The l1 norm, of images or of their coefficients in an orthonormal basis."""

from torch import Tensor

from fastrecon import ops
from fastrecon.checks import behind
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.layout import wide_dtype
from fastrecon.ops.reductions import sum_of
from fastrecon.terms.base import Weight
from fastrecon.terms.in_basis import InBasis

soft_threshold = behind(ops.soft_threshold)


class L1(InBasis):
    """|weight T x|_1. Its proximal map is exact: T is unitary, and soft thresholding separable.

    Args: as of InBasis.
    """

    def value_of(self, c: Tensor) -> Tensor:
        """|weight c|_1 [B] in float64."""
        return sum_of(c.to(wide_dtype(c)).abs() * self.weights(c))

    def shrunk(self, c: Tensor, weight: Weight) -> Tensor:
        """soft(c, weight)."""
        return soft_threshold(c, self.scaled(c, weight))

    def _again(self, weight: Weight, transform: LinearOperator | None) -> "L1":
        return L1(weight, transform)
