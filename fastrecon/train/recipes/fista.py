"""Learned first iterations of FISTA: `fastrecon train fista`."""

import dataclasses
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from fastrecon.networks.step_schedule import StepSchedule
from fastrecon.operators import LinearOperator
from fastrecon.solvers import FISTA, ScheduledFISTA
from fastrecon.train.objective import Score
from fastrecon.train.recipe import register
from fastrecon.train.recipes.sgp import RECIPE as SGP_RECIPE
from fastrecon.train.recipes.sgp_base import Config, Networks, square
from fastrecon.train.world import World

USUAL = 100  # iterations of FISTA that a validation compares with


class Scheduled(Networks):
    """The first iterations of FISTA, trained through all of them towards the least objective; no images are fitted."""

    squared_error = False

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        self.starts = [s.problem.start() for s in self.squares]

    def loss(self) -> Tensor:
        """Mean of log F over a batch, of one side drawn from all, and the last quarter of the iterations."""
        side = int(torch.randint(len(self.squares), (), generator=self.generator)) if len(self.squares) > 1 else 0
        squares, schedule = self.squares[side], cast(StepSchedule, self.module)
        which = torch.randint(len(squares.x), (self.config.batch,), generator=self.generator).to(squares.x.device)
        a, lam, y = squares.problem.operator.take(which), squares.lam[which], squares.problem.y[which]
        x = self.starts[side][which]
        solver = ScheduledFISTA(a, lam, 1.0, schedule)
        size, step = x.abs().flatten(1).double().mean(1), torch.ones(len(x), dtype=torch.float64, device=x.device)
        scale = solver.scale(x, step)
        residual = a.forward(x) - y
        v, residual_v, total, last = x, residual, torch.zeros((), device=y.device), len(schedule)
        for k in range(last):
            new = v + solver.moved(v, a.apply_adjoint(residual_v), size, step, scale, k)[0]
            after = a.forward(new) - y
            b = schedule.momenta(k)
            v, residual_v = new + b * (new - x), after + b * (after - residual)
            x, residual = new, after
            if 4 * k >= 3 * last:
                value = square(residual) / 2 + lam * x.abs().flatten(1).sum(1)
                total = total + value.log().mean() / (last - (3 * last + 3) // 4)
        return total

    def solver_for(self, operator: LinearOperator, lam: Tensor) -> ScheduledFISTA:
        """As of Networks."""
        return ScheduledFISTA(operator, lam, 1.0, cast(StepSchedule, self.module))

    @torch.no_grad()
    def validate(self) -> Score | None:
        """Mean of F after the schedule over F after 100 iterations of FISTA, on the validation images of all sides."""
        if len(self.held) == 0:
            return None
        last, ratios = len(cast(StepSchedule, self.module)), []
        for squares in self.squares:
            p, lam = self._problem(squares.held, self.config.seed + 10**6)
            found = self.solver_for(p.operator, lam)(p.y, p.start(), iterations=last)[1].objective
            usual = FISTA(p.operator, lam, 1.0)(p.y, p.start(), iterations=USUAL)[1].objective
            ratios.append(found / usual)
        return Score("error", torch.cat(ratios).mean().item(), higher_is_better=False)


RECIPE = register(
    dataclasses.replace(
        SGP_RECIPE,
        name="fista",
        summary="weights, steps and momentum of FISTA's first iterations",
        examples=(
            "fista --problem inpaint --data train400 --rate 0.3 0.5 0.7 --noise 0 0.02 --lam-factor 0.5 1 2 \\\n"
            "      --side 96 --unroll 15 --lr 2e-2 --batch 4 --steps 300 --out runs/fista",
        ),
        Objective=Scheduled,
        contents="model.safetensors, model card",
        fixed={"method": "fista"},
        without=("variant", "stages", "first_step", "rise", "target_iterations", "width", "norm"),
    )
)
