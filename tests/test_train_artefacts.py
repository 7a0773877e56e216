"""Training of what takes off artefacts: what it shows the network is what the iteration will show it; resumption."""

import os
import signal

import numpy as np
import pytest
import torch

from fastrecon import models
from fastrecon.cli.main import main
from fastrecon.modules import Cleaned
from fastrecon.networks import ResidualCNN
from fastrecon.operators import Fourier
from fastrecon.terms import LeastSquares
from fastrecon.train import checkpoint
from fastrecon.train.loop import CHECKPOINT
from fastrecon.train.recipes.artefacts import SETTINGS, Artefacts, Config
from fastrecon.train.world import World


@pytest.fixture
def slices(tmp_path):
    """A file of complex slices with edges."""
    t, path = torch.linspace(-1, 1, 32), tmp_path / "slices.npy"
    discs = [(torch.hypot(t[:, None] - 0.2 * k, t[None]) < 0.7) * (1 + 0.3 * torch.sin(9 * t)) for k in range(3)]
    np.save(path, torch.stack([torch.polar(d, 0.3 * t.expand_as(d)) for d in discs]).numpy())
    return path


def objective(slices, tmp_path, **options):
    """Of small networks."""
    given = {
        "scales": (4, 4),
        "blocks": 1,
        "batch": 3,
        "patch": 24,
        "steps": 12,
        "validation": 0.4,
        "iterations": 3,
    } | options
    return Artefacts(Config([str(slices)], **given), World(), tmp_path)


def test_images_come_as_the_iteration_makes_them(slices, tmp_path):
    o = objective(slices, tmp_path, precision="float32", iterations=4)
    x, y, mask = (torch.stack(t) for t in list(zip(*(o.drawn() for _ in range(2)), strict=True))[:3])
    noise, s = torch.tensor([0.0, 0.02], dtype=torch.float64), o.settings
    found, moved = o.iterated(y, mask, noise)
    for i, sigma in enumerate((s.faint, 0.02)):
        image, a = torch.fft.ifft2(y[i : i + 1], norm="ortho"), Fourier(mask[i : i + 1])
        for k in range(4):
            told = sigma * (s.strengths[0] / sigma) ** (1 - k / 3)
            u = LeastSquares(a, y[i : i + 1]).prox(image, s.pull / (sigma / told) ** 2)
            with torch.no_grad():
                image = Cleaned(o.module)(u, told)
            if k == 0:
                assert moved[i].item() == pytest.approx(((u - image).norm() / u.norm()).item(), rel=1e-4)
        torch.testing.assert_close(found[i : i + 1], image, rtol=1e-4, atol=1e-5)
    assert not torch.equal(found, x)


def test_training_lowers_the_error(slices, tmp_path):
    o = objective(slices, tmp_path, precision="float32", iterations=3, rates=(0.3, 0.3), noise=0.0)
    drawn = o.drawn()
    o.drawn = lambda: drawn
    optimiser, losses = torch.optim.Adam(o.module.parameters(), 3e-3), []
    for _ in range(60):
        optimiser.zero_grad()
        loss = o.loss()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3  # of logarithms


def test_half_of_the_measurements_have_noise(slices, tmp_path):
    o = objective(slices, tmp_path, noise=0.02)
    drawn = [o.drawn() for _ in range(40)]
    loud = [d for d in drawn if d[3] > 0]
    assert 10 < len(loud) < 30
    for x, y, mask, sigma in drawn:
        error = y - mask * torch.fft.fft2(x, norm="ortho")
        size = (torch.view_as_real(error).square().sum() / (2 * mask.sum())).sqrt().item()
        assert size == pytest.approx(sigma, rel=0.3, abs=1e-6)
        assert sigma == 0 or SETTINGS["mri"].faint <= sigma <= 0.02


def test_a_run_resumes_to_the_same_bits(slices, tmp_path, monkeypatch):
    sizes = "--scales 4 4 --blocks 1 --batch 3 --patch 24 --iterations 3"
    words = f"--data {slices} {sizes} --validate-every 6 --validation 0.4 --steps 12"
    assert main(["train", "artefacts", *words.split(), "--out", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        loss, calls = Artefacts.loss, iter(range(100))

        def interrupted(self):
            if next(calls) == 4:
                os.kill(os.getpid(), signal.SIGINT)
            return loss(self)

        patch.setattr(Artefacts, "loss", interrupted)
        assert main(["train", "artefacts", *words.split(), "--out", str(tmp_path / "cut")]) == 130
    assert main(["train", "artefacts", "--resume", "--out", str(tmp_path / "cut")]) == 0
    whole, cut = (checkpoint.load(tmp_path / n / CHECKPOINT)["task"]["module"] for n in ("whole", "cut"))
    assert all(torch.equal(whole[k], cut[k]) for k in whole)
    model = models.load(tmp_path / "cut" / "model.safetensors")
    assert isinstance(model, models.ErrorControlledModel)
    assert (model.problem, model.settings.iterations) == ("mri", 3)
    assert "PSNR" in (tmp_path / "cut" / "artefacts-mri.md").read_text()


def test_a_run_begins_with_the_network_of_a_model(slices, tmp_path):
    unit = ResidualCNN(3, 5, levels=True, folded=True)
    models.ErrorControlledModel(unit, "deblur").save(tmp_path / "begin.safetensors")
    o = objective(slices, tmp_path, init=str(tmp_path / "begin.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(o.module.parameters(), unit.parameters(), strict=True))
    assert all(p.requires_grad for p in o.module.parameters())
    o.loss().backward()
    again = objective(slices, tmp_path)
    again.load_state_dict(o.state_dict())
    assert again.module.settings == unit.settings
    assert torch.equal(again.loss(), o.loss())


def test_rates_that_are_none():
    with pytest.raises(ValueError, match="--rates: expected two numbers"):
        Config(["x"], rates=(0.3, 0.2))
