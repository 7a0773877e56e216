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
        first, *rest = [t.value(x) for t in self.terms]  # type: ignore[operator]
        return sum(rest, first)

    def grad(self, x: Tensor) -> Tensor:
        """Like x."""
        first, *rest = [t.grad(x) for t in self.terms]  # type: ignore[operator]
        return sum(rest, first)

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> Evaluation:
        """Both, the value in float64."""
        first, *rest = [t.evaluate(x) for t in self.terms]  # type: ignore[operator]
        value = sum((e.value.double() for e in rest), first.value.double())
        return Evaluation(value, sum((e.grad for e in rest), first.grad))

    def take(self, which: Tensor) -> Term:
        """With the terms of these images."""
        taken = [t.take(which) for t in self.terms]  # type: ignore[operator]
        return self if all(a is b for a, b in zip(taken, self.terms, strict=True)) else Sum(taken)
