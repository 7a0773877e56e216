"""Total variation: the sum over pixels of the length of the differences to the right and downwards.

Source: Rudin, Osher & Fatemi, Nonlinear Total Variation Based Noise Removal Algorithms, Physica D 60 (1992).
"""

from torch import Tensor

from fastrecon import ops
from fastrecon.checks import behind, expect, flag, number
from fastrecon.ops.prox_tv import ITERATIONS, ProxTV
from fastrecon.terms.base import Weight, Weighted

prox_tv = behind(ops.prox_tv)


class TV(Weighted):
    """weight TV(x) of images [B, C, H, W], real or complex. Its proximal map is exact to a duality gap.

    Args:
        weight: >= 0: a number, or [B].
        isotropic: whether the length is Euclidean; else the sum of absolute values, which prefers upright edges.
        joint: whether lengths run over the channels of an image; else each channel has its own TV.
        tol: of `prox`: the gap at most so much of its objective, see `ops.prox_tv`.

    Raises:
        ValueError: the weight is negative, not real or one for parts of an image, or tol negative.
    """

    proximable = True

    def __init__(self, weight: Weight, isotropic: bool = True, joint: bool = False, tol: float = 1e-5):
        super().__init__(weight)
        whole = not isinstance(self.weight, Tensor) or self.weight.numel() == self.weight.shape[0:1].numel()
        expect(whole, "TV", "weight", "a number, or [B]", weight)
        self.isotropic, self.joint = flag(isotropic, "TV", "isotropic"), flag(joint, "TV", "joint")
        self.tol = float(number(tol, "TV", "tol", least=0))

    def value(self, x: Tensor) -> Tensor:
        """weight TV(x) [B] in float64: the gap of the proximal map at x itself."""
        w = self.weights(x)
        return prox_tv(
            x, w.flatten() if isinstance(w, Tensor) else w, self.isotropic, joint=self.joint, iterations=0
        ).gap

    def prox(self, v: Tensor, weight: Weight) -> Tensor:
        """The minimiser, to `tol`."""
        return self.solve(v, weight).x

    def solve(
        self, v: Tensor, weight: Weight, dual: Tensor | None = None, tol: float | None = None,
        iterations: int = ITERATIONS,
    ) -> ProxTV:  # fmt: skip
        """The proximal map with its gap, and the dual that a next one may start from; see `ops.prox_tv`."""
        w = self.scaled(v, weight)
        return prox_tv(
            v, w.flatten() if isinstance(w, Tensor) else w, self.isotropic, dual, joint=self.joint,
            tol=self.tol if tol is None else tol, iterations=iterations,
        )  # fmt: skip
