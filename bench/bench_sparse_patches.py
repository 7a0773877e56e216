"""Sparse patches: value and gradient by one pass of a kernel beside convolutions with the 63 filters."""

import pytest
import torch
from utils import DEVICES, IMPLEMENTATIONS, numbers, time_op

from fastrecon.ops.sparse_patches import sparse_patches, sparse_patches_ref

RADIUS = 0.003


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(1, 1, 256, 256), (8, 1, 128, 128)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_value_and_gradient(benchmark, implementation, shape, device):
    x = numbers(*shape, device=device, dtype=torch.float32)
    radius = torch.tensor(RADIUS, device=device)
    time_op(benchmark, implementation, sparse_patches, sparse_patches_ref, (x, radius), "sparse_patches", 2 * x.nbytes)
