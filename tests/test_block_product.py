"""Products of blocks: every implementation against eager PyTorch in float64, and the same bits in any batch."""

import numpy as np
import pytest
import torch
from torch.library import opcheck
from utils import REAL, awkward_views, compare, interpreted, numbers

from fastrecon import registry
from fastrecon.ops import block_product

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 9, 600, 31), (3, 70, 40, 130), (0, 4, 3, 2), (2, 0, 3, 2)]  # B, n, k, l


def problem(shape, dtype, device):
    b, n, k, l = shape  # noqa: E741
    return numbers(b, n, k, dtype=dtype, device=device), numbers(k, l, dtype=dtype, device=device, seed=1)


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_accurate_as_eager(shape, dtype, device, backend):
    compare(block_product, torch.matmul, *problem(shape, dtype, device))


@interpreted
@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_triton_kernel(shape, dtype, device, backend):
    x, matrix = problem(shape, dtype, device)
    kernel = registry.implementation("block_product", "triton")
    for view in (matrix, matrix.T.contiguous().T, matrix.repeat_interleave(2, 1)[:, ::2]):
        compare(kernel, torch.matmul, x, view)


@interpreted
@pytest.mark.parametrize("shape", [(3, 5, 40, 70), (4, 1, 1089, 3)], ids=str)
def test_triton_kernel_has_the_same_bits_in_any_batch(shape, device, backend):
    x, matrix = problem(shape, torch.float32, device)
    kernel = registry.implementation("block_product", "triton")
    together = kernel(x, matrix)
    for i in range(len(x)):
        assert torch.equal(kernel(x[i : i + 1], matrix)[0], together[i])
    assert torch.equal(kernel(x.flip(0), matrix).flip(0), together)


@interpreted
def test_launches_do_not_grow_with_the_batch(device, backend, monkeypatch):
    from fastrecon.kernels import block_product as kernels
    from fastrecon.kernels import sums

    launch, seen = kernels.launch, []
    for module in (kernels, sums):
        monkeypatch.setattr(module, "launch", lambda *args, **options: seen.append(args[0]) or launch(*args, **options))
    kernels.block_product(*problem((5, 3, 300, 4), torch.float32, device))
    assert len(seen) == 2  # products, and the sum of their chunks


def test_image_has_the_same_bits_in_any_batch_and_layout(device, backend):
    x, matrix = problem((4, 6, 1089, 109), torch.float32, device)
    together = block_product(x, matrix)
    for i in range(len(x)):
        assert torch.equal(block_product(x[i : i + 1], matrix)[0], together[i])
    for name, view in awkward_views(x).items():
        assert torch.equal(block_product(view, matrix), together), name


def test_gradients(device, backend):
    x, matrix = problem((2, 3, 4, 5), torch.float64, device)
    inputs = (x.requires_grad_(), matrix.requires_grad_())
    assert torch.autograd.gradcheck(block_product, inputs)
    assert torch.autograd.gradgradcheck(block_product, inputs)


def test_registration(device):
    x, matrix = problem((2, 3, 4, 5), torch.float64, device)
    opcheck(torch.ops.fastrecon.block_product, (x, matrix))
    compiled = torch.compile(block_product, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, matrix), block_product(x, matrix))


def test_half_precision_is_left_to_the_definition():
    x, matrix = problem((2, 3, 4, 5), torch.bfloat16, "cpu")
    pytest.importorskip("triton", reason="triton is not installed")
    assert registry.implementation("block_product", "triton")(x, matrix) is NotImplemented
    assert block_product(x, matrix).dtype == torch.bfloat16


def test_arrays_and_errors():
    x, matrix = problem((2, 3, 4, 5), torch.float64, "cpu")
    np.testing.assert_array_equal(block_product(x.numpy(), matrix.numpy()), block_product(x, matrix))
    for arguments, message in (
        ((x[0], matrix), r"block_product: blocks: expected real \[B, n, k\], got \(3, 4\)"),
        ((x, matrix.T), r"block_product: matrix: expected \[4, l\] float64 on cpu, got \(5, 4\)"),
        ((x, matrix.float()), "block_product: matrix: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            block_product(*arguments)
