"""Rain that is drawn, and the recipe that learns to take it off."""

import numpy as np
import pytest
import torch

import fastrecon as fr
from fastrecon import io
from fastrecon.cli.main import main
from fastrecon.solvers import rain


def test_rain_is_drawn_again_from_its_seed():
    one, two = (rain.Draws(3).streaks(4, (40, 48)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == (4, 1, 40, 48)
    assert one.min() >= 0
    assert one.max() <= 1
    assert bool((one.mean((1, 2, 3)) <= rain.DENSEST + 1e-5).all())
    assert not torch.equal(one, rain.Draws(4).streaks(4, (40, 48)))


@pytest.mark.parametrize("angle", [-40.0, 0.0, 30.0])
def test_strokes_fall_as_told(angle):
    one = torch.ones(1)
    stroke = rain.strokes(
        rain.Layer(torch.deg2rad(torch.tensor([angle])), 40 * one, 2 * one, 0.2 * one, one, one, one), 89
    )[0]
    at = torch.arange(89.0) - 44
    y, x = torch.meshgrid(at, at, indexing="ij")
    slope = (stroke * x * y).sum() / (stroke * y * y).sum()
    assert torch.rad2deg(torch.atan(slope)).item() == pytest.approx(angle, abs=2)
    assert 60 < stroke.sum().item() < 120


def test_rain_never_darkens():
    x = torch.rand(1, 3, 32, 32)
    for level in ("light", "heavy"):
        y = rain.rainy(x, rain.falling(level, 10.0, (32, 32), 0))
        assert bool((y >= x).all())
        assert y.max() <= 1


def test_train_resume_and_use(tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for k in range(3):
        a = generator.uniform(0, 1, (5, 5, 3)).repeat(8, 0).repeat(8, 1).astype(np.float32)
        io.write_picture(tmp_path / f"data/{k}", a, io.Form())
    command = ["train", "streaks", "--data", str(tmp_path / "data"), "--channels", "4", "--patch", "16", "--batch", "2",
               "--validate-every", "1", "--precision", "float32"]  # fmt: skip
    main([*command, "--steps", "2", "--out", str(tmp_path / "run")])
    model = fr.load(tmp_path / "run/model.safetensors")
    assert model.problem == "derain"
    assert "PSNR" in (tmp_path / "run/streaks.md").read_text()
    y = torch.rand(1, 3, 24, 30)
    x, report = model(y)
    assert x.shape == y.shape
    assert len(report) == 1
    grey = model(y[:, :1])[0]
    assert grey.shape == (1, 1, 24, 30)
    main(["reconstruct", str(tmp_path / "data/0.png"), "--problem", "derain", "--method", "error-controlled",
          "--module", str(tmp_path / "run/model.safetensors"), "--out", str(tmp_path / "done")])  # fmt: skip
    assert (tmp_path / "done/0_streaks.png").is_file()
    with pytest.raises(ValueError, match="separation: y"):
        model(torch.zeros(3, 4))
