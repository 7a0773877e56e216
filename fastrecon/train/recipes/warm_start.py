"""Warm start over phases: a network of few phases is trained first, and grows by copies of its last one."""

import copy
import math
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from fastrecon.checks import expect
from fastrecon.solvers.descent import UnrolledDescent
from fastrecon.train.crop_objective import CropObjective

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


class Warm:
    """A configuration with `stages`, `phases`, `steps`, `select_from` and `init`."""

    stages: str
    phases: int
    steps: int
    select_from: float
    init: str

    def parsed_stages(self) -> list[Stage]:
        """The warm start; a network that starts from another model needs none."""
        text = self.stages or (f"{self.phases}:1" if self.init else default_stages(self.phases))
        return parse_stages(text, self.phases, self.steps, self.select_from)


N = TypeVar("N", bound=nn.Module)


class WarmStarted(CropObjective[N]):
    """A network whose `solver` grows phase by phase; its configuration gives `parsed_stages()`.

    Attributes:
        stage: that of the step at hand.
        select: whether x is the lower of u and v by now.
    """

    stage: Stage
    select: bool

    def begin_stages(self) -> None:
        """Stands before the first step."""
        self.stages: list[Stage] = self.config.parsed_stages()
        self.stage, self.select = self.stages[0], False

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

    def state_dict(self) -> dict[str, Any]:
        """As of CropObjective, and the phases that the network has grown to."""
        solver: Any = self.module.solver
        return super().state_dict() | {"phases": solver.phases}

    def prepare(self, state: dict[str, Any]) -> None:
        """Gives the network as many phases."""
        self.grow(state["phases"])


def copy_network(source: UnrolledDescent, target: UnrolledDescent) -> None:
    """Copies trained parameters but those of operators; phases that the source does not have copy its last one.

    Complex kernels begin as the real ones of a source of real images: real and imaginary part are then images of their
    own, but for the norm of their features.

    Raises:
        ValueError: the source has more phases, or is of another shape.
    """
    solver = copy.deepcopy(source)
    expect(
        solver.phases <= target.phases, "train", "--init", f"a model of at most {target.phases} phases", solver.phases
    )
    if solver.phases < target.phases:
        solver.grow(target.phases)
    theirs = dict(solver.named_parameters())
    for name, p in target.named_parameters():
        if name.startswith("fidelity."):
            continue
        found = theirs[name].detach() if name in theirs else None
        if found is not None and found.ndim == 4 and p.shape == (2, *found.shape):  # real kernels as complex ones
            found = torch.stack((found, torch.zeros_like(found)))
        fits = found is not None and found.shape == p.shape
        expect(fits, "train", "--init", f"a model with {name} of shape {tuple(p.shape)}", "another network")
        assert found is not None
        p.data.copy_(found)
