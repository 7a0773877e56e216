"""Deconvolution of slopes: the differences of a blurred photograph, sharp; from these and the photograph, a picture.

Source: Liu, Fan, Cheng, Wang & Luo, Proximal Alternating Direction Network, AAAI 2018 (arXiv:1711.07653), sec. 5.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastrecon import io, metrics
from fastrecon.checks import expect
from fastrecon.io import Picture
from fastrecon.operators import Blur, BlurredSlopes, Gradient, LinearOperator, motion_kernel
from fastrecon.options import check, option
from fastrecon.problems.base import Measurement, Problem, add_noise, channels, problem, unit_scale
from fastrecon.problems.deblur import read_kernel

BETA = 0.1  # weight of the slopes, where a picture is made of them and of the photograph


@dataclass(frozen=True)
class SlopesOptions:
    """Options of the deconvolution of slopes."""

    kernel: str = option(
        "array or image of the blur, as convolution applies it; simulated: the path of a shaken camera by default", ""
    )
    noise: float = option("standard deviation of the noise, where white is 1", 0.01, within="[0, 1000]", type=float)
    kernel_side: int = option("of the drawn kernel in pixels, odd", 19, within="[3, 255]", type=int, of="simulate")

    def __post_init__(self):
        check(self, "slopes")
        expect(self.kernel_side % 2 == 1, "slopes", "--kernel-side", "an odd number", self.kernel_side)


@problem
class Slopes(Problem[SlopesOptions]):
    """D y = k * (D x), circular; an image is [B, 2, H, W], the differences downwards and to the right."""

    name = "slopes"
    summary = "slopes of blurred photographs whose blur is known"
    Options = SlopesOptions
    methods = ("padnet",)
    norm = 1.0

    def simulate(self, picture: Picture, options: SlopesOptions, seed: int = 0) -> Measurement:
        """The slopes of a picture that a drawn, or the given, kernel has blurred."""
        x, scale = _read(picture)
        kernel, notes = motion_kernel(options.kernel_side, seed), ()
        if options.kernel:
            kernel, notes = read_kernel(options.kernel, x.shape[-2:], self.name)
        fits = max(kernel.shape) <= min(x.shape[-2:])
        expect(
            fits,
            self.name,
            "--kernel-side",
            f"one within a picture of {x.shape[-2]}x{x.shape[-1]} pixels",
            options.kernel_side,
        )
        photo = add_noise(Blur(kernel)(x), options.noise / scale, seed)
        return self._measured(picture, photo, kernel, options.noise / scale, scale, notes, x)

    def read(self, path: Path, options: SlopesOptions) -> Measurement:
        """A blurred photograph, its edges blurred into those across."""
        expect(options.kernel != "", self.name, "--kernel", "the blur, a file", "none")
        picture = io.read_picture(path)
        photo, scale = _read(picture)
        kernel, notes = read_kernel(options.kernel, photo.shape[-2:], self.name)
        photo = tapered(photo, kernel)
        notes = (*notes, "edges blurred into those across: what is near them is less sharp")
        return self._measured(picture, photo, kernel, options.noise / scale, scale, notes, None)

    def _measured(
        self, picture: Picture, photo: Tensor, kernel: Tensor, noise: float, scale: float, notes: tuple[str, ...],
        truth: Tensor | None,
    ) -> Measurement:  # fmt: skip
        size = (photo.shape[-2], photo.shape[-1])
        return Measurement(
            self.name, Gradient()(photo), size, {"kernel": kernel, "photo": photo}, noise, scale, truth,
            form=picture.form, notes=(*picture.notes, *notes),
        )  # fmt: skip

    def operator(self, m: Measurement) -> LinearOperator:
        """The blur, of both slopes."""
        return Blur(m.tensor("kernel"))

    def start(self, m: Measurement) -> Tensor:
        """The slopes as they are."""
        return m.y

    def images(self, x: Tensor, m: Measurement) -> Tensor:
        """The picture that has such slopes, and blurred is like the photograph; pictures stay what they are."""
        if x.shape[1] != 2:
            return x
        return BlurredSlopes(Blur(m.tensor("kernel")), BETA).image(x, m.tensor("photo"))

    def scores(self, x: Tensor, m: Measurement) -> dict[str, float | None] | None:
        """Those of the picture, and `slope_error`, |g - D x| / |D x|."""
        found = super().scores(x, m)
        if found is None or m.truth is None or x.shape[1] != 2:
            return found
        truth = Gradient()(m.truth.to(x.device))
        return found | {"slope_error": metrics.relative_error(x.double(), truth.double()).mean().item()}


def _read(picture: Picture) -> tuple[Tensor, float]:
    """Images [B, 1, H, W], white 1, and what they were divided by."""
    x, scale = channels(picture), unit_scale(picture)
    expect(not x.is_complex(), "slopes", "photograph", "real pixels", "complex ones")
    return x / scale, scale


def tapered(x: Tensor, kernel: Tensor) -> Tensor:
    """Photographs [B, 1, H, W] that go over into their blur towards the edges, as if they went on across."""
    weights = []
    for d, n in ((1, x.shape[-2]), (0, x.shape[-1])):
        power = torch.fft.rfft(kernel.double().sum(d), n).abs().square()
        likeness = torch.fft.irfft(power, n)  # of the profile and itself moved, 1 at 0
        likeness = torch.cat((likeness[: n - 1], likeness[:1]))
        weights.append(1 - likeness / likeness.max())
    weight = torch.outer(*weights).to(x)
    return weight * x + (1 - weight) * Blur(kernel)(x)
