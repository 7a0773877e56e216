"""What tests of ops and methods share."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastrecon import registry

compiles = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # torch.compile trips over torch's own
interpreted = pytest.mark.parametrize("backend", ["triton"], indirect=True)  # slow: small cases only
REAL = [torch.float64, torch.float32]
COMPLEX = [torch.complex128, torch.complex64]


def numbers(*shape: int, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0) -> Tensor:
    """Normal random numbers: the same, up to rounding, in every dtype and on every device."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=wide).to(device, dtype)


def double(x: Any) -> Any:
    """A tensor in float64 or complex128; anything else as it is."""
    if not isinstance(x, Tensor) or not (x.is_floating_point() or x.is_complex()):
        return x
    return x.detach().to(torch.complex128 if x.is_complex() else torch.float64).requires_grad_(x.requires_grad)


def relative_error(x: Tensor, exact: Tensor) -> float:
    """|x - exact| / |exact| in float64."""
    wide = double(exact.detach())
    return ((x.to(wide.dtype) - wide).norm() / wide.norm().clamp_min(1e-300)).item()


def assert_no_worse(
    result: Sequence[Tensor], eager: Sequence[Tensor], exact: Sequence[Tensor], factor: float = 2, slack: float = 4
) -> None:
    """Each result is as near to `exact` (float64) as `factor` times what eager PyTorch makes in the same dtype, or as
    `slack` rounding units of that dtype (eager may be exact by luck on tiny inputs; in float64 it is its own judge, so
    eight times as many are granted there)."""
    for k, (r, e, x) in enumerate(zip(result, eager, exact, strict=True)):
        assert (r.dtype, r.shape) == (e.dtype, e.shape), f"output {k}"
        mine, theirs = relative_error(r, x), relative_error(e, x)
        unit = torch.finfo(r.dtype)
        allowed = max(factor * theirs, slack * unit.eps * (8 if unit.bits == 64 else 1))
        assert mine <= allowed, f"output {k}: error {mine:.2e}, eager's {theirs:.2e}, allowed {allowed:.2e}"


def outputs_and_grads(function: Callable[..., Any], *inputs: Any) -> list[Tensor]:
    """Outputs, and the gradients of a fixed random functional of them in all inputs that require one."""
    outputs = function(*inputs)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    leaves = [i for i in inputs if isinstance(i, Tensor) and i.requires_grad]
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (o * torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.device, o.dtype)).real.sum()
        for o in outputs
        if o.requires_grad
    )
    grads = torch.autograd.grad(loss, leaves) if leaves else []
    return [t.detach() for t in (*outputs, *grads)]


def compare(function: Callable[..., Any], eager: Callable[..., Any], *inputs: Any) -> None:
    """Outputs and gradients of `function` against those of `eager` in the same dtype and in float64."""
    results = (outputs_and_grads(f, *map(c, inputs)) for f, c in ((function, _same), (eager, _same), (eager, double)))
    assert_no_worse(*results)


FAR = {torch.float32: (-100, 100), torch.float64: (-900, 900)}  # exponents of numbers whose squares are lost


def assert_scales(function: Callable[..., Any], degrees: Sequence[int], *inputs: Tensor, tolerance: float) -> None:
    """function(c x) = c^degree function(x) for powers of two c beyond what squares can take; degrees are those of the
    outputs and then of their gradients in all inputs."""
    near = outputs_and_grads(function, *inputs)
    for exponent in FAR[torch.empty(0, dtype=inputs[0].dtype).real.dtype]:
        far = outputs_and_grads(function, *((x.detach() * 2.0**exponent).requires_grad_() for x in inputs))
        for k, (a, b, degree) in enumerate(zip(near, far, degrees, strict=True)):
            error = relative_error(b * 2.0 ** (-exponent * degree), a)
            assert error <= tolerance, f"output {k} at 2^{exponent}: {error:.1e}"


def tolerance_of(dtype: torch.dtype) -> float:
    """A few rounding units of sums of some hundred numbers."""
    return 50 * torch.finfo(dtype).eps


def _same(x: Any) -> Any:
    return x


def assert_compiles(function: Callable[..., Any], *inputs: Any, backend: str = "aot_eager") -> None:
    """torch.compile traces `function` and its derivative as one graph, and the results have the same bits."""
    compiled = outputs_and_grads(torch.compile(function, fullgraph=True, backend=backend), *inputs)
    for mine, expected in zip(compiled, outputs_and_grads(function, *inputs), strict=True):
        assert torch.equal(mine, expected)


def awkward_views(x: Tensor) -> dict[str, Tensor]:
    """Views with the values of x: strided, transposed, and contiguous but at an odd address."""
    strided = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1] + 1)[..., 1::2]
    transposed = x.new_zeros(x.shape[::-1]).permute(*reversed(range(x.ndim)))
    odd = x.new_zeros(x.numel() + 1)[1:].view(x.shape)
    return {name: v.copy_(x) for name, v in (("strided", strided), ("transposed", transposed), ("odd", odd))}


def implementations(name: str) -> list[str]:
    """The backends that raw op `name` has here, for parametrising: reference, cpu, triton (interpreted)."""
    return [b for b in ("reference", "cpu", "triton") if registry.implementation(name, b) is not None]


ASKING = {  # ops whose result, or its shape, the host has to wait for
    "_local_scalar_dense", "is_nonzero", "item", "equal", "nonzero", "nonzero_numpy", "masked_select",
    "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave", "lift_fresh",
}  # fmt: skip
COPIES = {"_to_copy", "copy_", "_copy_from"}


class NoSync(TorchDispatchMode):
    """Raises on ops that read values on the host, select by a mask, or copy between host and device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, result = func.overloadpacket.__name__, None
        assert name not in ASKING, f"{func} makes the host wait"
        if name.startswith(("index", "_index")) and len(args) > 1 and isinstance(args[1], list | tuple):
            masks = [t for t in args[1] if t is not None and t.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"{func} with a mask makes the host wait for the shape"
        result = func(*args, **(kwargs or {}))
        if name in COPIES:
            devices = {t.device.type for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)}
            assert len(devices) == 1, f"{func} copies between host and device"
        return result
