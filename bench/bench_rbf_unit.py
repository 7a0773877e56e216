"""Convolution, 53 radial functions, convolution: 24 filters 5 x 5, as in PADNet's experiments on slopes.

Eager takes one centre after the other in the forward pass, so that it needs no array 53 times as large as the maps;
for the training step autograd keeps what it needs.
"""

from functools import partial

import pytest
import torch
from torch.nn.functional import conv2d, conv_transpose2d, pad
from utils import DEVICES, IMPLEMENTATIONS, numbers, time_op

from fastrecon.ops import rbf_unit
from fastrecon.ops.rbf_unit import STEP

F, K, J = 24, 5, 53


def eager(v, filters, weights):
    """The same in PyTorch."""
    t = conv2d(pad(v, [K - 1] * 4, mode="circular"), filters)
    z = torch.zeros_like(t)
    for j, w in enumerate(weights.unbind(1)):
        z = z + w[:, None, None] * torch.exp((t - (j - (J - 1) / 2) * STEP).square() * (-0.5 / STEP**2))
    return conv_transpose2d(z, filters)[..., K - 1 : -(K - 1), K - 1 : -(K - 1)]


def problem(shape, device):
    """Slopes, filters and weights."""
    v = 0.1 * numbers(*shape, device=device, dtype=torch.float32)
    filters = numbers(F, shape[1], K, K, device=device, dtype=torch.float32, seed=1) / K
    return v, filters, numbers(F, J, device=device, dtype=torch.float32, seed=2)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(1, 1, 128, 128), (1, 2, 128, 128)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_forward(benchmark, implementation, shape, device):
    v, filters, weights = problem(shape, device)
    flops = 4 * F * K * K * v.numel()
    time_op(benchmark, implementation, rbf_unit, eager, (v, filters, weights), "rbf_unit", 2 * v.nbytes, flops)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(2, 2, 64, 64)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_forward_backward(benchmark, implementation, shape, device):
    inputs = [t.requires_grad_() for t in problem(shape, device)]
    moved, flops = 5 * inputs[0].nbytes, 14 * F * K * K * inputs[0].numel()
    time_op(benchmark, implementation, rbf_unit, partial(eager), inputs, "rbf_unit", moved, flops)
