"""Noise on images, from a generator of the caller: the same on every device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastrecon.checks import expect, named, number
from fastrecon.ops.wavelet_transform import dwt2

FEW = 100  # squares of known pixels, or dark frequencies, tell too little
DECIDING = 0.15  # a frequency, in cycles a pixel, about which deconvolution has to decide what is picture
SLOW = 0.05  # frequencies below it follow no law
MIDDLE, DARK = (0.1, 0.4), 0.05  # frequencies there are dark where the blur leaves so much of them
STARTS = (0.0, -3.0)  # slopes of log noise: white, and that of photographs from cameras
UNSURE = 0.5  # share of what is seen outermost that is noise for sure
LAWFUL = 30  # frequencies, of which three numbers are told; of fewer none
FAINTER = (0.0, -3.0)  # logarithms of white noise, from that of all the power seen far out
SCORINGS = 50  # at most; 10 are usual
COLOURED = 5.0  # times the finest details; of photographs with measured kernels it is 3 to 4
DIGITAL = 1e-12  # no power is less


def salt_and_pepper(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """x on [0, 1] with about `share` of its entries replaced, half of them by 0 and half by 1.

    Args:
        x: real, any shape.
        share: in [0, 1].
        generator: on the CPU.

    Raises:
        ValueError: an argument is not of its kind, or share out of range.
    """
    op = "salt_and_pepper"
    expect(isinstance(x, Tensor) and x.is_floating_point(), op, "x", "a real tensor", named(x))
    number(share, op, "share", least=0, most=1)
    fits = isinstance(generator, torch.Generator) and generator.device.type == "cpu"
    expect(fits, op, "generator", "a torch.Generator on the CPU", named(generator))
    u = torch.rand(x.shape, generator=generator, dtype=torch.float64).to(x.device)
    return torch.where(u < share / 2, 0, torch.where(u < share, 1, x))


def estimate(x: Tensor) -> Tensor:
    """Standard deviation [B] of white noise on images [B, C, H, W]: median |c| / 0.6745 of the finest diagonal details.

    Edges are few and faint there, and blur leaves only noise. Of images smaller than 4 pixels a side it is 0.

    Source: Donoho & Johnstone, Ideal Spatial Adaptation by Wavelet Shrinkage, Biometrika 81 (1994).

    Raises:
        ValueError: x is no batch of real images.
    """
    op = "estimate"
    expect(
        isinstance(x, Tensor) and x.ndim == 4 and x.is_floating_point(), op, "x", "real images [B, C, H, W]", named(x)
    )
    h, w = (n - n % 2 for n in x.shape[-2:])
    if min(h, w) < 4:
        return x.new_zeros(len(x), dtype=torch.float64)
    details = dwt2(x[..., :h, :w].contiguous(), "db2", 1)[..., h // 2 :, w // 2 :]
    return details.abs().flatten(1).double().median(1).values / 0.6745


def estimate_known(x: Tensor, known: Tensor) -> Tensor:
    """Standard deviation [B] of white noise on images [B, C, H, W] of which only some pixels are known.

    As `estimate`, from the details (a - b - c + d) / 2 of squares of four pixels that are all known; NaN where there
    are fewer than 100 of them. Fine texture counts as noise: of photographs without any it finds up to 0.035, where
    white is 1.

    Args:
        x: real.
        known: 1 or true where a pixel is known, broadcastable to x.

    Raises:
        ValueError: x is no batch of real images.
    """
    op = "estimate_known"
    expect(
        isinstance(x, Tensor) and x.ndim == 4 and x.is_floating_point(), op, "x", "real images [B, C, H, W]", named(x)
    )
    m = (known > 0).expand(x.shape)
    whole = m[..., :-1, :-1] & m[..., :-1, 1:] & m[..., 1:, :-1] & m[..., 1:, 1:]
    detail = (x[..., :-1, :-1] - x[..., :-1, 1:] - x[..., 1:, :-1] + x[..., 1:, 1:]).abs().double() / 2
    found = [d[w] for d, w in zip(detail, whole, strict=True)]
    return torch.stack([
        d.median() / 0.6745 if len(d) >= FEW else d.new_full((), float("nan")) for d in found
    ]) if len(x) else x.new_zeros(0, dtype=torch.float64)  # fmt: skip


def estimate_blurred(y: Tensor, kernel: Tensor) -> Tensor:
    """Standard deviation [B] of the noise on blurred images y [B, C, H, W], the channels on average, told by
    frequencies that the blur leaves dark.

    The noise of real photographs is coloured, by what a camera and its file do to it, and what is wrong with a kernel
    stands where the picture does: the finest details, of which `estimate` knows, hold less of both than the middle
    frequencies at which a deconvolution decides. The power at frequency f is modelled as c |k(f)|^2 / |f|^a + s(f)^2,
    log s linear in |f|, by the largest likelihood (Whittle's); s at 0.15 cycles a pixel is the answer.
    Where the blur leaves too little dark, it is that of `estimate`, and never more than five times that: where there is
    no noise, the model's own error would pass for it.

    Args:
        y: real.
        kernel: [h, w], no larger than the images.

    Source: Whittle, Estimation and Information in Stationary Time Series, Arkiv för Matematik 2 (1953).

    Raises:
        ValueError: an argument is not of its kind.
    """
    op = "estimate_blurred"
    expect(isinstance(y, Tensor) and y.ndim == 4 and y.is_floating_point(), op, "y", "real images [B, C, H, W]",
           named(y))  # fmt: skip
    size = (y.shape[-2], y.shape[-1])
    fits = isinstance(kernel, Tensor) and kernel.ndim == 2 and kernel.shape[0] <= size[0] and kernel.shape[1] <= size[1]
    expect(fits, op, "kernel", "a tensor [h, w] no larger than the images", named(kernel))
    down, right = (torch.hann_window(n + 2, periodic=False, dtype=torch.float64, device=y.device)[1:-1] for n in size)
    window = torch.outer(down, right)
    window = window / window.square().mean().sqrt()
    f = torch.fft.fftfreq(size[0], dtype=torch.float64, device=y.device)[:, None].hypot(
        torch.fft.rfftfreq(size[1], dtype=torch.float64, device=y.device)
    )
    power = torch.fft.fft2(kernel.to(window), s=size).abs().square()
    for dim in (0, 1):  # the window spreads every frequency over its neighbours
        power = power * 2 / 3 + (power.roll(1, dim) + power.roll(-1, dim)) / 6
    power, used = power[:, : f.shape[1]], f > SLOW
    dark = used & (f < MIDDLE[1]) & (f > MIDDLE[0]) & (power < DARK**2)
    if int(dark.sum()) < FEW:
        return estimate(y)
    weight = window.square() / window.square().sum()

    def one(image: Tensor) -> Tensor:
        seen = torch.fft.rfft2((image - (image * weight).sum()) * window, norm="ortho").abs().square()
        return _level(seen[used].clamp_min(DIGITAL), power[used], f[used], seen[dark].mean())

    fine = estimate(y)
    found = [
        torch.stack([one(c) for c in image]).mean().minimum(COLOURED * e)
        for image, e in zip(y.double(), fine, strict=True)
    ]
    return torch.stack(found) if found else fine


def estimate_frequencies(power: Tensor, f: Tensor, outer: Tensor) -> Tensor:
    """Standard deviation of white noise among frequencies of a picture: s of the model c / f^a + s^2 of the power.

    The finest details of pictures, which follow that law about, do not pass for noise; where they fall off faster,
    noise would pass for details: it is at least half of what the outermost frequencies tell.

    Args:
        power: of the frequencies that were measured, mean square of a real number of each [N], > 0.
        f: where they lie, in cycles a pixel [N].
        outer: the deviation [] of the outermost ones, > 0, which it cannot exceed; the answer where there are few.

    Source: Whittle, as of `estimate_blurred`.
    """
    used, level = f > SLOW, outer.double().clamp_min(DIGITAL**0.5)
    if used.sum() < LAWFUL:
        return level
    power, f = power[used].double().clamp_min(DIGITAL), f[used].double()
    unit = power.mean()  # measured in any unit
    start = (level / unit.sqrt()).log()
    starts = [torch.stack([power.new_tensor(0.01).log(), power.new_tensor(2.5), start + e]) for e in FAINTER]
    found = _likeliest(power / unit, torch.ones_like(f), f, starts)
    return (unit.sqrt() * found).clamp(UNSURE * level, level)


def _level(seen: Tensor, power: Tensor, f: Tensor, dark: Tensor) -> Tensor:
    """s at DECIDING of the model c power / f^a + s(f)^2, log s linear in f, for powers seen [N]."""
    starts = [
        torch.stack([(seen.mean() / 100).log(), dark.new_tensor(2.5), dark.clamp_min(DIGITAL).log() / 2,
                     dark.new_tensor(slope)]) for slope in STARTS
    ]  # fmt: skip
    return _likeliest(seen, power, f, starts)


def _likeliest(seen: Tensor, power: Tensor, f: Tensor, starts: Sequence[Tensor]) -> Tensor:
    """s at DECIDING, from starts [log c, a, log s, b], or without b: white noise.

    Fisher's scoring, halved until the likelihood rises, from each start: the likelier end.
    """
    slow, fast = -f.log(), f - DECIDING
    best, answer = torch.inf, starts[0][2].exp()

    def parts_of(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        image = power * (t[0] + t[1] * slow).exp()
        model = image + (2 * (t[2] + t[3] * fast if len(t) > 3 else t[2])).exp()
        return image / model, seen / model, (model.log() + seen / model).mean()

    for t in starts:
        share, ratio, value = parts_of(t)
        for _ in range(SCORINGS):
            rates = torch.stack([share, share * slow, 2 * (1 - share), 2 * (1 - share) * fast][: len(t)])
            fisher = rates @ rates.T / len(f)
            ridge = 1e-9 * fisher.trace() * torch.eye(len(t)).to(fisher)
            step = torch.linalg.solve(fisher + ridge, rates @ (ratio - 1) / len(f))
            size = (2 / step.abs().max()).clamp_max(1)
            while size > 1e-3:
                new = t + size * step
                tried = parts_of(new)
                if tried[2] < value:
                    break
                size /= 2
            else:
                break
            gained, t = value - tried[2], new
            share, ratio, value = tried
            if gained < 1e-9:
                break
        if value < best:
            best, answer = value, t[2].exp()
    return answer
