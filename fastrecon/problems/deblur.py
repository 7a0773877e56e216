"""Deblurring with a known kernel: a photograph that was moved, or out of focus."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fastrecon import io, noise
from fastrecon.checks import expect
from fastrecon.io import Picture
from fastrecon.operators import Blur, Crop, LinearOperator, gaussian_kernel
from fastrecon.options import check, option
from fastrecon.problems.base import Condition, Measurement, Problem, add_noise, channels, loud, problem, unit_scale
from fastrecon.problems.frame import Frame
from fastrecon.problems.inpaint import COMPARED, paper_tables
from fastrecon.problems.wavelet_l1 import BLUR, LAM
from fastrecon.solvers.automatic import PRIOR, Chosen, automatic
from fastrecon.solvers.methods import Inverse
from fastrecon.solvers.wavelet_methods import PAPER_LAM

# From such noise on the learned prior stops at such a tolerance: within 0.03 dB of 0.001 or above, after 0.5 to 0.9 of
# its iterations. With less noise the picture still changes then.
SOONER = (4e-3, 5e-3)
BOUNDARIES = ("free", "circular", "zero")


@dataclass(frozen=True)
class DeblurOptions:
    """Options of deblurring."""

    kernel: str = option(
        "array or image of the blur, as convolution applies it; simulated: a Gaussian of --sigma by default", ""
    )
    boundary: str = option(
        "what lies beyond the photograph: free, a scene that goes on and is found too; circular; zero (default: free,"
        " of simulated measurements circular)", "", choices=BOUNDARIES,
    )  # fmt: skip
    noise: float | None = option(
        "standard deviation of the noise, where white is 1; measured and not given: it is estimated; of simulated"
        " measurements it is added", None, within="[0, 1000]", type=float,
    )  # fmt: skip
    sigma: float = option(
        "standard deviation of the Gaussian kernel in pixels", BLUR[0], within="(0, 100]", type=float, of="simulate"
    )

    def __post_init__(self):
        check(self, "deblur")


@problem
class Deblur(Problem[DeblurOptions]):
    """y = k * x."""

    name = "deblur"
    summary = "blurred photographs whose blur is known"
    Options = DeblurOptions
    methods = (
        "dct", "tv", "cycle-spinning", "fista", "ista", "hqs", "admm", "hyper-laplacian", "padnet", "error-controlled",
        "sgp-step", "sgp-diag", "unet",
    )  # fmt: skip

    def simulate(self, picture: Picture, options: DeblurOptions, seed: int = 0) -> Measurement:
        """A picture blurred."""
        x = channels(picture)
        scale = unit_scale(picture)
        x, kernel, kernel_notes = x / scale, gaussian_kernel(options.sigma, BLUR[1]), ()
        if options.kernel:
            kernel, kernel_notes = read_kernel(options.kernel, x.shape[-2:])
        elif options.sigma != BLUR[0]:
            kernel = gaussian_kernel(options.sigma, 2 * int(3 * options.sigma + 0.5) + 1)
        boundary = options.boundary or "circular"
        sigma = (options.noise or 0.0) / scale
        size = (x.shape[-2], x.shape[-1])
        fits = kernel.shape[0] <= size[0] and kernel.shape[1] <= size[1]
        expect(fits, self.name, "--kernel", f"one no larger than the {size[0]}x{size[1]} picture", tuple(kernel.shape))
        if boundary == "free":  # the camera sees the middle of the picture
            half = [n // 2 for n in kernel.shape]
            inner = (size[0] - 2 * half[0], size[1] - 2 * half[1])
            expect(min(inner) > 0, self.name, "--kernel", "one with room around it", tuple(kernel.shape))
            m = self._measured(picture, inner, kernel, "free", scale, sigma)
            frame = self._frame(m)
            truth = x[..., half[0] : half[0] + inner[0], half[1] : half[1] + inner[1]]
            y = Blur(kernel)(x)[..., half[0] : half[0] + inner[0], half[1] : half[1] + inner[1]]
            truth = frame.fill(truth)
        else:
            frame = Frame.whole(size)
            truth = frame.fill(x)
            m = self._measured(picture, size, kernel, boundary, scale, sigma)
            y = self.operator(m)(truth)
        y = add_noise(y, sigma, seed)
        return _with(m, y=y, truth=truth, notes=(*m.notes, *kernel_notes))

    def read(self, path: Path, options: DeblurOptions) -> Measurement:
        """A blurred photograph."""
        expect(options.kernel != "", self.name, "--kernel", "the blur, a file", "none")
        picture = io.read_picture(path)
        y = channels(picture)
        scale = unit_scale(picture)
        y, size = y / scale, (y.shape[-2], y.shape[-1])
        kernel, notes = read_kernel(options.kernel, size)
        boundary = options.boundary or "free"
        if options.noise is None:
            sigma = float(noise.estimate_blurred(y, kernel).mean())
            notes = (*notes, f"noise estimated: {scale * sigma:.3g} (white is 1)")
        else:
            sigma = options.noise / scale
        m = self._measured(picture, size, kernel, boundary, scale, sigma)
        if boundary != "free":
            y = self._frame(m).fill(y)
        return _with(m, y=y, notes=(*m.notes, *notes))

    def _measured(
        self, picture: Picture, size: tuple[int, int], kernel: Tensor, boundary: str, scale: float, sigma: float
    ) -> Measurement:
        """Everything but y, which stands at zero."""
        frame = Frame.whole(size, [n // 2 for n in kernel.shape] if boundary == "free" else (0, 0))
        facts = {"kernel": kernel, "boundary": boundary, PAPER_LAM: LAM["deblur"]}
        notes = (*picture.notes, f"boundary: {boundary}", *loud(scale * sigma, scale), *frame.notes())
        return Measurement(
            self.name, torch.zeros(1, 1, *size), frame.size, facts, sigma, scale, None, frame.window, picture.form,
            notes,
        )  # fmt: skip

    def _frame(self, m: Measurement) -> Frame:
        top, left, height, width = m.window or (0, 0, *m.size)
        return Frame(m.size, top, left, height, width)

    def operator(self, m: Measurement) -> LinearOperator:
        """The blur, and of a free boundary the window behind it."""
        kernel, boundary = m.tensor("kernel"), m.text("boundary")
        if boundary != "free":
            return Blur(kernel, boundary)
        top, left, *window = m.window or (0, 0, *m.size)
        return Crop(m.size, top, left, window) @ Blur(kernel)

    def start(self, m: Measurement) -> Tensor:
        """The adjoint at y; of a free boundary the photograph, mirrored at its edges."""
        return self._frame(m).fill(m.y) if m.text("boundary") == "free" else super().start(m)

    def auto(self, inverse: Inverse) -> Chosen:
        """By noise and operator; a scene that goes on beyond its edges no further than its picture changes."""
        chosen, sigma = automatic(inverse), inverse.noise
        if chosen.method != PRIOR or inverse.facts["boundary"] != "free" or not sigma or sigma < SOONER[0]:
            return chosen
        return replace(chosen, settings={"tol": SOONER[1]})

    def conditions(self, table: str) -> list[Condition]:
        """Those of Lee & Chun: noiseless, with noise, halved and doubled weights, or all of them."""
        return paper_tables(table, [Condition("noiseless")], "")

    def compared(self) -> tuple[str, ...]:
        """FISTA early and late."""
        return COMPARED[:2]


def _with(m: Measurement, **changes: object) -> Measurement:
    """m with changes."""

    return replace(m, **changes)  # type: ignore[arg-type]


def read_kernel(
    name: str, size: tuple[int, int] | torch.Size, problem: str = "deblur"
) -> tuple[Tensor, tuple[str, ...]]:
    """The kernel of a file for a problem of this name, and remarks."""
    kernel, notes = io.read_kernel(name)
    h, w = kernel.shape
    fits = h <= size[0] and w <= size[1]
    expect(fits, problem, "--kernel", f"one no larger than the {size[0]}x{size[1]} picture", f"{h}x{w}")
    return torch.as_tensor(kernel), tuple(notes)
