"""D-LADMM with 15 layers: forward for 1,000 samples of 500 with 250 atoms, and for the patches of an image; a training
step of 256 samples. `products` is the matrix products alone: what the rest is measured against.

The baseline is the method as people write it: A Z is computed once a layer, everything else is eager PyTorch.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor
from utils import DEVICES, GRAPHS, finished

from fastrecon.solvers import DLADMM

LAYERS = 15
SHAPES = [(1000, 500, 250), (1024, 256, 512)]  # samples, m, d
STEP = (256, 500, 250)


@cache
def problem(samples: int, m: int, d: int, dtype: torch.dtype, device: str) -> tuple[DLADMM, Tensor]:
    torch.manual_seed(0)
    a = torch.randn(m, d, dtype=torch.float64)
    a = a / a.norm(dim=0)
    z, e = (torch.randn(samples, k, dtype=torch.float64) * (torch.rand(samples, k) < 0.1) for k in (d, m))
    solver = DLADMM(a, 0.4, layers=LAYERS, noise=0.01, per_row=True)
    return solver.to(device, dtype), (z @ a.T + e).to(device, dtype)


def soft(v: Tensor, tau: Tensor) -> Tensor:
    return v.sign() * (v.abs() - tau).clamp_min(0)


def plain(x: Tensor, at: Tensor, weights: list[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor]:
    z, e, dual = x.new_zeros(len(x), len(at)), torch.zeros_like(x), torch.zeros_like(x)
    r = -x
    for w1, tau1, beta, w2, tau2 in weights:
        z = soft(z - (dual + beta * r) @ w1, tau1)
        az = z @ at
        e = soft(x - az - w2 * dual, tau2)
        r = az + e - x
        dual = dual + beta * r
    return z, e


def eager(solver: DLADMM, x: Tensor) -> tuple[Tensor, Tensor]:
    return plain(x, solver.a.atoms.T, [tuple(w) for w in solver.weights()])


@cache
def compiled() -> Any:
    return torch.compile(plain, dynamic=False)


def compiled_eager(solver: DLADMM, x: Tensor) -> tuple[Tensor, Tensor]:
    return compiled()(x, solver.a.atoms.T, [tuple(w) for w in solver.weights()])


def ours(solver: DLADMM, x: Tensor) -> tuple[Tensor, Tensor]:
    s = solver.run(x, LAYERS)
    return s.z, s.e


def ours_training(solver: DLADMM, x: Tensor) -> tuple[Tensor, Tensor]:
    (s,) = solver.states(x, last=True)
    return s.z, s.e


def products(solver: DLADMM, x: Tensor) -> Callable[[], Any]:
    """The 30 matrix products of a forward pass, into memory that is there already."""
    weights = [w.w1.detach() for w in solver.weights()]
    z, at = torch.randn(len(x), weights[0].shape[1], device=x.device), solver.a.atoms.T
    p, q = torch.empty_like(z), torch.empty_like(x)

    def run() -> None:
        for w in weights:
            torch.mm(x, w, out=p)
            torch.mm(z, at, out=q)

    return run


def error(found: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> float:
    return max(((f.double() - e).norm() / e.norm().clamp_min(1e-30)).item() for f, e in zip(found, exact, strict=True))


FORWARD = {"eager": eager, "torch.compile": compiled_eager, "fastrecon": ours}
TRAINING = {"eager": eager, "torch.compile": compiled_eager, "fastrecon": ours_training}
FORWARD |= dict(zip(GRAPHS, (eager, ours), strict=False))
TRAINING |= dict(zip(GRAPHS, (eager, ours_training), strict=False))


@pytest.mark.parametrize("implementation", [*FORWARD, "products"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def bench_forward(benchmark, implementation, shape, device):
    solver, x = problem(*shape, torch.float32, device)
    if implementation == "products":
        run = finished(products(solver, x), implementation, device)
    else:
        exact = eager(*problem(*shape, torch.float64, device))
        allowed = 2 * error(eager(solver, x), exact) + 1e-6
        run = finished(partial(FORWARD[implementation], solver, x), implementation, device)
        assert error(run(), exact) <= allowed  # no timing of wrong answers
    benchmark.pedantic(run, rounds=15, warmup_rounds=3)
    samples, m, d = shape
    benchmark.extra_info.update(
        op="dladmm_forward", shape=(*shape, LAYERS), dtype="float32", flops=4 * LAYERS * samples * m * d
    )


def gradient(implementation: str, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """Of the loss in all parameters."""
    solver, x = problem(*STEP, dtype, device)
    z, e = TRAINING[implementation](solver, x)
    loss = z.square().mean() + (e - x).square().mean()
    return torch.autograd.grad(loss, list(solver.parameters()))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo looks at W1_k / L1
@pytest.mark.parametrize("implementation", TRAINING)
@pytest.mark.parametrize("device", DEVICES)
def bench_training_step(benchmark, implementation, device):
    exact = gradient("eager", torch.float64, device)
    allowed = 2 * error(gradient("eager", torch.float32, device), exact) + 1e-5
    run = finished(partial(gradient, implementation, torch.float32, device), implementation, device)
    assert error(run(), exact) <= allowed
    benchmark.pedantic(run, rounds=15, warmup_rounds=3)
    samples, m, d = STEP
    benchmark.extra_info.update(
        op="train_dladmm", shape=(*STEP, LAYERS), dtype="float32", flops=10 * LAYERS * samples * m * d
    )
