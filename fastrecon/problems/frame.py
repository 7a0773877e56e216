"""The frame around a picture: images filled up by reflection to the sizes that transforms like, cropped afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

MULTIPLE = 8  # pixels: three levels of a wavelet transform, and of the U-Nets


@dataclass(frozen=True)
class Frame:
    """A picture of (height, width) at (top, left) in images of `size`."""

    size: tuple[int, int]
    top: int
    left: int
    height: int
    width: int

    @classmethod
    def whole(cls, picture: Sequence[int], margin: Sequence[int] = (0, 0)) -> "Frame":
        """The least frame of whole multiples around a picture (H, W) with at least these margins on every side."""
        height, width = picture
        h, w = (-(-(n + 2 * m) // MULTIPLE) * MULTIPLE for n, m in zip(picture, margin, strict=True))
        top, left = ((s - n) // 2 if m else 0 for s, n, m in zip((h, w), picture, margin, strict=True))
        return cls((h, w), top, left, height, width)

    @property
    def window(self) -> tuple[int, int, int, int] | None:
        """(top, left, height, width); None where the picture is the image."""
        plain = (self.height, self.width) == self.size
        return None if plain else (self.top, self.left, self.height, self.width)

    def fill(self, t: Tensor) -> Tensor:
        """[..., H, W] filled up to `size`: mirrored at its edges, as often as it takes."""
        below, right = self.size[0] - self.top - self.height, self.size[1] - self.left - self.width
        t, left, top = t, self.left, self.top
        while left or right or top or below:
            h, w = t.shape[-2:]
            now = [min(left, w - 1), min(right, w - 1), min(top, h - 1), min(below, h - 1)]
            if h == 1:
                now[2:] = [top, below]
            if w == 1:
                now[:2] = [left, right]
            across, down = (now[0], now[1], 0, 0), (0, 0, now[2], now[3])
            t = pad(t, across, mode="replicate" if w == 1 else "reflect") if any(across) else t
            t = pad(t, down, mode="replicate" if h == 1 else "reflect") if any(down) else t
            left, right, top, below = (a - b for a, b in zip((left, right, top, below), now, strict=True))
        return t

    def notes(self) -> tuple[str, ...]:
        """What was filled up, for people."""
        if self.window is None or self.top or self.left:
            return ()
        return (f"filled up by reflection to {self.size[0]}x{self.size[1]} and cropped again",)
