"""What all trainings for SGP share: settings, images with their problems, the network, validation, the model file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.metrics import nmse_db, psnr
from fastrecon.models import DirectModel, ScheduleModel, StepModel
from fastrecon.networks.step_schedule import StepSchedule
from fastrecon.networks.unet import GROUP, LEVELS, DirectNet, StepNet
from fastrecon.operators import LinearOperator
from fastrecon.options import check, option
from fastrecon.problems import wavelet_l1 as problems
from fastrecon.solvers import SGP
from fastrecon.solvers.lasso import Lasso
from fastrecon.train import images
from fastrecon.train.commandline import command, last_names, settings_of
from fastrecon.train.objective import Objective, Score
from fastrecon.train.schedule import Schedule
from fastrecon.train.world import World

PROBLEMS = tuple(problems.LAM)
VALIDATION_ITERATIONS = 20
FIRST_ITERATIONS = 20  # of FISTA, that are learned


@dataclass(frozen=True)
class Config:
    """What a run computes."""

    data: Sequence[str] = option("folders (or files) of training images", nargs="+")
    method: str = option("sgp, fista or unet", "sgp", choices=("sgp", "fista", "unet"))
    problem: str = option("inverse problem", "inpaint", choices=PROBLEMS)
    variant: str = option("one step size per image, or one per coefficient", "step", choices=("step", "diag"))
    name: str = option("name of the model; default: METHOD-PROBLEM", "", file_name=True)
    rate: Sequence[float] = option(
        "shares of known pixels or sampled frequencies; each image is given one of them",
        (0.5,),
        nargs="+",
        within="(0, 1]",
        type=float,
    )
    noise: Sequence[float] = option(
        "standard deviations of the noise, where white is 1; likewise", (0.0,), nargs="+", within="[0, 1]", type=float
    )
    lam_factor: Sequence[float] = option(
        "weights of |c|_1 relative to the paper's, likewise", (1.0,), nargs="+", within="[1e-4, 1e4]", type=float
    )
    views: int = option("of ct", problems.VIEWS, within="[1, 1e4]", type=int)
    side: Sequence[int] = option(
        "side of the central squares that are cut out, a multiple of 8; of fista several: a training step takes one"
        " of them",
        (256,),
        nargs="+",
        within="[8, 4096]",
        type=int,
    )
    images: int = option("at most so many", 450, within="[1, 1e6]", type=int)
    held: int = option("images kept for validation", 4, within="[0, 1e6]", type=int)
    unroll: int = option(
        "train end to end through so many iterations, sgp towards the true images, fista the least objective;"
        f" 0: sgp by the paper's greedy stages, towards the minimisers; fista {FIRST_ITERATIONS}", 0,
        within="[0, 1000]", type=int,
    )  # fmt: skip
    first_step: float = option(
        "step size that training starts from, in units of 1 / L; with --unroll times mean |x| / lam",
        1.0,
        within="(0, 1e6]",
        type=float,
    )
    rise: float = option(
        "--unroll: penalty in dB for each doubling of the objective, which SGP would refuse",
        30.0,
        within="[0, 1e6]",
        type=float,
    )
    stages: int = option("greedy stages K", 10, within="[1, 1000]", type=int)
    steps: int = option("training steps: of each greedy stage, else of the run", 300, within="[1, 1e9]", type=int)
    batch: int = option("images in a step", 8, within="[1, 1e6]", type=int)
    lr: float = option("learning rate, falling to 0 as a cosine", 1e-4, within="(0, 1000]", type=float)
    clip: float = option("largest norm of the gradient; 0: none", 1.0, within="[0, 1e6]", type=float)
    width: int = option("channels of the U-Net's first level", 64, within="[1, 1024]", type=int)
    norm: str = option("normalisation; default: none for sgp, group for unet", "", choices=("batch", "group", "none"))
    target_iterations: int = option("of FISTA, for the minimisers that are fitted", 1200, within="[1, 1e6]", type=int)
    validate_every: int = option(
        "steps between validations and checkpoints; default: a tenth of the run", 0, within="[0, 1e9]", type=int
    )
    seed: int = option("of network, images, masks and batches", 0, within="[0, 2147483647]", type=int)

    def __post_init__(self):
        check(self, "train")
        expect(all(n % 8 == 0 for n in self.sides), "train", "--side", "multiples of 8", self.side)
        expect(len(self.sides) == 1 or self.method == "fista", "train", "--side", "one side", self.side)
        widths = [self.width << k for k in range(LEVELS)]
        whole = self.normalisation != "group" or all(w % max(1, w // GROUP) == 0 for w in widths)
        expect(whole, "train", "--width", f"a multiple of {GROUP}, or of equal groups at every level", self.width)

    @property
    def sides(self) -> Sequence[int]:
        """All sides, of which a single one may be given as a number."""
        return (self.side,) if isinstance(self.side, int) else self.side

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.steps * (self.stages if self.greedy else 1)

    @property
    def greedy(self) -> bool:
        """Whether training is the paper's, stage by stage."""
        return self.method == "sgp" and self.unroll == 0

    @property
    def normalisation(self) -> str:
        """The U-Net's."""
        return self.norm or ("none" if self.method == "sgp" else "group")

    @property
    def kind(self) -> str:
        """sgp-step, sgp-diag, learned-fista or unet: the method of the model."""
        return {"sgp": f"sgp-{self.variant}", "fista": "learned-fista"}.get(self.method, self.method)

    def schedule(self) -> Schedule:
        """Steps and learning rates."""
        every = self.validate_every or (self.steps if self.greedy else max(1, self.steps // 10))
        return Schedule(self.total, self.lr, "cosine", warmup=20, clip=self.clip, validate_every=every)


@dataclass(frozen=True)
class Squares:
    """Squares of one side: for validation `held`, for training x [N, 1, side, side] with their problems and lam [N]."""

    held: Tensor
    x: Tensor
    problem: problems.Instance
    lam: Tensor


class Networks(Objective[StepNet | StepSchedule | DirectNet]):
    """What all trainings for SGP share: images with their problems, the network, validation, the model file."""

    config: Config

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        super().__init__(config, world, folder, fresh)
        loaded = images.Images.load(config.data, quiet=world.rank > 0).training
        self.squares = [self._squares(loaded, side, world) for side in config.sides]
        first = self.squares[0]
        self.held, self.x, self.problem, self.lam = first.held, first.x, first.problem, first.lam
        self.count = len(self.x)
        self.digest = " ".join(images.digest(s.x) for s in self.squares)
        torch.manual_seed(config.seed)
        self.module = self.network().to(world.device)
        self.generator = torch.Generator().manual_seed(config.seed)

    def network(self) -> StepNet | StepSchedule | DirectNet:
        """What is trained, new."""
        config, complex_input = self.config, self.problem.y.is_complex()
        if config.method == "fista":
            return StepSchedule(
                config.unroll or FIRST_ITERATIONS, problems.LEVEL, complex_input, gains=config.problem == "ct"
            )
        if config.method == "unet":
            return DirectNet(config.width, config.normalisation)
        net = StepNet(config.variant, complex_input, config.width, config.normalisation, config.unroll)
        torch.nn.init.constant_(cast(Tensor, net.head.bias), math.log(config.first_step))
        return net

    def _squares(self, loaded: Sequence[Tensor], side: int, world: World) -> Squares:
        c = self.config
        found = [images.central(i, side) for i in loaded if min(i.shape) >= side]
        short = f"more than {c.held} images of at least {side}x{side} pixels"
        expect(len(found) > c.held, "train", "--data", short, f"{len(found)}")
        squares = torch.stack([found[i] for i in images.drawn(len(found), c.seed)])[:, None].to(world.device)
        held, x = squares[: c.held], squares[c.held :][: c.images]
        return Squares(held, x, *self._problem(x, c.seed))

    def _problem(self, x: Tensor, seed: int) -> tuple[problems.Instance, Tensor]:
        """The problems of images, each with a rate, a noise and a weight lam [B] drawn from the settings."""
        c, generator = self.config, torch.Generator().manual_seed(seed)

        def drawn(values: Sequence[float]) -> list[float]:
            return [values[i] for i in torch.randint(len(values), (len(x),), generator=generator).tolist()]

        p = problems.instance(c.problem, x, drawn(c.rate), drawn(self.levels), seed, views=c.views)
        return p, p.lam * torch.tensor(drawn(c.lam_factor)).to(x)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name or f"{self.config.kind}-{self.config.problem}"

    @property
    def levels(self) -> list[float]:
        """Standard deviations of the noise as `wavelet_l1` takes them, on the scale [0, 255]."""
        return [round(problems.SCALE * v, 9) for v in self.config.noise]

    @property
    def data(self) -> str:
        """Its images."""
        return f"{' + '.join(str(len(s.x)) for s in self.squares)} training images"

    def batch(self) -> Tensor:
        """Numbers of the images of the next step."""
        return torch.randint(self.count, (self.config.batch,), generator=self.generator).to(self.x.device)

    def operator(self, which: Tensor) -> LinearOperator:
        """A W* of some of the images."""
        return self.problem.operator.take(which)

    @torch.no_grad()
    def validate(self) -> Score | None:
        """Mean PSNR in dB on the validation images: after 20 iterations of SGP, or of the U-Net's image."""
        if len(self.held) == 0:
            return None
        return Score("psnr", psnr(self._validation().clamp(0, 1), self.held).mean().item())

    def _validation(self) -> Tensor:
        p, lam = self._problem(self.held, self.config.seed + 10**6)
        self.module.eval()
        if self.config.method == "unet":
            x = self.module(p.image(p.start()))
        else:
            x = p.image(self.solver_for(p.operator, lam)(p.y, p.start(), iterations=VALIDATION_ITERATIONS)[0])
        self.module.train()
        return x

    @torch.no_grad()
    def export(self, facts: dict[str, Any]) -> None:
        """Writes model.safetensors and its card."""
        c = self.config
        found = self._validation() if len(self.held) else None
        nmse = None if found is None else nmse_db(found, self.held).mean().item()
        count = sum(len(s.x) for s in self.squares)
        quality = None if found is None else round(psnr(found.clamp(0, 1), self.held).mean().item(), 2)
        training = {"validation_psnr": quality} | facts | {
            "validation_nmse": nmse, "data": last_names(c.data), "images": count, "settings": settings_of(c),
            "command": command(c, c.method, ("problem",), ("method",)),
        }  # fmt: skip
        net, meta = self.module, {"name": self.name, "training": training}
        kinds = {StepNet: StepModel, StepSchedule: ScheduleModel, DirectNet: DirectModel}
        self.write(kinds[type(net)](net, c.problem, meta))

    def solver_for(self, operator: LinearOperator, lam: Tensor) -> Lasso[Any]:
        """The method with the network as it is."""
        return SGP(operator, lam, 1.0, self.module)

    def describe(self) -> str:
        """The stage in a few words."""
        return "direct" if self.config.method == "unet" else f"{self.config.unroll} iterations"

    def state_dict(self) -> dict[str, Any]:
        """Network, generator, and what tells whether the images are the same."""
        return {
            "module": self.module.state_dict(), "generator": self.generator.get_state(), "digest": self.digest,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`.

        Raises:
            ValueError: the training images are not those of the checkpoint.
        """
        images.expect_same(state, self.digest)
        self.module.load_state_dict(state["module"])
        self.generator.set_state(state["generator"])


def square(x: Tensor) -> Tensor:
    """|x|^2 [B], differentiable."""
    parts = torch.view_as_real(x) if x.is_complex() else x
    return parts.square().flatten(1).sum(1)
