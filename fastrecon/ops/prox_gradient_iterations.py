"""Iterations of ISTA or FISTA on F(x) = |m W* x - y|^2 / 2 + |lam x|_1, x the wavelet coefficients of masked images.

    g = W (m (A v - y)),  x+ = soft(v - step g, step lam),  v+ = x+ + (theta - 1) / theta+ (x+ - x),
    theta+ = (1 + sqrt(1 + 4 theta^2)) / 2;  ISTA: v = x.

So many of them in one call: what an iteration leaves stays in the cache for the next. On a GPU, where nothing does,
they are the kernels of single steps, one after the other.
Source: Beck & Teboulle, A Fast Iterative Shrinkage-Thresholding Algorithm for Linear Inverse Problems, SIAM J. Imaging
Sci. 2 (2009).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from fastrecon.ops.dwt2 import dwt2_ref, idwt2_ref, taps_tensor
from fastrecon.ops.layout import DTYPES, rows
from fastrecon.ops.prox_gradient_step import prox_gradient_step_ref, squares_ref, strides
from fastrecon.registry import compiled, define

STEP, THETA, OBJECTIVE, SQUARE = range(4)  # columns of `numbers`


def _like(t: Tensor, x: Tensor) -> Tensor:
    return t.view(-1, *[1] * (x.ndim - 1))


def next_theta(theta: Tensor) -> Tensor:
    """(1 + sqrt(1 + 4 theta^2)) / 2 of float64 theta [B], on the CPU with the root correctly rounded, which that of the
    MKL in torch is not: so every path to an iterate has its bits.
    """
    if theta.device.type != "cpu" or torch.compiler.is_compiling():
        return (1 + (1 + 4 * theta.square()).sqrt()) / 2
    return torch.from_numpy((1 + np.sqrt(1 + 4 * np.square(theta.numpy()))) / 2)


def one_iteration_(
    x: Tensor, v: Tensor, residual: Tensor, residual_v: Tensor, y: Tensor, mask: Tensor, lam: Tensor, numbers: Tensor,
    taps: Sequence[float], level: int, fista: bool, backtracking: bool,
) -> None:  # fmt: skip
    """One iteration of every image of a batch, in place."""
    start, misfit = (v, residual_v) if fista else (x, residual)
    height, width = y.shape[2:]
    masked = pad(misfit * mask, (0, x.shape[3] - width, 0, x.shape[2] - height)).flatten(0, 1)
    grad = dwt2_ref(masked, taps, level).view(x.shape)
    step = numbers[:, STEP]
    z, sums = prox_gradient_step_ref(rows(start), rows(grad), step.to(x.dtype)[:, None], lam)
    z, square = z.view(x.shape), sums[:, 1]
    moved = start + z if fista else z
    image = idwt2_ref(moved.flatten(0, 1), taps, level).view(x.shape)[..., :height, :width] * mask
    new_residual = image - y if fista else residual + image
    objective = squares_ref(rows(new_residual)) / 2 + sums[:, 2]
    theta = numbers[:, THETA]
    after = next_theta(theta)
    good = torch.ones_like(step, dtype=torch.bool)
    if backtracking:
        unit = torch.finfo(x.dtype).eps
        bound = square / step * (1 + 64 * unit)
        if fista:
            good = squares_ref(rows(new_residual), rows(residual_v)) <= bound + (8 * unit) ** 2 * squares_ref(
                rows(image)
            )
        else:
            good = squares_ref(rows(image)) <= bound
    new_x = moved if fista else x + z
    pairs = [(x, new_x), (residual, new_residual)]
    if fista:
        weight = _like(1 + (theta - 1) / after, x).to(x.dtype)
        ahead = [torch.lerp(old, new, weight) for old, new in pairs]
        pairs += [(v, ahead[0]), (residual_v, ahead[1])]
    new_numbers = torch.stack((step, after, objective, square), 1)
    rejected = torch.cat((step[:, None] / 2, numbers[:, THETA:]), 1)
    for old, new in pairs:
        old.copy_(torch.where(_like(good, old), new, old))
    numbers.copy_(torch.where(good[:, None], new_numbers, rejected))


def prox_gradient_iterations_ref_(
    x: Tensor, v: Tensor, residual: Tensor, residual_v: Tensor, y: Tensor, mask: Tensor, lam: Tensor, numbers: Tensor,
    taps: Sequence[float], level: int, iterations: int, fista: bool, backtracking: bool,
) -> Tensor:  # fmt: skip
    """The definition, one image after the other. Returns objective and |z|^2 of every iteration [B, iterations, 2]."""
    trace = numbers.new_empty(len(x), iterations, 2)
    for b in range(len(x)):
        one = slice(b, b + 1)
        own_mask, own_lam = (t[one] if len(t) > 1 else t for t in (mask, lam))
        for k in range(iterations):
            one_iteration_(
                x[one], v[one], residual[one], residual_v[one], y[one], own_mask, own_lam, numbers[one], taps, level,
                fista, backtracking,
            )  # fmt: skip
            trace[b, k] = numbers[b, OBJECTIVE:]
    return trace


def _cpu(
    x: Tensor, v: Tensor, residual: Tensor, residual_v: Tensor, y: Tensor, mask: Tensor, lam: Tensor, numbers: Tensor,
    taps: Sequence[float], level: int, iterations: int, fista: bool, backtracking: bool,
) -> Any:  # fmt: skip
    state = (x, v, residual, residual_v)
    real = x.dtype in (torch.float32, torch.float64) and lam.dtype == mask.dtype == x.dtype
    if not real or x.numel() == 0 or level == 0 or not all(t.is_contiguous() for t in (*state, numbers)):
        return NotImplemented
    y, mask, lam, g = y.contiguous(), mask.contiguous(), lam.contiguous(), taps_tensor(*taps)
    trace = torch.empty(len(x), iterations, 2, dtype=torch.float64)
    arrays = (*state, y, mask, lam, numbers, g, trace)
    if iterations:
        compiled().prox_gradient_iterations(
            DTYPES[x.dtype], *(t.data_ptr() or numbers.data_ptr() for t in arrays), *x.shape, *y.shape[2:], len(taps),
            level, mask[0].numel() if len(mask) > 1 else 0, *strides(lam), iterations, fista, backtracking,
        )  # fmt: skip
    return trace


_iterations_ = define(
    "prox_gradient_iterations_(Tensor(a!) x, Tensor(b!) v, Tensor(c!) residual, Tensor(d!) residual_v, Tensor y,"
    " Tensor mask, Tensor lam, Tensor(e!) numbers, float[] taps, int level, int iterations, bool fista,"
    " bool backtracking) -> Tensor",
    "prox_gradient_iterations",
    ref=prox_gradient_iterations_ref_,
    cpu=_cpu,
    fake=lambda x, v, residual, residual_v, y, mask, lam, numbers, taps, level, iterations, fista, backtracking: (
        numbers.new_empty(x.shape[0], iterations, 2)
    ),
)


@torch.no_grad()
def prox_gradient_iterations_(
    x: Tensor, v: Tensor, residual: Tensor, residual_v: Tensor, y: Tensor, mask: Tensor, lam: Tensor, numbers: Tensor,
    taps: Sequence[float], level: int, iterations: int, fista: bool, backtracking: bool,
) -> Tensor:  # fmt: skip
    """So many iterations of every image, in the memory of the first four and of `numbers`; no gradients.

    Args:
        x: coefficients [B, C, P, Q], real, overwritten, as are the next three; all contiguous.
        v: where FISTA takes its gradient, like x; empty for ISTA.
        residual: m W* x - y [B, C, H, W], W* x cut off to H <= P and W <= Q.
        residual_v: the same of v; empty for ISTA.
        y: measurements like the residual.
        mask: m [1 or B, 1, H, W] of the dtype of x.
        lam: weights [1 or B, 1 or N] of the dtype of x.
        numbers: float64 [B, 4], overwritten: step, theta, objective, and |z|^2 of the last step.
        taps, level: the wavelet's lowpass filter, and its levels.
        fista: else ISTA.
        backtracking: whether a step is halved, and its iteration void, where f exceeds the quadratic model; as in
            fastrecon.solvers.ISTA and FISTA.

    Returns:
        Objective and |z|^2 after each iteration, float64 [B, iterations, 2].
    """
    return _iterations_(
        x, v, residual, residual_v, y, mask, lam, numbers, list(taps), level, iterations, fista, backtracking
    )
