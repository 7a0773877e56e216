"""PyWavelets' two-dimensional transforms for tensors and arrays, batched: `from fastrecon.adapters import pywt`.

Names, arguments and nesting are PyWavelets'. Tensors are differentiable; arrays with `__dlpack__` come back in kind.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastrecon.adapters._peer import peer
from fastrecon.checks import as_tensor, choice, expect, in_kind, integer
from fastrecon.ops import wavelet_modes as modes

library: Any = peer("pywt", "1.4", "2", "PyWavelets")
# its other names for the same boundaries
SHORT = {"per": "periodization", "zpd": "zero", "sym": "symmetric", "symh": "symmetric", "ppd": "periodic",
         "cpd": "constant", "sp1": "smooth", "symw": "reflect"}  # fmt: skip

__all__ = ["dwt2", "idwt2", "wavedec2", "waverec2"]


def wavedec2(
    data: Any, wavelet: Any, mode: str = "symmetric", level: int | None = None, axes: Sequence[int] = (-2, -1)
) -> list[Any]:
    """Coefficients [cA_n, (cH_n, cV_n, cD_n), ..., (cH_1, cV_1, cD_1)] as of pywt.wavedec2.

    Args:
        data: [..., H, W], real or complex; integers are read as float64.
        wavelet: a name, or a pywt.Wavelet that has one.
        mode: periodization, zero, symmetric, reflect, periodic, constant.
        level: >= 0; None: as many as fit.
        axes: which two axes are H and W.

    Raises:
        ValueError: an argument does not fit.
    """
    op, name, mode = "wavedec2", _name("wavedec2", wavelet), _mode("wavedec2", mode)

    def run(x: Tensor) -> tuple[Tensor, ...]:
        x = _last(op, "data", x, axes)
        most = library.dwtn_max_level(tuple(x.shape[-2:]), name)
        depth = most if level is None else integer(level, op, "level", least=0)
        return tuple(t.movedim((-2, -1), tuple(axes)) for t in _flat(modes.decompose(x, name, depth, mode)))

    return _nested(in_kind(data, run, op, "data"))


def waverec2(coeffs: Sequence[Any], wavelet: Any, mode: str = "symmetric", axes: Sequence[int] = (-2, -1)) -> Any:
    """The data [..., H, W] of coefficients as of `wavedec2`: of odd sides one number more, as of pywt.waverec2.

    Raises:
        ValueError: an argument does not fit.
    """
    op, name, mode = "waverec2", _name("waverec2", wavelet), _mode("waverec2", mode)
    expect(isinstance(coeffs, Sequence) and len(coeffs) > 0, op, "coeffs", "[cA, (cH, cV, cD), ...]", type(coeffs))
    details = [c for triple in coeffs[1:] for c in _triple(op, triple)]

    def run(first: Tensor) -> Tensor:
        whole = [_last(op, "coeffs", t, axes) for t in (first, *(as_tensor(c, op, "coeffs") for c in details))]
        return modes.recompose(_nested(whole), name, mode).movedim((-2, -1), tuple(axes))

    return in_kind(coeffs[0], run, op, "coeffs")


def dwt2(data: Any, wavelet: Any, mode: str = "symmetric", axes: Sequence[int] = (-2, -1)) -> tuple[Any, Any]:
    """cA, (cH, cV, cD) of one level, as of pywt.dwt2."""
    approximation, details = wavedec2(data, wavelet, mode, 1, axes)
    return approximation, details


def idwt2(coeffs: tuple[Any, Any], wavelet: Any, mode: str = "symmetric", axes: Sequence[int] = (-2, -1)) -> Any:
    """The data of cA, (cH, cV, cD), as of pywt.idwt2."""
    return waverec2(list(coeffs), wavelet, mode, axes)


def _name(op: str, wavelet: Any) -> str:
    name = wavelet if isinstance(wavelet, str) else getattr(wavelet, "name", None)
    expect(isinstance(name, str), op, "wavelet", "the name of a wavelet, or a pywt.Wavelet", type(wavelet).__name__)
    return modes.bank(str(name)) and str(name)  # type: ignore[return-value]


def _mode(op: str, mode: Any) -> str:
    mode = mode if isinstance(mode, str) else getattr(mode, "name", mode)  # pywt.Modes.symmetric is a number
    known = {getattr(library.Modes, m): m for m in library.Modes.modes}
    mode = known.get(mode, mode)
    return choice(SHORT.get(mode, mode), modes.MODES, op, "mode")


def _last(op: str, argument: str, x: Tensor, axes: Sequence[int]) -> Tensor:
    two = isinstance(axes, Sequence) and len(axes) == 2 and x.ndim >= 2
    expect(two, op, "axes", "two axes of an array of at least two", axes)
    x = x if x.is_floating_point() or x.is_complex() else x.to(torch.float64)
    x = x.movedim(tuple(axes), (-2, -1))
    expect(min(x.shape[-2:]) > 0, op, argument, "at least one number along each axis", x)
    return x


def _triple(op: str, details: Any) -> Sequence[Any]:
    fits = isinstance(details, Sequence) and len(details) == 3
    expect(fits, op, "coeffs", "(cH, cV, cD), none of them None", type(details).__name__)
    return details


def _flat(coefficients: Sequence[Any]) -> list[Tensor]:
    return [coefficients[0], *(c for triple in coefficients[1:] for c in triple)]


def _nested(flat: Sequence[Any]) -> list[Any]:
    return [flat[0], *(tuple(flat[i : i + 3]) for i in range(1, len(flat), 3))]
