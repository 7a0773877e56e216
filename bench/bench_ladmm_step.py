"""The half steps of LADMM, forward and backward: 1,000 samples of 500 with 250 atoms, and the patches of an image."""

from functools import partial

import pytest
import torch
from utils import DEVICES, IMPLEMENTATIONS, time_op
from utils import numbers as wide

from fastrecon.ops import ladmm_shrink, ladmm_step

numbers = partial(wide, dtype=torch.float32)
SHAPES = [(1000, 500, 250), (1024, 256, 512)]  # samples, m, d


def soft(v, tau):
    return v.sign() * (v.abs() - tau).clamp_min(0)


def eager_shrink(z, arg, w, tau):
    return soft(z - arg @ w, tau)


def eager_residual(z, a, x, e, dual, beta, w, tau, beta_next):
    q = z @ a.T
    e = soft(x - q - w * dual, tau)
    r = q + e - x
    dual = dual + beta * r
    return q, e, dual, dual + beta_next * r


def eager_general(z, a, x, e, dual, beta, w, tau, beta_next):
    q = z @ a.T
    e = soft(e - w * (dual + beta * (q + e - x)), tau)
    r = q + e - x
    dual = dual + beta * r
    return q, e, dual, dual + beta_next * r


EAGER = {"general": eager_general, "residual": eager_residual}


def parameters(count, columns, device):
    rows = [numbers(columns, device=device, seed=10 + k).abs().add(0.1) for k in range(count)]
    return [r.requires_grad_() for r in rows]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("update", EAGER)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_step(benchmark, implementation, update, shape, device):
    n, m, d = shape
    z, a, x, e, dual = (numbers(*s, device=device, seed=k) for k, s in enumerate([(n, d), (m, d), *[(n, m)] * 3]))
    general = update == "general"
    inputs = (z.requires_grad_(), a, x, e.requires_grad_(general), dual.requires_grad_(), *parameters(4, m, device))
    passes = 8 + 12 if general else 7 + 10  # of [N, M]
    time_op(
        benchmark, implementation, partial(ladmm_step, update=update), EAGER[update], inputs, f"ladmm_step_{update}",
        passes * x.nbytes, flops=4 * n * m * d,
    )  # fmt: skip


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_shrink(benchmark, implementation, shape, device):
    n, m, d = shape
    z, arg, w = (
        numbers(*s, device=device, seed=k).requires_grad_() for k, s in enumerate([(n, d), (n, m), (m, d)])
    )  # fmt: skip
    inputs = (z, arg, w, *parameters(1, d, device))
    moved = 4 * z.nbytes + 3 * arg.nbytes + 3 * w.nbytes
    time_op(
        benchmark, implementation, ladmm_shrink, eager_shrink, inputs, "ladmm_shrink", moved, flops=6 * n * m * d
    )  # fmt: skip
