"""Methods by name: what `fastrecon.reconstruct` and the command line run, whatever was measured.

A method is made ready once, for its options, and then answers for one batch after another. A file that defines a solver
or a family of models registers its methods itself:

    @method("landweber", LandweberOptions, "gradient steps on |A x - y|^2 / 2")
    def landweber(options: LandweberOptions, device: torch.device) -> Runner:
        def run(inverse: Inverse, watch: Watch | None = None) -> Outcome: ...
        return run
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from fastrecon.certificates import Certificate
from fastrecon.checks import choice, expect, finite_number
from fastrecon.operators.base import LinearOperator

O = TypeVar("O", contravariant=True)  # noqa: E741


@dataclass(frozen=True)
class Inverse:
    """An inverse problem as a method is given it: y = A x + noise for a batch of images.

    Attributes:
        y: measurements [B, ...], on the scale on which images lie about in [0, 1].
        operator: A, from images [B, 1, H, W]; its norm is about 1 where the problem makes it.
        size: (H, W) of the images; None where A alone tells.
        noise: standard deviation of each real number of y; None where it is not known.
        start: images [B, 1, H, W] to start from; None: the adjoint of A at y.
        norm: a bound of |A|; None: it is found out.
        problem: its name in the registry of problems, or "" for an operator of the caller's.
        facts: what is known of the measurement besides; see the problem.
    """

    y: Tensor
    operator: LinearOperator
    size: tuple[int, int] | None = None
    noise: float | None = None
    start: Tensor | None = None
    norm: float | None = None
    problem: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def first(self) -> Tensor:
        """The images to start from."""
        return self.operator.adjoint(self.y, self.size) if self.start is None else self.start


@dataclass(frozen=True)
class Outcome:
    """What a method found: images x [B, 1, H, W], their certificates, the images it started from if not the problem's
    own, maps [B, H, W] by name that were asked for, and the name of the trained model, if there is one."""

    x: Tensor
    report: Certificate | None
    start: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    model: str = ""


class Watch(Protocol):
    """Who is told of every iteration."""

    def __call__(self, done: float, total: float, x: Callable[[], Tensor], what: str = "iterations") -> object:
        """`done` of `total` `what`; `x()` gives the images of this moment, [B, 1, H, W] real or complex."""
        ...


class Runner(Protocol):
    """A method that is ready: its model loaded, its options looked at."""

    def __call__(self, inverse: Inverse, watch: Watch | None = None) -> Outcome:
        """The images of one batch."""
        ...


@dataclass(frozen=True)
class Method:
    """A method that can be chosen by its name.

    Attributes:
        name: for `method=` and --method.
        Options: a frozen dataclass of `options.option` fields.
        summary: one line for --help.
        prepare: from options and a device to what runs.
        problems: names of the problems that it solves; None: any with a linear operator.
        fits: whether it is made for an inverse problem of theirs: has a model for its operator, say.
        best: options with which its picture is better than with the usual ones, whatever the time.
    """

    name: str
    Options: type
    summary: str
    prepare: Callable[[Any, torch.device], Runner]
    problems: tuple[str, ...] | None = None
    fits: Callable[[Inverse], bool] = lambda inverse: True
    best: Callable[[Inverse], Mapping[str, Any]] = lambda inverse: {}

    def solves(self, problem: str) -> bool:
        """Whether it can be chosen for the problem of this name ("" for an operator of the caller's)."""
        return self.problems is None or problem in self.problems

    def ready(self, device: torch.device | str = "cpu", **options: Any) -> Runner:
        """The method with these options.

        Raises:
            ValueError: an option is unknown, or out of range.
        """
        known = [f.name for f in dataclasses.fields(self.Options)]
        for name in options:
            expect(name in known, self.name, "options", f"some of {', '.join(known) or 'none'}", repr(name))
        return self.prepare(self.Options(**options), torch.device(device))


METHODS: dict[str, Method] = {}


def method(
    name: str,
    Options: type,
    summary: str,
    problems: tuple[str, ...] | None = None,
    fits: Callable[[Inverse], bool] = lambda inverse: True,
    best: Callable[[Inverse], Mapping[str, Any]] = lambda inverse: {},
) -> Callable[[Callable[[O, torch.device], Runner]], Callable[[O, torch.device], Runner]]:
    """Registers what it decorates, `prepare(options, device)`, as the method of this name; see Method."""

    def register(prepare: Callable[[O, torch.device], Runner]) -> Callable[[O, torch.device], Runner]:
        METHODS[name] = Method(name, Options, summary, prepare, problems, fits, best)
        return prepare

    return register


def named(name: str, problem: str = "", op: str = "reconstruct") -> Method:
    """The method of this name, for the problem of this name.

    Raises:
        ValueError: there is none, or it solves other problems.
    """
    choice(name, METHODS, op, "method")
    fits = [m.name for m in METHODS.values() if m.solves(problem)]
    expect(
        METHODS[name].solves(problem), op, "method", f"one of {', '.join(fits)} for {problem or 'an operator'}", name
    )
    return METHODS[name]


def given_weight(
    text: str, op: str, words: tuple[str, ...] = ("auto",), name: str = "--lam", above: bool = False
) -> float | None:
    """The weight that an option gives as a number >= 0, or if `above` > 0; None where it is one of `words`.

    Raises:
        ValueError: it is neither.
    """
    if text in words:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    least = ">" if above else ">="
    fits = finite_number(value) and value >= 0 and (value > 0 or not above)
    expect(fits, op, name, f"{', '.join(words)} or a number {least} 0", text)
    return value
