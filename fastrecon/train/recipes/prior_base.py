"""What the training of a prior learns."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.models import PriorModel
from fastrecon.solvers.base import column
from fastrecon.terms import FeatureNorm, MultiScale, SparsePatches
from fastrecon.terms.sparse_patches import USUAL_RADIUS
from fastrecon.train.bilevel import Phi

Regulariser = FeatureNorm | MultiScale

USUAL_EPS = 0.004
SPEED = 5.0  # rate of the logarithms of weights and eps, in rates of the kernels


class Learned(nn.Module):
    """What is learned: the kernels, and as multiples of SPEED the logarithms of weights at the knots and of eps."""

    def __init__(
        self, regulariser: Regulariser, sigmas: Sequence[float], lams: Tensor, eps: float,
        patch_lams: Tensor | None = None, radius: float = USUAL_RADIUS,
    ):  # fmt: skip
        super().__init__()
        self.regulariser = regulariser
        self.log_lam = _logarithm(lams)
        self.log_eps = _logarithm(torch.tensor(eps))
        self.log_patch_lam = None if patch_lams is None else _logarithm(patch_lams)
        self.patches = None if patch_lams is None else SparsePatches(radius)
        self.register_buffer("sigmas", torch.tensor(tuple(sigmas), dtype=torch.float64))

    sigmas: Tensor

    def model(self, meta: dict[str, Any]) -> PriorModel:
        """The model as it is used."""
        learned = (self.log_lam, self.log_eps, self.log_patch_lam)
        lams, eps, patch_lams = (None if p is None else (SPEED * p.detach().double()).exp() for p in learned)
        assert lams is not None
        assert eps is not None
        r = copy.deepcopy(self.regulariser).requires_grad_(False)
        r.set_eps(float(eps))
        return PriorModel(r, self.sigmas, lams, meta, copy.deepcopy(self.patches), patch_lams)

    def both(self, sigma: Tensor, precision: str, learn: bool) -> Phi:
        """The terms with their weights for noise sigma [B], and their gradient, with derivatives in what is learned or
        without."""
        with torch.set_grad_enabled(learn):
            at = self._at(sigma)
            lam, eps = (SPEED * at @ self.log_lam).exp(), (SPEED * self.log_eps).exp().expand(len(sigma))
            of_patches = None if self.log_patch_lam is None else (SPEED * at @ self.log_patch_lam).exp()

        def prior(x: Tensor) -> tuple[Tensor, Tensor]:
            value, grad = self.regulariser.value_and_grad(x, eps, precision)
            value, grad = lam * value, column(lam, x) * grad
            if self.patches is None or of_patches is None:
                return value, grad
            second, slope = self.patches.value_and_grad(x)
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
