"""Filters of filtered back-projection (Kak & Slaney, Principles of Computerized Tomographic Imaging, chapter 3)."""

import math

import torch
from torch import Tensor

FILTERS = {  # windows over frequency, 0 at zero and 1 at the highest that the detectors resolve
    "ramp": lambda v: torch.ones_like(v),
    "shepp-logan": lambda v: torch.sinc(v / 2),
    "cosine": lambda v: torch.cos(math.pi / 2 * v),
    "hamming": lambda v: 0.54 + 0.46 * torch.cos(math.pi * v),
    "hann": lambda v: 0.5 + 0.5 * torch.cos(math.pi * v),
}

# Linear interpolation between samples loses sinc^2, of which this puts a little back: more would raise the lines that
# too few views leave, less is behind scikit-image on its own projections.
SHARPER = 1 / 32


def filtered(y: Tensor, step: float, window: str, finer: int, on_arc: bool = False, sharper: float = 0.0) -> Tensor:
    """Projections y [..., D] through the ramp filter, interpolated by their spectrum to [..., finer (D - 1) + 1].

    Args:
        y: samples `step` apart, 0 beyond their ends.
        step: length, or with `on_arc` angle of an equiangular fan, whose ramp is (g / sin g)^2 times the common one.
        window: a name in FILTERS.
        finer: samples of the result per step.
        sharper: power of 1 / sinc(frequency) that comes on top.
    """
    D = y.shape[-1]
    n = 1 << (2 * D - 1).bit_length()  # zeros for the longest response: no part of it comes round
    k = torch.arange(n // 2 + 1, device=y.device, dtype=torch.float64)
    response = torch.where(k % 2 == 1, -1 / (math.pi * k.clamp_min(1) * step).square(), 0)
    response[0] = 1 / (4 * step**2)
    if on_arc:
        g = k[: D + 1] * step
        response[D:] = 0  # detectors are at most D - 1 steps apart; further out the sine would return to 0
        response[: D + 1] /= torch.sinc(g / math.pi).square()
    response = torch.cat((response, response[1:-1].flip(0)))
    gain = torch.fft.rfft(response).real * step * FILTERS[window](2 * k / n)
    gain = gain * torch.sinc(k / n) ** -sharper
    spectrum = torch.fft.rfft(y, n) * gain.to(y.dtype)
    spectrum[..., -1] /= 2  # the highest frequency has two halves in a finer grid
    return torch.fft.irfft(spectrum * finer, finer * n)[..., : finer * (D - 1) + 1]


def view_weights(angles: Tensor, period: float) -> Tensor:
    """The part of a turn [A] that each view stands for, half the gaps to its neighbours modulo `period`.

    A gap counts at most four times the mean one: views at the ends of a wedge that is missing are not blown up.
    """
    t, order = (angles % period).sort()
    gaps = torch.diff(t, append=t[:1] + period).clamp_max(4 * period / len(t))
    weights = torch.empty_like(angles)
    weights[order] = (gaps + gaps.roll(1)) / 2
    return weights
