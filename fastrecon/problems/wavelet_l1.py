"""The inverse problems of Lee & Chun in wavelet coefficients c: min |A W* c - y|^2 / 2 + lam |c|_1, sym4, 3 levels.

Images lie on [0, 1]; the weights and noise levels of the paper are read on the scale [0, 255] and divided by it, which
gives the same minimisers. Masks are drawn anew for every image.
Source: Lee & Chun, Accelerating Optimization Algorithms With Dynamic Parameter Selections Using Convolutional Neural
Networks for Inverse Problems in Image Processing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrecon import masks
from fastrecon.checks import choice, expect, integer, named, number
from fastrecon.operators import Blur, Fourier, Inpainting, LinearOperator, Wavelet, gaussian_kernel
from fastrecon.problems.base import add_noise
from fastrecon.problems.scan import even_scan

SCALE = 255.0
WAVELET, LEVEL = "sym4", 3
LAM = {"inpaint": 0.1 / SCALE, "mri": 0.1 / SCALE, "deblur": 1e-5 / SCALE, "ct": 5e-4 / SCALE}
BLUR = (2.0, 13)  # standard deviation and side of the Gaussian kernel, in pixels
VIEWS = 144  # of the scan
MASK = {"inpaint": "uniform", "mri": "variable"}  # of the problems that have one, unless another is chosen
Values = float | Sequence[float]


@dataclass(frozen=True)
class Instance:
    """One problem for a batch of images.

    Attributes:
        problem: inpaint, mri, deblur or ct.
        mask: [B, 1, H, W] of 0 and 1; None for deblur and ct.
        image_operator: A, from images; |A| <= 1.
        operator: A W*, from coefficients.
        y: measurements [B, 1, H, W]; [B, 1, views, detectors] for ct.
        coefficients: c of the true images, complex for mri.
        lam: weight of |c|_1.
        mask_kind: of masks.GENERATORS; None for deblur and ct.
    """

    problem: str
    mask: Tensor | None
    image_operator: LinearOperator
    operator: LinearOperator
    y: Tensor
    coefficients: Tensor
    lam: float
    mask_kind: str | None = None

    def image(self, c: Tensor) -> Tensor:
        """Real images [B, 1, H, W] of coefficients."""
        x = Wavelet(WAVELET, LEVEL).adjoint(c, self.image_operator.input_size(self.y.shape[2:]))
        return x.real if x.is_complex() else x

    def start(self) -> Tensor:
        """Where iterations start: coefficients of the adjoint at y, of the filtered back-projection for ct."""
        if self.problem == "ct":
            radon: Any = self.image_operator
            return analysis(radon.fbp(self.y, "hann"))
        return self.operator.adjoint(self.y)


def operators(
    problem: str, mask: Tensor | None, like: Tensor, views: int = VIEWS
) -> tuple[LinearOperator, LinearOperator]:  # fmt: skip
    """A, and A W*, for images like the real tensor `like` [B, 1, H, W], with masks like it where there are masks."""
    choice(problem, LAM, "problems", "problem")
    a: LinearOperator
    if problem == "deblur":
        a = Blur(gaussian_kernel(*BLUR, dtype=like.dtype)).to(like.device)
    elif problem == "ct":
        a = even_scan((like.shape[2], like.shape[3]), views)
    else:
        assert mask is not None
        kind: Any = Inpainting if problem == "inpaint" else Fourier
        a = kind(mask.to(like))
    return a, a @ Wavelet(WAVELET, LEVEL, like.shape[2:]).T


def draw_masks(
    problem: str, count: int, size: tuple[int, int], rate: Values, seed: int, kind: str | None = None
) -> Tensor | None:  # fmt: skip
    """Masks [count, 1, H, W], image i from seed + i with its own rate; None for problems without."""
    if problem not in MASK:
        return None
    make = masks.GENERATORS[choice(MASK[problem] if kind is None else kind, masks.GENERATORS, "problems", "mask")]
    rates = each(rate, count, "rate", above=0, most=1)
    seed = integer(seed, "problems", "seed", least=0, most=2**32 - max(count, 1))
    drawn = [make(size, rates[i], seed + i) for i in range(count)]
    return torch.stack(drawn)[:, None] if drawn else torch.empty(0, 1, *size, dtype=torch.float32)


def each(value: Values, count: int, argument: str = "rate, noise", **limits: float) -> list[float]:
    """A number for each of `count` images, within `limits` as of `checks.number`.

    Raises:
        ValueError: there are not that many, or one is out of range.
    """
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str):
        expect(len(value) == count, "problems", argument, f"a number, or one for each of {count} images", len(value))
        return [float(number(v, "problems", argument, **limits)) for v in value]
    return [number(value, "problems", argument, **limits)] * count


def instance(
    problem: str, x: Tensor, rate: Values = 0.5, noise: Values = 0.0, seed: int = 0, *, mask: str | None = None,
    views: int = VIEWS,
) -> Instance:  # fmt: skip
    """Simulates measurements of images.

    Args:
        problem: inpaint, mri, deblur or ct.
        x: images [B, 1, H, W] on [0, 1], more than 4 pixels a side; coefficients are those of images filled
            up with zeros to multiples of 8.
        rate: share of known pixels or of sampled frequencies: a number, or one for each image.
        noise: standard deviation on the scale [0, 255], of each real number that is measured; likewise.
        seed: of masks and noise, >= 0.
        mask: its kind: uniform (default for inpaint), variable (default for mri), cartesian or radial.
        views: of ct.

    Raises:
        ValueError: the problem is unknown, or an argument does not fit.
    """
    choice(problem, LAM, "problems", "problem")
    fits = isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] == 1 and x.is_floating_point()
    expect(fits, "problems", "x", "real [B, 1, H, W]", named(x))
    levels = each(noise, len(x), "noise", least=0)
    seed = integer(seed, "problems", "seed", least=0, most=2**32 - max(len(x), 1))
    views = integer(views, "problems", "views", least=1)
    drawn = draw_masks(problem, len(x), (x.shape[2], x.shape[3]), rate, seed, mask)
    drawn = None if drawn is None else drawn.to(x)
    a, whole = operators(problem, drawn, x, views)
    y = a(x)
    if any(levels):
        y = add_noise(y, [level / SCALE for level in levels], seed)
        y = y if drawn is None else drawn * y
    c = analysis(x)
    kind = None if drawn is None else mask or MASK[problem]
    return Instance(problem, drawn, a, whole, y, c.to(y.dtype) if y.is_complex() else c, LAM[problem], kind)


def analysis(x: Tensor) -> Tensor:
    """Coefficients of images [B, 1, H, W]."""
    return Wavelet(WAVELET, LEVEL)(x)
