"""Deconvolution of slopes as a problem: simulated, read, put together to pictures; its tables; greedy training."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import fastrecon as fr
from fastrecon import io
from fastrecon.cli.main import main
from fastrecon.cli.tables import slopes
from fastrecon.models.padnet import PADNetModel, Settings
from fastrecon.networks import RBFUnit
from fastrecon.operators import Blur, Gradient, gaussian_kernel, motion_kernel
from fastrecon.problems import PROBLEMS, file
from fastrecon.problems.slopes import tapered
from fastrecon.solvers import PADNet
from fastrecon.train import checkpoint
from fastrecon.train.loop import CHECKPOINT
from fastrecon.train.recipes.padnet_gradient import Config, Greedy
from fastrecon.train.world import World

SLOPES = PROBLEMS["slopes"]
TINY = {
    "images": 4, "held": 2, "side": 32, "kernels": "3 5", "units": 4, "most": 2, "steps": 3, "batch": 2, "patch": 12,
    "filters": 3, "width": 3, "threads": 1, "device": "cpu",
}  # fmt: skip


def picture(*shape, path="p.png"):
    """Smooth, with an edge."""
    rows, columns = (np.linspace(0, 1, n, dtype=np.float32) for n in shape[:2])
    a = 0.5 + 0.2 * np.sin(9 * rows)[:, None] * np.cos(7 * columns) + 0.2 * (rows[:, None] > columns)
    return io.Picture(np.stack([a, a.T.copy().T, 1 - a], -1) if len(shape) == 3 else a, Path(path), io.Form())


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for k in range(6):
        a = picture(32, 36 + k).pixels
        io.write_image(folder / f"{k}.png", np.roll(a, 5 * k, 1).clip(0, 1))
    return folder


def small(tmp_path: Path) -> Path:
    """An untrained model."""
    torch.manual_seed(0)
    meta = {"name": "m", "training": {"settings": {"lr": 1.0}, "hours": 0, "processes": 1, "command": "none"}}
    model = PADNetModel([[RBFUnit(2, 3, 3, 11)]], "slopes", Settings(variant="implicit", mu=0.01, rho=0.02), meta)
    model.save(tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.mark.parametrize("shape", [(24, 30), (25, 21, 3)], ids=str)
def test_measurements_are_the_slopes_of_the_blurred_picture(shape):
    m = SLOPES.simulate(picture(*shape), SLOPES.Options(kernel_side=5, noise=0.0), 3)
    assert m.y.shape == (len(shape) * 2 - 3 if len(shape) == 3 else 1, 2, *shape[:2])
    truth = Gradient()(m.truth)
    torch.testing.assert_close(SLOPES.operator(m)(truth), m.y, rtol=0, atol=1e-6)
    assert torch.equal(SLOPES.start(m), m.y)
    assert torch.equal(m.tensor("kernel"), motion_kernel(5, 3))


def test_a_picture_comes_of_its_slopes():
    m = SLOPES.simulate(picture(24, 30), SLOPES.Options(kernel_side=5, noise=0.0), 1)
    x = SLOPES.images(Gradient()(m.truth), m)
    torch.testing.assert_close(x, m.truth, rtol=0, atol=1e-3)
    found = SLOPES.scores(Gradient()(m.truth), m)
    assert found["psnr"] > 55
    assert found["slope_error"] == 0
    assert SLOPES.scores(torch.zeros_like(m.y), m)["slope_error"] == pytest.approx(1)
    assert SLOPES.pixels(m.y, m).shape == (24, 30)


def test_photographs_are_read_with_their_kernel(tmp_path):
    np.save(tmp_path / "k.npy", gaussian_kernel(1.0, 5).numpy())
    io.write_image(tmp_path / "photo.png", picture(24, 30).pixels)
    m = SLOPES.read(tmp_path / "photo.png", SLOPES.Options(kernel=str(tmp_path / "k.npy"), noise=0.02))
    assert (m.size, m.noise) == ((24, 30), 0.02)
    assert any("edges" in note for note in m.notes)
    with pytest.raises(ValueError, match="slopes: --kernel: expected the blur, a file, got none"):
        SLOPES.read(tmp_path / "photo.png", SLOPES.Options())
    with pytest.raises(ValueError, match="slopes: --kernel-side: expected an odd number, got 4"):
        SLOPES.Options(kernel_side=4)
    with pytest.raises(ValueError, match="slopes: --kernel-side: expected one within a picture of 8x9 pixels, got 19"):
        SLOPES.simulate(picture(8, 9), SLOPES.Options())
    io.write_image(tmp_path / "small.png", picture(4, 30).pixels)
    with pytest.raises(ValueError, match="slopes: --kernel: expected one no larger than the 4x30 picture, got 5x5"):
        SLOPES.read(tmp_path / "small.png", SLOPES.Options(kernel=str(tmp_path / "k.npy")))


def test_tapering_leaves_the_middle_and_joins_the_edges():
    x = torch.from_numpy(picture(40, 40).pixels)[None, None] + torch.linspace(0, 1, 40)
    kernel = gaussian_kernel(1.5, 9)
    y = tapered(x, kernel)
    torch.testing.assert_close(y[..., 9:-9, 9:-9], x[..., 9:-9, 9:-9], rtol=0, atol=1e-6)
    jump = lambda t: (t[..., 0] - t[..., -1]).abs().mean()  # noqa: E731
    assert jump(y) < 0.5 * jump(x)
    torch.testing.assert_close(tapered(x, torch.ones(1, 1)), x, rtol=0, atol=1e-5)


def test_measurements_in_files(tmp_path):
    m = SLOPES.simulate(picture(24, 30), SLOPES.Options(kernel_side=5), 1)
    file.write(tmp_path / "m.npz", m)
    again = file.measured(SLOPES, tmp_path / "m.npz", SLOPES.Options())
    assert torch.equal(again.y, m.y)
    assert torch.equal(again.tensor("photo"), m.tensor("photo"))


def test_reconstruct_and_evaluate(images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # a figure has no room for the whole path of a model
    model = small(tmp_path).name
    words = f"{images}/0.png --simulate --problem slopes --kernel-side 5 --model {model} --out {tmp_path}/r --json"
    assert main(["reconstruct", *words.split()]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["method"] == "padnet"
    assert told["scores"]["reconstruction"]["slope_error"] > 0
    assert (tmp_path / "r" / "0_reconstruction.png").exists()
    words = f"--data {images}/0.png --problem slopes --kernel-side 5 --methods padnet:model={model} --json --out e"
    assert main(["evaluate", *words.split()]) == 0
    assert "slope_error" in capsys.readouterr().out


def test_table_and_figure(images, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(slopes, "SIDES", (5,))
    monkeypatch.setattr(slopes, "ITERATIONS", 4)
    model = small(tmp_path)
    for name, count in (("padnet-table1", 15 + 18), ("padnet-fig1", 6)):
        words = f"{name} --data {images}/0.png --model {model} --out {tmp_path}/{name} --json"
        assert main(["reproduce", *words.split()]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["failed"] == []
        assert len(told["rows"]) == count
        assert (tmp_path / name / "table.png").stat().st_size > 1000
    text = (tmp_path / "padnet-table1" / "table.md").read_text()
    assert "| p = 0.8, paper | 1.0000 | 1.2069 | 1.2215 | 0.4291 | **0.4140** | - |" in text
    assert "Iterations, at most" in text


def train(images: Path, out: Path, *more: str, **changes: object) -> int:
    words = [w for k, v in (TINY | changes).items() for w in (f"--{k}", *str(v).split())]
    return main(["train", "padnet-gradient", "--data", str(images), "--out", str(out), *words, *more])


def modules(out: Path) -> dict[str, Tensor]:
    return checkpoint.load(out / CHECKPOINT)["task"]["module"]


@pytest.mark.parametrize("variant", ["implicit", "explicit"])
def test_greedy_training(variant, images, tmp_path):
    assert train(images, tmp_path / "a", variant=variant, mu=0.5) == 0
    model = fr.load(tmp_path / "a" / "model.safetensors")
    assert (model.method, model.problem, model.settings.variant) == ("padnet", "slopes", variant)
    assert sum(len(row) for row in model.order) == 4
    assert all(1 <= len(row) <= 2 for row in model.order)
    assert "fastrecon train padnet-gradient" in (tmp_path / "a" / "padnet-gradient.md").read_text()


def test_earlier_units_are_constants_and_resuming_gives_the_same_bits(images, tmp_path, monkeypatch):
    assert train(images, tmp_path / "whole") == 0
    loss, calls = Greedy.loss, iter(range(100))

    def interrupted(self):
        if next(calls) == 7:  # the second step of the third unit
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self)

    monkeypatch.setattr(Greedy, "loss", interrupted)
    assert train(images, tmp_path / "cut") == 130
    monkeypatch.setattr(Greedy, "loss", loss)
    early = modules(tmp_path / "cut")
    assert main(["train", "padnet-gradient", "--resume", "--out", str(tmp_path / "cut")]) == 0
    whole, cut = modules(tmp_path / "whole"), modules(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[k], cut[k]) for k in whole)
    assert all(torch.equal(early[k], cut[k]) for k in early if k.startswith(("0.", "1.")))


def test_an_iteration_ends_where_its_test_accepts(images, tmp_path, monkeypatch):
    """Where every point is accepted each iteration has one unit; where none is, as many as are allowed."""
    common = {"images": 3, "held": 1, "side": 24, "kernels": (3, 3), "patch": 8, "filters": 2, "width": 3, "steps": 1}
    config = Config(data=(str(images),), units=4, most=3, variant="explicit", mu=1 / 0.99, **common)
    original = PADNet.judged
    for good, rows in ((True, [1, 1, 1, 1]), (False, [3, 1])):

        def judged(self, s, u, v, least, share=1.0, good=good):
            return original(self, s, u, v, least, share)[0], torch.full((len(v),), good)

        monkeypatch.setattr(PADNet, "judged", judged)
        greedy = Greedy(config, World(), tmp_path)
        for k in range(1, 4):
            assert greedy.begin_step(k)
        assert greedy.rows == rows
        trained = [p.requires_grad for p in greedy.module.parameters()]
        assert trained == [False] * 6 + [True] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernels": (4, 9)}, "train: --kernels: expected two odd numbers"),
        ({"width": 4}, "train: --width: expected an odd number, got 4"),
        ({"patch": 180}, "train: --patch: expected one with 4 pixels around it in --side, got 180"),
    ],
)
def test_training_says_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(data=("x",), **changes)


def test_blur_of_random_kernels_has_the_norm_one():
    """The recipe's step of the proximal gradient counts on it."""
    assert Blur(motion_kernel(9, 2)).norm((1, 1, 24, 24)) == pytest.approx(1)
