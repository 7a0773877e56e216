"""What every inverse problem offers: measurements read from files or simulated, their operator, a start, scores.

A problem is one file: a subclass of Problem with `@problem` before it, and its options in a frozen dataclass. The
command line is made from both; nothing else has to know about it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from fastrecon import metrics
from fastrecon.checks import choice, expect
from fastrecon.io import Form, Picture
from fastrecon.operators.base import LinearOperator
from fastrecon.solvers.automatic import Chosen
from fastrecon.solvers.methods import Inverse

SSIM_SIDE = 7  # pixels: the window of SSIM
O = TypeVar("O")  # noqa: E741
Fact = Tensor | float | int | str | bool


@dataclass(frozen=True)
class Measurement:
    """What was measured of one picture, and all that makes its operator.

    Attributes:
        problem: name of the problem.
        y: measurements [B, ...], one of the batch for each colour channel; the data were `scale` times as large.
        size: (H, W) of the images that the operator takes.
        facts: what makes the operator: masks, kernels, angles, matrices, and numbers or texts beside them.
        noise: standard deviation of each real number of y; None where it is not known.
        scale: taken out of the data, put back into the picture.
        truth: images [B, 1, H, W] that were measured, where that was simulated; on the scale of y.
        window: (top, left, height, width) of the picture in the images; None where it is all of them.
        form: of the file that the picture goes into.
        notes: what was converted, found out or assumed on the way.
    """

    problem: str
    y: Tensor
    size: tuple[int, int]
    facts: Mapping[str, Fact] = field(default_factory=dict)
    noise: float | None = None
    scale: float = 1.0
    truth: Tensor | None = None
    window: tuple[int, int, int, int] | None = None
    form: Form = field(default_factory=Form)
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        expect(self.y.ndim > 1 and len(self.y) > 0, "Measurement", "y", "measurements [B, ...]", self.y)

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes, and what becomes of colours."""
        return self.notes + (("three channels, each restored on its own",) if len(self.y) == 3 else ())

    def to(self, device: torch.device | str) -> "Measurement":
        """The same with its tensors on `device`."""
        facts = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.facts.items()}
        truth = None if self.truth is None else self.truth.to(device)
        return replace(self, y=self.y.to(device), facts=facts, truth=truth)

    def tensor(self, name: str) -> Tensor:
        """A tensor among the facts."""
        return _of_kind(self, name, Tensor)

    def number(self, name: str) -> float:
        """A number among the facts."""
        return _of_kind(self, name, (int, float))

    def text(self, name: str) -> str:
        """A text among the facts."""
        return _of_kind(self, name, str)


def _of_kind(m: Measurement, name: str, kind: Any) -> Any:
    fits = isinstance(m.facts.get(name), kind)
    expect(fits, m.problem, name, "a fact of such measurements", type(m.facts.get(name)).__name__)
    return m.facts[name]


@dataclass(frozen=True)
class Condition:
    """A column of a table: what is simulated with which options, solved by which options of classical methods."""

    name: str
    simulate: Mapping[str, Any] = field(default_factory=dict)
    solve: Mapping[str, Any] = field(default_factory=dict)


class Problem(ABC, Generic[O]):
    """An inverse problem.

    Attributes:
        name: in the registry, on the command line and in files.
        summary: one line for --help.
        Options: a frozen dataclass of `options.option` fields; those with of="simulate" mean simulated measurements.
        methods: names of methods, the default first.
        suffixes: of files that hold such measurements; None: pictures.
        norm: a bound of |A| for all of its measurements, if there is one.
        maps: names of the maps that come with a picture; see `maps_of`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Options: ClassVar[type]
    methods: ClassVar[tuple[str, ...]]
    suffixes: ClassVar[tuple[str, ...] | None] = None
    norm: ClassVar[float | None] = None
    maps: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def simulate(self, picture: Picture, options: O, seed: int = 0) -> Measurement:
        """Measurements of a picture, with masks and noise from `seed`.

        Raises:
            ValueError: the picture or an option does not fit.
        """

    @abstractmethod
    def read(self, path: Path, options: O) -> Measurement:
        """Measurements from a file as people have them; those of `simulate` are read by `problems.file`.

        Raises:
            FileNotFoundError, ValueError: the file is none of such, or an option does not fit it.
        """

    @abstractmethod
    def operator(self, m: Measurement) -> LinearOperator:
        """A, from images [B, 1, H, W] to y, on the device of m."""

    def start(self, m: Measurement) -> Tensor:
        """Images [B, 1, H, W] that iterations start from."""
        return self.operator(m).adjoint(m.y, m.size)

    def conditions(self, table: str) -> list[Condition]:
        """The columns of a table of `evaluate`; "default" is one."""
        choice(table, ("default",), self.name, "table")
        return [Condition("default")]

    def compared(self) -> tuple[str, ...]:
        """The methods that `evaluate` compares unless told otherwise, as NAME or NAME:OPTION=VALUE,..."""
        return self.methods[:1]

    def auto(self, inverse: Inverse) -> Chosen:
        """The method unless one is named, and why: the first of `methods`."""
        return Chosen(self.methods[0], f"the usual one of {self.name}")

    def inverse(self, m: Measurement) -> Inverse:
        """The problem of measurements, as methods take it."""
        return Inverse(m.y, self.operator(m), m.size, m.noise, self.start(m), self.norm, self.name, m.facts)

    def images(self, x: Tensor, m: Measurement) -> Tensor:
        """The part of images [B, 1, H, W] that is the picture."""
        if m.window is None:
            return x
        top, left, height, width = m.window
        return x[..., top : top + height, left : left + width]

    def pixels(self, x: Tensor, m: Measurement) -> np.ndarray:
        """The picture [H, W] or [H, W, 3] of images [B, 1, H, W], on the scale of the data."""
        x = self.images(x, m).detach().cpu() * m.scale
        if x.is_complex() and not m.form.dtype.startswith("complex"):
            x = x.real
        most = torch.finfo(torch.float32).max  # of a picture near it what is brighter is written as it
        a = (x if x.is_complex() else x.float().clamp(-most, most)).numpy()[:, 0]
        return np.ascontiguousarray(a[0] if len(a) == 1 else np.moveaxis(a, 0, -1))

    def maps_of(self, x: Tensor, m: Measurement) -> dict[str, np.ndarray]:
        """What else images show than the picture: maps [H, W] on [0, 1], by the names in `maps`."""
        return {}

    def scores(self, x: Tensor, m: Measurement) -> dict[str, float | None] | None:
        """Of images against the true ones: psnr (dB), ssim and relative_error on [0, 1], of real parts, or of
        magnitudes where the truth is complex; nmse_db of the images themselves.

        None where the truth is not known; ssim is None for images smaller than its window.
        """
        if m.truth is None:
            return None
        found, truth = (self.images(t, m) for t in (x, m.truth.to(x.device)))
        return quality(found, truth)

    def describe(self, m: Measurement) -> str:
        """Measurements in words."""
        height, width = m.size if m.window is None else m.window[2:]
        colour = ", three channels" if len(m.y) == 3 else ""
        return f"{height} x {width} pixels{colour}"


def quality(x: Tensor, truth: Tensor) -> dict[str, float | None]:
    """Scores of images [B, 1, H, W], the channels of one picture, against the true ones: see Problem.scores."""
    whole = [t.transpose(0, 1) for t in (x, truth)]  # [1, B, H, W]: a picture is judged as one
    error = [t.to(torch.complex128 if x.is_complex() else torch.float64) for t in whole]
    magnitudes = truth.is_complex()
    found, true = ((t.abs() if magnitudes else t.real if t.is_complex() else t).double() for t in whole)
    found = found.clamp(0, 1)
    large = min(x.shape[-2:]) >= SSIM_SIDE
    return {
        "psnr": metrics.psnr(found, true).item(),
        "ssim": metrics.ssim(found, true).item() if large else None,
        "relative_error": metrics.relative_error(found, true).item(),
        "nmse_db": metrics.nmse_db(*error).item(),
    }


def add_rician(x: Tensor, sigma: float, seed: int) -> Tensor:
    """The modulus |x + n| of real images, n complex with this standard deviation in both parts."""
    return add_noise(torch.complex(x, torch.zeros_like(x)), sigma, seed).abs()


PROBLEMS: dict[str, Problem[Any]] = {}
P = TypeVar("P", bound=type[Problem[Any]])


def problem(kind: P) -> P:
    """Registers a problem, whose class it decorates."""
    made: Any = kind()
    PROBLEMS[kind.name] = made
    return kind


def channels(picture: Picture) -> Tensor:
    """A picture as images [B, 1, H, W], one for each channel."""
    a = torch.from_numpy(np.ascontiguousarray(picture.pixels))
    return a[None, None] if a.ndim == 2 else a.movedim(-1, 0)[:, None].contiguous()


def colours(count: int) -> str:
    """So many channels in words."""
    return "grey" if count == 1 else f"{count} channels"


def unit_scale(picture: Picture) -> float:
    """What the pixels of a picture are to be divided by to lie about in [0, 1]; 1 where they do."""
    if picture.white is not None:
        return float(picture.white)
    return float(np.abs(picture.pixels).max(initial=0.0)) or 1.0


def loud(noise: float | None, white: float = 1.0) -> tuple[str, ...]:
    """A remark on noise, in the unit in which white is `white`, that leaves nothing to see: likely grey levels."""
    if noise is None or noise < white:
        return ()
    levels = f" (grey levels of 255? then --noise {noise / 255:.3g})" if white == 1 and noise <= 255 else ""
    return (f"noise of {noise:g} drowns a picture whose white is {white:g}{levels}",)


def add_noise(y: Tensor, sigma: float | Sequence[float], seed: int) -> Tensor:
    """y [B, ...] with Gaussian noise of this standard deviation on each real number, the same on every device.

    `sigma` is a number, or one for each of the batch.
    """
    if not np.any(sigma):
        return y
    wide = torch.complex128 if y.is_complex() else torch.float64
    drawn = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=wide)
    levels = torch.as_tensor(sigma, dtype=torch.float64).view(-1, *[1] * (y.ndim - 1))
    # complex normal numbers have variance 1 in sum: twice the power for one deviation in each part
    return y + (levels * (2**0.5 if y.is_complex() else 1) * drawn).to(y)
