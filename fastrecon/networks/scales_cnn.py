"""A residual network over several scales: it sees far, and costs less than one of the same depth on pixels.

Source: Zhang, Li, Zuo, Zhang, Van Gool & Timofte, Plug-and-Play Image Restoration with Deep Denoiser Prior, IEEE Trans.
Pattern Anal. Mach. Intell. 44 (2022), whose DRUNet has four scales; squares of pixels as in FFDNet, Zhang, Zuo & Zhang,
IEEE Trans. Image Process. 27 (2018).
"""

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle, relu

from fastrecon.checks import expect, flag, integer
from fastrecon.networks.told import ToldCNN
from fastrecon.networks.unet import each_alone

FACTOR = 2  # side of the squares
SMALL = 0.1  # of what blocks add at first


class _Block(nn.Module):
    """x + W relu(V x), 3x3 convolutions without bias."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(self.second.weight, nonlinearity="relu")
        with torch.no_grad():
            self.second.weight.mul_(SMALL)

    def forward(self, x: Tensor) -> Tensor:
        """Like x [B, channels, H, W]."""
        return x + self.second(relu(self.first(x)))


class ScalesCNN(ToldCNN):
    """The residual G(v) like v [B, C, H, W]: v - G(v) is the clean image.

    Squares of 2 x 2 pixels are the channels of the finest scale, and each scale below has half the sides; `blocks`
    residual blocks on the way down and up, twice as many at the coarsest, and what the way down had is added on the way
    up. Nothing has a bias: G(a v, a level) = a G(v, level) for a > 0, to rounding.

    Args:
        channels: of the features, scale by scale.
        blocks: residual blocks at a scale, each way.
        in_channels: C.
        levels: whether G is told how strong to be: `forward(v, level)`, level the standard deviation of the noise in v.

    Attributes:
        settings: the arguments.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    def __init__(
        self, channels: Sequence[int] = (48, 96, 128), blocks: int = 2, in_channels: int = 1, levels: bool = False
    ):  # fmt: skip
        super().__init__()
        op = "ScalesCNN"
        widths = [integer(c, op, "channels", least=1) for c in channels]
        expect(len(widths) > 0, op, "channels", "a number for each scale", "none")
        blocks, in_channels = integer(blocks, op, "blocks", least=1), integer(in_channels, op, "in_channels", least=1)
        levels = flag(levels, op, "levels")
        self.settings: dict[str, Any] = {
            "channels": widths, "blocks": blocks, "in_channels": in_channels, "levels": levels,
        }  # fmt: skip
        inner = in_channels * FACTOR**2

        def stack(width: int) -> nn.Sequential:
            return nn.Sequential(*(_Block(width) for _ in range(blocks)))

        pairs = list(pairwise(widths))
        self.head = nn.Conv2d(inner + int(levels), widths[0], 3, padding=1, bias=False)
        self.down = nn.ModuleList(stack(w) for w in widths)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2, bias=False) for a, b in pairs)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2, bias=False) for a, b in pairs)
        self.up = nn.ModuleList(stack(w) for w in widths)
        self.tail = nn.Conv2d(widths[0], inner, 3, padding=1, bias=False)
        with torch.no_grad():
            self.tail.weight.mul_(SMALL)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, v: Tensor, level: Tensor | float | None = None) -> Tensor:
        """G(v); on the CPU without gradients an image has the same bits in any batch.

        Args:
            v: images [B, C, H, W] on [0, 1], of any size: they are filled up by their last pixels.
            level: > 0, a number or [B]; where the network takes one.

        Raises:
            ValueError: v has other dimensions or channels, or a level is missing or one too many.
        """
        self.check(v, level)
        h, w = v.shape[-2:]
        step = FACTOR << len(self.shrink)
        x = pixel_unshuffle(pad(v, (0, -w % step, 0, -h % step), mode="replicate"), FACTOR)
        return pixel_shuffle(each_alone(self._residual, self.with_level(x, level)), FACTOR)[..., :h, :w].contiguous()

    def _residual(self, x: Tensor) -> Tensor:
        kind, kept = x.dtype, []
        x = self.head(x.contiguous(memory_format=torch.channels_last))
        for blocks, shrink in zip(self.down, [*self.shrink, None], strict=True):
            x = blocks(x)
            if shrink is not None:
                kept.append(x)
                x = shrink(x)
        x = self.up[-1](x)
        for blocks, grow in zip(self.up[-2::-1], self.grow[::-1], strict=True):
            x = blocks(grow(x) + kept.pop())
        return self.tail(x).to(kind).contiguous()

    @torch.no_grad()
    def folded(self) -> "ScalesCNN":
        """A copy in evaluation mode: there is no normalisation to fold in."""
        return copy.deepcopy(self).eval().requires_grad_(False)
