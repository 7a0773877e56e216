"""U-Net without its deepest level, and the networks on it: a step size, a diagonal metric, an image.

Source: Ronneberger, Fischer & Brox, U-Net (MICCAI 2015), as in Jin, McCann, Froustey & Unser, Deep Convolutional Neural
Network for Inverse Problems in Imaging, IEEE Trans. Image Process. 26 (2017); heads after Lee & Chun.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from fastrecon.checks import describe, expect

LEVELS = 4  # widths w, 2w, 4w, 8w: sides must be divisible by 8
NORMS = ("batch", "group")
GROUP = 8  # channels of a group


def _norm(channels: int, kind: str) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(max(1, channels // GROUP), channels)


def _block(inputs: int, channels: int, norm: str) -> nn.Sequential:
    """Two 3x3 convolutions, each with normalisation and ReLU."""
    layers: list[nn.Module] = []
    for i in (inputs, channels):
        layers += [nn.Conv2d(i, channels, 3, padding=1, bias=False), _norm(channels, norm), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Features [B, width, H, W] of [B, inputs, H, W]; H and W divisible by 8.

    Args:
        inputs: channels of the input.
        width: channels of the first level, 64 in the paper; doubled on each of the three levels below.
        norm: "batch" (running statistics in evaluation), or "group", for batches of few images.
    """

    def __init__(self, inputs: int, width: int = 64, norm: str = "batch"):
        super().__init__()
        expect(width >= 1, "UNet", "width", "an integer >= 1", width)
        expect(norm in NORMS, "UNet", "norm", " or ".join(NORMS), repr(norm))
        widths = [width << k for k in range(LEVELS)]
        self.down = nn.ModuleList(_block(i, o, norm) for i, o in zip([inputs, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.join = nn.ModuleList(_block(2 * w, w, norm) for w in reversed(widths[:-1]))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Features like x."""
        fits = x.ndim == 4 and x.shape[2] % 8 == 0 and x.shape[3] % 8 == 0
        expect(fits, "UNet", "x", "[B, C, H, W] with H and W divisible by 8", describe(x))
        kept = []
        for k, block in enumerate(self.down):
            x = block(x if k == 0 else self.pool(x))
            kept.append(x)
        for up, join, skip in zip(self.up, self.join, reversed(kept[:-1]), strict=True):
            x = join(torch.cat((skip, up(x)), 1))
        return x


def channels_of(x: Tensor) -> Tensor:
    """Real channels [B, C or 2C, H, W] of x [B, C, H, W], divided by the root mean square of each image."""
    real = torch.cat((x.real, x.imag), 1) if x.is_complex() else x
    return real / real.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-20)


class StepNet(nn.Module):
    """network(x, grad): step sizes in units of 1 / L for SGP; an untrained one answers 1 everywhere.

    Args:
        variant: "step", one number for each image [B] (features averaged, so that any size will do), or "diag", one for
            each coefficient [B, 1, H, W].
        complex_input: whether x and its gradient are complex.
        width, norm: of the U-Net.
    """

    def __init__(self, variant: str = "step", complex_input: bool = False, width: int = 64, norm: str = "batch"):
        super().__init__()
        expect(variant in ("step", "diag"), "StepNet", "variant", "step or diag", repr(variant))
        self.settings: dict[str, Any] = {
            "variant": variant, "complex_input": complex_input, "width": width, "norm": norm,
        }  # fmt: skip
        self.unet = UNet(4 if complex_input else 2, width, norm)
        self.head = nn.Linear(width, 1) if variant == "step" else nn.Conv2d(width, 1, 1)
        for p in self.head.parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor, grad: Tensor) -> Tensor:
        """softplus(o + log(e - 1)), which is 1 where the network's output o is 0."""
        expect(x.shape[1] == 1, "StepNet", "x", "coefficients [B, 1, H, W]", describe(x))
        features = self.unet(torch.cat((channels_of(x), channels_of(grad)), 1))
        o = self.head(features.mean((2, 3)))[:, 0] if self.settings["variant"] == "step" else self.head(features)
        return softplus(o + math.log(math.e - 1))


class DirectNet(nn.Module):
    """The baseline: an image from the zero-filled one [B, 1, H, W], by a correction that is 0 before training.

    Args:
        width, norm: of the U-Net.
    """

    def __init__(self, width: int = 64, norm: str = "batch"):
        super().__init__()
        self.settings: dict[str, Any] = {"width": width, "norm": norm}
        self.unet = UNet(1, width, norm)
        self.head = nn.Conv2d(width, 1, 1)
        for p in self.head.parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor) -> Tensor:
        """An image like x."""
        return x + self.head(self.unet(x))
