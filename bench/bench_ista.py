"""FISTA and ISTA iterations for inpainting with sym4 wavelets, 3 levels, on 256x256 images.

eager: the method as people write it, on strided convolutions; the objective is not asked for.
"""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from bench_dwt2 import eager as analyse
from bench_dwt2 import eager_inverse as synthesise
from torch import Tensor
from utils import DEVICES

from fastrecon import masks
from fastrecon.operators import Inpainting, Wavelet
from fastrecon.solvers import FISTA, ISTA, SGP

ITERATIONS, LAM = 50, 0.01


@cache
def problem(shape: tuple[int, ...], device: str) -> tuple[Tensor, Tensor]:
    """Masks per image, measurements of smooth images."""
    mask = torch.stack([masks.uniform(shape[2:], 0.5, s) for s in range(shape[0])])[:, None]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).cumsum(2).cumsum(3)
    x = x / x.abs().amax((1, 2, 3), keepdim=True)
    return mask.to(device), (mask * x).to(device)


def eager(mask: Tensor, y: Tensor) -> Tensor:
    x = v = analyse(y)
    theta = 1.0
    for _ in range(ITERATIONS):
        u = v - analyse(mask * synthesise(v) - y)
        new = u.sign() * (u.abs() - LAM).clamp_min(0)
        after = (1 + (1 + 4 * theta**2) ** 0.5) / 2
        x, v, theta = new, new + (theta - 1) / after * (new - x), after
    return x


def ours(method: Callable[..., Callable[..., tuple[Tensor, object]]]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda mask, y: method(Inpainting(mask) @ Wavelet("sym4", 3).T, LAM)(y, iterations=ITERATIONS)[0]


IMPLEMENTATIONS = {
    "eager": eager,
    "fastrecon": ours(FISTA),
    "fastrecon backtracking": ours(lambda a, lam: FISTA(a, lam, lipschitz=1.0, rule="backtracking")),
    "fastrecon ista": ours(ISTA),
    "fastrecon sgp": ours(SGP),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(1, 1, 256, 256), (16, 1, 256, 256)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_iterations(benchmark, implementation, shape, device):
    mask, y = problem(shape, device)

    def run() -> Tensor:
        with torch.no_grad():
            x = IMPLEMENTATIONS[implementation](mask, y)
        if device == "cuda":
            torch.cuda.synchronize()
        return x

    if implementation == "fastrecon":  # the others take other steps: their own tests hold them
        expected = eager(mask, y)
        assert (run() - expected).norm() <= 1e-5 * expected.norm()  # no timing of wrong answers
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    benchmark.extra_info.update(op="ista", dtype="float32", bytes=2 * ITERATIONS * y.nbytes)
