"""What problems of colour photographs share: the colours of a pixel belong together, [1, C, H, W] on [0, 1]."""

from torch import Tensor

from fastrecon.checks import expect
from fastrecon.io import Picture
from fastrecon.problems.base import channels, unit_scale


def photograph(picture: Picture, op: str, least: int = 2) -> tuple[Tensor, float]:
    """Its pixels [1, C, H, W] on [0, 1], and what they were divided by.

    Raises:
        ValueError: the picture is complex, negative, or smaller than `least` pixels.
    """
    x, scale = channels(picture), unit_scale(picture)
    expect(not x.is_complex(), op, "photograph", "real pixels", "complex ones")
    h, w = x.shape[-2:]
    expect(min(h, w) >= least, op, "photograph", f"at least {least}x{least} pixels", f"{h}x{w}")
    expect(x.amin().item() >= 0, op, "photograph", "pixels >= 0", f"{x.amin().item():.3g}")
    return (x / scale).transpose(0, 1).contiguous(), scale


def apart(x: Tensor) -> Tensor:
    """Photographs [1, C, H, W] as images [C, 1, H, W]."""
    return x.transpose(0, 1)
