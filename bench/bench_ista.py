"""FISTA and ISTA iterations for inpainting with sym4 wavelets, 3 levels, on 256x256 images.

eager: the method as people write it, on strided convolutions; the objective is not asked for. torch.compile: one
compiled function for each iteration.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from bench_dwt2 import eager as analyse
from bench_dwt2 import eager_inverse as synthesise
from torch import Tensor
from utils import DEVICES, GRAPHS, finished

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


def iteration(mask: Tensor, y: Tensor, x: Tensor, v: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    u = v - analyse(mask * synthesise(v) - y)
    new = u.sign() * (u.abs() - LAM).clamp_min(0)
    return new, new + weight * (new - x)


@cache
def weights(device: str) -> list[Tensor]:
    """Of the momentum, on the device: numbers of the host would be compiled in."""
    found, theta = [], 1.0
    for _ in range(ITERATIONS):
        after = (1 + (1 + 4 * theta**2) ** 0.5) / 2
        found.append((theta - 1) / after)
        theta = after
    return list(torch.tensor(found, device=device))


@cache
def compiled() -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.compile(iteration, dynamic=False)


def eager(mask: Tensor, y: Tensor, step: Callable[..., tuple[Tensor, Tensor]] = iteration) -> Tensor:
    x = v = analyse(y)
    for weight in weights(y.device.type):
        x, v = step(mask, y, x, v, weight)
    return x


def ours(method: Callable[..., Any]) -> Callable[[Tensor, Tensor], Tensor]:
    @cache
    def solver(mask: Tensor) -> Any:  # its norm asks the host, which a graph cannot
        a = Inpainting(mask) @ Wavelet("sym4", 3).T
        return method(a, LAM, a.norm() ** 2)

    return lambda mask, y: solver(mask)(y, iterations=ITERATIONS)[0]


IMPLEMENTATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "eager": eager,
    "torch.compile": lambda mask, y: eager(mask, y, compiled()),
    "fastrecon": ours(FISTA),
    "fastrecon backtracking": ours(partial(FISTA, rule="backtracking")),
    "fastrecon ista": ours(ISTA),
    "fastrecon sgp": ours(SGP),
} | dict(zip(GRAPHS, (eager, ours(FISTA)), strict=False))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(1, 1, 256, 256), (16, 1, 256, 256)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def bench_iterations(benchmark, implementation, shape, device):
    mask, y = problem(shape, device)
    run = finished(partial(IMPLEMENTATIONS[implementation], mask, y), implementation, device)
    if implementation in ("torch.compile", "fastrecon", *GRAPHS):  # others take other steps: their tests hold them
        expected = eager(mask, y)
        assert (run() - expected).norm() <= 1e-5 * expected.norm()  # no timing of wrong answers
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    benchmark.extra_info.update(op="ista", dtype="float32", bytes=2 * ITERATIONS * y.nbytes)
