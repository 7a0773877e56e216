"""Iterations of PGD and FISTA that are one call of a kernel: masks and circular blurs with a wavelet prior."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fastrecon.adapters.deepinv.parts import Fidelity
from fastrecon.adapters.deepinv.priors import WaveletPrior
from fastrecon.ops.wavelet_shrinkage import iterated

Estimate = tuple[Tensor, ...]  # (x, ...) as of deepinv's X["est"]


def in_one_call(
    iterator: Any, est: Estimate, f: Fidelity, g: Any, c: dict[str, Any], k: int, iterations: int, fista: bool
) -> Estimate | None:  # fmt: skip
    """The estimate after iterations k, k + 1, ..., all with parameters c; None where no kernel makes them."""
    x, *others = est
    z = others[0] if others else x
    if iterator.g_first or not isinstance(g, WaveletPrior) or z.shape != x.shape or z.dtype != x.dtype:
        return None
    relaxed, step = c.get("beta", 1.0), c["stepsize"]
    a = None if not fista and not (isinstance(relaxed, float | int) and relaxed == 1) else f.affine(x, step)
    s = None if a is None else g.shrinkage(x, c["lambda"] * step)
    momentum = [(i + c["a"] - 1) / (i + c["a"]) for i in range(k, k + iterations)] if fista else None
    if a is None or s is None or (momentum and any(isinstance(m, Tensor) for m in momentum)) or z.requires_grad:
        return None
    return iterated(x, z, a, s, iterations, momentum)


def alike(parameters: Callable[[int], dict[str, Any]], k: int, most: int) -> int:
    """How many iterations from k on, at most so many, have the parameters of iteration k."""
    first = parameters(k)
    for i in range(k + 1, k + most):
        now = parameters(i)
        if any(now[name] is not first[name] and not _equal(now[name], first[name]) for name in first):
            return i - k
    return most


def _equal(a: Any, b: Any) -> bool:
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b
