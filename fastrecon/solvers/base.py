"""What all solvers stand on: states as frozen dataclasses of tensors, and the one loop over their iterations."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from fastrecon.checks import expect, expect_finite
from fastrecon.ops.layout import real_dtype
from fastrecon.solvers.meeting import here

S = TypeVar("S")
M = TypeVar("M", bound=nn.Module)
Callback = Callable[[int, Any], object]  # callback(k, state) after iteration k = 1, 2, ...
Row = dict[str, Tensor]  # what the history keeps of an iteration, [B] each


def column(t: Tensor, like: Tensor) -> Tensor:
    """Numbers [B] as [B, 1, ...] of the real type of `like` [B, ...]."""
    return t.to(real_dtype(like)).view(-1, *[1] * (like.ndim - 1))


# A state is a frozen dataclass of tensors [B, ...]; None, tuples of such and dataclasses of the same kind may be among
# them.


def take(s: S, which: Tensor) -> S:
    """The images `which` [P] of a state."""
    return _each(lambda t: t[which], s)


def put(s: S, which: Tensor, part: S) -> S:
    """The state `s` with the images `which` [P] replaced by those of `part`."""
    return _each(lambda t, p: t.index_copy(0, which, p), s, part)


def where(condition: Tensor, a: S, b: S) -> S:
    """The state `a` for the images where `condition` [B] holds, `b` for the others."""
    return _each(lambda p, q: torch.where(condition.view(-1, *[1] * (p.ndim - 1)), p, q), a, b)


def join(states: Sequence[S]) -> S:
    """The images of several states, one behind the other."""
    return states[0] if len(states) == 1 else _each(lambda *several: torch.cat(several), *states)


def signature(s: Any) -> Any:
    """What states must share to be joined: shapes behind the first dimension, types, devices."""
    if s is None or isinstance(s, Tensor):
        return None if s is None else (tuple(s.shape[1:]), s.dtype, s.device)
    parts = s if isinstance(s, tuple) else [getattr(s, field.name) for field in fields(s)]
    return type(s), tuple(signature(part) for part in parts)


def _each(function: Callable[..., Tensor], *parts: Any) -> Any:
    first = parts[0]
    if first is None or isinstance(first, Tensor):
        return None if first is None else function(*parts)
    if isinstance(first, tuple):
        return tuple(_each(function, *several) for several in zip(*parts, strict=True))
    names = [field.name for field in fields(first)]
    return replace(first, **{name: _each(function, *(getattr(p, name) for p in parts)) for name in names})


def _zeros_for(first: Any) -> Tensor:
    """Zeros int64 [B], one for each image of a state."""
    while not isinstance(first, Tensor):
        first = first[0] if isinstance(first, tuple) else getattr(first, fields(first)[0].name)
    return torch.zeros(first.shape[0], dtype=torch.int64, device=first.device)


@dataclass(frozen=True)
class Run(Generic[S]):
    """How a loop ended, per image."""

    state: S
    done: Tensor  # [B] bool: left the loop, rather than meeting its limit
    count: Tensor  # [B] iterations, int64
    history: dict[str, Tensor] | None  # [rows, B] each, row 0: the start


def iterate(
    step: Callable[[S, int], S], s: S, iterations: int, *, done: Callable[[S], Tensor] | None = None,
    narrow: Callable[[Tensor], Callable[[S, int], S]] | None = None, check_every: int = 1, stride: int = 1,
    row: Callable[[S], Row] | None = None, callback: Callback | None = None,
) -> Run[S]:  # fmt: skip
    """The states after so many iterations, or fewer for the images that are done before.

    These leave the batch: they cost nothing more, and what later iterations do to others does not show in them. Without
    `done` the host never waits for the device.

    Args:
        step: step(state, k) makes iteration k = 0, 1, ..., or all from k up to the next multiple of `stride`.
        s: state at the start; tensors [B, ...], the first field among them.
        iterations: at most this many.
        done: which images leave, [P] bool for a state of P; asked at the start, every `check_every` iterations, and at
            the end.
        narrow: narrow(which) is the `step` of the images `which` [P] of the batch alone; None: `step` takes any batch.
        check_every: iterations between two looks, a multiple of `stride`.
        stride: iterations in a step.
        row: what the history keeps of a state: [B] each, or [iterations, B] of those of the last step.
        callback: callback(k, state of all images) after each step, k iterations after the start.
    """
    everyone, which = s, None  # s is the state of the images `which`, those that still iterate; None: of all
    rows = [] if row is None else [_table(row(s))]
    count, k, place = _zeros_for(s), 0, here()
    left = torch.zeros_like(count, dtype=torch.bool)
    while True:
        if done is not None and (k % check_every == 0 or k == iterations):
            stay = (~done(s)).nonzero().flatten()
            if len(stay) < len(count if which is None else which) or len(stay) == 0:
                everyone, count = _merged(everyone, which, s), _counted(count, which, k)
                which = stay if which is None else which[stay]
                left = torch.ones_like(left).index_fill(0, which, 0)
                s = take(s, stay)
                if len(which) == 0:
                    break
                step = step if narrow is None else narrow(which)
        if k >= iterations:
            break
        s, k = step(s, k), min(k + stride, iterations)
        if row is not None:
            new = _table(row(s))
            if which is not None:  # those that are done stay as they were
                kept = {n: rows[-1][n][-1:].repeat(len(v), 1) for n, v in new.items()}
                new = {n: kept[n].index_copy(1, which, v) for n, v in new.items()}
            rows.append(new)
        if place is not None:
            place.rest()
        if callback is not None:
            everyone = _merged(everyone, which, s)
            callback(k, everyone)
    history = {n: torch.cat([r[n] for r in rows]) for n in rows[0]} if rows else None
    return Run(_merged(everyone, which, s), left, _counted(count, which, k), history)


def _table(row: Row) -> Row:
    """[B] each as [1, B]."""
    return {n: v[None] if v.ndim == 1 else v for n, v in row.items()}


def _merged(everyone: S, which: Tensor | None, part: S) -> S:
    return part if which is None else put(everyone, which, part)


def _counted(count: Tensor, which: Tensor | None, k: int) -> Tensor:
    return torch.full_like(count, k) if which is None else count.index_fill(0, which, k)


def with_parts(module: M, **parts: Any) -> M:
    """A copy of a module with other parts; all else, parameters included, it shares."""
    twin = copy.copy(module)
    for kind in ("_parameters", "_buffers", "_modules"):
        twin.__dict__[kind] = dict(module.__dict__[kind])
    for name, part in parts.items():
        setattr(twin, name, part)
    return twin


def check_measurements(y: Tensor, name: str) -> None:
    """Looks at measurements [B, ...] of the solver `name`; their shape and device are the operator's to judge.

    Raises:
        ValueError: they are not numeric, or hold NaN or Inf.
    """
    expect(y.is_floating_point() or y.is_complex(), name, "y", "real or complex measurements [B, ...]", y)
    expect_finite(y, name, "finite measurements", "image")
