"""The Armijo ladder of 20 trials, where every image takes the full step and where each needs the ladder."""

import pytest
import torch
from utils import DEVICES, IMPLEMENTATIONS, numbers, time_op

from fastrecon.ops import armijo

TRIALS = 20


def eager(x, z, grad, curvature):
    """One pass over the image for every trial, all of them: as one would write it without a host round trip."""
    x, z, grad = (t.double().flatten(1) for t in (x, z, grad))
    gammas = 0.5 ** torch.arange(TRIALS, device=x.device, dtype=torch.float64)
    size = x.abs()
    rises = torch.stack([0.1 * ((x + g * z).abs() - size).sum(1) for g in gammas], 1)
    slope = (grad * z).sum(1)
    change = gammas * slope[:, None] + gammas.square() / 2 * curvature.double()[:, None] + rises
    delta = slope + rises[:, 0]
    good = change <= 1e-4 * gammas * delta[:, None]
    first = good.int().argmax(1)
    accepted = good.any(1)
    at = torch.where(accepted, first, TRIALS - 1)
    return gammas[at], change.gather(1, at[:, None])[:, 0], delta, slope, z.square().sum(1), accepted


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", ["full", "ladder"])
@pytest.mark.parametrize("shape", [(16, 1, 256, 256), (1, 1, 256, 256)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_ladder(benchmark, implementation, case, shape, device):
    x, grad = (numbers(*shape, device=device, dtype=torch.float32, seed=s) for s in (0, 1))
    square = grad.square().flatten(1).sum(1)
    curvature = square if case == "full" else 500 * square
    inputs = (x, -grad, grad, curvature)
    ours = lambda x, z, grad, curvature: armijo(x, z, grad, 0.1, curvature, trials=TRIALS)  # noqa: E731
    time_op(benchmark, implementation, ours, eager, inputs, "armijo", 3 * x.nbytes)
