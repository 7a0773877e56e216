"""The regulariser that rigorous mode of a trained LDA for MRI minimises: `fastrecon train lda-mri-minimiser`.

Lower problem: the images of least r among those that fit the samples, which is the limit of w r for w to 0 and does
not depend on w. It is solved anew for every crop from the image of the phases, by steps within the null space of A, and
differentiated implicitly there; see `train/bilevel.py`. Real and imaginary part are images of their own to r.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon import models
from fastrecon.checks import expect
from fastrecon.metrics import psnr
from fastrecon.models import DescentModel
from fastrecon.operators import Fourier
from fastrecon.ops.reductions import sum_of_squares
from fastrecon.options import option
from fastrecon.solvers.base import column
from fastrecon.solvers.descent import FLOOR, raw_of
from fastrecon.solvers.minimiser import Minimiser
from fastrecon.terms.feature_norm import FeatureNorm
from fastrecon.train import bilevel
from fastrecon.train.lower import along, gradient_of
from fastrecon.train.objective import Score
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.minimiser_base import OfMinimiser
from fastrecon.train.recipes.mri_base import MRIObjective, SlicesConfig
from fastrecon.train.schedule import Schedule
from fastrecon.train.world import World

SMALL = 0.1  # rate of a kernel whose weights have a root mean square of 1, in units of the run's: steps are relative
NEAR = 0.15  # |grad| in units of that at the phases' image, above which an iterate is no minimiser and does not count
LEAST = 1e-6  # mean squared error that adds to each crop's: logarithms of errors count, and 60 dB is enough
TOL, ITERATIONS = 1e-2, 300  # of converged validation images


@dataclass(frozen=True)
class Config(SlicesConfig):
    """What a run computes."""

    model: str = option("trained model (name or file) that gets the regulariser", "")
    init: str = option("prior (name or file) that the regulariser begins as, or a model that has one", "prior-natural")
    faint: float = option("w is what belongs to so much noise of a norm of A of 1", 1e-3, within="(0, 1]", type=float)
    contrast: float = option(
        "c: r(c x) / c^2 takes the place of the r(x) of a prior that is --init", 2.0, within="[0.01, 100]", type=float
    )
    anchor: float = option(
        "mu of mu/2 |x - x_K|^2, which holds images near those of the phases and is not seen in training; 0: none",
        0.0, within="[0, 1e6]", type=float,
    )  # fmt: skip
    sigma: float = option(
        "of the termination test of rigorous mode, with which r should keep its radius", 50.0, within="(0, 1e6]",
        type=float,
    )  # fmt: skip
    steps: int = option("training steps", 1000, within="[1, 1e9]", type=int)
    lr: float = option("learning rate, in units of a kernel's size over ten", 5e-4, within="(0, 1000]", type=float)
    ema: float = option(
        "decay of averaged parameters, which are then validated and saved; 0: none", 0.99, within="[0, 1)", type=float
    )
    iterations: int = option("of the lower problem, at most", 60, within="[1, 1e6]", type=int)
    tol: float = option("it ends once its gradient has shrunk by this", 0.03, within="(0, 1)", type=float)
    products: int = option("with the Hessian for the implicit derivative", 6, within="[1, 100]", type=int)
    floor: float = option(
        "curvature that the implicit derivative takes for at least", 0.03, within="(0, 1]", type=float
    )
    precision: str = option(
        "of the products in steps towards the minimiser", "bfloat16", choices=("bfloat16", "float32")
    )

    def schedule(self) -> Schedule:
        """Steps and learning rates."""
        every = self.validate_every or max(1, min(1000, self.steps // 10))
        return Schedule(self.steps, self.lr, self.decay, self.warmup, self.clip, self.ema, every)


class LdaMriMinimiser(OfMinimiser, MRIObjective[DescentModel]):
    """The regulariser, its crops and masks; see `Objective`."""

    squared_error = False
    alone = True
    config: Config

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        found = models.load(config.model)
        expect(
            isinstance(found, DescentModel), "train", "--model", "a model of lda for mri", f"one for {found.problem}"
        )
        assert isinstance(found, DescentModel)
        minimiser = self._begin()
        fits = config.anchor == 0 or config.anchor > FLOOR
        expect(fits, "train", "--anchor", f"0 or a number > {FLOOR:g}", config.anchor)
        if config.anchor:
            minimiser.raw_anchor = raw_of(config.anchor)
        found.solver.minimiser = minimiser.to(found.dtype)
        self.module = found.requires_grad_(False).to(world.device)
        minimiser.requires_grad_(True)
        found.meta["name"] = self.name
        sizes = {n: float(p.detach().square().mean().sqrt()) for n, p in minimiser.regulariser.named_parameters()}
        self.rates = {f"solver.minimiser.regulariser.{n}": size / SMALL for n, size in sizes.items()}

    def _begin(self) -> Minimiser:
        """The regulariser before the first step."""
        config = self.config
        source = models.load(config.init)
        if isinstance(source, models.PriorModel):
            r = source.regulariser
            fits = isinstance(r, FeatureNorm)
            expect(fits, "train", "--init", "a prior of one chain of convolutions", config.init)
            assert isinstance(r, FeatureNorm)
            weight = float(source.lam(torch.tensor([config.faint], dtype=torch.float64)))
            return Minimiser.of(r, weight, config.contrast, sigma=config.sigma)
        other = source.solver.minimiser if isinstance(source, DescentModel) else None
        expect(isinstance(other, Minimiser), "train", "--init", "a prior or a model that has such a regulariser",
               config.init)  # fmt: skip
        assert isinstance(other, Minimiser)
        return other

    def term(self, precision: str) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """r [B] and its gradient at images [B, 2, H, W] of real and imaginary parts, differentiable in the kernels."""
        r, eps = self.minimiser.regulariser, self.minimiser.eps0

        def both(x: Tensor) -> tuple[Tensor, Tensor]:
            parts = x.reshape(-1, 1, *x.shape[2:])
            value, grad = r.value_and_grad(parts, eps.expand(len(parts)), precision)
            return value.view(len(x), -1).sum(1), grad.view_as(x)

        return both

    def loss(self) -> Tensor:
        """Mean logarithm of the squared errors of the minimisers of the next batch, with its implicit derivative."""
        config = self.config
        a, truth, y = self.batch_of(self.world)
        assert isinstance(a, Fourier)
        with torch.no_grad():
            self.module.solver.regulariser.precision = config.precision
            phases = self.module.for_operator(a)(y, torch.zeros_like(truth))[0]
            x = _parts(phases + a.apply_adjoint(y - a(phases)))  # fits the samples, as all that follow

        def within(grad: Tensor) -> Tensor:
            """Its part in the null space of A, whose rows are orthonormal."""
            full = torch.complex(*grad.chunk(2, 1))
            return grad - _parts(a.apply_adjoint(a(full)))

        found = bilevel.minimise(along(self.term(config.precision), within), x, config.iterations, config.tol)
        x, error = found.x, found.x - _parts(truth)
        with torch.no_grad():
            exact = bilevel.hessian_at(gradient_of(self.term("float32")), x)
            p = bilevel.ritz(lambda v: within(exact(v)), within(error), config.products).solve(config.floor)
            wrong = sum_of_squares(error) / error[0].numel() + LEAST
            weight = (found.relative < NEAR).to(wrong) / wrong
        implicit = bilevel.outer(gradient_of(self.term("float32")), x, within(p) * column(weight, p))
        implicit = (implicit * 2 / error[0].numel()).mean()
        return wrong.log().mean() + implicit - implicit.detach()

    @torch.no_grad()
    def validate(self) -> Score | None:
        """Mean PSNR in dB of the moduli of validation images, converged, the same masks each time."""
        found = []
        for k, x in enumerate(self.held):
            a, y = self.measured(x, torch.Generator().manual_seed(k))
            result = self.module(y, a, rigorous=True, tol=TOL, iterations=ITERATIONS, history=False)
            found.append(psnr(result.x.abs().clamp(0, 1), x.abs()).item())
        return Score("psnr", math.fsum(found) / len(found)) if found else None

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card; what was known of the phases stays."""
        phases = self.module.meta["training"]
        own = self.training(facts, RECIPE)
        self.module.meta["training"] = {k: v for k, v in phases.items() if k != "minimiser"} | {"minimiser": own}
        self.write(self.module)


def _parts(x: Tensor) -> Tensor:
    """Real and imaginary part [B, 2, H, W] of complex images [B, 1, H, W]."""
    return torch.cat((x.real, x.imag), 1)


RECIPE = register(
    Recipe(
        "lda-mri-minimiser",
        "the regulariser that rigorous mode of a trained LDA minimises, for magnetic resonance imaging",
        Config,
        LdaMriMinimiser,
        examples=(
            "lda-mri-minimiser --model lda-mri-20 --rate 0.2 --data slices.npz --out runs/lda-mri-20",
            "lda-mri-minimiser --out runs/lda-mri-20 --resume",
        ),
        always=("model", "rate"),
        timed=True,
        processes=False,
    )
)
