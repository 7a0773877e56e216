"""Recipes: one from outside is trained like ours; runs of before the names of today go on to the same bits."""

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastrecon as fr
from fastrecon import io
from fastrecon.cli.main import main
from fastrecon.options import check, option
from fastrecon.train import checkpoint, recipe
from fastrecon.train.export import write_pair
from fastrecon.train.loop import CHECKPOINT, Trainer
from fastrecon.train.objective import Objective, Score
from fastrecon.train.recipes import dladmm, sgp
from fastrecon.train.recipes.synthetic import Synthetic
from fastrecon.train.schedule import Schedule
from fastrecon.train.world import World

SMALL = {"validate-every": 4, "steps": 12, "threads": 1, "device": "cpu"}
SPARSE = SMALL | {"rows": 12, "columns": 6, "samples": 32, "test-samples": 8, "batch": 8, "layers": 2}
DENOISE = SMALL | {"patch": 4, "atoms": 24, "dictionary-patches": 1500, "layers": 2, "batch": 16, "validation": 0.4}
STEPS = SMALL | {"side": 16, "held": 1, "batch": 2, "width": 4, "lr": 3e-3}


@pytest.fixture(autouse=True)
def _without_figure(monkeypatch):
    """The figure at the end takes a second and is tested elsewhere."""
    monkeypatch.setattr(Synthetic, "finish", lambda self: None)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    t = torch.linspace(0, 4, 24)
    for k in range(3):
        x = torch.sin(t[:, None] * (k + 1)) * torch.cos(t * (2 + k)) + (t[:, None] + t > 3 + 0.3 * k)
        io.write_image(folder / f"{k}.png", ((x - x.min()) / (x.max() - x.min())).numpy())
    return folder


def train(kind: str, out: Path, options: dict[str, Any], *more: str) -> int:
    words = [w for k, v in options.items() for w in (f"--{k}", str(v))]
    return main(["train", kind, "--out", str(out), *words, *more])


def module(out: Path) -> dict[str, Tensor]:
    return checkpoint.load(out / CHECKPOINT)["task"]["module"]


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def cut_after(monkeypatch, kind: type[Objective], step: int, number: int = signal.SIGINT) -> None:
    """A signal in the middle of a step."""
    loss, calls = kind.loss, iter(range(1, 10**6))

    def interrupted(self):
        if next(calls) == step:
            os.kill(os.getpid(), number)
        return loss(self)

    monkeypatch.setattr(kind, "loss", interrupted)


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """Settings of the toy."""

    slope: float = option("of the line that is to be found", within="[-10, 10]", type=float)
    steps: int = option("training steps", 40, within="[1, 1e6]", type=int)
    batch: int = option("points in a step", 4, within="[1, 1e6]", type=int)
    lr: float = option("learning rate", 0.1, within="(0, 1]", type=float)

    def __post_init__(self):
        check(self, "train")

    def schedule(self) -> Schedule:
        return Schedule(self.steps, self.lr, validate_every=10)


class Toy(Objective[nn.Linear]):
    """Learns a line."""

    squared_error = False

    def __init__(self, config, world, folder, fresh=True):
        super().__init__(config, world, folder, fresh)
        torch.manual_seed(0)
        self.module, self.generator = nn.Linear(1, 1, bias=False), torch.Generator().manual_seed(0)

    @property
    def name(self):
        return "toy"

    def loss(self):
        x = torch.rand(self.config.batch, 1, generator=self.generator)
        return (self.module(x) - self.config.slope * x).square().mean()

    def after_step(self):
        with torch.no_grad():
            self.module.weight.clamp_(max=2.0)

    def validate(self):
        return Score("slope_error", abs(self.module.weight.item() - self.config.slope), higher_is_better=False)

    def export(self, facts):
        weight = f"{self.module.weight.item()}"
        write_pair(self.folder / "model.safetensors", lambda p: p.write_text(weight), self.card, str(facts))

    def finish(self):
        (self.folder / "finished").touch()

    def state_dict(self):
        return {"module": self.module.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.module.load_state_dict(state["module"])
        self.generator.set_state(state["generator"])


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(recipe, "RECIPES", dict(recipe.RECIPES))
    from fastrecon.cli import train as command

    monkeypatch.setattr(command, "RECIPES", recipe.RECIPES)
    presets = {"steep": {"slope": 1.5}, "flat": {"slope": 0.1}}
    return recipe.register(recipe.Recipe("toy", "a line", ToyConfig, Toy, presets=presets, timed=True))


def test_a_recipe_from_outside_is_a_command(toy, tmp_path, capsys):
    assert main(["train", "--help"]) == 0
    assert "a line" in capsys.readouterr().out
    assert train("toy", tmp_path, {"slope": 1.5, "steps": 60}) == 0
    err = capsys.readouterr().err
    assert "toy: its own data, 60 steps, about" in err
    assert "validation SLOPE_ERROR" in err
    assert float((tmp_path / "model.safetensors").read_text()) == pytest.approx(1.5, abs=0.05)
    assert (tmp_path / "finished").exists()
    assert (tmp_path / "log.csv").read_text().startswith("step,stage,rate,loss,psnr,validation_slope_error,seconds")
    assert train("toy", tmp_path / "flat", {"preset": "flat", "minutes": 1e-3}) == 0
    assert checkpoint.load(tmp_path / "flat" / CHECKPOINT)["settings"]["slope"] == 0.1
    assert train("toy", tmp_path / "clamped", {"slope": 9, "steps": 100, "lr": 1}) == 0
    assert float((tmp_path / "clamped" / "model.safetensors").read_text()) == 2.0
    with pytest.raises(ValueError, match="register: name: expected one that no other recipe has, got 'toy'"):
        recipe.register(dataclasses.replace(toy))


def test_measuring_the_time_of_a_step_changes_nothing(toy, tmp_path):
    assert train("toy", tmp_path / "timed", {"slope": 1}) == 0
    untimed = Trainer(Toy(ToyConfig(1.0), World(), tmp_path), ToyConfig(1.0).schedule(), {})
    for _ in range(40):
        untimed.update()
    assert equal(module(tmp_path / "timed"), untimed.objective.module.state_dict())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_exit_status_names_the_signal(number, status, tmp_path, monkeypatch, capsys):
    cut_after(monkeypatch, Synthetic, 6, number)
    assert train("dladmm", tmp_path, SPARSE | {"problem": "sparse-coding"}) == status
    assert "interrupted after step 6 of 12; to continue: fastrecon train dladmm --out" in capsys.readouterr().err
    assert checkpoint.load(tmp_path / CHECKPOINT)["step"] == 6


def test_a_denoiser_resumes_to_the_same_bits(images, tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    options = DENOISE | {"problem": "impulse", "data": images}
    assert train("dladmm", tmp_path / "whole", options) == 0
    with monkeypatch.context() as patch:
        cut_after(patch, dladmm.Denoise, 6)
        assert train("dladmm", tmp_path / "cut", options) == 130
    assert train("dladmm", tmp_path / "cut", {}, "--resume") == 0
    assert equal(module(tmp_path / "whole"), module(tmp_path / "cut"))
    assert fr.load(tmp_path / "cut/model.safetensors").solver.layers == 2


def test_a_constrained_run_resumes_to_the_same_bits(tmp_path, monkeypatch):
    options = SPARSE | {"problem": "sparse-coding", "radius": 0.1, "lr": 0.1}
    assert train("dladmm", tmp_path / "whole", options, "--constrain") == 0
    with monkeypatch.context() as patch:
        cut_after(patch, Synthetic, 6)
        assert train("dladmm", tmp_path / "cut", options, "--constrain") == 130
    assert train("dladmm", tmp_path / "cut", {}, "--resume") == 0
    assert equal(module(tmp_path / "whole"), module(tmp_path / "cut"))


FORMER = {
    "sgp": (
        sgp.Unrolled,
        STEPS | {"problem": "mri", "unroll": 2, "noise": 5 / 255},
        {"task": "fourier", "noise": [5.0]},
        "sgp-step-fourier",
    ),
    "dladmm": (Synthetic, SPARSE | {"problem": "sparse-coding"}, {"task": "synthetic"}, "dladmm-synthetic"),
}


@pytest.mark.parametrize("kind", FORMER)
def test_a_run_of_before_the_names_of_today_goes_on(kind, images, tmp_path, monkeypatch):
    """Its settings have a task; the objective's state an image count, and no word on projection."""
    objective, options, former, name = FORMER[kind]
    options = options | ({"data": images} if kind == "sgp" else {})
    assert train(kind, tmp_path / "whole", options) == 0
    with monkeypatch.context() as patch:
        cut_after(patch, objective, 6)
        assert train(kind, tmp_path / "cut", options) == 130
    state = checkpoint.load(tmp_path / "cut" / CHECKPOINT)
    del state["settings"]["problem"]
    state["settings"] |= former
    state["task"].pop("projected", None)
    (tmp_path / "cut/model.safetensors").unlink()  # it would have had the name of then
    checkpoint.save(tmp_path / "cut" / CHECKPOINT, state | {"task": state["task"] | {"count": 2}})
    assert train(kind, tmp_path / "cut", {}, "--resume") == 0
    assert equal(module(tmp_path / "whole"), module(tmp_path / "cut"))
    assert (tmp_path / "cut" / f"{name}.md").exists()  # the model keeps its name
    assert fr.load(tmp_path / "cut/model.safetensors").meta["name"] == name


def test_tasks_are_called_problems_now(tmp_path, capsys):
    for task, problem in (("fourier", "mri"), ("ct", "ct")):
        assert train("sgp", tmp_path, {"task": task, "data": "x"}) == 2
        said = f"fastrecon: train: --task: expected --problem {problem}, its name now, got --task {task}\n"
        assert capsys.readouterr().err == said
    assert not list(tmp_path.iterdir())
