"""A second regulariser for a trained LDA, for its minimiser: `fastrecon train lda-cs-minimiser`.

The phases stay as they are. From their image x_K on, rigorous mode of the finished model minimises
|A x - y|^2 / 2 + r(x) + mu |x - x_K|^2 / 2; r and mu are trained so that the minimiser is near the true image. Each
crop keeps its iterate, which goes a few steps nearer to the minimiser of the present r at every visit, and gives way to
a new crop after some visits. The loss of a crop is its squared error by that of the phases; its gradient is that of
implicit differentiation at the iterate. What is validated are converged images.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon import models
from fastrecon.checks import expect
from fastrecon.metrics import psnr
from fastrecon.models import card
from fastrecon.ops.reductions import sum_of_squares
from fastrecon.options import check, option
from fastrecon.solvers import LDA
from fastrecon.solvers.base import column
from fastrecon.solvers.minimiser import Minimiser
from fastrecon.terms.feature_norm import FeatureNorm
from fastrecon.terms.sparse_patches import USUAL_RADIUS
from fastrecon.train import bilevel, images
from fastrecon.train.commandline import command, last_names, settings_of
from fastrecon.train.objective import Objective, Score
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.recipes.minimiser_base import OfMinimiser
from fastrecon.train.schedule import Schedule
from fastrecon.train.world import World

VALIDATION_SIDE = 132  # pixels: validation images are cropped to at most 4 x 4 blocks of 33
LEAST = 2e-5  # mean squared error of the phases (47 dB) from which on crops no longer count more
FLAT = 0.03  # curvature that the implicit derivative takes for at least: with --anchor it is about mu
TINY = 1e-9
NEAR = 0.1  # |grad phi| in units of |grad r|, from which on an iterate is no minimiser and does not count


@dataclass(frozen=True)
class Config:
    """What a run computes."""

    data: Sequence[str] = option("folders (or files) of training images", nargs="+")
    model: str = option("trained model (name or file) that gets the second regulariser", "lda-cs-25")
    validation_data: Sequence[str] = option(
        "folders (or files) of validation images; default: a share of --data", (), nargs="+"
    )
    validation: float = option("share of the images of --data kept for validation", 0.025, within="[0, 1)", type=float)
    init: str = option(
        "start from the second regulariser of this model (name or file), its own or that of another ratio, or from a"
        " learned prior; mu is that of --anchor", "",
    )  # fmt: skip
    noise: float = option("weight of a prior that is --init: what belongs to so much noise", 1.5e-3, within="(0, 1]",
                          type=float)  # fmt: skip
    contrast: float = option(
        "c: r(c x) / c^2 takes the place of the r(x) of a prior that is --init", 1.0, within="[0.01, 100]", type=float
    )
    sigma: float = option(
        "of the termination test of rigorous mode; 0: that of the phases, which makes eps far smaller than a prior's"
        " own", 0.0, within="[0, 1e6]", type=float,
    )  # fmt: skip
    name: str = option("name of the model; default: that of --model", "", file_name=True)
    anchor: float = option(
        "initial weight mu of |x - x_K|^2 / 2, x_K the image of the phases; 0: none", 0.1, within="[0, 100]",
        type=float,
    )  # fmt: skip
    weight: float = option(
        "initial weight of the regulariser, a copy of that of the phases, against what their steps give it", 0.25,
        within="(0, 1e6]", type=float,
    )  # fmt: skip
    patches: float = option(
        "initial weight of sparse patches beside it; default: that of --init, or none", 0.0, within="[0, 100]",
        type=float,
    )  # fmt: skip
    layers: int = option("convolutions of a regulariser from scratch; 0: the copy", 0, within="[0, 16]", type=int)
    eps: float = option("smoothing radius", 1e-5, within="(1e-6, 1]", type=float)
    steps: int = option("training steps", 2000, within="[1, 1e9]", type=int)
    batch: int = option("crops in a step", 12, within="[1, 1e6]", type=int)
    pool: int = option("crops that keep an iterate, a multiple of --batch", 96, within="[1, 1e6]", type=int)
    visits: int = option("visits after which a crop is replaced", 12, within="[1, 1e6]", type=int)
    moves: int = option("steps towards the minimiser a visit", 4, within="[1, 1e4]", type=int)
    first_moves: int = option("steps of a new crop, from x_K", 12, within="[1, 1e4]", type=int)
    direction_steps: int = option(
        "steps of Lanczos' method for the implicit derivative; 0: Jacobian-free", 0, within="[0, 100]", type=int
    )
    patch: int = option(
        "side of the crops in pixels, a multiple of the model's block", 66, within="[1, 65536]", type=int
    )
    lr: float = option("learning rate", 3e-4, within="(0, 1000]", type=float)
    decay: str = option("of the learning rate over the whole run", "cosine", choices=("cosine", "constant"))
    warmup: int = option("steps over which the learning rate rises", 50, within="[0, 1e9]", type=int)
    clip: float = option("largest norm of the gradient; 0: none", 0.0, within="[0, 1e6]", type=float)
    ema: float = option(
        "decay of averaged parameters, which are then validated and saved; 0: none", 0.99, within="[0, 1)", type=float
    )
    precision: str = option(
        "of the products in steps towards the minimiser", "bfloat16", choices=("bfloat16", "float32")
    )
    seed: int = option("of the split and the crops", 0, within="[0, 2147483647]", type=int)
    validate_every: int = option(
        "steps between validations and checkpoints; default: a tenth of the run", 0, within="[0, 1e9]", type=int
    )

    def __post_init__(self):
        check(self, "train")
        expect(self.pool % self.batch == 0, "train", "--pool", f"a multiple of {self.batch}, the --batch", self.pool)

    def schedule(self) -> Schedule:
        """Steps and learning rates."""
        every = self.validate_every or max(1, min(1000, self.steps // 10))
        return Schedule(self.steps, self.lr, self.decay, self.warmup, self.clip, self.ema, every)


@dataclass(frozen=True)
class Pool:
    """Crops with what they keep, [N] each."""

    truth: Tensor  # [N, 1, H, W]
    phases: Tensor  # x_K
    x: Tensor  # the iterate
    visits: Tensor  # int64

    def take(self, which: Tensor) -> "Pool":
        """Those at `which`."""
        return Pool(*(t[which] for t in vars(self).values()))

    def put(self, which: Tensor, part: "Pool") -> None:
        """Replaces those at `which`."""
        for name, t in vars(self).items():
            t[which] = getattr(part, name)


class LdaCsMinimiser(OfMinimiser, Objective[models.BlockSensingModel]):
    """The second regulariser, its crops and their iterates; see `Objective`."""

    squared_error = False
    alone = True
    config: Config

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        found = images.Images.load(config.data, config.validation_data, quiet=world.rank > 0)
        found = found.hold(config.validation, config.seed)
        self.counts = found.counts
        self.module = self._network()
        kind, block = self.module.q.dtype, self.module.operator.block
        multiple = config.patch % block == 0
        expect(multiple, "train", "--patch", f"a multiple of {block}, the block of --model", config.patch)
        self.crops = images.Crops(found.training, config.patch, config.seed, world.device, kind)
        cropped = (images.central(i, VALIDATION_SIDE) for i in found.held)
        self.held = [i[None, None].to(world.device, kind) for i in cropped]
        self.order = torch.empty(0, dtype=torch.int64)
        self.pool: Pool | None = None

    def _network(self) -> models.BlockSensingModel:
        """The model with its second regulariser; only that is trained."""
        config = self.config
        found = models.load(config.model)
        fits = isinstance(found, models.BlockSensingModel) and isinstance(found.solver, LDA) and not found.blockwise
        expect(fits, "train", "--model", "a model of lda for whole images of block-cs", f"one for {found.problem}")
        assert isinstance(found, models.BlockSensingModel)
        card.training_of(found.meta)  # tells at once what the new card would lack
        phases = found.solver
        r = phases.regulariser
        torch.manual_seed(config.seed)
        phases.minimiser = minimiser = Minimiser(
            r.weights[0].shape[0], config.layers or len(r.weights), delta=r.delta, eps0=config.eps,
            anchor=config.anchor, sigma=config.sigma or None,
        )  # fmt: skip
        if config.init:
            source = models.load(config.init)
            if isinstance(source, models.PriorModel):
                return self._with(found, self._of_prior(source))
            other = source.solver.minimiser if isinstance(source, models.BlockSensingModel) else None
            expect(isinstance(other, Minimiser), "train", "--init", "a model with a second regulariser", config.init)
            assert isinstance(other, Minimiser)
            minimiser = copy.deepcopy(other)
            minimiser.set_anchor(config.anchor)
        elif not config.layers:
            own = minimiser.regulariser
            own.load_state_dict(phases.balanced().regulariser.state_dict())
            with torch.no_grad():
                own.weights[-1].mul_(config.weight)
        return self._with(found, minimiser)

    def _of_prior(self, source: models.PriorModel) -> Minimiser:
        """The second regulariser that is a learned prior."""
        r, config = source.regulariser, self.config
        expect(isinstance(r, FeatureNorm), "train", "--init", "a prior of one chain of convolutions", config.init)
        assert isinstance(r, FeatureNorm)
        weight = float(source.lam(torch.tensor([config.noise], dtype=torch.float64)))
        minimiser = Minimiser.of(r, weight, config.contrast, config.anchor, config.sigma or None)
        _, of_patches = source.weights(torch.tensor([config.noise], dtype=torch.float64))
        if source.patches is not None and of_patches is not None:
            minimiser.set_patches(float(of_patches), float(source.patches.radius))
        return minimiser

    def _with(self, found: models.BlockSensingModel, minimiser: Minimiser) -> models.BlockSensingModel:
        """The model with this second regulariser, which alone is trained."""
        found.solver.minimiser = minimiser
        if self.config.patches:
            given = minimiser.patches
            minimiser.set_patches(self.config.patches, USUAL_RADIUS if given is None else float(given.radius))
        found.requires_grad_(False)
        minimiser.requires_grad_(True)
        found.meta["name"] = self.name
        return found.to(self.world.device, found.q.dtype)

    @property
    def data(self) -> str:
        """Its images."""
        return (
            f"{self.counts['training']} training and {self.counts['validation']} validation images"
            f" ({self.crops.skipped} smaller than {self.config.patch} pixels left out)"
        )

    def _term(self, x: Tensor, phases: Tensor, precision: str) -> tuple[Tensor, Tensor]:
        """r(x) + mu |x - x_K|^2 / 2 [B] and its gradient, differentiable in what is trained."""
        m = self.minimiser
        value, grad = m.regulariser.value_and_grad(x, m.eps0.expand(len(x)), precision)
        value, grad = m.weight * value, m.weight * grad
        if m.patches is not None and m.patch_weight is not None:
            second, slope = m.patches.value_and_grad(x)
            value, grad = value + m.patch_weight * second, grad + m.patch_weight * slope
        if m.anchor is None:
            return value, grad
        d = x - phases
        return value + m.anchor / 2 * d.square().flatten(1).sum(1), grad + m.anchor * d

    def _approach(self, crops: Pool, y: Tensor, moves: int) -> Pool:
        """The crops with iterates nearer to their minimisers."""
        f = self.module.solver.fidelity

        def phi(x: Tensor) -> tuple[Tensor, Tensor]:
            value, grad = self._term(x, crops.phases, self.config.precision)
            residual = f.residual(x, y)
            return f.value_of(residual) + value.double(), f.grad_of(residual, x) + grad

        return replace(crops, x=bilevel.minimise(phi, crops.x, moves, TINY).x)

    @torch.no_grad()
    def _new(self, count: int) -> Pool:
        """Crops of this process with their first iterates."""
        x = self.crops(count)
        y = self.module.operator(x)
        self.module.set_precision(self.config.precision)
        phases = self.module(y, size=x.shape[-2:]).x
        self.module.set_precision("float32")
        none = torch.zeros(len(x), dtype=torch.int64)
        return self._approach(Pool(x, phases, phases, none), y, self.config.first_moves)

    def _batch(self) -> Tensor:
        """Places of the next batch in the pool, whose crops that had their visits are replaced."""
        count = self.config.batch
        if self.pool is None:
            parts = [self._new(count) for _ in range(self.config.pool // count)]
            self.pool = Pool(*(torch.cat(p) for p in zip(*(vars(p).values() for p in parts), strict=True)))
            # not all of them at once
            self.pool.visits.copy_(torch.arange(len(self.pool.visits)) % self.config.visits)
        if len(self.order) < count:
            self.order = torch.randperm(len(self.pool.visits), generator=self.crops.generator)
        which, self.order = self.order[:count], self.order[count:]
        old = which[self.pool.visits[which] >= self.config.visits]
        if len(old):
            self.pool.put(old, self._new(len(old)))
        return which

    def loss(self) -> Tensor:
        """Squared error of the iterates of the next batch by that of the phases, with its implicit derivative."""
        which = self._batch()
        assert self.pool is not None
        crops = self.pool.take(which)
        with torch.no_grad():
            a = self.module.operator
            y = a(crops.truth)
            crops = self._approach(crops, y, self.config.moves)
            self.pool.put(which, replace(crops, visits=crops.visits + 1))
            x, e = crops.x, crops.x - crops.truth
            own, theirs = (t.square().flatten(1).mean(1) for t in (e, crops.phases - crops.truth))
            grad_f = self.module.solver.fidelity.grad(x, y)
        grad = self._term(x, crops.phases, self.config.precision)[1]
        with torch.no_grad():
            p = e  # Jacobian-free: the Hessian taken as 1
            if self.config.direction_steps:
                f = self.module.solver.fidelity
                hessian = bilevel.hessian_at(lambda x: f.grad(x, y) + self._term(x, crops.phases, "float32")[1], x)
                p = bilevel.ritz(hessian, e, self.config.direction_steps).solve(FLAT)
            norm, scale = sum_of_squares(grad_f + grad).sqrt(), sum_of_squares(grad).sqrt()
            weight = (norm <= NEAR * scale).to(own) / (theirs + LEAST)
            reported = (own / (theirs + LEAST)).mean()
        implicit = bilevel.outer(lambda _: grad, x, p * column(weight, p)).mean() * 2 / p[0].numel()
        return reported + implicit - implicit.detach()

    @torch.no_grad()
    def validate(self) -> Score | None:
        """Mean PSNR in dB over the validation images, converged."""
        a, found = self.module.operator, []
        for x in self.held:
            result = self.module(a(x), size=x.shape[-2:], rigorous=True, tol=1e-3, iterations=500, history=False)
            found.append(psnr(result.x.clamp(0, 1), x).item())
        return Score("psnr", math.fsum(found) / len(found)) if found else None

    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card; what was known of the phases stays."""
        config, model = self.config, copy.copy(self.module)
        own = facts | {
            "command": command(config, RECIPE.name, RECIPE.always),
            "data": last_names(config.data),
            "images": self.counts,
            "settings": settings_of(config),
        }
        model.meta = self.module.meta | {"training": self.module.meta["training"] | {"minimiser": own}}
        self.write(model)

    def describe(self) -> str:
        """mu in a few words."""
        return "" if self.minimiser.anchor is None else f"mu={float(self.minimiser.anchor.detach()):.3g}"

    def state_dict(self) -> dict[str, Any]:
        """What is trained, the pool, the generator, and what tells whether the images are the same on resumption."""
        return {
            "minimiser": self.minimiser.state_dict(),
            "crops": self.crops.state_dict(),
            "pool": {} if self.pool is None else vars(self.pool),
            "order": self.order,
            "digest": self.crops.digest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`.

        Raises:
            ValueError: the training images are not those of the checkpoint.
        """
        images.expect_same(state, self.crops.digest)
        self.minimiser.load_state_dict(state["minimiser"])
        self.crops.load_state_dict(state["crops"])
        pool = {k: v.to(self.world.device) if k != "visits" else v.cpu() for k, v in state["pool"].items()}
        self.pool = Pool(**pool) if pool else None
        self.order = state["order"].cpu()


RECIPE = register(
    Recipe(
        "lda-cs-minimiser",
        "the regulariser that rigorous mode of a trained LDA minimises, for block compressed sensing",
        Config,
        LdaCsMinimiser,
        examples=(
            "lda-cs-minimiser --model lda-cs-25 --data train400 --out runs/lda-cs-25",
            "lda-cs-minimiser --out runs/lda-cs-25 --resume",
        ),
        always=("model",),
        timed=True,
        processes=False,
    )
)
