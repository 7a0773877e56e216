"""Residual convolutional networks: what to take off an image to clean it.

Source: Zhang, Zuo, Chen, Meng & Zhang, Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising,
IEEE Trans. Image Process. 26 (2017); dilated, Zhang, Zuo, Gu & Zhang, Learning Deep CNN Denoiser Prior for Image
Restoration, CVPR 2017; with a map of the noise, Zhang, Zuo & Zhang, FFDNet, IEEE Trans. Image Process. 27 (2018).
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from fastrecon.checks import expect, flag, integer
from fastrecon.networks.told import ToldCNN
from fastrecon.networks.unet import each_alone

MOMENTUM = 0.05  # of running statistics


class ResidualCNN(ToldCNN):
    """The residual G(v) like v [B, C, H, W]: v - G(v) is the clean image.

    3x3 convolutions with zeros beyond the edges, ReLU between them, batch normalisation in those that are neither first
    nor last; of one statistics only once trained (evaluation mode). An untrained one answers small numbers.

    Args:
        layers: convolutions, >= 2; 7 and 17 in the papers.
        channels: of the features.
        in_channels: C.
        levels: whether G is told how strong to be: `forward(v, level)`, level the standard deviation of the noise in v.
        dilations: distance between the taps of each convolution; None: 1 everywhere.
        folded: with biases in the place of the normalisation; see `folded()`.

    Attributes:
        settings: the arguments.
    """

    def __init__(
        self, layers: int = 7, channels: int = 64, in_channels: int = 1, levels: bool = False,
        dilations: Sequence[int] | None = None, folded: bool = False,
    ):  # fmt: skip
        super().__init__()
        op = "ResidualCNN"
        layers, channels = integer(layers, op, "layers", least=2), integer(channels, op, "channels", least=1)
        in_channels, levels = integer(in_channels, op, "in_channels", least=1), flag(levels, op, "levels")
        taps = [1] * layers if dilations is None else [integer(d, op, "dilations", least=1) for d in dilations]
        expect(len(taps) == layers, op, "dilations", f"{layers} numbers", dilations)
        self.settings: dict[str, Any] = {
            "layers": layers, "channels": channels, "in_channels": in_channels, "levels": levels, "dilations": taps,
            "folded": flag(folded, op, "folded"),
        }  # fmt: skip
        widths = [in_channels + int(levels), *[channels] * (layers - 1), in_channels]
        middle = range(1, layers - 1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, padding=d, dilation=d, bias=folded or i not in middle)
            for i, d in enumerate(taps)
        )
        self.norms = (
            nn.ModuleList() if folded else nn.ModuleList(nn.BatchNorm2d(channels, 1e-5, MOMENTUM) for _ in middle)
        )
        for layer in self.convolutions:
            assert isinstance(layer, nn.Conv2d)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.convolutions[-1].weight.mul_(0.1)  # type: ignore[operator]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, v: Tensor, level: Tensor | float | None = None) -> Tensor:
        """G(v); on the CPU without gradients an image has the same bits in any batch.

        Args:
            v: images [B, C, H, W] on [0, 1].
            level: > 0, a number or [B]; where the network takes one.

        Raises:
            ValueError: v has other dimensions or channels, or a level is missing or one too many.
        """
        self.check(v, level)
        return each_alone(self._residual, self.with_level(v, level))

    def _residual(self, x: Tensor) -> Tensor:
        last, kind = len(self.convolutions) - 1, x.dtype
        x = x.contiguous(memory_format=torch.channels_last)
        for i, layer in enumerate(self.convolutions):
            x = layer(x)
            if 0 < i < last and len(self.norms):
                x = self.norms[i - 1](x)
            if i < last:
                x = relu(x)
        return x.to(kind).contiguous()

    @torch.no_grad()
    def folded(self) -> "ResidualCNN":
        """A copy in evaluation mode with the trained statistics within the convolutions: the same G to rounding."""
        if self.settings["folded"]:
            return copy.deepcopy(self).eval()
        settings: dict[str, Any] = self.settings | {"folded": True}
        twin = ResidualCNN(**settings)
        state = {f"convolutions.{i}.{k}": v for i, m in enumerate(self.convolutions) for k, v in m.state_dict().items()}
        for i, norm in enumerate(self.norms, 1):
            assert isinstance(norm, nn.BatchNorm2d)
            var, mean = norm.running_var, norm.running_mean
            assert var is not None
            assert mean is not None
            scale = norm.weight.double() / (var.double() + norm.eps).sqrt()
            weight = state[f"convolutions.{i}.weight"]
            state[f"convolutions.{i}.weight"] = (weight.double() * scale.view(-1, 1, 1, 1)).to(weight)
            state[f"convolutions.{i}.bias"] = (norm.bias.double() - mean.double() * scale).to(weight)
        like = state["convolutions.0.weight"]
        twin.to(like.device, like.dtype).load_state_dict(state)
        return twin.eval().requires_grad_(False)
