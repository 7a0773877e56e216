"""Inpainting: some pixels of a photograph are known, the others are wanted."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastrecon import io, masks
from fastrecon.checks import choice, expect
from fastrecon.io import Picture
from fastrecon.noise import estimate_known
from fastrecon.operators import Inpainting, LinearOperator
from fastrecon.options import check, option
from fastrecon.problems.base import Condition, Measurement, Problem, add_noise, channels, loud, problem, unit_scale
from fastrecon.problems.frame import Frame
from fastrecon.problems.wavelet_l1 import LAM, SCALE
from fastrecon.solvers.automatic import Chosen, automatic
from fastrecon.solvers.methods import Inverse
from fastrecon.solvers.wavelet_methods import PAPER_LAM

RATES = (0.3, 0.5, 0.7)
TEXTURE = 0.035  # what looks like noise, and may be the texture of a photograph without


@dataclass(frozen=True)
class InpaintOptions:
    """Options of inpainting."""

    mask: str = option(
        "image or array of the photograph's size: white, 1 or true where a pixel is known; default: what is"
        " transparent or NaN in the photograph is unknown", "",
    )  # fmt: skip
    noise: float | None = option(
        "standard deviation of the noise, where white is 1; measured and not given: estimated where it is clearly more"
        " than texture, else taken for none; of simulated measurements it is added", None, within="[0, 1000]",
        type=float,
    )  # fmt: skip
    rate: float = option("share of known pixels", 0.5, within="(0, 1]", type=float, of="simulate")
    sampling: str = option("which pixels are known", "uniform", choices=tuple(masks.GENERATORS), of="simulate")

    def __post_init__(self):
        check(self, "inpaint")


@problem
class Inpaint(Problem[InpaintOptions]):
    """y = m x."""

    name = "inpaint"
    summary = "photographs of which some pixels are known"
    Options = InpaintOptions
    methods = (
        "dct", "tv", "cycle-spinning", "fista", "ista", "admm", "hqs", "error-controlled", "sgp-step", "sgp-diag",
        "unet",
    )  # fmt: skip
    norm = 1.0

    def simulate(self, picture: Picture, options: InpaintOptions, seed: int = 0) -> Measurement:
        """Pixels left out of a picture."""
        x = channels(picture)
        size = (x.shape[-2], x.shape[-1])
        known = (
            io.read_mask(options.mask, size)
            if options.mask
            else masks.GENERATORS[options.sampling](size, options.rate, seed)
        )
        scale = unit_scale(picture)
        truth = x / scale
        mask = torch.as_tensor(known).to(x.real)[None, None]
        y = mask * add_noise(truth, (options.noise or 0.0) / scale, seed)
        return self._measured(picture, y, mask, options.noise or 0.0, scale, truth)

    def read(self, path: Path, options: InpaintOptions) -> Measurement:
        """A photograph and its mask."""
        picture = io.read_picture(path, holes=not options.mask)
        x = channels(picture)
        size = (x.shape[-2], x.shape[-1])
        if options.mask:
            known = torch.as_tensor(io.read_mask(options.mask, size))
        else:
            whole = "every pixel is known: a mask says which are not (--mask FILE)"
            expect(picture.known is not None, self.name, "--mask", "transparent or NaN pixels, or a mask", whole)
            known = torch.as_tensor(picture.known)
        mask = known.to(x.real)[None, None]
        share = mask.mean().item()
        expect(share > 0, self.name, "--mask", "some pixels that are known", "none (is it inverted?)")
        x = torch.where(mask > 0, x, 0)
        scale = unit_scale(picture)
        if options.noise is not None:
            return self._measured(picture, x / scale, mask, options.noise, scale, None)
        sigma, told = _noise(x / scale, mask)
        return self._measured(picture, x / scale, mask, scale * sigma, scale, None, told)

    def _measured(
        self, picture: Picture, y: Tensor, mask: Tensor, noise: float, scale: float, truth: Tensor | None,
        told: tuple[str, ...] = (),
    ) -> Measurement:  # fmt: skip
        frame = Frame.whole(y.shape[-2:])
        share = f"{100 * mask.mean().item():.1f}% of the pixels are known"
        notes = (*picture.notes, *told, *loud(noise, scale), share, *frame.notes())
        return Measurement(
            self.name, frame.fill(y), frame.size, {"mask": frame.fill(mask), PAPER_LAM: LAM["inpaint"]},
            noise / scale, scale, None if truth is None else frame.fill(truth),
            frame.window, picture.form, notes,
        )  # fmt: skip

    def operator(self, m: Measurement) -> LinearOperator:
        """The mask."""
        return Inpainting(m.tensor("mask")[0, 0])

    def auto(self, inverse: Inverse) -> Chosen:
        """By noise and operator."""
        return automatic(inverse)

    def conditions(self, table: str) -> list[Condition]:
        """Those of Lee & Chun: rates, noise, lam, or all of them."""
        return paper_tables(table, [Condition(f"{100 * r:g}%", {"rate": r}) for r in RATES], "50% ")

    def compared(self) -> tuple[str, ...]:
        """FISTA early and late, and the shipped networks."""
        return COMPARED


def _noise(y: Tensor, mask: Tensor) -> tuple[float, tuple[str, ...]]:
    """The noise of a photograph where white is 1, and a remark; 0 where there may be none.

    A learned prior that keeps all known pixels was ahead of what needs no noise level also where there was some.
    """
    parts = torch.cat([y.real, y.imag]) if y.is_complex() else y
    sigma = float(estimate_known(parts, mask).mean())
    if not sigma > TEXTURE:
        return 0.0, ("no noise that is clearly more than texture: taken for none",)
    return sigma, (f"noise estimated: {sigma:.3g} (white is 1)",)


COMPARED = ("fista:iterations=100", "fista:iterations=1200", "sgp-step", "sgp-diag")


def paper_tables(table: str, plain: list[Condition], base: str, noise: float = 5.0) -> list[Condition]:
    """The columns of Lee & Chun's tables: the plain ones, `noise` in grey levels of 255, weights halved and doubled."""
    choice(table, ("default", "rates", "noise", "lam", "all"), "evaluate", "table")
    paper = {"lam": "paper"}
    groups = {
        "rates": [Condition(c.name, c.simulate, paper) for c in plain],
        "noise": [Condition(f"{base}noise {noise:g}", {"noise": noise / SCALE}, paper)],
        "lam": [
            Condition(f"{base}{name}", {}, paper | {"lam_factor": f}) for name, f in (("lam/2", 0.5), ("2 lam", 2.0))
        ],
        "default": [Condition("default")],
    }
    wanted = ("rates", "noise", "lam") if table == "all" else (table,)
    return [c for name in wanted for c in groups[name]]
