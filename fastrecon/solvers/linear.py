"""What linear methods share: gradient penalties, where A and they are diagonal together, a smooth start, the report."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastrecon.certificates import LinearReport, Status
from fastrecon.operators.base import Diagonal, LinearOperator
from fastrecon.ops.layout import real_dtype
from fastrecon.ops.reductions import inner, sum_of_squares
from fastrecon.solvers.base import column
from fastrecon.solvers.methods import Inverse
from fastrecon.terms.conjugate_gradients import conjugate_gradients

Map = Callable[[Tensor], Tensor]
FLAT, CHEAP, COSTLY, NEAR = 1e-3, 100, 10, 1e-3  # of the smooth start: weight, iterations of both kinds, tolerance


def wide(t: Tensor) -> Tensor:
    """In float64: closed forms divide by what is nearly 0."""
    return t.to(torch.complex128 if t.is_complex() else torch.float64)


def like_images(inverse: Inverse, x: Tensor) -> Tensor:
    """Images x, complex where the measurements are and A maps complex images."""
    return x.to(inverse.y.dtype) if inverse.y.is_complex() and not x.is_complex() else x


def laplacian(x: Tensor) -> Tensor:
    """D* D x for forward differences D of images [..., H, W], zero at the last row and column."""
    down, right = x.diff(dim=-2), x.diff(dim=-1)
    back = lambda d, at: pad(d, (0, 0, 1, 1) if at == -2 else (1, 1)).diff(dim=at)  # noqa: E731
    return -back(down, -2) - back(right, -1)


def wrapped_laplacian(x: Tensor) -> Tensor:
    """D* D x for forward differences that wrap around."""
    return 4 * x - sum(torch.roll(x, shift, at) for at in (-2, -1) for shift in (-1, 1))


def fourier_penalty(basis: Diagonal, like: Tensor) -> Tensor | None:
    """|D|^2 where A is diagonal, for differences D that wrap around; None where that does not make D diagonal."""
    generator = torch.Generator().manual_seed(0)
    point = torch.zeros_like(like[:1])
    point[..., 0, 0] = 1
    any_image = torch.randn(point.shape, generator=generator, dtype=real_dtype(like)).to(point)
    spectrum = basis.transform(point)
    if float(spectrum.abs().min()) == 0:
        return None
    found = basis.transform(wrapped_laplacian(point)) / spectrum
    found = (found.real if found.is_complex() else found).clamp_min(0)
    expected, got = found * basis.transform(any_image), basis.transform(wrapped_laplacian(any_image))
    return found if float((expected - got).abs().max()) < 1e-3 * float(got.abs().max() + 1) else None


def gain(operator: LinearOperator, x: Tensor, norm: float | None) -> float:
    """|A| for images like x, to a percent where it has no closed form."""
    return float(operator.norm((1, *x.shape[1:]), tol=1e-2, max_iterations=50) if norm is None else norm)


def smooth(inverse: Inverse) -> Tensor:
    """The images to start from, drawn to the measurements where these tell and smooth where they do not.

    Some conjugate gradients on |A x - y|^2 + 0.001 |A|^2 |D x|^2: of a mask that fills its holes.
    """
    x0, a = like_images(inverse, inverse.first()), inverse.operator
    if a.unitary:
        return x0
    size = (x0.shape[-2], x0.shape[-1])
    if inverse.start is None:  # the adjoint at y, as long as agrees best with y
        seen = a.forward(x0)
        along, square = inner(seen, inverse.y.to(seen)), sum_of_squares(seen)
        x0 = x0 * column(torch.where(square > 0, along / square, 1.0), x0)
    weight = FLAT * gain(a, x0, inverse.norm) ** 2

    def normal(x: Tensor) -> Tensor:
        return a.apply_adjoint(a.forward(x), size) + weight * laplacian(x)

    b = a.apply_adjoint(inverse.y, size) - normal(x0)
    cheap = a.diagonal(x0) is not None
    return x0 + conjugate_gradients(normal, b, NEAR, CHEAP if cheap else COSTLY, 1 if cheap else COSTLY).x


def certificate(
    inverse: Inverse, x: Tensor, weight: Tensor, penalty: Map, iterations: Tensor, converged: Tensor, status: str,
    history: dict[str, Tensor] | None = None,
) -> LinearReport:  # fmt: skip
    """The report of x = argmin |A x - y|^2 / 2 + weight <x, penalty(x)> / 2, computed from x, y and the problem alone.

    Args:
        weight: [B] >= 0.
        penalty: self-adjoint.
        iterations: [B].
        converged: [B] bool.
        status: the text of images that did not converge.
    """
    a, y, size = inverse.operator, inverse.y, (x.shape[-2], x.shape[-1])
    left = a.forward(x) - y
    grown = penalty(x)
    gradient = a.apply_adjoint(left, size) + column(weight, x).to(x.dtype) * grown
    b = a.apply_adjoint(y, size)
    square = sum_of_squares(left)
    roughness = (wide(x).conj() * wide(grown)).real.flatten(1).sum(1)
    tiny = torch.finfo(torch.float64).tiny
    residual = sum_of_squares(gradient).sqrt()
    finite = torch.isfinite(square + residual)
    return LinearReport(
        objective=square / 2 + weight * roughness / 2, misfit=square.sqrt(),
        relative_misfit=square.sqrt() / sum_of_squares(y).sqrt().clamp_min(tiny), residual=residual,
        relative_residual=residual / sum_of_squares(b).sqrt().clamp_min(tiny), weight=weight.double(),
        iterations=iterations, converged=converged & finite, status=Status(status, converged, finite), history=history,
    )  # fmt: skip


def least(score: Callable[[Tensor], Tensor], low: float, high: float, scale: Tensor) -> Tensor:
    """The weights [B] from scale 10^low to scale 10^high, to 0.02 in the exponent, that make score(weights) least."""
    middle, width = torch.full_like(scale, (low + high) / 2), (high - low) / 2
    for count in (45, 11, 11):
        tried = torch.stack([(middle + width * t).clamp(low, high) for t in torch.linspace(-1, 1, count).tolist()])
        middle = tried.gather(0, torch.stack([score(scale * 10**p) for p in tried]).argmin(0, keepdim=True))[0]
        width = 2 * width / (count - 1)
    return scale * 10**middle
