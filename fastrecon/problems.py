"""The inverse problems of Lee & Chun in wavelet coefficients c: min |A W* c - y|^2 / 2 + lam |c|_1, sym4, 3 levels.

Images lie on [0, 1]; the weights and noise levels of the paper are read on the scale [0, 255] and divided by it, which
gives the same minimisers. Masks are drawn anew for every image.
Source: Lee & Chun, Accelerating Optimization Algorithms With Dynamic Parameter Selections Using Convolutional Neural
Networks for Inverse Problems in Image Processing.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastrecon import masks
from fastrecon.checks import describe, expect
from fastrecon.operators import Blur, Fourier, Inpainting, LinearOperator, Wavelet, gaussian_kernel

SCALE = 255.0
WAVELET, LEVEL = "sym4", 3
LAM = {"inpaint": 0.1 / SCALE, "fourier": 0.1 / SCALE, "deblur": 1e-5 / SCALE}
BLUR = (2.0, 13)  # standard deviation and side of the Gaussian kernel, in pixels


@dataclass(frozen=True)
class Instance:
    """One problem for a batch of images.

    Attributes:
        task: inpaint, fourier or deblur.
        mask: [B, 1, H, W] of 0 and 1; None for deblur.
        image_operator: A, from images.
        operator: A W*, from coefficients.
        y: measurements [B, 1, H, W].
        coefficients: c of the true images, complex for fourier.
        lam: weight of |c|_1.
    """

    task: str
    mask: Tensor | None
    image_operator: LinearOperator
    operator: LinearOperator
    y: Tensor
    coefficients: Tensor
    lam: float

    def image(self, c: Tensor) -> Tensor:
        """Real images [B, 1, H, W] of coefficients."""
        x = Wavelet(WAVELET, LEVEL).adjoint(c)
        return x.real if x.is_complex() else x


def operators(task: str, mask: Tensor | None, like: Tensor) -> tuple[LinearOperator, LinearOperator]:
    """A, and A W*, for masks [B, 1, H, W], in the precision of the real tensor `like`."""
    expect(task in LAM, "problems", "task", " or ".join(LAM), repr(task))
    if task == "deblur":
        a: LinearOperator = Blur(gaussian_kernel(*BLUR, dtype=like.dtype)).to(like.device)
    else:
        assert mask is not None
        kind: Any = Inpainting if task == "inpaint" else Fourier
        a = kind(mask.to(like))
    return a, a @ Wavelet(WAVELET, LEVEL).T


def draw_masks(task: str, count: int, size: tuple[int, int], rate: float, seed: int) -> Tensor | None:
    """Masks [count, 1, H, W], image i from seed + i: uniform for inpaint, variable density for fourier."""
    if task == "deblur":
        return None
    draw = masks.uniform if task == "inpaint" else masks.variable_density
    return torch.stack([draw(size, rate, seed + i) for i in range(count)])[:, None]


def instance(task: str, x: Tensor, rate: float = 0.5, noise: float = 0.0, seed: int = 0) -> Instance:
    """Simulates measurements of images.

    Args:
        task: inpaint, fourier or deblur.
        x: images [B, 1, H, W] on [0, 1]; height and width divisible by 8.
        rate: share of known pixels or of sampled frequencies.
        noise: standard deviation on the scale [0, 255], of each real number that is measured.
        seed: of masks and noise.

    Raises:
        ValueError: the task is unknown, or an argument does not fit.
    """
    expect(task in LAM, "problems", "task", " or ".join(LAM), repr(task))
    expect(x.ndim == 4 and x.shape[1] == 1 and x.is_floating_point(), "problems", "x", "real [B, 1, H, W]", describe(x))
    expect(noise >= 0, "problems", "noise", "a number >= 0", noise)
    mask = draw_masks(task, len(x), (x.shape[2], x.shape[3]), rate, seed)
    mask = None if mask is None else mask.to(x)
    a, whole = operators(task, mask, x)
    y = a(x)
    if noise:
        wide = torch.complex128 if y.is_complex() else torch.float64
        generator = torch.Generator().manual_seed(seed)
        # complex normal numbers have variance 1 in sum: twice the power for one deviation in each part
        sigma = noise / SCALE * (2**0.5 if y.is_complex() else 1)
        n = sigma * torch.randn(y.shape, generator=generator, dtype=wide).to(y)
        y = y + (n if mask is None else mask * n)
    c = Wavelet(WAVELET, LEVEL)(x)
    return Instance(task, mask, a, whole, y, c.to(y.dtype) if y.is_complex() else c, LAM[task])


def analysis(x: Tensor) -> Tensor:
    """Coefficients of images [B, 1, H, W]."""
    return Wavelet(WAVELET, LEVEL)(x)
