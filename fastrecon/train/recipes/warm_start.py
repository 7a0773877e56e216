"""Warm start over phases: a network of few phases is trained first, and grows by copies of its last one.

At the start of every stage x = u always, later the lower of u and v; or x = u to the end, and r is weighed afterwards.
Source: Chen, Liu, Ye & Zhang, arXiv:2007.11245, sec. 4.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastrecon.checks import expect
from fastrecon.options import option
from fastrecon.solvers import LDA
from fastrecon.train.crop_objective import CropObjective
from fastrecon.train.objective import Score

SMALL, SINGLE = 0.1, 60.0  # rate of a kernel whose weights have a root mean square of 1 is its inverse; of others
LEAST = 1e-6  # mean squared error that adds to each image's: 60 dB is enough
LOSS = 0.005  # dB on validation images that selection may cost
MARGIN, MOST = 4.0, 2.0**12  # of the weight of r in the comparison of u and v: see `weighed`
FORM = "PHASES:SHARE[:SELECT_FROM],... with rising phases, positive shares and SELECT_FROM in [0, 1]"


@dataclass(frozen=True)
class Stage:
    """Steps begin <= step < end with that many phases; from step `select` on, x is the lower of u and v."""

    phases: int
    begin: int
    select: int
    end: int

    def __str__(self) -> str:
        return f"{self.phases} phases: steps {self.begin} to {self.end}, x = u before {self.select}"


def parse_stages(text: str, phases: int, steps: int, select_from: float) -> list[Stage]:
    """The stages of a run of `steps` steps, the last of which has `phases` phases.

    Args:
        text: PHASES:SHARE[:SELECT_FROM],...
        phases: of the finished network.
        steps: of the whole run, which the shares divide.
        select_from: share of a stage after which x is the lower of u and v, where the text names none.

    Raises:
        ValueError: the text has another form, phases do not rise, or shares are not positive.
    """
    rows: list[tuple[int, float, float]] = []
    try:
        for part in text.split(","):
            count, share, *select = part.split(":")
            rows.append((int(count), float(share), float(select[0]) if select else select_from))
    except ValueError:
        raise ValueError(f"train: --stages: expected {FORM}, got {text!r}") from None
    rising = all(a[0] < b[0] for a, b in zip([(0, 0, 0), *rows], rows, strict=False))
    expect(rising and all(0 < s < math.inf and 0 <= f <= 1 for _, s, f in rows), "train", "--stages", FORM, repr(text))
    expect(rows[-1][0] == phases, "train", "--stages", f"the last to have --phases {phases}", repr(text))
    total, done, stages, begin = math.fsum(s for _, s, _ in rows), 0.0, [], 0
    for count, share, select in rows:
        done += share
        end = round(steps * done / total)
        stages.append(Stage(count, begin, begin + round(select * (end - begin)), end))
        begin = end
    return stages


def default_stages(phases: int) -> str:
    """3 and 5 phases, then all."""
    early = [k for k in (3, 5) if k < phases]
    return ",".join([f"{k}:0.15" for k in early] + [f"{phases}:{1 - 0.15 * len(early)}"])


@dataclass(frozen=True)
class WarmConfig:
    """What a run computes; beside `phases`, `steps`, `lr` and `init`."""

    stages: str = option(
        'warm start "PHASES:SHARE[:SELECT_FROM],...", shares of the steps; default: 3, 5, then --phases', ""
    )
    select_from: float = option(
        "share of each stage after which x is the lower of u and v; before, x = u; 1: u to the end, and r gets the"
        " weight in phi with which u is the lower",
        0.5,
        within="[0, 1]",
        type=float,
    )
    loss: str = option(
        "mean squared error, or the mean logarithm of each image's, by which easy images count as much as hard ones",
        "squared", choices=("squared", "log"),
    )  # fmt: skip
    relative: bool = option(
        "the learning rate is in units of a kernel's size over ten, as a network wants that has been trained before",
        False,
    )


def stages_of(config: Any) -> list[Stage]:
    """The warm start of a WarmConfig; a network that starts from another model needs none."""
    text = config.stages or (f"{config.phases}:1" if config.init else default_stages(config.phases))
    return parse_stages(text, config.phases, config.steps, config.select_from)


N = TypeVar("N", bound=nn.Module)


class WarmStarted(CropObjective[N]):
    """A network whose `solver` grows phase by phase; its configuration is a WarmConfig.

    Attributes:
        stage: that of the step at hand.
        select: whether x is the lower of u and v by now.
        quality: of any model on the validation images, as in inference.
    """

    stage: Stage
    select: bool
    config: Any
    quality: Callable[..., Score]

    def begin_stages(self) -> None:
        """Stands before the first step."""
        self.stages = stages_of(self.config)
        self.stage, self.select = self.stages[0], False
        self.squared_error = self.config.loss == "squared"

    def begin_rates(self) -> None:
        """The learning rate of each parameter, of the network that the run starts from."""
        if self.config.relative:
            self.rates = {n: _rate(p) for n, p in self.module.named_parameters()}

    @property
    def from_init(self) -> bool:
        """Whether --init is needed also where a run goes on: its kernels tell the rates."""
        return bool(self.config.init and self.config.relative)

    def misfit(self, found: Tensor, x: Tensor) -> Tensor:
        """Mean squared error of images [B, C, H, W], or the mean of its logarithms."""
        error = (found - x).abs().square()
        return error.mean() if self.squared_error else (error.mean((1, 2, 3)) + LEAST).log().mean()

    def begin_step(self, step: int) -> bool:
        """Enters the stage of `step`; true if the network has grown."""
        self.stage = next(s for s in self.stages if s.begin <= step < s.end)
        self.select = step >= self.stage.select
        return self.grow(self.stage.phases)

    def grow(self, phases: int) -> bool:
        """Gives the network so many phases; whether it had others."""
        solver: Any = self.module.solver
        if solver.phases == phases:
            return False
        solver.grow(phases)
        return True

    def describe(self) -> str:
        """The stage in a few words."""
        return f"K={self.stage.phases}" + ("" if self.select else " u-only")

    def reschedule(self, config: Any) -> None:
        """Takes settings that differ in their number of steps, before the first."""
        self.config = config
        self.begin_stages()

    def seconds(self) -> float:
        """What the whole run takes: of each stage with x = u, and with selection."""
        kept, found = (self.module, self.stage, self.select), []
        for stage in self.stages:
            self.module = copy.deepcopy(kept[0])
            self.grow(stage.phases)
            for self.select, count in ((False, stage.select - stage.begin), (True, stage.end - stage.select)):
                found.append(count * self.seconds_per_step() if count else 0.0)
        self.module, self.stage, self.select = kept
        return math.fsum(found)

    @property
    def learned_only(self) -> bool:
        """Whether x = u to the end of the run."""
        return self.stages[-1].select == self.stages[-1].end

    @torch.no_grad()
    def validate(self) -> Score | None:
        """As in inference; with x = u where the run has nothing else."""
        told = {"select": False} if self.learned_only else {}
        return self.quality(self.module, **told) if self.held else None

    def finished(self) -> tuple[dict[str, Any], N]:
        """What the card is told of the stages, and the model to write."""
        more: dict[str, Any] = {"stages": list(map(str, self.stages))}
        if not (self.learned_only and self.held and isinstance(self.module.solver, LDA)):
            return more, self.module
        weight, model = self.weighed()
        return more | {"weight": weight}, model

    @torch.no_grad()
    def weighed(self) -> tuple[float, N]:
        """A weight c of r with which selection takes the learned steps, and the model with c r.

        Training with x = u leaves the scale of r, and so what u and v are compared by, to chance. Four times the least
        power of two that loses nothing on validation images, so that others have a margin; or no more than the best of
        them, where some u have a larger r than v and no weight takes those.
        """
        c, found, enough = 0.5, dict[float, float](), self.quality(self.module, select=False).value - LOSS
        while c < MOST and not found.get(c, -math.inf) > enough:
            c *= 2
            value = self.quality(_reweighed(self.module, c)).value
            found[c] = value if math.isfinite(value) else -math.inf
        least = enough if found[c] > enough else max(found.values()) - LOSS
        c = MARGIN * min(c for c, value in found.items() if value >= least)
        return c, _reweighed(self.module, c)

    def state_dict(self) -> dict[str, Any]:
        """As of CropObjective, and the phases that the network has grown to."""
        solver: Any = self.module.solver
        return super().state_dict() | {"phases": solver.phases}

    def prepare(self, state: dict[str, Any]) -> None:
        """Gives the network as many phases."""
        self.grow(state["phases"])


def _rate(p: Tensor) -> float:
    """Of a parameter: a kernel's size over ten; step sizes and radii, which are single numbers, take larger steps."""
    return float(p.detach().square().mean().sqrt()) / SMALL if p.ndim > 1 else SINGLE


def _reweighed(model: N, c: float) -> N:
    model = copy.deepcopy(model)
    solver: Any = model.solver
    solver.reweigh(c)
    return model
