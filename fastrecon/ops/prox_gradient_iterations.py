"""Iterations of ISTA or FISTA on F(x) = |A W* x - y|^2 / 2 + |lam x|_1, x wavelet coefficients of images, A known.

    g = W A* (A W* v - y),  x+ = soft(v - step g, step lam),  v+ = x+ + (theta - 1) / theta+ (x+ - x),
    theta+ = (1 + sqrt(1 + 4 theta^2)) / 2;  ISTA: v = x.

A: see image_operator.py. With a schedule weights, steps and momentum are given numbers: see solvers/scheduled.py.

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

from fastrecon.ops.dwt2 import bands, dwt2_ref, idwt2_ref, taps_tensor
from fastrecon.ops.image_operator import BLUR, MASK, Parts, arguments, back, measured, per_image, usable
from fastrecon.ops.layout import DTYPES, plain, real_dtype, rows
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


def lerp(before: Tensor, now: Tensor, weight: Tensor) -> Tensor:
    """before + weight (now - before), real weights [B]; complex numbers as pairs of reals, as in the kernels."""
    if now.is_complex():
        return torch.view_as_complex(lerp(torch.view_as_real(before), torch.view_as_real(now), weight))
    return torch.lerp(before, now, _like(weight, now).to(now.dtype))


def _by_band(values: Tensor, size: torch.Size) -> Tensor:
    """Numbers [B, 1 + levels] as those of coefficients [B, 1, P, Q]."""
    return values[:, bands((size[-2], size[-1]), values.shape[1] - 1, values.device)][:, None]


def one_iteration_(
    x: Tensor, v: Tensor, residual: Tensor, residual_v: Tensor, y: Tensor, lam: Tensor, numbers: Tensor, a: Parts,
    taps: Sequence[float], level: int, fista: bool, backtracking: bool, learned: Tensor | None,
) -> None:  # fmt: skip
    """One iteration of one image, in place; `learned` [1, 3 + level] is the row of a schedule."""
    start, misfit = (v, residual_v) if fista else (x, residual)
    height, width = y.shape[2:]
    image = pad(back(misfit, a), (0, x.shape[3] - width, 0, x.shape[2] - height))
    grad = dwt2_ref(image.flatten(0, 1), taps, level).view(x.shape)
    step, theta = numbers[:, STEP], numbers[:, THETA]
    steps, factor = step.to(lam.dtype)[:, None], None
    if learned is not None:
        factor = learned[:, 1]
        steps = rows((_like(steps, x) * _by_band(learned[:, 2:].to(lam.dtype), x.shape)).expand(x.shape))
        lam = factor[:, None].to(lam.dtype) * lam
    z, sums = prox_gradient_step_ref(rows(start), rows(grad), steps, lam)
    z, square, l1 = z.view(x.shape), sums[:, 1], sums[:, 2]
    moved = start + z if fista else z
    image = measured(idwt2_ref(moved.flatten(0, 1), taps, level).view(x.shape)[..., :height, :width], a)
    new_residual = image - y if fista else residual + image
    objective = squares_ref(rows(new_residual)) / 2 + (l1 if factor is None else l1 / factor)
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
    if learned is not None:
        momentum = _like(learned[:, 0].to(lam.dtype), x)
        pairs += [
            (v, new_x + momentum * (new_x - x)),
            (residual_v, new_residual + momentum * (new_residual - residual)),
        ]
        after, square = theta, numbers[:, SQUARE]
    elif fista:
        weight = 1 + (theta - 1) / after
        pairs += [(v, lerp(x, new_x, weight)), (residual_v, lerp(residual, new_residual, weight))]
    new_numbers = torch.stack((step, after, objective, square), 1)
    rejected = torch.cat((step[:, None] / 2, numbers[:, THETA:]), 1)
    for old, new in pairs:
        old.copy_(torch.where(_like(good, old), new, old))
    numbers.copy_(torch.where(good[:, None], new_numbers, rejected))


def prox_gradient_iterations_ref_(
    x: Tensor, v: Tensor, residual: Tensor, residual_v: Tensor, y: Tensor, mask: Tensor, lam: Tensor, numbers: Tensor,
    taps: Sequence[float], level: int, iterations: int, fista: bool, backtracking: bool, transform: int = MASK,
    maps: Tensor | None = None, size: Sequence[int] = (), centred: bool = False, schedule: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The definition, one image after the other. Returns objective and |z|^2 of every iteration [B, iterations, 2]."""
    trace = numbers.new_empty(len(x), iterations, 2)
    whole = (size[0], size[1]) if size else None
    for b in range(len(x)):
        one = slice(b, b + 1)
        own_mask, own_lam = (t[one] if len(t) > 1 else t for t in (mask, lam))
        own_maps = maps if maps is None or len(maps) == 1 else maps[one]
        a = Parts(transform, own_mask, own_maps, whole, centred)
        for k in range(iterations):
            one_iteration_(
                x[one], v[one], residual[one], residual_v[one], y[one], own_lam, numbers[one], a, taps, level, fista,
                backtracking, None if schedule is None else schedule[one, k],
            )  # fmt: skip
            trace[b, k] = numbers[b, OBJECTIVE:]
    return trace


def _cpu(
    x: Tensor, v: Tensor, residual: Tensor, residual_v: Tensor, y: Tensor, mask: Tensor, lam: Tensor, numbers: Tensor,
    taps: Sequence[float], level: int, iterations: int, fista: bool, backtracking: bool, transform: int = MASK,
    maps: Tensor | None = None, size: Sequence[int] = (), centred: bool = False, schedule: Tensor | None = None,
) -> Any:  # fmt: skip
    state = (x, v, residual, residual_v)
    whole = (size[0], size[1]) if size else (y.shape[2], y.shape[3])
    a = Parts(transform, mask, maps, whole, centred)
    known = usable(x, a) and lam.dtype == real_dtype(x) and (transform != BLUR or mask.is_complex())
    if not known or level == 0 or not all(t.is_contiguous() for t in (*state, numbers)):
        return NotImplemented
    mask, maps, plan = arguments(x, a)
    y, lam, g = plain(y), lam.contiguous(), taps_tensor(tuple(taps))
    learned = None if schedule is None else schedule.double().contiguous()
    trace = torch.empty(len(x), iterations, 2, dtype=torch.float64)
    arrays = (*state, y, mask, maps, lam, numbers, learned, g, None if plan is None else plan.table, trace)
    addresses = (numbers.data_ptr() if t is None or t.numel() == 0 else t.data_ptr() for t in arrays)
    if iterations:
        compiled().prox_gradient_iterations(
            DTYPES[x.dtype], transform, *addresses, *x.shape, *y.shape[2:], 0 if maps is None else maps.shape[1],
            len(taps), level, per_image(mask),
            per_image(maps), *strides(lam), iterations, fista, backtracking, learned is not None, centred,
        )  # fmt: skip
    return trace


_iterations_ = define(
    "prox_gradient_iterations_(Tensor(a!) x, Tensor(b!) v, Tensor(c!) residual, Tensor(d!) residual_v, Tensor y,"
    " Tensor mask, Tensor lam, Tensor(e!) numbers, float[] taps, int level, int iterations, bool fista,"
    " bool backtracking, int transform=0, Tensor? maps=None, int[] size=[], bool centred=False,"
    " Tensor? schedule=None) -> Tensor",
    "prox_gradient_iterations",
    ref=prox_gradient_iterations_ref_,
    cpu=_cpu,
    fake=lambda x, v, residual, residual_v, y, mask, lam, numbers, taps, level, iterations, *others: numbers.new_empty(
        x.shape[0], iterations, 2
    ),
)


@torch.no_grad()
def prox_gradient_iterations_(
    x: Tensor, v: Tensor, residual: Tensor, residual_v: Tensor, y: Tensor, mask: Tensor, lam: Tensor, numbers: Tensor,
    taps: Sequence[float], level: int, iterations: int, fista: bool, backtracking: bool, transform: int = MASK,
    maps: Tensor | None = None, size: Sequence[int] = (), centred: bool = False, schedule: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """So many iterations of every image, in the memory of the first four and of `numbers`; no gradients.

    Args:
        x: coefficients [B, C, P, Q], overwritten, as are the next three; all contiguous.
        v: where FISTA takes its gradient, like x; empty for ISTA.
        residual: A W* x - y [B, C or coils, H, W], W* x cut off to H <= P and W <= Q.
        residual_v: the same of v; empty for ISTA.
        y: measurements like the residual.
        mask, transform, maps, size, centred: A, as of image_operator.Parts; `size` empty: H, W.
        lam: weights [1 or B, 1 or N], real, of the precision of x.
        numbers: float64 [B, 4], overwritten: step, theta, objective, and |z|^2 of the last step.
        taps, level: the wavelet's lowpass filter, and its levels.
        fista: else ISTA.
        backtracking: whether a step is halved, and its iteration void, where f exceeds the quadratic model; as in
            fastrecon.solvers.ISTA and FISTA.
        schedule: float64 [B, iterations, 3 + level], of FISTA without backtracking: in each iteration the momentum, a
            factor of lam, and factors of the step, of the approximation and of the details from coarse to fine; theta
            and |z|^2 stay as they are. None: its own.

    Returns:
        Objective and |z|^2 after each iteration, float64 [B, iterations, 2].
    """
    return _iterations_(
        x, v, residual, residual_v, y, mask, lam, numbers, list(taps), level, iterations, fista, backtracking,
        transform,
        maps, list(size), centred, schedule,
    )  # fmt: skip
