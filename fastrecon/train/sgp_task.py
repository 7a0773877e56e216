"""The tasks of the training loop for SGP's networks and the direct U-Net."""

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fastrecon.checks import expect
from fastrecon.metrics import nmse_db, psnr
from fastrecon.models import sgp as step_models
from fastrecon.models.card import sgp_card
from fastrecon.networks.unet import DirectNet, StepNet
from fastrecon.ops import prox_gradient_step
from fastrecon.problems import wavelet_l1 as problems
from fastrecon.solvers import FISTA, SGP
from fastrecon.train import checkpoint, data
from fastrecon.train.commandline import command, last_names
from fastrecon.train.export import write_pair
from fastrecon.train.progress import track
from fastrecon.train.sgp_config import Config

CHUNK = 8  # images solved at a time
VALIDATION_ITERATIONS = 20


class Networks:
    """What all tasks share: images with their problems, the network, validation, the model file.

    Args:
        config: settings.
        folder: of the run.
        device: of the network; images live there too.
    """

    metric = "psnr"
    sign = 1

    def __init__(self, config: Config, folder: Path, device: torch.device):
        self.config, self.folder = config, folder
        found = [_central(i, config.side) for i in data.load(config.data, quiet=False) if min(i.shape) >= config.side]
        short = f"more than {config.held} images of at least {config.side}x{config.side} pixels"
        expect(len(found) > config.held, "train", "--data", short, f"{len(found)}")
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(config.seed)).tolist()
        images = torch.stack([found[i] for i in order])[:, None].to(device)
        self.held, self.x = images[: config.held], images[config.held :][: config.images]
        self.count = len(self.x)
        self.problem, self.lam = self._problem(self.x, config.seed)
        self.digest = hashlib.sha256(self.x.cpu().numpy().tobytes()).hexdigest()[:16]
        torch.manual_seed(config.seed)
        if config.method == "sgp":
            net: Any = StepNet(
                config.variant, self.problem.y.is_complex(), config.width, config.normalisation, config.unroll
            )
            torch.nn.init.constant_(net.head.bias, math.log(config.first_step))
        else:
            net = DirectNet(config.width, config.normalisation)
        self.module: StepNet | DirectNet = net.to(device)
        self.generator = torch.Generator().manual_seed(config.seed)

    def _problem(self, x: Tensor, seed: int) -> tuple[problems.Instance, Tensor]:
        """The problems of images, each with a rate, a noise and a weight lam [B] drawn from the settings."""
        c, generator = self.config, torch.Generator().manual_seed(seed)

        def drawn(values: Sequence[float]) -> list[float]:
            return [values[i] for i in torch.randint(len(values), (len(x),), generator=generator).tolist()]

        p = problems.instance(c.task, x, drawn(c.rate), drawn(c.noise), seed, views=c.views)
        return p, p.lam * torch.tensor(drawn(c.lam_factor)).to(x)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name or f"{self.config.kind}-{self.config.task}"

    def batch(self) -> Tensor:
        """Numbers of the images of the next step."""
        return torch.randint(self.count, (self.config.batch,), generator=self.generator).to(self.x.device)

    def operator(self, which: Tensor) -> Any:
        """A W* of some of the images."""
        mask = None if self.problem.mask is None else self.problem.mask[which]
        return problems.operators(self.config.task, mask, self.x, self.config.views)[1]

    def prepare(self, step: int) -> bool:
        """Nothing changes between steps."""
        return False

    def loss(self) -> Tensor:
        """Of the next batch."""
        raise NotImplementedError

    @torch.no_grad()
    def validate(self) -> float | None:
        """Mean PSNR in dB on the validation images: after 20 iterations of SGP, or of the U-Net's image."""
        if len(self.held) == 0:
            return None
        return psnr(self._validation().clamp(0, 1), self.held).mean().item()

    def _validation(self) -> Tensor:
        p, lam = self._problem(self.held, self.config.seed + 10**6)
        self.module.eval()
        if self.config.method == "unet":
            x = self.module(p.image(p.start()))
        else:
            solver = SGP(p.operator, lam, 1.0, self.module)
            x = p.image(solver(p.y, p.start(), iterations=VALIDATION_ITERATIONS)[0])
        self.module.train()
        return x

    @torch.no_grad()
    def export(self, folder: Path, facts: dict[str, Any]) -> None:
        """model.safetensors and its card."""
        c = self.config
        settings = {k: v for k, v in dataclasses.asdict(c).items() if k != "data"}
        nmse = nmse_db(self._validation(), self.held).mean().item() if len(self.held) else None
        training = facts | {
            "validation_nmse": nmse, "data": last_names(c.data), "images": self.count, "settings": settings,
            "command": command(c, c.method, ("task",), ("method",)),
        }  # fmt: skip
        self.module.meta = {"method": c.kind, "task": c.task, "name": self.name, "training": training}
        card, page = self.card(folder)
        save = partial(step_models.save, network=self.module)
        write_pair(folder / "model.safetensors", save, card, page(self.module.meta))

    def card(self, folder: Path) -> tuple[Path, Callable[[dict[str, Any]], str]]:
        """The card's file, and what makes its text."""
        return folder / f"{self.name}.md", sgp_card

    def describe(self) -> str:
        """The stage in a few words."""
        return "direct" if self.config.method == "unet" else f"{self.config.unroll} iterations"

    def state_dict(self) -> dict[str, Any]:
        """Network, generator, and what tells whether the images are the same."""
        return {
            "module": self.module.state_dict(), "generator": self.generator.get_state(), "count": self.count,
            "digest": self.digest,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`.

        Raises:
            ValueError: the training images are not those of the checkpoint.
        """
        same = state["digest"] == self.digest
        expect(same, "train", "--data", f"the {state['count']} images of the checkpoint", f"{self.count} others")
        self.module.load_state_dict(state["module"])
        self.generator.set_state(state["generator"])


class Direct(Networks):
    """The U-Net that maps the image of the start to the true one."""

    def __init__(self, config: Config, folder: Path, device: torch.device):
        super().__init__(config, folder, device)
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

    def __init__(self, config: Config, folder: Path, device: torch.device):
        super().__init__(config, folder, device)
        self.start = self.problem.start()

    def loss(self) -> Tensor:
        """NMSE in dB over a batch, iteration k with weight k, plus `rise` dB for each doubling of F."""
        which, c, module = self.batch(), self.config, cast(StepNet, self.module)
        a, lam, y = self.operator(which), self.lam[which], self.problem.y[which]
        weight, truth = lam[:, None, None, None], self.problem.coefficients[which]
        size, total, answer = _square(truth), torch.zeros((), device=y.device), {}
        solver = SGP(a, lam, 1.0, lambda x, grad: answer["d"], limits=module.limits)
        s = solver.start(self.start[which], y)
        x = s.x
        for k in range(c.unroll):
            # a constant: x - d grad has the derivative 1 - d A* A, so gradients would explode; the next step undoes it
            grad = a.adjoint(s.residual)
            d = module(s.x / weight, grad / weight, k)
            answer["d"] = d.detach()
            with torch.no_grad():
                new = solver.step(s, k)
            x = x + prox_gradient_step(x, grad, d, lam)[0]
            x = x + prox_gradient_step(x, a.adjoint(a(x) - y), 1.0, lam)[0]
            value = _square(a(x) - y) / 2 + lam * x.abs().flatten(1).sum(1)
            rise = c.rise * (value / s.objective - 1).relu()
            x = x + (new.x - x).detach()
            error = 10 * torch.log10(_square(x - truth) / size)
            total = total + (error * (k + 1) / sum(range(c.unroll + 1)) + rise).mean()
            s = new
        return total


class Stages(Networks):
    """The paper's cumulative greedy training. Solutions are stored in the run's folder."""

    def __init__(self, config: Config, folder: Path, device: torch.device):
        super().__init__(config, folder, device)
        self.stage, self.iterates = 0, [self.problem.start()]
        self.targets = self._targets()

    def _targets(self) -> Tensor:
        """Solutions by FISTA, stored under a key of what they depend on."""
        c = self.config
        chosen = f"{c.task} {c.rate} {c.noise} {c.lam_factor} {c.views} {c.seed} {c.target_iterations}"
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

    def prepare(self, step: int) -> bool:
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
            parts.append(x + prox_gradient_step(x, a.adjoint(a(x) - y), 1.0, self.lam[which])[0])
        self.module.train()
        return torch.cat(parts)

    def _step(self, a: Any, x: Tensor, y: Tensor, lam: Tensor) -> Tensor:
        """The learned proximal gradient step from x, as a direction; L = 1 for all tasks."""
        with torch.no_grad():
            grad = a.adjoint(a(x) - y)
        weight = lam[:, None, None, None]
        return prox_gradient_step(x, grad, self.module(x / weight, grad / weight), lam)[0]

    def loss(self) -> Tensor:
        """Mean of |x* - x+|^2 / |x*|^2 over a batch of iterates of all stages so far."""
        draw = torch.randint(self.count * len(self.iterates), (self.config.batch,), generator=self.generator)
        which, stage = (draw % self.count).to(self.x.device), (draw // self.count).tolist()
        x = torch.stack([self.iterates[k][i] for k, i in zip(stage, which.tolist(), strict=True)])
        step = self._step(self.operator(which), x, self.problem.y[which], self.lam[which])
        return (_square(x + step - self.targets[which]) / _square(self.targets[which])).mean()

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


def task(config: Config, folder: Path, device: torch.device) -> Networks:
    """The task of a configuration."""
    kind = Direct if config.method == "unet" else Stages if config.greedy else Unrolled
    return kind(config, folder, device)


def _square(x: Tensor) -> Tensor:
    """|x|^2 [B], differentiable."""
    parts = torch.view_as_real(x) if x.is_complex() else x
    return parts.square().flatten(1).sum(1)


def _central(image: Tensor, side: int) -> Tensor:
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]
