"""Numbers that arguments must be: in their range, no NaN, no text, no bool."""

import math
import numbers
from typing import Any

import numpy as np
from torch import Tensor

from fastrecon.checks import expect

INFINITY = math.inf


def number(
    value: Any, op: str, argument: str, *, above: float = -INFINITY, least: float = -INFINITY, below: float = INFINITY,
    most: float = INFINITY,
) -> float:  # fmt: skip
    """`value`, a finite number with above < value < below and least <= value <= most.

    Raises:
        ValueError: it is something else.
    """
    fits = _real(value) and above < value < below and least <= value <= most and math.isfinite(value)
    if not fits:
        expect(False, op, argument, _range("a number", "a finite number", above, least, below, most), _shown(value))
    return value


def integer(value: Any, op: str, argument: str, *, least: float = -INFINITY, most: float = INFINITY) -> int:
    """`value`, an integer with least <= value <= most.

    Raises:
        ValueError: it is something else.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not (whole and least <= value <= most):
        expect(False, op, argument, _range("an integer", "an integer", -INFINITY, least, INFINITY, most), _shown(value))
    return int(value)


def flag(value: Any, op: str, argument: str) -> bool:
    """`value`, True or False.

    Raises:
        ValueError: it is something else.
    """
    expect(isinstance(value, bool | np.bool_), op, argument, "True or False", _shown(value))
    return bool(value)


def _real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)


def _shown(value: Any) -> object:
    return value if isinstance(value, Tensor | bool | int | float) else f"{type(value).__name__} {value!r}"


def _range(noun: str, free: str, above: float, least: float, below: float, most: float) -> str:
    low, high = max(above, least), min(below, most)
    if low > -INFINITY and high < INFINITY:
        return f"{noun} in {'(' if above >= least else '['}{low:g}, {high:g}{')' if below <= most else ']'}"
    if low > -INFINITY:
        return f"{noun} {'>' if above >= least else '>='} {low:g}"
    return f"{noun} {'<' if below <= most else '<='} {high:g}" if high < INFINITY else free
