"""Cumulative greedy training of networks for SGP, as in the paper.

Stage k fits the network on the iterates of all stages so far, as constants, to one step x - d grad, shrunk, towards
the converged solution; then every image advances by that step and a plain one.
Source: Lee & Chun, eqs. (7) and (8).
"""

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon.operators import LinearOperator
from fastrecon.ops import prox_gradient_step
from fastrecon.solvers import FISTA
from fastrecon.train import checkpoint
from fastrecon.train.progress import track
from fastrecon.train.recipes.sgp_base import Config, Networks, square
from fastrecon.train.world import World

CHUNK = 8  # images solved at a time


class Stages(Networks):
    """The paper's cumulative greedy training. Solutions are stored in the run's folder."""

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        self.stage, self.iterates = 0, [self.problem.start()]
        self.targets = self._targets()

    def _targets(self) -> Tensor:
        """Solutions by FISTA, stored under a key of what they depend on."""
        c = self.config
        drawn = f"{c.problem} {list(c.rate)} {self.levels} {list(c.lam_factor)}"
        chosen = f"{drawn} {c.views} {c.seed} {c.target_iterations}"
        key, path = f"{chosen} {self.digest}", self.folder / "targets.safetensors"
        with contextlib.suppress(FileNotFoundError, ValueError):  # missing or damaged: they are computed again
            stored = checkpoint.load(path)
            if stored.get("key") == key and isinstance(stored.get("x"), Tensor):
                return stored["x"].to(self.problem.y.device)
        parts, worst, chunks = [], 0.0, self._chunks()
        for which in track(chunks, "solving by FISTA", len(chunks), "group"):
            solver = FISTA(self.operator(which), self.lam[which], lipschitz=1.0)
            x, report = solver(self.problem.y[which], self.iterates[0][which], iterations=c.target_iterations)
            parts.append(x)
            worst = max(worst, report.relative_step.max().item())
        x = torch.cat(parts)
        checkpoint.save(path, {"key": key, "x": x, "worst_relative_step": worst})
        return x

    def _chunks(self) -> list[Tensor]:
        return list(torch.arange(self.count, device=self.x.device).split(CHUNK))

    def begin_step(self, step: int) -> bool:
        """Enters the stage of `step`: the images advance by the step the network has learned, and a plain one."""
        if step // self.config.steps > self.stage:
            self.iterates.append(self._advanced())
            self.stage += 1
        return False

    @torch.no_grad()
    def _advanced(self) -> Tensor:
        self.module.eval()
        parts = []
        for which in self._chunks():
            a, x, y = self.operator(which), self.iterates[-1][which], self.problem.y[which]
            x = x + self._step(a, x, y, self.lam[which])
            parts.append(x + prox_gradient_step(x, a.apply_adjoint(a.forward(x) - y), 1.0, self.lam[which])[0])
        self.module.train()
        return torch.cat(parts)

    def _step(self, a: LinearOperator, x: Tensor, y: Tensor, lam: Tensor) -> Tensor:
        """The learned proximal gradient step from x, as a direction; L = 1 for all tasks."""
        with torch.no_grad():
            grad = a.apply_adjoint(a.forward(x) - y)
        weight = lam[:, None, None, None]
        return prox_gradient_step(x, grad, self.module(x / weight, grad / weight), lam)[0]

    def loss(self) -> Tensor:
        """Mean of |x* - x+|^2 / |x*|^2 over a batch of iterates of all stages so far."""
        draw = torch.randint(self.count * len(self.iterates), (self.config.batch,), generator=self.generator)
        which, stage = (draw % self.count).to(self.x.device), (draw // self.count).tolist()
        x = torch.stack([self.iterates[k][i] for k, i in zip(stage, which.tolist(), strict=True)])
        step = self._step(self.operator(which), x, self.problem.y[which], self.lam[which])
        return (square(x + step - self.targets[which]) / square(self.targets[which])).mean()

    def describe(self) -> str:
        """The stage in a few words."""
        return f"stage {self.stage + 1}"

    def state_dict(self) -> dict[str, Any]:
        """Stage and iterates too."""
        return super().state_dict() | {"stage": self.stage, "iterates": self.iterates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        super().load_state_dict(state)
        self.stage, self.iterates = state["stage"], [x.to(self.x.device) for x in state["iterates"]]
