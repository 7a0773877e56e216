"""What the control of an error-controlled iteration costs beside its module: a network of 17 convolutions."""

import pytest
import torch
from utils import DEVICES, finished

from fastrecon.modules import Cleaned
from fastrecon.networks import ResidualCNN
from fastrecon.operators import Blur, Wavelet, gaussian_kernel
from fastrecon.solvers import ErrorControlled
from fastrecon.terms import Lp

SIDE, ITERATIONS = 128, 4


def parts(device):
    """Operator, measurements, module."""
    torch.manual_seed(0)
    network = ResidualCNN(17, 64, folded=True).eval().to(device)
    a = Blur(gaussian_kernel(1.5, 9)).to(device)
    return a, a(torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).to(device)), Cleaned(network)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("part", ["controlled", "module alone", "control alone"])
def bench_error_controlled(benchmark, part, device):
    """The iteration, its module as often, and the iteration with a module that answers at once."""
    a, y, module = parts(device)
    prior = Lp(0.001, 0.8, Wavelet("sym4", 3))

    def alone():
        with torch.no_grad():
            x = y
            for _ in range(ITERATIONS):
                x = module(x)
        return x

    solver = ErrorControlled(a, prior, module if part == "controlled" else (lambda x: x), rho=0.1, norm=1.001)
    run = alone if part == "module alone" else lambda: solver(y, y, iterations=ITERATIONS, tol=0)
    work = finished(run, "fastrecon", device)
    work()
    benchmark.pedantic(work, rounds=5, warmup_rounds=1)
    benchmark.extra_info.update(op="error_controlled", part=part, iterations=ITERATIONS)
