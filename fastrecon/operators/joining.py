"""Operators and terms of several batches as those of one: what `take` takes apart."""

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastrecon.operators._given import Cache

M = TypeVar("M", bound=nn.Module)
OF_MODULES = frozenset(vars(nn.Module()))  # attributes that every module has, parts and tensors among them


class Differ(Exception):
    """The parts are not of one kind."""


def joined(modules: Sequence[M], counts: Sequence[int]) -> M | None:
    """The module of the images of several batches, one behind the other.

    Tensors that a module calls `per_image` are put together, whether they belong to an image each or serve all of a
    batch. All else must be equal; so the module does for every image what its own one does, bit for bit.

    Args:
        modules: operators, terms or solvers, one for each batch.
        counts: images of each batch.

    Returns:
        The first of them, where nothing belongs to a batch alone; None where they are of several kinds.
    """
    try:
        return _joined(list(modules), list(counts))
    except Differ:
        return None


def _joined(modules: list[M], counts: list[int]) -> M:
    first = modules[0]
    if not all(type(m) is type(first) and getattr(m, "joins", True) for m in modules):
        raise Differ
    own = getattr(first, "per_image", ())
    tensors, parts = {}, {}
    for kind, found in (("_parameters", tensors), ("_buffers", tensors), ("_modules", parts)):
        names = [list(getattr(m, kind)) for m in modules]
        if any(n != names[0] for n in names):
            raise Differ
        for name in names[0]:
            several = [getattr(m, kind)[name] for m in modules]
            if kind == "_modules":
                found[name] = None if _all_none(several) else _joined(several, counts)
            elif name in own:
                found[name] = _together(several, counts)
            else:
                _expect_equal(several)
    for name in sorted(set().union(*(vars(m) for m in modules)) - OF_MODULES):
        values = [vars(m).get(name, Differ) for m in modules]
        if not all(isinstance(v, Cache) for v in values):
            _expect_equal(values)
    tensors = {n: t for n, t in tensors.items() if t is not getattr(first, n)}
    parts = {n: p for n, p in parts.items() if p is not getattr(first, n)}
    if not tensors and not parts:
        return first
    new = copy.copy(first)
    new._parameters = {n: p for n, p in first._parameters.items() if n not in tensors}
    new._buffers, new._modules = first._buffers | tensors, first._modules | parts
    return new


def _all_none(values: list[Any]) -> bool:
    """Whether there is nothing; raises Differ if some have something and others not."""
    if any(v is None for v in values) and any(v is not None for v in values):
        raise Differ
    return values[0] is None


def _expect_equal(values: list[Any]) -> None:
    """Raises Differ unless all are the first or equal it."""
    first = values[0]
    for value in values[1:]:
        if value is first:
            continue
        if type(value) is not type(first):
            raise Differ
        if isinstance(first, Tensor):
            alike = value.shape == first.shape and _kind(value) == _kind(first) and torch.equal(value, first)
        else:
            alike = (first == value) is True
        if not alike:
            raise Differ


def _kind(t: Tensor) -> Any:
    return t.dtype, t.device


def _together(tensors: list[Tensor | None], counts: list[int]) -> Tensor | None:
    """Tensors [1 or B, ...] of each batch as those of its images; the one of all images, where that is the same."""
    if _all_none(tensors):
        return None
    each = [t if t.ndim in (1, 4) else t.view((1,) * (4 - t.ndim) + t.shape) for t in tensors if t is not None]
    first = each[0]
    if any(t.shape[1:] != first.shape[1:] or _kind(t) != _kind(first) for t in each):
        raise Differ
    if all(len(t) == 1 for t in each) and first.ndim != 1:
        try:
            _expect_equal(each)
        except Differ:
            pass
        else:
            return tensors[0]
    if any(len(t) not in (1, n) for t, n in zip(each, counts, strict=True)):
        raise Differ
    return torch.cat([t.expand(n, *t.shape[1:]) for t, n in zip(each, counts, strict=True)])
