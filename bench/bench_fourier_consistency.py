"""Data consistency in k-space with a mask per image: forward and backward, without the transforms around it."""

import pytest
import torch
from utils import DEVICES, IMPLEMENTATIONS, numbers, time_op

from fastrecon.ops import fourier_consistency


def eager(k, mask, y):
    residual = mask * k - y
    wide = torch.view_as_real(residual).double()
    return residual, mask * residual, wide.square().sum((1, 2, 3, 4)) / 2


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(16, 1, 256, 256), (1, 8, 320, 320)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_forward_backward(benchmark, implementation, shape, device):
    k, y = (numbers(*shape, device=device, dtype=torch.complex64, seed=s) for s in (0, 1))
    mask = (numbers(shape[0], 1, *shape[2:], device=device, seed=2) > 0).float()
    inputs = (k.requires_grad_(), mask, y)
    time_op(benchmark, implementation, fourier_consistency, eager, inputs, "fourier_consistency", 9 * k.nbytes)
