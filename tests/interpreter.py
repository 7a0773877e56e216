"""Where Triton kernels run, and tensors and results of tests of kernels; without Triton such tests are skipped."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from fastrecon import registry

DEVICE = "cpu" if registry.interpreting() else "cuda"


def numbers(*shape, dtype=torch.float64, seed=0):
    """Normal random numbers on DEVICE, other ones for other sizes."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    x = torch.randn((*shape, 2), generator=generator, dtype=torch.float64)
    return (torch.view_as_complex(x) if dtype.is_complex else x[..., 0].contiguous()).to(DEVICE, dtype)


def aligned(x):
    """A cotangent of x [R, M, S] along x in varying amounts, so that sums of inner products do not cancel."""
    turn = numbers(*x.shape, seed=1)
    turn = torch.complex(turn.abs(), turn.flip(-1)) if x.is_complex() else turn.abs()
    return x * turn.to(x.dtype)


def flatten(result):
    """Nested results as a flat list."""
    return [t for r in result for t in flatten(r)] if isinstance(result, list | tuple) else [result]
