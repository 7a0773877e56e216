"""Ridge regularisers, convex or weakly convex: sums of potentials of filter responses.

r(x) = sum_f exp(-2 s_f) sum_i [exp(-beta) h(exp(beta + s_f) w_fi) - rho h(exp(s_f) w_fi)],  w = W x, |W| = 1,

h(t) = t^2 / 2 for |t| <= 1 and |t| - 1/2 beyond; W is a chain of convolutions without anything in between. As h'' lies
in [0, 1], r + rho |x|^2 / 2 is convex: rho = 0 gives CRR, rho = 1 WCRR, with which denoising is convex.

Source: Goujon, Neumayer, Bohra, Ducotterd & Unser, A Neural-Network-Based Convex Regularizer for Inverse Problems, IEEE
Trans. Comput. Imaging 9 (2023); Goujon, Neumayer & Unser, Learning Weakly Convex Regularizers for Convergent
Image-Reconstruction Algorithms, SIAM J. Imaging Sci. 17 (2024). These potentials: Hertrich et al., arXiv:2510.01755.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastrecon.checks import expect, number
from fastrecon.ops.by_image import each_image
from fastrecon.ops.reductions import sum_of
from fastrecon.terms.base import Evaluation, Term

GRID = 256  # pixels a side, on which |W| is found
CACHED = 2**16  # numbers that stay in the cache from one pass to the next
ZERO_MEAN = (
    "filters.0.parametrizations.weight.original"  # the first filters of a state, before their means are taken out
)


class RidgePrior(Term):
    """A ridge regulariser of grey images [B, 1, H, W], zero beyond their edges.

    Args:
        filters: kernels [out, in, k, k] of the convolutions, k odd, from 1 channel on; scaled to |W| = 1.
        scaling: s [F], one for each channel of the last.
        beta: how much steeper the convex part is, as a logarithm.
        weak_convexity: rho >= 0.
        strength: times the whole, > 0.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    smooth = True

    def __init__(
        self, filters: Sequence[Tensor], scaling: Tensor, beta: float, weak_convexity: float = 1.0,
        strength: float = 1.0,
    ):  # fmt: skip
        super().__init__()
        name = type(self).__name__
        odd = all(w.ndim == 4 and w.shape[2] == w.shape[3] and w.shape[2] % 2 == 1 for w in filters)
        chained = odd and len(filters) > 0 and all(a.shape[0] == b.shape[1] for a, b in pairwise(filters))
        expected = "kernels of a chain, of odd sides, from 1 channel on"
        fits = chained and filters[0].shape[1] == 1
        expect(fits, name, "filters", expected, [tuple(w.shape) for w in filters])
        expect(scaling.numel() == len(filters[-1]), name, "scaling", f"[{len(filters[-1])}]", scaling)
        self.beta = float(number(beta, name, "beta"))
        self.weak_convexity = float(number(weak_convexity, name, "weak_convexity", least=0))
        self.strength = float(number(strength, name, "strength", above=0))
        with torch.no_grad():
            norm = _norm(filters)
            expect(
                bool(0 < norm < float("inf")), name, "filters", "finite kernels that are not all zero", f"|W| = {norm}"
            )
            self.filters = nn.ParameterList([filters[0] / norm, *(w.clone() for w in filters[1:])])
        self.scaling = nn.Parameter(scaling.detach().reshape(1, -1, 1, 1).clone())

    @classmethod
    def from_state(cls, state: Mapping[str, Any], weak_convexity: float = 1.0) -> "RidgePrior":
        """The regulariser of a state of the public weights of arXiv:2510.01755, as
        `torch.load(path, map_location="cpu", weights_only=True)` gives it.

        Keys: `scaling`, `beta`, `filters.K.weight` or, with means to be taken out, parametrised; of fitted ones with
        `regularizer.` before them, and `alpha` and `scale`.

        Args:
            state: by name.
            weak_convexity: rho, which the state does not tell: 0 for files called CRR, 1 for WCRR.

        Raises:
            ValueError: it is of another layout.
        """
        fitted = {k.removeprefix("regularizer."): v for k, v in state.items() if k.startswith("regularizer.")}
        own = fitted or dict(state)
        count = sum(k.startswith("filters.") for k in own)
        if count and ZERO_MEAN in own:
            first = own[ZERO_MEAN]
            own["filters.0.weight"] = first - first.mean((1, 2, 3), keepdim=True)
        names = [*(f"filters.{k}.weight" for k in range(count)), "scaling", "beta"]
        known = count > 0 and all(isinstance(own.get(name), Tensor) for name in names)
        expect(known, "RidgePrior", "state", "scaling, beta and filters.K.weight", ", ".join(sorted(state))[:160])
        *filters, scaling, beta = (own[name] for name in names)
        alpha, scale = (float(state[k]) if k in state else 0.0 for k in ("alpha", "scale"))
        return cls(filters, scaling + scale, float(beta), weak_convexity, math.exp(alpha))

    def extra_repr(self) -> str:
        """What it is made with."""
        shapes = ", ".join(str(tuple(w.shape)) for w in self.filters)
        return f"potentials of responses of filters {shapes}, {self.weak_convexity:g}-weakly convex"

    @property
    def curvature(self) -> tuple[float, float]:
        """Bounds of the curvature of r: it is at least the first, <= 0, and at most the second."""
        return -self.strength * self.weak_convexity, self.strength * math.exp(self.beta)

    def responses(self, x: Tensor) -> Tensor:
        """W x [B, F, H, W]."""
        for w in self.filters:
            x = F.conv2d(x, w, padding=w.shape[-1] // 2)
        return x

    def value(self, x: Tensor) -> Tensor:
        """r(x) [B] in float64."""
        return each_image(lambda one: self._value(self._scaled(one)), x)

    def grad(self, x: Tensor) -> Tensor:
        """Like x."""
        return each_image(lambda one: self._grad(self._scaled(one)), x)

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> Evaluation:
        """Both from one chain of convolutions, the value in the precision of its terms."""
        parts = [self._both(self.responses(one)) for one in x.split(1)]
        values, grads = (torch.cat(p) for p in zip(*parts, strict=True))
        return Evaluation(values.to(x.dtype), grads)

    @torch.no_grad()
    def feature_norms(self, x: Tensor) -> Tensor:
        """Maps |(W x)_i| [B, H, W] over the filters."""
        return torch.linalg.vector_norm(each_image(self.responses, x), dim=1)

    def _scaled(self, x: Tensor) -> Tensor:
        return self.scaling.exp() * self.responses(x)

    def _value(self, t: Tensor) -> Tensor:
        steep = math.exp(self.beta)
        potential = _huber(steep * t) / steep - self.weak_convexity * _huber(t)
        return self.strength * sum_of(potential * (-2 * self.scaling).exp())

    def _grad(self, t: Tensor) -> Tensor:
        g = (math.exp(self.beta) * t).clamp(-1, 1) - self.weak_convexity * t.clamp(-1, 1)
        return self._back(self.strength * (-self.scaling).exp() * g)

    def _back(self, g: Tensor) -> Tensor:
        """W* g; a convolution with turned kernels takes half as long as a transposed one of few channels."""
        for w in reversed(self.filters):
            g = F.conv2d(g, w.flip(2, 3).transpose(0, 1), padding=w.shape[-1] // 2)
        return g

    def _both(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Value and gradient of responses t [1, F, H, W], which are overwritten: some channels at a time, since passes
        over all of them take longer than the convolutions."""
        steep, rho, value = math.exp(self.beta), self.weak_convexity, 0.0
        count = t.shape[1] if t.is_cuda else max(1, CACHED // t[0, 0].numel())
        for s, part in zip(self.scaling.exp().split(count, 1), t.split(count, 1), strict=True):
            u = part.mul_(s)
            slope = (steep * u).clamp_(-1, 1)
            terms = slope * (u - slope / (2 * steep))  # h(t) = c (t - c / 2), c = t on [-1, 1] and its end beyond
            if rho:
                flat = u.clamp(-1, 1)
                terms -= rho * flat * (u - flat / 2)
                slope -= rho * flat
            value = value + sum_of(terms / s.square())
            torch.mul(slope, self.strength / s, out=part)
        assert isinstance(value, Tensor)
        return self.strength * value, self._back(t)


def _huber(t: Tensor) -> Tensor:
    size = t.abs()
    inside = size.clamp_max(1)
    return inside.square() / 2 + (size - inside)


def _norm(filters: Sequence[Tensor]) -> float:
    """|W| on images that go on periodically: the root of the largest value of the transform of W* W delta."""
    reach = sum(w.shape[-1] - 1 for w in filters)
    t = torch.zeros(1, 1, 2 * reach + 1, 2 * reach + 1, dtype=torch.float64)
    t[0, 0, reach, reach] = 1
    wide = [w.detach().double().cpu() for w in filters]
    for w in wide:
        t = F.conv2d(t, w, padding=w.shape[-1] // 2)
    for w in reversed(wide):
        t = F.conv_transpose2d(t, w, padding=w.shape[-1] // 2)
    side = max(GRID, 2 * reach + 1)
    return float(torch.fft.fft2(t[0, 0], s=(side, side)).abs().max().sqrt())
