"""Impulse noise, "salt and pepper": some pixels of a photograph are black or white, nobody knows which."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastrecon import io
from fastrecon.io import Picture
from fastrecon.noise import salt_and_pepper
from fastrecon.operators import Identity, LinearOperator
from fastrecon.options import check, option
from fastrecon.problems.base import Measurement, Problem, problem
from fastrecon.problems.photographs import apart, photograph


@dataclass(frozen=True)
class ImpulseOptions:
    """Options of impulse noise."""

    share: float = option(
        "share of the pixels that become black or white", 0.1, within="(0, 1)", type=float, of="simulate"
    )

    def __post_init__(self):
        check(self, "impulse")


@problem
class Impulse(Problem[ImpulseOptions]):
    """y = x, but for some pixels."""

    name = "impulse"
    summary = "photographs with salt-and-pepper noise"
    Options = ImpulseOptions
    methods = ("d-ladmm", "ladmm")

    def simulate(self, picture: Picture, options: ImpulseOptions, seed: int = 0) -> Measurement:
        """A picture with impulses."""
        truth, scale = _read(picture)
        y = salt_and_pepper(truth, options.share, torch.Generator().manual_seed(seed))
        return Measurement(
            self.name, y, (y.shape[-2], y.shape[-1]), {"share": options.share}, None, scale, truth, None, picture.form,
            picture.notes,
        )  # fmt: skip

    def read(self, path: Path, options: ImpulseOptions) -> Measurement:
        """A photograph."""
        picture = io.read_picture(path)
        y, scale = _read(picture)
        notes = picture.notes
        return Measurement(self.name, y, (y.shape[-2], y.shape[-1]), {}, None, scale, None, None, picture.form, notes)

    def operator(self, m: Measurement) -> LinearOperator:
        """The identity."""
        return Identity()

    def compared(self) -> tuple[str, ...]:
        """LADMM early and late, and the shipped network."""
        return ("ladmm:iterations=150", "ladmm:iterations=1500", "d-ladmm")


def _read(picture: Picture) -> tuple[Tensor, float]:
    """Images [B, 1, H, W] on [0, 1], black 0, and what they were divided by."""
    x, scale = photograph(picture, "impulse", 1)
    return apart(x).contiguous(), scale
