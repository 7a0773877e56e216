"""Images from measurements in one line: `fastrecon.reconstruct`."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastrecon.certificates import Certificate, Result
from fastrecon.checks import expect, expect_finite, in_kind, number, size_2d
from fastrecon.operators.base import LinearOperator
from fastrecon.operators.callables import Callables
from fastrecon.solvers import automatic, methods
from fastrecon.solvers.automatic import ASKED, Chosen
from fastrecon.solvers.methods import Inverse

PRIOR = "prior"
USUAL = "dct"  # of the methods that `automatic` chooses from: the one that options are meant for
Pair = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Sequence[int]]


def reconstruct(
    y: Any, operator: LinearOperator | Pair, method: str = "auto", noise: float | None = None, prior: str | None = None,
    size: Sequence[int] | None = None, *, start: Any = None, norm: float | None = None, **options: Any,
) -> Result:  # fmt: skip
    """Images x from measurements y = A x + noise.

    Args:
        y: measurements [B, ...], a tensor or an array; the images should lie about in [0, 1].
        operator: A, from images [B, C, H, W]: one of `fastrecon.operators`, a composition of them, or a triple of two
            functions of tensors, A and its adjoint, and the shape (C, H, W) of an image.
        method: of `fastrecon.solvers.methods.METHODS`; "auto" chooses by noise and operator, see
            `fastrecon.solvers.automatic`, and "dct" where options are given.
        noise: standard deviation of each real number of y, in its unit; None: not known.
        prior: name of a learned prior, "natural" say, or the file of one: method "prior" then.
        size: (H, W) of the images, where y and A alone do not tell.
        start: images to start from, like x; None: the adjoint of A at y.
        norm: a bound of |A|; None: it is found out.
        options: of the method: iterations, tol, lam, model, ...

    Returns:
        x of the kind of y, and the certificate of every image; `method` and `why` tell what was taken.

    Raises:
        ValueError: an argument does not fit, or y holds NaN or Inf.
    """
    op = "reconstruct"
    a = operator if isinstance(operator, LinearOperator) else _pair(operator)
    if prior is not None:
        expect(method in ("auto", PRIOR), op, "method", f"auto or {PRIOR} with a prior", repr(method))
        expect(isinstance(prior, str) and prior != "", op, "prior", "the name of a prior", repr(prior))
        method, options = PRIOR, {"model": prior} | options
    noise = None if noise is None else number(noise, op, "noise", least=0)
    norm = None if norm is None else number(norm, op, "norm", above=0)
    named = USUAL if method == "auto" and options else method
    chosen = None if named == "auto" else methods.named(named, "", op)
    where = size_2d(size, op, "size") if size is not None else None
    why = ASKED if method != "auto" else "options are given, which are those of this method"
    reports: list[Certificate | None] = []
    taken: list[Chosen] = []

    def run(y: Tensor) -> Tensor:
        expect(y.ndim > 1 and len(y) > 0, op, "y", "measurements [B, ...]", y)
        expect(y.is_floating_point() or y.is_complex(), op, "y", "real or complex numbers", y)
        expect_finite(y, op, "finite measurements", "image")
        with torch.no_grad():
            shape = where or _size(a, y)
            inverse = Inverse(y, a, shape, noise, None if start is None else _start(start, y, shape), norm)
            choice = automatic(inverse) if chosen is None else Chosen(chosen.name, why)
            taken.append(choice)
            one = methods.named(choice.method) if chosen is None else chosen
            found = one.ready(y.device, **choice.settings, **options)(inverse)
        reports.append(found.report)
        return found.x

    x = in_kind(y, run, op, "y")
    result = Result(x, reports[0])
    result.method, result.why = taken[0].method, taken[0].why
    return result


def _pair(operator: Any) -> LinearOperator:
    triple = isinstance(operator, tuple) and len(operator) == 3 and callable(operator[0]) and callable(operator[1])
    expected = "an operator, or (A, adjoint, shape) with two functions and (C, H, W)"
    expect(triple, "reconstruct", "operator", expected, type(operator).__name__)
    return Callables(*operator)


def _start(start: Any, y: Tensor, size: tuple[int, int]) -> Tensor:
    """Images to start from, looked at as far as that goes without the operator."""
    expected = f"finite images [{len(y)}, ..., {size[0]}, {size[1]}]"
    known = isinstance(start, Tensor) or hasattr(start, "__dlpack__")
    expect(known, "reconstruct", "start", expected, start)
    x = start if isinstance(start, Tensor) else torch.from_dlpack(start)
    fits = x.ndim > 1 and len(x) == len(y) and tuple(x.shape[-2:]) == size
    expect(fits and (x.is_floating_point() or x.is_complex()), "reconstruct", "start", expected, x)
    expect_finite(x, "reconstruct", expected, "image", "start")
    return x


def _size(a: LinearOperator, y: Tensor) -> tuple[int, int]:
    """(H, W) of the images."""
    known = a.input_size(tuple(y.shape[-2:]) if y.ndim == 4 else None)
    shape = a.adjoint(y[:1]).shape[-2:] if known is None else known
    return int(shape[0]), int(shape[1])
