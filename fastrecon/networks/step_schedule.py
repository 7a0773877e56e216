"""Weights, steps and momentum of the first iterations of FISTA, learned: a few numbers for each iteration.

Source: Hale, Yin & Zhang, Fixed-Point Continuation for l1-Minimization, SIAM J. Optim. 19 (2008), for weights that fall
to that of the problem; Ablin, Moreau, Massias & Gramfort, Learning Step Sizes for Unfolded Sparse Coding, NeurIPS 2019.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.checks import expect, flag, integer
from fastrecon.ops.dwt2 import bands

FIRST, SHARE = 3.0, 0.8  # an untrained schedule: the first weight in units of mean |c|, the share until it is faint
FAINT = 1e-4  # that weight at the end of the share
FIRST_BY_GAINS, LARGEST_BY_GAINS = 0.003, 1.15  # times 1.15 below 4/3: such steps bear any momentum
LIMITS = (1e-2, 1e2)  # of steps, in units of 1 / L


class StepSchedule(nn.Module):
    """What iteration k = 0, 1, ... of `solvers.ScheduledFISTA` does: weights, steps, momentum.

    The weight of iteration k is lam + a_k mean|c|, c the coefficients it starts from; so it follows any scale of data.
    Its steps are s_kj / L, one for each band of a wavelet transform (j = 0: the approximation, then from coarse to
    fine), and x_k+1 + b_k (x_k+1 - x_k) is where the next gradient is taken. Untrained: falling weights, steps 1 / L,
    FISTA's momentum. With `gains` steps are in units of 1 / g_j, g_j what A*A makes of band j (`ScheduledFISTA.scale`):
    so they follow an operator whose gain falls with frequency, as that of projections does, at any size.

    Args:
        iterations: how many, >= 1.
        level: levels of the transform, >= 0.
        complex_input: whether coefficients are complex: only told, for whoever looks for a schedule.
        gains: whether the gains of the bands count.

    Attributes:
        settings: the arguments.
    """

    def __init__(self, iterations: int = 20, level: int = 3, complex_input: bool = False, gains: bool = False):
        super().__init__()
        iterations = integer(iterations, "StepSchedule", "iterations", least=1, most=10**4)
        level, complex_input = (
            integer(level, "StepSchedule", "level", least=0),
            flag(complex_input, "StepSchedule", "complex"),
        )
        gains = flag(gains, "StepSchedule", "gains")
        self.settings: dict[str, Any] = {
            "iterations": iterations, "level": level, "complex_input": complex_input, "gains": gains,
        }  # fmt: skip
        k = torch.arange(float(iterations))
        fall = (k / max(1.0, SHARE * iterations)).clamp_max(1)
        largest = torch.tensor(FIRST_BY_GAINS if gains else FIRST)
        self.weight = nn.Parameter(torch.log(largest) + fall * torch.log(FAINT / largest))
        first = torch.tensor(LARGEST_BY_GAINS if gains else 1.0).log()
        self.step = nn.Parameter(first.repeat(iterations, level + 1))  # log of s_kj
        self.momentum = nn.Parameter(torch.logit((k + 0.01) / (k + 3)))

    def __len__(self) -> int:
        return self.settings["iterations"]

    def weights(self, k: int | slice) -> Tensor:
        """a_k, a number, or of several iterations."""
        return self.weight[k].exp()

    def momenta(self, k: int | slice) -> Tensor:
        """b_k in (0, 1), a number, or of several iterations."""
        return self.momentum[k].sigmoid()

    def fitting(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size.

        Raises:
            ValueError: sides are not divisible by 2^level.
        """
        level = self.settings["level"]
        fits = all(side % (1 << level) == 0 for side in size)
        expect(fits, "StepSchedule", "size", f"sides divisible by {1 << level}", tuple(size))
        return size

    def steps(self, k: int, size: tuple[int, int], scale: Tensor | None = None) -> Tensor:
        """Steps [1 or B, 1, H, W] in units of 1 / L, for coefficients of this size.

        Args:
            scale: L / g_j [B, 1 + level], float64; None: ones.
        """
        values = self.of_bands(k)[None] if scale is None else self.of_bands(k).double() * scale
        return values[:, bands(self.fitting(size), self.settings["level"], values.device)][:, None]

    def of_bands(self, k: int | slice) -> Tensor:
        """s_kj [..., 1 + level]."""
        low, high = LIMITS
        return self.step[k].exp().clamp(low, LARGEST_BY_GAINS if self.settings["gains"] else high)
