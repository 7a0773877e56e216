"""deepinv's Tomography by rays: the same scanner, another discretisation, so only where it is asked for."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastrecon.adapters.deepinv._library import dinv
from fastrecon.adapters.deepinv.physics import as_physics
from fastrecon.checks import expect
from fastrecon.operators import Radon
from fastrecon.operators.base import LinearOperator


class Sinogram(LinearOperator):
    """scale A with measurements [B, C, detectors, views], as deepinv and scikit-image lay them out."""

    def __init__(self, radon: Radon, scale: float = 1.0):
        super().__init__()
        self.radon, self.scale = radon, scale

    def forward(self, x: Tensor) -> Tensor:
        """scale A x."""
        return (self.radon.forward(x) * self.scale).mT

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """The adjoint at y."""
        return self.radon.apply_adjoint(y.mT.contiguous() * self.scale, size)

    def _norm(self) -> float:
        return self.scale * self.radon.norm()

    def output_size(self, size: Sequence[int] | None) -> Sequence[int]:
        """(detectors, views)."""
        views, detectors = self.radon.output_size(size)
        return detectors, views

    def input_size(self, size: Sequence[int] | None = None) -> Sequence[int]:
        """(H, W)."""
        return self.radon.input_size(size)


def radon_like(physics: Any, **options: Any) -> Any:
    """The scanner of a deepinv Tomography as physics of line integrals along its rays.

    deepinv turns the image, which interpolates every pixel; this follows the rays (Joseph's interpolation), which is
    nearer to the integrals and many times as fast. On a smooth image the two differ by a thousandth. Scale and
    layout of y are the same, and a normalised operator is normalised by its own norm.

    Args:
        physics: deepinv.physics.Tomography with parallel beams and circle=False.
        options: of `as_physics`.

    Raises:
        ValueError: it is another physics, fan beams or circle=True.
    """
    op = "radon_like"
    expect(type(physics) is dinv.physics.Tomography, op, "physics", "a deepinv Tomography", type(physics).__name__)
    expect(
        not physics.fan_beam and not physics.radon.circle, op, "physics", "parallel beams and circle=False", "others"
    )
    n = int(physics.img_width)
    whole = math.ceil(math.sqrt(2) * n)  # as it pads: to the diagonal
    middle = (whole - 1) / 2 - (whole // 2 - n // 2)  # of its padded image, in pixels of the image
    radon = Radon((n, n), physics.angles.double().deg2rad(), whole, 1.0, centre=(middle, middle))
    scale = 1 / radon.norm() if physics.normalize else 1.0
    return as_physics(Sinogram(radon, scale), (1, n, n), **options)
