"""The one door for inputs of public functions: arrays in, and messages that name what was expected and what came."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

F = TypeVar("F", bound=Callable[..., Any])
LONGEST = 200  # letters of what came, in a message
INFINITY, LARGEST = math.inf, float(np.finfo(np.float64).max)
NUMBERS = (float, int, np.floating, np.integer, torch.SymFloat, torch.SymInt)


def expect(condition: bool, op: str, argument: str, expected: object, got: object) -> None:
    """Raises ValueError "op: argument: expected ..., got ..." unless `condition` holds. Never ask a tensor's values.

    A tensor as `expected` or `got` is described, only then: small ops must not wait for messages that nobody reads.
    """
    if not condition:
        raise ValueError(f"{op}: {argument}: expected {describe(expected)}, got {describe(got)}")


def describe(x: object) -> object:
    """Shape, dtype and device of a tensor for messages, text in quotes, what is long cut short; a number as it is."""
    if isinstance(x, Tensor):
        return f"{tuple(x.shape)} {kind(x)}"
    if isinstance(x, np.ndarray):
        return f"{type(x).__name__} {x.shape} {x.dtype}"
    return x if len(text := str(x)) <= LONGEST else f"{text[:LONGEST]}..."


def named(x: object) -> object:
    """A thing of no use where a number or a tensor was expected, for messages: what it is, and of what type."""
    if isinstance(x, Tensor | np.ndarray) or x is None or type(x) in (int, float, bool):
        return describe(x)
    text = repr(x).partition("\n")[0]
    return f"{type(x).__name__} {text if len(text) <= LONGEST else text[:LONGEST] + '...'}"


def kind(x: Tensor) -> str:
    """Dtype and device of x for messages."""
    return f"{str(x.dtype).removeprefix('torch.')} on {x.device}"


def expect_finite(y: Tensor, op: str, expected: str, what: str, argument: str = "y") -> None:
    """Raises ValueError naming the first `what` (image, sample) of y [B, ...] that holds NaN or Inf. Reads y, but for
    graphs that torch traces, which have none yet."""
    if is_compiling():
        return
    bad = (~torch.isfinite(y)).flatten(1).sum(1)
    if bad.any():
        first = int(bad.nonzero()[0])
        expect(False, op, argument, expected, f"{int(bad[first])} NaN or Inf in {what} {first}")


def finite_number(x: Any) -> bool:
    """Whether x is a finite real number, Python's or NumPy's; True and False are none."""
    try:
        return isinstance(x, int | float | np.integer | np.floating) and not isinstance(x, bool) and math.isfinite(x)
    except OverflowError:  # an int that no float can hold
        return False


def an_integer(x: Any, least: float) -> bool:
    """Whether x is an integer >= least, Python's, NumPy's or a symbol of a traced graph; True and False are none."""
    return isinstance(x, int | np.integer | torch.SymInt) and not isinstance(x, bool) and bool(x >= least)


def number(
    value: Any, op: str, argument: str, *, above: float = -INFINITY, least: float = -INFINITY, below: float = INFINITY,
    most: float = INFINITY,
) -> float:  # fmt: skip
    """`value`, a finite number with above < value < below and least <= value <= most; a 0-dim tensor on the CPU counts.

    No bool, no text, no NaN: whoever passes one has mixed up arguments. Raises as `expect`.
    """
    if type(value) is float and above < value < below and least <= value <= most and -LARGEST <= value <= LARGEST:
        return value
    if isinstance(value, NUMBERS) and not isinstance(value, bool):
        if isinstance(value, np.generic):  # float32 would compare in float32, where the largest float64 is infinite
            value = float(value) if isinstance(value, np.floating) else int(value)
        if above < value < below and least <= value <= most and -LARGEST <= value <= LARGEST:
            return value  # type: ignore[return-value]
    elif isinstance(value, Tensor) and value.ndim == 0 and value.device.type == "cpu" and not value.requires_grad:
        return number(value.item(), op, argument, above=above, least=least, below=below, most=most)
    expect(False, op, argument, _range("a number", "a finite number", above, least, below, most), named(value))
    raise AssertionError


def integer(value: Any, op: str, argument: str, *, least: float = -INFINITY, most: float = INFINITY) -> int:
    """`value`, an integer with least <= value <= most: of Python or NumPy, no bool, no float. Raises as `expect`."""
    if not (an_integer(value, least) and value <= most):
        expected = _range("an integer", "an integer", -INFINITY, least, INFINITY, most)
        expect(False, op, argument, expected, named(value))
    return int(value)


def flag(value: Any, op: str, argument: str) -> bool:
    """`value`, True or False. Raises as `expect`: a text like "no" would count as True."""
    if not isinstance(value, bool | np.bool_):
        expect(False, op, argument, "True or False", named(value))
    return bool(value)


def choice(value: Any, options: Any, op: str, argument: str) -> Any:
    """`value`, one of the texts `options`. Raises as `expect`."""
    if not (isinstance(value, str) and value in options):
        names = list(options)
        expected = " or ".join(names) if len(names) == 2 else f"one of {', '.join(names)}"
        expect(False, op, argument, expected, repr(value)[:LONGEST])
    return value


def size_2d(value: Any, op: str, argument: str, least: int = 1) -> tuple[int, int]:
    """`value`, two integers (H, W) of at least `least`, as a tuple. Raises as `expect`."""
    pair = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) and len(value) == 2
    expected = f"(H, W), integers >= {least}"
    if not (pair and all(an_integer(n, least) for n in value)):
        expect(False, op, argument, expected, named(value))
    return int(value[0]), int(value[1])


def _range(noun: str, free: str, above: float, least: float, below: float, most: float) -> str:
    """The noun with its range in words."""
    low, high = max(above, least), min(below, most)
    if low > -INFINITY and high < INFINITY:
        return f"{noun} in {'(' if above >= least else '['}{low:g}, {high:g}{')' if below <= most else ']'}"
    if low > -INFINITY:
        return f"{noun} {'>' if above >= least else '>='} {low:g}"
    return f"{noun} {'<' if below <= most else '<='} {high:g}" if high < INFINITY else free


def held(value: Any, dtype: torch.dtype, op: str, argument: str, **limits: float) -> float:
    """`value` as of `number`, one that a tensor of `dtype` holds: not as infinity, nor as 0 where it must be above."""
    value = number(value, op, argument, **limits)
    info = torch.finfo(dtype)
    vanishes = limits.get("above") == 0 and value < info.smallest_normal * info.eps
    if vanishes or not -info.max <= value <= info.max:
        expect(False, op, argument, f"a number that {str(dtype).removeprefix('torch.')} holds", value)
    return value


def per_image(value: float | Tensor, like: Tensor, op: str, argument: str, **limits: float) -> Tensor:
    """`value`, a number or a tensor [B], as a tensor [B] with the real dtype and the device of `like` [B, ...].

    `limits` of a number are those of `number`; what a tensor holds is not read, which would stall a GPU.
    """
    real = like.real.dtype if like.is_complex() else like.dtype
    if not isinstance(value, Tensor):
        value = held(value, real, op, argument, **limits)
        return torch.full((like.shape[0],), value, dtype=real, device=like.device)
    if value.is_complex() or value.dtype == torch.bool:
        expect(False, op, argument, "a number or a real tensor", value)
    if not (value.ndim == 0 or value.shape == like.shape[:1]):
        expect(False, op, argument, f"a number or shape ({like.shape[0]},)", tuple(value.shape))
    if not (value.device == like.device or value.ndim == 0):
        expect(False, op, argument, f"a tensor on {like.device}", value.device)
    return value.to(like.device, real).expand(like.shape[0])


def _from_numpy(x: np.ndarray, op: str, argument: str) -> Tensor:
    masked = isinstance(x, np.ma.MaskedArray)
    expect(not masked, op, argument, "an array without a mask: fill it first", describe(x))
    plain = type(x) is np.ndarray or isinstance(x, np.memmap | np.matrix)
    expect(plain, op, argument, "a plain array, which has no units or names to lose", describe(x))
    if not x.dtype.isnative:
        x = x.astype(x.dtype.newbyteorder("="))
    if not x.flags.writeable or any(s < 0 for s in x.strides):
        x = x.copy()  # torch has neither read-only nor reversed views
    try:
        return torch.from_numpy(np.asarray(x))
    except (TypeError, ValueError) as e:
        raise ValueError(f"{op}: {argument}: expected an array of numbers that torch knows, got {describe(x)}") from e


def _to_tensor(x: Any, op: str, argument: str) -> Any:
    if isinstance(x, np.ndarray):
        return _from_numpy(x, op, argument)
    if isinstance(x, list | tuple) and x and not isinstance(x, torch.Size):
        whole = type(x) in (list, tuple)
        return type(x)(_to_tensor(e, op, f"{argument}[{k}]") for k, e in enumerate(x)) if whole else x
    if isinstance(x, Tensor) or not hasattr(x, "__dlpack__"):
        return x
    try:
        return torch.from_dlpack(x)
    except (BufferError, RuntimeError, TypeError, ValueError) as e:
        reason = str(e).partition("\n")[0]
        raise ValueError(f"{op}: {argument}: expected an array that torch can read, got {type(x)} ({reason})") from e


def _like(kind: type, x: Any, op: str) -> Any:
    if isinstance(x, tuple):
        parts = [_like(kind, e, op) for e in x]
        return type(x)._make(parts) if hasattr(x, "_make") else tuple(parts)  # type: ignore[attr-defined]
    if not isinstance(x, Tensor):
        return x
    expect(not x.requires_grad, op, "gradients", "no tensor that requires them beside an array", "requires_grad")
    x = x.resolve_conj().resolve_neg()
    if issubclass(kind, np.ndarray):
        return x.numpy()
    root = kind.__module__.partition(".")[0]
    if root == "jaxlib":
        root = "jax"
    module = __import__(f"{root}.dlpack", fromlist=["from_dlpack"]) if root == "jax" else __import__(root)
    return module.from_dlpack(x)


def as_tensor(x: Any, op: str, argument: str) -> Tensor:
    """x, a tensor or an array with `__dlpack__`, as a tensor where it lies. Raises as `expect`."""
    x = _to_tensor(x, op, argument)
    expect(isinstance(x, Tensor), op, argument, "a tensor or an array", "" if isinstance(x, Tensor) else named(x))
    return x


def in_kind(x: Any, function: Callable[[Tensor], Any], op: str, argument: str) -> Any:
    """function(x) of a tensor x, or of an array with `__dlpack__` as arrays of its kind."""
    return function(x) if isinstance(x, Tensor) else _like(type(x), function(as_tensor(x, op, argument)), op)


TENSORS = (Tensor, nn.Parameter)
SIMPLE = (*TENSORS, float, int, bool, str, type(None))


def accepts_arrays(function: F) -> F:
    """The one door of public functions of tensors: arrays come in without copies, what is neither is refused.

    An array is anything with `__dlpack__` (NumPy, CuPy, JAX). Results are tensors where the first argument is one,
    else arrays of its kind. Other array arguments, in lists too, become tensors on the device where they lie: nothing
    moves between devices, and beside a tensor elsewhere the function refuses them. A NumPy array with a mask is
    refused, as are subclasses with units or names: they would lose them. So is everything else (lists, None, text,
    data frames) in the place of what the signature calls a Tensor.
    """
    op, parameters = function.__name__, inspect.signature(function).parameters
    names = list(parameters)
    first = names[0]
    accepted: dict[str, Any] = {}
    for name, parameter in parameters.items():
        tensor = parameter.annotation is Tensor or name == first
        accepted[name] = TENSORS if tensor else SIMPLE
    by_position = tuple(accepted.values())
    simple_types: set[tuple[type | str, ...]] = set()  # of arguments, with their names, that needed nothing

    def convert(name: str, value: Any) -> Any:
        return as_tensor(value, op, name) if accepted.get(name) is TENSORS else _to_tensor(value, op, name)

    @functools.wraps(function)
    def door(*args: Any, **kwargs: Any) -> Any:
        types_now = None  # a graph that is traced does not depend on what was seen before
        if not is_compiling():
            types_now = (*map(type, args), *kwargs, *map(type, kwargs.values())) if kwargs else tuple(map(type, args))
            if types_now in simple_types:
                return function(*args, **kwargs)
        simple = True  # nothing to convert, nothing to refuse: all there is to find out for most calls
        for value, types in zip(args, by_position, strict=False):
            if type(value) not in types:
                simple = False
        for name, value in kwargs.items():
            if type(value) not in accepted.get(name, SIMPLE):
                simple = False
        if simple:
            if types_now is not None:
                simple_types.add(types_now)
            return function(*args, **kwargs)
        if len(args) > len(names):
            return function(*args, **kwargs)  # raises
        x = args[0] if args else kwargs.get(first)
        args = tuple(convert(name, value) for name, value in zip(names, args, strict=False))
        kwargs = {name: convert(name, value) for name, value in kwargs.items()}
        result = function(*args, **kwargs)
        return result if isinstance(x, Tensor) or x is None else _like(type(x), result, op)

    return door  # type: ignore[return-value]


def behind(function: F) -> F:
    """What `accepts_arrays` wrapped: the function of tensors, for callers inside, who have nothing else."""
    return function.__wrapped__  # type: ignore[attr-defined]
