"""Group soft thresholding over channels, forward and backward."""

import pytest
import torch
from utils import DEVICES, IMPLEMENTATIONS, numbers, time_op

from fastrecon.ops import group_soft_threshold


def eager(g, tau):
    norm = g.square().sum(1, keepdim=True).clamp_min(1e-30).sqrt()
    return g * (1 - tau[:, None, None, None] / norm).clamp_min(0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(1, 32, 256, 256), (64, 32, 33, 33), (16, 2, 256, 256)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_forward_backward(benchmark, implementation, shape, device):
    g = numbers(*shape, device=device, dtype=torch.float32).requires_grad_()
    tau = torch.full(shape[:1], 0.8 * shape[1] ** 0.5, device=device)
    time_op(benchmark, implementation, group_soft_threshold, eager, (g, tau), "group_soft_threshold", 5 * g.nbytes)
