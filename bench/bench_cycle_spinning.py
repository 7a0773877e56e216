"""Iterations of cycle spinning for inpainting with sym4 wavelets, 3 levels, on 256x256 images, beside FISTA's.

eager: the method as people write it, on strided convolutions; the objective is not asked for.
"""

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from bench_dwt2 import eager as analyse
from bench_dwt2 import eager_inverse as synthesise
from bench_ista import LAM, ours, problem
from torch import Tensor
from utils import DEVICES, finished

from fastrecon.operators import Inpainting
from fastrecon.solvers import FISTA, CycleSpinning
from fastrecon.solvers.cycle_spinning import DECAY, FIRST

ITERATIONS = 50


@cache
def solver(mask: Tensor) -> CycleSpinning:
    return CycleSpinning(Inpainting(mask), LAM, 1.0)


def eager(mask: Tensor, y: Tensor) -> Tensor:
    x, v, theta = y, y, 1.0
    height, width = (n >> 3 for n in y.shape[-2:])
    for k in range(ITERATIONS):
        shift = solver(mask).shift(k)
        c = analyse(torch.roll(v - mask * (mask * v - y), shift, (-2, -1)))
        shrunk = c.sign() * (c.abs() - max(LAM, FIRST * DECAY**k)).clamp_min(0)
        shrunk[..., :height, :width] = c[..., :height, :width]
        new = torch.roll(synthesise(shrunk), [-s for s in shift], (-2, -1))
        after = (1 + (1 + 4 * theta**2) ** 0.5) / 2
        x, v, theta = new, new + (theta - 1) / after * (new - x), after
    return x


IMPLEMENTATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "eager": eager,
    "fastrecon": lambda mask, y: solver(mask)(y, y, iterations=ITERATIONS)[0],
    "fastrecon fista": ours(FISTA),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(1, 1, 256, 256), (16, 1, 256, 256)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def bench_iterations(benchmark, implementation, shape, device):
    mask, y = problem(shape, device)
    run = finished(partial(IMPLEMENTATIONS[implementation], mask, y), implementation, device)
    if implementation == "fastrecon":
        expected = eager(mask, y)
        assert (run() - expected).norm() <= 1e-4 * expected.norm()  # no timing of wrong answers
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    benchmark.extra_info.update(op="cycle_spinning", dtype="float32", bytes=2 * ITERATIONS * y.nbytes)
