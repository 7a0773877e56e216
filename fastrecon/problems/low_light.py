"""Low light: a photograph as the scene in full light, y = J t, from the light t that falls on it.

The unknown is the illumination t, measured as the brightest colour of each pixel, t~; the picture is made of it at the
end, J = y / max(t, floor)^exponent.
Source: Guo, Li & Ling, LIME: Low-Light Image Enhancement via Illumination Map Estimation, IEEE Trans. Image Process. 26
(2017); Retinex: Land & McCann, Lightness and Retinex Theory, J. Opt. Soc. Am. 61 (1971).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastrecon import io
from fastrecon.checks import expect
from fastrecon.io import Picture
from fastrecon.options import check, option
from fastrecon.problems.base import Measurement, add_noise, colours, problem
from fastrecon.problems.frame import Frame
from fastrecon.problems.photographs import OfMaps, apart, photograph, threefold

LEFT = 0.8  # largest share of the light, of simulated darkness: on the side that is lit


@dataclass(frozen=True)
class LowLightOptions:
    """Options of low light."""

    floor: float = option("illuminations below are taken for it", 0.05, within="(0, 1]", type=float)
    exponent: float = option(
        "of the illumination in J = y / t^EXPONENT; below 1 some shade stays", 0.8, within="(0, 1]", type=float
    )
    dark: float = option("light that simulated darkness leaves on its dark side, where white is 1", 0.1,
                         within="(0, 1]", type=float, of="simulate")  # fmt: skip
    noise: float = option("standard deviation of simulated noise, where white is 1", 0.0, within="[0, 1]", type=float,
                          of="simulate")  # fmt: skip

    def __post_init__(self):
        check(self, "low-light")


@problem
class LowLight(OfMaps[LowLightOptions]):
    """t~ = t + texture; an image is the illumination [1, 1, H, W]."""

    name = "low-light"
    summary = "photographs taken in too little light"
    Options = LowLightOptions
    methods = ("error-controlled", "wls", "lp", "l0", "guided", "tv")
    maps = ("illumination",)

    def simulate(self, picture: Picture, options: LowLightOptions, seed: int = 0) -> Measurement:
        """A picture that is dark on its left and lit on its right."""
        truth, scale = photograph(picture, self.name)
        low, width = min(options.dark, LEFT), truth.shape[-1]
        light = low * (LEFT / low) ** torch.linspace(0, 1, width)  # equal steps for the eye
        y = add_noise(truth * light, options.noise, seed).clamp(0, 1)
        return self._measured(picture, y, scale, options, truth, (f"light from {low:g} to {LEFT:g}",))

    def read(self, path: Path, options: LowLightOptions) -> Measurement:
        """A dark photograph."""
        picture = io.read_picture(path)
        y, scale = photograph(picture, self.name)
        return self._measured(picture, y, scale, options)

    def _measured(
        self, picture: Picture, y: Tensor, scale: float, options: LowLightOptions, truth: Tensor | None = None,
        notes: tuple[str, ...] = (),
    ) -> Measurement:  # fmt: skip
        expect(y.amax().item() > 0, self.name, "photograph", "one that is not black everywhere", "black")
        frame = Frame.whole(y.shape[-2:])
        whole = frame.fill(y)
        truth = None if truth is None else threefold(frame.fill(truth))
        facts = {"photograph": whole, "floor": options.floor, "exponent": options.exponent}
        return Measurement(
            self.name, whole.amax(1, keepdim=True), frame.size, facts, None, scale, truth, frame.window, picture.form,
            (*picture.notes, *notes, *frame.notes()),
        )  # fmt: skip

    def picture(self, t: Tensor, m: Measurement) -> Tensor:
        """The scene [C, 1, H, W] of an illumination [1, 1, H, W]."""
        light = t.clamp(m.number("floor"), 1).pow(m.number("exponent"))
        return apart((m.tensor("photograph") / light).clamp(0, 1))

    def compared(self) -> tuple[str, ...]:
        """All of them, total variation at a weight that smooths, whatever the noise."""
        return (*self.methods[:-1], "tv:lam=0.2")

    def describe(self, m: Measurement) -> str:
        """Size, colours and light."""
        seen = m.tensor("photograph")
        return f"{super().describe(m)}, {colours(seen.shape[1])}, mean light {m.y.mean().item():.3g}"
