"""Haze removal: the scene behind haze, from one photograph.

I = t J + (1 - t) A of every pixel. The unknown is the transmission t, measured as its lower bound t~ (see
`solvers.haze`), so that every method for images can refine it; the picture is J, made of t at the end.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastrecon import io
from fastrecon.checks import expect, finite_number
from fastrecon.io import Picture
from fastrecon.options import check, option
from fastrecon.problems.base import Condition, Measurement, colours, problem
from fastrecon.problems.frame import Frame
from fastrecon.problems.photographs import OfMaps, apart, photograph, threefold
from fastrecon.solvers import haze

NAMES = ("red", "green", "blue")
RAMP = "ramp"
LEVELS = (0.5, 1.0, 1.5)  # of the table
FAINT = 1e-3  # a photograph that varies by less, where white is 1, shows nothing


@dataclass(frozen=True)
class DehazeOptions:
    """Options of haze removal."""

    light: str = option(
        "light of the air, where white is 1: a number or R,G,B; auto: the brightest of what is bright over 15 pixels",
        "auto",
    )
    floor: float = option("transmissions below are taken for it", haze.FLOOR, within="(0, 1]", type=float)
    exponent: float = option(
        "of the transmission in J = (I - A) / t^EXPONENT + A; below 1 some haze stays", 1.0, within="(0, 1]", type=float
    )
    scattering: float = option("of the air: t = exp(-SCATTERING depth)", 1.0, within="(0, 100]", type=float,
                               of="simulate")  # fmt: skip
    air: float = option("light of the simulated haze, where white is 1", 0.85, within="(0, 1]", type=float,
                        of="simulate")  # fmt: skip
    depth: str = option(
        "ramp, 0 at the lower edge and 1 at the upper; or a picture or array, which is divided by its largest value",
        RAMP, of="simulate",
    )  # fmt: skip

    def __post_init__(self):
        check(self, "dehaze")
        self.given_light()

    def given_light(self) -> list[float] | None:
        """The light: one number, or three; None: it is estimated.

        Raises:
            ValueError: the text is neither, or not in (0, 1].
        """
        if self.light == "auto":
            return None
        try:
            values = [float(word) for word in self.light.split(",")]
        except ValueError:
            values = []
        fits = len(values) in (1, 3) and all(finite_number(v) and 0 < v <= 1 for v in values)
        expect(fits, "dehaze", "--light", "auto, a number in (0, 1], or three as R,G,B", self.light)
        return values


@problem
class Dehaze(OfMaps[DehazeOptions]):
    """t~ = t + what the bound lacks."""

    name = "dehaze"
    summary = "photographs with haze"
    Options = DehazeOptions
    methods = ("padnet", "contextual", "dark-channel", "tv")
    maps = ("transmission",)

    def simulate(self, picture: Picture, options: DehazeOptions, seed: int = 0) -> Measurement:
        """A picture with haze on it."""
        truth, scale = _pixels(picture)
        size = (truth.shape[-2], truth.shape[-1])
        t = torch.exp(-options.scattering * _depth(options.depth, size))
        hazy = haze.hazy(truth, t, torch.full((1, 1, 1, 1), options.air))
        where = "from the lower to the upper edge" if options.depth == RAMP else f"of {io.shown(options.depth)}"
        told = f"haze of light {options.air:g} and scattering {options.scattering:g}, depth {where}"
        return self._measured(picture, hazy, scale, options, truth, (told,))

    def read(self, path: Path, options: DehazeOptions) -> Measurement:
        """A hazy photograph."""
        picture = io.read_picture(path)
        y, scale = _pixels(picture)
        return self._measured(picture, y, scale, options)

    def _measured(
        self, picture: Picture, seen: Tensor, scale: float, options: DehazeOptions, truth: Tensor | None = None,
        notes: tuple[str, ...] = (),
    ) -> Measurement:  # fmt: skip
        light, told = _light(seen, options.given_light())
        y, frame = haze.boundary(seen, light), Frame.whole(seen.shape[-2:])
        truth = None if truth is None else threefold(frame.fill(truth))
        facts = {
            "photograph": frame.fill(seen), "light": light, "floor": options.floor, "exponent": options.exponent,
        }  # fmt: skip
        return Measurement(
            self.name, frame.fill(y), frame.size, facts, None, scale, truth, frame.window, picture.form,
            (*picture.notes, *notes, *told, *frame.notes()),
        )  # fmt: skip

    def picture(self, t: Tensor, m: Measurement) -> Tensor:
        """The scene [C, 1, H, W] of a transmission [1, 1, H, W]."""
        seen, light = m.tensor("photograph"), m.tensor("light")
        return apart(haze.radiance(seen, t, light, m.number("floor"), m.number("exponent")))

    def conditions(self, table: str) -> list[Condition]:
        """The usual haze, or three strengths of it."""
        if table == "scattering":
            return [Condition(f"scattering {s:g}", {"scattering": s}) for s in LEVELS]
        return super().conditions(table)

    def compared(self) -> tuple[str, ...]:
        """All that are made for it."""
        return self.methods[:-1]

    def describe(self, m: Measurement) -> str:
        """Size, colours and light."""
        light = ", ".join(f"{v:.3g}" for v in m.tensor("light").flatten().tolist())
        return f"{super().describe(m)}, {colours(len(m.tensor('photograph')[0]))}, light {light}"


def _pixels(picture: Picture) -> tuple[Tensor, float]:
    """[1, C, H, W] on [0, 1], and what it was divided by.

    Raises:
        ValueError: the picture is complex, too small, negative, or shows nothing.
    """
    x, scale = photograph(picture, "dehaze", haze.PATCH)
    spread = (x.amax((-2, -1)) - x.amin((-2, -1))).max().item()
    expect(spread > FAINT, "dehaze", "photograph", "pixels that differ", "one colour everywhere")
    return x, scale


def _light(seen: Tensor, given: list[float] | None) -> tuple[Tensor, tuple[str, ...]]:
    """A [1, C, 1, 1], and remarks.

    Raises:
        ValueError: it is so dark that nothing could be seen in it.
    """
    count = seen.shape[1]
    light = haze.airlight(seen)
    if given is not None:
        several = len(given) if count == 3 or len(given) == 1 else 0
        expect(several > 0, "dehaze", "--light", "one number for a grey photograph", given)
        light = torch.tensor(given).to(seen).expand(count).reshape(1, count, 1, 1).clone()
    values = light.flatten().tolist()
    told = ", ".join(f"{v:.3g}" for v in values)
    least = f"above {haze.DARKEST:.3g} of white in every channel (--light sets it)"
    expect(min(values) > haze.DARKEST, "dehaze", "light of the air", least, told)
    notes = [] if given is not None else [f"light of the air estimated: {told} (white is 1)"]
    if count == 1:
        notes.append("grey: without colours haze is hardly told from bright things")
    else:
        flat = (seen.amax((-2, -1)) - seen.amin((-2, -1)) <= FAINT)[0].tolist()
        notes += [f"{NAMES[k]} is the same everywhere: it tells nothing of the haze" for k in range(3) if flat[k]]
    return light, tuple(notes)


def _depth(name: str, size: tuple[int, int]) -> Tensor:
    """The depth [H, W] on [0, 1].

    Raises:
        FileNotFoundError, ValueError: the file is missing or damaged, of another size, negative, or 0 everywhere.
    """
    if name == RAMP:
        return torch.linspace(1, 0, size[0])[:, None].expand(size)
    a = torch.from_numpy(np.ascontiguousarray(io.read_picture(name, colour=False).pixels))
    shape = f"{size[0]}x{size[1]} pixels, as the picture"
    expect(tuple(a.shape) == size, "dehaze", "--depth", shape, "x".join(map(str, a.shape)))
    fits = not a.is_complex() and bool(torch.isfinite(a).all()) and a.min().item() >= 0 and a.max().item() > 0
    expect(fits, "dehaze", "--depth", "finite numbers >= 0, some of them above 0", "others")
    return a / a.max()
