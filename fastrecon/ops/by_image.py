"""One image at a time: vendors' convolutions, transforms, products and sums depend on the batch, ours must not."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastrecon import threads


def alone(t: Tensor, i: int) -> Tensor:
    """Image i of t [B, ...] as [1, ...] in memory of its own.

    A fresh copy starts on 64 bytes like every allocation: vendors' routines may round differently elsewhere.
    """
    return t[i : i + 1].clone(memory_format=torch.contiguous_format)


def each_image(function: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
    """function(x, ...) of every image of x [B, ...] on its own; the others are batches of B or of 1.

    Even products of complex numbers round otherwise at the end of an array than in its middle. On a GPU a launch an
    image costs more than that is worth, and a graph that torch traces holds for any batch: there the batch stays whole.
    """
    if x.is_cuda or torch.compiler.is_compiling() or x.shape[0] == 0:
        return function(x, *others)
    with threads.alone:  # their rounding depends on the number of threads too
        found = [
            function(alone(x, i), *(t.narrow(0, i if len(t) > 1 else 0, 1) for t in others)) for i in range(len(x))
        ]
    return found[0] if len(found) == 1 else torch.cat(found)


def by_image(definition: Callable[..., Any], *batched: int) -> Callable[..., Any]:
    """`definition`, of whose arguments these, by number, are batches [B, ...], applied to one image after the other.

    A batched argument [1, ...] serves all images. On a GPU, where that would be a launch for each image, the definition
    takes the batch whole. `registry.define` takes the definition itself for the fake kernel, which asks shapes only.
    """

    @functools.wraps(definition)
    def each(*arguments: Any) -> Any:
        count = len(arguments[batched[0]])
        if count == 0 or arguments[batched[0]].is_cuda:
            return definition(*arguments)

        def part(k: int, t: Any, i: int) -> Any:
            return alone(t, i if len(t) > 1 else 0) if k in batched and t is not None else t

        with threads.together:
            found = [definition(*(part(k, t, i) for k, t in enumerate(arguments))) for i in range(count)]
        if isinstance(found[0], Tensor):
            return torch.cat(found)
        return tuple(torch.cat(outputs) for outputs in zip(*found, strict=True))

    return each
