"""Hyper-Laplacian deconvolution of a 256x256 image: all iterations of half-quadratic splitting, published settings.

eager: as people write it, with PyTorch's transforms and generalised thresholding of the same accuracy.
"""

from functools import partial

import pytest
import torch
from bench_prox_lp import shrunk
from torch import Tensor
from torch.nn.functional import interpolate
from utils import DEVICES, finished

from fastrecon.operators import Blur, Gradient, motion_kernel
from fastrecon.solvers.hqs import HQS, continuation
from fastrecon.terms import Lp

W, P, NOISE, SIZE = 2000.0, 2 / 3, 0.01, 256


def problem(device: str) -> tuple[Tensor, Tensor]:
    """A blurred picture [1, 1, H, W] with noise, and its kernel."""
    generator = torch.Generator().manual_seed(0)
    picture = interpolate(torch.rand(1, 1, 16, 16, generator=generator), size=(SIZE, SIZE), mode="bicubic")
    kernel = motion_kernel(19, 1)
    y = Blur(kernel)(picture) + NOISE * torch.randn(picture.shape, generator=generator)
    return y.to(device), kernel.to(device)


def eager(y: Tensor, kernel: Tensor) -> Tensor:
    """Krishnan & Fergus, with circular boundaries."""
    wide = torch.zeros_like(y[0, 0])
    wide[: kernel.shape[-2], : kernel.shape[-1]] = kernel
    k = torch.fft.rfft2(wide.roll([-(n // 2) for n in kernel.shape[-2:]], (-2, -1)))
    taps = torch.zeros(2, *y.shape[-2:], device=y.device)
    taps[:, 0, 0], taps[0, -1, 0], taps[1, 0, -1] = -1, 1, 1
    d = torch.fft.rfft2(taps)
    start, power, slopes = k.conj() * torch.fft.rfft2(y), k.abs().square(), d.abs().square().sum(0)
    x = y
    for beta in continuation():
        v = torch.cat((x.roll(-1, -2) - x, x.roll(-1, -1) - x), 1)
        z = shrunk(v, P, 1 / beta)
        pulls = (d.conj() * torch.fft.rfft2(z)).sum(1, keepdim=True)
        x = torch.fft.irfft2((start + beta / W * pulls) / (power + beta / W * slopes), s=y.shape[-2:])
    return x


def ours(y: Tensor, kernel: Tensor) -> Tensor:
    """The same by the solver, its report included."""
    solver = HQS(Blur(kernel), (Lp(1 / W, P), Gradient()), [beta / W for beta in continuation()])
    return solver(y, y, iterations=solver.planned, tol=0.0)[0]


IMPLEMENTATIONS = {"eager": eager, "fastrecon": ours}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def bench_deconvolution(benchmark, implementation, device):
    y, kernel = problem(device)
    run = finished(partial(IMPLEMENTATIONS[implementation], y, kernel), implementation, device)
    expected = eager(y, kernel)
    # no timing of wrong answers; slopes at the threshold fall to either side
    assert (run() - expected).norm() <= 1e-3 * expected.norm()
    benchmark.pedantic(run, rounds=9, warmup_rounds=2)
