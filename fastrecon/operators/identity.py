"""The identity: images as they are."""

from collections.abc import Sequence

from torch import Tensor

from fastrecon.operators.base import LinearOperator


class Identity(LinearOperator):
    """y = x, for anything [B, ...]. Norm: 1."""

    unitary = isometry = coisometry = True

    def forward(self, x: Tensor) -> Tensor:
        """The images themselves."""
        return x

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """The measurements themselves."""
        self._same_size(size, y)
        return y

    def _norm(self) -> float:
        return 1.0
