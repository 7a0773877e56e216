"""The one door for inputs of public functions: arrays in, and messages that name what was expected and what came."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])


def expect(condition: bool, op: str, argument: str, expected: object, got: object) -> None:
    """Raises ValueError "op: argument: expected ..., got ..." unless `condition` holds. Never ask a tensor's values.

    A tensor as `expected` or `got` is described, only then: small ops must not wait for messages that nobody reads.
    """
    if not condition:
        raise ValueError(f"{op}: {argument}: expected {describe(expected)}, got {describe(got)}")


def describe(x: object) -> object:
    """Shape, dtype and device of a tensor for messages; anything else as it is."""
    return f"{tuple(x.shape)} {kind(x)}" if isinstance(x, Tensor) else x


def kind(x: Tensor) -> str:
    """Dtype and device of x for messages."""
    return f"{str(x.dtype).removeprefix('torch.')} on {x.device}"


def expect_finite(y: Tensor, op: str, expected: str, what: str) -> None:
    """Raises ValueError naming the first `what` (image, sample) of y [B, ...] that holds NaN or Inf. Reads y."""
    bad = (~torch.isfinite(y)).flatten(1).sum(1)
    if bad.any():
        first = int(bad.nonzero()[0])
        expect(False, op, "y", expected, f"{int(bad[first])} NaN or Inf in {what} {first}")


def per_image(value: float | Tensor, like: Tensor, op: str, argument: str) -> Tensor:
    """`value`, a number or a tensor [B], as a tensor [B] with the real dtype and the device of `like` [B, ...]."""
    real = like.real.dtype if like.is_complex() else like.dtype
    if not isinstance(value, Tensor):
        return torch.full((like.shape[0],), float(value), dtype=real, device=like.device)
    fits = value.ndim == 0 or value.shape == like.shape[:1]
    expect(fits, op, argument, f"a number or shape ({like.shape[0]},)", tuple(value.shape))
    expect(value.device == like.device or value.ndim == 0, op, argument, f"a tensor on {like.device}", value.device)
    return value.to(like.device, real).expand(like.shape[0])


def _to_tensor(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        if not x.flags.writeable or any(s < 0 for s in x.strides):
            x = x.copy()  # torch has neither read-only nor reversed views
        return torch.from_numpy(x)
    if isinstance(x, list | tuple) and x and not isinstance(x, torch.Size):
        return type(x)(_to_tensor(e) for e in x) if type(x) in (list, tuple) else x
    return torch.from_dlpack(x) if hasattr(x, "__dlpack__") and not isinstance(x, Tensor) else x


def _like(kind: type, x: Any) -> Any:
    if isinstance(x, tuple):
        parts = [_like(kind, e) for e in x]
        return type(x)._make(parts) if hasattr(x, "_make") else tuple(parts)  # type: ignore[attr-defined]
    if not isinstance(x, Tensor):
        return x
    if kind is np.ndarray:
        return x.numpy()
    root = kind.__module__.partition(".")[0]
    if root == "jaxlib":
        root = "jax"
    module = __import__(f"{root}.dlpack", fromlist=["from_dlpack"]) if root == "jax" else __import__(root)
    return module.from_dlpack(x)


def accepts_arrays(function: F) -> F:
    """Lets a public function take anything with `__dlpack__` (NumPy, CuPy, JAX) without copies, and answer in kind.

    The first array argument decides the kind of the results. Nothing moves between devices.
    """
    first = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def door(*args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else kwargs.get(first)
        if isinstance(x, Tensor) or not hasattr(x, "__dlpack__"):
            return function(*args, **kwargs)
        result = function(*map(_to_tensor, args), **{k: _to_tensor(v) for k, v in kwargs.items()})
        return _like(type(x), result)

    return door  # type: ignore[return-value]
