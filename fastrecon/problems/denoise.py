"""Denoising: a photograph with Gaussian noise on every pixel, or the modulus of an image with noise in both parts."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastrecon import io, noise
from fastrecon.checks import expect
from fastrecon.io import Picture
from fastrecon.operators import Identity, LinearOperator
from fastrecon.options import check, option
from fastrecon.problems.base import (
    Condition,
    Measurement,
    Problem,
    add_noise,
    add_rician,
    channels,
    loud,
    problem,
    unit_scale,
)  # fmt: skip
from fastrecon.problems.frame import Frame
from fastrecon.solvers.automatic import RICIAN, Chosen, automatic
from fastrecon.solvers.methods import Inverse

USUAL = 0.1  # standard deviation of simulated noise, where white is 1
LEVELS = (0.02, 0.05, 0.1, 0.2)  # of the table


@dataclass(frozen=True)
class DenoiseOptions:
    """Options of denoising."""

    noise: float | None = option(
        f"standard deviation of the noise, where white is 1; measured and not given: it is estimated; of simulated"
        f" measurements it is added (default there: {USUAL:g})", None, within="[0, 1000]", type=float,
    )  # fmt: skip
    rician: bool = option(
        "noise is Rician: pixels are the modulus of complex ones, of which it spoils both parts", False
    )

    def __post_init__(self):
        check(self, "denoise")


@problem
class Denoise(Problem[DenoiseOptions]):
    """y = x + noise, or y = |x + noise|, the noise complex, whose standard deviation is the fact "rician" then."""

    name = "denoise"
    summary = "photographs with Gaussian noise"
    Options = DenoiseOptions
    methods = ("dct", "tv", "cycle-spinning", "fista", "ista", "admm", "hqs", "error-controlled")
    norm = 1.0

    def simulate(self, picture: Picture, options: DenoiseOptions, seed: int = 0) -> Measurement:
        """A picture with noise, other noise for each channel."""
        scale = unit_scale(picture)
        truth = channels(picture) / scale
        sigma = USUAL if options.noise is None else options.noise / scale
        if options.rician:
            expect(sigma > 0, self.name, "--noise", "a number > 0 with --rician", sigma)
            y = add_rician(truth.abs(), sigma, seed)
            return self._measured(picture, y, sigma, scale, truth.abs(), rician=True)
        return self._measured(picture, add_noise(truth, sigma, seed), sigma, scale, truth)

    def read(self, path: Path, options: DenoiseOptions) -> Measurement:
        """A photograph."""
        picture = io.read_picture(path)
        scale = unit_scale(picture)
        y = channels(picture) / scale
        if options.rician:
            expect(bool(options.noise), self.name, "--noise", "a number > 0 with --rician", options.noise)
            expect(not y.is_complex(), self.name, "--rician", "it with real pixels", "complex ones")
        if options.noise is not None:
            return self._measured(picture, y, options.noise / scale, scale, rician=options.rician)
        sigma = float(noise.estimate(torch.cat([y.real, y.imag]) if y.is_complex() else y).mean())
        found = f"noise estimated: {scale * sigma:.3g} (white is {scale:g})"
        return self._measured(picture, y, sigma, scale, notes=(found,))

    def _measured(
        self, picture: Picture, y: Tensor, sigma: float, scale: float, truth: Tensor | None = None,
        notes: tuple[str, ...] = (), rician: bool = False,
    ) -> Measurement:  # fmt: skip
        frame = Frame.whole(y.shape[-2:])
        return Measurement(
            self.name, frame.fill(y), frame.size, {RICIAN: sigma} if rician else {}, sigma, scale,
            None if truth is None else frame.fill(truth), frame.window, picture.form,
            (*picture.notes, *notes, *loud(scale * sigma, scale), *frame.notes()),
        )  # fmt: skip

    def operator(self, m: Measurement) -> LinearOperator:
        """The identity."""
        return Identity()

    def auto(self, inverse: Inverse) -> Chosen:
        """By noise and operator."""
        return automatic(inverse)

    def conditions(self, table: str) -> list[Condition]:
        """The usual noise, or four levels of it."""
        if table == "noise":
            return [Condition(f"noise {level:g}", {"noise": level}) for level in LEVELS]
        return super().conditions(table)
