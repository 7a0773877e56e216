"""What networks share that take images off their noise: they may be told how strong it is."""

from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.checks import expect


class ToldCNN(nn.Module):
    """A residual G(v) of images v [B, C, H, W], `forward(v, level)` where `levels` is among its settings.

    Attributes:
        settings: the arguments that make it; among them `in_channels` C and `levels`.
    """

    joins = True  # an image has its bits in any batch, on the CPU
    settings: dict[str, Any]

    @property
    def levels(self) -> bool:
        """Whether a level comes with each call."""
        return self.settings["levels"]

    def check(self, v: Tensor, level: Tensor | float | None) -> None:
        """Raises ValueError: v has other dimensions or channels, or a level is missing or one too many."""
        op, c = type(self).__name__, self.settings["in_channels"]
        expect(v.ndim == 4 and v.shape[1] == c and v.is_floating_point(), op, "v", f"real images [B, {c}, H, W]", v)
        fits = (level is not None) == self.levels
        expect(fits, op, "level", "a number or [B]" if self.levels else "None", level)

    @staticmethod
    def with_level(x: Tensor, level: Tensor | float | None) -> Tensor:
        """x [B, C, H, W], and the level, a number or [B], as a further channel where there is one."""
        if level is None:
            return x
        sizes = torch.as_tensor(level, dtype=x.dtype, device=x.device).expand(len(x))
        return torch.cat((x, sizes.view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])), 1)
