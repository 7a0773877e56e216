"""Methods on a machine that others use too: as many busy loops as there are cores run beside them.

"one thread" and "all threads" are measured in turns under the same load, "quiet" ones without it, so that the ratios
hold on any machine. A thread that the system does not run must cost its tile, not a time slice an operation: all
threads may be at most 1.3 times slower than one.

    python bench/bench_busy.py        # a table, 1 to 2 minutes
    pytest bench/bench_busy.py        # the same as benches: rows for results.csv
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from statistics import median

import pytest
import torch
from torch import Tensor

import fastrecon as fr
from fastrecon.operators import Blur, Fourier, Inpainting, Wavelet

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SIZE = (256, 256)
ITERATIONS = 50
THREADS = {"one thread": 1, "all threads": CORES}


@contextmanager
def company(count: int) -> Iterator[None]:
    """So many processes that always want to run."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.5 if count else 0)
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def image() -> Tensor:
    x = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(0)).cumsum(2).cumsum(3)
    return (x - x.min()) / (x.max() - x.min())


def fista(operator: fr.operators.LinearOperator) -> Callable[[], Tensor]:
    a = operator @ Wavelet("sym4", 3).T
    y, solver = operator(image()), fr.solvers.FISTA(a, 1e-3, 1.0)
    return lambda: solver(y, iterations=ITERATIONS)[0]


def lda() -> Callable[[], Tensor]:
    model = fr.load("lda-cs-25")
    assert model.operator is not None
    y = model.operator(image())
    return lambda: model(y).x


@cache
def method(name: str) -> Callable[[], Tensor]:
    mask = fr.masks.uniform(SIZE, 0.5, 0)
    return {
        "lda": lda,
        "fista inpainting": lambda: fista(Inpainting(mask)),
        "fista fourier": lambda: fista(Fourier(fr.masks.variable_density(SIZE, 0.3, 0))),
        "fista deblurring": lambda: fista(Blur(torch.full((9, 9), 1 / 81))),
    }[name]()


METHODS = ("fista inpainting", "lda", "fista fourier", "fista deblurring")


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("implementation", THREADS)
@pytest.mark.parametrize("case", METHODS)
@pytest.mark.parametrize("loops", [0, CORES])
@torch.no_grad()
def bench_busy(benchmark, implementation, case, loops):
    run = method(case)
    with threads(1):
        expected = run()
    with company(loops), threads(THREADS[implementation]):
        assert (run() - expected).norm() <= 1e-4 * expected.norm()  # no timing of wrong answers
        benchmark.pedantic(run, rounds=7, warmup_rounds=1)
    benchmark.extra_info.update(op="busy", dtype="float32", shape=str((1, 1, *SIZE)))


def in_turns(run: Callable[[], Tensor], rounds: int) -> dict[str, float]:
    """Median seconds by number of threads."""
    times: dict[str, list[float]] = {name: [] for name in THREADS}
    for turn in range(rounds + 1):
        for name, count in THREADS.items():
            with threads(count):
                start = time.perf_counter()
                run()
                if turn:  # the first warms up
                    times[name].append(time.perf_counter() - start)
    return {name: median(t) for name, t in times.items()}


@torch.no_grad()
def main() -> None:
    """Prints the table."""
    print(f"{CORES} cores; milliseconds, medians of 9 in turns\n{'method':<18}{'loops':>6}", end="")
    print("".join(f"{name:>13}" for name in THREADS) + f"{'all / one':>11}")
    for name in METHODS:
        run = method(name)
        for loops in (0, CORES):
            with company(loops):
                times = in_turns(run, 9)
            ratio = times["all threads"] / times["one thread"]
            cells = "".join(f"{1e3 * t:>13.1f}" for t in times.values())
            print(f"{name:<18}{loops:>6}{cells}{ratio:>11.2f}", flush=True)


if __name__ == "__main__":
    main()
