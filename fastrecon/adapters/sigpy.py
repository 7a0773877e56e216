"""Operators as SigPy's: `as_linop`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastrecon.adapters._peer import peer
from fastrecon.adapters._vectors import Arrays
from fastrecon.operators.base import LinearOperator

sigpy: Any = peer("sigpy", "0.1", "0.2")


def as_linop(operator: LinearOperator, shape: Sequence[int], dtype: type = np.float64) -> Any:
    """The operator as a sigpy.linop.Linop of one image: for SigPy's apps and algorithms, on the CPU.

    Args:
        operator: A.
        shape: of an image, (H, W) or (C, H, W).
        dtype: real type in which it is computed.

    Raises:
        ValueError: an argument does not fit.
    """
    return _Map(Arrays("as_linop", operator, shape, dtype))


class _Map(sigpy.linop.Linop):
    def __init__(self, arrays: Arrays, back: bool = False):
        self.arrays, self.back = arrays, back
        shapes = arrays.oshape, arrays.ishape
        super().__init__(*(shapes[::-1] if back else shapes))

    def _apply(self, input: Any) -> Any:
        return self.arrays.adjoint(input) if self.back else self.arrays.forward(input)

    def _adjoint_linop(self) -> Any:
        return _Map(self.arrays, not self.back)
