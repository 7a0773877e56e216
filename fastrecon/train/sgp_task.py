"""The tasks of the training loop for SGP's networks: greedy stages on stored solutions, or the direct U-Net."""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon import io, problems, step_models
from fastrecon.checks import expect
from fastrecon.metrics import nmse_db, psnr
from fastrecon.networks.unet import DirectNet, StepNet
from fastrecon.ops import prox_gradient_step
from fastrecon.solvers import FISTA, SGP
from fastrecon.train import checkpoint, data

CHUNK = 8  # images solved at a time


def _option(text: str, default: Any = dataclasses.MISSING, **parser: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, **parser})


@dataclass(frozen=True)
class Config:
    """What a run computes."""

    data: Sequence[str] = _option("folders (or files) of training images", nargs="+")
    method: str = _option("sgp or unet", "sgp")
    task: str = _option("inverse problem", "inpaint", choices=tuple(problems.LAM))
    variant: str = _option("one step size per image, or one per coefficient", "step", choices=("step", "diag"))
    name: str = _option("name of the model; default: METHOD-TASK", "")
    rate: float = _option("share of known pixels or sampled frequencies", 0.5, type=float)
    side: int = _option("side of the central squares that are cut out, a multiple of 8", 256, type=int)
    images: int = _option("at most so many", 450, type=int)
    held: int = _option("images kept for validation", 4, type=int)
    stages: int = _option("stages K; the U-Net has one", 10, type=int)
    steps: int = _option("training steps of each stage", 300, type=int)
    batch: int = _option("images in a step", 8, type=int)
    lr: float = _option("learning rate, falling to 0 as a cosine", 1e-4, type=float)
    clip: float = _option("largest norm of the gradient; 0: none", 1.0, type=float)
    width: int = _option("channels of the U-Net's first level", 64, type=int)
    norm: str = _option("normalisation", "group", choices=("batch", "group"))
    target_iterations: int = _option("of FISTA, for the solutions that are fitted", 1200, type=int)
    seed: int = _option("of network, images, masks and batches", 0, type=int)

    def __post_init__(self):
        whole = ("images", "stages", "steps", "batch", "width", "target_iterations")
        checks = [(name, getattr(self, name) >= 1, "an integer >= 1") for name in whole]
        checks += [
            ("side", self.side >= 8 and self.side % 8 == 0, "a multiple of 8"),
            ("held", self.held >= 0, "an integer >= 0"),
            ("rate", 0 < self.rate <= 1, "a share in (0, 1]"),
            ("lr", self.lr > 0, "a number > 0"),
        ]
        for name, good, expected in checks:
            expect(good, "train", "--" + name.replace("_", "-"), expected, getattr(self, name))

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.steps * (self.stages if self.method == "sgp" else 1)


class Stages:
    """The task of the training loop.

    Args:
        config: settings.
        folder: of the run, where the solutions are stored.
        device: of the network; images live there too.
    """

    def __init__(self, config: Config, folder: Path, device: torch.device):
        self.config, self.folder = config, folder
        found = [_central(i, config.side) for i in data.load(config.data) if min(i.shape) >= config.side]
        short = f"more than {config.held} images of at least {config.side}x{config.side} pixels"
        expect(len(found) > config.held, "train", "--data", short, f"{len(found)}")
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(config.seed)).tolist()
        found = torch.stack([found[i] for i in order])[:, None].to(device)
        self.held, self.x = found[: config.held], found[config.held :][: config.images]
        self.count = len(self.x)
        self.problem = problems.instance(config.task, self.x, config.rate, seed=config.seed)
        torch.manual_seed(config.seed)
        complex_input = self.problem.y.is_complex()
        if config.method == "sgp":
            net: StepNet | DirectNet = StepNet(config.variant, complex_input, config.width, config.norm)
        else:
            net = DirectNet(config.width, config.norm)
        self.module = net.to(device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.stage, self.iterates = 0, [self.problem.operator.adjoint(self.problem.y)]
        self.targets = self._targets() if config.method == "sgp" else self.problem.coefficients

    @property
    def name(self) -> str:
        """The model's name."""
        c = self.config
        return c.name or (f"sgp-{c.task}-{c.variant}" if c.method == "sgp" else f"unet-{c.task}")

    def _targets(self) -> Tensor:
        """Solutions by FISTA, stored in the run's folder under a key of what they depend on."""
        c = self.config
        digest = hashlib.sha256(self.x.cpu().numpy().tobytes()).hexdigest()[:16]
        key, path = f"{c.task} {c.rate} {c.seed} {c.target_iterations} {digest}", self.folder / "targets.safetensors"
        if path.is_file() and (stored := checkpoint.load(path))["key"] == key:
            return stored["x"].to(self.problem.y.device)
        parts, worst = [], 0.0
        for first in range(0, self.count, CHUNK):
            which = torch.arange(first, min(first + CHUNK, self.count), device=self.x.device)
            solver = FISTA(self._operator(which), self.problem.lam, lipschitz=1.0)
            x, report = solver(self.problem.y[which], iterations=c.target_iterations)
            parts.append(x)
            worst = max(worst, report.relative_step.max().item())
        x = torch.cat(parts)
        checkpoint.save(path, {"key": key, "x": x, "worst_relative_step": worst})
        return x

    def _operator(self, which: Tensor) -> Any:
        mask = None if self.problem.mask is None else self.problem.mask[which]
        return problems.operators(self.config.task, mask, self.x)[1]

    def prepare(self, step: int) -> bool:
        """Enters the stage of `step`: the images advance by the step the network has learned, and a plain one."""
        if self.config.method == "sgp" and step // self.config.steps > self.stage:
            self.iterates.append(self._advanced())
            self.stage += 1
        return False

    @torch.no_grad()
    def _advanced(self) -> Tensor:
        self.module.eval()
        parts = []
        for first in range(0, self.count, CHUNK):
            which = torch.arange(first, min(first + CHUNK, self.count), device=self.x.device)
            a, x = self._operator(which), self.iterates[-1][which]
            x = x + self._step(a, x, self.problem.y[which])
            grad = a.adjoint(a(x) - self.problem.y[which])
            parts.append(x + prox_gradient_step(x, grad, 1.0, self.problem.lam)[0])
        self.module.train()
        return torch.cat(parts)

    def _step(self, a: Any, x: Tensor, y: Tensor) -> Tensor:
        """The learned proximal gradient step from x, as a direction; L = 1 for all tasks."""
        with torch.no_grad():
            grad = a.adjoint(a(x) - y)
        d = self.module(x, grad)
        d = d[:, None, None, None] if d.ndim == 1 else d
        return prox_gradient_step(x, grad, d.clamp(1e-2, 1e2), self.problem.lam)[0]

    def loss(self) -> Tensor:
        """Mean of |x* - x+|^2 / |x*|^2 over a batch of iterates of all stages so far; of images for the U-Net."""
        draw = torch.randint(self.count * len(self.iterates), (self.config.batch,), generator=self.generator)
        which, stage = (draw % self.count).to(self.x.device), (draw // self.count).tolist()
        if self.config.method == "unet":
            start = self.problem.image(self.iterates[0][which])
            return (self.module(start) - self.x[which]).square().mean()
        x = torch.stack([self.iterates[k][i] for k, i in zip(stage, which.tolist(), strict=True)])
        error = x + self._step(self._operator(which), x, self.problem.y[which]) - self.targets[which]
        size = self.targets[which].abs().square().flatten(1).sum(1)
        return (error.abs().square().flatten(1).sum(1) / size).mean()

    @torch.no_grad()
    def validate(self) -> float:
        """Mean PSNR in dB on the validation images: after 20 iterations of SGP, or of the U-Net's image."""
        if len(self.held) == 0:
            return math.nan
        found = self._validation()
        return psnr(found.clamp(0, 1), self.held).mean().item()

    def _validation(self) -> Tensor:
        p = problems.instance(self.config.task, self.held, self.config.rate, seed=self.config.seed + 10**6)
        self.module.eval()
        if self.config.method == "unet":
            x = self.module(p.image(p.operator.adjoint(p.y)))
        else:
            x = p.image(SGP(p.operator, p.lam, 1.0, self.module)(p.y, iterations=20)[0])
        self.module.train()
        return x

    def export(self, folder: Path, facts: dict[str, Any]) -> None:
        """model.safetensors and its card."""
        c = self.config
        method = f"sgp-{c.variant}" if c.method == "sgp" else "unet"
        settings = {k: v for k, v in dataclasses.asdict(c).items() if k != "data"}
        nmse = nmse_db(self._validation(), self.held).mean().item() if len(self.held) else None
        with torch.no_grad():
            meta = {"method": method, "task": c.task, "name": self.name, "training": facts | {"config": settings}}
            step_models.save(folder / "model.safetensors", self.module, meta)
        lines = [f"# {self.name}", "", f"{method} for {c.task}, trained at a rate of {c.rate:g}.", ""]
        lines += ["| fact | value |", "| --- | --- |", f"| training images | {self.count} |"]
        lines += [f"| {k} | {v} |" for k, v in (facts | {"validation NMSE (dB)": nmse} | settings).items()]
        with io.atomic(folder / f"{self.name}.md") as file:
            file.write(("\n".join(lines) + "\n").encode())

    def describe(self) -> str:
        """The stage in a few words."""
        return f"stage {self.stage + 1}" if self.config.method == "sgp" else "direct"

    def state_dict(self) -> dict[str, Any]:
        """Network, stage, iterates and generator."""
        return {
            "module": self.module.state_dict(), "stage": self.stage, "iterates": self.iterates,
            "generator": self.generator.get_state(), "count": self.count,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`.

        Raises:
            ValueError: the training images are not those of the checkpoint.
        """
        same = state["count"] == self.count and torch.equal(state["iterates"][0], self.iterates[0].cpu())
        expect(same, "train", "--data", f"the {state['count']} images of the checkpoint", f"{self.count} others")
        self.module.load_state_dict(state["module"])
        self.stage, self.iterates = state["stage"], [x.to(self.x.device) for x in state["iterates"]]
        self.generator.set_state(state["generator"])


def _central(image: Tensor, side: int) -> Tensor:
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]
