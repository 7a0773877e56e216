"""Circular differences of images, and their adjoint: one pass of a kernel beside rolled copies."""

import pytest
import torch
from utils import DEVICES, IMPLEMENTATIONS, numbers, time_op

from fastrecon.ops.gradient import gradient, gradient_adjoint, gradient_adjoint_ref, gradient_ref

WAYS = {"forward": (gradient, gradient_ref, 1), "adjoint": (gradient_adjoint, gradient_adjoint_ref, 2)}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(1, 256, 256), (16, 256, 256)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_difference(benchmark, implementation, way, shape, device):
    ours, eager, planes = WAYS[way]
    x = numbers(shape[0], planes, *shape[1:], device=device, dtype=torch.float32)
    time_op(benchmark, implementation, ours, eager, (x,), "gradient", 3 * x.nbytes // planes)
