"""A residual network on squares of pixels: wide strokes, seen whole at a fraction of the cost."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from fastrecon.checks import expect, integer
from fastrecon.networks.residual_cnn import ResidualCNN


class SquaresCNN(nn.Module):
    """G(v) like v [B, C, H, W], what is to be taken off it: a ResidualCNN whose pixels are squares of v's.

    With squares of `factor` x `factor` pixels it costs 1 / factor^2, and sees `factor` times as far.

    Args:
        layers, channels, in_channels, dilations, folded: as of ResidualCNN, in_channels that of v.
        factor: pixels along a side of a square.

    Attributes:
        settings: the arguments.

    Raises:
        ValueError: an argument is of another kind or out of range.

    Source: pixels to channels as in Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient
    Sub-Pixel Convolutional Neural Network, CVPR 2016.
    """

    levels = False
    joins = True

    def __init__(
        self, layers: int = 10, channels: int = 48, in_channels: int = 3, dilations: Sequence[int] | None = None,
        factor: int = 2, folded: bool = False,
    ):  # fmt: skip
        super().__init__()
        factor = integer(factor, "SquaresCNN", "factor", least=1)
        in_channels = integer(in_channels, "SquaresCNN", "in_channels", least=1)
        self.network = ResidualCNN(layers, channels, in_channels * factor**2, dilations=dilations, folded=folded)
        self.settings: dict[str, Any] = {
            "layers": layers, "channels": channels, "in_channels": in_channels,
            "dilations": self.network.settings["dilations"], "factor": factor, "folded": folded,
        }  # fmt: skip

    def forward(self, v: Tensor) -> Tensor:
        """G(v); sides that are no multiple of `factor` are filled up by their last pixels.

        Raises:
            ValueError: v has other dimensions or channels.
        """
        c, f = self.settings["in_channels"], self.settings["factor"]
        expect(v.ndim == 4 and v.shape[1] == c, "SquaresCNN", "v", f"images [B, {c}, H, W]", v)
        h, w = v.shape[-2:]
        right, below = -w % f, -h % f
        whole = pad(v, (0, right, 0, below), mode="replicate") if right or below else v
        return pixel_shuffle(self.network(pixel_unshuffle(whole, f)), f)[..., :h, :w]

    def folded(self) -> "SquaresCNN":
        """A copy in evaluation mode with biases in the place of the normalisation."""
        settings: dict[str, Any] = self.settings | {"folded": True}
        twin = SquaresCNN(**settings)
        twin.network = self.network.folded()
        return twin.eval().requires_grad_(False)
