"""What the training of a prior learns."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.models import PriorModel
from fastrecon.ops.sparse_patches import sparse_patches
from fastrecon.solvers.base import column
from fastrecon.terms import FeatureNorm, MultiScale, SparsePatches
from fastrecon.train.bilevel import Phi

Regulariser = FeatureNorm | MultiScale

USUAL_EPS, USUAL_RADIUS = 0.004, 0.003
SPEED = 5.0  # rate of the logarithms of weights and radii, in rates of the kernels


class Learned(nn.Module):
    """What is learned: the kernels, and as multiples of SPEED the logarithms of weights at the knots, of eps, and of
    the radius of patches."""

    def __init__(
        self, regulariser: Regulariser, sigmas: Sequence[float], lams: Tensor, eps: float,
        patch_lams: Tensor | None = None, radius: float = USUAL_RADIUS,
    ):  # fmt: skip
        super().__init__()
        self.regulariser = regulariser
        self.log_lam = _logarithm(lams)
        self.log_eps = _logarithm(torch.tensor(eps))
        self.log_patch_lam = None if patch_lams is None else _logarithm(patch_lams)
        self.log_radius = None if patch_lams is None else _logarithm(torch.tensor(radius))
        self.register_buffer("sigmas", torch.tensor(tuple(sigmas), dtype=torch.float64))

    sigmas: Tensor

    def model(self, meta: dict[str, Any]) -> PriorModel:
        """The model as it is used."""
        learned = (self.log_lam, self.log_eps, self.log_patch_lam, self.log_radius)
        lams, eps, patch_lams, radius = (None if p is None else (SPEED * p.detach().double()).exp() for p in learned)
        assert lams is not None
        assert eps is not None
        r = copy.deepcopy(self.regulariser).requires_grad_(False)
        r.set_eps(float(eps))
        patches = None if radius is None else SparsePatches(float(radius))
        return PriorModel(r, self.sigmas, lams, meta, patches, patch_lams)

    def both(self, sigma: Tensor, precision: str, learn: bool) -> Phi:
        """The terms with their weights for noise sigma [B], and their gradient, with derivatives in what is learned or
        without."""
        with torch.set_grad_enabled(learn):
            at = self._at(sigma)
            lam, eps = (SPEED * at @ self.log_lam).exp(), (SPEED * self.log_eps).exp().expand(len(sigma))
            patches = self.log_patch_lam is not None
            of_patches = (SPEED * at @ self.log_patch_lam).exp() if patches else None
            radius = (SPEED * self.log_radius).exp() if patches else None

        def prior(x: Tensor) -> tuple[Tensor, Tensor]:
            value, grad = self.regulariser.value_and_grad(x, eps, precision)
            value, grad = lam * value, column(lam, x) * grad
            if of_patches is None or radius is None:
                return value, grad
            second, slope = sparse_patches(x, radius)
            return value + of_patches * second, grad + column(of_patches, x) * slope

        return prior

    def _at(self, sigma: Tensor) -> Tensor:
        """Weights [B, K] of the knots for noise sigma [B] between them, linear in its logarithm."""
        knots = self.sigmas.log()
        if len(knots) == 1:
            return torch.ones(len(sigma), 1).to(self.log_lam)
        k = torch.searchsorted(knots, sigma.double().log()).clamp(1, len(knots) - 1)
        t = ((sigma.double().log() - knots[k - 1]) / (knots[k] - knots[k - 1])).clamp(0, 1)
        weights = torch.zeros(len(sigma), len(knots), dtype=torch.float64, device=sigma.device)
        weights.scatter_(1, k[:, None] - 1, 1 - t[:, None]).scatter_(1, k[:, None], t[:, None])
        return weights.to(self.log_lam)


def _logarithm(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().double().log().float() / SPEED)


def scales_of(r: Regulariser) -> list[FeatureNorm]:
    """Its scales, the finest first."""
    return r.terms() if isinstance(r, MultiScale) else [r]


def together(scales: list[FeatureNorm]) -> Regulariser:
    """What `scales_of` took apart."""
    return MultiScale(scales) if len(scales) > 1 else scales[0]
