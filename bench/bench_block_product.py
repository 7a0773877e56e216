"""Block sensing at 25% and its adjoint: 33x33 blocks of images times one matrix. eager: one product for the batch."""

from functools import partial

import pytest
import torch
from utils import DEVICES, IMPLEMENTATIONS, numbers, time_op

from fastrecon.ops import block_product

PIXELS, ROWS = 1089, 272


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("direction", ["forward", "adjoint"])
@pytest.mark.parametrize("shape", [(1, 64), (64, 64), (256, 1)], ids=str)  # images, blocks of each
@pytest.mark.parametrize("device", DEVICES)
def bench_product(benchmark, implementation, direction, shape, device):
    phi = numbers(ROWS, PIXELS, device=device, dtype=torch.float32) / PIXELS**0.5
    matrix = phi.T if direction == "forward" else phi
    x = numbers(*shape, matrix.shape[0], device=device, dtype=torch.float32, seed=1)
    moved = 4 * (x.numel() + phi.numel() + x.shape[0] * x.shape[1] * matrix.shape[1])
    flops = 2 * x.numel() * matrix.shape[1]
    ours = partial(block_product, matrix=matrix)
    time_op(benchmark, implementation, ours, lambda x: x @ matrix.to(x), (x,), "block_product", moved, flops)
