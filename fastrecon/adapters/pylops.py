"""Operators as PyLops's, and PyLops's as operators: `as_pylops`, `from_pylops`."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fastrecon.adapters._peer import peer
from fastrecon.adapters._vectors import Arrays
from fastrecon.checks import expect
from fastrecon.operators import Callables
from fastrecon.operators.base import LinearOperator

pylops: Any = peer("pylops", "2.0", "3")


def as_pylops(operator: LinearOperator, shape: Sequence[int], dtype: type = np.float64) -> Any:
    """The operator as a pylops.LinearOperator of one image, from vectors and from arrays of `shape`.

    Args:
        operator: A.
        shape: of an image, (H, W) or (C, H, W).
        dtype: real type in which it is computed.

    Raises:
        ValueError: an argument does not fit.
    """
    return _Map(Arrays("as_pylops", operator, shape, dtype))


class _Map(pylops.LinearOperator):
    def __init__(self, arrays: Arrays):
        self.arrays = arrays
        super().__init__(dtype=np.dtype(arrays.dtype), dims=arrays.ishape, dimsd=arrays.oshape)

    def _matvec(self, x: Any) -> Any:
        return self.arrays.forward(x).ravel()

    def _rmatvec(self, x: Any) -> Any:
        return self.arrays.adjoint(x).ravel()


def from_pylops(operator: Any, shape: Sequence[int] | None = None) -> LinearOperator:
    """A PyLops operator as one of fastrecon, of images one after the other.

    Args:
        operator: a pylops.LinearOperator.
        shape: of an image, (H, W) or (C, H, W); None: its dims.

    Raises:
        ValueError: an argument does not fit.
    """
    op = "from_pylops"
    known = isinstance(operator, pylops.LinearOperator)
    expect(known, op, "operator", "a pylops.LinearOperator", type(operator).__name__)
    dims = tuple(operator.dims) if shape is None else tuple(shape)
    fits = len(dims) in (2, 3) and math.prod(dims) == operator.shape[1]
    expect(fits, op, "shape", f"(H, W) or (C, H, W) of {operator.shape[1]} numbers", dims)

    def forward(x: torch.Tensor) -> np.ndarray:
        return np.asarray(operator.matvec(x.numpy().ravel())).reshape(operator.dimsd)

    def adjoint(y: torch.Tensor) -> np.ndarray:
        return np.asarray(operator.rmatvec(y.numpy().ravel())).reshape(dims)

    return Callables(forward, adjoint, dims, np.issubdtype(operator.dtype, np.complexfloating), torch.float64)
