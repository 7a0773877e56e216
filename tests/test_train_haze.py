"""Training of a unit for haze: what it learns from, that it learns, its model in use, resumption to the same bits."""

import csv
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from PIL import Image

import fastrecon as fr
from fastrecon import io
from fastrecon.cli.main import main
from fastrecon.models.padnet import PADNetModel
from fastrecon.problems import PROBLEMS
from fastrecon.solvers import haze
from fastrecon.solvers.haze_methods import finished
from fastrecon.solvers.methods import METHODS
from fastrecon.train import checkpoint
from fastrecon.train.loop import CHECKPOINT
from fastrecon.train.recipes.padnet_haze import CROPS, Config, Draws, HazeUnit, Scene, known_light
from fastrecon.train.world import World

TINY = {"layers": 3, "channels": 4, "steps": 8, "batch": 4, "patch": 32, "warmup": 2, "validation": 0.3, "lr": 5e-3}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for k in range(3):
        blocks = generator.integers(10, 230, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(blocks).save(folder / f"{k}.png")
    return folder


def train(photos: Path, out: Path, *more: str, **changes) -> int:
    words = [
        w for k, v in (TINY | {"validate_every": 4} | changes).items() for w in (f"--{k.replace('_', '-')}", str(v))
    ]
    where = ["--out", str(out), "--threads", "1", "--device", "cpu"]
    return main(["train", "padnet-haze", "--data", str(photos), *where, *words, *more])


def test_haze_that_is_made_up(photos):
    scene, draws = Scene.of(io.read_picture(photos / "0.png").pixels), Draws(0)
    assert scene.photograph.shape == scene.parts.shape == (1, 3, 48, 64)
    lights = []
    for _ in range(20):
        x, t, light = draws.haze(scene)
        assert x.shape == (1, 3, 48, 64)
        assert t.shape == (1, 1, 48, 64)
        assert 0 < t.min() <= t.max() <= 1
        assert 0 <= x.min() <= x.max() <= 1
        lights.append(light.flatten())
        again = haze.radiance(x, t, light, 0.01)
        thick = (t < 0.3).expand_as(again)
        assert (again - scene.photograph).abs()[~thick].max() < 0.25  # noise and rounding, over 0.3
    assert 0.6 <= torch.stack(lights).min() <= torch.stack(lights).max() <= 1
    assert known_light(torch.zeros(1, 3, 20, 20)).min() > haze.DARKEST


def test_edges_of_the_depth_are_edges_of_the_photograph():
    pixels = np.full((40, 60, 3), 0.2, np.float32)
    pixels[:, 30:] = 0.8
    scene, draws, jumps = Scene.of(pixels), Draws(1), 0
    for _ in range(20):
        across = draws.depth(scene).diff(dim=1).abs()
        assert across[:, :20].max() < 0.1  # far from the edge nothing jumps
        jumps += int(across[:, 20:40].max() > 0.1)
    assert jumps > 5


def test_a_step_learns(photos):
    unit = HazeUnit(Config([str(photos)], **TINY), World(), Path())
    v, photo, truth, true, light = unit.batch()
    assert v.shape == (4, 4, 32, 32)
    assert photo.shape == truth.shape == (4, 3, 32, 32)
    assert true.shape == (4, 1, 32, 32)
    assert light.shape == (4, 3, 1, 1)
    assert all(torch.equal(light[0], light[k]) for k in range(CROPS))
    torch.manual_seed(0)
    optimiser, losses = torch.optim.Adam(unit.module.parameters(), 5e-3), []
    batch = unit.batch()
    unit.batch = lambda: batch
    for _ in range(30):
        optimiser.zero_grad()
        loss = unit.loss()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5


def test_a_run_leaves_a_model_that_takes_haze_off(photos, tmp_path):
    assert train(photos, tmp_path / "a") == 0
    path = tmp_path / "a" / "model.safetensors"
    model = fr.load(path)
    assert isinstance(model, PADNetModel)
    assert model.problem == "dehaze"
    card = (tmp_path / "a" / "padnet-haze.md").read_text()
    assert "guided" in card
    assert "fastrecon train padnet-haze --data photos" in card
    problem = PROBLEMS["dehaze"]
    m = problem.simulate(io.read_picture(photos / "1.png"), problem.Options(light="0.85"))
    seen = []
    run = METHODS["padnet"].ready(model=str(path))
    found = run(problem.inverse(m), lambda done, total, x, what="": seen.append((done, total, x().shape)))
    assert found.x.shape == m.y.shape
    assert seen == [(1, 1, m.y.shape)]
    assert torch.isfinite(found.x).all()
    v = torch.cat((m.y, haze.guide(m.tensor("photograph"), m.tensor("light"))), 1)
    t = m.y - model.units[0](v)[:, :1]  # one iteration is one step of the unit
    torch.testing.assert_close(found.x, finished(t, m.tensor("photograph")))
    gap = torch.linalg.vector_norm((found.x - m.y).double())
    assert found.report.misfit.item() == pytest.approx(gap.item(), rel=1e-5)
    grey = problem.simulate(
        io.Picture(io.read_picture(photos / "1.png").pixels[..., 0].copy(), Path("p.png"), io.Form()), problem.Options()
    )
    assert run(problem.inverse(grey)).x.shape == grey.y.shape
    blurred = PROBLEMS["deblur"].simulate(io.read_picture(photos / "1.png"), PROBLEMS["deblur"].Options())
    with pytest.raises(ValueError, match="padnet: --model: expected a model of padnet for deblur"):
        run(PROBLEMS["deblur"].inverse(blurred))


def test_a_resumed_run_ends_at_the_same_bits(photos, tmp_path, monkeypatch):
    train(photos, tmp_path / "whole")
    loss, calls = HazeUnit.loss, iter(range(100))

    def interrupted(self):
        if next(calls) == 8:  # in the sixth step: three calls measure its time
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self)

    monkeypatch.setattr(HazeUnit, "loss", interrupted)
    assert train(photos, tmp_path / "parts") == 128 + signal.SIGINT
    monkeypatch.setattr(HazeUnit, "loss", loss)
    assert main(["train", "padnet-haze", "--out", str(tmp_path / "parts"), "--resume", "--threads", "1"]) == 0
    a, b = (checkpoint.load(tmp_path / n / CHECKPOINT)["task"]["module"] for n in ("whole", "parts"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    with (tmp_path / "whole" / "log.csv").open(newline="") as file:
        assert len([row for row in csv.DictReader(file) if row["validation_psnr"]]) == 2


def test_what_is_refused(photos, tmp_path, capsys):
    assert train(photos, tmp_path / "a", batch=3) == 2
    assert "--batch: expected a multiple of 2, got 3" in capsys.readouterr().err
    assert train(photos, tmp_path / "a", patch=64) == 2
    assert "--patch: expected no larger than the photographs, got 64" in capsys.readouterr().err
