"""A prior trained for its minimiser: `fastrecon train prior`.

Upper loss: the squared error of the minimiser of |x - y|^2 / 2 + lam(sigma) r(x), y a picture with noise of standard
deviation sigma. The lower problem is solved anew for every batch, to a tolerance, and differentiated implicitly; see
`train/bilevel.py`. It starts well from the regulariser of an LDA model (--init), whose phases have taught it images.

A share of the crops (--missing) has no noise, and pixels or frequencies that were not measured: the image minimises
r(x) among those that agree with what was.
"""

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon import models
from fastrecon.checks import expect
from fastrecon.metrics import psnr
from fastrecon.models import BlockSensingModel, PriorModel
from fastrecon.ops.feature_gradient import PRECISIONS
from fastrecon.options import check, option
from fastrecon.problems import PROBLEMS
from fastrecon.solvers.base import column
from fastrecon.terms import FeatureNorm
from fastrecon.terms.sparse_patches import USUAL_RADIUS
from fastrecon.train.bilevel import Phi, bend, hessian_at, minimise, outer, ritz
from fastrecon.train.crop_objective import CropObjective
from fastrecon.train.lower import Lower, completing, denoising, gradient_of
from fastrecon.train.objective import Score
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.prior_base import USUAL_EPS, Learned, Regulariser, scales_of, together
from fastrecon.train.schedule import Schedule
from fastrecon.train.world import World

VALIDATION_SIDE, VALIDATION_TOL, VALIDATION_ITERATIONS = 128, 1e-3, 200
STRAY = 4.0  # an image whose lower problem ended above so many tolerances teaches nothing
LOW, HIGH = 0.02, 1e-3  # weights of curvature below the floor and above the ceiling
SHARE = 0.1  # of the coarsest scale given, with which a coarser one begins
STIR = 1e-3  # of noise in Lanczos' start, which else would never see what the error is orthogonal to


@dataclass(frozen=True)
class Config:
    """What a run computes."""

    data: Sequence[str] = option("folders (or files) of training images", nargs="+")
    validation_data: Sequence[str] = option(
        "folders (or files) of validation images; default: a share of --data", (), nargs="+"
    )
    validation: float = option("share of the images of --data kept for validation", 0.025, within="[0, 1)", type=float)
    name: str = option("name of the model", "prior", file_name=True)
    init: str = option("start from this model (name or file): a prior, or one of LDA, whose regulariser is taken", "")
    sigmas: Sequence[float] = option(
        "noise levels between which lam and eps are learned, ascending", (0.02, 0.05, 0.1, 0.2), nargs="+", type=float
    )
    factors: Sequence[str] = option(
        "PROBLEM=FACTOR: times the weight for a problem whose noise is not that of denoising, fitted with --lam of"
        " `fastrecon evaluate --methods prior:lam=FACTOR`", (), nargs="+",
    )  # fmt: skip
    focus: float = option("noise level that is drawn more often", 0.1, within="(0, 10]", type=float)
    focus_share: float = option("share of images with it", 0.35, within="[0, 1]", type=float)
    missing: float = option(
        "share of crops without noise of which some pixels, or some frequencies, were not measured", 0.0,
        within="[0, 1)", type=float,
    )  # fmt: skip
    kept: Sequence[float] = option("least and largest share of those that were", (0.2, 0.6), nargs=2, type=float)
    channels: int = option("feature channels, without --init", 32, within="[1, 128]", type=int)
    layers: int = option("convolutions, without --init", 4, within="[2, 16]", type=int)
    delta: float = option("radius of the smoothed ReLU, without --init", 0.01, within="(0, 100]", type=float)
    scales: int = option(
        "scales at which images are seen, each half as fine as the one before; default: those of --init, or 1", 0,
        within="[0, 8]", type=int,
    )  # fmt: skip
    lam: float = option(
        "first weight at --focus; default: the trained one, or fitted", 0.0, within="[0, 1e6]", type=float
    )
    eps: float = option(
        "first radius of the norm; default: the trained one, or 0.004", 0.0, within="[0, 10]", type=float
    )
    patches: float = option(
        "first weight of a second term, sparse patches, at every noise level; default: that of --init, or none", 0.0,
        within="[0, 1e6]", type=float,
    )  # fmt: skip
    steps: int = option("training steps", 4000, within="[1, 1e9]", type=int)
    batch: int = option("crops in a step, over all processes", 16, within="[1, 1e6]", type=int)
    patch: int = option("side of the crops in pixels", 64, within="[8, 65536]", type=int)
    lr: float = option("learning rate", 1e-3, within="(0, 1000]", type=float)
    decay: str = option("of the learning rate over the whole run", "cosine", choices=("cosine", "constant"))
    warmup: int = option("steps over which the learning rate rises", 100, within="[0, 1e9]", type=int)
    clip: float = option("largest norm of the gradient; 0: none", 0.0, within="[0, 1e6]", type=float)
    ema: float = option(
        "decay of averaged parameters, which are then validated and saved; 0: none", 0.995, within="[0, 1)", type=float
    )
    iterations: int = option("of the lower problem, at most", 50, within="[1, 1e6]", type=int)
    tol: float = option("it ends once its gradient has shrunk by this", 0.02, within="(0, 1)", type=float)
    products: int = option("with the Hessian for the implicit derivative", 4, within="[1, 100]", type=int)
    floor: float = option("curvature of the lower problem below which it is bent", 0.1, within="[0, 1]", type=float)
    ceiling: float = option("curvature above which it is bent", 60.0, within="[1, 1e6]", type=float)
    precision: str = option("of the products of convolutions", "bfloat16", choices=tuple(PRECISIONS))
    seed: int = option("of the network, the split, the crops and the noise", 0, within="[0, 2147483647]", type=int)
    validate_every: int = option(
        "steps between validations and checkpoints; default: a fortieth of the run", 0, within="[0, 1e9]", type=int
    )

    def __post_init__(self):
        check(self, "train")
        s = tuple(float(v) for v in self.sigmas)
        fits = bool(s) and all(0 < v < math.inf for v in s) and all(a < b for a, b in itertools.pairwise(s))
        expect(fits, "train", "--sigmas", "ascending numbers > 0", list(s))
        object.__setattr__(self, "sigmas", s)
        low, high = (float(v) for v in self.kept)
        expect(0 < low <= high < 1, "train", "--kept", "two shares in (0, 1), the least first", [low, high])
        object.__setattr__(self, "kept", (low, high))
        self.fits()

    def fits(self) -> dict[str, tuple[float, float]]:
        """The factors as a model keeps them: log of the factor and of the contrast, by problem."""
        found = {}
        for text in self.factors:
            problem, _, factor = text.partition("=")
            expect(problem in PROBLEMS, "train", "--factors", f"one of {', '.join(PROBLEMS)}, = and a number", text)
            value = float(factor) if factor.replace(".", "", 1).isdigit() else 0.0
            expect(value > 0, "train", "--factors", "a number > 0", text)
            found[problem] = (math.log(value), 0.0)
        return found

    def schedule(self) -> Schedule:
        """Steps and learning rates."""
        every = self.validate_every or max(1, min(500, self.steps // 40))
        return Schedule(self.steps, self.lr, self.decay, self.warmup, self.clip, self.ema, every)


class Prior(CropObjective[Learned]):
    """A prior, its crops and their noise; see `Objective`."""

    alone = True
    validation_side = VALIDATION_SIDE
    config: Config

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        self.held = [i for i in self.held if min(i.shape[-2:]) > 2]
        # what a checkpoint brings takes the place of an untrained one: the model of --init is not read again
        r = _untrained(config)
        self.module = (
            self._start(config) if fresh else Learned(r, config.sigmas, torch.ones(len(config.sigmas)), USUAL_EPS)
        )
        self.module.to(world.device)

    def _start(self, config: Config) -> Learned:
        torch.manual_seed(config.seed)
        knots = torch.tensor(config.sigmas, dtype=torch.float64)
        r, lam, eps, patch_lams, radius = _source(config, knots)
        if config.lam:
            lam = config.lam * ((knots.log() - math.log(config.focus)) * 1.5).exp()
        elif lam is None:  # a first pull of a third of the noise
            x, pulls = self.crops(8), []
            for s in config.sigmas:
                noisy = x + s * torch.randn(x.shape, generator=self.generator).to(x)
                pulls.append(r.value_and_grad(noisy, eps)[1].detach().square().mean().sqrt().double())
            lam = 0.3 * knots / torch.stack(pulls).clamp_min(1e-12).to(knots)
        return Learned(r, config.sigmas, lam, eps, patch_lams, radius)

    def batch(self) -> list[Lower]:
        """This process's share of the next batch: images with noise, and such as are to be completed."""
        config, world = self.config, self.world
        x = self.crops(config.batch)
        low, high = (math.log(s) for s in (config.sigmas[0], config.sigmas[-1]))
        draws = torch.rand(2, config.batch, generator=self.generator)
        sigma = torch.where(draws[0] < config.focus_share, math.log(config.focus), low + draws[1] * (high - low)).exp()
        noise = torch.randn(x.shape, generator=self.generator) * column(sigma, x)
        noisy = round((1 - config.missing) * config.batch)
        share = slice(world.rank, noisy, world.size)
        found = [denoising(x[share], (x + noise.to(x))[share], sigma.to(x)[share], config.focus)]
        if noisy < config.batch:
            low, high = config.kept
            rates = (low + (high - low) * torch.rand(config.batch, generator=self.generator)).tolist()
            seeds = torch.randint(2**31, (config.batch,), generator=self.generator).tolist()
            share = slice(noisy + world.rank, None, world.size)
            found.append(completing(x[share], rates[share], seeds[share]))
        return [lower for lower in found if len(lower.clean)]

    def prior(self, sigma: Tensor, precision: str, learn: bool = False) -> Phi:
        """lam(sigma) r [B] and its gradient at images, with derivatives in what is learned or without."""
        return self.module.both(sigma, precision, learn)

    def loss(self) -> Tensor:
        """Mean squared error of the minimisers of the next batch, with its implicit derivative."""
        errors, upper = zip(*map(self._loss, self.batch()), strict=True)
        total = torch.cat(upper).mean()
        return torch.cat(errors).mean() + (total - total.detach())

    def _loss(self, lower: "Lower") -> tuple[Tensor, Tensor]:
        """Of each image [B] the squared error, and what has the derivative of its weighed mean."""
        config = self.config
        found = minimise(
            lower.phi(self.prior(lower.sigma, config.precision)), lower.start, config.iterations, config.tol
        )
        x, error = found.x, found.x - lower.clean
        exact = gradient_of(lower.phi(self.prior(lower.sigma, "float32")))
        stirred = error + lower.free(STIR * torch.randn(error.shape, generator=self.generator).to(error))
        with torch.no_grad():
            curvature = ritz(hessian_at(exact, x), stirred, config.products)
        learned = self.prior(lower.sigma, config.precision, learn=True)
        weight = lower.weight * (found.relative < STRAY * config.tol)
        pixels = error[0].numel()
        total = weight * outer(gradient_of(learned), x, curvature.solve(config.floor or STIR)) / pixels
        if lower.bent:
            phi = lower.phi(self.prior(lower.sigma, "float32", learn=True))
            low, high = bend(gradient_of(phi), x, curvature, config.floor, config.ceiling)
            total = total + LOW * low + HIGH * high
        return error.square().flatten(1).mean(1), total

    @torch.no_grad()
    def validate(self) -> Score | None:
        """Mean PSNR in dB of converged validation images over the knots, the same noise each time, and where some are
        trained to be completed over those with half of the pixels, and with a third of the frequencies."""
        found = []
        for k, x in enumerate(self.held):
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(k)).to(x)
            knots = [torch.full((1,), sigma).to(x) for sigma in self.config.sigmas]
            lowers = [denoising(x, x + s * noise, s, self.config.focus) for s in knots]
            if self.config.missing:
                lowers.append(completing(x.expand(2, -1, -1, -1), [0.5, 0.3], [k, k]))
            for lower in lowers:
                phi = lower.phi(self.prior(lower.sigma, "float32"))
                end = minimise(phi, lower.start, VALIDATION_ITERATIONS, VALIDATION_TOL)
                found += psnr(end.x.clamp(0, 1), lower.clean).flatten().tolist()
        return Score("psnr", math.fsum(found) / len(found)) if found else None

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        training = self.training(facts, RECIPE)
        self.write(self.module.model({"name": self.name, "training": training, "fits": self.config.fits()}))

    def state_dict(self) -> dict[str, Any]:
        """As of CropObjective, and the shapes of the regulariser."""
        return super().state_dict() | {
            "regulariser": [
                {
                    "channels": one.channels,
                    "layers": len(one.weights),
                    "delta": one.delta,
                    "final_activation": one.final_activation,
                }
                for one in scales_of(self.module.regulariser)
            ],
        }

    def prepare(self, state: dict[str, Any]) -> None:
        """Makes what is learned of these shapes."""
        given = state["regulariser"]  # of one scale, from before there were several, a dictionary
        made = [FeatureNorm(**one) for one in ([given] if isinstance(given, dict) else given)]
        ones = torch.ones(len(self.config.sigmas))
        second = ones if "log_patch_lam" in state["module"] else None
        self.module = Learned(together(made), self.config.sigmas, ones, USUAL_EPS, second).to(self.world.device)


def _untrained(config: Config) -> Regulariser:
    count = config.scales or 1
    return together([FeatureNorm(config.channels, config.layers, 1, config.delta) for _ in range(count)])


def _source(config: Config, knots: Tensor) -> tuple[Regulariser, Tensor | None, float, Tensor | None, float]:
    """The regulariser to begin with, lam at the knots if it is known, and eps; weights of patches there or None, and
    their radius."""
    eps, radius = config.eps or USUAL_EPS, USUAL_RADIUS
    patch_lams = torch.full(knots.shape, config.patches) if config.patches else None
    if not config.init:
        return _untrained(config), None, eps, patch_lams, radius
    source = models.load(config.init)
    lam = None
    if isinstance(source, BlockSensingModel):
        r = source.solver.balanced().regulariser
    else:
        r = source.regulariser if isinstance(source, PriorModel) else None
        fits = isinstance(r, Regulariser)
        expect(fits, "train", "--init", "a prior or a model of LDA, of convolutions", f"one of {source.method}")
        assert isinstance(source, PriorModel)
        assert isinstance(r, Regulariser)
        lam, eps = source.lam(knots), config.eps or r.eps or eps
        if source.patches is not None:
            radius = float(source.patches.radius)
            patch_lams = patch_lams if patch_lams is not None else source.lam(knots, source.patch_lams)
    scales = scales_of(r)
    fits = not config.scales or config.scales >= len(scales)
    expect(fits, "train", "--scales", f"at least the {len(scales)} of --init", config.scales)
    while len(scales) < config.scales:
        coarser = copy.deepcopy(scales[-1])
        with torch.no_grad():
            coarser.weights[-1].mul_(SHARE)
        scales.append(coarser)
    return together(scales).float().requires_grad_(True), lam, eps, patch_lams, radius


RECIPE = register(
    Recipe(
        "prior",
        "a prior for every linear operator, for the minimiser of its objective",
        Config,
        Prior,
        examples=(
            "prior --data train400 --init lda-cs-10 --out runs/prior",
            "prior --out runs/prior --resume",
        ),
        timed=True,
    )
)
