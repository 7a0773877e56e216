"""Ten iterations of FISTA on masked images, sym4, 3 levels, in one call, and as so many single steps of ours."""

from functools import cache
from typing import Any

import pytest
import torch
from utils import DEVICES, finished

from fastrecon import masks
from fastrecon.operators import Inpainting, Wavelet
from fastrecon.ops.layout import spread_over
from fastrecon.ops.prox_gradient_iterations import prox_gradient_iterations_
from fastrecon.ops.wavelets import lowpass
from fastrecon.solvers import FISTA
from fastrecon.threads import alone

ITERATIONS, LAM = 10, 0.01
WAVELET, LEVEL = "sym4", 3


@cache
def problem(shape: tuple[int, ...], device: str) -> tuple[Any, Any]:
    """A solver and its start."""
    mask = torch.stack([masks.uniform(shape[2:], 0.5, s) for s in range(shape[0])])[:, None].to(device)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).cumsum(2).cumsum(3).to(device)
    a = Inpainting(mask) @ Wavelet(WAVELET, LEVEL).T
    solver = FISTA(a, LAM, 1.0)
    y = mask * x / x.abs().amax((1, 2, 3), keepdim=True)
    return solver, solver.start(a.apply_adjoint(y), y)


def steps(solver: Any, s: Any) -> torch.Tensor:
    for k in range(ITERATIONS):
        s = solver.step(s, k)
    return s.x


def together(solver: Any, s: Any) -> torch.Tensor:
    x, v, residual, residual_v = (t.clone() for t in (s.x, s.v, s.residual, s.residual_v))
    numbers = torch.stack((s.step, s.theta, s.objective, s.move), 1)
    lam, mask = spread_over(LAM, x, "", ""), solver.operator.outer.mask
    prox_gradient_iterations_(
        x, v, residual, residual_v, s.y, mask, lam, numbers, lowpass(WAVELET), LEVEL, ITERATIONS, True, False
    )
    return x


IMPLEMENTATIONS = {"fastrecon steps": steps, "fastrecon": together}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(1, 1, 256, 256), (16, 1, 256, 256)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def bench_iterations(benchmark, implementation, shape, device):
    solver, s = problem(shape, device)
    with alone:
        run = finished(lambda: IMPLEMENTATIONS[implementation](solver, s), implementation, device)
        torch.testing.assert_close(run(), steps(solver, s), rtol=1e-5, atol=1e-6)  # no timing of wrong answers
        benchmark.pedantic(run, rounds=15, warmup_rounds=3)
    benchmark.extra_info.update(op="prox_gradient_iterations", dtype="float32", bytes=2 * ITERATIONS * s.x.nbytes)
