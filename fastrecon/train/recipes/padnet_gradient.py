"""Units of PADNet for slopes, trained greedily: `fastrecon train padnet-gradient`.

Units are added one after the other, each to bring the v of the iteration nearer to the true slopes, where all before it
are constants; an iteration has its units once it leads where its test accepts (explicit), or --most of them. Then all
samples pass it, and the next one begins: Algorithm 2 of the paper.

Source: Liu, Fan, Cheng, Wang & Luo, Proximal Alternating Direction Network, AAAI 2018 (arXiv:1711.07653).
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fastrecon.checks import expect
from fastrecon.metrics import psnr
from fastrecon.models.padnet import VARIANTS, PADNetModel, Settings
from fastrecon.networks import RBFUnit
from fastrecon.operators import Blur, BlurredSlopes, Gradient, motion_kernel
from fastrecon.options import check, option
from fastrecon.problems.base import add_noise
from fastrecon.problems.slopes import BETA
from fastrecon.solvers import PADNet
from fastrecon.solvers.padnet import RULES
from fastrecon.terms import LeastSquares, Lp
from fastrecon.train import images
from fastrecon.train.commandline import command, last_names, settings_of
from fastrecon.train.objective import Objective, Score
from fastrecon.train.recipe import Recipe, register
from fastrecon.train.schedule import Schedule
from fastrecon.train.world import World

CHUNK = 20  # images that pass an iteration together
STEP = 0.99  # of the proximal gradient: a kernel >= 0 with sum 1 has the norm 1


@dataclass(frozen=True)
class Config:
    """What a run computes."""

    data: Sequence[str] = option("folders (or files) of training images", nargs="+")
    name: str = option("name of the model", "padnet-gradient", file_name=True)
    images: int = option("at most so many", 400, within="[1, 1e6]", type=int)
    held: int = option("images kept for validation", 20, within="[0, 1e6]", type=int)
    side: int = option("side of the central squares that are cut out", 180, within="[16, 4096]", type=int)
    kernels: Sequence[int] = option(
        "least and largest side of the kernels, random paths of a camera, odd", (13, 37), nargs="+", type=int
    )
    noise: float = option("standard deviation of the noise, where white is 1", 0.01, within="[0, 10]", type=float)
    variant: str = option("explicit, with an objective, or implicit", "implicit", choices=VARIANTS)
    rule: str = option("what an explicit iteration accepts", "descent", choices=RULES)
    p: float = option("exponent of the objective's penalty", 0.8, within="[0, 1]", type=float)
    lam: float = option("its weight", 1e-3, within="[0, 1e6]", type=float)
    mu: float = option("weight of the last iterate", 0.01, within="(0, 1e6]", type=float)
    rho: float = option("first weight of the units", 0.02, within="(0, 1e6]", type=float)
    growth: float = option("of that weight in an iteration", 10.0, within="[1, 1e6]", type=float)
    units: int = option("trained in all", 6, within="[1, 1000]", type=int)
    most: int = option("units of an iteration, at most", 2, within="[1, 100]", type=int)
    share: float = option(
        "of the samples whose points are accepted before an iteration ends", 0.9, within="(0, 1]", type=float
    )
    filters: int = option("of a unit", 24, within="[1, 1000]", type=int)
    width: int = option("side of a filter in pixels, odd", 5, within="[3, 15]", type=int)
    steps: int = option("training steps of a unit", 400, within="[1, 1e9]", type=int)
    batch: int = option("crops in a step, over all processes", 16, within="[1, 1e6]", type=int)
    patch: int = option("side of the crops in pixels", 48, within="[8, 65536]", type=int)
    lr: float = option("learning rate, falling to 0 as a cosine for every unit", 5e-3, within="(0, 1000]", type=float)
    clip: float = option("largest norm of the gradient; 0: none", 1.0, within="[0, 1e6]", type=float)
    seed: int = option("of images, kernels, noise and crops", 0, within="[0, 2147483647]", type=int)

    def __post_init__(self):
        check(self, "train")
        given = tuple(self.kernels)
        fits = len(given) == 2 and 3 <= given[0] <= given[1] <= self.side and all(n % 2 for n in given)
        expect(fits, "train", "--kernels", "two odd numbers, 3 <= LEAST <= LARGEST <= --side", list(given))
        object.__setattr__(self, "kernels", given)
        expect(self.width % 2 == 1, "train", "--width", "an odd number", self.width)
        room = self.patch + 2 * (self.width - 1) <= self.side
        expect(room, "train", "--patch", f"one with {self.width - 1} pixels around it in --side", self.patch)

    def schedule(self) -> Schedule:
        """Steps and learning rates."""
        return Stagewise(self.units * self.steps, self.lr, clip=self.clip, validate_every=self.steps)

    def settings(self) -> Settings:
        """How the units are used."""
        return Settings(
            variant=self.variant, rule=self.rule, p=self.p, lam=self.lam, mu=self.mu, rho=self.rho, growth=self.growth,
            most=self.most, iterations=30, tol=1e-3,
        )  # fmt: skip


class Stagewise(Schedule):
    """The learning rate falls as a cosine between validations."""

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step % self.validate_every) / self.validate_every))


class Greedy(Objective[nn.ModuleList]):
    """Units, and where the iteration stands for every sample; see `Objective`.

    Attributes:
        rows: how many units every iteration has, the one in progress last.
        states: of CHUNK samples each, before the iteration in progress.
        v: [M, 2, S, S] what the unit in training is given; of the M samples the first `held` are for validation.
    """

    alone = True
    squared_error = False
    config: Config

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        loaded = images.Images.load(config.data, quiet=world.rank > 0).training
        found = [images.central(i, config.side) for i in loaded if min(i.shape) >= config.side]
        short = f"more than {config.held} images of at least {config.side}x{config.side} pixels"
        expect(len(found) > config.held, "train", "--data", short, f"{len(found)}")
        order = images.drawn(len(found), config.seed)[: config.held + config.images]
        x = torch.stack([found[i] for i in order])[:, None].to(world.device)
        self.count = len(x) - config.held
        self.digest = images.digest(x)
        self.blur = Blur(_kernels(config, len(x)).to(x))
        d = Gradient()
        y = torch.cat([self.blur.take(which)(x[which]) for which in self._chunks(len(x))])
        y = add_noise(y, config.noise, config.seed)
        self.y, self.truth = d(y), d(x)
        self.sharp, self.photos = x[: config.held], y[: config.held]
        self.generator = torch.Generator().manual_seed(config.seed)
        self.module = nn.ModuleList()
        self.rows = [0]
        self.states = [self._solver(which).started(self.y[which]) for which in self._chunks()]
        self.v, self.alpha = self._first()
        self._grow()

    def _chunks(self, count: int | None = None) -> list[Tensor]:
        return list(torch.arange(len(self.truth) if count is None else count).split(CHUNK))

    def _solver(self, which: Tensor) -> PADNet:
        """The iteration of some of the samples, with the units so far."""
        c, units, rows = self.config, iter(self.module), []
        for n in self.rows:
            rows.append([next(units) for _ in range(n)])
        prior = Lp(c.lam, c.p) if c.variant == "explicit" else None
        known: Any = [row for row in rows if row] or (lambda v: v)
        solver = PADNet(
            self.blur, prior, known, rule=c.rule, mu=c.mu, rho=c.rho, growth=c.growth, most=c.most
        )  # fmt: skip
        return solver.of(LeastSquares(self.blur.take(which), self.y[which]), STEP)

    @torch.no_grad()
    def _first(self) -> tuple[Tensor, float]:
        """What the first unit of an iteration is given, and what its output is multiplied by."""
        found, alpha = [], 1.0
        for which, s in zip(self._chunks(), self.states, strict=True):
            u, step = self._solver(which).pulled(s)
            found.append(u + s.dual)
            alpha = float(step.flatten()[0])
        return torch.cat(found), alpha

    def _grow(self) -> None:
        """A new unit, which begins as the one before did its work."""
        c = self.config
        torch.manual_seed(c.seed)
        unit = RBFUnit(2, c.filters, c.width)
        scale = 1 / self.alpha
        if len(self.module):
            unit.load_state_dict(copy.deepcopy(self.module[-1].state_dict()))
            scale = self.scale / self.alpha
        with torch.no_grad():
            unit.weights.mul_(scale)
        self.scale = self.alpha
        self.module.append(unit.to(self.truth.device))
        self.rows[-1] += 1

    @torch.no_grad()
    def _close(self, ends: bool | None = None) -> None:
        """All samples pass the unit in training, which is one of the constants from now on.

        `ends` says whether the iteration does; None: by what its test says of the samples.
        """
        unit: Any = self.module[-1].requires_grad_(False)
        solvers = [self._solver(which) for which in self._chunks()]
        parts, good = [], []
        for solver, s, v in zip(solvers, self.states, self.v.split(CHUNK), strict=True):
            parts.append(v - self.alpha * unit(v))
            if solver.prior is not None and ends is None:
                good.append(solver.judged(s, solver.pulled(s)[0], parts[-1], solver.fallback(s)[1])[1])
        self.v = torch.cat(parts)
        share = torch.cat(good).double().mean().item() if good else 0.0
        if not (self.rows[-1] == self.config.most or share >= self.config.share if ends is None else ends):
            return
        k = len(self.rows) - 1
        self.states = [solver.step(s, k) for solver, s in zip(solvers, self.states, strict=True)]
        self.v, self.alpha = self._first()
        self.rows.append(0)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name

    @property
    def data(self) -> str:
        """Its images."""
        return f"{self.count} training and {self.config.held} validation images"

    def begin_step(self, step: int) -> bool:
        """Adds the unit of `step`."""
        if step // self.config.steps < len(self.module):
            return False
        self._close()
        self._grow()
        return True

    def loss(self) -> Tensor:
        """Mean of |v+ - g|^2 / 2 over this process's share of the next crops."""
        c, unit = self.config, self.module[-1]
        border = c.width - 1
        side, S = c.patch + 2 * border, self.truth.shape[-1]
        which = c.held + torch.randint(self.count, (c.batch,), generator=self.generator)
        corner = torch.randint(S - side + 1, (2, c.batch), generator=self.generator)
        share = slice(self.world.rank, None, self.world.size)
        places = list(zip(which[share].tolist(), *(t[share].tolist() for t in corner), strict=True))
        v, g = (torch.stack([t[i, :, a : a + side, b : b + side] for i, a, b in places]) for t in (self.v, self.truth))
        new = v - self.alpha * unit(v)
        inner = slice(border, -border)  # beyond it the unit would see the wrong neighbours
        return 0.5 * (new - g)[..., inner, inner].square().mean()

    @torch.no_grad()
    def validate(self) -> Score | None:
        """Mean of |v+ - g| / |g| over the validation images, after the unit in training."""
        if not self.config.held:
            return None
        v, g = self.v[: self.config.held], self.truth[: self.config.held]
        new = v - self.alpha * self.module[-1](v)
        return Score("error", (_norm(new - g) / _norm(g)).mean().item(), higher_is_better=False)

    @torch.no_grad()
    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        c, units, rows = self.config, iter(copy.deepcopy(self.module).requires_grad_(False)), []
        for n in self.rows:
            rows.append([next(units) for _ in range(n)])
        training = facts | {
            "data": last_names(c.data), "images": self.count, "settings": settings_of(c),
            "command": command(c, "padnet-gradient"),
        }  # fmt: skip
        model = PADNetModel([r for r in rows if r], "slopes", c.settings(), {"name": self.name, "training": training})
        training["facts"] = {"training images": self.count} | self.quality(model)
        self.write(model)

    @torch.no_grad()
    def quality(self, model: PADNetModel) -> dict[str, str]:
        """How well a model does on the validation images, for its card."""
        held = torch.arange(self.config.held)
        if len(held) == 0:
            return {}
        blur = self.blur.take(held)
        x, _ = model.compute(self.y[held], blur, self.config.noise, start=self.y[held], history=False)
        assert isinstance(blur, Blur)
        found = BlurredSlopes(blur, BETA).image(x, self.photos)
        error = (_norm(x - self.truth[held]) / _norm(self.truth[held])).mean().item()
        before, after = (psnr(t.clamp(0, 1), self.sharp).mean().item() for t in (self.photos, found))
        return {
            "validation": f"{len(held)} images, each with a kernel of its own, noise {self.config.noise:g}",
            "error of their slopes": f"{error:.3f} (of the estimate 0: 1)",
            "PSNR of their pictures": f"{after:.2f} dB (blurred: {before:.2f} dB)",
        }

    def describe(self) -> str:
        """The unit in training."""
        return f"iteration {len(self.rows)}, unit {self.rows[-1]}"

    def state_dict(self) -> dict[str, Any]:
        """Units and generator; where the samples stand is computed anew from these."""
        return {
            "module": self.module.state_dict(), "rows": list(self.rows), "scale": self.scale,
            "generator": self.generator.get_state(), "digest": self.digest,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`.

        Raises:
            ValueError: the training images are not those of the checkpoint.
        """
        images.expect_same(state, self.digest)
        rows = [int(n) for n in state["rows"]]
        total = sum(rows)
        if list(self.rows) != rows:  # not where the state is this very moment's
            ends = set(torch.tensor(rows).cumsum(0).tolist())
            for n in range(1, total):
                self._restore(state["module"], n - 1)
                self._close(n in ends)
                self._grow()
        self._restore(state["module"], total - 1)
        self.scale = float(state["scale"])
        self.generator.set_state(state["generator"])

    def _restore(self, tensors: dict[str, Tensor], k: int) -> None:
        own = {n.removeprefix(f"{k}."): t for n, t in tensors.items() if n.startswith(f"{k}.")}
        self.module[k].load_state_dict(own)


def _kernels(c: Config, count: int) -> Tensor:
    """Kernels [count, 1, n, n] of drawn sides, zeros around the smaller ones."""
    low, high = c.kernels
    drawn = torch.randint((high - low) // 2 + 1, (count,), generator=torch.Generator().manual_seed(c.seed)).tolist()
    found = [motion_kernel(low + 2 * n, c.seed * 10**6 + i) for i, n in enumerate(drawn)]
    return torch.stack([pad(k, [(high - len(k)) // 2] * 4) for k in found])[:, None]


def _norm(t: Tensor) -> Tensor:
    return torch.linalg.vector_norm(t.flatten(1), dim=1)


RECIPE = register(
    Recipe(
        "padnet-gradient",
        "units of radial functions for the deconvolution of slopes, one after the other",
        Config,
        Greedy,
        examples=(
            "fastrecon train padnet-gradient --data train400 --out runs/padnet-gradient",
            "fastrecon train padnet-gradient --data train400 --variant explicit --mu 0.3 --out runs/explicit",
        ),
    )
)
