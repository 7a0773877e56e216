"""What the benches of ops share: problems, the gate before every timing, and the record for collect.py."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# "graph": one launch replays all kernels, so that Python's share of the time is gone from both sides
GRAPHS = ["eager graph", "fastrecon graph"] if torch.cuda.is_available() else []
IMPLEMENTATIONS = ["eager", "torch.compile", "fastrecon", *GRAPHS]
Outputs = Sequence[Tensor]


def numbers(*shape: int, device: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Normal random numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(device)


@cache
def ones(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The derivative of a sum, as dense as derivatives are that come from the next layer."""
    return torch.ones(shape, dtype=dtype, device=device)


def with_grads(function: Callable[..., Any], *inputs: Any) -> list[Tensor]:
    """Outputs of `function`, and the gradients of their sum in the inputs that require one."""
    outputs = function(*inputs)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    leaves = [i for i in inputs if isinstance(i, Tensor) and i.requires_grad]
    used = [o for o in outputs if o.requires_grad]
    slopes = [ones(tuple(o.shape), o.dtype, o.device) for o in used]
    return [o.detach() for o in outputs] + (list(torch.autograd.grad(used, leaves, slopes)) if leaves else [])


def graphed(run: Callable[[], Any]) -> Callable[[], Any]:
    """`run`, on CUDA tensors, as the replay of a graph; its results lie in the same memory every time."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


def finished(work: Callable[[], Any], implementation: str, device: str) -> Callable[[], Any]:
    """`work` as its implementation asks for it, a graph where the name says so, and done when it returns."""
    if implementation in GRAPHS:
        if device == "cpu":
            pytest.skip("CUDA graphs are made on a GPU")
        work = graphed(work)

    def run() -> Any:
        result = work()
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    return run


def error(result: Outputs, exact: Outputs) -> float:
    """The largest relative error of the floating-point outputs."""
    pairs = [(r, e) for r, e in zip(result, exact, strict=True) if e.is_floating_point() or e.is_complex()]
    return max(((r.to(e.dtype) - e).norm() / e.norm().clamp_min(1e-30)).item() for r, e in pairs)


def time_op(
    benchmark: Any, implementation: str, ours: Callable[..., Any], eager: Callable[..., Any], inputs: Sequence[Any],
    op: str, moved: int, flops: int = 0,
) -> None:  # fmt: skip
    """Times outputs and gradients of one implementation on float32 or complex64 `inputs`, once they are right.

    Args:
        moved: bytes that must be read and written, forward and backward.
        flops: of matrix products, forward and backward.
    """
    wide = {torch.float32: torch.float64, torch.complex64: torch.complex128}
    doubles = [
        i.detach().to(wide[i.dtype]).requires_grad_(i.requires_grad) if isinstance(i, Tensor) else i for i in inputs
    ]
    exact = with_grads(eager, *doubles)
    allowed = 2 * error(with_grads(eager, *inputs), exact) + 4 * torch.finfo(torch.float32).eps
    compiled = torch.compile(eager, dynamic=False) if implementation == "torch.compile" else eager
    function = ours if implementation.startswith("fastrecon") else compiled
    run = finished(partial(with_grads, function, *inputs), implementation, inputs[0].device.type)
    assert error(run(), exact) <= allowed  # no timing of wrong answers
    benchmark.pedantic(run, rounds=15, warmup_rounds=3)
    benchmark.extra_info.update(op=op, dtype=str(inputs[0].dtype).removeprefix("torch."), bytes=moved)
    benchmark.extra_info.update({"flops": flops} if flops else {})
