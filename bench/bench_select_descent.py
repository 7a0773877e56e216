"""The two decisions of an LDA phase: which candidate each image keeps, and whether its smoothing radius shrinks."""

from functools import partial

import pytest
import torch
from utils import DEVICES, IMPLEMENTATIONS, numbers, time_op

from fastrecon.ops import select_descent, shrink_eps

SHAPES = [(16, 1, 256, 256), (64, 1, 33, 33)]


def eager_select(u, v, phi_u, phi_v):
    took_u = phi_u <= phi_v
    return torch.where(took_u[:, None, None, None], u, v), took_u


def eager_shrink(grad_f, grad_r, eps, sigma, gamma):
    grad = grad_f + grad_r
    norm = grad.double().square().flatten(1).sum(1).sqrt()
    shrunk = norm < sigma * gamma * eps
    return grad, norm, torch.where(shrunk, gamma * eps, eps), shrunk


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_select(benchmark, implementation, shape, device):
    u, v = (numbers(*shape, device=device, dtype=torch.float32, seed=s) for s in (0, 1))
    phi = [numbers(shape[0], device=device, dtype=torch.float32, seed=s) for s in (2, 3)]
    time_op(benchmark, implementation, select_descent, eager_select, (u, v, *phi), "select_descent", 2 * u.nbytes)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_shrink(benchmark, implementation, shape, device):
    a, b = (numbers(*shape, device=device, dtype=torch.float32, seed=s) for s in (0, 1))
    eps = torch.full(shape[:1], 1e-2, device=device)
    ours, eager = (partial(f, sigma=1e3, gamma=0.9) for f in (shrink_eps, eager_shrink))
    time_op(benchmark, implementation, ours, eager, (a, b, eps), "select_descent", 3 * a.nbytes)
