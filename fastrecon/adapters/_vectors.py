"""Operators as maps between NumPy arrays, one image at a time: what NumPy's libraries ask for."""

from collections.abc import Sequence

import numpy as np
import torch

from fastrecon.checks import an_integer, expect
from fastrecon.operators.base import LinearOperator


class Arrays:
    """A of one image [*shape] as functions of arrays.

    Attributes:
        ishape, oshape: of an image, and of what A makes of it.
        dtype: of both.

    Raises:
        ValueError: the operator is none, or takes no such image.
    """

    def __init__(self, op: str, operator: LinearOperator, shape: Sequence[int], dtype: type = np.float64):
        expect(isinstance(operator, LinearOperator), op, "operator", "a LinearOperator", type(operator).__name__)
        fits = isinstance(shape, Sequence) and len(shape) in (2, 3) and all(an_integer(n, 1) for n in shape)
        expect(fits, op, "shape", "(H, W) or (C, H, W)", shape)
        kind = np.dtype(dtype)
        self.dtype = np.result_type(kind, np.complex64) if operator.complex_input else kind
        self.operator, self.ishape = operator, tuple(int(n) for n in shape)
        self.image = (1, *((1,) if len(shape) == 2 else ()), *self.ishape)
        self.oshape = tuple(self._forward(np.zeros(self.ishape, self.dtype)).shape)

    def _forward(self, x: np.ndarray) -> np.ndarray:
        t = torch.from_numpy(np.ascontiguousarray(x, self.dtype)).view(self.image)
        with torch.no_grad():
            return self.operator.forward(t)[0].numpy()

    def forward(self, x: np.ndarray) -> np.ndarray:
        """A x."""
        return self._forward(np.reshape(x, self.ishape))

    def adjoint(self, y: np.ndarray) -> np.ndarray:
        """The adjoint of A at y."""
        t = torch.from_numpy(np.ascontiguousarray(y, self.dtype)).view(1, *self.oshape)
        with torch.no_grad():
            return self.operator.apply_adjoint(t, self.image[-2:])[0].numpy().reshape(self.ishape)
