"""Fourier transforms of one plane: csrc/fft2.cpp beside the MKL that is in torch, in place where numbers are complex.

"torch" is the MKL's function as our kernels call it, without what torch.fft does around it.
"""

import ctypes
from collections.abc import Callable
from functools import partial

import pytest
import torch

from fastrecon import registry
from fastrecon.ops import transforms
from fastrecon.ops.layout import DTYPES

SIZES = [(64, 64), (180, 180), (256, 256), (320, 320), (512, 512)]


def both(x: torch.Tensor) -> tuple[dict[str, Callable[[], object]], torch.Tensor]:
    """The transform of x [U, V] by each, and where it goes."""
    (u, v), complex_input = x.shape, x.is_complex()
    y = x if complex_input else torch.empty(u, v // 2 + 1, dtype=x.dtype.to_complex())
    steps = [n for n in (transforms.radices(u), transforms.radices(v)) if n is not None]
    own = transforms.OwnPlan((u, v), steps, x.dtype)
    kernel = partial(registry.compiled().fft2, DTYPES[x.dtype], False, x.data_ptr(), y.data_ptr())
    runs: dict[str, Callable[[], object]] = {"fastrecon": lambda: kernel(own.table.data_ptr(), 1)}
    if (mkl := transforms.library()) is not None:
        theirs = transforms.Plan(mkl, (u, v), x.dtype)
        forward = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_void_p] * (2 if complex_input else 3))(
            int(theirs.table[0])
        )
        places = (x.data_ptr(),) if complex_input else (x.data_ptr(), y.data_ptr())
        runs["torch"] = lambda: (forward(int(theirs.table[2]), *places), theirs)
    return runs, y


@pytest.mark.parametrize("implementation", ["torch", "fastrecon"])
@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.float32, torch.complex128], ids=str)
def bench_forward(benchmark, implementation, shape, dtype):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    exact = (torch.fft.fft2 if dtype.is_complex else torch.fft.rfft2)(x.to(torch.promote_types(dtype, torch.float64)))
    exact = exact / (shape[0] * shape[1]) ** 0.5 if dtype.is_complex else exact
    runs, y = both(x)
    if implementation not in runs:
        pytest.skip("torch has no MKL")
    runs[implementation]()
    far = (y - exact).norm() / exact.norm()
    assert far < 4 * torch.finfo(dtype).eps  # no timing of wrong answers
    benchmark.pedantic(runs[implementation], rounds=50, iterations=20, warmup_rounds=5)
    count, width = shape[0] * shape[1], 1 if dtype.is_complex else 2
    benchmark.extra_info.update(
        op="fft2", dtype=str(dtype).removeprefix("torch."), bytes=2 * x.nbytes,
        flops=5 * count / width * torch.tensor(float(count)).log2().item(),
    )  # fmt: skip
