"""Warm start over phases: a network of few phases is trained first, and grows by copies of its last one."""

import math
from dataclasses import dataclass

from fastrecon.checks import expect

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
