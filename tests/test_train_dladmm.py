"""Training of D-LADMM: losses, resumption to the same bits, what a run leaves, and errors."""

import csv
import math
from pathlib import Path

import pytest
import torch
from zoo import dladmm_problem as problem
from zoo import small_coder

pytest.importorskip("skimage")

from skimage import data as samples

import fastrecon as fr
from fastrecon import io
from fastrecon.cli.main import main
from fastrecon.models.sparse_coding import SparseCoder
from fastrecon.solvers.base import take
from fastrecon.train import checkpoint
from fastrecon.train.dictionary import learn_dictionary
from fastrecon.train.loop import CHECKPOINT
from fastrecon.train.recipes import dladmm_loss, synthetic
from fastrecon.train.recipes.dladmm_base import SYNTHETIC, Config
from fastrecon.train.recipes.synthetic import Synthetic
from fastrecon.train.schedule import Schedule
from fastrecon.train.world import World

SMALL = ["--rows", "20", "--columns", "10", "--samples", "64", "--test-samples", "16", "--batch", "8", "--layers", "3"]


def train(folder, *options):
    return main(["train", "dladmm", "--out", str(folder), *options])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    folder = tmp_path_factory.mktemp("photos")
    camera = samples.camera().astype("float32") / 255
    for k in range(3):
        io.write_image(folder / f"{k}.png", camera[100 * k : 100 * k + 96, 150:278])
    return folder


def test_synthetic_run_leaves_model_card_figure_and_table(tmp_path):
    options = [
        "--problem",
        "sparse-coding",
        *SMALL,
        "--samples",
        "2000",
        "--steps",
        "300",
        "--lr",
        "2e-2",
        "--deep",
        "0.5",
    ]
    assert train(tmp_path, *options) == 0
    model = fr.load(tmp_path / "model.safetensors")
    assert model.solver.layers == 3
    rows = list(csv.DictReader((tmp_path / "nmse.csv").read_text().splitlines()))
    assert len(rows) == synthetic.ITERATIONS
    learned = [float(r["D-LADMM"]) for r in rows[:3]]
    assert learned[2] < learned[1] < learned[0]
    best = min(float(rows[2][f"LADMM, lam = {lam:g}"]) for lam in synthetic.LAMS)
    assert learned[2] < best  # 3 learned layers beat 3 iterations for every lam
    assert (tmp_path / "nmse.png").stat().st_size > 1000
    card = (tmp_path / "dladmm-sparse-coding.md").read_text()
    assert "fastrecon train dladmm --problem sparse-coding" in card
    assert f"NMSE {model.meta['training']['validation_nmse']} dB" in card


def test_help_names_what_a_problem_sets(capsys):
    assert main(["train", "dladmm", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for value in SYNTHETIC.values():
        assert (
            f"sparse-coding: {'yes' if value is True else f'{value:g}' if isinstance(value, float) else value}" in text
        )


def test_nmse_is_the_formula():
    _, classical, _ = problem()
    atoms = synthetic.random_dictionary(30, 12, 0)
    truth = synthetic.draw(atoms, 5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(truth.x, truth.z @ atoms.T + truth.e)
    s, _ = classical(truth.x, 9)
    ratio = ((s.z - truth.z).norm() / truth.z.norm()) ** 2 + ((s.e - truth.e).norm() / truth.e.norm()) ** 2
    assert synthetic.nmse(s, truth) == pytest.approx(10 * math.log10(ratio))


def test_gap_losses():
    network, classical, x = problem()
    lam, atoms = network.lam, network.a.atoms
    s, _ = classical.solve(x, tol=1e-7, iterations=5000)
    total = 0.0
    for z, e, dual, one in zip(s.z, s.e, s.dual, x, strict=True):
        total += lam * z.abs().sum() + e.abs().sum() + dual @ one
        for values, bound in ((atoms.T @ dual, lam), (dual, 1.0)):
            total += sum(math.log1p(math.exp(t - bound)) + math.log1p(math.exp(-t - bound)) for t in values.tolist())
    torch.testing.assert_close(dladmm_loss.gap(s, x, atoms, lam), total / x.numel())
    far = classical(x, 2)[0]
    literal = dladmm_loss.gap_literal(far, x, atoms, lam)
    each = [dladmm_loss.gap_literal(take(far, which), x[which], atoms, lam) for which in torch.arange(len(x))[:, None]]
    torch.testing.assert_close(literal, torch.stack(each).mean())


def test_weights_of_layers():
    rows = [torch.tensor(float(k)) for k in (1, 2, 4)]
    assert dladmm_loss.weighted(rows, 0.0) == 4
    assert dladmm_loss.weighted(rows, 1.0) == pytest.approx(7 / 3)
    assert dladmm_loss.weighted(rows, 0.5) == pytest.approx((0.25 + 1 + 4) / 1.75)


@pytest.mark.parametrize("loss", dladmm_loss.LOSSES)
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_every_loss_and_optimiser_goes_down(loss, optimiser):
    config = Config(
        "sparse-coding",
        rows=20,
        columns=10,
        samples=32,
        test_samples=8,
        batch=32,
        layers=3,
        loss=loss,
        deep=1.0,
        seed=3,
    )
    task = Synthetic(config, World(), Path())
    rate = {"adam": 3e-3, "sgd": {"supervised": 3e-2, "decibel": 1e-3}.get(loss, 0.3)}[optimiser]
    schedule = Schedule(30, rate, optimiser=optimiser)
    parameters = list(task.module.parameters())
    found = schedule.optimiser_of(parameters)
    x, truth = task.train.x, task.train
    losses = []
    for _ in range(30):
        found.zero_grad()
        value = dladmm_loss.weighted(task.layer_losses(x, truth), 1.0)
        value.backward()
        found.step()
        losses.append(value.item())
    assert losses[-1] < losses[0] - 1e-3 * abs(losses[0])


def test_learning_rates_may_be_halved():
    schedule = Schedule(100, 0.8, "halving", halve_every=30)
    assert [schedule.rate_at(k) for k in (0, 29, 30, 60, 99)] == [0.8, 0.8, 0.4, 0.2, 0.1]


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_resumed_run_has_the_same_bits(optimiser, tmp_path, monkeypatch):
    options = ["--problem", "sparse-coding", *SMALL, "--steps", "12", "--optimiser", optimiser, "--validate-every", "4"]
    assert train(tmp_path / "whole", *options) == 0

    loss, count = Synthetic.loss, []

    def interrupted(self):
        count.append(1)
        if len(count) == 6:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)
        return loss(self)

    monkeypatch.setattr(Synthetic, "loss", interrupted)
    assert train(tmp_path / "cut", *options) == 130
    monkeypatch.setattr(Synthetic, "loss", loss)
    assert checkpoint.load(tmp_path / "cut" / CHECKPOINT)["step"] == 6
    assert train(tmp_path / "cut", "--resume") == 0
    whole, cut = (checkpoint.load(tmp_path / name / CHECKPOINT)["task"]["module"] for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[k], cut[k]) for k in whole)


def test_constrained_run_stays_near_the_classical_weights(tmp_path):
    options = ["--problem", "sparse-coding", *SMALL, "--steps", "15", "--lr", "0.1", "--constrain", "--radius", "0.2"]
    assert train(tmp_path, *options) == 0
    solver = fr.load(tmp_path / "model.safetensors").solver
    centre = solver.classical.w1
    for w in solver.weights():
        assert torch.linalg.matrix_norm(w.w1 - centre, 2) <= 0.2 * torch.linalg.matrix_norm(centre, 2) * (1 + 1e-4)
        assert torch.linalg.matrix_norm(w.w1.T @ (w.beta[:, None] * solver.a.atoms), 2) < 1


def test_dictionary_has_unit_atoms_and_codes_its_patches(photos):
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand(400, 1, generator=generator) * torch.linspace(0, 1, 16) + 0.1 * torch.rand(400, 16)
    a = learn_dictionary(patches, 20, 0.05, 2.0, batch=64)
    assert a.shape == (16, 20)
    torch.testing.assert_close(a.norm(dim=0), torch.ones(20))
    torch.testing.assert_close(a[:, 0], torch.full((16,), 0.25))
    assert a[:, 1:].mean(0).abs().max() < 1e-5
    assert torch.equal(a, learn_dictionary(patches, 20, 0.05, 2.0, batch=64))
    with pytest.raises(ValueError, match="expected at least 1000 that are not flat, got 400 of 400"):
        learn_dictionary(patches, 500)


def test_denoising_run_and_its_commands(photos, tmp_path, capsys):
    options = [
        "--problem",
        "impulse",
        "--data",
        str(photos),
        "--patch",
        "8",
        "--atoms",
        "80",
        "--dictionary-patches",
        "3000",
    ]
    options += ["--layers", "6", "--steps", "300", "--batch", "64", "--lr", "0.05", "--validation", "0.3"]
    assert train(tmp_path / "run", *options) == 0
    path = tmp_path / "run" / "model.safetensors"
    image = photos / "0.png"
    out = str(tmp_path / "out")
    capsys.readouterr()
    shared = ["--problem", "impulse", "--share", "0.1"]
    methods = ["--methods", f"d-ladmm:model={path}", "--csv", f"{out}.csv"]
    assert main(["evaluate", *shared, "--data", str(image), *methods]) == 0
    before, after = csv.DictReader(Path(f"{out}.csv").read_text().splitlines())
    assert float(after["psnr"]) > float(before["psnr"]) + 6
    shared = ["reconstruct", *shared, "--simulate", str(image), "--model", str(path), "--out", out]
    assert main(shared) == 0
    assert "PSNR" in capsys.readouterr().out
    for name in ("0_reconstruction.png", "0_figure.png", "0_report.json"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    assert io.read_image(tmp_path / "out" / "0_reconstruction.png").pixels.shape == (96, 128)
    assert main([*shared, "--overwrite", "--rigorous", "--tol", "0.05", "--no-figure", "--json"]) == 0
    assert '"status": "converged"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "train: --problem: expected one of sparse-coding, impulse, got none"),
        (["--problem", "impulse"], "train: --data: expected folders of training images, got none"),
        (
            ["--task", "denoise"],
            "train: --task: expected --problem impulse, its name now, got --task denoise",
        ),
        (["--problem", "sparse-coding", "--layers", "0"], "train: --layers: expected an integer in [1, 1000], got 0"),
        (["--problem", "sparse-coding", "--share", "1.5"], "train: --share: expected a number in (0, 1), got 1.5"),
        (["--noise", "0.1"], "train: --noise: expected --share 0.1, its name now, got --noise 0.1"),
        (["--resume"], "train: resume: expected a checkpoint"),
    ],
)
def test_says_what_is_wrong(arguments, message, tmp_path, capsys):
    assert train(tmp_path / "run", *arguments) == 2
    assert message in capsys.readouterr().err


def test_models_of_other_tasks_are_refused(tmp_path, capsys):
    small_coder(SparseCoder).save(tmp_path / "small.safetensors")
    io.write_image(tmp_path / "photo.png", samples.camera()[:64, :64].astype("float32") / 255)
    shared = ["reconstruct", str(tmp_path / "photo.png"), "--simulate", "--out", str(tmp_path / "out")]
    assert main([*shared, "--model", str(tmp_path / "small.safetensors")]) == 2
    assert "expected a model for one of block-cs, " in capsys.readouterr().err
    for name in ("lda-cs-10", "lda-cs-25"):  # the default of the other problem, too
        assert main([*shared, "--problem", "impulse", "--model", name]) == 2
        assert "--model: expected a model for impulse, got one for block-cs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("recombine", [False, True])
def test_batches_obey_the_model(recombine):
    config = Config("sparse-coding", rows=20, columns=10, samples=32, test_samples=8, batch=64, recombine=recombine)
    task = Synthetic(config, World(), Path())
    x, truth = task.batch()
    torch.testing.assert_close(x, truth.z @ task.module.operator.atoms.T + truth.e)
    pairs = ((truth.z, task.train.z), (truth.e, task.train.e))
    same = [(mine[:, None].abs() == theirs.abs()).all(-1) for mine, theirs in pairs]
    assert bool((same[0] & same[1]).any(1).all()) is not recombine  # the pairs of the training samples, or new ones
