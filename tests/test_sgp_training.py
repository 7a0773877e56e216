"""Networks for SGP: what they answer untrained; greedy training learns, resumes to the same bits, and is loaded."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from PIL import Image

from fastrecon import problems, step_models
from fastrecon.cli import main
from fastrecon.networks.unet import DirectNet, StepNet, UNet
from fastrecon.solvers import FISTA, ISTA, SGP
from fastrecon.train import checkpoint
from fastrecon.train.sgp_task import Config, Stages


def picture(side, seed):
    """Blobs and edges, 8 bits."""
    t = np.linspace(0, 4, side)
    x = np.sin(t[:, None] * (seed + 1)) * np.cos(t * (2 + seed)) + (t[:, None] + t > 3 + 0.3 * seed)
    return ((x - x.min()) / (x.max() - x.min()) * 255).astype(np.uint8)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(5):
        Image.fromarray(picture(40, k)).save(folder / f"{k}.png")
    return folder


SMALL = ["--side", "32", "--held", "1", "--stages", "2", "--steps", "12", "--batch", "4", "--width", "4",
         "--lr", "3e-3", "--target-iterations", "100"]  # fmt: skip


def small(images, **more):
    options = {"side": 32, "held": 1, "stages": 2, "steps": 12, "batch": 4, "width": 4, "target_iterations": 100}
    return Config(**{"data": [str(images)], **options, **more})


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("variant", ["step", "diag"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_untrained_networks_answer_one(variant, dtype, norm):
    net = StepNet(variant, dtype.is_complex, 4, norm).eval()
    x, g = torch.randn(2, 2, 1, 16, 24, dtype=dtype)
    d = net(x, g)
    assert d.shape == ((2,) if variant == "step" else (2, 1, 16, 24))
    torch.testing.assert_close(d, torch.ones_like(d))
    assert torch.equal(net(3 * x, 7 * g), d)  # inputs are normalised
    y = torch.rand(2, 1, 16, 24)
    assert torch.equal(DirectNet(4, norm).eval()(y), y)


def test_size_of_the_paper_and_what_does_not_fit():
    count = sum(p.numel() for p in UNet(2, 64).parameters())
    assert 7e6 < count < 8.7e6
    with pytest.raises(ValueError, match=r"UNet: x: expected .* divisible by 8"):
        UNet(2, 4)(torch.zeros(1, 2, 12, 16))


@pytest.mark.parametrize("task", ["inpaint", "fourier", "deblur"])
def test_instances_are_what_they_say(task):
    x = torch.from_numpy(picture(32, 1)).double()[None, None].expand(2, 1, 32, 32) / 255
    p = problems.instance(task, x, 0.4, seed=5)
    assert p.y.is_complex() == (task == "fourier")
    torch.testing.assert_close(p.operator(p.coefficients), p.y, rtol=0, atol=1e-8)
    torch.testing.assert_close(p.image(p.coefficients), x, rtol=0, atol=1e-8)
    assert p.operator.norm() <= 1 + 1e-6
    noisy = problems.instance(task, x, 0.4, noise=5.0, seed=5)
    n = (noisy.y - p.y) if p.mask is None else (noisy.y - p.y)[p.mask.expand_as(p.y) > 0]
    parts = torch.view_as_real(n) if n.is_complex() else n
    assert parts.std().item() == pytest.approx(5 / 255, rel=0.1)
    if p.mask is not None:
        assert not torch.equal(p.mask[0], p.mask[1])  # one mask for each image
        assert (noisy.y[p.mask.expand_as(p.y) == 0] == 0).all()


@pytest.mark.parametrize(("task", "variant"), [("deblur", "step"), ("fourier", "diag")])
def test_training_beats_the_safe_step(images, tmp_path, task, variant):
    config = small(images, task=task, variant=variant, steps=60)
    stages = Stages(config, tmp_path, torch.device("cpu"))
    stages.prepare(config.steps)  # at the zero-filled start of fourier the gradient is zero: nothing to learn there
    optimiser = torch.optim.Adam(stages.module.parameters(), lr=1e-2)

    def loss():
        stages.generator.manual_seed(7)  # the same iterates before and after
        return np.mean([stages.loss().item() for _ in range(10)])

    first = loss()  # d = 1: what ISTA does
    for _ in range(60):
        optimiser.zero_grad()
        stages.loss().backward()
        optimiser.step()
    assert loss() < 0.98 * first
    p = stages.problem
    ends = [s(p.y, iterations=6)[1].objective for s in (
        ISTA(p.operator, p.lam, 1.0), SGP(p.operator, p.lam, 1.0, stages.module))]  # fmt: skip
    assert (ends[1] < ends[0]).all()


def test_stages_advance_by_the_learned_and_a_plain_step(images, tmp_path):
    stages = Stages(small(images), tmp_path, torch.device("cpu"))
    stages.prepare(11)
    assert len(stages.iterates) == 1
    stages.prepare(12)
    assert len(stages.iterates) == 2
    p = stages.problem  # untrained: both steps are steps of ISTA
    expected, _ = ISTA(p.operator, p.lam, 1.0)(p.y, iterations=2)
    torch.testing.assert_close(stages.iterates[1], expected, rtol=0, atol=1e-5)
    solved, _ = FISTA(p.operator, p.lam, 1.0)(p.y, iterations=100)
    torch.testing.assert_close(stages.targets, solved, rtol=0, atol=1e-6)


def test_resuming_gives_the_same_bits(images, tmp_path):
    common = ["train", "sgp", "--data", str(images), *SMALL]
    assert main([*common, "--out", str(tmp_path / "whole")]) == 0
    assert main([*common, "--out", str(tmp_path / "parts")]) == 0
    path = tmp_path / "parts/checkpoint.safetensors"
    whole = checkpoint.load(path)
    config = small(images, lr=3e-3)
    from fastrecon.train.sgp import _schedule  # the loop of the command, stopped after the first stage
    from fastrecon.train.trainer import Schedule, Trainer

    schedule: Schedule = _schedule(config)
    trainer = Trainer(Stages(config, tmp_path / "parts", torch.device("cpu")), schedule, tmp_path / "parts", {})
    for _ in range(15):
        trainer.task.prepare(trainer.step)
        trainer.update()
    trainer.settings = whole["settings"]
    trainer.save()
    assert main(["train", "sgp", "--out", str(tmp_path / "parts"), "--resume"]) == 0
    for name, p in checkpoint.load(path)["task"]["module"].items():
        assert torch.equal(p, whole["task"]["module"][name]), name


def test_commands_train_and_reconstruct(images, tmp_path, capsys):
    for method, task in (("sgp", "fourier"), ("unet", "fourier")):
        assert (
            main(["train", method, "--data", str(images), "--task", task, *SMALL, "--out", str(tmp_path / method)]) == 0
        )
    model = str(tmp_path / "sgp/model.safetensors")
    net, meta = step_models.load(model)
    assert (meta["method"], meta["task"], net.training) == ("sgp-step", "fourier", False)
    runs = {"sgp-step": model, "unet": str(tmp_path / "unet/model.safetensors"), "fista": None, "ista": None}
    capsys.readouterr()
    for method, path in runs.items():
        out = tmp_path / "out" / method
        command = ["reconstruct", str(images / "0.png"), "--task", "fourier", "--method", method, "--out", str(out)]
        assert main([*command, "--json", "--iterations", "8", *(["--model", path] if path else [])]) == 0
        (report,) = json.loads(capsys.readouterr().out)
        assert (out / "0_figure.png").is_file()
        assert report["scores"]["reconstruction"]["nmse_db"] < 0
        full = json.loads((out / "0_report.json").read_text())
        if method != "unet":
            assert len(full["history"][method]["nmse_db"]) == 9
            assert report["certificate"]["iterations"] == 8
            assert full["history"][method]["nmse_db"][-1] == report["scores"]["reconstruction"]["nmse_db"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "fourier", "--method", "sgp-step"], "--model: expected a network for sgp-step, got none"),
        (["--task", "inpaint", "--rate", "1.5"], "--rate: expected a share in"),
        (["--task", "deblur", "--method", "unet", "--model", "missing.safetensors"], "no such file"),
    ],
)
def test_bad_input_is_one_line(images, tmp_path, capsys, arguments, message):
    assert main(["reconstruct", str(images / "0.png"), *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_damaged_networks_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="expected a network, got a damaged file"):
        step_models.load(path)
