"""Smoothed l2,1 norm of features and its dual field, forward and backward."""

import pytest
import torch
from utils import DEVICES, IMPLEMENTATIONS, numbers, time_op

from fastrecon.ops import smoothed_l21


def eager(g, eps):
    square, e = g.square().sum(1), eps[:, None, None]
    small = square <= e * e
    n = torch.where(small, e * e, square).sqrt()
    return torch.where(small, square / (2 * e), n - e / 2).sum((1, 2)), g / n[:, None]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(64, 32, 33, 33), (1, 32, 256, 256), (8, 32, 256, 256)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_forward_backward(benchmark, implementation, shape, device):
    g = numbers(*shape, device=device, dtype=torch.float32).requires_grad_()
    eps = torch.full(shape[:1], 5.5, device=device)  # about half the pixels on either side
    time_op(benchmark, implementation, smoothed_l21, eager, (g, eps), "smoothed_l21", 5 * g.nbytes)
