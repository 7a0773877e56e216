"""Rain removal: a photograph as its background and streaks of rain before it, y = B + R."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from fastrecon import io
from fastrecon.io import Picture
from fastrecon.options import check, option
from fastrecon.problems.base import Condition, Measurement, problem
from fastrecon.problems.photographs import OfPhotographs, photograph
from fastrecon.solvers import rain

LEVELS = ("light", "heavy")
SMALLEST = 16  # pixels


@dataclass(frozen=True)
class DerainOptions:
    """Options of rain removal."""

    rain: str = option("strength of the simulated rain", "heavy", choices=LEVELS, of="simulate")
    fall: float = option("its angle in degrees from upright, above 0 to the right", 10.0, within="[-60, 60]",
                         type=float, of="simulate")  # fmt: skip

    def __post_init__(self):
        check(self, "derain")


@problem
class Derain(OfPhotographs[DerainOptions]):
    """y = B + R, clipped at white; an image is [1, C, H, W], the background of all colours."""

    name = "derain"
    summary = "photographs in rain"
    Options = DerainOptions
    methods = ("error-controlled", "two-layer", "separation", "tv")
    maps = ("streaks",)

    def simulate(self, picture: Picture, options: DerainOptions, seed: int = 0) -> Measurement:
        """A picture in rain that is drawn from the seed."""
        truth, scale = photograph(picture, self.name, SMALLEST)
        size = (truth.shape[-2], truth.shape[-1])
        y = rain.rainy(truth, rain.falling(options.rain, options.fall, size, seed))
        return self.measured(picture, y, scale, truth, (f"{options.rain} rain of {options.fall:g} degrees",))

    def read(self, path: Path, options: DerainOptions) -> Measurement:
        """A photograph in rain."""
        picture = io.read_picture(path)
        y, scale = photograph(picture, self.name, SMALLEST)
        return self.measured(picture, y, scale)

    def maps_of(self, x: Tensor, m: Measurement) -> dict[str, np.ndarray]:
        """What was taken off, the mean of the colours."""
        return {"streaks": self.taken_off(x, m).clamp(0, 1).numpy()}

    def conditions(self, table: str) -> list[Condition]:
        """Heavy rain, or both strengths."""
        if table == "rain":
            return [Condition(f"{level} rain", {"rain": level}) for level in LEVELS]
        return super().conditions(table)

    def compared(self) -> tuple[str, ...]:
        """All that are made for it."""
        return self.methods[:-1]
