"""Training of a prior: that it learns, what it starts from and leaves, resumption to the same bits, errors."""

import csv
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("skimage")

from skimage import data as samples

import fastrecon as fr
from fastrecon import io, zoo
from fastrecon.cli.main import main
from fastrecon.models import PriorModel
from fastrecon.operators import Identity
from fastrecon.train import checkpoint
from fastrecon.train.loop import CHECKPOINT
from fastrecon.train.recipes.prior import Config, Learned, Prior
from fastrecon.train.world import World

TINY = {
    "sigmas": (0.05, 0.2), "focus": 0.1, "channels": 4, "layers": 2, "delta": 0.05, "eps": 0.02, "steps": 12,
    "batch": 4, "patch": 16, "lr": 5e-3, "warmup": 2, "ema": 0.5, "validation": 0.4, "validate_every": 4,
    "precision": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    camera = samples.camera().astype("float32") / 255
    for k in range(3):
        io.write_image(folder / f"{k}.png", camera[100 * k : 100 * k + 64, 200:264])
    return folder


def words(**changes) -> list[str]:
    found = []
    for name, value in (TINY | changes).items():
        found += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    return found


def train(photos: Path, out: Path, *extra: str, **changes) -> int:
    where = ["--out", str(out), "--threads", "1", "--device", "cpu"]
    return main(["train", "prior", "--data", str(photos), *where, *words(**changes), *extra])


def untrained(photos: Path, **changes) -> Prior:
    return Prior(Config([str(photos)], **(TINY | changes)), World(), Path())


def column_of(out: Path, name: str) -> list[float]:
    with (out / "log.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def test_a_run_learns_and_leaves_a_prior_that_denoises(photos, tmp_path):
    assert train(photos, tmp_path, steps=80, validate_every=20, factors=("ct=0.25",)) == 0
    scores = column_of(tmp_path, "validation_psnr")
    assert scores[-1] > scores[0] + 0.3
    model = fr.load(tmp_path / "model.safetensors")
    assert isinstance(model, PriorModel)
    assert model.fits == {"ct": (math.log(0.25), 0.0)}
    assert model.meta["training"]["command"].startswith("fastrecon train prior ")
    assert "0.05 to 0.2" in (tmp_path / "prior.md").read_text()
    clean = torch.from_numpy(io.read_image(photos / "0.png").pixels)[None, None]
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    found = model(noisy, Identity(), noise=0.1)
    assert (found.x - clean).square().mean() < 0.7 * (noisy - clean).square().mean()
    assert found.report.converged.all()


def test_a_run_goes_on_to_the_same_bits(photos, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(photos, whole) == 0
    objective = untrained(photos)
    assert train(photos, parts, steps=12, validate_every=4) == 0
    # from the checkpoint at step 8
    kept = checkpoint.load(parts / checkpoint.PREVIOUS)
    checkpoint.save(parts / CHECKPOINT, kept)
    assert main(["train", "prior", "--out", str(parts), "--resume", "--threads", "1", "--device", "cpu"]) == 0
    a, b = (fr.load(folder / "model.safetensors") for folder in (whole, parts))
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not torch.equal(a.regulariser.weights[0], objective.module.regulariser.weights[0])


def test_a_run_goes_on_without_the_model_that_it_started_from(photos, tmp_path):
    first, run = tmp_path / "first.safetensors", tmp_path / "run"
    meta = {"name": "first", "training": {"command": "", "settings": {}}}
    untrained(photos, channels=6, layers=3, delta=0.2).module.model(meta).save(first)
    assert train(photos, run, init=str(first)) == 0
    whole = fr.load(run / "model.safetensors")
    checkpoint.save(run / CHECKPOINT, checkpoint.load(run / checkpoint.PREVIOUS))
    first.unlink()
    assert main(["train", "prior", "--out", str(run), "--resume", "--threads", "1", "--device", "cpu"]) == 0
    again = fr.load(run / "model.safetensors")
    assert again.hyperparameters() == whole.hyperparameters()
    assert all(torch.equal(p, q) for p, q in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_lam_is_linear_in_logarithms_as_the_model_has_it(photos):
    learned = untrained(photos, patches=0.3).module
    assert isinstance(learned, Learned)
    sigma, x = torch.tensor([0.05, 0.08, 0.1, 0.2]), zoo.scenes(4, 16, 16)
    model = learned.model({})
    assert math.isclose(model.regulariser.eps, 0.02, rel_tol=1e-5)
    value, grad = learned.both(sigma, "float32", learn=False)(x)
    expected = model.term(*model.weights(sigma)).evaluate(x)
    torch.testing.assert_close(value.double(), expected.value, rtol=1e-5, atol=0)
    torch.testing.assert_close(grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_it_starts_from_the_regulariser_of_lda_or_of_a_prior(photos, tmp_path):
    lda = untrained(photos, init="lda-cs-50").module.regulariser
    torch.testing.assert_close(lda.weights[0], fr.load("lda-cs-50").solver.regulariser.weights[0])
    model = untrained(photos).module.model({"name": "before", "training": {"command": "", "settings": {}}})
    model.save(tmp_path / "before.safetensors")
    again = untrained(photos, init=str(tmp_path / "before.safetensors"), eps=0.0).module
    found = again.model({})
    torch.testing.assert_close(found.lams, model.lams, rtol=1e-5, atol=0)
    assert math.isclose(found.regulariser.eps, 0.02, rel_tol=1e-5)


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_processes_share_a_batch(photos, missing):
    whole = untrained(photos, batch=8, missing=missing).batch()
    assert [len(lower.clean) for lower in whole] == ([4, 4] if missing else [8])
    for rank in range(2):
        one = untrained(photos, batch=8, missing=missing)
        one.world = World(rank=rank, size=2)
        for mine, all_of_them in zip(one.batch(), whole, strict=True):
            assert torch.equal(mine.clean, all_of_them.clean[rank::2])
            assert torch.equal(mine.sigma, all_of_them.sigma[rank::2])
            if mine.bent:  # which pixels are missing follows from the seeds, what is missing from the place
                assert torch.equal(mine.start, all_of_them.start[rank::2])


def test_images_without_noise_teach_too(photos, tmp_path):
    objective = untrained(photos, missing=0.5, iterations=200, tol=0.05)
    for w in objective.module.parameters():
        w.grad = None
    _, completed = objective.batch()
    _, upper = objective._loss(completed)
    upper.mean().backward()
    assert all(bool(w.grad.any()) for w in objective.module.regulariser.weights)
    assert train(photos, tmp_path, missing=0.5, kept=(0.3, 0.6)) == 0
    assert all(math.isfinite(v) for v in column_of(tmp_path, "validation_psnr"))


def test_an_image_that_did_not_converge_teaches_nothing(photos):
    objective = untrained(photos, iterations=1, tol=1e-6, floor=0.0, ceiling=1e6)
    objective.loss().backward()
    assert all(not w.grad.any() for w in objective.module.regulariser.weights)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"sigmas": (0.2, 0.1)}, "--sigmas: expected ascending numbers > 0"),
        ({"sigmas": (0.0, 0.1)}, "--sigmas: expected ascending numbers > 0"),
        ({"init": "sgp-step-inpaint"}, "--init: expected a prior or a model of LDA"),
        ({"patch": 100}, "patch: expected images of at least 100x100 pixels"),
        ({"products": 0}, "--products"),
        ({"missing": 1.0}, "--missing"),
        ({"kept": (0.6, 0.3)}, "--kept: expected two shares in (0, 1), the least first"),
        ({"factors": ("ct=0",)}, "--factors: expected a number > 0"),
        ({"factors": ("sun=1",)}, "--factors: expected one of"),
    ],
)
def test_bad_settings_are_one_line(photos, tmp_path, capsys, changes, line):
    assert train(photos, tmp_path, **changes) == 2
    error = capsys.readouterr().err.strip()
    assert line in error
    assert "\n" not in error.splitlines()[-1]
