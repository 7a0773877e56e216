"""A unit that sees a guide: what to take off a map, told by an image whose edges it shares."""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad, pixel_shuffle, pixel_unshuffle

from fastrecon.checks import expect, integer
from fastrecon.networks.residual_cnn import ResidualCNN

FACTOR = 4


class GuidedUnit(nn.Module):
    """G(v) like v [B, in_channels, H, W]: what is to be taken off its first channel, the map; 0 for the others.

    The guide rides along in v, so that whatever moves v by G alone leaves it as it is. The network works on squares of
    4 x 4 pixels, each a pixel of its channels: it costs a sixteenth, and sees four times as far. Details of the map,
    which do not fit through it, are taken off whole, and it adds those that there should be: G(v) is v less the means
    over the squares, interpolated, plus what the network says.

    Args:
        layers, channels, folded: as of ResidualCNN.
        in_channels: of the map, one, and its guide, at least one more.

    Attributes:
        settings: the arguments.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    joins = True  # an image has its bits in any batch, on the CPU

    def __init__(self, layers: int = 17, channels: int = 32, in_channels: int = 4, folded: bool = False):
        super().__init__()
        in_channels = integer(in_channels, "GuidedUnit", "in_channels", least=2)
        self.settings = {"layers": layers, "channels": channels, "in_channels": in_channels, "folded": folded}
        self.network = ResidualCNN(layers, channels, in_channels * FACTOR**2, folded=folded)
        with torch.no_grad():  # of the guide nothing is taken, and nothing is learned
            for p in self.network.convolutions[-1].parameters():
                p[FACTOR**2 :] = 0

    def forward(self, v: Tensor) -> Tensor:
        """G(v).

        Raises:
            ValueError: v has other dimensions or channels.
        """
        c = self.settings["in_channels"]
        expect(v.ndim == 4 and v.shape[1] == c, "GuidedUnit", "v", f"a map and its guide [B, {c}, H, W]", v)
        h, w = v.shape[-2:]
        right, below = -w % FACTOR, -h % FACTOR
        whole = pad(v, (0, right, 0, below), mode="replicate") if right or below else v
        coarse = interpolate(avg_pool2d(whole[:, :1], FACTOR), scale_factor=FACTOR, mode="bilinear")
        residual = pixel_shuffle(self.network(pixel_unshuffle(whole, FACTOR))[:, : FACTOR**2], FACTOR)
        g = (whole[:, :1] - coarse + residual)[..., :h, :w]
        return torch.cat((g, torch.zeros_like(v[:, 1:])), 1)

    def folded(self) -> "GuidedUnit":
        """A copy in evaluation mode with biases in the place of the normalisation."""
        twin = GuidedUnit(**self.settings | {"folded": True})
        twin.network = self.network.folded()
        return twin.eval().requires_grad_(False)
