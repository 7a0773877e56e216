"""Filters of orthonormal wavelets, from PyWavelets, in the order and sign in which the transforms use them."""

from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from fastrecon.checks import expect

TABLE = {  # lowpass filters that need no library, PyWavelets' numbers
    "haar": (0.7071067811865476, 0.7071067811865476),
    "sym4": (
        0.0322231006040427, -0.012603967262037833, -0.09921954357684722, 0.29785779560527736,
        0.8037387518059161, 0.49761866763201545, -0.02963552764599851, -0.07576571478927333,
    ),
}  # fmt: skip
FAMILIES = "haar, db1 to db38, sym2 to sym20, coif1 to coif17"
ORTHONORMAL = 1e-10  # the sym filters are tabulated to 1e-11; dmey is cut off at 2e-3


def lowpass(name: str) -> tuple[float, ...]:
    """The lowpass filter g of wavelet `name`, in the order of correlation: a_k = sum_i g_i x_(2k + i - L/2 + 1).

    The highpass filter follows from it: h_i = (-1)^i g_(L-1-i).

    Raises:
        ValueError: there is no such wavelet, or it is not orthonormal; then the adjoint would not be the inverse, and
            shrinking its coefficients would not be a proximal map.
        ModuleNotFoundError: PyWavelets is not installed, and the wavelet is neither haar nor sym4.
    """
    expect(isinstance(name, str), "dwt2", "wavelet", f"an orthonormal wavelet ({FAMILIES})", repr(name))
    return TABLE.get(name) or _checked(name)


# what torch.compiler.assume_constant_result does, which would load all of torch._dynamo when fastrecon is imported
lowpass._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _checked(name: str) -> tuple[float, ...]:
    try:  # PyWavelets takes a tenth of a second: only when a wavelet is asked for
        pywt: Any = import_module("pywt")
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError(f"dwt2: wavelet {name!r}: expected PyWavelets to be installed, found {e}") from e

    known = name in pywt.wavelist(kind="discrete")
    expect(known, "dwt2", "wavelet", f"an orthonormal wavelet ({FAMILIES})", repr(name))
    wavelet = pywt.Wavelet(name)
    g, h = (np.array(f[::-1]) for f in (wavelet.dec_lo, wavelet.dec_hi))
    sign = (-1.0) ** np.arange(len(g))
    inner = [float(g[2 * s :] @ g[: len(g) - 2 * s]) - (s == 0) for s in range(len(g) // 2)]
    orthonormal = wavelet.orthogonal and np.abs(inner).max() < ORTHONORMAL and np.array_equal(h, sign * g[::-1])
    expect(bool(orthonormal), "dwt2", "wavelet", f"an orthonormal wavelet ({FAMILIES})", repr(name))
    return tuple(g.tolist())
