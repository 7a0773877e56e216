"""Synthesis with a dictionary: y = A z, one code a row."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.checks import expect, kind
from fastrecon.operators.base import LinearOperator


class Dictionary(LinearOperator):
    """y = A z for codes z [..., d]: [..., m]; the adjoint takes signals [..., m] to [..., d].

    Args:
        atoms: A [m, d], an atom a column; an nn.Parameter is learned, anything else is a buffer.

    Raises:
        ValueError: A is no real matrix, or an input has another size, type or device.
    """

    atoms: Tensor

    def __init__(self, atoms: Any):
        super().__init__()
        matrix = torch.as_tensor(atoms)
        real = matrix.ndim == 2 and matrix.is_floating_point() and matrix.numel() > 0
        expect(real, "Dictionary", "atoms", "a real matrix [m, d]", matrix)
        if isinstance(atoms, nn.Parameter):
            self.atoms = atoms
        else:
            self.register_buffer("atoms", matrix.contiguous())

    def _forward(self, x: Tensor) -> Tensor:
        self._check(x, "z", self.atoms.shape[1])
        return x @ self.atoms.T

    def _adjoint(self, y: Tensor, size: Sequence[int] | None) -> Tensor:
        self._check(y, "y", self.atoms.shape[0])
        return y @ self.atoms

    def _check(self, t: Tensor, argument: str, length: int) -> None:
        fits = t.ndim >= 1 and t.shape[-1] == length and t.dtype == self.atoms.dtype and t.device == self.atoms.device
        expect(fits, "Dictionary", argument, f"[..., {length}] {kind(self.atoms)}", t)

    def _norm(self) -> float:
        return torch.linalg.matrix_norm(self.atoms.detach().double(), 2).item()
