"""Steps, learning rates, and the optimiser that takes them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

BETAS = (0.9, 0.999)
MOMENTUM = 0.9


@dataclass(frozen=True)
class Schedule:
    """Steps and their learning rates.

    Args:
        steps: of the whole run.
        rate: learning rate after warm-up.
        decay: "cosine" to zero at the last step, "halving" every `halve_every` steps, or "constant".
        warmup: steps of linear rise.
        clip: largest norm of the gradient; 0 for none.
        ema: decay of the averaged parameters, which validation and export then use; 0 for none.
        validate_every: steps between validations; each also writes a checkpoint.
        optimiser: "adam", or "sgd" with momentum 0.9.
        halve_every: steps, for decay "halving".
    """

    steps: int
    rate: float
    decay: str = "cosine"
    warmup: int = 0
    clip: float = 0.0
    ema: float = 0.0
    validate_every: int = 1000
    optimiser: str = "adam"
    halve_every: int = 1000

    def rate_at(self, step: int) -> float:
        """Learning rate of step 0, 1, ..., steps - 1."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        fall = 0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.decay == "cosine" else 1.0
        return self.rate * rise * (0.5 ** (step // self.halve_every) if self.decay == "halving" else fall)

    def optimiser_of(self, groups: Iterable[nn.Parameter] | Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        """A new optimiser of these parameters, or of groups of them as torch has them."""
        if self.optimiser == "sgd":
            return torch.optim.SGD(groups, lr=self.rate, momentum=MOMENTUM)
        return torch.optim.Adam(groups, lr=self.rate, betas=BETAS)
