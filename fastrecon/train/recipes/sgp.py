"""`fastrecon train sgp` and `fastrecon train unet`: networks that choose the steps of SGP, and the direct baseline.

The paper's training is in sgp_stages; with --unroll the network is trained through whole runs instead, towards the
true images.
"""

import dataclasses
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fastrecon.networks.unet import StepNet
from fastrecon.ops import prox_gradient_step
from fastrecon.problems.wavelet_l1 import SCALE
from fastrecon.solvers import SGP
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.sgp_base import Config, Networks, square
from fastrecon.train.recipes.sgp_stages import Stages
from fastrecon.train.world import World


class Direct(Networks):
    """The U-Net that maps the image of the start to the true one."""

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        self.start = self.problem.image(self.problem.start())

    def loss(self) -> Tensor:
        """Mean squared error of a batch."""
        which = self.batch()
        return (self.module(self.start[which]) - self.x[which]).square().mean()


class Unrolled(Networks):
    """End to end: the network sees every iterate as a constant, but its steps are judged by all that follows.

    Cheap batches of whole runs instead of the paper's stages: a step that is best for the next iterate alone is too
    small for what comes after, and with the stages so are all. The true images take the place of the minimisers, which
    need not be computed. Iterates are those of SGP with all its safeguards; derivatives are those of steps that it
    accepts.
    """

    squared_error = False

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        self.start = self.problem.start()

    def loss(self) -> Tensor:
        """NMSE in dB over a batch, iteration k with weight k, plus `rise` dB for each doubling of F."""
        which, c, module = self.batch(), self.config, cast(StepNet, self.module)
        a, lam, y = self.operator(which), self.lam[which], self.problem.y[which]
        weight, truth = lam[:, None, None, None], self.problem.coefficients[which]
        size, total, answer = square(truth), torch.zeros((), device=y.device), {}
        solver = SGP(a, lam, 1.0, lambda x, grad: answer["d"], limits=module.limits)
        s = solver.start(self.start[which], y)
        x = s.x
        for k in range(c.unroll):
            # a constant: x - d grad has the derivative 1 - d A* A, so gradients would explode; the next step undoes it
            grad = a.apply_adjoint(s.residual)
            d = module(s.x / weight, grad / weight, k)
            answer["d"] = d.detach()
            with torch.no_grad():
                new = solver.step(s, k)
            x = x + prox_gradient_step(x, grad, d, lam)[0]
            x = x + prox_gradient_step(x, a.apply_adjoint(a.forward(x) - y), 1.0, lam)[0]
            value = square(a.forward(x) - y) / 2 + lam * x.abs().flatten(1).sum(1)
            rise = c.rise * (value / s.objective - 1).relu()
            x = x + (new.x - x).detach()
            error = 10 * torch.log10(square(x - truth) / size)
            total = total + (error * (k + 1) / sum(range(c.unroll + 1)) + rise).mean()
            s = new
        return total


def objective(config: Config, world: World, folder: Path, fresh: bool = True) -> Networks:
    """The training of a configuration."""
    kind = Direct if config.method == "unet" else Stages if config.greedy else Unrolled
    return kind(config, world, folder, fresh)


def upgrade(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a checkpoint as they are called now; the model keeps the name that it would have had then."""
    if "task" not in settings:
        return settings
    found = {k: v for k, v in settings.items() if k != "task"}
    found["noise"] = [v / SCALE for v in settings.get("noise", ())]
    task, kind = settings["task"], "unet" if settings.get("method") == "unet" else f"sgp-{settings.get('variant')}"
    return found | {"problem": "mri" if task == "fourier" else task, "name": settings.get("name") or f"{kind}-{task}"}


RECIPE = register(
    Recipe(
        "sgp",
        "step sizes or a metric for SGP",
        Config,
        objective,
        examples=(
            "sgp --problem inpaint --data train400 --out runs/greedy  # the paper's stages",
            "sgp --problem inpaint --data train400 --rate 0.3 0.5 0.7 --noise 0 0.02 --lam-factor 0.5 1 2 \\\n"
            "      --side 96 --unroll 20 --first-step 2 --width 8 --lr 2e-3 --batch 4 --steps 200 --out runs/sgp",
        ),
        contents="targets, model.safetensors, model card",
        fixed={"method": "sgp"},
        processes=False,
        renamed={"task": "problem"},
        upgrade=upgrade,
    )
)
UNET = register(
    dataclasses.replace(
        RECIPE,
        name="unet",
        summary="a U-Net that maps images directly",
        examples=("unet --problem mri --data train400 --out runs/unet-mri",),
        contents="model.safetensors, model card",
        fixed={"method": "unet"},
        without=("variant", "stages", "unroll", "first_step", "rise", "target_iterations", "lam_factor"),
    )
)
