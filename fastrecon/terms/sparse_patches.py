"""How far the patches of images are from sparse: sum_p sum_(k > 0) log(1 + (c_pk / radius)^2) / 64.

c_pk are the coefficients of the cosine transform of the patch of 8x8 pixels at p, wherever patches lie within the
image. Periodic textures and smooth shading are sparse there, which a network of few layers does not see.
"""

import torch
from torch import Tensor

from fastrecon.checks import number
from fastrecon.ops.sparse_patches import sparse_patches
from fastrecon.terms.base import Evaluation, Term

USUAL_RADIUS = 0.003  # of images on [0, 1]: less than a grey level


class SparsePatches(Term):
    """The sum, of grey images [B, 1, H, W].

    Args:
        radius: of coefficients that count as zero, > 0, in units of the image.

    Source: Roth & Black, Fields of Experts, Int. J. Comput. Vis. 82 (2009), eq. (6).
    """

    smooth = True
    radius: Tensor

    def __init__(self, radius: float = USUAL_RADIUS):
        super().__init__()
        self.register_buffer(
            "radius", torch.tensor(number(radius, "SparsePatches", "radius", above=0), dtype=torch.float32)
        )

    def extra_repr(self) -> str:
        """What it is made with."""
        return f"logarithms of coefficients of patches of 8x8 pixels, radius {float(self.radius):g}"

    def value(self, x: Tensor) -> Tensor:
        """[B] in float64."""
        return self.value_and_grad(x)[0]

    def grad(self, x: Tensor) -> Tensor:
        """Like x."""
        return self.value_and_grad(x)[1]

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> Evaluation:
        """Both."""
        return Evaluation(*self.value_and_grad(x))

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The value [B] in float64 and its gradient like x, differentiable in x."""
        return sparse_patches(x, self.radius)
