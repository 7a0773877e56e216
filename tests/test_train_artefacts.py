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
    given = {"channels": 4, "batch": 3, "patch": 24, "steps": 12, "validation": 0.4} | options
    return Artefacts(Config([str(slices)], **given), World(), tmp_path)


def test_images_come_as_the_iteration_makes_them(slices, tmp_path):
    o = objective(slices, tmp_path, precision="float32", noise=0.02)
    for _ in range(5):
        o.loss()
    assert o.age.tolist() == [5, 8, 1]  # of all ages from the first step on; the third is a new one
    a, sigma = Fourier(o.mask), o.noise.clamp_min(SETTINGS.faint)
    u, level = o._asked()
    for i, k in enumerate(o.age.tolist()):
        ratio = (SETTINGS.strengths[0] / sigma[i]).item()
        told = sigma[i].item() * ratio ** (1 - k / (SETTINGS.iterations - 1))
        assert level[i].item() == pytest.approx(told, rel=1e-5)
        rho = (sigma[i].item() / told) ** 2 / SETTINGS.pull
        exact = LeastSquares(a.take(torch.tensor([i])), o.y[i : i + 1]).prox(o.x[i : i + 1], 1 / rho)
        torch.testing.assert_close(u[i : i + 1], exact, rtol=1e-4, atol=1e-6)
    before = o.x.clone()
    with torch.no_grad():
        cleaned = torch.cat([Cleaned(o.module)(u[i : i + 1], level[i].item()) for i in range(3)])
        o.loss()
    torch.testing.assert_close(o.x, cleaned, rtol=1e-4, atol=1e-5)
    assert not torch.equal(o.x, before)


def test_half_of_the_measurements_have_noise(slices, tmp_path):
    o = objective(slices, tmp_path, batch=40, noise=0.02)
    for i in range(40):
        o._renew(i)
    loud = o.noise > 0
    assert 10 < int(loud.sum()) < 30
    assert o.noise[loud].amin() >= SETTINGS.faint
    assert o.noise[loud].amax() <= 0.02
    error = o.y - o.mask * torch.fft.fft2(o.truth, norm="ortho")
    size = (torch.view_as_real(error).square().sum((1, 2, 3, 4)) / (2 * o.mask.sum((1, 2, 3)))).sqrt().double()
    torch.testing.assert_close(size[loud], o.noise[loud], rtol=0.2, atol=0)
    assert size[~loud].amax() < 1e-6


def test_a_run_resumes_to_the_same_bits(slices, tmp_path, monkeypatch):
    words = f"--data {slices} --channels 4 --batch 3 --patch 24 --validate-every 6 --validation 0.4 --steps 12"
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
    assert (model.problem, model.settings) == ("mri", SETTINGS)
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
