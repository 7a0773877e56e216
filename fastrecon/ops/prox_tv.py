"""The proximal map of total variation, min_x |x - y|^2 / 2 + lam sum_i |(D x)_i|, by fast gradient projection.

D: differences to the right and downwards, 0 in the last column and row. The dual is min |y - D* u|^2 / 2 over
|u_i| <= lam, and x = y - D* u; |D|^2 <= 8. At any such u the duality gap sum_i lam |(D x)_i| - <(D x)_i, u_i> has no
negative term, and |x - x*|^2 <= 2 gap.
Source: Beck & Teboulle, Fast Gradient-Based Algorithms for Constrained Total Variation Image Denoising and Deblurring
Problems, IEEE Trans. Image Process. 18 (2009); restart: O'Donoghue & Candes, Adaptive Restart for Accelerated Gradient
Schemes, Found. Comput. Math. 15 (2015), by the gap.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastrecon.checks import accepts_arrays, expect, flag, integer, number, per_image
from fastrecon.ops.by_image import by_image
from fastrecon.ops.function import differentiated, transformed
from fastrecon.ops.layout import DTYPES, power_for
from fastrecon.registry import compiled, define

LOOK = 8  # iterations between two looks at the gap: it is jagged, and restarts at every rise would cost speed
TOL, ITERATIONS, MOST = 1e-4, 2000, 10**9


class ProxTV(NamedTuple):
    """The proximal map of total variation.

    Attributes:
        x: images, like y.
        dual: p [B, C, 2, H, W] with x = y - lam D* p and |p_i| <= 1, of the dtype of y: a start for similar images.
        gap: duality gap [B], float64; |x - x*|^2 <= 2 gap, x* the exact map.
        objective: |x - y|^2 / 2 + lam TV(x) [B], float64; the least is at most `gap` below.
        iterations: [B], int64; of the slowest channel.
    """

    x: Tensor
    dual: Tensor
    gap: Tensor
    objective: Tensor
    iterations: Tensor


def differences(x: Tensor) -> Tensor:
    """D x [..., 2, H, W] of images [..., H, W]: to the right and downwards."""
    right = torch.cat((x[..., 1:] - x[..., :-1], torch.zeros_like(x[..., :1])), -1)
    down = torch.cat((x[..., 1:, :] - x[..., :-1, :], torch.zeros_like(x[..., :1, :])), -2)
    return torch.stack((right, down), -3)


def adjoint(u: Tensor) -> Tensor:
    """D* u [..., H, W] of u [..., 2, H, W] that is 0 where D is."""
    right, down = u.unbind(-3)
    left = torch.cat((torch.zeros_like(right[..., :1]), right[..., :-1]), -1)
    above = torch.cat((torch.zeros_like(down[..., :1, :]), down[..., :-1, :]), -2)
    return left - right + (above - down)


def lengths(d: Tensor, isotropic: bool) -> Tensor:
    """|d_i| of d [B, G, 2, H, W], the dimensions kept: over G and both directions, or over G alone."""
    squares = d.square().sum((1, 2) if isotropic else 1, keepdim=True)
    return squares.sqrt()


def prox_tv_ref(
    y: Tensor, lam: Tensor, p: Tensor, tol: float, iterations: int, isotropic: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The definition: y [B, G, H, W] real, whose G numbers a pixel share one length; lam [B]; p [B, G, 2, H, W].

    Returns x like y, p, sums float64 [B, 2] (gap, objective), count int64 [B]. NaN where lam is not >= 0.
    """
    dtype, wide = y.dtype, torch.promote_types(y.dtype, torch.float32)
    y, p, radius = y.to(wide), p.to(wide), lam.to(wide).view(-1, 1, 1, 1, 1)
    inside = differences(torch.zeros_like(y)).clone()
    inside[..., 0, :, :-1], inside[..., 1, :-1, :] = 1, 1

    def project(u: Tensor) -> Tensor:
        size = lengths(u, isotropic)
        return torch.where(size > radius, u * (radius / size), u)

    u = project(torch.where(inside > 0, radius * p, 0))
    old, none = u, torch.zeros_like(lam, dtype=torch.float64)
    last, t, weight, done = none + torch.inf, none + 1, none, none > 0
    sums, count = torch.stack((none, none), 1), torch.zeros_like(done, dtype=torch.int64)
    for k in range(iterations + 1):
        if k % LOOK == 0 or k == iterations:
            x = y - adjoint(u)
            d = differences(x).double()
            size = lengths(d, isotropic) * radius.double()
            gap = size.flatten(1).sum(1) - (d * u.double()).flatten(1).sum(1)
            objective = (x - y).double().square().flatten(1).sum(1) / 2 + size.flatten(1).sum(1)
            gap = torch.where(gap < 0, 0, gap)
            sums = torch.where(done[:, None], sums, torch.stack((gap, objective), 1))
            count = torch.where(done, count, k)
            done = done | ~(gap > tol * objective)
            if k == iterations or not (transformed() or y.is_cuda or not done.all()):
                break
            rises = gap > last
            last, t, weight = gap, torch.where(rises, 1, t), torch.where(rises, 0, weight)
        q = torch.lerp(old, u, 1 + weight.to(wide).view(-1, 1, 1, 1, 1))
        new = project(q + differences(y - adjoint(q)) / 8)
        keep = done.view(-1, 1, 1, 1, 1)
        old, u = torch.where(keep, old, u), torch.where(keep, u, new)
        following = (1 + (1 + 4 * t.square()).sqrt()) / 2
        t, weight = following, (t - 1) / following
    sound = (lam >= 0).view(-1, 1, 1, 1)
    x = torch.where(sound, y - adjoint(u), torch.nan)
    p = torch.where(sound[..., None], torch.where(radius > 0, u / radius, 0), torch.nan)
    sums = torch.where(sound[:, 0, 0], sums, torch.nan)
    return x.to(dtype), p.to(dtype), sums, count


def _cpu(y: Tensor, lam: Tensor, p: Tensor, tol: float, iterations: int, isotropic: bool):
    if y.dtype not in (torch.float32, torch.float64) or y.numel() == 0:
        return NotImplemented
    y, lam, p = y.contiguous(), lam.contiguous(), p.contiguous()
    x, dual = torch.empty_like(y), torch.empty_like(p)
    sums, count = torch.empty(len(y), 2, dtype=torch.float64), torch.empty(len(y), dtype=torch.int64)
    arrays = (y, lam, p, x, dual, sums, count)
    compiled().prox_tv(DTYPES[y.dtype], *(t.data_ptr() for t in arrays), *y.shape, tol, iterations, LOOK, isotropic)
    return x, dual, sums, count


def _fake(y: Tensor, lam: Tensor, p: Tensor, *_: Any):
    sums, count = y.new_empty(y.shape[0], 2, dtype=torch.float64), y.new_empty(y.shape[0], dtype=torch.int64)
    return y.new_empty(y.shape), p.new_empty(p.shape), sums, count


_prox_tv = define(
    "prox_tv(Tensor y, Tensor lam, Tensor p, float tol, int iterations, bool isotropic)"
    " -> (Tensor x, Tensor dual, Tensor sums, Tensor count)",
    "prox_tv",
    ref=by_image(prox_tv_ref, 0, 1, 2),
    cpu=_cpu,
    fake=_fake,
)


@accepts_arrays
def prox_tv(
    y: Tensor, lam: float | Tensor, isotropic: bool = True, dual: Tensor | None = None, *, joint: bool = False,
    tol: float = TOL, iterations: int = ITERATIONS,
) -> ProxTV:  # fmt: skip
    """The proximal map of total variation, argmin_x |x - y|^2 / 2 + lam TV(x), to a duality gap.

    TV(x) is the sum over pixels of the length of the two differences, to the right and downwards (isotropic), or of
    their absolute values (anisotropic); no difference reaches beyond the image. A complex image has one TV, whose
    lengths run over real and imaginary part.

    Args:
        y: images [B, C, H, W], real or complex.
        lam: weight, >= 0: a number, or [B]. NaN comes out where a tensor holds another.
        isotropic: see above.
        dual: of an earlier call, to start from; None: 0.
        joint: one TV for all channels of an image, whose lengths run over the channels: edges are where they are in
            others (Bresson & Chan 2008). False: each channel on its own.
        tol: an image, or a channel on its own, is done once gap <= tol objective, looked at every 8 iterations; both
            scale with the square of y. Float32 does not reach much below 1e-6.
        iterations: at most this many, 0 to 1e9.

    Returns:
        ProxTV. Nothing is differentiable yet.

    Raises:
        ValueError: shapes, types or devices do not fit, a number is out of range, or an input requires gradients.

    Source: Beck & Teboulle, IEEE Trans. Image Process. 18 (2009).
    """
    op = "prox_tv"
    images = y.ndim == 4 and (y.is_floating_point() or y.is_complex())
    expect(images, op, "y", "real or complex images [B, C, H, W]", y)
    weight = per_image(lam, y, op, "lam", least=0)
    isotropic, joint = flag(isotropic, op, "isotropic"), flag(joint, op, "joint")
    tol, iterations = float(number(tol, op, "tol", least=0)), integer(iterations, op, "iterations", least=0, most=MOST)
    B, C, H, W = y.shape
    if dual is None:
        start = y.new_zeros(B, C, 2, H, W)
    else:
        fits = dual.shape == (B, C, 2, H, W) and dual.dtype == y.dtype and dual.device == y.device
        expect(fits, op, "dual", f"({B}, {C}, 2, {H}, {W}) {y.dtype} on {y.device}", dual)
        start = dual
    learned = differentiated(y, weight, start)
    expect(not learned, op, "y, lam, dual", "no gradients asked for: detach them", "requires_grad or tangents")
    # what squares could not take is scaled by a power of two, which rounds nothing
    y2, p2 = _grouped(y, joint), _grouped(start, joint)
    alone = 1 if joint else C  # parts of an image that have a TV each
    largest = y2.abs().amax((1, 2, 3)) if C * H * W else y2.new_zeros(B * alone)
    scale = power_for(largest.to(torch.promote_types(y2.dtype, torch.float32))).to(y2.dtype)
    each = weight if alone == 1 else weight.repeat_interleave(C)
    function = prox_tv_ref if transformed() else _prox_tv
    x, p, sums, count = function(
        y2 * scale.view(-1, 1, 1, 1), (each * scale).contiguous(), p2, tol, iterations, isotropic
    )
    x, sums = x / scale.view(-1, 1, 1, 1), sums / scale.double()[:, None] ** 2
    gap, objective = sums.view(B, alone, 2).sum(1).unbind(1)
    slowest = count.view(B, alone).amax(1) if alone else count.new_zeros(B)
    return ProxTV(_back(x, y), _back(p, start), gap, objective, slowest)


def _grouped(t: Tensor, joint: bool) -> Tensor:
    """[B, C, ...] as real [images, numbers of a pixel, ...]."""
    B, C = t.shape[:2]
    t = t.resolve_conj().resolve_neg()
    if not joint:
        t = t.reshape(B * C, 1, *t.shape[2:])
    if t.is_complex():
        t = torch.view_as_real(t).movedim(-1, 2).flatten(1, 2)
    return t.contiguous()


def _back(t: Tensor, like: Tensor) -> Tensor:
    """Undoes `_grouped`."""
    if not like.is_complex():
        return t.reshape(like.shape)
    return torch.view_as_complex(t.unflatten(1, (-1, 2)).movedim(2, -1).contiguous()).reshape(like.shape)
