"""The proximal map of total variation to one accuracy: an objective at most TOL above the least.

Each rival runs the least number of iterations (of 10, 20, 40, ...) that reach it: scikit-image's Chambolle, and in
eager PyTorch the over-relaxed Chambolle-Pock iteration with the steps of deepinv's TVDenoiser, and our own iteration.
"""

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from torch import Tensor
from utils import DEVICES, finished

from fastrecon.ops import prox_tv
from fastrecon.ops.prox_tv import adjoint, differences

LAM, TOL = 0.08, 1e-3


@cache
def noisy(shape: tuple[int, ...], device: str) -> Tensor:
    """Discs and ramps on [0, 1], with noise of 0.1."""
    count, _, height, width = shape
    r, c = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    x = torch.stack(
        [((9 + k) * r * c).sin().abs() * (0.5 + (((r - 0.5) ** 2 + (c - 0.4) ** 2) < 0.1)) for k in range(count)]
    )
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return (x[:, None] / 1.5 + 0.1 * noise).to(device)


def objective(x: Tensor, y: Tensor) -> Tensor:
    """[B] in float64."""
    x, y = x.double(), y.double()
    size = torch.linalg.vector_norm(differences(x), dim=-3)
    return (x - y).square().flatten(1).sum(1) / 2 + LAM * size.flatten(1).sum(1)


def scikit_image(y: Tensor, iterations: int) -> Tensor:
    from skimage.restoration import denoise_tv_chambolle

    found = [denoise_tv_chambolle(one[0].numpy(), LAM, eps=0.0, max_num_iter=iterations) for one in y]
    return torch.stack([torch.from_numpy(x) for x in found])[:, None]


def deepinv(y: Tensor, iterations: int) -> Tensor:
    tau, rho = 0.01, 1.99
    x = new = y
    u = torch.zeros_like(differences(y))
    for _ in range(iterations):
        new = (x - tau * adjoint(u) + tau * y) / (1 + tau)
        v = u + differences(2 * new - x) / (8 * tau)
        v = v / (torch.linalg.vector_norm(v, dim=-3, keepdim=True) / LAM).clamp_min(1)
        x, u = x + rho * (new - x), u + rho * (v - u)
    return new


def eager(y: Tensor, iterations: int) -> Tensor:
    u = q = torch.zeros_like(differences(y))
    t = 1.0
    for _ in range(iterations):
        v = q + differences(y - adjoint(q)) / 8
        v = v / (torch.linalg.vector_norm(v, dim=-3, keepdim=True) / LAM).clamp_min(1)
        following = (1 + (1 + 4 * t**2) ** 0.5) / 2
        q, u, t = v + (t - 1) / following * (v - u), v, following
    return y - adjoint(u)


RIVALS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "scikit-image": scikit_image, "deepinv's iteration": deepinv, "eager": eager,
}  # fmt: skip


@cache
def enough(name: str, shape: tuple[int, ...], device: str) -> int:
    """Iterations that a rival needs."""
    y = noisy(shape, device)
    least = prox_tv(y, LAM, tol=1e-5).objective
    for iterations in (10 * 2**k for k in range(10)):
        if (objective(RIVALS[name](y, iterations), y) <= (1 + TOL) * least).all():
            return iterations
    raise AssertionError(f"{name}: 5120 iterations do not reach {TOL}")


@pytest.mark.parametrize("implementation", ["fastrecon", *RIVALS])
@pytest.mark.parametrize("shape", [(1, 1, 256, 256), (8, 1, 256, 256), (1, 1, 1024, 1024)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_to_a_gap(benchmark, implementation, shape, device):
    y = noisy(shape, device)
    if implementation == "fastrecon":
        run = finished(lambda: prox_tv(y, LAM, tol=TOL), implementation, device)
        found = run()
        assert (found.gap <= TOL * found.objective).all()  # no timing of wrong answers
        assert (objective(found.x, y) <= (1 + TOL) * prox_tv(y, LAM, tol=1e-5).objective).all()
    else:
        if implementation == "scikit-image":
            pytest.importorskip("skimage")
            if device != "cpu":
                pytest.skip("scikit-image runs on the CPU")
        run = finished(
            partial(RIVALS[implementation], y, enough(implementation, shape, device)), implementation, device
        )
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    benchmark.extra_info.update(op="prox_tv", dtype="float32", bytes=2 * y.nbytes)
