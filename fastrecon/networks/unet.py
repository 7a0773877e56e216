"""U-Net without its deepest level, and the networks on it: a step size, a diagonal metric, an image.

Source: Ronneberger, Fischer & Brox, U-Net (MICCAI 2015), as in Jin, McCann, Froustey & Unser, Deep Convolutional Neural
Network for Inverse Problems in Imaging, IEEE Trans. Image Process. 26 (2017); heads after Lee & Chun.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastrecon.checks import expect, flag, integer
from fastrecon.ops.by_image import each_image
from fastrecon.threads import together

LEVELS = 4  # widths w, 2w, 4w, 8w
MULTIPLE = 1 << (LEVELS - 1)  # sides must be divisible by 8
NORMS = ("batch", "group", "none")
GROUP = 8  # channels of a group
SWIFT = 30.0  # Adam moves all parameters alike: numbers that must change by several units are stored divided by this
LIMITS = (1e-2, 1e4)  # of step sizes, in units of 1 / L: with a small lam useful ones begin above 1000


def _norm(channels: int, kind: str) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(max(1, channels // GROUP), channels)


def _block(inputs: int, channels: int, norm: str) -> nn.Sequential:
    """Two 3x3 convolutions, each with normalisation (or a bias instead) and ReLU."""
    layers: list[nn.Module] = []
    for i in (inputs, channels):
        layers.append(nn.Conv2d(i, channels, 3, padding=1, bias=norm == "none"))
        layers += [nn.ReLU()] if norm == "none" else [_norm(channels, norm), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Features [B, width, H, W] of [B, inputs, H, W]; H and W divisible by 8.

    Args:
        inputs: channels of the input.
        width: channels of the first level, 64 in the paper; doubled on each of the three levels below.
        norm: "batch" (running statistics in evaluation), "group", for batches of few images, or "none", which keeps
            the size of the input: with the others it is lost in the first layer.
    """

    def __init__(self, inputs: int, width: int = 64, norm: str = "batch"):
        super().__init__()
        inputs, width = integer(inputs, "UNet", "inputs", least=1), integer(width, "UNet", "width", least=1)
        expect(norm in NORMS, "UNet", "norm", " or ".join(NORMS), repr(norm))
        widths = [width << k for k in range(LEVELS)]
        self.down = nn.ModuleList(_block(i, o, norm) for i, o in zip([inputs, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.join = nn.ModuleList(_block(2 * w, w, norm) for w in reversed(widths[:-1]))
        self.pool = nn.MaxPool2d(2)
        if norm == "none":  # features keep the size of the input; with torch's defaults each layer halves them
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is not None:
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)
        cast(Any, self).to(memory_format=torch.channels_last)  # almost twice as fast on CPUs

    def forward(self, x: Tensor) -> Tensor:
        """Features like x."""
        fits = x.ndim == 4 and x.shape[2] % MULTIPLE == 0 and x.shape[3] % MULTIPLE == 0
        expect(fits, "UNet", "x", f"[B, C, H, W] with H and W divisible by {MULTIPLE}", x)
        x, kept = x.contiguous(memory_format=torch.channels_last), []
        for k, block in enumerate(self.down):
            x = block(x if k == 0 else self.pool(x))
            kept.append(x)
        for up, join, skip in zip(self.up, self.join, reversed(kept[:-1]), strict=True):
            x = join(torch.cat((skip, up(x)), 1))
        return x


def each_alone(function: Callable[..., Tensor], *images: Tensor) -> Tensor:
    """function(*images), on the CPU without gradients one image after the other.

    oneDNN's convolutions of a batch add in another order than those of one image; taken singly they are no slower,
    since an image's features stay in the caches. On a GPU a batch is worth more: results there agree to rounding.
    """
    if torch.is_grad_enabled():
        return function(*images)

    def one(*image: Tensor) -> Tensor:
        with together:  # convolutions are worth the threads
            return function(*image)

    return each_image(one, *images)


def channels_of(x: Tensor) -> Tensor:
    """Real channels [B, 2C or 3C, H, W] of x [B, C, H, W]: its parts and its size, as inverse hyperbolic sines.

    Rounding noise stays small, and what is a thousand times larger does not drown the rest. The size is what the best
    step depends on most: that of the smallest scales tells how much aliasing is left.
    """
    return torch.asinh(torch.cat((x.real, x.imag, x.abs()) if x.is_complex() else (x, x.abs()), 1))


class StepNet(nn.Module):
    """network(x, grad, k): step sizes in units of 1 / L for iteration k of SGP.

    x and grad are those of the problem scaled to lam = L = 1, on which alone the best step depends; SGP scales them,
    because `dimensionless` says so. The answer is exp(o), o what the U-Net finds in them; with `iterations` it is
    c_k mean|x| exp(o), so that a threshold is c_k times the mean size of the coefficients: most of what is to be
    learned is how it falls, and that takes a number for each iteration and little training. An untrained network
    answers 1, or mean|x|, everywhere.

    Args:
        variant: "step", one number for each image [B] (features averaged, so that any size will do), or "diag", one for
            each coefficient [B, 1, H, W].
        complex_input: whether x and its gradient are complex.
        width, norm: of the U-Net.
        iterations: how many c_k there are; the last one serves all that follow. 0: none, as in the paper.

    Attributes:
        limits: of the step sizes, for SGP.
        joins: that an image has its bits in any batch, on the CPU.
        settings: the arguments.
    """

    dimensionless = True
    joins = True
    limits = LIMITS

    def __init__(
        self, variant: str = "step", complex_input: bool = False, width: int = 64, norm: str = "none",
        iterations: int = 0,
    ):  # fmt: skip
        super().__init__()
        expect(variant in ("step", "diag"), "StepNet", "variant", "step or diag", repr(variant))
        integer(iterations, "StepNet", "iterations", least=0)
        flag(complex_input, "StepNet", "complex_input")
        self.settings: dict[str, Any] = {
            "variant": variant, "complex_input": complex_input, "width": width, "norm": norm, "iterations": iterations,
        }  # fmt: skip
        self.unet = UNet(6 if complex_input else 4, width, norm)
        self.head = nn.Linear(width, 1) if variant == "step" else nn.Conv2d(width, 1, 1)
        for p in self.head.parameters():
            nn.init.zeros_(p)
        self.schedule = nn.Parameter(torch.zeros(iterations))  # log c_k / SWIFT

    def forward(self, x: Tensor, grad: Tensor, k: int = 0) -> Tensor:
        """Step sizes within `limits`; on the CPU without gradients an image has the same bits in any batch."""
        expect(x.ndim == 4 and x.shape[1] == 1, "StepNet", "x", "coefficients [B, 1, H, W]", x)
        return each_alone(lambda x, grad: self._sizes(x, grad, k), x, grad)

    def _sizes(self, x: Tensor, grad: Tensor, k: int) -> Tensor:
        features = self.unet(torch.cat((channels_of(x), channels_of(grad)), 1))
        o = self.head(features.mean((2, 3)))[:, 0] if self.settings["variant"] == "step" else self.head(features)
        if count := len(self.schedule):
            base = SWIFT * self.schedule[min(k, count - 1)] + x.abs().mean((1, 2, 3)).clamp_min(1e-20).log()
            o = o + (base if o.ndim == 1 else base[:, None, None, None])
        low, high = self.limits
        return o.clamp(math.log(low), math.log(high)).exp()  # in this order infinity has a derivative too


class DirectNet(nn.Module):
    """The baseline: an image from the zero-filled one [B, 1, H, W], by a correction that is 0 before training.

    Args:
        width, norm: of the U-Net.

    Attributes:
        settings: the arguments.
    """

    def __init__(self, width: int = 64, norm: str = "batch"):
        super().__init__()
        self.settings: dict[str, Any] = {"width": width, "norm": norm}
        self.unet = UNet(1, width, norm)
        self.head = nn.Conv2d(width, 1, 1)
        for p in self.head.parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor) -> Tensor:
        """An image like x; on the CPU without gradients it has the same bits in any batch."""
        return each_alone(lambda x: x + self.head(self.unet(x)), x)
