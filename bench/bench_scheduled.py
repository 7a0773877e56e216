"""To the objective that FISTA has after 100 iterations: FISTA, and FISTA behind learned iterations; 256x256, sym4.

Held-out pictures that come with scikit-image, the weights of Lee & Chun, 144 views of ct. `extra_info` tells
iterations.
"""

from functools import cache

import pytest
import torch
from skimage import data, transform
from torch import Tensor

import fastrecon as fr
from fastrecon.models import ScheduleModel
from fastrecon.problems import wavelet_l1 as problems
from fastrecon.solvers import FISTA, ScheduledFISTA

USUAL = 100


@cache
def instance(problem: str) -> problems.Instance:
    pictures = [data.camera(), data.coins()[:300, :300]]
    x = torch.stack([torch.from_numpy(transform.resize(p, (256, 256), anti_aliasing=True)) for p in pictures])
    return problems.instance(problem, x[:, None].float(), 0.5 if problem == "inpaint" else 0.3)


@cache
def objective(problem: str) -> Tensor:
    p = instance(problem)
    return FISTA(p.operator, p.lam, 1.0)(p.y, p.start(), iterations=USUAL)[1].objective


@cache
def solver(problem: str, implementation: str) -> tuple[FISTA, int]:
    """The method, and the iterations after which no image's objective is above FISTA's."""
    p = instance(problem)
    if implementation == "fista":
        return FISTA(p.operator, p.lam, 1.0), USUAL
    model = fr.load(f"learned-fista-{problem}")
    assert isinstance(model, ScheduleModel)
    method = ScheduledFISTA(p.operator, p.lam, 1.0, model.network)
    for count in range(len(model.network), USUAL):
        if bool((method(p.y, p.start(), iterations=count)[1].objective <= objective(problem)).all()):
            return method, count
    raise AssertionError("never as low as FISTA")


@pytest.mark.parametrize("implementation", ["fista", "learned-fista"])
@pytest.mark.parametrize("problem", ["inpaint", "mri", "ct"])
@torch.no_grad()
def bench_to_the_objective(benchmark, implementation, problem):
    p, (method, count) = instance(problem), solver(problem, implementation)
    start = p.start()
    benchmark.pedantic(lambda: method(p.y, start, iterations=count), rounds=5, warmup_rounds=1)
    benchmark.extra_info.update(op="scheduled", dtype="float32", bytes=2 * count * p.y.nbytes, iterations=count)
