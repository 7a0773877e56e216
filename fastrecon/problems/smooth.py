"""Smoothing: a picture without texture and grain, with its edges."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from fastrecon import io
from fastrecon.io import Picture
from fastrecon.options import check, option
from fastrecon.problems.base import Measurement, add_noise, problem
from fastrecon.problems.photographs import OfPhotographs, photograph


@dataclass(frozen=True)
class SmoothOptions:
    """Options of smoothing."""

    grain: float = option("standard deviation of simulated grain, where white is 1", 0.05, within="[0, 1]", type=float,
                          of="simulate")  # fmt: skip

    def __post_init__(self):
        check(self, "smooth")


@problem
class Smooth(OfPhotographs[SmoothOptions]):
    """y = x + texture; an image is [1, C, H, W], all colours."""

    name = "smooth"
    summary = "pictures to be smoothed between their edges"
    Options = SmoothOptions
    methods = ("l0", "error-controlled", "separation", "wls", "guided", "lp", "tv")
    maps = ("texture",)

    def simulate(self, picture: Picture, options: SmoothOptions, seed: int = 0) -> Measurement:
        """A picture with grain, which is what a flat one is told from."""
        truth, scale = photograph(picture, self.name)
        return self.measured(picture, add_noise(truth, options.grain, seed), scale, truth)

    def read(self, path: Path, options: SmoothOptions) -> Measurement:
        """A picture."""
        picture = io.read_picture(path)
        y, scale = photograph(picture, self.name)
        return self.measured(picture, y, scale)

    def maps_of(self, x: Tensor, m: Measurement) -> dict[str, np.ndarray]:
        """What was taken off, the mean of the colours, grey where nothing."""
        return {"texture": (0.5 + self.taken_off(x, m)).clamp(0, 1).numpy()}

    def compared(self) -> tuple[str, ...]:
        """All of them, total variation at a weight that smooths, whatever the noise."""
        return (*self.methods[:-1], "tv:lam=0.05")
