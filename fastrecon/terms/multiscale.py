"""A learned regulariser that sees the image at several scales: r(x) = r_0(x) + r_1(D x) + r_2(D D x) + ...

D halves an image: the binomial filter [1 3 3 1] / 8 along rows and columns, every other sample. What r_k sees of a
feature is 2^k times as wide, at a quarter of the cost of r_(k-1).
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from fastrecon.checks import expect
from fastrecon.terms.base import Evaluation, Term
from fastrecon.terms.feature_norm import FeatureNorm
from fastrecon.terms.sum import total


class MultiScale(Term):
    """r_0(x) + r_1(D x) + ... of images [B, C, H, W], with one radius eps.

    Args:
        scales: r_0, r_1, ..., the finest first; all of the same eps, which is that of the sum.

    Raises:
        ValueError: there is none, or one is of another kind or of another eps.
    """

    def __init__(self, scales: Sequence[FeatureNorm]):
        super().__init__()
        fits = len(scales) > 0 and all(isinstance(r, FeatureNorm) for r in scales)
        expect(fits, "MultiScale", "scales", "a list of FeatureNorm", [type(r).__name__ for r in scales])
        radii = [r.eps for r in scales]
        expect(len(set(radii)) == 1, "MultiScale", "scales", "terms with one eps", radii)
        self.scales = nn.ModuleList(scales)
        self.smooth = self.finest.smooth

    @property
    def finest(self) -> FeatureNorm:
        """r_0."""
        return self.terms()[0]

    @property
    def eps(self) -> float | None:
        """Radius of `value` and `grad` where they are given none."""
        return self.finest.eps

    def terms(self) -> list[FeatureNorm]:
        """r_0, r_1, ..."""
        return list(self.scales)  # type: ignore[arg-type]

    def set_eps(self, eps: float | None) -> None:
        """Sets that radius."""
        for r in self.terms():
            r.set_eps(eps)
        self.smooth = self.finest.smooth

    def extra_repr(self) -> str:
        """What it is made with."""
        return f"{len(self.scales)} scales, the finest first"

    def value(self, x: Tensor, eps: float | Tensor | None = None) -> Tensor:
        """r_eps(x) [B]; r(x) without eps, here and when the term is made."""
        return total([r.value(part, eps) for r, part in self._pairs(x)])

    def grad(self, x: Tensor, eps: float | Tensor | None = None) -> Tensor:
        """The gradient of r_eps at x, like x."""
        return self._up([r.grad(part, eps) for r, part in self._pairs(x)], x)

    def value_and_grad(self, x: Tensor, eps: float | Tensor, precision: str = "float32") -> tuple[Tensor, Tensor]:
        """r_eps(x) [B] and its gradient like x, differentiable in x, eps and the weights."""
        found = [r.value_and_grad(part, eps, precision) for r, part in self._pairs(x)]
        return total([value for value, _ in found]), self._up([grad for _, grad in found], x)

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> Evaluation:
        """Value and gradient with the radius of the term."""
        expect(self.eps is not None, "MultiScale", "eps", "a radius > 0: r itself has no gradient", None)
        return Evaluation(*self.value_and_grad(x, self.eps))  # type: ignore[arg-type]

    def nonsmooth_value(self, x: Tensor) -> Tensor:
        """r(x) [B], the limit of r_eps for eps to 0."""
        return total([r.nonsmooth_value(part) for r, part in self._pairs(x)])

    @torch.no_grad()
    def feature_norms(self, x: Tensor) -> Tensor:
        """Maps |g_i(x)| [B, H, W] of the finest scale."""
        return self.finest.feature_norms(x)

    def seen(self, x: Tensor) -> list[Tensor]:
        """x, D x, D D x, ...: one for each scale."""
        parts = [x]
        while len(parts) < len(self.scales):
            parts.append(halved(parts[-1]))
        return parts

    def _pairs(self, x: Tensor) -> Iterable[tuple[FeatureNorm, Tensor]]:
        return zip(self.terms(), self.seen(x), strict=True)

    def _up(self, grads: list[Tensor], x: Tensor) -> Tensor:
        """The gradient in x of gradients in what the scales see."""
        sizes = [x.shape[-2:]]
        for _ in grads[1:]:
            sizes.append(torch.Size((s + 1) // 2 for s in sizes[-1]))
        up = grads[-1]
        for grad, size in zip(grads[-2::-1], sizes[-2::-1], strict=True):
            up = grad + halved_adjoint(up, size)
        return up


def halved(x: Tensor) -> Tensor:
    """D x [..., ceil(H / 2), ceil(W / 2)] of x [..., H, W], which goes on beyond its edges as it ends there.

    Sample by sample, so that no result depends on the rest of a batch.
    """
    return _halved(_halved(x, -2), -1)


def halved_adjoint(g: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """D* g [..., H, W] of g like D x, for x of this size."""
    return _spread(_spread(g, -1, size[1]), -2, size[0])


def _halved(x: Tensor, dim: int) -> Tensor:
    even, odd = (_every_other(x, dim, start) for start in (0, 1))
    first, last = x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)
    odd = torch.cat((odd, last), dim) if x.shape[dim] % 2 else odd
    m = even.shape[dim]
    before = torch.cat((first, odd.narrow(dim, 0, m - 1)), dim)
    after = torch.cat((even.narrow(dim, 1, m - 1), last), dim)
    return ((before + after) + 3 * (even + odd)) / 8


def _spread(g: Tensor, dim: int, n: int) -> Tensor:
    m, at = g.shape[dim], g.ndim + dim
    first, last = g.narrow(dim, 0, 1), g.narrow(dim, m - 1, 1)
    even = 3 * g + torch.cat((first, g.narrow(dim, 0, m - 1)), dim)
    odd = 3 * g + torch.cat((g.narrow(dim, 1, m - 1), last), dim)
    both = torch.stack((even, odd), at + 1).flatten(at, at + 1)
    if n % 2:  # the last sample was repeated
        end = both.narrow(dim, n - 1, 1) + both.narrow(dim, n, 1)
        both = torch.cat((both.narrow(dim, 0, n - 1), end), dim)
    return both / 8


def _every_other(x: Tensor, dim: int, start: int) -> Tensor:
    return x[..., start::2] if dim == -1 else x[..., start::2, :]
