"""The learned regulariser's value and gradient in one call, and the derivative that training through it needs.

Features g(x) = W_L * a(W_{L-1} * ... a(W_1 * x)) with 3x3 kernels, zero padding, no bias, and the smoothed ReLU a of
radius delta; r_eps(x) = sum_i h_eps(|g_i(x)|), |g_i| over channels; gradient J_g(x)^T y*, y*_i = g_i / max(|g_i|, eps).
Source: Chen, Liu, Ye & Zhang, Learnable Descent Algorithm for Nonsmooth Nonconvex Image Reconstruction
(arXiv:2007.11245), eqs. (8)-(10) and (33).

The derivative of the gradient in closed form: with cotangents v of the value and G of the gradient, G . grad r_eps is
the derivative of r_eps along G, so its gradients are one tangent pass of the features along G and two transposed ones.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d

from fastrecon.checks import accepts_arrays, choice, expect, flag, held, named, per_image
from fastrecon.ops.by_image import by_image
from fastrecon.ops.function import differentiated, transformed
from fastrecon.ops.layout import power_for, shaped
from fastrecon.registry import compiled, define, extension, forced

_DTYPES = {torch.float32: 0, torch.float64: 1}
PRECISIONS = {"float32": 0, "bfloat16": 1, "direct": 2, "tf32": 0}  # of the products of float32 convolutions

BFLOAT16_ISAS = {"avx512bf16", "amx"}


@cache
def bfloat16_here() -> bool:
    """Whether precision="bfloat16" is another arithmetic than "float32" on this machine's processor."""
    module = extension()
    return forced() in (None, "cpu") and module is not None and module.build_info()["isa"] in BFLOAT16_ISAS


def smoothed_relu(t: Tensor, delta: float) -> Tensor:
    """a(t) = 0, (t + delta)^2 / (4 delta), t for t below, within and above [-delta, delta] (eq. 33)."""
    s = t.clamp(-delta, delta) + delta
    return s * (s / (4 * delta)) + (t - delta).clamp_min(0)  # in this order no square vanishes or overflows


def smoothed_relu_slope(h: Tensor, delta: float) -> Tensor:
    """a'(t) from h = a(t): min(1, sqrt(h / delta))."""
    return (h / delta).clamp_max(1).sqrt()


def features(x: Tensor, weights: Sequence[Tensor], delta: float, final_activation: bool = False) -> list[Tensor]:
    """[a(W_1 x), ..., g(x)]: every layer's output, [B, C, H, W] each."""
    h = [x]
    for layer, w in enumerate(weights, 1):
        t = conv2d(h[-1], w, padding=w.shape[-1] // 2)
        h.append(smoothed_relu(t, delta) if final_activation or layer < len(weights) else t)
    return h[1:]


def smoothed_norm(g: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(value [B], dual y = g / n, n = max(|g|, eps), where |g| <= eps, g / eps there, 0 elsewhere), at least float32.

    No square vanishes or overflows, and autograd finds the right derivative, also at g = 0.
    """
    g = g.to(torch.promote_types(g.dtype, torch.float32))
    e = eps[:, None, None, None].to(g.dtype)
    down = power_for(g.detach().abs().amax(1, keepdim=True))
    square = (g * down).square().sum(1, keepdim=True)
    small = square.detach().sqrt() <= e * down
    size = torch.where(small, 1, square).sqrt()
    n = torch.where(small, e, size / down)
    inner = torch.where(small, g, 0)
    ratio = inner / e
    value = torch.where(small, (inner * ratio).sum(1, keepdim=True) / 2, n - e / 2)
    return value.flatten(1).sum(1), torch.where(small, ratio, g * down / size), n, small, ratio


def feature_gradient_value_ref(
    x: Tensor, weights: list[Tensor], eps: Tensor, delta: float, final_activation: bool, precision: str = "float32"
) -> Tensor:
    """The definition of the value [B]."""
    return smoothed_norm(features(x, weights, delta, final_activation)[-1], eps)[0].to(x.dtype)


def feature_gradient_fwd_ref(
    x: Tensor, weights: list[Tensor], eps: Tensor, delta: float, final_activation: bool, precision: str = "float32"
) -> tuple[Tensor, Tensor]:
    """The definition, differentiable by autograd. Returns value [B] and gradient like x."""
    h = features(x, weights, delta, final_activation)
    value, z, *_ = smoothed_norm(h[-1], eps)
    z = z.to(x.dtype)
    for layer in reversed(range(len(weights))):
        if layer < len(weights) - 1 or final_activation:
            z = z * smoothed_relu_slope_at(h[layer], delta)
        z = conv_transpose2d(z, weights[layer], padding=weights[layer].shape[-1] // 2)
    return value.to(x.dtype), z


def smoothed_relu_slope_at(h: Tensor, delta: float) -> Tensor:
    """a' from h = a(t), differentiable in h where 0 < h < delta and constant elsewhere."""
    inside = (h > 0) & (h < delta)
    return torch.where(inside, torch.where(inside, h / delta, 1).sqrt(), (h > 0).to(h.dtype))


def feature_gradient_vjp_ref(
    d_value: Tensor, d_grad: Tensor, x: Tensor, weights: list[Tensor], eps: Tensor, delta: float,
    final_activation: bool, precision: str = "float32",
) -> tuple[Tensor, list[Tensor], Tensor]:  # fmt: skip
    """The definition in closed form. Returns d_x like x, d_weights like weights, d_eps [B]."""
    e = eps[:, None, None, None]
    pads = [w.shape[-1] // 2 for w in weights]
    h, dot = [x], [d_grad]  # outputs of the layers and their tangents along d_grad
    slope = []
    last = len(weights) - 1
    for layer, w in enumerate(weights):
        t, dt = (conv2d(s, w, padding=pads[layer]) for s in (h[-1], dot[-1]))
        active = final_activation or layer < last
        slope.append(((t + delta) / (2 * delta)).clamp(0, 1) if active else torch.ones_like(t))
        curve = torch.where(t.abs() < delta, dt / (2 * delta), 0) if active else torch.zeros_like(t)
        h.append(smoothed_relu(t, delta) if active else t)
        dot.append(slope[-1] * dt)
        slope[-1] = torch.stack((slope[-1], curve))  # a' and a'' times the tangent
    g, dg = h.pop(), dot.pop()
    _, y, n, small, ratio = smoothed_norm(g, eps)
    dg, e, v = (s.to(y.dtype) for s in (dg, e, d_value[:, None, None, None]))
    along = (y * dg).sum(1, keepdim=True)
    dy = torch.where(small, dg / e, (dg - y * along) / n)
    within = -v / 2 * ratio.square().sum(1, keepdim=True) - along / e
    d_eps = torch.where(small, within, -v / 2).flatten(1).sum(1).to(eps.dtype)
    q, r = y.to(x.dtype), (dy + v * y).to(x.dtype)
    d_weights = [torch.empty(0)] * len(weights)
    for layer in reversed(range(len(weights))):
        a1, a2 = slope[layer]
        z, s = a1 * q, a1 * r + a2 * q
        d_weights[layer] = _weight_gradient(h[layer], s, weights[layer]) + _weight_gradient(
            dot[layer], z, weights[layer]
        )
        q, r = (conv_transpose2d(c, weights[layer], padding=pads[layer]) for c in (z, s))
    return r, d_weights, d_eps


def _weight_gradient(source: Tensor, cotangent: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.aten.convolution_backward(
        cotangent,
        source,
        weight,
        None,
        [1, 1],
        [weight.shape[-1] // 2] * 2,
        [1, 1],
        False,
        [0, 0],
        1,
        [False, True, False],
    )[1]


def flat_weights(weights: Sequence[Tensor]) -> Tensor:
    """All kernels in one contiguous vector, as the compiled code reads them."""
    return torch.cat([w.reshape(-1) for w in weights])


def has_kernel(x: Tensor, weights: Sequence[Tensor]) -> bool:
    """The compiled chain: 2 to 16 layers of 3x3 kernels with equal widths up to 128, one or two input channels."""
    width = weights[0].shape[0]
    return (
        x.dtype in _DTYPES
        and x.shape[1] <= 2
        and 2 <= len(weights) <= 16  # kMaxLayers and kMaxWidth of csrc/feature_layout.h
        and width <= 128
        and all(w.shape == (width, width if k else x.shape[1], 3, 3) for k, w in enumerate(weights))
    )


def kernel_sizes(
    x: Tensor, weights: Sequence[Tensor], delta: float, final_activation: bool, precision: str
) -> tuple[Any, ...]:
    """Sizes and options as the compiled kernels take them."""
    return *x.shape, weights[0].shape[0], len(weights), delta, final_activation, PRECISIONS[precision]


def _value_cpu(
    x: Tensor, weights: list[Tensor], eps: Tensor, delta: float, final_activation: bool, precision: str
) -> Tensor:
    if not has_kernel(x, weights) or x.numel() == 0:
        return NotImplemented
    x, flat, eps = x.contiguous(), flat_weights(weights), eps.contiguous()
    value = torch.empty_like(eps)
    compiled().feature_gradient_value(
        _DTYPES[x.dtype], x.data_ptr(), flat.data_ptr(), eps.data_ptr(), value.data_ptr(),
        *kernel_sizes(x, weights, delta, final_activation, precision),
    )  # fmt: skip
    return value


def _fwd_cpu(
    x: Tensor, weights: list[Tensor], eps: Tensor, delta: float, final_activation: bool, precision: str
) -> tuple[Tensor, Tensor]:
    if not has_kernel(x, weights) or x.numel() == 0:
        return NotImplemented
    x, flat, eps = x.contiguous(), flat_weights(weights), eps.contiguous()
    value, grad = torch.empty_like(eps), torch.empty_like(x)
    compiled().feature_gradient_fwd(
        _DTYPES[x.dtype], x.data_ptr(), flat.data_ptr(), eps.data_ptr(), value.data_ptr(), grad.data_ptr(),
        *kernel_sizes(x, weights, delta, final_activation, precision),
    )  # fmt: skip
    return value, grad


def _vjp_cpu(
    d_value: Tensor, d_grad: Tensor, x: Tensor, weights: list[Tensor], eps: Tensor, delta: float,
    final_activation: bool, precision: str,
) -> tuple[Tensor, list[Tensor], Tensor]:  # fmt: skip
    if not has_kernel(x, weights) or x.numel() == 0:
        return NotImplemented
    d_value, d_grad, x, eps = (t.contiguous() for t in (d_value, d_grad, x, eps))
    flat = flat_weights(weights)
    d_x, d_flat, d_eps = torch.empty_like(x), torch.empty_like(flat), torch.empty_like(eps)
    compiled().feature_gradient_vjp(
        _DTYPES[x.dtype], d_value.data_ptr(), d_grad.data_ptr(), x.data_ptr(), flat.data_ptr(), eps.data_ptr(),
        d_x.data_ptr(), d_flat.data_ptr(), d_eps.data_ptr(),
        *kernel_sizes(x, weights, delta, final_activation, precision),
    )  # fmt: skip
    parts = d_flat.split([w.numel() for w in weights])
    return d_x, [p.view_as(w).clone() for p, w in zip(parts, weights, strict=True)], d_eps


_value = define(
    "feature_gradient_value(Tensor x, Tensor[] weights, Tensor eps, float delta, bool final_activation, str precision)"
    " -> Tensor",
    "feature_gradient",
    ref=by_image(feature_gradient_value_ref, 0, 2),
    cpu=_value_cpu,
    fake=lambda x, weights, eps, *_: shaped(eps),
)
_fwd = define(
    "feature_gradient_fwd(Tensor x, Tensor[] weights, Tensor eps, float delta, bool final_activation, str precision)"
    " -> (Tensor value, Tensor grad)",
    "feature_gradient",
    ref=by_image(feature_gradient_fwd_ref, 0, 2),
    cpu=_fwd_cpu,
    fake=lambda x, weights, eps, *_: shaped(eps, x),
)
_vjp = define(
    "feature_gradient_vjp(Tensor d_value, Tensor d_grad, Tensor x, Tensor[] weights, Tensor eps, float delta,"
    " bool final_activation, str precision) -> (Tensor d_x, Tensor[] d_weights, Tensor d_eps)",
    "feature_gradient",
    ref=feature_gradient_vjp_ref,
    cpu=_vjp_cpu,
    fake=lambda d_value, d_grad, x, weights, eps, *_: (shaped(x), [shaped(w) for w in weights], shaped(eps)),
)


# Forward takes its arguments as `*arguments` alone: torch.compile believes that there is no context wherever forward is
# given as many arguments as it names, and knows no setup_context with `*`.


class _Vjp(torch.autograd.Function):
    """The derivative of _FeatureGradient; its own derivative differentiates the definition."""

    @staticmethod
    def forward(ctx, *arguments):
        d_value, d_grad, x, eps, *options, precision = arguments[:7]
        weights = arguments[7:]
        ctx.options = options
        ctx.save_for_backward(d_value, d_grad, x, eps, *weights)
        d_x, d_weights, d_eps = _vjp(d_value, d_grad, x, list(weights), eps, *options, precision)
        return d_x, d_eps, *d_weights

    @staticmethod
    def backward(ctx, *cotangents):
        with torch.enable_grad():
            saved = [t.detach().requires_grad_() for t in ctx.saved_tensors]
            d_value, d_grad, x, eps, *weights = saved
            d_x, d_weights, d_eps = feature_gradient_vjp_ref(d_value, d_grad, x, weights, eps, *ctx.options)
            outputs = [d_x, d_eps, *d_weights]
            pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if c is not None and o.requires_grad]
            used, given = [o for o, _ in pairs], [c for _, c in pairs]
            grads = torch.autograd.grad(used, saved, given, allow_unused=True)
        return *grads[:4], None, None, None, *grads[4:]


class _FeatureGradient(torch.autograd.Function):
    """Value and gradient of r_eps, differentiable in x, eps and the weights."""

    @staticmethod
    def forward(ctx, *arguments):
        x, eps, *options = arguments[:5]
        weights = arguments[5:]
        ctx.options = options
        ctx.save_for_backward(x, eps, *weights)
        return _fwd(x, list(weights), eps, *options)

    @staticmethod
    def backward(ctx, d_value, d_grad):
        x, eps, *weights = ctx.saved_tensors
        d_x, d_eps, *d_weights = _Vjp.apply(d_value, d_grad, x, eps, *ctx.options, *weights)
        return d_x, d_eps, None, None, None, *d_weights


@accepts_arrays
def feature_gradient(
    x: Tensor, weights: Sequence[Tensor], eps: float | Tensor, delta: float = 0.01, final_activation: bool = False,
    *, precision: str = "float32",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Value and gradient of the learned regulariser r_eps(x) = sum_i h_eps(|g_i(x)|) in one call.

    Args:
        x: images [B, C, H, W].
        weights: convolution kernels [C_out, C_in, k, k] of the layers, k odd; no bias.
        eps: smoothing radius, > 0: a number, or [B].
        delta: radius of the smoothed ReLU, > 0.
        final_activation: whether the last layer is activated too (as the paper writes; the authors' code does not).
        precision: of float32 products. "float32": Winograd, at 1.5 to 2 times the rounding error of "direct", which
            takes two to three times as long. "bfloat16", where that is faster (AMD's AVX-512 with bfloat16,
            Intel's AMX with 17 to 128 channels): about 1e-2 relative error of the gradient and 1e-3 of the value;
            elsewhere as "float32". "tf32": on GPUs that have it, with
            three more bits; elsewhere as "float32". Products with the image stay exact. Derivatives never use bfloat16.

    Returns:
        value [B] and gradient like x, both differentiable in x, weights and eps, twice.

    Raises:
        ValueError: shapes, types or devices do not fit.

    Source: Chen, Liu, Ye & Zhang, arXiv:2007.11245, eqs. (8)-(10), (33).
    """
    eps = _check("feature_gradient", x, weights, eps, delta, final_activation, precision)
    options = float(delta), bool(final_activation), precision
    if transformed():
        return feature_gradient_fwd_ref(x, list(weights), eps, *options)
    if differentiated(x, eps, *weights):
        return _FeatureGradient.apply(x, eps, *options, *weights)
    return _fwd(x, list(weights), eps, *options)


@accepts_arrays
def feature_value(
    x: Tensor, weights: Sequence[Tensor], eps: float | Tensor, delta: float = 0.01, final_activation: bool = False,
    *, precision: str = "float32",
) -> Tensor:  # fmt: skip
    """The value r_eps(x) [B] alone, at half the cost of `feature_gradient`; same arguments, errors and derivatives."""
    eps = _check("feature_value", x, weights, eps, delta, final_activation, precision)
    if transformed() or differentiated(x, eps, *weights):
        return feature_gradient(x, weights, eps, delta, final_activation, precision=precision)[0]
    return _value(x, list(weights), eps, float(delta), bool(final_activation), precision)


def _check(
    op: str, x: Tensor, weights: Sequence[Tensor], eps: float | Tensor, delta: float, final_activation: bool,
    precision: str,
) -> Tensor:  # fmt: skip
    expect(x.ndim == 4 and x.is_floating_point(), op, "x", "real [B, C, H, W]", x)
    several = not isinstance(weights, Tensor | str) and hasattr(weights, "__len__") and len(weights) > 0
    if not several:
        expect(False, op, "weights", "a list of convolution kernels, at least one", named(weights))
    held(delta, x.dtype, op, "delta", above=0)
    flag(final_activation, op, "final_activation")
    choice(precision, PRECISIONS, op, "precision")
    channels = x.shape[1]
    for k, w in enumerate(weights):
        fits = isinstance(w, Tensor) and w.ndim == 4 and w.shape[1] == channels and w.shape[0] > 0
        fits = fits and w.shape[2] == w.shape[3] and w.shape[2] % 2 == 1
        expect(fits, op, f"weights[{k}]", f"[C_out, {channels}, k, k] with odd k", w)
        expect(w.dtype == x.dtype and w.device == x.device, op, f"weights[{k}]", f"{x.dtype} on {x.device}", w)
        channels = w.shape[0]
    return per_image(eps, x, op, "eps", above=0)
