"""Transmissions of a hazy colour photograph of 620x460 pixels: contextual regularisation, the dark channel, PADNet.

eager: contextual regularisation as people write it, every difference by a Fourier transform.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from utils import DEVICES, finished

from fastrecon import io
from fastrecon.operators.kirsch import compass
from fastrecon.problems import PROBLEMS
from fastrecon.solvers.haze_methods import context
from fastrecon.solvers.hqs import continuation
from fastrecon.solvers.methods import METHODS, Inverse

LAM, SIGMA = 2.0, 0.5


@cache
def problem(device: torch.device) -> Inverse:
    small = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    pixels = interpolate(small, size=(460, 620), mode="bicubic").clamp(0, 1)[0].movedim(0, -1).contiguous().numpy()
    dehaze = PROBLEMS["dehaze"]
    m = dehaze.simulate(io.Picture(pixels, Path("p.png"), io.Form()), dehaze.Options(light="0.85"))
    return dehaze.inverse(m.to(device))


def eager(inverse: Inverse) -> Tensor:
    photograph, t = inverse.facts["photograph"], inverse.y
    w, size = context(photograph, SIGMA), t.shape[-2:]
    filters = torch.zeros(8, *size, device=t.device)
    filters[:, :3, :3] = compass().to(filters)
    spectra = torch.fft.fft2(filters.roll((-1, -1), (-2, -1))).conj()  # of correlations
    start, power = torch.fft.fft2(t), spectra.abs().square().sum(0)
    for beta in continuation():
        d = torch.fft.ifft2(spectra * torch.fft.fft2(t)).real
        u = d.sign() * (d.abs() - w / beta).clamp_min(0)
        pulls = (spectra.conj() * torch.fft.fft2(u)).sum(1, keepdim=True)
        t = torch.fft.ifft2((LAM / beta * start + pulls) / (LAM / beta + power)).real
    return t


def ours(name: str) -> Callable[[Inverse], Tensor]:
    runner = METHODS[name].ready()
    return lambda inverse: runner(inverse).x


IMPLEMENTATIONS: dict[str, Callable[[Inverse], Tensor]] = {
    "eager": eager,
    "fastrecon contextual": lambda inverse: ours("contextual")(inverse),
    "fastrecon dark-channel": lambda inverse: ours("dark-channel")(inverse),
    "fastrecon padnet": lambda inverse: ours("padnet")(inverse),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def bench_transmission(benchmark, implementation, device):
    inverse = problem(device)
    run = finished(partial(IMPLEMENTATIONS[implementation], inverse), implementation, device)
    if implementation == "fastrecon contextual":
        expected = eager(inverse)
        assert (run() - expected).norm() <= 1e-4 * expected.norm()  # no timing of wrong answers
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
