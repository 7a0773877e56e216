"""Asking modules of which nothing is known: any callable, images in, images out.

What they may do wrong concerns the image alone for which they do it: a module that raises, changes shape, type or
device, or answers NaN or Inf has no answer for that image, and the others go on.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.checks import LONGEST, expect, kind, number

Module = Callable[..., Tensor]  # cleaned images like those given
STRENGTHS = ("sigma", "level", "strength", "noise", "ths")  # names of an argument that says how strong to be
NUMBERS = ("k", "iteration")  # and of one that wants the number of the iteration
SHARES = 1.0  # images may go beyond a module's range by so much of its width


@dataclass(frozen=True)
class Answer:
    """What a module made of images."""

    u: Tensor  # like the images; those without an answer as they were
    failed: Tensor  # [B] bool: there was none


class Modules:
    """The module of every iteration, and how each likes to be asked.

    Args:
        given: a callable x -> x, the same everywhere; or a list of them, one an iteration, the last for all that
            follow. An argument called sigma, level, strength, noise or ths is given the strength of the iteration, one
            called k or iteration its number 0, 1, ... One with data of its own for each image has a method take(which),
            itself for the images `which` of the batch; one that was made for images on a range says so by an attribute
            `range`, (low, high).
        strengths: > 0, of every iteration, the last for all that follow; None: none is told.
        op: whose argument they are, for messages.

    Raises:
        ValueError: a module cannot be called, or wants a strength and there is none.
    """

    def __init__(self, given: Any, strengths: Sequence[float] | None = None, op: str = "modules"):
        self.given: list[Module] = list(given) if isinstance(given, list | tuple | nn.ModuleList) else [given]
        fits = len(self.given) > 0 and all(callable(m) for m in self.given)
        expect(fits, op, "modules", "a function of images, or a list of them", given)
        self.op = op
        self.strengths = None if strengths is None else [float(number(s, op, "strengths", above=0)) for s in strengths]
        expect(self.strengths != [], op, "strengths", "one at least, or None", "none")
        self.wants = [_wants(m) for m in self.given]
        for strength, _, needed in self.wants:
            told = self.strengths is not None or not needed
            expect(told, op, "strengths", f"numbers > 0: a module has to be told its {strength}", None)

    def call(self, x: Tensor, k: int) -> Any:
        """What the module of iteration k says of x, whatever that is."""
        i = min(k, len(self.given) - 1)
        strength, iteration, _ = self.wants[i]
        told: dict[str, Any] = {} if iteration is None else {iteration: k}
        if strength is not None and self.strengths is not None:
            told[strength] = self.strengths[min(k, len(self.strengths) - 1)]
        return self.given[i](x, **told)

    def asked(self, x: Tensor, k: int, reasons: list[str]) -> Answer:
        """The answers of iteration k for images x [B, ...], without gradients; texts of what went wrong join `reasons`.

        The whole batch is asked; where that raises, or does not fit, every image for itself.
        """
        u = self._try(x, k, reasons)
        if u is None:
            alone = [self._try(one, k, reasons) for one in x.split(1)] if len(x) > 1 else [None] * len(x)
            u = torch.cat([x.new_full(x[:1].shape, float("nan")) if one is None else one for one in alone])
        failed = ~torch.isfinite(u).flatten(1).all(1)
        return Answer(torch.where(failed.view(-1, *[1] * (x.ndim - 1)), x, u), failed)

    def _try(self, x: Tensor, k: int, reasons: list[str]) -> Tensor | None:
        """The answers, or None."""
        try:
            u = self.call(x.clone(), k)  # of which a module may make what it likes
        except Exception as e:  # whatever a foreign module trips over
            reason = f"{type(e).__name__}: {str(e).partition(chr(10))[0][:LONGEST]}"
        else:
            if isinstance(u, Tensor) and (u.shape, u.dtype, u.device) == (x.shape, x.dtype, x.device):
                return u.detach()
            got = f"{tuple(u.shape)} {kind(u)}" if isinstance(u, Tensor) else type(u).__name__
            reason = f"expected images like {tuple(x.shape)} {kind(x)}, got {got}"
        if reason not in reasons:
            reasons.append(reason)
        return None

    def check_range(self, x: Tensor) -> None:
        """Looks whether images lie about where modules say that they must. Reads x, where one says so.

        Raises:
            ValueError: they do not.
        """
        for m in self.given:
            limits = getattr(m, "range", None)
            if isinstance(limits, tuple) and x.numel() > 0:
                low, high = (float(v) for v in limits)
                parts = torch.view_as_real(x) if x.is_complex() else x
                least, most = parts.min().item(), parts.max().item()
                slack = SHARES * (high - low)
                fits = low - slack <= least and most <= high + slack
                expect(fits, self.op, "x0", f"images about on [{low:g}, {high:g}], for which the module was made",
                       f"[{least:.3g}, {most:.3g}]")  # fmt: skip

    def within(self, x: Tensor) -> Tensor:
        """Where [B] images lie about where modules say that they must."""
        parts = torch.view_as_real(x) if x.is_complex() else x
        good = torch.isfinite(parts).flatten(1).all(1)
        for m in self.given:
            limits = getattr(m, "range", None)
            if isinstance(limits, tuple):
                low, high = (float(v) for v in limits)
                slack = SHARES * (high - low)
                good &= ((low - slack <= parts) & (parts <= high + slack)).flatten(1).all(1)
        return good

    def take(self, which: Tensor) -> "Modules":
        """Those for the images `which` of the batch."""
        parts: list[Any] = [m.take(which) if hasattr(m, "take") else m for m in self.given]  # type: ignore[attr-defined]
        return Modules(parts, self.strengths, self.op)

    def networks(self) -> list[nn.Module]:
        """Those with parameters."""
        return [m for m in self.given if isinstance(m, nn.Module)]


def _wants(module: Module) -> tuple[str | None, str | None, bool]:
    """The names of the arguments for strength and number of the iteration, and whether there must be a strength."""
    try:
        target = module.forward if isinstance(module, nn.Module) else module
        parameters = list(inspect.signature(target).parameters.values())[1:]
    except (TypeError, ValueError):  # built in, without a signature
        return None, None, False
    by_name = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    strength = next((n for n in STRENGTHS if n in by_name), None)
    needed = strength is not None and by_name[strength].default is inspect.Parameter.empty
    return strength, next((n for n in NUMBERS if n in by_name), None), needed
