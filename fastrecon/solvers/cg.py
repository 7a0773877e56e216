"""Method "cg": least squares by conjugate gradients on the normal equations, for every linear operator.

Iterations regularise: they stop once |A x - y| is what the noise makes it (Morozov), and without noise once the normal
equations are solved to a tolerance. Solves in the form of CGLS, which never forms A* A x.

Source: Hestenes & Stiefel, Methods of Conjugate Gradients for Solving Linear Systems, J. Res. NBS 49 (1952), sec. 10;
Hanke, Conjugate Gradient Type Methods for Ill-Posed Problems, Longman 1995.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastrecon.certificates import ITERATION_LIMIT
from fastrecon.ops.reductions import sum_of_squares
from fastrecon.options import check, option
from fastrecon.solvers.base import column, iterate
from fastrecon.solvers.linear import certificate, like_images
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, method
from fastrecon.solvers.tikhonov import numbers
from fastrecon.threads import alone


@dataclass(frozen=True)
class CGOptions:
    """Options of conjugate gradients."""

    iterations: int = option("at most so many", 200, within="[1, 1e6]", type=int)
    tol: float = option(
        "relative residual of the normal equations at which an image is done", 1e-6, within="[0, 1]", type=float
    )
    misfit: float = option(
        "an image is done too once |A x - y| is so many times that of the noise; 0: never", 1.0, within="[0, 1e6]",
        type=float,
    )  # fmt: skip

    def __post_init__(self):
        check(self, "cg")


@dataclass(frozen=True)
class CGState:
    """Where conjugate gradients stand, per image."""

    x: Tensor
    left: Tensor  # y - A x
    down: Tensor  # A* (y - A x)
    direction: Tensor
    square: Tensor  # [B] |down|^2, float64
    misfit: Tensor  # [B] |left|^2, float64
    enough: Tensor  # [B] of misfit
    solved: Tensor  # [B] of square


@method("cg", CGOptions, "least squares by conjugate gradients, stopped at the noise")
def cg(options: CGOptions, device: torch.device) -> Runner:
    """Images [B, C, H, W] of any operator."""

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        a, y = inverse.operator, inverse.y
        first = like_images(inverse, inverse.first())
        size = (first.shape[-2], first.shape[-1])
        x = torch.zeros_like(first)  # from here what A does not see stays 0
        noise = (inverse.noise or 0.0) * options.misfit
        down = a.apply_adjoint(y, size)
        square = sum_of_squares(down)
        s = CGState(x, y, down, down, square, sum_of_squares(y), numbers(y) * noise**2, options.tol**2 * square)

        def done(s: CGState) -> Tensor:
            return (s.square <= s.solved) | (s.misfit <= s.enough)

        def tell(k: int, s: Any) -> None:
            if watch is not None:
                watch(k, options.iterations, lambda: s.x)

        with alone:
            ran = iterate(
                lambda s, k: advanced(inverse, s), s, options.iterations, done=done, callback=tell,
                narrow=lambda which: lambda s, k: advanced(inverse, s, which), check_every=10 if y.is_cuda else 1,
                row=lambda s: {"misfit": s.misfit.sqrt(), "residual": s.square.sqrt()},
            )  # fmt: skip
        x = ran.state.x
        nothing = torch.zeros_like(ran.state.square)
        report = certificate(inverse, x, nothing, torch.zeros_like, ran.count, ran.done, ITERATION_LIMIT, ran.history)
        return Outcome(x, report)

    return run


def advanced(inverse: Inverse, s: CGState, which: Tensor | None = None) -> CGState:
    """One iteration, of the images `which` alone."""
    a = inverse.operator if which is None else inverse.operator.take(which)
    seen = a.forward(s.direction)
    along = sum_of_squares(seen)
    step = column(torch.where(along > 0, s.square / along.clamp_min(1e-300), 0), s.x).to(s.x.dtype)
    left = s.left - column(step.real.flatten(1)[:, 0], s.left).to(s.left.dtype) * seen
    down = a.apply_adjoint(left, s.x.shape[-2:])
    square = sum_of_squares(down)
    turn = column(square / s.square.clamp_min(1e-300), s.x).to(s.x.dtype)
    return CGState(
        s.x + step * s.direction,
        left,
        down,
        down + turn * s.direction,
        square,
        sum_of_squares(left),
        s.enough,
        s.solved,
    )
