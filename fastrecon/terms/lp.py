"""The lp penalty for 0 <= p <= 1: nonconvex and sparser than l1, the number of nonzeros at p = 0."""

from torch import Tensor

from fastrecon import ops
from fastrecon.checks import behind, number
from fastrecon.ops.layout import wide_dtype
from fastrecon.ops.reductions import sum_of
from fastrecon.terms.base import Weight, Weighted

prox_lp = behind(ops.prox_lp)


class Lp(Weighted):
    """sum_i weight |x_i|^p. Its proximal map is solved to rounding, and is 0 where two minimisers tie.

    Args:
        weight: as of Weighted: broadcastable to x.
        p: exponent in [0, 1].

    Raises:
        ValueError: the weight is negative or not real, or p out of range.
    """

    proximable = True

    def __init__(self, weight: Weight, p: float):
        super().__init__(weight)
        self.p = float(number(p, "Lp", "p", least=0, most=1))

    def value(self, x: Tensor) -> Tensor:
        """sum_i weight |x_i|^p [B] in float64."""
        size = x.to(wide_dtype(x)).abs()
        return sum_of((size.pow(self.p) if self.p else (size != 0).to(size.dtype)) * self.weights(x))

    def prox(self, v: Tensor, weight: Weight) -> Tensor:
        """The proximal map `ops.prox_lp`."""
        return prox_lp(v, self.scaled(v, weight), self.p)
