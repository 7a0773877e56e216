"""Cropping: what a camera sees of a scene that goes on beyond its edges."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import pad

from fastrecon.checks import expect, integer, size_2d
from fastrecon.operators.base import LinearOperator


class Crop(LinearOperator):
    """y = x[..., top : top + h, left : left + w]: [B, C, H, W] -> [B, C, h, w]; the adjoint fills up with zeros.

    `Crop(...) @ Blur(kernel)` blurs a scene that is larger than the photograph: nothing wraps around, nothing is lost
    at the edges. Norm: 1.

    Args:
        size: (H, W) of the images.
        top, left: of the window, in pixels.
        window: (h, w) of the window.

    Raises:
        ValueError: the window does not lie in the image, or an input has another size.
    """

    coisometry = True

    def __init__(self, size: Sequence[int], top: int, left: int, window: Sequence[int]):
        super().__init__()
        self.size, self.window = size_2d(size, "Crop", "size"), size_2d(window, "Crop", "window")
        self.top, self.left = integer(top, "Crop", "top", least=0), integer(left, "Crop", "left", least=0)
        within = self.top + self.window[0] <= self.size[0] and self.left + self.window[1] <= self.size[1]
        expect(within, "Crop", "window", f"one that lies in {self.size}", (self.top, self.left, *self.window))

    def forward(self, x: Tensor) -> Tensor:
        """The window of images."""
        expect(x.ndim == 4 and tuple(x.shape[2:]) == self.size, "Crop", "x", f"[B, C, {self.size}]", x)
        return x[..., self.top : self.top + self.window[0], self.left : self.left + self.window[1]].contiguous()

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """The window with zeros around it."""
        expect(y.ndim == 4 and tuple(y.shape[2:]) == self.window, "Crop", "y", f"[B, C, {self.window}]", y)
        expect(size is None or tuple(size) == self.size, "Crop", "size", f"{self.size} or None", size)
        (h, w), (a, b) = self.size, self.window
        return pad(y, (self.left, w - b - self.left, self.top, h - a - self.top))

    def _norm(self) -> float:
        return 1.0

    def output_size(self, size: Sequence[int] | None) -> Sequence[int]:
        """(h, w) of the window."""
        return self.window

    def input_size(self, size: Sequence[int] | None = None) -> Sequence[int]:
        """(H, W)."""
        return self.size
