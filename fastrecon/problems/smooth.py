"""Smoothing: a picture without texture and grain, with its edges."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from fastrecon import io
from fastrecon.io import Picture
from fastrecon.operators import Identity, LinearOperator
from fastrecon.options import check, option
from fastrecon.problems.base import Measurement, Problem, add_noise, problem
from fastrecon.problems.frame import Frame
from fastrecon.problems.photographs import apart, photograph


@dataclass(frozen=True)
class SmoothOptions:
    """Options of smoothing."""

    grain: float = option("standard deviation of simulated grain, where white is 1", 0.05, within="[0, 1]", type=float,
                          of="simulate")  # fmt: skip

    def __post_init__(self):
        check(self, "smooth")


@problem
class Smooth(Problem[SmoothOptions]):
    """y = x + texture; an image is [1, C, H, W], all colours."""

    name = "smooth"
    summary = "pictures to be smoothed between their edges"
    Options = SmoothOptions
    methods = ("l0", "controlled", "wls", "guided", "lp", "tv")
    norm = 1.0
    maps = ("texture",)

    def simulate(self, picture: Picture, options: SmoothOptions, seed: int = 0) -> Measurement:
        """A picture with grain, which is what a flat one is told from."""
        truth, scale = photograph(picture, self.name)
        return self._measured(picture, add_noise(truth, options.grain, seed), scale, truth)

    def read(self, path: Path, options: SmoothOptions) -> Measurement:
        """A picture."""
        picture = io.read_picture(path)
        y, scale = photograph(picture, self.name)
        return self._measured(picture, y, scale)

    def _measured(self, picture: Picture, y: Tensor, scale: float, truth: Tensor | None = None) -> Measurement:
        frame = Frame.whole(y.shape[-2:])
        return Measurement(
            self.name, frame.fill(y), frame.size, {}, None, scale, None if truth is None else frame.fill(truth),
            frame.window, picture.form, (*picture.notes, *frame.notes()),
        )  # fmt: skip

    def operator(self, m: Measurement) -> LinearOperator:
        """The identity."""
        return Identity()

    def start(self, m: Measurement) -> Tensor:
        """The picture as it is."""
        return m.y

    def images(self, x: Tensor, m: Measurement) -> Tensor:
        """The picture as images [C, 1, H, W]."""
        return super().images(apart(x), m)

    def maps_of(self, x: Tensor, m: Measurement) -> dict[str, np.ndarray]:
        """What was taken off, the mean of the colours, grey where nothing."""
        texture = super().images((m.y - x).mean(1, keepdim=True), m).detach()
        return {"texture": (0.5 + texture[0, 0]).clamp(0, 1).float().cpu().numpy()}

    def compared(self) -> tuple[str, ...]:
        """All of them, total variation at a weight that smooths, whatever the noise."""
        return (*self.methods[:-1], "tv:lam=0.05")

    def describe(self, m: Measurement) -> str:
        """Size and colours."""
        return f"{super().describe(m)}, {m.y.shape[1]} channels"
