"""Promises tried on this machine: the same bits in any batch, adjoints, kernels against their definitions in float64."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from fastrecon.report import Certificate, Status


def parts(result: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a result with their names, images first."""
    if isinstance(result, Tensor):
        yield name, result
    elif isinstance(result, Certificate):
        found: list[tuple[str, Tensor]] = []
        result.map(lambda field, t: found.append((f"report.{field}", t.movedim(-1, 0))) or t)
        yield from found
    elif dataclasses.is_dataclass(result):
        for field in dataclasses.fields(result):
            yield from parts(getattr(result, field.name), field.name)
    elif isinstance(result, tuple):
        fields = getattr(result, "_fields", [f"output {k}" for k in range(len(result))])
        for field, value in zip(fields, result, strict=True):
            yield from parts(value, field)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether all bits agree, signs of zeros apart; NaN equals NaN."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.isnan(), b.isnan()) and torch.equal(
        a[~a.isnan()], b[~b.isnan()]
    )
