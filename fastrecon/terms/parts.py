"""A term for each part of the channels of an image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastrecon.checks import expect
from fastrecon.terms.base import Term, Weight


class Parts(Term):
    """sum_i g_i(x_i) of images x [B, n C, H, W] whose n parts are C channels each.

    Args:
        terms: g_i, with proximal maps.

    Raises:
        ValueError: there is none, or one has no proximal map; an input's channels do not divide.
    """

    proximable = True

    def __init__(self, terms: Sequence[Term]):
        super().__init__()
        fits = len(terms) > 0 and all(isinstance(t, Term) and t.proximable for t in terms)
        expect(fits, "Parts", "terms", "terms with proximal maps", terms)
        self.terms = nn.ModuleList(terms)

    def value(self, x: Tensor) -> Tensor:
        """Their sum [B] in float64."""
        return torch.stack([t.value(p) for t, p in self._pairs(x)]).sum(0)

    def prox(self, v: Tensor, weight: Weight) -> Tensor:
        """That of every part."""
        return torch.cat([t.prox(p, weight) for t, p in self._pairs(v)], 1)

    def take(self, which: Tensor) -> Term:
        """With the terms of these images."""
        return Parts([t.take(which) for t in self.terms])  # type: ignore[operator]

    def _pairs(self, x: Tensor) -> list[tuple[Term, Tensor]]:
        count = len(self.terms)
        expect(x.ndim == 4 and x.shape[1] % count == 0, "Parts", "x", f"images [B, {count} C, H, W]", x)
        return [(t, p) for t, p in zip(self.terms, x.chunk(count, 1), strict=True)]  # type: ignore[misc]
