"""Lower problems of a prior's training: what the image is found from, and which images are allowed.

Images with noise minimise |x - y|^2 / 2 + lam r(x). Images without noise of which pixels or frequencies were not
measured minimise lam r(x) among those that agree with what was: a descent along the projected gradient stays there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fastrecon import masks
from fastrecon.models.weighing import BETWEEN
from fastrecon.train.bilevel import Gradient, Phi

LOUD = 1.3  # errors grow about like sigma^1.3: images are weighed by the inverse
COMPLETED = 2.0  # weight of images to be completed: their errors are about those of denoising at half of the focus


@dataclass(frozen=True)
class Lower:
    """A batch of lower problems of one kind."""

    clean: Tensor  # [B, C, H, W] images that were measured
    start: Tensor  # like them, for the descent
    sigma: Tensor  # [B] whose lam is taken
    weight: Tensor  # [B] of the squared error
    phi: Callable[[Phi], Phi]  # the objective with lam r and its gradient
    free: Gradient  # projection of changes to those that the measurements allow
    bent: bool  # whether its curvature is kept within bounds


def denoising(clean: Tensor, noisy: Tensor, sigma: Tensor, focus: float) -> Lower:
    """Images [B, C, H, W] with noise of standard deviation sigma [B]; those with `focus` have weight 1."""
    return Lower(clean, noisy, sigma, (focus / sigma) ** LOUD, lambda prior: near(prior, noisy), lambda v: v, True)


def completing(clean: Tensor, rates: list[float], seeds: list[int]) -> Lower:
    """Images [B, C, H, W] of which these shares of the pixels were measured, of every other image of the frequencies;
    weights of terms are to each other as the model takes them there."""
    size = clean.shape[-2:]
    drawn = (masks.uniform, masks.variable_density)
    kept = torch.stack(
        [drawn[k % 2](size, rate, seed) for k, (rate, seed) in enumerate(zip(rates, seeds, strict=True))]
    )
    kept = kept[:, None].to(clean)
    of_pixels = 1 - kept[0::2]
    half = kept[1::2, ..., : size[1] // 2 + 1]
    # a real image tells of -f what it tells of f: both are known
    mirrored = kept[1::2].flip(-2, -1).roll((1, 1), (-2, -1))[..., : size[1] // 2 + 1]
    of_frequencies = 1 - torch.maximum(half, mirrored)

    def free(v: Tensor) -> Tensor:
        found = torch.empty_like(v)
        found[0::2] = v[0::2] * of_pixels
        found[1::2] = torch.fft.irfft2(torch.fft.rfft2(v[1::2]) * of_frequencies, s=size)
        return found

    start = clean - free(clean)
    start[0::2] = filled(start[0::2], 1 - of_pixels)
    sigma = clean.new_tensor([BETWEEN * (1 - rate) for rate in rates])
    return Lower(clean, start, sigma, torch.full_like(sigma, COMPLETED), lambda prior: along(prior, free), free, False)


def near(prior: Phi, y: Tensor) -> Phi:
    """|x - y|^2 / 2 + what `prior` gives, and its gradient."""

    def phi(x: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = prior(x)
        residual = x - y
        return residual.double().square().flatten(1).sum(1) / 2 + value.double(), residual + grad

    return phi


def along(prior: Phi, free: Gradient) -> Phi:
    """What `prior` gives, with the projected gradient."""

    def phi(x: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = prior(x)
        return value.double(), free(grad)

    return phi


def filled(x: Tensor, kept: Tensor) -> Tensor:
    """Images [B, C, H, W] with what is not kept by means of what is kept around it."""
    known, value = kept, x * kept
    while bool((known == 0).any()):
        around = avg_pool2d(torch.cat((known, value)), 3, 1, 1)
        count, total = around.chunk(2)
        mean = torch.where(count > 0, total / count.clamp_min(1e-6), 0)
        value = torch.where(known > 0, value, mean)
        known = torch.where(count > 0, 1.0, known).to(known)
    return value


def gradient_of(phi: Phi) -> Gradient:
    """Its gradient alone."""
    return lambda x: phi(x)[1]
