"""The lp penalty for 0 <= p <= 1: nonconvex and sparser than l1, the number of nonzeros at p = 0."""

from torch import Tensor

from fastrecon import ops
from fastrecon.checks import behind, number
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.layout import wide_dtype
from fastrecon.ops.prox_lp import lp_value
from fastrecon.ops.reductions import sum_of
from fastrecon.terms.base import Weight
from fastrecon.terms.in_basis import InBasis

prox_lp = behind(ops.prox_lp)


class Lp(InBasis):
    """sum_i weight |(T x)_i|^p. Its proximal map is solved to rounding, and is 0 where two minimisers tie.

    Args:
        weight: as of Weighted: broadcastable to T x.
        p: exponent in [0, 1].
        transform: T, as of InBasis; None for x itself.

    Raises:
        ValueError: the weight is negative or not real, p out of range, or T not unitary.
    """

    def __init__(self, weight: Weight, p: float, transform: LinearOperator | None = None):
        super().__init__(weight, transform)
        self.p = float(number(p, "Lp", "p", least=0, most=1))

    def value_of(self, c: Tensor) -> Tensor:
        """sum_i weight |c_i|^p [B] in float64."""
        w = self.weights(c)
        if not isinstance(w, Tensor):
            return lp_value(c, self.p) * w
        size = c.to(wide_dtype(c)).abs()
        return sum_of((size.pow(self.p) if self.p else (size != 0).to(size.dtype)) * w)

    def shrunk(self, c: Tensor, weight: Weight) -> Tensor:
        """The proximal map `ops.prox_lp`."""
        return prox_lp(c, self.scaled(c, weight), self.p)

    def _again(self, weight: Weight, transform: LinearOperator | None) -> "Lp":
        return Lp(weight, self.p, transform)
