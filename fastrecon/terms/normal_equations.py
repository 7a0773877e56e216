"""Several least-squares terms at once: the minimiser of sum_i w_i |A_i x - y_i|^2 / 2.

Where all A_i* A_i are circulant (blurs, gradients, Fourier samplings, isometries) it takes two Fourier transforms,
however many terms there are; beside isometries, closed forms of a single operator serve too (masks); else conjugate
gradients, preconditioned by what is circulant nearby.

Source: Wang, Yang, Yin & Zhang, A New Alternating Minimization Algorithm for Total Variation Image Reconstruction,
SIAM J. Imaging Sci. 1 (2008); Afonso, Bioucas-Dias & Figueiredo, An Augmented Lagrangian Approach to the Constrained
Optimization Formulation of Imaging Inverse Problems, IEEE Trans. Image Process. 20 (2011).
"""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.operators._mask import fit
from fastrecon.operators.base import Composition, LinearOperator, keeps_norms
from fastrecon.operators.inpainting import Inpainting
from fastrecon.ops import image_operator
from fastrecon.ops.by_image import each_image
from fastrecon.ops.layout import real_dtype
from fastrecon.ops.reductions import sum_of_squares
from fastrecon.ops.transforms import frequencies, planes
from fastrecon.terms.base import column
from fastrecon.terms.conjugate_gradients import conjugate_gradients

Solve = Callable[[Tensor, Sequence[Tensor]], Tensor]


class NormalEquations:
    """sum_i w_i A_i* A_i x = b for images x [B, C, H, W]; weights w_i > 0, [B] each.

    Frequencies or pixels that no A_i sees are 0 in the solution.

    Args:
        operators: A_i, at least one.
        like: images such as x.
        tol: what conjugate gradients leave of the residual at their start.
        iterations: at most so many of those.

    Attributes:
        closed: whether the solution is exact to rounding, without conjugate gradients.
    """

    def __init__(self, operators: Sequence[LinearOperator], like: Tensor, tol: float = 1e-6, iterations: int = 200):
        expect(len(operators) > 0, "NormalEquations", "operators", "at least one", 0)
        self.operators, self.tol, self.iterations = tuple(operators), tol, iterations
        self._solve = None if like.numel() == 0 else self._closed_form(like)
        self.closed = self._solve is not None or like.numel() == 0
        self._near = None if self.closed else [near_spectrum(a, like) for a in operators]

    def solve(self, b: Tensor, weights: Sequence[Tensor], x0: Tensor) -> tuple[Tensor, Tensor]:
        """x, and what is left of its residual |b - sum_i w_i A_i* A_i x| [B], 0 in closed form.

        Args:
            b: like x: sum_i w_i A_i* y_i.
            weights: w_i.
            x0: where conjugate gradients start.
        """
        exact = torch.zeros(len(b), dtype=torch.float64, device=b.device)
        if b.numel() == 0:
            return b.clone(), exact
        if self._solve is not None:
            return self._solve(b, weights), exact
        near = [s for s in self._near or () if s is not None]
        found = conjugate_gradients(
            lambda x: self.apply(x, weights), b - self.apply(x0, weights), self.tol, self.iterations,
            10 if b.is_cuda else 1,
            (lambda r: _by_spectra(near, r, weights, 1.0)) if len(near) == len(weights) else None,
        )  # fmt: skip
        x = x0 + found.x
        return x, sum_of_squares(b - self.apply(x, weights)).sqrt()

    def apply(self, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """sum_i w_i A_i* A_i x."""
        size = x.shape[-2:]
        parts = zip(self.operators, weights, strict=True)
        return total([column(w, x) * (x if keeps_norms(a) else a.apply_adjoint(a.forward(x), size)) for a, w in parts])

    def _closed_form(self, like: Tensor) -> Solve | None:
        spectra = [a.spectrum(like) for a in self.operators]
        if all(s is not None for s in spectra):
            return lambda b, weights: _by_spectra([s for s in spectra if s is not None], b, weights)
        others = [i for i, a in enumerate(self.operators) if not keeps_norms(a)]
        if len(others) != 1:
            return None
        (i,) = others
        a = self.operators[i]

        def rest(weights: Sequence[Tensor]) -> Tensor:  # of the isometries
            return total([torch.zeros_like(weights[i]), *(w for k, w in enumerate(weights) if k != i)])

        if (basis := a.diagonal(like)) is not None:
            square = basis.factors.abs().square()

            def in_basis(b: Tensor, weights: Sequence[Tensor]) -> Tensor:
                gain = inverted(column(rest(weights), square) + column(weights[i], square) * square)
                return basis.inverse(basis.transform(b) * gain)

            return in_basis
        if (scale := a.row_scale(like.shape[-2:])) is not None and len(self.operators) > 1:

            def by_rows(b: Tensor, weights: Sequence[Tensor]) -> Tensor:
                w, c = column(weights[i], b), column(rest(weights), b)
                return (b - w / (c + w * scale) * a.apply_adjoint(a.forward(b), b.shape[-2:])) / c

            return by_rows
        return None


def near_spectrum(a: LinearOperator, like: Tensor) -> Tensor | None:
    """The spectrum of A* A, or of something circulant near it: of a window without the window, of a mask its mean."""
    if (own := a.spectrum(like)) is not None:
        return own
    if isinstance(a, Inpainting):
        mean = fit(a.mask, like, "Inpainting", "x").square().mean((-2, -1), keepdim=True)
        return mean.clamp_min(torch.finfo(mean.dtype).eps)
    if isinstance(a, Composition) and (inner := a.inner.spectrum(like)) is not None:
        scale = a.outer.row_scale(like.shape[-2:])
        return None if scale is None else scale * inner
    return None


def total(terms: Sequence[Tensor]) -> Tensor:
    """The sum of tensors."""
    return reduce(torch.add, terms)


def inverted(t: Tensor, otherwise: float = 0.0) -> Tensor:
    """1 / t of t [B, ...] >= 0, and `otherwise` where t is 0 to rounding beside the largest of its image."""
    least = torch.finfo(t.dtype).eps * t.flatten(1).amax(1)
    return torch.where(t > column(least, t), t.reciprocal(), otherwise)


def _by_spectra(
    spectra: Sequence[Tensor], b: Tensor, weights: Sequence[Tensor], otherwise: float = 0.0
) -> Tensor:  # fmt: skip
    size = b.shape[-2:]
    gain = inverted(
        total([column(w.to(real_dtype(b)), s) * s for w, s in zip(weights, spectra, strict=True)]), otherwise
    )

    a = image_operator.Parts(image_operator.BLUR, gain, None, (size[0], size[1]))
    whole = gain.shape[1:] == (1, size[0], size[1] // 2 + 1)  # of isometries alone it is one number
    if not b.is_complex() and whole and image_operator.alone(b, a):
        return image_operator.applied(b, a)

    def one(b: Tensor, gain: Tensor) -> Tensor:
        return planes(frequencies(b) * gain, None if b.is_complex() else size)

    return each_image(one, b, gain)
