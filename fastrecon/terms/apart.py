"""Terms of several batches as one of their images, each with its own: where `joining` cannot make them one term."""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from fastrecon.terms.base import Term, Weight


class Apart(Term):
    """The term i of the list at image i, with the bits that it has there alone.

    Args:
        terms: one for each image; those that are one object answer together.
    """

    def __init__(self, terms: Sequence[Term]):
        super().__init__()
        self.terms = list(terms)  # no ModuleList: nothing here is moved or saved
        self.smooth, self.proximable = (all(getattr(t, n) for t in terms) for n in ("smooth", "proximable"))

    @classmethod
    def of(cls, terms: Sequence[Term], counts: Sequence[int]) -> Term:
        """Of batches of so many images each; the term itself, where all share one."""
        if all(t is terms[0] for t in terms) and not isinstance(terms[0], Apart):
            alone = terms[0].take(torch.zeros(1, dtype=torch.int64))
            if alone is terms[0]:
                return alone
        each: list[Term] = []
        for term, count in zip(terms, counts, strict=True):
            each += [term.take(torch.tensor([i])) for i in range(count)]
        return cls([t.terms[0] if isinstance(t, Apart) else t for t in each])

    def take(self, which: Tensor) -> Term:
        """Of these images."""
        places = which.nonzero().flatten() if which.dtype == torch.bool else which
        return Apart([self.terms[i] for i in places.tolist()])

    def value(self, x: Tensor) -> Tensor:
        """[B] in float64."""
        return self._each(lambda t, a, b: t.value(x[a:b]))

    def grad(self, x: Tensor) -> Tensor:
        """Like x."""
        return self._each(lambda t, a, b: t.grad(x[a:b]))

    def prox(self, v: Tensor, weight: Weight) -> Tensor:
        """Like v."""
        return self._each(lambda t, a, b: t.prox(v[a:b], weight[a:b] if isinstance(weight, Tensor) else weight))

    def _each(self, function: Callable[[Term, int, int], Tensor]) -> Tensor:
        found, begin = [], 0
        for _, run in groupby(self.terms, key=id):
            several = list(run)
            found.append(function(several[0], begin, begin + len(several)))
            begin += len(several)
        return torch.cat(found)
