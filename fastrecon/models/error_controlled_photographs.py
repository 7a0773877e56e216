"""Photographs by error-controlled iterations: what is minimised, and the modules that are asked.

Rain   F(B, R) = |B + R - y|^2 / 2 + lam |W B|_p^p + sparse |R|_1, W wavelets; the module sees B and proposes a
       cleaner one, and what it takes off as R: both at once, as f holds either where the other stands.
Others F(g) = min_x |x - y|^2 / 2 + beta |D x - g|^2 / 2 + r(g), but for a constant, of the slopes g of a picture, or
       of the light in it: r = lam times the number of pixels with an edge (smoothing), or lam |g|_p^p (low light). The
       module sees the picture of such slopes and proposes another.

Source: Liu, Optimization Learning: Perspective, Method, and Applications, IJCAI 2020; of slopes, eq. 15 of Liu, Fan,
Cheng, Wang & Luo, Proximal Alternating Direction Network, AAAI 2018.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon.certificates import ControlledReport
from fastrecon.checks import choice
from fastrecon.models.base import is_model, pretrained, trained
from fastrecon.models.separation import METHOD as SEPARATION
from fastrecon.models.separation import Separation
from fastrecon.modules import checkpoints
from fastrecon.operators import Gradient, Identity, LinearOperator, Wavelet
from fastrecon.operators.colour_slopes import ColourSlopes
from fastrecon.operators.layers import Layers
from fastrecon.solvers.error_controlled import ErrorControlled, itself
from fastrecon.solvers.methods import METHODS, Inverse
from fastrecon.terms import L1, GroupL0, Lp, Term
from fastrecon.terms.parts import Parts

Pictures = Callable[[Tensor], Tensor]
CLASSICAL = {
    "derain": ("two-layer",), "smooth": ("l0", "wls", "guided", "lp"), "low-light": ("lp", "wls", "guided", "l0"),
}  # fmt: skip
LAM = {"derain": 1e-4, "smooth": 0.01, "low-light": 0.1}
SPARSE = 0.1  # weight of streaks, in units of that of the background
BETA = {"smooth": 100.0, "low-light": 10.0}  # how much slopes are those of a picture
ONCE = ("derain",)  # problems whose modules make what is clean already too smooth: they are asked once
SHIPPED = ("derain",)  # problems with a model of `separation` among the shipped ones
# Rain that one of the two sees alone counts so much: one mistakes what is aligned for it, the other what is fine.
ALONE = 1 / 3
COUNTED = ("smooth",)  # problems whose penalty counts edges, and has no exponent
NONE = "none"
LOOSE = 1e-3  # mu: nearly all of a proposal is in what is judged


@dataclass(frozen=True)
class Formulation:
    """F, and how pictures and its unknowns are made of one another.

    Attributes:
        operator, y, prior: of F(x) = |A x - y|^2 / 2 + prior(x).
        start: x of the picture as it is.
        picture: of x.
        lifted: the module for x of one for pictures.
    """

    operator: LinearOperator
    y: Tensor
    prior: Term
    start: Tensor
    picture: Pictures
    lifted: Callable[[Pictures], Any]


def formulated(problem: str, y: Tensor, lam: float | None = None, p: float = 0.8) -> Formulation:
    """F of pictures y [B, C, H, W], in rain sides of whole multiples of 8.

    Raises:
        ValueError: the problem is another.
    """
    choice(problem, LAM, "error-controlled", "problem")
    weight = LAM[problem] if lam is None else lam
    if problem == "derain":
        prior = Parts([Lp(weight, p, Wavelet("sym4", 3)), L1(SPARSE * weight)])
        start = torch.cat((y, torch.zeros_like(y)), 1)
        return Formulation(Layers(2), y, prior, start, lambda x: x.chunk(2, 1)[0], Separated)
    slopes = ColourSlopes(BETA[problem])
    prior = GroupL0(weight) if problem in COUNTED else Lp(weight, p)
    return Formulation(
        slopes, slopes.measured(y), prior, Gradient().forward(y), lambda g: slopes.image(g, y),
        lambda module: OnPictures(module, slopes, y),
    )  # fmt: skip


class Separated:
    """A module for pictures at work on background and streaks."""

    def __init__(self, module: Pictures):
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        """The cleaned background; streaks, those there were and what was taken off."""
        background, streaks = x.chunk(2, 1)
        clean = self.module(background)
        return torch.cat((clean, streaks + background - clean), 1)


class OnPictures:
    """A module for pictures at work on slopes."""

    def __init__(self, module: Pictures, slopes: ColourSlopes, y: Tensor):
        self.module, self.slopes, self.y = module, slopes, y

    def __call__(self, g: Tensor) -> Tensor:
        """The slopes of what the module makes of their picture."""
        return Gradient().forward(self.module(self.slopes.image(g, self.y)))

    def take(self, which: Tensor) -> "OnPictures":
        """For the images `which` of the batch."""
        return OnPictures(self.module, self.slopes, self.y[which])


def classical(name: str, problem: str, lam: float | None) -> Pictures:
    """A method without training as a module for pictures."""
    options: dict[str, Any] = {"lam": lam} if lam is not None and name in ("l0", "lp") else {}
    run = METHODS[name].ready(**options)
    return lambda x: run(Inverse(x, Identity(), start=x, problem=problem)).x


def module_named(text: str, problem: str, device: torch.device) -> tuple[Pictures, str]:
    """A model of `separation`, or a network in a file, as a module for pictures; and its name.

    Raises:
        FileNotFoundError, ValueError: there is no such model, or it is of another kind.
    """
    if text and text not in pretrained() and not is_model(text):
        return checkpoints.read(Path(text)).to(device), text
    model = trained(SEPARATION, problem, text).to(device)
    assert isinstance(model, Separation)
    return model.clean, text or model.name


def modules_of(text: str, problem: str, lam: float, device: torch.device) -> tuple[list[Pictures], str]:
    """The module of every iteration, the last for all that follow, and the name of the model among them.

    Args:
        text: a name, a file, "none", or "" for the usual one.
        lam: times the weight of the penalty.

    Raises:
        FileNotFoundError, ValueError: there is none of this name.
    """
    again: list[Pictures] = [itself] if problem in ONCE else []
    if text == NONE:
        return [itself], ""
    if text and text not in CLASSICAL[problem]:
        module, name = module_named(text, problem, device)
        return [module, *again], name
    first = classical(text or CLASSICAL[problem][0], problem, lam * LAM[problem])
    if text or problem not in SHIPPED:
        return [first, *(again or [first, itself])], ""  # a third time it says what it said
    module, name = module_named("", problem, device)

    def both(x: Tensor) -> Tensor:
        found = first(x), module(x)
        return torch.lerp(torch.maximum(*found), torch.minimum(*found), ALONE)

    return [both, *again], name


@torch.no_grad()
def run(
    problem: str, y: Tensor, modules: list[Pictures], lam: float = 1.0, p: float = 0.8, iterations: int = 10,
    tol: float = 1e-4, rule: str = "monotone", step: float = 0.99, history: bool = True,
    callback: Callable[[int, Callable[[], Tensor]], object] | None = None,
) -> tuple[Tensor, ControlledReport]:  # fmt: skip
    """Pictures like y [B, C, H, W] by the module of every iteration, and their certificates.

    Args:
        problem: a name in LAM.
        lam: times the usual weight of the penalty; p: its exponent, of rain and low light.
        iterations, tol, rule, history: as of ErrorControlled.
        step: of the check, in units of 1 / |A|^2.
        callback: callback(k, pictures) after every iteration, pictures() those of the moment.
    """
    f = formulated(problem, y, lam * LAM[problem], p)
    norm = f.operator.norm(f.start.shape)
    solver = ErrorControlled(
        f.operator, f.prior, [f.lifted(m) for m in modules], rule=rule, mu=LOOSE, step=step / norm**2, norm=norm
    )  # fmt: skip

    def tell(k: int, s: Any) -> None:
        if callback is not None and len(s.x) == len(f.start):
            callback(k, lambda: f.picture(s.x))

    x, report = solver(f.y, f.start, iterations, tol, history=history, callback=tell)
    return f.picture(x), report
