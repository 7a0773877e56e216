"""One proximal gradient step with its sums, real and complex, with a step per image and a diagonal metric."""

import pytest
import torch
from utils import DEVICES, IMPLEMENTATIONS, numbers, time_op

from fastrecon.ops import prox_gradient_step


def eager(x, grad, step, lam):
    step = step[:, None, None, None] if step.ndim == 1 else step
    u = x - step * grad
    modulus = u.abs()
    p = (
        u * (1 - step * lam / modulus.clamp_min(1e-30)).clamp_min(0)
        if x.is_complex()
        else u.sign() * (modulus - step * lam).clamp_min(0)
    )
    z = p - x
    wide = torch.complex128 if x.is_complex() else torch.float64
    g, d = grad.to(wide).flatten(1), z.to(wide).flatten(1)
    return z, (g.conj() * d).real.sum(1), d.abs().square().sum(1), lam * p.abs().double().flatten(1).sum(1)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("metric", ["step", "diagonal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("shape", [(16, 1, 256, 256), (1, 1, 256, 256)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_step(benchmark, implementation, metric, dtype, shape, device):
    x, grad = (numbers(*shape, device=device, dtype=dtype, seed=s) for s in (0, 1))
    each = shape if metric == "diagonal" else shape[:1]
    step = numbers(*each, device=device, dtype=torch.float32, seed=2).abs() + 0.1
    moved = 3 * x.nbytes + step.nbytes
    time_op(benchmark, implementation, prox_gradient_step, eager, (x, grad, step, 0.1), "prox_gradient_step", moved)
