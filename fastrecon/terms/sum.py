"""A sum of smooth terms of one image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastrecon.checks import expect
from fastrecon.terms.base import Evaluation, Term


class Sum(Term):
    """sum_i r_i(x).

    Args:
        terms: r_i, smooth.

    Raises:
        ValueError: there is none, or one is not smooth.
    """

    smooth = True

    def __init__(self, terms: Sequence[Term]):
        super().__init__()
        fits = len(terms) > 0 and all(isinstance(t, Term) and t.smooth for t in terms)
        expect(fits, "Sum", "terms", "smooth terms", [type(t).__name__ for t in terms])
        self.terms = nn.ModuleList(terms)

    def value(self, x: Tensor) -> Tensor:
        """[B] in float64."""
        return total([t.value(x) for t in self.each()])

    def grad(self, x: Tensor) -> Tensor:
        """Like x."""
        return total([t.grad(x) for t in self.each()])

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> Evaluation:
        """Both, the value in float64."""
        found = [t.evaluate(x) for t in self.each()]
        return Evaluation(total([e.value.double() for e in found]), total([e.grad for e in found]))

    def each(self) -> list[Term]:
        """r_i."""
        return list(self.terms)  # type: ignore[arg-type]

    def take(self, which: Tensor) -> Term:
        """With the terms of these images."""
        taken = [t.take(which) for t in self.each()]
        return self if all(a is b for a, b in zip(taken, self.each(), strict=True)) else Sum(taken)


def total(values: list[Tensor]) -> Tensor:
    """Their sum, one after the other: sums of a dimension may depend on how many others there are."""
    found, *rest = values
    for value in rest:
        found = found + value
    return found
