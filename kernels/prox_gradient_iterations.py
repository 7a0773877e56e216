"""Iterations of ISTA or FISTA on masked images: on a GPU the kernels of single steps, one after the other.

Arguments: fastrecon/ops/prox_gradient_iterations.py. The arrays of a batch do not fit a GPU's caches, and a single
image does not fill it: nothing would stay for the next iteration, so there is no kernel that does several.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastrecon.kernels.dwt2 import dwt2, idwt2
from fastrecon.kernels.prox_gradient_step import prox_gradient_step, squares


def prox_gradient_iterations_(
    x: Tensor, v: Tensor, residual: Tensor, residual_v: Tensor, y: Tensor, mask: Tensor, lam: Tensor, numbers: Tensor,
    taps: Sequence[float], level: int, iterations: int, fista: bool, backtracking: bool, transform: int = 0,
    maps: Tensor | None = None, size: Sequence[int] = (), centred: bool = False, schedule: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Returns objective and |z|^2 of every iteration, float64 [B, iterations, 2]; of masks, without a schedule."""
    if x.numel() == 0 or level == 0 or transform != 0 or schedule is not None:
        return NotImplemented
    trace, unit = numbers.new_empty(len(x), iterations, 2), torch.finfo(x.dtype).eps
    (height, width), column = y.shape[2:], (-1, *[1] * (x.ndim - 1))
    beyond = (0, x.shape[3] - width, 0, x.shape[2] - height)
    start, misfit = (v, residual_v) if fista else (x, residual)
    for k in range(iterations):
        step, theta = numbers[:, 0].clone(), numbers[:, 1]
        grad = dwt2(pad(misfit * mask, beyond).flatten(0, 1), taps, level)
        z, sums = prox_gradient_step(start.flatten(1), grad.view(len(x), -1), step.to(x.dtype)[:, None], lam)
        moved = z.view(x.shape) + start if fista else z.view(x.shape)
        whole = idwt2(moved.flatten(0, 1), taps, level).view(x.shape)
        image = (whole[..., :height, :width] * mask).contiguous()
        new_x, new_residual = (moved, image - y) if fista else (x + moved, residual + image)
        good = torch.ones_like(step, dtype=torch.bool)
        if backtracking:
            bound = sums[:, 1] / step * (1 + 64 * unit)
            change = squares(new_residual.flatten(1), misfit.flatten(1)) if fista else squares(image.flatten(1))
            good = change <= (bound + (8 * unit) ** 2 * squares(image.flatten(1)) if fista else bound)
        after = (1 + (1 + 4 * theta.square()).sqrt()) / 2
        objective = squares(new_residual.flatten(1)) / 2 + sums[:, 2]
        pairs = [(x, new_x), (residual, new_residual)]
        if fista:
            weight = (1 + (theta - 1) / after).to(x.dtype).view(column)
            ahead = [torch.lerp(old, new, weight) for old, new in pairs]
            pairs += [(v, ahead[0]), (residual_v, ahead[1])]
        for old, new in pairs:
            old.copy_(torch.where(good.view(column), new, old))
        accepted = torch.stack((step, after, objective, sums[:, 1]), 1)
        refused = torch.cat((step[:, None] / 2, numbers[:, 1:]), 1)
        numbers.copy_(torch.where(good[:, None], accepted, refused))
        trace[:, k] = numbers[:, 2:]
    return trace
