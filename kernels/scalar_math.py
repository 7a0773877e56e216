"""kernels/scalar_math.py: the scalar functions shared by the Triton kernels.

  a(t) = 0, (t + delta)^2 / (4 delta), t for t below, within and above [-delta, delta]     smoothed ReLU
  a'(t) = min(1, sqrt(a / delta)), a''(t) = 1 / (2 delta) where 0 < a < delta              from the output a alone
  h(t) = t^2 / (2 eps) if t <= eps else t - eps / 2                                        smoothed norm
Definitions: fastrecon/ops/feature_gradient.py.  Maths: Chen, Liu, Ye & Zhang, arXiv:2007.11245, eqs. (9), (33).

Numbers fixed for a model (delta, p) are constexpr: Triton passes Python floats as float32, constants keep all digits.
Conditions are written so that a NaN goes through.
"""

import os

import triton
import triton.language as tl
from triton.language.extra import libdevice

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")  # the interpreter lacks libdevice


@triton.jit
def widen(t):
    """The type to compute in: float64 stays, everything else becomes float32."""
    return t if t.dtype == tl.float64 else t.to(tl.float32)


@triton.jit
def root(t):
    """Square root, rounded correctly: tl.sqrt is an approximation in float32 that drops denormals."""
    return tl.sqrt(t) if t.dtype == tl.float64 else tl.sqrt_rn(t)


@triton.jit
def divide(a, b):
    """a / b, rounded correctly: `/` may be off by 2 units in the last place in float32."""
    return a / b if a.dtype == tl.float64 else tl.div_rn(a, b)


@triton.jit
def power(x, q: tl.constexpr):
    """x^q for x > 0, to about one unit in the last place."""
    if INTERPRETED:
        return tl.exp2(q * tl.log2(x.to(tl.float64))).to(x.dtype)
    else:
        return libdevice.pow(x, tl.full(x.shape, q, x.dtype))


@triton.jit
def power_for(big):
    """A power of two that takes numbers of at most `big`, >= 0, to where their squares neither vanish nor overflow."""
    if big.dtype == tl.float64:
        scale = tl.where(big > 1e140, 2.0**-700, tl.where(big < 1e-140, 2.0**700, 1.0))
    else:
        scale = tl.where(big > 1e15, 2.0**-96, tl.where(big < 1e-15, 2.0**96, 1.0))
    return scale.to(big.dtype)


@triton.jit
def towards(g):
    """The direction of g among numbers that hold infinities: their signs."""
    return tl.where(tl.abs(g) == float("inf"), tl.where(g < 0, -1.0, 1.0), 0.0).to(g.dtype)


@triton.jit
def rescaled(re, im):
    """(scale re, scale im, their modulus, scale), of infinite numbers their direction and scale 0; NaN stays NaN."""
    big = tl.maximum(tl.abs(re), tl.abs(im))
    endless = (big == float("inf")) & (re == re) & (im == im)
    scale = tl.where(endless, 0.0, power_for(big)).to(re.dtype)
    re = tl.where(endless, towards(re), re * scale)
    im = tl.where(endless, towards(im), im * scale)
    return re, im, root(re * re + im * im), scale


@triton.jit
def smoothed_relu(t, delta: tl.constexpr):
    """a(t)."""
    s = t + delta
    return tl.where(t >= delta, t, tl.where(t <= -delta, 0.0, s * (s / (4 * delta))))  # no square vanishes or overflows


@triton.jit
def slope_at(h, delta: tl.constexpr):
    """a' from h = a(t)."""
    return tl.where(h >= delta, 1.0, root(h / delta))


@triton.jit
def curve_at(h, dot, delta: tl.constexpr):
    """a'' times the tangent of t, from h = a(t) and its own tangent dot = a' dt."""
    inside = (h > 0) & (h < delta)
    return tl.where(inside, divide(dot, 2 * delta * root(tl.where(inside, h / delta, 1.0))), 0.0)


@triton.jit
def smoothed_norm(norm, eps):
    """h(norm)."""
    return tl.where(norm <= eps, 0.5 * norm * divide(norm, tl.maximum(norm, eps)), norm - 0.5 * eps)
