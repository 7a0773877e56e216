"""Sums over views of projections, each interpolated where a pixel is seen: the second half of filtered back-projection.

Pixel (i, j) has l = v0 + v1 i + v2 j and d = v3 + v4 i + v5 j in a view with numbers v [8]. Of parallel beams it takes
the projection at l, of a fan that at v6 + v7 l / d, times 1 / d^2, or 1 / (d^2 + l^2) where detectors lie on an arc.
Source: Kak & Slaney, Principles of Computerized Tomographic Imaging (1988), chapter 3.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastrecon import registry
from fastrecon.ops.by_image import each_image
from fastrecon.ops.function import differentiated, past_dispatcher
from fastrecon.ops.layout import DTYPES, plain


def back_project_ref(q: Tensor, views: Tensor, size: Sequence[int], fan: bool, curved: bool) -> Tensor:
    """The definition, q [N, A, D], views float64 [A, 8]: [N, H, W]; differentiable in q."""
    i, j = (torch.arange(n, dtype=torch.float64, device=q.device) for n in size)
    i, x = i[:, None], 0.0
    padded = torch.nn.functional.pad(q, (2, 3))  # what lies beyond the detectors is 0
    for a, v in enumerate(views.tolist()):
        across, depth = v[0] + v[1] * i + v[2] * j, v[3] + v[4] * i + v[5] * j
        place = v[6] + v[7] * (across / depth) if fan else across
        place = place.clamp(-2, q.shape[-1] + 1) + 2
        cell = place.floor()
        f, at = (place - cell).to(q.dtype), cell.long()
        left, right = padded[:, a, at], padded[:, a, at + 1]
        part = left + f * (right - left)
        if fan:
            part = part / (depth.square() + across.square() if curved else depth.square()).to(q.dtype)
        x = x + part
    return x if isinstance(x, Tensor) else q.new_zeros(len(q), *size)


def back_project(q: Tensor, views: Tensor, size: Sequence[int], fan: bool = False, curved: bool = False) -> Tensor:
    """Images [B, C, H, W] of projections q [B, C, A, D]; see the definition. Differentiable in q.

    Args:
        q: projections, float32 or float64.
        views: v, float64 [A, 8], on the CPU.
        size: (H, W).
        fan, curved: the geometry.
    """
    rows = q.flatten(0, 1)
    if not past_dispatcher() or q.device.type != "cpu" or q.dtype not in DTYPES or differentiated(q):
        x = each_image(lambda t: back_project_ref(t, views, size, fan, curved), rows)
    else:
        rows, views = plain(rows), views.contiguous()
        x = rows.new_empty(len(rows), *size)
        registry.compiled().back_project(
            DTYPES[q.dtype], rows.data_ptr(), views.data_ptr(), x.data_ptr(), *rows.shape, *size, fan, curved
        )
    return x.view(*q.shape[:2], *size)
