"""The regulariser of complex images, 16 complex features: value and gradient, and the memory of training.

torch.compile: complex images as two channels, complex convolutions as real ones twice as wide, the gradient written out
by hand. `ratio` in the record is the median of rounds in which both take turns, which other work on the machine leaves
as it is.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from bench_lda import value_and_gradient
from torch import Tensor
from utils import DEVICES, finished

from fastrecon import masks
from fastrecon.operators import Fourier
from fastrecon.solvers import LDA
from fastrecon.terms.complex_features import ComplexFeatureNorm

CHANNELS, DELTA, EPS = 16, 0.1, 1e-3
FLOPS_PER_PIXEL = 2 * 2 * 9 * (2 * 2 * CHANNELS + 3 * (2 * CHANNELS) ** 2)
SHAPES = [(1, 320, 320), (4, 96, 96)]
SIDE, PHASES = 320, 11  # of the training whose memory is measured
ROUNDS = 7


@cache
def problem(shape: tuple[int, int, int], device: str, kind: torch.dtype = torch.float32):
    """Term, images and radii; shape is (B, H, W)."""
    torch.manual_seed(0)
    term = ComplexFeatureNorm(CHANNELS, delta=DELTA).to(device, kind)
    x = torch.rand(shape[0], 2, *shape[1:], generator=torch.Generator().manual_seed(1)).to(device, kind)
    return term, torch.complex(x[:, :1], x[:, 1:]), torch.full((shape[0],), EPS, device=device, dtype=kind)


@cache
def _compiled():
    return torch.compile(partial(value_and_gradient, delta=DELTA), dynamic=False)


def compiled(term: ComplexFeatureNorm, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    value, grad = _compiled()(torch.cat((x.real, x.imag), 1), term.kernels(), eps)
    return value, torch.complex(*grad.chunk(2, 1))


def ours(term: ComplexFeatureNorm, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    return term.value_and_grad(x, eps)


IMPLEMENTATIONS = {"torch.compile": compiled, "fastrecon": ours}


def taking_turns(first, second) -> float:
    """How many times longer the first takes: the median over rounds of pairs."""
    ratios = []
    for _ in range(ROUNDS):
        seconds = []
        for run in (first, second):
            begin = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begin)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def bench_value_and_gradient(benchmark, implementation, shape, device):
    exact = ours(*problem(shape, device, torch.float64))
    runs = {name: finished(partial(f, *problem(shape, device)), name, device) for name, f in IMPLEMENTATIONS.items()}
    for run in runs.values():  # no timing of wrong answers
        value, grad = run()
        assert ((value - exact[0]).norm() / exact[0].norm()).item() < 1e-5
        assert ((grad - exact[1]).norm() / exact[1].norm()).item() < 1e-5
    benchmark.pedantic(runs[implementation], rounds=ROUNDS, warmup_rounds=1)
    benchmark.extra_info.update(
        op="complex_features", dtype="complex64", flops=FLOPS_PER_PIXEL * shape[0] * shape[1] * shape[2],
        ratio=taking_turns(runs["torch.compile"], runs[implementation]),
    )  # fmt: skip


def step(side: int, channels: int) -> None:
    """A training step of LDA on one complex image."""
    torch.manual_seed(0)
    a = Fourier(masks.radial((side, side), 0.2))
    net = LDA(a, PHASES, channels, complex_features=True, tau=0.02)
    x = torch.randn(1, 1, side, side, dtype=torch.complex64)
    found = net(a(x), torch.zeros_like(x))[0]
    (found - x).abs().square().mean().backward()


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process in bytes."""
    return 1024 * int(re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


def measure_peak(channels: int) -> int:
    """Bytes that a step needs at most, on the CPU."""
    step(32, channels)  # libraries load and allocate their own
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    step(SIDE, channels)
    return resident("VmHWM") - before


@pytest.mark.parametrize("channels", [16, 32])
def bench_memory_of_training(benchmark, channels):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, str(channels)]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    peak = json.loads(run.stdout)
    assert peak < 2 * 2**30, f"{peak / 2**30:.2f} GiB"
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info.update(op="train_lda_mri", shape=(1, SIDE, SIDE, PHASES, channels), peak_bytes=peak)


if __name__ == "__main__":
    print(json.dumps(measure_peak(int(sys.argv[1]))))
