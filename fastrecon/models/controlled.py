"""Method "controlled": photographs by the error-controlled iteration, whose module may be anything.

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
from typing import Any

import torch
from torch import Tensor

from fastrecon.checks import choice
from fastrecon.models.base import Model, trained
from fastrecon.models.separation import METHOD as SEPARATION
from fastrecon.models.separation import Separation
from fastrecon.operators import Gradient, Identity, LinearOperator, Wavelet
from fastrecon.operators.colour_slopes import ColourSlopes
from fastrecon.operators.layers import Layers
from fastrecon.options import check, option
from fastrecon.solvers.error_controlled import ErrorControlled, itself
from fastrecon.solvers.methods import METHODS, Inverse, Outcome, Runner, Watch, method
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
    choice(problem, LAM, "controlled", "problem")
    weight = LAM[problem] if lam is None else lam
    if problem == "derain":
        prior = Parts([Lp(weight, p, Wavelet("sym4", 3)), L1(SPARSE * weight)])
        start = torch.cat((y, torch.zeros_like(y)), 1)
        return Formulation(Layers(2), y, prior, start, lambda x: x.chunk(2, 1)[0], Separated)
    slopes = ColourSlopes(BETA[problem])
    prior = GroupL0(weight) if problem == "smooth" else Lp(weight, p)
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


@dataclass(frozen=True)
class ControlledOptions:
    """Options of the error-controlled iteration for photographs."""

    module: str = option(
        "what proposes: a method without training (rain: two-layer; others: l0, lp, wls, guided), or a model of"
        " `separation`, shipped or a file; default: the first of these, of rain it and the shipped"
        " model together", "",
    )  # fmt: skip
    lam: float | None = option(
        "weight of the penalty; default: 1e-4 of rain, 0.01 of smoothing, 0.1 of low light", None,
        within="[1e-9, 1e3]", type=float,
    )  # fmt: skip
    p: float = option("its exponent, of rain and low light", 0.8, within="[0, 1]", type=float)
    iterations: int = option("at most so many", 10, within="[1, 1e6]", type=int)
    tol: float = option("done once the relative change is at most TOL; 0: never", 1e-4, within="[0, 1]", type=float)
    rule: str = option(
        "what is accepted: monotone, whatever the objective falls by; descent, if the error of the step is bounded too",
        "monotone", choices=("monotone", "descent"),
    )  # fmt: skip

    def __post_init__(self):
        check(self, "controlled")


@method("controlled", ControlledOptions, "a module proposes, the objective disposes (error-controlled)", tuple(LAM))
def controlled(options: ControlledOptions, device: torch.device) -> Runner:
    """Pictures [B, C, H, W], or the light in them [B, 1, H, W]."""
    models: dict[str, Model] = {}

    def network(problem: str) -> tuple[Pictures, str]:
        model = models.setdefault(problem, trained(SEPARATION, problem, options.module).to(device))
        assert isinstance(model, Separation)
        return model.clean, options.module or model.name

    def asked(problem: str) -> tuple[list[Pictures], str]:
        """The module of every iteration, the last for all that follow, and the name of the model among them."""
        again = [itself] if problem in ONCE else []
        if options.module and options.module not in CLASSICAL[problem]:
            module, name = network(problem)
            return [module, *again], name
        first = classical(options.module or CLASSICAL[problem][0], problem, options.lam)
        if options.module or problem not in SHIPPED:
            return [first, *(again or [first, itself])], ""  # a third time it says what it said
        module, name = network(problem)

        def both(x: Tensor) -> Tensor:
            found = first(x), module(x)
            return torch.lerp(torch.maximum(*found), torch.minimum(*found), ALONE)

        return [both, *again], name

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        f = formulated(inverse.problem, inverse.y, options.lam, options.p)
        modules, name = asked(inverse.problem)
        solver = ErrorControlled(
            f.operator, f.prior, [f.lifted(m) for m in modules], rule=options.rule, mu=LOOSE
        )  # fmt: skip

        def tell(k: int, s: Any) -> None:
            if watch is not None and len(s.x) == len(f.start):
                watch(k, options.iterations, lambda: f.picture(s.x))

        x, report = solver(f.y, f.start, options.iterations, options.tol, history=watch is not None, callback=tell)
        return Outcome(f.picture(x), report, model=name)

    return run
