"""Rain, the model: O = B + R, clipped where it is white, with a background B and streaks R >= 0 of one colour.

Photographs [B, C, H, W] lie on [0, 1]. Streaks are drawn: drops at random places, each a stroke of some length, width
and direction, hard or soft at its ends and sides; some layers of them, nearer and farther, over one another.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LONGEST, WIDEST = 80.0, 5.0  # pixels, of a drawn stroke
DENSEST = 0.35  # mean of the streaks of a picture, at most
MARGIN = 44  # pixels around a drawn layer: half of the longest stroke


@dataclass(frozen=True)
class Layer:
    """A layer of streaks in numbers; [B] each, one for every picture.

    Attributes:
        angle: in radians from upright, > 0 falling to the right.
        length, width: of strokes in pixels.
        softness: of their sides and ends, in pixels and in shares of the length.
        cover: expected number of strokes over a pixel.
        strength: of a stroke, where white is 1.
        joined: share of streaks that add up where strokes meet; else the strongest shows.
    """

    angle: Tensor
    length: Tensor
    width: Tensor
    softness: Tensor
    cover: Tensor
    strength: Tensor
    joined: Tensor


def strokes(layer: Layer, side: int) -> Tensor:
    """One stroke of every picture in the middle of [B, side, side], `side` odd: profiles along times across."""
    at = torch.arange(side, dtype=torch.float32) - side // 2
    c, s = (f(layer.angle).view(-1, 1, 1) for f in (torch.cos, torch.sin))
    along = at[:, None] * c + at * s
    across = at * c - at[:, None] * s
    length, width, soft = (t.view(-1, 1, 1) for t in (layer.length, layer.width, layer.softness))
    ends = ((length / 2 - along.abs()) / (0.5 + soft * length / 2) + 0.5).clamp(0, 1)
    sides = ((width / 2 - across.abs()) / (0.5 + soft) + 0.5).clamp(0, 1)
    return ends * sides


def drawn(layer: Layer, size: Sequence[int], generator: torch.Generator) -> Tensor:
    """A layer of streaks [B, 1, H, W] >= 0, from a generator on the CPU."""
    h, w = (n + 2 * MARGIN for n in size)
    stroke = strokes(layer, 2 * MARGIN + 1)
    area = stroke.sum((1, 2)).clamp_min(1)
    count = len(stroke)
    rate = (layer.cover / area).view(-1, 1, 1)
    drops = torch.rand(count, h, w, generator=generator)
    field = torch.fft.rfft2(torch.where(drops < rate, 0.4 + 0.6 * drops / rate, 0))  # where a drop is, a strength
    kernel = torch.fft.rfft2(stroke, s=(h, w))
    found = torch.fft.irfft2(field * kernel, s=(h, w))[:, 2 * MARGIN :, 2 * MARGIN :].clamp_min(0)
    found = torch.lerp(found.clamp_max(1), found, layer.joined.view(-1, 1, 1))
    return (layer.strength.view(-1, 1, 1) * found)[:, None]


class Draws:
    """Random rain, from one generator on the CPU.

    Args:
        seed: of the generator.
    """

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Numbers in [low, high)."""
        return low + (high - low) * torch.rand(shape, generator=self.generator)

    def spread(self, low: float, high: float, *shape: int) -> Tensor:
        """Numbers in [low, high), low > 0, whose logarithms are uniform."""
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def layer(self, angle: Tensor, strength: Tensor, hard: Tensor) -> Layer:
        """A layer of such rain, of which `hard` [B] bool has edges; near drops are long, wide and few."""
        count = len(angle)
        near = self.uniform(0, 1, count)
        length = 5 + (LONGEST - 5) * (0.65 * near + 0.35 * self.uniform(0, 1, count)).square()
        width = 0.8 + (WIDEST - 0.8) * (0.6 * near + 0.4 * self.uniform(0, 1, count)).square()
        softness = torch.where(hard, self.uniform(0, 0.3, count), self.uniform(0.3, 1.5, count))
        cover = self.spread(0.04, 1.2, count)
        joined = torch.where(hard, 0.5 * self.uniform(0, 1, count), 1.0)
        return Layer(angle, length, width, softness, cover, strength, joined)

    def streaks(self, count: int, size: Sequence[int]) -> Tensor:
        """R [B, 1, H, W]: one to three layers, falling alike or across one another, stronger here and weaker there."""
        base = 0.4 * torch.randn(count, generator=self.generator).clamp(-2.5, 2.5)
        strength, hard = self.spread(0.08, 0.9, count), self.uniform(0, 1, count) < 0.6
        layers = (1 + 2.999 * self.uniform(0, 1, count)).floor()
        crossing = self.uniform(0, 1, count) < 0.3
        total = torch.zeros(count, 1, *size)
        for k in range(3):
            wide = torch.where(crossing & (k > 0), 0.6, 0.06)
            angle = (base + wide * torch.randn(count, generator=self.generator)).clamp(-1.4, 1.4)
            here = strength * self.uniform(0.5 if k else 1.0, 1.0, count)
            which = (layers > k).nonzero().flatten()
            if len(which) == 0:
                break
            one = drawn(self.layer(angle[which], here[which], hard[which]), size, self.generator)
            one = torch.zeros_like(total).index_copy(0, which, one)
            total = torch.maximum(total, one) + 0.5 * torch.minimum(total, one)  # the nearer before the farther
        total = total * self.unevenness(count, size)
        mean = total.mean((1, 2, 3), keepdim=True)
        return (total * (DENSEST / mean.clamp_min(DENSEST))).clamp_max(1)

    def unevenness(self, count: int, size: Sequence[int]) -> Tensor:
        """Smooth fields [B, 1, H, W] on [0, 1], constant for half of the pictures."""
        corners = self.uniform(0.2, 1, count, 1, 3, 3)
        corners = torch.where((self.uniform(0, 1, count) < 0.5).view(-1, 1, 1, 1), 1.0, corners)
        return torch.nn.functional.interpolate(corners, size=tuple(size), mode="bilinear", align_corners=True)


def rainy(background: Tensor, streaks: Tensor) -> Tensor:
    """O = B + R, at most 1."""
    return (background + streaks).clamp_max(1)


def falling(level: str, angle: float, size: Sequence[int], seed: int) -> Tensor:
    """Streaks [1, 1, H, W] of "light" or "heavy" rain, `angle` in degrees from upright, above 0 to the right."""
    draws, heavy = Draws(seed), level == "heavy"
    total = torch.zeros(1, 1, *size)
    for length, width, cover, strength in ((16.0, 1.0, 0.3, 0.15), (40.0, 2.0, 0.2, 0.3))[: 2 if heavy else 1]:
        one = torch.ones(1)
        lean = math.radians(angle) * one + 0.03 * draws.uniform(-1, 1, 1)
        gain = 1.5 if heavy else 1.0
        layer = Layer(lean, length * one, width * one, 0.5 * one, gain * cover * one, strength * gain * one, one)
        total = torch.maximum(total, drawn(layer, size, draws.generator))
    return total.clamp_max(1)
