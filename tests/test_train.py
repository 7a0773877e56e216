"""Training of LDA for block compressed sensing: data, loop, checkpoints, several processes."""

import argparse
import csv
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from PIL import Image

import fastrecon as fr
from fastrecon.train import checkpoint, command
from fastrecon.train.block_start import least_squares_start
from fastrecon.train.images import Crops, Images
from fastrecon.train.loop import CHECKPOINT, Trainer
from fastrecon.train.recipes.lda_cs import PRESETS, RECIPE, Config, LdaCs
from fastrecon.train.recipes.warm_start import stages_of
from fastrecon.train.schedule import Schedule
from fastrecon.train.world import World

TINY = {
    "ratio": 25, "block": 8, "patch": 16, "batch": 4, "phases": 2, "stages": "1:0.5,2:0.5", "channels": 4, "layers": 2,
    "steps": 40, "lr": 5e-3, "warmup": 4, "clip": 1, "ema": 0.9, "validation": 0.3, "validate_every": 10,
    "start_blocks": 2000, "dtype": "float64",
}  # fmt: skip


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """Six small images of overlapping rectangles, grey and colour."""
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for k in range(6):
        grey = np.full(rng.integers(32, 48, 2), 128, dtype=np.uint8)
        for _ in range(12):
            (i, j), (h, w) = rng.integers(0, 40, 2), rng.integers(6, 24, 2)
            grey[i : i + h, j : j + w] = rng.integers(0, 256)
        Image.fromarray(np.dstack([grey] * 3) if k % 2 else grey).save(folder / f"{k}.png")
    return folder


def options(**changes) -> list[str]:
    return [word for name, value in changes.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def train(images: Path, out: Path, *extra: str, resume: bool = False) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser, RECIPE)
    start = ["--resume"] if resume else ["--data", str(images), *options(**TINY)]
    common = ["--out", str(out), "--threads", "1", "--device", "cpu"]
    return command.run(RECIPE, parser.parse_args([*start, *common, *extra]))


def untrained(images: Path, **changes) -> LdaCs:
    return LdaCs(Config([str(images)], **(TINY | changes)), World(), Path())


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same(a, b) -> None:
    """Equal to the last bit, tensors in nested dicts and lists included."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict | list):
        assert (list(a) if isinstance(a, dict) else len(a)) == (list(b) if isinstance(b, dict) else len(b))
        for k in a if isinstance(a, dict) else range(len(a)):
            assert_same(a[k], b[k])
    else:
        assert a == b


def interrupt_at(monkeypatch, step: int) -> None:
    """Ctrl-C in the middle of a step."""
    loss = LdaCs.loss
    calls = iter(range(1, 10**6))

    def interrupted(self):
        if next(calls) == step:
            signal.raise_signal(signal.SIGINT)
        return loss(self)

    monkeypatch.setattr(LdaCs, "seconds", lambda self: 1.0)
    monkeypatch.setattr(LdaCs, "loss", interrupted)


def test_training_improves_on_the_start_and_writes_a_model(images, tmp_path):
    changes = {"steps": 200, "validate_every": 50, "channels": 8, "layers": 3, "phases": 3, "stages": "3:1"}
    assert train(images, tmp_path, *options(**changes)) == 0
    log = rows(tmp_path)
    assert float(log[-1]["loss"]) < 0.5 * float(log[0]["loss"])
    model = fr.load(str(tmp_path / "model.safetensors"))
    assert model.solver.phases == 3
    x = torch.stack([i[:32, :32] for i in Images.load([images]).training])[:, None].double()
    y = model.operator(x)
    assert fr.metrics.psnr(model(y).x, x).mean() > fr.metrics.psnr(model.start(y), x).mean() + 0.5
    torch.testing.assert_close(model.operator.phi @ model.q, torch.eye(16, dtype=torch.float64))
    training = model.meta["training"]
    assert training["validation_psnr"] == pytest.approx(max(float(r["validation_psnr"] or 0) for r in log), abs=1e-3)
    card = (tmp_path / "lda-cs-25.md").read_text()
    assert training["command"] in card
    assert str(images) not in card + str(model.meta)  # folders by name only: nothing of the machine goes into a model


@pytest.mark.parametrize("step", [7, 20, 33], ids=["x = u", "before growth", "after growth"])
def test_interrupted_run_resumes_to_the_same_bits(step, images, tmp_path, monkeypatch, capsys):
    assert train(images, tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        assert train(images, tmp_path / "cut") == 130
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"interrupted after step {step} of 40")
    assert line.endswith(f"fastrecon train lda-cs --out {tmp_path / 'cut'} --resume")
    assert checkpoint.load(tmp_path / "cut" / CHECKPOINT)["step"] == step
    assert not [p for p in (tmp_path / "cut").iterdir() if "tmp" in p.name]
    assert train(images, tmp_path / "cut", resume=True) == 0
    whole, cut = (checkpoint.load(tmp_path / name / CHECKPOINT) for name in ("whole", "cut"))
    for state in (whole, cut):
        del state["seconds"]
    assert_same(cut, whole)
    logs = [[{**r, "seconds": ""} for r in rows(tmp_path / name)] for name in ("whole", "cut")]
    assert logs[0] == logs[1]


def test_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / CHECKPOINT
    checkpoint.save(path, {"a": [torch.arange(3), 0.1, None], 5: "five"})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, {"a": 1})
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]
    assert_same(checkpoint.load(path), {"a": [torch.arange(3), 0.1, None], 5: "five"})


def test_two_processes_equal_one(images, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fastrecon"]
    command = [
        "train",
        "lda-cs",
        "--data",
        str(images),
        *options(**TINY),
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "two"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, *command], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert train(images, tmp_path / "one") == 0
    one, two = (checkpoint.load(tmp_path / name / CHECKPOINT)["task"]["module"] for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=1e-8, atol=1e-10)
    assert len(rows(tmp_path / "two")) == len(rows(tmp_path / "one"))


def test_network_grows_by_copies_and_keeps_what_adam_knows(images):
    task = untrained(images, phases=3, stages="1:1,3:1", steps=8)
    trainer = Trainer(task, Schedule(8, 1e-2, ema=0.9), {})
    for _ in range(4):
        trainer.update()
    moments, average = trainer.moments(), trainer.average
    tau = task.module.solver.tau.detach()
    assert abs(tau.item() - 0.1) > 1e-3
    assert task.begin_step(4)
    trainer.rebuild()
    assert torch.equal(task.module.solver.tau.detach(), tau.expand(3))
    weights = [n for n in moments if "weights" in n]
    assert len(weights) == 2
    assert_same({n: trainer.moments()[n] for n in weights}, {n: moments[n] for n in weights})
    assert_same({n: trainer.average[n] for n in weights}, {n: average[n] for n in weights})
    assert not [n for n in trainer.moments() if "tau" in n]


def test_start_from_another_model_keeps_the_own_sampling(images, tmp_path):
    assert train(images, tmp_path, "--steps", "4") == 0
    init = str(tmp_path / "model.safetensors")
    task = untrained(images, ratio=50, phases=3, stages="3:1", init=init)
    assert task.module.operator.phi.shape == (32, 64)
    theirs, ours = (model.solver.tau.detach() for model in (fr.load(init), task.module))
    torch.testing.assert_close(ours, torch.cat([theirs, theirs[-1:]]))
    with pytest.raises(ValueError, match=r"train: --init: expected a model with .*weights"):
        untrained(images, stages="2:1", channels=5, init=init)


def test_crops_are_symmetric_copies_of_image_parts_and_shared_out():
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.rand(size, generator=generator) for size in ((9, 7), (5, 12), (3, 20))]
    crops = Crops(pictures, 5, seed=1)
    assert (crops.count, crops.skipped) == (2, 1)
    state = crops.state_dict()
    batch = crops(4000)
    parts = [p.unfold(0, 5, 1).unfold(1, 5, 1).flatten(0, 1) for p in pictures[:2]]
    turned = torch.cat([torch.rot90(q, k, (1, 2)) for q in (torch.cat(parts), torch.cat(parts).mT) for k in range(4)])
    distance = torch.cdist(batch.flatten(1), turned.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    counts = torch.bincount(distance.argmin(1), minlength=len(turned))
    assert distance.min(1).values.max() == 0
    assert ((counts - 4000 / len(turned)).abs() < 5 * (4000 / len(turned)) ** 0.5).all()  # uniform: 8 x (5 x 3 + 1 x 8)
    shares = []
    for rank in range(2):
        crops.load_state_dict(state)
        shares.append(crops(4000, rank, 2))
    assert torch.equal(torch.stack(shares, 1).flatten(0, 1), batch)


def test_least_squares_start_is_the_best_and_inverts_the_sampling():
    x = torch.randn(16, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(0)
    phi = fr.operators.random_phi(5, 16, 0)
    q = least_squares_start(phi, x @ x.T / 200, ridge=1e-12)
    torch.testing.assert_close(phi @ q, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(q, torch.linalg.lstsq((phi @ x).T, x.T).solution.T, rtol=1e-8, atol=1e-8)
    flat = least_squares_start(phi, torch.ones(16, 16, dtype=torch.float64))  # blocks of one grey: rank 1
    torch.testing.assert_close(phi @ flat, torch.eye(5, dtype=torch.float64))


def test_stages_and_rates():
    stages = stages_of(Config(["x"], phases=7, stages="3:1:0.5,5:1:0,7:2", steps=100, select_from=0.25))
    assert [(s.phases, s.begin, s.select, s.end) for s in stages] == [(3, 0, 12, 25), (5, 25, 25, 50), (7, 50, 62, 100)]
    cosine = Schedule(100, 2.0, warmup=10)
    assert [cosine.rate_at(k) for k in (0, 50)] == pytest.approx([0.2, 1.0])
    assert 0 < cosine.rate_at(99) < 1e-3
    assert Schedule(100, 2.0, "constant").rate_at(99) == 2.0
    paper = stages_of(Config(["x"], **PRESETS["paper"]))
    assert [s.end - s.begin for s in paper] == [500 * 1389] + [200 * 1389] * 6
    assert [s.select - s.begin for s in paper] == [100 * 1389] * 7


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--data", "{none}"], "no such file"),
        (["--data", "{empty}"], "expected a folder with files"),
        (["--data", "{corrupt}"], r"bad\.png: expected a readable image"),
        (["--patch", "20"], "--patch: expected a multiple of 8, the --block, got 20"),
        (["--patch", "64"], "patch: expected images of at least 64x64 pixels"),
        (["--stages", "3:1,2:1"], "--stages: expected PHASES:SHARE"),
        (["--stages", "1:inf,2:1"], "--stages: expected PHASES:SHARE"),
        (["--stages", "1:1"], "--stages: expected the last to have --phases 2"),
        (["--ratio", "0"], "--ratio: expected a number in"),
        (["--init", "no-such-model"], "no-such-model"),
        (["--device", "tpu"], "--device: expected cpu, cuda"),
    ],
    ids=lambda v: v[0][2:] + v[1].strip("{}") if isinstance(v, list) else "",
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(extra, message, images, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "corrupt").mkdir()
    (tmp_path / "corrupt" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    places = {name: tmp_path / name for name in ("none", "empty", "corrupt")}
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        train(images, tmp_path / "out", *(o.format(**places) for o in extra))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_bad_resumption_is_one_clear_line(images, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match="resume: expected a checkpoint"):
        train(images, out, resume=True)
    assert train(images, out, "--steps", "4") == 0
    with pytest.raises(ValueError, match="--out: expected a new folder, or --resume to continue"):
        train(images, out)
    with pytest.raises(ValueError, match=r"--batch: expected 4 as in the checkpoint, got 8"):
        train(images, out, "--batch", "8", resume=True)
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for name in ("0.png", "1.png", "2.png"):
        (fewer / name).write_bytes((images / name).read_bytes())
    with pytest.raises(ValueError, match="--data: expected the images of the checkpoint"):
        train(images, out, "--data", str(fewer), resume=True)
    whole = (out / CHECKPOINT).read_bytes()
    for damaged in (b"", whole[:5], whole[: len(whole) // 2], b"x" * 1000):
        (out / CHECKPOINT).write_bytes(damaged)
        with pytest.raises(ValueError, match="resume: expected a whole 'fastrecon checkpoint 2'") as error:
            train(images, out, resume=True)
        assert "\n" not in str(error.value)


def test_infinite_loss_stops_the_run_and_keeps_the_checkpoint(images, tmp_path, monkeypatch):
    loss, calls = LdaCs.loss, iter(range(10**6))
    monkeypatch.setattr(LdaCs, "seconds", lambda self: 1.0)
    monkeypatch.setattr(LdaCs, "loss", lambda self: loss(self) * (math.inf if next(calls) == 13 else 1))
    with pytest.raises(
        RuntimeError,
        match=r"the loss became .* before step 20: .* is from before: go on with --resume and a lower --lr than 0.005",
    ):
        train(images, tmp_path)
    state = checkpoint.load(tmp_path / CHECKPOINT)
    assert state["step"] == 10
    assert all(torch.isfinite(t).all() for t in state["task"]["module"].values())


def test_images_of_scikit_image_are_data_too():
    (image,) = Images.load(["skimage:camera"]).training
    assert image.shape == (512, 512)
