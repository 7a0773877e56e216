"""How far the patches of images are from sparse in the cosine transform, and the gradient of that.

value = sum_p sum_(k > 0) log(1 + (c_pk / radius)^2) / 64, c_pk the coefficients of the patch of 8x8 pixels at p, all
but its mean, over all patches that lie within the image. Where nothing is differentiated on the CPU it is one pass of a
kernel.
Source: Roth & Black, Fields of Experts, Int. J. Comput. Vis. 82 (2009), the potential of eq. (6), of the filters of a
cosine transform.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d

from fastrecon import registry
from fastrecon.checks import expect
from fastrecon.ops.by_image import by_image
from fastrecon.ops.function import differentiated, past_dispatcher
from fastrecon.ops.layout import DTYPES

SIDE = 8  # of the patches


def cosines(n: int) -> Tensor:
    """The orthonormal cosine transform [n, n] of n numbers, float64: a row a frequency, that of the mean first."""
    k = torch.arange(n, dtype=torch.float64)
    c = (math.pi * (2 * k + 1) * k[:, None] / (2 * n)).cos() * (2 / n) ** 0.5
    c[0] /= 2**0.5
    return c


def cosine_filters(height: int, width: int) -> Tensor:
    """That of patches as filters [height width, 1, height, width], the mean first; float64."""
    return torch.einsum("ia,jb->ijab", cosines(height), cosines(width)).reshape(-1, 1, height, width)


def sparse_patches_ref(x: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """The definition, x [B, 1, H, W], radius []: value [B] in float64 and its gradient in x; differentiable."""
    if min(x.shape[-2:]) < SIDE:
        return 0 * x.flatten(1).sum(1).double(), torch.zeros_like(x)
    filters = cosine_filters(SIDE, SIDE)[1:].to(x)
    c = conv2d(x, filters)
    over = c / radius
    value = torch.log1p(over.square()).flatten(1).sum(1, dtype=torch.float64) / SIDE**2
    slope = over * (2 / SIDE**2) / (radius * (1 + over.square()))
    return value, conv_transpose2d(slope, filters)


def sparse_patches(x: Tensor, radius: float | Tensor) -> tuple[Tensor, Tensor]:
    """How far the patches of images are from sparse, and the gradient of that; both differentiable.

    Args:
        x: grey images [B, 1, H, W], real, float32 or float64. Of images that a patch does not fit into both are 0.
        radius: of coefficients that count as zero, > 0: a number, or a tensor of one.

    Returns:
        The value [B] in float64 and its gradient like x.

    Raises:
        ValueError: x is not of this kind.

    Source: Roth & Black, Fields of Experts, Int. J. Comput. Vis. 82 (2009), eq. (6).
    """
    fits = x.ndim == 4 and x.shape[1] == 1 and x.dtype in (torch.float32, torch.float64)
    expect(fits, "sparse_patches", "x", "grey images [B, 1, H, W] of float32 or float64", x)
    if x.is_cpu and x.numel() > 0 and past_dispatcher() and not differentiated(x, radius):
        x, (count, _, h, w) = x.contiguous(), x.shape
        grad, value = torch.empty_like(x), torch.empty(count, dtype=torch.float64)
        registry.compiled().sparse_patches(
            DTYPES[x.dtype], x.data_ptr(), grad.data_ptr(), value.data_ptr(), float(radius), count, h, w
        )
        return value, grad
    whole = torch.compiler.is_compiling()  # a graph holds for any batch
    function = sparse_patches_ref if whole else by_image(sparse_patches_ref, 0)
    return function(x, torch.as_tensor(radius, dtype=x.dtype, device=x.device))
