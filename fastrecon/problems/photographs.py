"""What problems of colour photographs share: the colours of a pixel belong together, [1, C, H, W] on [0, 1]."""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.io import Picture
from fastrecon.operators import Identity, LinearOperator
from fastrecon.problems.base import Measurement, Problem, channels, colours, unit_scale
from fastrecon.problems.frame import Frame

O = TypeVar("O")  # noqa: E741


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


class OfPhotographs(Problem[O]):
    """A problem whose measurements are a photograph y [1, C, H, W], and whose images are like it."""

    norm = 1.0

    def measured(
        self, picture: Picture, y: Tensor, scale: float, truth: Tensor | None = None, notes: tuple[str, ...] = ()
    ) -> Measurement:
        """The measurement of a photograph on [0, 1], filled up as every method needs it."""
        frame = Frame.whole(y.shape[-2:])
        return Measurement(
            self.name, frame.fill(y), frame.size, {}, None, scale, None if truth is None else frame.fill(truth),
            frame.window, picture.form, (*picture.notes, *notes, *frame.notes()),
        )  # fmt: skip

    def operator(self, m: Measurement) -> LinearOperator:
        """The identity."""
        return Identity()

    def start(self, m: Measurement) -> Tensor:
        """The photograph as it is."""
        return m.y

    def images(self, x: Tensor, m: Measurement) -> Tensor:
        """The picture as images [C, 1, H, W]."""
        return super().images(apart(x), m)

    def taken_off(self, x: Tensor, m: Measurement) -> Tensor:
        """y - x [H, W], the mean of the colours."""
        return super().images((m.y - x).mean(1, keepdim=True), m).detach()[0, 0].float().cpu()

    def describe(self, m: Measurement) -> str:
        """Size and colours."""
        return f"{super().describe(m)}, {colours(m.y.shape[1])}"


class OfMaps(Problem[O]):
    """A problem whose images are one map t [1, 1, H, W] on [0, 1], of which a photograph is made at the end.

    The photograph, [1, C, H, W], is the fact "photograph" of a measurement; `maps` names the map.
    """

    norm = 1.0

    def operator(self, m: Measurement) -> LinearOperator:
        """The identity."""
        return Identity()

    def start(self, m: Measurement) -> Tensor:
        """t = 1: the photograph as it is."""
        return torch.ones_like(m.y)

    def picture(self, t: Tensor, m: Measurement) -> Tensor:
        """The picture [C, 1, H, W] of a map [1, 1, H, W]."""
        raise NotImplementedError

    def images(self, x: Tensor, m: Measurement) -> Tensor:
        """The picture [C, 1, H, W] of a map [1, 1, H, W]; three images are one already."""
        seen = m.tensor("photograph")
        x = self.picture(x.to(seen.dtype), m) if len(x) == 1 else x
        return super().images(x[: seen.shape[1]], m)

    def maps_of(self, x: Tensor, m: Measurement) -> dict[str, np.ndarray]:
        """The map."""
        t = super().images(x, m).detach().clamp(0, 1)
        return {self.maps[0]: t[0, 0].float().cpu().numpy()}


def threefold(truth: Tensor) -> Tensor:
    """A true photograph [1, C, H, W] as three images [3, 1, H, W], as `OfMaps.images` knows pictures from maps."""
    return apart(truth).expand(3, -1, -1, -1).contiguous()
