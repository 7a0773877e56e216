"""How public ops lay their arguments out for the kernels."""

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from fastrecon.checks import expect, held
from fastrecon.ops.function import past_dispatcher, unwatched
from fastrecon.registry import looking

DTYPES = {torch.float32: 0, torch.float64: 1, torch.complex64: 2, torch.complex128: 3}  # codes of csrc/kernels.h

Size = tuple[int, int, int]  # of a batch: the code of its dtype, images, numbers in an image
Weights = tuple[Tensor, int, int, int]  # numbers, where they lie, their strides from image to image and within one
REALS = {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}


def real_dtype(x: Tensor) -> torch.dtype:
    """The dtype of |x|."""
    dtype = x.dtype
    return REALS.get(dtype, dtype)


def wide_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which numbers like x are added up: complex128 or float64."""
    return torch.complex128 if x.is_complex() else torch.float64


@functools.lru_cache(maxsize=256)
def kept(
    value: float, shape: tuple[int, ...], dtype: torch.dtype, op: str, argument: str, limit: str = "least"
) -> Tensor:
    """A number with `limit` 0 as a tensor of the CPU, made once; nobody writes into it."""
    with torch.inference_mode(False):
        return torch.full(shape, held(value, dtype, op, argument, **{limit: 0}), dtype=dtype, device="cpu")


def _filled(value: Any, shape: tuple[int, ...], x: Tensor, op: str, argument: str, limit: str = "least") -> Tensor:
    """A number with `limit` 0 as a tensor of the real dtype and the device of x; nobody writes into it."""
    dtype = real_dtype(x)
    if type(value) is float and x.is_cpu and past_dispatcher():  # small ops feel what a new tensor takes
        return kept(value, shape, dtype, op, argument, limit)
    return torch.full(shape, held(value, dtype, op, argument, **{limit: 0}), dtype=dtype, device=x.device)


def single(value: float | Tensor, x: Tensor, op: str, argument: str) -> Tensor | None:
    """`value` >= 0 as a tensor of the one number that it is for all of x, where a kernel may be called as it is; else
    None.
    """
    if x.dtype not in DTYPES:
        return None
    if type(value) is float:
        return kept(value, (1,), real_dtype(x), op, argument) if unwatched(x) else None
    if isinstance(value, Tensor) and value.numel() == 1 and value.dtype == real_dtype(x) and value.ndim <= x.ndim:
        return value if unwatched(x, value) else None
    return None


def alike(count: int, *arrays: Tensor) -> Size | None:
    """The size of arrays[:count] [B, ...], of one shape and dtype, beside which arrays[count:] are real and [B], where
    a kernel may be called on all of them as they are; else None.
    """
    if is_compiling():
        return None
    if (module := looking()) is not None:
        return module.alike(count, arrays)
    x, *others = arrays
    fits = unwatched(*arrays) and x.ndim > 0
    fits = fits and all(t.shape == x.shape and t.dtype == x.dtype for t in others[: count - 1])
    fits = fits and all(
        t.shape == x.shape[:1] and t.dtype in (torch.float32, torch.float64) for t in others[count - 1 :]
    )
    return size_of(x) if fits and x.dtype in DTYPES else None


def outputs(layout: str, batch: int) -> tuple[Any, ...]:
    """Tensors [B] on the CPU for a kernel to write to, then the addresses of the arrays that they are in.

    A letter of `layout` is an array: f float32, d float64, b bool; a digit k is float64 [B, k], a tensor a column.
    """
    if (module := looking()) is not None:
        return module.outputs(layout, batch)
    kinds = {"f": torch.float32, "d": torch.float64, "b": torch.bool}
    arrays = [
        torch.empty(batch, dtype=kinds[c]) if c in kinds else torch.empty(batch, int(c), dtype=torch.float64)
        for c in layout
    ]
    tensors = [t for a in arrays for t in (a.unbind(1) if a.ndim == 2 else (a,))]
    return *tensors, *(a.data_ptr() for a in arrays)


def prepare(layout: str, count: int, *arrays: Tensor) -> tuple[Any, ...] | None:
    """What a kernel is called with, where `alike(count, *arrays)`: its answer, the tensors of `outputs` (r in a layout
    is the real dtype of the arrays), and the addresses of the arrays and of the outputs'; else None.
    """
    if is_compiling():
        return None
    if (module := looking()) is not None:
        return module.prepare(layout, count, arrays)
    if (size := alike(count, *arrays)) is None:
        return None
    made = outputs(layout.replace("r", "fd"[size[0] % 2]), size[1])
    tensors = len(made) - len(layout)
    return *size, *made[:tensors], *(a.data_ptr() for a in arrays), *made[tensors:]


def size_of(x: Tensor) -> Size:
    """Of x [B, ...], not empty."""
    return DTYPES[x.dtype], x.shape[0], x.numel() // x.shape[0]


@functools.lru_cache(maxsize=256)
def _weights(value: float, dtype: torch.dtype, op: str, argument: str, limit: str) -> Weights:
    number = kept(value, (1, 1), REALS.get(dtype, dtype), op, argument, limit)
    return number, number.data_ptr(), 0, 0


def weights(value: float | Tensor, x: Tensor, op: str, argument: str, limit: str = "least") -> Weights | None:
    """Where a kernel finds `value` for images x [B, ...], a number, [B] or one for each number of x; None where
    `spread_over` has to look.
    """
    if type(value) is float:
        return _weights(value, x.dtype, op, argument, limit)
    if not isinstance(value, Tensor) or value.dtype != real_dtype(x):
        return None
    if value.ndim == 1 and alike(1, x, value):
        return value, value.data_ptr(), 1, 0
    if value.shape == x.shape and unwatched(value):
        return value, value.data_ptr(), x.numel() // len(x), 1
    return None


def strength(value: float | Tensor, x: Tensor, op: str, argument: str) -> Tensor:
    """`value`, a number >= 0 or a real tensor, as a tensor with the real dtype and the device of x.

    What a tensor holds is not read, which would stall a GPU.
    """
    if not isinstance(value, Tensor):
        return _filled(value, (), x, op, argument)
    expect(value.is_floating_point(), op, argument, "a real tensor or a number", value.dtype)
    if not (value.device == x.device or value.ndim == 0):
        expect(False, op, argument, f"a tensor on {x.device}", value.device)
    return value.to(x.device, real_dtype(x))


def collapse(x: Tensor, tau: Tensor, op: str, argument: str) -> tuple[Tensor, Tensor]:
    """Views x as [R, M, S] and tau, broadcastable to x, as [M], so that x[r, m, s] meets tau[m].

    tau is expanded only across dimensions between two of its own along which it does not vary.
    """
    size, shape = tuple(x.shape), (1,) * (x.ndim - tau.ndim) + tuple(tau.shape)
    fits = len(shape) == len(size) and all(t in (1, s) for t, s in zip(shape, size, strict=True))
    expect(fits, op, argument, f"a number or a shape that broadcasts to {size}", tuple(tau.shape))
    own = [d for d, t in enumerate(shape) if t != 1]
    first, last = (own[0], own[-1] + 1) if own else (0, 0)
    rows, inner, columns = math.prod(size[:first]), math.prod(size[first:last]), math.prod(size[last:])
    tau = tau.reshape(shape[first:last]).expand(size[first:last]).reshape(inner)
    return x.contiguous().view(rows, inner, columns), tau.contiguous()


def plain(x: Tensor) -> Tensor:
    """x as its memory says: contiguous, and neither lazily conjugated nor negated, which kernels do not see."""
    return x.resolve_conj().resolve_neg().contiguous()


def rows(x: Tensor) -> Tensor:
    """x [B, ...] as contiguous [B, N]."""
    if x.ndim == 2 and x.is_contiguous():
        return x
    return x.contiguous().view(x.shape[0], math.prod(x.shape[1:]))


def spread_over(value: float | Tensor, x: Tensor, op: str, argument: str, least: str = ">= 0") -> Tensor:
    """`value` for images x [B, ...]: a number, [B], or what broadcasts to x; as [1 or B, 1 or N], real.

    It is expanded only within an image, where it varies along some but not all of its dimensions.
    """
    if not isinstance(value, Tensor):
        return _filled(value, (1, 1), x, op, argument, "above" if least == "> 0" else "least")
    if not (value.is_floating_point() and (value.device == x.device or value.ndim == 0)):
        expect(value.is_floating_point(), op, argument, "a real tensor or a number", value.dtype)
        expect(False, op, argument, f"a tensor on {x.device}", value.device)
    value = value.to(x.device, real_dtype(x))
    if value.ndim == 1 and x.ndim > 1 and value.shape[0] == x.shape[0]:
        return value.reshape(-1, 1).contiguous()
    shape = (1,) * (x.ndim - value.ndim) + tuple(value.shape)
    fits = len(shape) == x.ndim and all(v in (1, s) for v, s in zip(shape, x.shape, strict=True))
    expect(
        fits, op, argument, f"a number, ({x.shape[0]},) or a shape that broadcasts to {tuple(x.shape)}", tuple(shape)
    )
    inner = (1,) * (x.ndim - 1) if math.prod(shape[1:]) == 1 else tuple(x.shape[1:])
    return rows(value.reshape(shape).expand(shape[0], *inner))


def parts(x: Tensor) -> Tensor:
    """The real numbers [..., 1 or 2] of a real or complex tensor [...], in at least float32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.view_as_real(wide.resolve_conj()) if wide.is_complex() else wide[..., None]


def whole(x: Tensor, like: Tensor) -> Tensor:
    """The tensor with the real numbers x, of the dtype of `like`: undoes `parts`."""
    return (torch.view_as_complex(x.contiguous()) if like.is_complex() else x[..., 0]).to(like.dtype)


def power_for(largest: Tensor) -> Tensor:
    """A power of two that takes numbers of at most `largest`, >= 0, to where their squares neither vanish nor overflow.

    1 for most and for NaN, 0 for infinity.
    """
    double = largest.dtype == torch.float64
    far, up = (2.0**400, 2.0**800) if double else (2.0**50, 2.0**100)
    power = torch.where(largest > far, 1 / up, torch.where(largest < 1 / far, up, torch.ones_like(largest)))
    return torch.where(largest.isinf(), 0, power)


def rescaled(x: Tensor, *dims: int) -> tuple[Tensor, Tensor, Tensor]:
    """(h, norm, down) of groups of real numbers x along `dims`, which are kept: h = down x and norm = |h|.

    down is a power of two with which no square vanishes or overflows. Of a group with infinities h is the direction, as
    of atan2, and down is 0.
    """
    if x.numel() == 0:
        down = torch.ones_like(x.sum(dims, keepdim=True))
        return x, down - 1, down
    largest = x.abs().amax(dims, keepdim=True)
    down = power_for(largest)
    h = torch.where(down == 0, torch.where(x.isinf(), x.sign(), 0), x * down)
    return h, h.square().sum(dims, keepdim=True).sqrt(), down


def norm_of(x: Tensor, *dims: int) -> Tensor:
    """|x| of groups of real numbers along `dims`, which are kept: finite and positive where it can be."""
    _, norm, down = rescaled(x, *dims)
    return norm / down


def shaped(*like: Tensor) -> Any:
    """Unwritten contiguous tensors like these: what `define(fake=)` answers with. Their sizes may be symbolic."""
    first, *others = (t.new_empty(t.shape) for t in like)
    return (first, *others) if others else first
