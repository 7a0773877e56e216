"""Complex images as two real channels, as deepinv's magnetic resonance imaging has them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.operators.base import Diagonal, LinearOperator


def joined(x: Tensor) -> Tensor:
    """Real [B, 2, ..., H, W] as complex [B, 1 or ..., H, W]."""
    z = torch.complex(x[:, 0], x[:, 1])
    return z[:, None] if z.ndim == 3 else z


def parted(z: Tensor) -> Tensor:
    """Complex [B, 1, H, W] as real [B, 2, H, W], several coils [B, N, H, W] as [B, 2, N, H, W]."""
    x = torch.stack((z.real, z.imag), 1)
    return x[:, :, 0] if z.shape[1] == 1 else x


class TwoChannel(LinearOperator):
    """A for images [B, 2, H, W], real and imaginary part: y likewise, [B, 2, H, W] or of several coils [B, 2, N, H, W].

    As a map between real numbers it has the norm of A, and its adjoint is that of A.
    """

    def __init__(self, operator: LinearOperator):
        super().__init__()
        expect(operator.complex_input, "TwoChannel", "operator", "one of complex images", type(operator).__name__)
        self.operator = operator
        self.unitary, self.isometry, self.coisometry = operator.unitary, operator.isometry, operator.coisometry

    def forward(self, x: Tensor) -> Tensor:
        """A x."""
        expect(x.ndim == 4 and x.shape[1] == 2, "TwoChannel", "x", "real and imaginary part, [B, 2, H, W]", x)
        return parted(self.operator.forward(joined(x)))

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """The adjoint of A at y."""
        expect(y.ndim in (4, 5) and y.shape[1] == 2, "TwoChannel", "y", "[B, 2, H, W] or [B, 2, coils, H, W]", y)
        return parted(self.operator.apply_adjoint(joined(y), size))

    def take(self, which: Tensor) -> LinearOperator:
        """Of the operator."""
        taken = self.operator.take(which)
        return self if taken is self.operator else TwoChannel(taken)

    def diagonal(self, like: Tensor) -> Diagonal | None:
        """Of the operator, whose transform gives complex numbers."""
        of = self.operator.diagonal(joined(like)) if like.ndim == 4 and like.shape[1] == 2 else None
        return of and replace(
            of,
            transform=lambda x: of.transform(joined(x)),
            inverse=lambda k: parted(of.inverse(k)),
            measured=lambda y: of.measured(joined(y)),
        )

    def row_scale(self, size: Sequence[int]) -> float | None:
        """Of the operator."""
        return self.operator.row_scale(size)

    def _norm(self) -> float | None:
        return self.operator._norm()

    def _norm_of(self, shape: Sequence[int]) -> float | None:
        return self.operator._norm_of((shape[0], 1, *shape[2:]))

    def output_size(self, size: Sequence[int] | None) -> Sequence[int] | None:
        """Of the operator."""
        return self.operator.output_size(size)

    def input_size(self, size: Sequence[int] | None = None) -> Sequence[int] | None:
        """Of the operator."""
        return self.operator.input_size(size)
