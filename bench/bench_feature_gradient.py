"""Value and gradient of the learned regulariser, 1-32-32-32-32 channels, and the derivative that training needs.

eager: the gradient by torch.autograd.grad, as people run it today. torch.compile: the gradient written out by hand.
"""

import itertools
from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from bench_lda import regulariser, value_and_gradient
from torch import Tensor
from utils import DEVICES, GRAPHS, finished

from fastrecon import registry
from fastrecon.ops import feature_gradient

DELTA = 0.1  # wider than in the models, so that rounding moves few pixels across the jumps of a''; the work is the same
FLOPS_PER_PIXEL = 2 * 2 * 9 * (32 + 3 * 32 * 32)  # four convolutions up and four down
SHAPES = {"cpu": [(1, 256, 256), (64, 33, 33)], "cuda": [(1, 256, 256), (64, 33, 33), (32, 256, 256)]}
Function = Callable[[Tensor, list[Tensor], Tensor], tuple[Tensor, Tensor]]


@cache
def problem(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> tuple[Tensor, list[Tensor], Tensor]:
    """Images in [0, 1], kernels that keep the variance, and eps = 1e-3; shape is (B, H, W)."""
    batch, *size = shape
    generator = torch.Generator().manual_seed(0)
    widths = [1, 32, 32, 32, 32]
    x = torch.rand(batch, 1, *size, generator=generator)
    weights = [
        torch.randn(o, i, 3, 3, generator=generator) * (2 / (9 * i)) ** 0.5 for i, o in itertools.pairwise(widths)
    ]
    eps = torch.full((batch,), 1e-3)
    return x.to(device, dtype), [w.to(device, dtype) for w in weights], eps.to(device, dtype)


def eager(x: Tensor, weights: list[Tensor], eps: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        value = regulariser(x, weights, eps, DELTA)
        return value, torch.autograd.grad(value.sum(), x, create_graph=create_graph)[0]


@cache
def _compiled() -> Function:
    return torch.compile(partial(value_and_gradient, delta=DELTA), dynamic=False)


def compiled(x: Tensor, weights: list[Tensor], eps: Tensor) -> tuple[Tensor, Tensor]:
    return _compiled()(x, weights, eps)


def half(function: Function) -> Function:
    """`function` on bfloat16 copies of its arguments, as one would run it in bfloat16."""

    def call(x: Tensor, weights: list[Tensor], eps: Tensor) -> tuple[Tensor, Tensor]:
        return function(x.bfloat16(), [w.bfloat16() for w in weights], eps.bfloat16())

    return call


def ours(x: Tensor, weights: list[Tensor], eps: Tensor, precision: str = "float32") -> tuple[Tensor, Tensor]:
    return feature_gradient(x, weights, eps, DELTA, precision=precision)


def tensor_cores(x: Tensor, weights: list[Tensor], eps: Tensor) -> tuple[Tensor, Tensor]:
    """The CUDA C++ kernel, which is not chosen by itself."""
    kernel = registry.implementation("feature_gradient_fwd", "cuda")
    if kernel is None or not x.is_cuda:
        pytest.skip("CUDA C++ needs CuPy and a GPU")
    return kernel(x, weights, eps, DELTA, False, "bfloat16")


IMPLEMENTATIONS: dict[str, tuple[Function, float]] = {  # and the error of the gradient that it may have
    "eager": (eager, 1e-6),
    "torch.compile": (compiled, 1e-6),
    "fastrecon": (ours, 2e-6),
    "fastrecon direct": (partial(ours, precision="direct"), 1e-6),
    "fastrecon tf32": (partial(ours, precision="tf32"), 3e-3),
    "torch.compile bfloat16": (half(compiled), 5e-2),
    "fastrecon bfloat16": (partial(ours, precision="bfloat16"), 3e-2),
    "fastrecon bfloat16 in CUDA C++": (tensor_cores, 3e-2),
}
IMPLEMENTATIONS |= dict(zip(GRAPHS, (IMPLEMENTATIONS["eager"], IMPLEMENTATIONS["fastrecon"]), strict=False))


def relative(x: Tensor, exact: Tensor) -> float:
    return ((x.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("device", "shape"), [(d, s) for d in DEVICES for s in SHAPES[d]], ids=str)
@torch.no_grad()
def bench_value_and_gradient(benchmark, implementation, shape, device):
    if implementation == "fastrecon tf32" and device == "cpu":
        pytest.skip("processors have no TF32")
    function, allowed = IMPLEMENTATIONS[implementation]
    x, weights, eps = problem(shape, torch.float32, device)
    run = finished(partial(function, x, weights, eps), implementation, device)
    exact = eager(*problem(shape, torch.float64, device))
    value, grad = run()
    assert relative(grad, exact[1]) <= allowed  # no timing of wrong answers
    benchmark.pedantic(run, rounds=21, warmup_rounds=3)
    products = next(p for p in ("bfloat16", "tf32", "") if p in implementation) or "float32"
    benchmark.extra_info.update(
        op="feature_gradient", dtype="float32", products=products, flops=FLOPS_PER_PIXEL * x.numel(),
        bytes=2 * x.nbytes, value_error=relative(value, exact[0]), gradient_error=relative(grad, exact[1]),
    )  # fmt: skip


def derivatives(function: Function, shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> list[Tensor]:
    """Derivatives of |gradient|^2 / 2 in the image, eps and the kernels."""
    x, weights, eps = problem(shape, dtype, device)
    leaves = [t.detach().requires_grad_() for t in (x, eps, *weights)]
    _, grad = function(leaves[0], leaves[2:], leaves[1])
    return list(torch.autograd.grad(grad.square().sum() / 2, leaves))


@pytest.mark.parametrize("implementation", ["eager", "fastrecon"])
@pytest.mark.parametrize("shape", [(1, 256, 256), (64, 33, 33)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_derivative(benchmark, implementation, shape, device):
    function = {"eager": partial(eager, create_graph=True), "fastrecon": ours}[implementation]
    run = finished(partial(derivatives, function, shape, torch.float32, device), implementation, device)
    exact = derivatives(partial(eager, create_graph=True), shape, torch.float64, device)
    # a'' jumps at |t| = delta: a pixel that rounding carries across it moves d_x more than rounding itself does
    assert max(relative(r, e) for r, e in zip(run()[2:], exact[2:], strict=True)) <= 1e-4  # d_eps is 0 here
    benchmark.pedantic(run, rounds=9, warmup_rounds=2)
    benchmark.extra_info.update(
        op="feature_gradient_vjp", dtype="float32", flops=4 * FLOPS_PER_PIXEL * exact[0].numel()
    )
