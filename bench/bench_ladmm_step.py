"""What LADMM does between its products, forward and backward, for 1,000 samples of 500 and the patches of an image."""

from functools import partial

import pytest
import torch
from utils import DEVICES, IMPLEMENTATIONS, numbers, time_op

from fastrecon.ops import ladmm_shrink, ladmm_step

SHAPES = [(1000, 500), (1024, 256)]


def soft(v, tau):
    return v.sign() * (v.abs() - tau).clamp_min(0)


def eager_residual(q, x, e, dual, beta, w, tau, beta_next):
    e = soft(x - q - w * dual, tau)
    r = q + e - x
    dual = dual + beta * r
    return e, dual, dual + beta_next * r


def eager_general(q, x, e, dual, beta, w, tau, beta_next):
    e = soft(e - w * (dual + beta * (q + e - x)), tau)
    r = q + e - x
    dual = dual + beta * r
    return e, dual, dual + beta_next * r


EAGER = {"general": eager_general, "residual": eager_residual}


def parameters(count, columns, device):
    rows = [numbers(columns, device=device, dtype=torch.float32, seed=10 + k).abs().add(0.1) for k in range(count)]
    return [r.requires_grad_() for r in rows]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("update", EAGER)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_step(benchmark, implementation, update, shape, device):
    q, x, e, dual = (numbers(*shape, device=device, dtype=torch.float32, seed=k) for k in range(4))
    general = update == "general"
    inputs = (q.requires_grad_(), x, e.requires_grad_(general), dual.requires_grad_(), *parameters(4, shape[1], device))
    passes = 7 + 11 if general else 6 + 9  # forward reads 3 or 4 and writes 3; backward 8 and 3, or 7 and 2
    time_op(
        benchmark,
        implementation,
        partial(ladmm_step, update=update),
        EAGER[update],
        inputs,
        f"ladmm_step_{update}",
        passes * q.nbytes,
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(1000, 250), (1024, 512)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_shrink(benchmark, implementation, shape, device):
    z, p = (numbers(*shape, device=device, dtype=torch.float32, seed=k).requires_grad_() for k in range(2))
    eager = lambda z, p, tau: soft(z - p, tau)  # noqa: E731
    inputs = (z, p, *parameters(1, shape[1], device))
    time_op(benchmark, implementation, ladmm_shrink, eager, inputs, "ladmm_shrink", 6 * z.nbytes)
