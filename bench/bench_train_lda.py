"""One training step of LDA: loss and all gradients, K = 9 phases, batch 16 of 33x33 at 25%.

The baseline is the network as people write it today: convolutions in eager PyTorch, the gradient of the regulariser by
autograd with create_graph=True. Peak memory on the CPU is measured in a process of its own for each implementation
(Linux):

    python bench/bench_train_lda.py fastrecon select        # prints bytes
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from bench_lda import regulariser
from torch import Tensor
from utils import DEVICES, GRAPHS, finished

from fastrecon.operators import BlockSensing, random_phi
from fastrecon.solvers import LDA

PHASES, BATCH, SIDE = 9, 16, 33
FLOPS_PER_PIXEL = 2 * 2 * 9 * (32 + 3 * 32 * 32)  # features and transposed chain, counted as direct convolutions


def problem(dtype: torch.dtype, batch: int = BATCH, device: str = "cpu") -> tuple[LDA, Tensor]:
    torch.manual_seed(0)
    solver = LDA(BlockSensing(random_phi(272, SIDE**2, 0), SIDE), phases=PHASES, tau=0.01)
    x = torch.randn(batch, 1, SIDE, SIDE, dtype=torch.float64).cumsum(2).cumsum(3)
    return solver.to(device, dtype), (x / x.abs().amax((1, 2, 3), keepdim=True)).to(device, dtype)


def eager(solver: LDA, y: Tensor, x: Tensor, select: bool) -> Tensor:
    """Algorithm 1 in eager PyTorch, same parameters, same decisions."""
    a, weights, delta = solver.fidelity.operator, list(solver.regulariser.weights), solver.regulariser.delta

    def grad_r(x: Tensor, eps: Tensor, graph: bool = True) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            return torch.autograd.grad(regulariser(x, weights, eps, delta).sum(), x, create_graph=graph)[0]

    def phi(x: Tensor, eps: Tensor) -> Tensor:
        return (a(x) - y).double().square().sum((1, 2, 3)) / 2 + regulariser(x, weights, eps, delta).double()

    eps = solver.eps0.expand(len(x))
    for alpha, tau in zip(solver.alpha, solver.tau, strict=True):
        z = x - alpha * a.adjoint(a(x) - y)
        u = z - tau * grad_r(z, eps)
        if not select:
            x, eps = u, solver.gamma * eps
            continue
        v = z - alpha * grad_r(x, eps)
        with torch.no_grad():
            keep = phi(u, eps) <= phi(v, eps)
        x = torch.where(keep[:, None, None, None], u, v)
        gradient = a.adjoint(a(x) - y).detach() + grad_r(x.detach(), eps.detach(), graph=False)
        small = torch.linalg.vector_norm(gradient.double().flatten(1), dim=1) < solver.sigma * solver.gamma * eps
        eps = torch.where(small, solver.gamma * eps, eps)
    return x


IMPLEMENTATIONS: dict[str, Callable[[LDA, Tensor, Tensor, bool], Tensor]] = {
    "eager": eager,
    "fastrecon": lambda solver, y, x0, select: solver(y, x0, select=select)[0],
}
IMPLEMENTATIONS |= dict(zip(GRAPHS, IMPLEMENTATIONS.values(), strict=False))


def step(implementation: str, solver: LDA, x: Tensor, select: bool) -> Tensor:
    """The gradient of the loss in all parameters, one vector."""
    with torch.no_grad():
        y = solver.fidelity.operator(x)
        x0 = solver.fidelity.operator.adjoint(y)
    loss = (IMPLEMENTATIONS[implementation](solver, y, x0, select) - x).square().mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(solver.parameters()))])


def peak_bytes(implementation: str, select: bool, device: str) -> int:
    """Rise of the GPU's memory in use during one step, or of a fresh process's resident memory."""
    if device == "cuda":
        solver, x = problem(torch.float32, device=device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(implementation, solver, x, select)
        return torch.cuda.max_memory_allocated() - before
    arguments = [sys.executable, __file__, implementation, "select" if select else "u-only"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment)
    return json.loads(run.stdout)


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process in bytes."""
    return 1024 * int(re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


def measure_peak(implementation: str, select: bool) -> int:
    solver, x = problem(torch.float32)
    step(implementation, *problem(torch.float32, batch=1), select)  # libraries load and allocate their own
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    step(implementation, solver, x, select)
    return resident("VmHWM") - before


@cache
def expected(select: bool, device: str) -> tuple[Tensor, float]:
    """The gradient in float64, and the error of eager PyTorch in float32."""
    exact, single = (step("eager", *problem(t, device=device), select) for t in (torch.float64, torch.float32))
    return exact, ((single - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("select", [False, True], ids=["u-only", "select"])
@pytest.mark.parametrize("device", DEVICES)
def bench_training_step(benchmark, implementation, select, device):
    if select and implementation in GRAPHS:
        pytest.skip("training asks the host which images took v, and computes v's derivative for them alone")
    exact, eager_error = expected(select, device)
    run = finished(
        partial(step, implementation, *problem(torch.float32, device=device), select), implementation, device
    )
    assert (run() - exact).norm() / exact.norm() <= max(2 * eager_error, 1e-5)  # no timing of wrong answers
    benchmark.pedantic(run, rounds=7, warmup_rounds=1)
    evaluations = 4 + (
        4 if select else 0
    )  # a tangent pass, two transposed passes and weight gradients cost about three
    benchmark.extra_info.update(
        op="train_lda",
        shape=(BATCH, SIDE, SIDE, PHASES, int(select)),
        dtype="float32",
        flops=evaluations * PHASES * BATCH * SIDE**2 * FLOPS_PER_PIXEL,
        peak_bytes=peak_bytes(implementation, select, device),
    )


if __name__ == "__main__":
    print(json.dumps(measure_peak(sys.argv[1], sys.argv[2] == "select")))
