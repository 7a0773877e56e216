"""The command line, in-process: what each command writes and says, and one line for everything that is wrong."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

from PIL import Image

import fastrecon as fr
from fastrecon import cli, io
from fastrecon.operators import BlockSensing, random_phi
from fastrecon.solvers import LDA, GDNet
from fastrecon.tasks import bench, cs

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
    meta = {"task": "block-cs", "ratio": 100 * m / BLOCK**2, "name": f"tv-{m}", "phi_seed": seed}
    fr.Reconstructor(operator, solver, q.float(), meta).save(path)


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
    text = ok(run("reconstruct @images --model @tv.safetensors --maps --out", tmp_path))
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
        ok(run("reconstruct @images/disc.png --model @tv.safetensors --no-figure --json --out", tmp_path))
    )
    assert names(tmp_path) == ["disc_reconstruction.png", "disc_report.json"]
    written = json.loads((tmp_path / "disc_report.json").read_text())
    assert told | {"history": written["history"]} == written


def test_rigorous_run_converges_and_says_so(run, tmp_path):
    command = "reconstruct @images/disc.png --model @tv.safetensors --rigorous --tol 0.05 --out"
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
    text = ok(run("reconstruct @images/disc.png --model @tv.safetensors --rigorous --max-iterations 2 --out", tmp_path))
    assert "iteration limit (5 iterations)" in text


def test_blockwise_is_another_problem(run, tmp_path):
    psnr = {}
    for flag in ("--blockwise", "--no-blockwise"):
        command = f"reconstruct @images/disc.png --model @tv.safetensors --rigorous --tol 0.5 {flag} --json --out"
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
    fails("bench --quick", words=("soft_threshold", "error"))


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
    command = "reconstruct @images/disc.png --out"
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


def test_bad_file_in_a_folder(fails, tmp_path):
    (tmp_path / "bad.png").write_text("x")
    np.save(tmp_path / "good.npy", np.full((9, 9), 0.5))
    fails(
        "evaluate --model @tv.safetensors --data", tmp_path, "--csv", tmp_path / "t.csv", words=("bad.png", "damaged")
    )
    fails("simulate --model @tv.safetensors", tmp_path, "--out", tmp_path / "y", words=("bad.png", "damaged"))
    assert names(tmp_path) == ["bad.png", "good.npy", "y"]


def test_unknown_model(fails, tmp_path):
    known = ", ".join(fr.pretrained())
    fails("reconstruct @images --model lda-cs-26 --out", tmp_path / "out", words=("lda-cs-26", "one of", known))
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
    command = "reconstruct @images/disc.png --model @gd-net.safetensors --rigorous --out"
    fails(command, tmp_path, words=("rigorous", "GDNet"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", ("COMMAND",)),
        ("polish", ("polish", "demo")),
        ("simulate @images", ("--out", "fastrecon simulate --help")),
        ("reconstruct @images --out x --bits 12", ("--bits", "12")),
        ("reconstruct @images --out x --tol -1", ("--tol", "> 0")),
        ("reconstruct @images --out x --max-iterations many", ("--max-iterations", "many")),
        ("evaluate --data @images --model @tv.safetensors --device tpu", ("--device", "tpu", "cpu")),
        ("evaluate --data @images --model @tv.safetensors --device cuda:97", ("--device", "cuda:97", "cpu")),
        ("demo --image nobody --model @tv.safetensors --out x", ("--image", "nobody", "camera")),
        ("train", ("KIND",)),
    ],
)
def test_bad_arguments(fails, command, words):
    fails(command, words=words)


def test_debug_shows_where(run, monkeypatch):
    monkeypatch.setenv("FASTRECON_DEBUG", "1")
    with pytest.raises(ValueError, match="no-such-model"):
        run("evaluate --data @images --model no-such-model")


def test_interruption(run, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cs, "reconstruct", interrupted)
    status, out, err = run("reconstruct @images --model @tv.safetensors --out", tmp_path)
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
