"""The proximal map of lam |x|^p. Eager and torch.compile run the published iteration to the same accuracy."""

from functools import partial

import pytest
import torch
from utils import DEVICES, IMPLEMENTATIONS, numbers, time_op

from fastrecon.ops import prox_lp

LAM = 0.3
ITERATIONS = 12  # of the fixed point: float32 at p = 0.8 needs no more above the threshold


def shrunk(x, p, lam):
    """Zuo et al., A Generalized Iterated Shrinkage Algorithm (ICCV 2013)."""
    size = (2 * lam * (1 - p)) ** (1 / (2 - p))
    threshold = size + lam * p * size ** (p - 1)
    above = x.abs() > threshold
    y = torch.where(above, x.abs(), 1)
    z = y
    for _ in range(ITERATIONS if x.dtype == torch.float32 else 60):
        z = y - lam * p * z ** (p - 1)
    return torch.where(above, x.sign() * z, 0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("p", [0.5, 2 / 3, 0.8])
@pytest.mark.parametrize("shape", [(16, 256, 256)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_forward(benchmark, implementation, p, shape, device):
    x = 2 * numbers(*shape, device=device, dtype=torch.float32)
    ours = partial(prox_lp, lam=LAM, p=p)
    time_op(benchmark, implementation, ours, partial(shrunk, p=p, lam=LAM), (x,), "prox_lp", 2 * x.nbytes)
