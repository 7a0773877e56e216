"""Soft thresholding, forward and backward, real and complex, with one threshold per image."""

import pytest
import torch
from utils import DEVICES, IMPLEMENTATIONS, numbers, time_op

from fastrecon.ops import soft_threshold


def eager(x, tau):
    if x.is_complex():
        modulus = x.abs().clamp_min(1e-30)
        return x * (1 - tau / modulus).clamp_min(0)
    return x.sign() * (x.abs() - tau).clamp_min(0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("shape", [(16, 256, 256), (1, 256, 256)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_forward_backward(benchmark, implementation, dtype, shape, device):
    x = numbers(*shape, device=device, dtype=dtype).requires_grad_()
    tau = torch.full((shape[0], 1, 1), 0.5, device=device)
    time_op(benchmark, implementation, soft_threshold, eager, (x, tau), "soft_threshold", 5 * x.nbytes)
