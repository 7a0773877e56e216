"""deepinv's priors on fastrecon's kernels, and the learned prior of LDA as one of deepinv's."""

from typing import Any

import torch
from torch import Tensor

from fastrecon import ops
from fastrecon.adapters.deepinv._library import dinv
from fastrecon.adapters.deepinv.denoisers import TVDenoiser, WaveletDenoiser
from fastrecon.checks import behind, expect, number
from fastrecon.ops.wavelet_shrinkage import Shrinkage
from fastrecon.ops.wavelet_transform import PERIODIC
from fastrecon.terms.feature_norm import FeatureNorm

group_soft_threshold = behind(ops.group_soft_threshold)

THRESHOLD = 0.1  # of deepinv's WaveletPrior.prox, which multiplies it by gamma


class WaveletPrior(dinv.optim.WaveletPrior):
    """deepinv's WaveletPrior, its transforms on the kernel; see `WaveletDenoiser` for `mode`.

    Args:
        level, wv, p, device, is_complex, clamp_min, clamp_max: as of deepinv; `wv` a name or a list of names.
        mode: periodization, zero, symmetric, reflect, periodic, constant.
        wvdim: 2.
    """

    def __init__(
        self, level: int = 3, wv: Any = "db8", p: float = 1, device: Any = "cpu", wvdim: int = 2,
        is_complex: bool = False, mode: str = PERIODIC, clamp_min: float | None = None, clamp_max: float | None = None,
        **kwargs: Any,
    ):  # fmt: skip
        expect(wvdim == 2, "WaveletPrior", "wvdim", "2", wvdim)
        super().__init__(level, wv, p, device, wvdim, is_complex, mode, clamp_min, clamp_max, **kwargs)

        def ours(name: str) -> WaveletDenoiser:
            return WaveletDenoiser(level, name, device, self.non_linearity, mode, wvdim, is_complex)

        if isinstance(wv, str):
            self.WaveletDenoiser = ours(wv)
        else:
            self.WaveletDenoiser.list_prox = torch.nn.ModuleList(map(ours, wv))

    def shrinkage(self, x: Tensor, gamma: Any) -> Shrinkage | None:
        """Its proximal map of images like x, where it is one of the kernel's: see `WaveletDenoiser.shrinkage`."""
        one = self.WaveletDenoiser
        if not isinstance(one, WaveletDenoiser) or self.clamp_min is not None or self.clamp_max is not None:
            return None
        return one.shrinkage(x, THRESHOLD * gamma)


class TVPrior(dinv.optim.TVPrior):
    """deepinv's TVPrior, its proximal map to a duality gap, see `TVDenoiser`."""

    def __init__(self, def_crit: float = 1e-8, n_it_max: int = 1000, **kwargs: Any):
        super().__init__(def_crit, n_it_max, **kwargs)
        self.TVModel = TVDenoiser(crit=def_crit, n_it_max=n_it_max)


class L12Prior(dinv.optim.L12Prior):
    """deepinv's L12Prior, its proximal map one kernel."""

    def prox(self, x: Tensor, *args: Any, gamma: Any = 1.0, **kwargs: Any) -> Tensor:
        """Every group along `l2_axis` shrunk by gamma in length."""
        axis = self.l2_axis % x.ndim
        if x.ndim < 2 or axis == 0 or (isinstance(gamma, Tensor) and gamma.numel() > 1 and gamma.ndim != 1):
            return super().prox(x, *args, gamma=gamma, **kwargs)
        gamma = gamma.reshape(()) if isinstance(gamma, Tensor) and gamma.numel() == 1 else gamma
        return group_soft_threshold(x.movedim(axis, 1), gamma).movedim(1, axis)


class FeaturePrior(dinv.optim.Prior):
    """The learned regulariser of LDA, sum_i h_eps(|g_i(x)|), as a smooth prior: for gradient descent and the like.

    Args:
        term: `FeatureNorm`, of a trained model say.
        eps: smoothing radius, > 0; None: that of the term.
    """

    def __init__(self, term: FeatureNorm, eps: float | None = None):
        super().__init__()
        expect(isinstance(term, FeatureNorm), "FeaturePrior", "term", "a FeatureNorm", type(term).__name__)
        radius = term.eps if eps is None else number(eps, "FeaturePrior", "eps", above=0)
        expect(radius is not None, "FeaturePrior", "eps", "a radius > 0, here or of the term", None)
        self.term, self.eps, self.explicit_prior = term, radius, True

    def fn(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The prior at x, [B]."""
        return self.term.value(x, self.eps)

    def grad(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Its gradient at x."""
        return self.term.grad(x, self.eps)
