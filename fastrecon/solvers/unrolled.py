"""What networks of learned phases share that minimise no objective: the loop, for inference and for training."""

from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.certificates import TRAINED_ONLY, MisfitReport, Status
from fastrecon.checks import expect
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.reductions import sum_of_squares
from fastrecon.solvers.base import Callback
from fastrecon.terms.least_squares import LeastSquares

State = tuple[Tensor, ...]  # the images first


class Unrolled(nn.Module):
    """A fixed number of learned phases: images of the last one, and how far they are from the measurements.

    A subclass gives `phases`, `phase` and `hyperparameters`, and `begin` where it keeps more than the images.

    Args:
        operator: A; as good as |A| <= 1.
    """

    phases: int

    def __init__(self, operator: LinearOperator):
        super().__init__()
        self.fidelity = LeastSquares(operator)

    def hyperparameters(self) -> dict[str, Any]:
        """What it is made with."""
        raise NotImplementedError

    def begin(self, y: Tensor, x: Tensor) -> State:
        """The state at the start x."""
        return (x,)

    def phase(self, k: int, s: State, y: Tensor) -> State:
        """The state after phase k = 0, 1, ..."""
        raise NotImplementedError

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """A* (A x - y), of real images the real part."""
        found = self.fidelity.grad(x, y)
        return found.real if found.is_complex() and not x.is_complex() else found

    def learn(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """For training: the images of the last phase, and what the loss asks to vanish besides.

        Args:
            y: measurements [B, ...].
            x: start [B, 1, H, W].
        """
        s = self.begin(y, x)
        for k in range(self.phases):
            s = self.phase(k, s, y)
        return s[0], s[0].new_zeros(()).real

    @torch.no_grad()
    def forward(self, y: Tensor, x0: Tensor, callback: Callback | None = None) -> tuple[Tensor, MisfitReport]:
        """Images of the last phase [B, 1, H, W], and how far they are from the measurements.

        Args:
            y: measurements [B, ...].
            x0: start [B, 1, H, W].
            callback: callback(k, x) after phase k = 1, 2, ...

        Raises:
            ValueError: x0 does not fit.
        """
        name = type(self).__name__
        count = y.shape[0]  # len() is a number, where a graph is traced too
        expect(x0.ndim == 4 and x0.shape[0] == count, name, "x0", f"a batch of {count} images [B, 1, H, W]", x0)
        s = self.begin(y, x0)
        for k in range(self.phases):
            s = self.phase(k, s, y)
            if callback is not None:
                callback(k + 1, s[0])
        misfit = sum_of_squares(self.fidelity.residual(s[0], y)).sqrt()
        size, never = sum_of_squares(y).sqrt(), torch.zeros(count, dtype=torch.bool, device=y.device)
        status = Status(TRAINED_ONLY, never, torch.isfinite(misfit))
        return s[0], MisfitReport(misfit, misfit / size.clamp_min(1e-300), never, status)


def planes(x: Tensor) -> Tensor:
    """Real channels of images [B, C, H, W]: of complex ones real parts, then imaginary parts, [B, 2 C, H, W]."""
    return torch.cat((x.real, x.imag), 1) if x.is_complex() else x


def images(t: Tensor, like: Tensor) -> Tensor:
    """Images of the kind of `like` from their planes."""
    return torch.complex(*t.chunk(2, 1)) if like.is_complex() else t
