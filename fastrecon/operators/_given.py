"""What operators are given: numbers and arrays, and what they keep of them."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from fastrecon.checks import an_integer, expect


def a_size(size: Any, op: str) -> None:
    """Raises ValueError unless `size` is (H, W)."""
    fits = isinstance(size, Sequence) and len(size) == 2 and all(an_integer(n, 0) for n in size)
    expect(fits, op, "size", "(H, W), two integers", size)


def tensor_of(value: Any, op: str, argument: str, expected: str) -> Tensor:
    """`value`, a tensor, an array or nested numbers, as a tensor, which may share its memory.

    Raises:
        ValueError: it is nothing of that kind, or a masked array, whose mask would be lost.
    """
    if isinstance(value, Tensor):
        expect(value.layout == torch.strided and not value.is_quantized, op, argument, expected, value.layout)
        return value
    expect(not isinstance(value, np.ma.MaskedArray), op, argument, expected, "a masked array: fill it first")
    try:
        if isinstance(value, np.ndarray):  # torch has neither read-only nor reversed nor foreign-endian arrays
            return torch.from_numpy(np.array(value, value.dtype.newbyteorder("=")))
        return torch.from_dlpack(value) if hasattr(value, "__dlpack__") else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError, BufferError):
        expect(False, op, argument, expected, f"a {type(value).__name__} that is no array of numbers")
        raise


def of_parts(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What nn.Module._apply does to a tensor, for complex ones too: `.to(torch.float32)` is the precision of both parts
    and drops none.
    """

    def convert(t: Tensor) -> Tensor:
        if not t.is_complex():
            return fn(t)
        real = fn(torch.view_as_real(t))
        return fn(t) if real.is_complex() else torch.view_as_complex(real)

    return convert


class Cache:
    """What an operator computed from its own tensors, the last `limit` of them: not copied, not saved with it."""

    def __init__(self, limit: int = 8):
        self.limit, self.lock, self.entries = limit, Lock(), OrderedDict[Any, Any]()
        self.pinned: set[Any] = set()

    def get(self, key: Any, forever: bool = False) -> Any:
        """What was put there, or None; `forever` for CUDA graphs, which read it where it lies, unseen."""
        with self.lock:
            if forever:
                self.pinned.add(key)
            if key in self.entries:
                self.entries.move_to_end(key)
            return self.entries.get(key)

    def put(self, key: Any, value: Any) -> None:
        """Keeps `value`, and forgets what has not been asked for the longest."""
        with self.lock:
            self.entries[key] = value
            self.entries.move_to_end(key)
            loose = [k for k in self.entries if k not in self.pinned]
            for old in loose[: -self.limit]:
                del self.entries[old]

    def __reduce__(self) -> tuple[Any, ...]:
        """An empty one: of copies and pickles."""
        return Cache, (self.limit,)


def snapshot(k: Tensor) -> Any:
    """What tells a tensor from itself after a change: its numbers; on a GPU, where the host would have to wait for
    them, itself and how often it was written.
    """
    return k.detach().clone() if _readable(k) else (k, k._version)


def state_of(k: Tensor) -> Callable[[Any], bool] | None:
    """Whether a snapshot is still that of k; None where results of k must not be kept: they are differentiated, or
    traced.
    """
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # type: ignore[attr-defined]
    if torch.compiler.is_compiling() or (k.requires_grad and torch.is_grad_enabled()) or wrapped(k):
        return None
    if forward_ad.unpack_dual(k).tangent is not None:
        return None
    if _readable(k):
        return lambda old: isinstance(old, Tensor) and torch.equal(old, k)
    return None if k.is_inference() else lambda old: old[0] is k and old[1] == k._version


def _readable(k: Tensor) -> bool:
    return k.device.type == "cpu" and type(k) in (Tensor, nn.Parameter)
