"""The command line, in-process: what each command writes and says, and one line for everything that is wrong."""

import argparse
import csv
import errno
import json
import os
import resource
import subprocess
import sys
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

from PIL import Image
from safetensors.torch import save_file

import fastrecon as fr
from fastrecon import io
from fastrecon.cli import bench, info
from fastrecon.cli import main as cli
from fastrecon.models import BlockSensingModel
from fastrecon.operators import BlockSensing, random_phi
from fastrecon.solvers import LDA, GDNet

BLOCK, SIZE = 8, (21, 30)


def save_model(path: Path, m: int = 32, kind=LDA, seed: int = 0) -> None:
    """Total variation as a model: two features, the forward differences."""
    phi = random_phi(m, BLOCK**2, seed)
    operator = BlockSensing(phi.float(), BLOCK)
    solver = kind(operator, 3, 2, 1, alpha=0.9, eps0=0.002)
    kernel = torch.zeros(2, 1, 3, 3)
    kernel[:, 0, 1, 1], kernel[0, 0, 1, 2], kernel[1, 0, 2, 1] = -0.01, 0.01, 0.01
    solver.regulariser.weights[0].data = kernel
    i, j = np.mgrid[:BLOCK, :BLOCK].reshape(2, -1)
    covariance = torch.from_numpy(0.98 ** np.hypot(i[:, None] - i, j[:, None] - j))
    q = covariance @ phi.T @ torch.linalg.inv(phi @ covariance @ phi.T)
    meta = {"ratio": 100 * m / BLOCK**2, "name": f"tv-{m}", "phi_seed": seed}
    BlockSensingModel(operator, solver, q.float(), meta).save(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with models and images, which no test changes."""
    folder = tmp_path_factory.mktemp("place")
    save_model(folder / "tv.safetensors")
    save_model(folder / "other-ratio.safetensors", m=16)
    save_model(folder / "other-phi.safetensors", seed=1)
    save_model(folder / "gd-net.safetensors", kind=GDNet)
    (folder / "images").mkdir()
    i, j = np.mgrid[: SIZE[0], : SIZE[1]]
    disc = 0.2 + 0.6 * ((i - 10) ** 2 + (j - 12) ** 2 < 50)
    io.write_image(folder / "images" / "disc.png", disc, 16)
    colour = np.stack([disc, 1 - disc, 0.5 + 0 * disc], 2)
    Image.fromarray((255 * colour).astype(np.uint8)).save(folder / "images" / "colour.png")
    return folder


@pytest.fixture
def run(capsys, place, monkeypatch):
    """Runs a command; returns its status, stdout and stderr. {words} are paths in `place`."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def call(command: str, *more: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main([*command.replace("@", f"{place}/").split(), *map(str, more)])
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def fails(run):
    """Runs a command that must fail with status 2 and one line, which holds all of `words`."""

    def call(command: str, *more: object, words: tuple[str, ...]) -> None:
        status, out, err = run(command, *more)
        assert (status, out) == (2, "")
        assert err.startswith("fastrecon: ")
        assert err.count("\n") == 1
        for word in words:
            assert word in err

    return call


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def ok(result: tuple[int, str, str]) -> str:
    status, out, err = result
    assert (status, err) == (0, "")
    return out


# What the commands do


@pytest.mark.parametrize("command", ["", *cli.COMMANDS, "train lda-cs"])
def test_help_has_examples(run, command):
    text = ok(run(f"{command} --help"))
    assert "usage: fastrecon" in text
    assert "examples:" in text


def test_version(run):
    assert ok(run("--version")) == f"fastrecon {fr.__version__}\n"


def test_simulate_and_reconstruct_equal_the_library(run, place, tmp_path):
    model, image = fr.load(place / "tv.safetensors"), io.read_image(place / "images" / "disc.png")
    y = model.operator(torch.from_numpy(image.pixels)[None, None])
    for form in ("npz", "safetensors"):
        text = ok(run(f"simulate @images/disc.png --model @tv.safetensors --format {form} --out", tmp_path))
        assert "3 x 4 blocks, 32 numbers each" in text
        m = io.read_measurements(tmp_path / f"disc.{form}")
        assert m.size == SIZE
        np.testing.assert_array_equal(m.y, y[0].numpy())
        # the model is the one that the measurements name
        ok(run("reconstruct", tmp_path / f"disc.{form}", "--bits", "32", "--out", tmp_path / form))
        found = io.read_image(tmp_path / form / "disc_reconstruction.tif").pixels
        np.testing.assert_array_equal(found, model(y, size=SIZE).x[0, 0].numpy())


def test_noise_has_its_deviation_and_its_seed(place):
    model, pixels = fr.load(place / "tv.safetensors"), np.full((80, 80), 0.5, np.float32)
    clean, noisy, again, other = (cs.simulate(model, pixels, *a).y for a in ((0,), (0.1, 1), (0.1, 1), (0.1, 2)))
    np.testing.assert_array_equal(noisy, again)
    assert abs(noisy - other).max() > 0.01
    assert (noisy - clean).std() == pytest.approx(0.1, rel=0.1)


def test_reconstruct_writes_everything(run, tmp_path):
    text = ok(run("reconstruct @images --simulate --model @tv.safetensors --maps --out", tmp_path))
    kinds = ("figure.png", "maps.png", "reconstruction.png", "report.json")
    assert names(tmp_path) == [f"{stem}_{kind}" for stem in ("colour", "disc") for kind in kinds]
    assert "RGB converted to grey" in text
    report = json.loads((tmp_path / "disc_report.json").read_text())
    x, ref = (
        torch.from_numpy(io.read_image(p).pixels)[None, None]
        for p in (report["files"]["reconstruction"], report["input"])
    )
    assert report["scores"]["reconstruction"]["psnr"] == pytest.approx(fr.metrics.psnr(x, ref).item(), abs=0.05)
    assert report["scores"]["reconstruction"]["psnr"] > report["scores"]["start"]["psnr"]
    certificate = report["certificate"]
    assert certificate["status"] == "trained phases only"
    assert certificate["merit"] == pytest.approx(certificate["phi_eps"] + SIZE[0] * SIZE[1] * certificate["eps"] / 2)
    assert [len(report["history"][k]) for k in ("phi_eps", "merit", "grad_norm", "eps")] == [
        4
    ] * 4  # start and 3 phases


def test_reconstruct_json_is_the_report(run, tmp_path):
    (told,) = json.loads(
        ok(run("reconstruct @images/disc.png --simulate --model @tv.safetensors --no-figure --json --out", tmp_path))
    )
    assert names(tmp_path) == ["disc_reconstruction.png", "disc_report.json"]
    written = json.loads((tmp_path / "disc_report.json").read_text())
    assert told | {"history": written["history"]} == written


def test_rigorous_run_converges_and_says_so(run, tmp_path):
    command = "reconstruct @images/disc.png --simulate --model @tv.safetensors --rigorous --tol 0.05 --out"
    text = ok(run(command, tmp_path))
    assert "converged" in text
    assert "merit never increased" in text
    assert "disc_convergence.png" in names(tmp_path)
    report = json.loads((tmp_path / "disc_report.json").read_text())
    certificate, history = report["certificate"], report["history"]
    assert certificate["converged"] is certificate["merit_never_increased"] is True
    assert 1e3 * certificate["eps"] < 0.05
    assert len(history["eps"]) == certificate["iterations"] + 1
    assert len(history["psnr"]) == certificate["iterations"] - 3
    assert history["psnr"][-1] == pytest.approx(report["scores"]["reconstruction"]["psnr"], abs=1e-3)
    assert (np.diff(history["merit"][3:]) <= 0).all()


def test_rigorous_run_may_reach_its_limit(run, tmp_path):
    text = ok(
        run("reconstruct @images/disc.png --simulate --model @tv.safetensors --rigorous --iterations 2 --out", tmp_path)
    )
    assert "iteration limit (5 iterations)" in text


def test_blockwise_is_another_problem(run, tmp_path):
    psnr = {}
    for flag in ("--blockwise", "--no-blockwise"):
        command = (
            f"reconstruct @images/disc.png --simulate --model @tv.safetensors --rigorous --tol 0.5 {flag} --json --out"
        )
        (report,) = json.loads(ok(run(command, tmp_path / flag)))
        assert report["certificate"]["converged"]
        psnr[flag] = report["scores"]["reconstruction"]["psnr"]
    assert abs(psnr["--blockwise"] - psnr["--no-blockwise"]) > 0.05


def test_evaluate_prints_rows_and_their_mean(run, tmp_path):
    command = "evaluate --data @images --model @tv.safetensors --csv"
    text = ok(run(command, tmp_path / "new" / "scores.csv"))
    assert [line.split()[0] for line in text.splitlines() if line[0] != "-"] == ["image", "colour", "disc", "mean"]
    with open(tmp_path / "new" / "scores.csv", newline="") as file:
        colour, disc, mean = csv.DictReader(file)
    assert float(mean["psnr"]) == pytest.approx((float(colour["psnr"]) + float(disc["psnr"])) / 2)
    assert (disc["height"], disc["width"]) == ("21", "30")
    told = json.loads(ok(run("evaluate --data @images --model @tv.safetensors --json")))
    assert told["mean"]["psnr"] == pytest.approx(float(mean["psnr"]))


def test_evaluate_small_image_has_no_ssim(run, tmp_path):
    np.save(tmp_path / "small.npy", np.full((6, 20), 0.5))
    told = json.loads(ok(run("evaluate --model @tv.safetensors --json --data", tmp_path)))
    assert told["mean"]["ssim"] is None


def test_demo_runs_on_a_real_image(run, tmp_path):
    text = ok(run("demo --image coins --model @tv.safetensors --out", tmp_path))
    for word in ("PSNR", "SSIM", "time", "backend", "certificate", str(tmp_path / "coins_figure.png")):
        assert word in text
    assert (tmp_path / "coins_figure.png").stat().st_size > 10_000


def test_info_tells_what_is_used(run):
    told = json.loads(ok(run("info --json")))
    assert told["backends"] == fr.backends()
    assert list(told["models"]) == fr.pretrained()
    assert fr.__version__ in ok(run("info"))


@pytest.fixture
def small_bench(monkeypatch):
    for name, value in {"SIDE": 32, "CHANNELS": 4, "LAYERS": 2, "PHASES": 2, "TRAIN_BATCH": 1}.items():
        monkeypatch.setattr(bench, name, value)


@pytest.mark.usefixtures("small_bench")
def test_bench_checks_and_times(run, tmp_path):
    told = json.loads(ok(run("bench --quick --rounds 1 --json --figure", tmp_path / "speed.png")))
    assert len(told["rows"]) == 8
    for row in told["rows"]:
        assert row["ratio"] == pytest.approx(row["baseline_seconds"] / row["seconds"])
        assert row["error"] <= 2 * row["baseline_error"] + bench.FLOOR
    assert names(tmp_path) == ["speed.png"]


@pytest.mark.usefixtures("small_bench")
def test_bench_does_not_time_wrong_answers(fails, monkeypatch):
    monkeypatch.setattr(bench.ops, "soft_threshold", lambda x, tau: x)
    fails("bench --quick --json", words=("soft_threshold", "error"))


@pytest.mark.usefixtures("small_bench")
def test_bench_prints_rows_as_they_come(run, monkeypatch):
    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.ops, "prox_lp", broken)
    status, out, err = run("bench --quick --rounds 1")
    assert (status, err) == (130, "fastrecon: interrupted\n")
    rows = [text.split()[0] for text in out.splitlines()[3:]]
    assert rows == ["smoothed_l21", "soft_threshold", "group_soft_threshold"]


# What they say about bad input


def test_wrong_ratio(run, fails, tmp_path):
    ok(run("simulate @images/disc.png --model @tv.safetensors --out", tmp_path / "y"))
    out = tmp_path / "out"
    fails(
        "reconstruct --model @other-ratio.safetensors", tmp_path / "y", "--out", out,
        words=("expected 16 measurements per block (ratio 25%)", "got 32"),
    )  # fmt: skip
    fails(
        "reconstruct --model @other-phi.safetensors", tmp_path / "y", "--out", out,
        words=("sampling matrix", "tv.safetensors"),
    )  # fmt: skip
    assert names(out) == []


def test_noise_is_not_added_to_measurements(run, fails, tmp_path):
    ok(run("simulate @images/disc.png --model @tv.safetensors --out", tmp_path / "y"))
    fails("reconstruct --noise 0.1 --out", tmp_path / "out", tmp_path / "y", words=("--noise", "disc.npz"))


def test_divergence_is_not_written_as_an_image(fails, place, tmp_path):
    model = fr.load(place / "tv.safetensors")
    with torch.no_grad():
        model.solver.raw_alpha.fill_(1e30)
    model.save(tmp_path / "wild.safetensors")
    command = "reconstruct @images/disc.png --simulate --out"
    fails(command, tmp_path / "out", "--model", tmp_path / "wild.safetensors", words=("diverged",))
    assert names(tmp_path / "out") == []


def test_size_that_does_not_fit(fails, place, tmp_path):
    model = fr.load(place / "tv.safetensors")
    m = cs.simulate(model, np.zeros(SIZE, np.float32))
    io.write_measurements(tmp_path / "y.npz", io.Measurements(m.y, (21, 33), m.facts))
    fails(
        "reconstruct --model @tv.safetensors", tmp_path / "y.npz", "--out", tmp_path / "out", words=("size", "(21, 33)")
    )
    assert names(tmp_path / "out") == []


BAD_FILES = {
    "missing.png": (lambda p: None, "no such file"),
    "nan.npy": (lambda p: np.save(p, np.array([[0.5, np.nan]])), "NaN"),
    "empty.png": (lambda p: p.touch(), "0 bytes"),
    "corrupt.png": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n and no more"), "damaged"),
    "nan.npz": (lambda p: np.savez(p, y=np.full((1, 1, 32), np.nan)), "NaN"),
    "corrupt.npz": (lambda p: p.write_bytes(b"PK and no more"), "damaged"),
    "folder": (lambda p: p.mkdir(), "found none"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(fails, tmp_path, name):
    make, word = BAD_FILES[name]
    make(tmp_path / name)
    out = tmp_path / "out"
    fails("reconstruct --model @tv.safetensors --out", out, tmp_path / name, words=(name, word))
    assert not out.exists() or names(out) == []


# One bad input among many, results that exist, and what a run leaves when it ends early

TASKS = {
    "simulate": ("simulate @ --model @tv.safetensors --out", "{}.npz"),
    "cs": ("reconstruct @ --model @tv.safetensors --no-figure --out", "{}_report.json"),
    "saltpepper": ("reconstruct @ --task saltpepper --no-figure --out", "{}_report.json"),
    "inpaint": ("reconstruct @ --task inpaint --iterations 2 --no-figure --out", "{}_report.json"),
}
SCORES = {
    "cs": "evaluate --model @tv.safetensors --data @",
    "saltpepper": "evaluate --task saltpepper --data @",
    "inpaint": "evaluate --task inpaint --table noise --side 16 --data @",
}


@pytest.fixture
def several(tmp_path):
    """A folder with two images around one that is damaged."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.npy", "c.npy"):
        np.save(folder / name, np.tile(np.linspace(0, 1, 16, dtype=np.float32), (16, 1)))
    (folder / "b.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_one_bad_input_stops_no_other(run, several, tmp_path, task):
    command, made = TASKS[task]
    status, out, err = run(command.replace("@ ", f"{several} "), tmp_path / "out")
    assert status == 2
    assert out.count("->") == 2
    assert err.startswith("fastrecon: 1 of 3 inputs failed, 2 done: ")
    assert "b.png: expected" in err
    assert err.count("\n") == 1
    assert {made.format("a"), made.format("c")} <= set(names(tmp_path / "out"))
    assert not [n for n in names(tmp_path / "out") if n.startswith(("b", "."))]


@pytest.mark.parametrize("task", SCORES)
def test_one_bad_image_costs_only_its_row(run, several, tmp_path, task):
    command = SCORES[task].replace("--data @", f"--data {several}")
    status, out, err = run(f"{command} {several / 'missing.png'} --json --csv", tmp_path / "t.csv")
    found = json.loads(out)
    assert status == 2
    assert [row["image"] for row in found["images"]][:: len(found["images"]) // 2] == ["a", "c"]
    assert [Path(f["input"]).name for f in found["failed"]] == ["b.png", "missing.png"]
    assert [text.partition(": ")[2] for text in err.splitlines()] == [
        "2 of 4 inputs failed, 2 done:", *(f["error"] for f in found["failed"])
    ]  # fmt: skip
    assert (tmp_path / "t.csv").read_text().count("\nc,") >= 1


def test_all_inputs_bad(run, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    status, out, err = run("evaluate --model @tv.safetensors --data", tmp_path)
    assert (status, out, err.count("\n")) == (2, "", 3)
    assert "2 of 2 inputs failed, 0 done" in err


def test_json_tells_failures_too(run, several, tmp_path):
    status, out, _ = run(f"reconstruct {several} --model @tv.safetensors --no-figure --json --out", tmp_path / "out")
    assert status == 2
    assert ["error" in row for row in json.loads(out)] == [False, False, True]


def test_what_exists_is_kept_replaced_or_skipped(run, fails, several, tmp_path):
    (several / "b.png").unlink()
    out = tmp_path / "out"
    command = f"reconstruct {several} --model @tv.safetensors --no-figure --out {out}"
    ok(run(command))
    mark = (out / "a_reconstruction.png").stat().st_mtime_ns
    fails(command, words=("a_reconstruction.png", "and 3 more", "--overwrite or --skip-existing"))
    (out / "c_report.json").unlink()  # written last: c was not finished
    text = ok(run(f"{command} --skip-existing"))
    assert "1 of 2 inputs skipped" in text
    assert text.count("->") == 1
    assert (out / "a_reconstruction.png").stat().st_mtime_ns == mark
    (skipped,) = [r for r in json.loads(ok(run(f"{command} --skip-existing --json"))) if r["input"].endswith("a.npy")]
    assert skipped["skipped"] is True
    ok(run(f"{command} --overwrite"))
    assert (out / "a_reconstruction.png").stat().st_mtime_ns > mark
    fails(f"{command} --overwrite --skip-existing", words=("--skip-existing", "not allowed"))


@pytest.mark.parametrize(
    ("command", "made"),
    [
        ("simulate @images/disc.png --model @tv.safetensors --out {}", "disc.npz"),
        ("demo --image coins --model @tv.safetensors --out {}", "coins_figure.png"),
        ("reconstruct @images/disc.png --simulate --model @tv.safetensors --maps --out {}", "disc_maps.png"),
        ("reconstruct @images/disc.png --simulate --task saltpepper --out {}", "disc_figure.png"),
        ("reconstruct @images/disc.png --simulate --task inpaint --bits 32 --out {}", "disc_reconstruction.tif"),
        ("evaluate --data @images --model @tv.safetensors --csv {}/t.csv", "t.csv"),
        ("evaluate --data @images --task saltpepper --csv {}/t.csv", "t.csv"),
        ("evaluate --data @images --task inpaint --out {}", "curves.png"),
        ("bench --figure {}/f.png", "f.png"),
    ],
)
def test_outputs_are_looked_at_before_the_work(fails, tmp_path, command, made):
    command = command.format(tmp_path)
    (tmp_path / made).touch()
    fails(command, words=(made, "exists", "--overwrite"))
    (tmp_path / made).unlink()
    (tmp_path / made).mkdir()
    fails(f"{command} --overwrite", words=(made, "got a folder"))
    assert names(tmp_path) == [made]


@pytest.mark.parametrize(
    "command", ["simulate {} --out {}", "reconstruct {} --out {}", "evaluate --task ct --data {} --out {}"]
)
def test_results_do_not_go_among_the_inputs(fails, several, tmp_path, command):
    (tmp_path / "link").symlink_to(several)
    for out in (several, tmp_path / "link", f"{several}/../in"):
        fails(command.format(several, out), words=("--out", "another folder"))
    assert names(several) == ["a.npy", "b.png", "c.npy"]


def test_interruption_loses_nothing_done(run, several, tmp_path, monkeypatch):
    (several / "b.png").unlink()
    usual, calls = io.read_image, []

    def interrupted(path):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return usual(path)

    monkeypatch.setattr(io, "read_image", interrupted)
    status, out, err = run(f"evaluate --data {several} --model @tv.safetensors --csv", tmp_path / "t.csv")
    assert (status, err) == (130, "fastrecon: interrupted\n")
    assert [text.split()[0] for text in out.splitlines() if text[0] != "-"] == ["image", "a", "mean"]
    assert "a," in (tmp_path / "t.csv").read_text()


@pytest.fixture
def full_disk():
    """Files end after 5000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("full_disk")
def test_full_disk(fails, tmp_path):
    fails("simulate skimage:coins --model @tv.safetensors --out", tmp_path / "out", words=("coins", "too large"))
    assert names(tmp_path / "out") == []


def test_full_disk_does_not_cost_the_table(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(io, "write_csv", full)
    status, out, err = run("evaluate --data @images --model @tv.safetensors --csv", tmp_path / "t.csv")
    assert (status, err) == (2, "fastrecon: No space left on device\n")
    assert "disc" in out


def test_full_disk_ends_the_batch(run, several, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(io, "write_measurements", full)
    status, _, err = run(f"simulate {several} --model @tv.safetensors --out", tmp_path / "out")
    assert status == 2
    assert err.count("No space left") == 1
    assert "a.npy" in err


# What is said, and where it goes


class Stream(StringIO):
    """A stdout that fails, or takes ASCII alone."""

    def __init__(self, fault: OSError | None):
        super().__init__()
        self.fault = fault

    def write(self, text: str) -> int:
        if self.fault:
            raise self.fault
        return super().write(text)


@pytest.mark.parametrize(("fault", "status"), [(BrokenPipeError(), 0), (OSError(errno.ENOSPC, "No space left"), 2)])
def test_printing_costs_no_results(capsys, place, tmp_path, monkeypatch, fault, status):
    monkeypatch.setattr(sys, "stdout", Stream(fault))
    argv = ["reconstruct", f"{place}/images", "--model", f"{place}/tv.safetensors", "--no-figure", "--out"]
    assert cli.main([*argv, str(tmp_path)]) == status
    assert len(names(tmp_path)) == 4
    err = capsys.readouterr().err
    assert err == "" if status == 0 else "stdout: No space left" in err


def test_ascii_alone(place, monkeypatch):
    raw = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(raw, encoding="ascii"))
    argv = ["evaluate", "--task", "inpaint", "--table", "noise", "--side", "16", "--data", f"{place}/images"]
    assert cli.main(argv) == 0
    assert b" ? " in raw.getvalue()  # the plus-minus sign


@pytest.mark.parametrize(
    "name", ["two\nlines.npy", os.fsdecode(b"\xff\xfe.npy"), "$x_1$ {}.npy", "\u4e2d\u6587.npy", "-a b.npy"]
)
def test_odd_names(run, tmp_path, name):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / name, np.full((16, 16), 0.5))
    for form in ("npz", "safetensors"):
        y = tmp_path / form
        text = ok(run(f"simulate {tmp_path / 'in'} --model @tv.safetensors --format {form} --out", y))
        assert text.count("\n") == 1
        text = ok(run(f"reconstruct {y} --no-figure --out", y / "done"))
        assert text.count("\n") == 1
    (found,) = json.loads(ok(run(f"evaluate --model @tv.safetensors --json --data {tmp_path / 'in'}")))["images"]
    assert found["psnr"] > 20
    ok(run(f"evaluate --model @tv.safetensors --csv {tmp_path / 't.csv'} --data {tmp_path / 'in'}"))


def test_images_of_scikit_image_everywhere(run, tmp_path):
    for command in ("simulate skimage:cell --out", "reconstruct skimage:cell --no-figure --out"):
        text = ok(run(f"{command} {tmp_path / command.split()[0]} --model @tv.safetensors"))
        assert "cell" in text
    assert "cell" in ok(run("evaluate --data skimage:cell --model @tv.safetensors"))
    assert "cell" in ok(run("demo --image skimage:cell --no-figure --model @tv.safetensors --out", tmp_path / "demo"))


class Panic(BaseException):
    """Of compiled code."""


@pytest.mark.parametrize(
    "error", [KeyError, AttributeError, IndexError, StopIteration, ZeroDivisionError, MemoryError, Panic]
)
def test_any_error_is_one_line(fails, monkeypatch, error):
    def broken():
        raise error("inside")

    monkeypatch.setattr(info, "information", broken)
    fails("info", words=(error.__name__, "inside", "FASTRECON_DEBUG"))


@pytest.mark.parametrize(
    ("code", "status", "said"), [("no\nmore", 2, "fastrecon: no\\nmore\n"), (5, 5, ""), (None, 0, "")]
)
def test_libraries_that_leave(run, monkeypatch, code, status, said):
    def leave():
        raise SystemExit(code)

    monkeypatch.setattr(info, "information", leave)
    assert run("info") == (status, "", said)


# Measurements that say too little or too much


def rewritten(place: Path, path: Path, **changes: object) -> None:
    """The disc's measurements with other contents; None leaves one out."""
    m = cs.simulate(fr.load(place / "tv.safetensors"), io.read_image(place / "images" / "disc.png").pixels)
    contents = {"y": m.y, "size": np.array(m.size), **m.facts} | changes
    np.savez(path, **{k: v for k, v in contents.items() if v is not None})


def test_what_is_assumed_is_said(run, place, tmp_path):
    rewritten(place, tmp_path / "a.npz", operator=None)
    rewritten(place, tmp_path / "b.npz", operator=None, size=None)
    rewritten(place, tmp_path / "c.npz")
    text = ok(run(f"reconstruct {tmp_path} --model @tv.safetensors --out", tmp_path / "out"))
    a, b, c = text.splitlines()
    for line in (a, b):
        assert "assumed: made with the sampling matrix of" in line
        assert "tv.safetensors, of --model" in line
    assert ("whole blocks" in a, "whole blocks" in b, "[assumed" in c) == (False, True, False)
    report = json.loads((tmp_path / "out" / "a_report.json").read_text())
    assert report["notes"][0].startswith("assumed: made with the sampling matrix")


def test_an_output_never_replaces_an_input(fails, tmp_path):
    image = tmp_path / "a.png"
    io.write_image(image, np.full((40, 40), 0.5))
    before = image.read_bytes()
    fails(f"evaluate --data {image} --overwrite --csv", image, words=("a.png", "another file than the input"))
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y": np.full((3, 4, 32), 3e38, np.float32)}, ("diverged", "3e+38")),
        ({"y": np.zeros((3, 4, 31), np.float32)}, ("expected 32 measurements per block", "31")),
        ({"operator": "1 two"}, ("operator", "1 two")),
        ({"operator": np.zeros((2, 2))}, ("operator",)),
        ({"model": np.arange(3)}, ("model: expected",)),
        ({"model": " "}, ("model", "a name")),
        ({"model": "no-such"}, ("no-such", "one of")),
        ({"size": np.array([3, -1])}, ("size", "-1")),
    ],
)
def test_bad_measurements_name_their_file(fails, place, tmp_path, changes, words):
    rewritten(place, tmp_path / "odd.npz", **changes)
    model = "" if "model" in changes else f"--model {place}/tv.safetensors"
    fails(f"reconstruct {model} --out", tmp_path / "out", tmp_path / "odd.npz", words=("odd.npz", *words))
    assert not (tmp_path / "out").exists() or names(tmp_path / "out") == []


@pytest.mark.parametrize(
    "text", ["[]", "3", "null", "{", '"x"', "[" * 100_000, '{"format": 1}', '{"format": 1, "method": []}',
             '{"format": 1, "method": "lda"}', '{"format": 1, "method": "lda", "phi_seed": "x", "phi_sample": 1}'],
    ids=lambda t: t[:40],
)  # fmt: skip
def test_odd_metadata_names_the_file(fails, tmp_path, text):
    save_file({"q": torch.zeros(4, 2)}, tmp_path / "odd.safetensors", {"fastrecon": text})
    fails("evaluate --data @images --model", tmp_path / "odd.safetensors", words=("odd.safetensors",))


def test_unknown_model(fails, tmp_path):
    known = ", ".join(fr.pretrained())
    fails(
        "reconstruct @images --simulate --model lda-cs-26 --out", tmp_path / "out", words=("lda-cs-26", "one of", known)
    )
    fails("demo --ratio 26 --out", tmp_path / "out", words=("lda-cs-26", "one of", known))
    assert names(tmp_path) == []


@pytest.mark.parametrize("keep", [0, 4, 1000, -10])
def test_damaged_weights(fails, place, tmp_path, keep):
    (tmp_path / "bad.safetensors").write_bytes((place / "tv.safetensors").read_bytes()[:keep])
    fails("evaluate --data @images --model", tmp_path / "bad.safetensors", words=("bad.safetensors",))


def test_measurements_are_no_model(run, fails, tmp_path):
    ok(run("simulate @images/disc.png --model @tv.safetensors --format safetensors --out", tmp_path))
    fails("evaluate --data @images --model", tmp_path / "disc.safetensors", words=("disc.safetensors", "model file"))


@pytest.mark.parametrize("command", ["simulate @images", "reconstruct @images", "demo"])
def test_output_folder_not_writable(fails, tmp_path, command):
    (tmp_path / "file").touch()
    fails(f"{command} --model @tv.safetensors --out", tmp_path / "file" / "x", words=("writable output folder", "file"))


def test_output_file_is_a_folder(fails, tmp_path):
    fails("evaluate --data @images --model @tv.safetensors --csv", tmp_path, words=("a folder",))
    fails("bench --figure", tmp_path, words=("a folder",))


def test_unknown_backend(fails, monkeypatch):
    monkeypatch.setenv("FASTRECON_BACKEND", "abacus")
    fails("info", words=("FASTRECON_BACKEND", "abacus", "reference"))


def test_two_inputs_one_output(fails, place, tmp_path):
    image = place / "images" / "disc.png"
    fails(
        "reconstruct --model @tv.safetensors --out", tmp_path / "out", image, image, words=("different names", "disc")
    )
    assert names(tmp_path) == []


def test_only_lda_has_a_rigorous_mode(fails, tmp_path):
    command = "reconstruct @images/disc.png --simulate --model @gd-net.safetensors --rigorous --out"
    fails(command, tmp_path, words=("rigorous", "GDNet"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", ("COMMAND",)),
        ("polish", ("polish", "demo")),
        ("simulate @images", ("--out", "fastrecon simulate --help")),
        ("reconstruct @images --simulate --out x --bits 12", ("--bits", "12")),
        ("reconstruct @images --simulate --out x --tol -1", ("--tol", "> 0")),
        ("reconstruct @images --simulate --out x --iterations many", ("--iterations", "many")),
        ("evaluate --data @images --model @tv.safetensors --device tpu", ("--device", "tpu", "cpu")),
        ("evaluate --data @images --model @tv.safetensors --device cuda:97", ("--device", "cuda:97", "cpu")),
        ("evaluate --data @images --device cuda:\u00b2", ("--device", "cuda:\u00b2", "cpu")),
        (f"simulate @images --out x --device cuda:{'9' * 5000}", ("--device", "cpu")),
        (f"simulate @images --out x --format {'z' * 5000}", ("--format", "zzz")),
        ("demo --image nobody --model @tv.safetensors --out x", ("--image", "nobody", "camera")),
        ("train", ("KIND",)),
    ],
)
def test_bad_arguments(fails, command, words):
    fails(command, words=words)


@pytest.mark.parametrize("command", ["reconstruct", "evaluate"])
def test_options_of_other_tasks_are_refused(fails, place, command):
    own = {"reconstruct": reconstruct.OWN, "evaluate": evaluate.OWN}[command]
    values = {
        "rigorous": "", "maps": "", "blockwise": "", "tol": "0.1", "max-iterations": "7", "precision": "direct",
        "method": "ista", "iterations": "7", "lam-factor": "2", "rate": "0.3", "mask": "radial", "views": "7",
        "table": "lam", "networks": "x", "side": "64", "out": "x",
    }  # fmt: skip
    for option in set().union(*own.values()):
        name = option.replace("_", "-")
        for task in own:
            if option not in own[task]:
                line = f"{COMMANDS[command]} --task {task} --{name} {values[name]}"
                fails(line, words=(f"--{name}: expected with --task", f"got --task {task}"))


def test_long_values_are_cut(run):
    for command in (f"simulate x --out y --format {'z' * 5000}", f"demo --image {'z' * 5000}", "z" * 5000):
        status, _, err = run(command)
        assert status == 2
        assert len(err) < 1000


COMMANDS = {
    "simulate": "simulate @images --out x",
    "reconstruct": "reconstruct @images --simulate --out x",
    "evaluate": "evaluate --data @images",
    "demo": "demo --out x",
    "bench": "bench",
    "tune": "tune",
}
WORDS = ("nan", "inf", "-inf", "-1", "1e300", "99999999999999999999", "1e23", "many", "", " ", "1" * 5000, "\u0663x")
COUNTS = ("0", "1.5", *WORDS)  # what no count can be
NUMBERS = {  # (command, option): what it must refuse
    ("simulate", "--noise"): ("0", *WORDS), ("simulate", "--seed"): ("1.5", *WORDS), ("simulate", "--threads"): COUNTS,
    ("reconstruct", "--noise"): ("0", *WORDS), ("reconstruct", "--seed"): ("1.5", *WORDS),
    ("reconstruct", "--threads"): COUNTS, ("reconstruct", "--tol"): ("0", *WORDS),
    ("reconstruct", "--iterations"): COUNTS, ("reconstruct", "--bits"): ("12", *COUNTS),
    ("reconstruct", "--rate"): ("0", "1.1", *WORDS),
    ("reconstruct", "--views"): COUNTS, ("reconstruct", "--iterations"): COUNTS,
    ("reconstruct", "--lam-factor"): ("0", "1e-300", *WORDS), ("evaluate", "--noise"): ("0", *WORDS),
    ("evaluate", "--seed"): ("1.5", *WORDS), ("evaluate", "--threads"): COUNTS,
    ("evaluate", "--side"): ("7", *COUNTS), ("demo", "--ratio"): ("0", "101", *WORDS), ("demo", "--threads"): COUNTS,
    ("demo", "--tol"): ("0", *WORDS), ("demo", "--iterations"): COUNTS, ("demo", "--bits"): COUNTS,
    ("bench", "--rounds"): COUNTS, ("bench", "--threads"): COUNTS, ("tune", "--channels"): COUNTS,
    ("tune", "--threads"): COUNTS,
}  # fmt: skip
NAMES = {
    ("simulate", "--out"), ("simulate", "--model"), ("reconstruct", "--out"), ("reconstruct", "--model"),
    ("evaluate", "--data"), ("evaluate", "--model"), ("evaluate", "--csv"), ("evaluate", "--out"),
    ("evaluate", "--networks"), ("demo", "--image"), ("demo", "--model"), ("demo", "--out"), ("bench", "--model"),
    ("bench", "--figure"),
}  # fmt: skip
CHOSEN = {"--device"}  # looked up in a list, see test_bad_arguments


def options_of(command: str) -> list[argparse.Action]:
    top = cli.parser(command)
    (commands,) = (a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    return commands.choices[command]._actions


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_with_a_value_is_tried(command):
    free = {
        a.option_strings[0]
        for a in options_of(command)
        if a.option_strings and a.nargs != 0 and (a.choices is None or a.type)
    }
    tried = {option for c, option in (*NUMBERS, *NAMES) if c == command}
    assert free - CHOSEN == tried


@pytest.mark.parametrize(("command", "option"), NUMBERS)
def test_numbers_out_of_range(capsys, place, command, option):
    for value in NUMBERS[command, option]:
        argv = [*COMMANDS[command].replace("@", f"{place}/").split(), f"{option}={value}"]
        assert cli.main(argv) == 2, argv
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith(f"fastrecon: argument {option}: ")
        assert len(err) < 300
    wanted = next(a for a in options_of(command) if option in a.option_strings)
    assert cli.main([command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert wanted.choices or f"[{wanted.type.range}]" in text


@pytest.mark.parametrize(("command", "option"), sorted(NAMES))
def test_empty_names(capsys, place, command, option):
    argv = COMMANDS[command].replace("@", f"{place}/").split()
    assert cli.main([*argv, option, ""]) == 2
    assert f"argument {option}: expected a name, got ''" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["simulate --out x", "reconstruct --out x"])
def test_empty_inputs(capsys, command):
    assert cli.main([*command.split(), ""]) == 2
    assert "expected a name, got ''" in capsys.readouterr().err


def test_debug_shows_where(run, monkeypatch):
    monkeypatch.setenv("FASTRECON_DEBUG", "1")
    with pytest.raises(ValueError, match="no-such-model"):
        run("evaluate --data @images --model no-such-model")


def test_interruption(run, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cs, "reconstruct", interrupted)
    status, out, err = run("reconstruct @images --simulate --model @tv.safetensors --out", tmp_path)
    assert (status, out, err) == (130, "", "fastrecon: interrupted\n")
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="pipes break otherwise there")
def test_reader_that_leaves():
    command = [sys.executable, "-m", "fastrecon", "info"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
