"""Synthesis with a dictionary: y = A z, one code a row."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastrecon import ops
from fastrecon.checks import behind, expect, kind
from fastrecon.operators._given import tensor_of
from fastrecon.operators.base import LinearOperator

block_product = behind(ops.block_product)


class Dictionary(LinearOperator):
    """y = A z for codes z [..., d]: [..., m]; the adjoint takes signals [..., m] to [..., d].

    Every sample z [i] of a batch has the bits it has alone (`ops.block_product`).

    Args:
        atoms: A [m, d], an atom a column; an nn.Parameter is learned, of anything else a copy is kept.

    Raises:
        ValueError: A is no real matrix, or an input has another size, type or device.
    """

    atoms: Tensor

    def __init__(self, atoms: Any):
        super().__init__()
        matrix = tensor_of(atoms, "Dictionary", "atoms", "a real matrix [m, d]")
        real = matrix.ndim == 2 and matrix.is_floating_point() and matrix.numel() > 0
        expect(real, "Dictionary", "atoms", "a real matrix [m, d]", matrix)
        self.hold("atoms", atoms, matrix)

    def forward(self, x: Tensor) -> Tensor:
        """A z."""
        self._check(x, "z", self.atoms.shape[1])
        return product(x, self.atoms.T)

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """A^T y."""
        self._check(y, "y", self.atoms.shape[0])
        return product(y, self.atoms)

    def _check(self, t: Tensor, argument: str, length: int) -> None:
        fits = t.ndim >= 1 and t.shape[-1] == length and t.dtype == self.atoms.dtype and t.device == self.atoms.device
        expect(fits, "Dictionary", argument, f"[..., {length}] {kind(self.atoms)}", t)

    def _norm(self) -> float:
        return torch.linalg.matrix_norm(self.atoms.detach().double(), 2).item()

    def output_size(self, size: Sequence[int] | None) -> None:
        """None: codes are no images."""

    def input_size(self, size: Sequence[int] | None = None) -> None:
        """None: codes are no images."""


def product(t: Tensor, matrix: Tensor) -> Tensor:
    """t [..., k] times matrix [k, l]: [..., l], sample by sample of the first dimension."""
    samples, inner = (t.shape[0] if t.ndim > 1 else 1), math.prod(t.shape[1:-1])
    return block_product(t.reshape(samples, inner, t.shape[-1]), matrix).reshape(*t.shape[:-1], matrix.shape[1])
