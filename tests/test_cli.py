"""The command line, in-process: what each command writes and says."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

from commands import BLOCK, SIZE, first_version, names, ok
from PIL import Image

import fastrecon as fr
from fastrecon import io
from fastrecon.cli import bench, evaluate
from fastrecon.cli import main as cli
from fastrecon.problems import PROBLEMS
from fastrecon.solvers.methods import METHODS

DISC = "reconstruct @images/disc.png --simulate --model @tv.safetensors"


def told(text: str) -> dict:
    """The report of the one input, printed with --json."""
    (report,) = json.loads(text)
    return report


@pytest.mark.parametrize("command", ["", *cli.COMMANDS, "train lda-cs"])
def test_help_has_examples(run, command):
    text = ok(run(f"{command} --help"))
    assert "usage: fastrecon" in text
    assert "examples:" in text


@pytest.mark.parametrize("name", PROBLEMS)
def test_help_of_a_problem_has_its_options_and_methods(run, name):
    text = "".join(ok(run(f"reconstruct --problem {name} --help")).split())
    for method in PROBLEMS[name].methods:
        assert f"{method},{METHODS[method].summary}".replace(" ", "") in text
    assert f"(default:auto,here{PROBLEMS[name].methods[0]})" in text
    assert f"method{PROBLEMS[name].methods[0]}:" in text


def test_version(run):
    assert ok(run("--version")) == f"fastrecon {fr.__version__}\n"


@pytest.mark.parametrize("model", ["tv", "own-phi"])
@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_simulate_and_reconstruct_equal_the_library(run, place, tmp_path, model, form):
    name = place / f"{model}.safetensors"
    made, image = fr.load(name), io.read_image(place / "images" / "disc.png")
    x = torch.from_numpy(image.pixels)[None, None]
    y = made.operator(x)
    text = ok(run(f"simulate @images/disc.png --model {name} --format {form} --out", tmp_path))
    assert "21 x 30 pixels, 3 x 4 blocks, 32 numbers each" in text
    # the model is the one that the measurements name
    options = ["--bits", "32", "--json", "--out", tmp_path / form]
    report = told(ok(run("reconstruct", tmp_path / f"disc.{form}", *options)))
    assert report["model"] == str(name)
    assert report["simulated"]
    found = io.read_image(tmp_path / form / "disc_reconstruction.tif").pixels
    np.testing.assert_array_equal(found, made(y, size=SIZE).x[0, 0].numpy())
    score = fr.metrics.psnr(torch.from_numpy(found).clamp(0, 1)[None, None], x).item()
    assert report["scores"]["reconstruction"]["psnr"] == pytest.approx(score, abs=1e-4)


def test_files_of_the_first_version(run, place, tmp_path):
    made, pixels = place / "tv.safetensors", io.read_image(place / "images" / "disc.png").pixels
    first_version(tmp_path / "disc.npz", made, pixels)
    report = told(ok(run("reconstruct", tmp_path / "disc.npz", "--bits", "32", "--json", "--out", tmp_path / "out")))
    assert (report["problem"], report["method"], report["model"]) == ("block-cs", "lda", str(made))
    assert (report["simulated"], report["scores"], report["size"]) == (False, None, list(SIZE))
    x, model = torch.from_numpy(pixels)[None, None], fr.load(made)
    found = io.read_image(report["files"]["reconstruction"]).pixels
    np.testing.assert_array_equal(found, model(model.operator(x), size=SIZE).x[0, 0].numpy())
    # their matrix serves other methods too
    options = ["--method", "fista", "--iterations", "200", "--json", "--out", tmp_path / "fista"]
    other = told(ok(run("reconstruct", tmp_path / "disc.npz", *options)))
    assert (other["method"], other["model"]) == ("fista", None)
    assert other["certificate"]["iterations"] == 200
    shape = io.read_image(other["files"]["reconstruction"]).pixels.shape
    assert shape == SIZE


def test_reconstruct_writes_everything(run, tmp_path):
    text = ok(run("reconstruct @images --simulate --model @tv.safetensors --features --out", tmp_path))
    kinds = ("features.png", "figure.png", "reconstruction.png", "report.json")
    assert names(tmp_path) == [f"{stem}_{kind}" for stem in ("colour", "disc") for kind in kinds]
    assert text.count("->") == 2
    assert text.count(", no stationary point") == 2
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
    for name in ("phi_eps", "merit", "grad_norm", "eps"):  # start and 3 phases
        assert len(report["history"][name]) == 4
    assert report["history"]["quality"]["iteration"] == [1, 2, 3]


def test_colour_is_restored_in_colour(run, tmp_path):
    report = told(ok(run("reconstruct @images/colour.png --simulate --model @tv.safetensors --json --out", tmp_path)))
    assert (report["channels"], report["size"]) == (3, list(SIZE))
    assert any("three channels" in note for note in report["notes"])
    x, ref = (np.asarray(Image.open(p)).astype(float) for p in (report["files"]["reconstruction"], report["input"]))
    assert x.shape == (*SIZE, 3)
    mse = np.square((x - ref) / 255).mean()
    assert report["scores"]["reconstruction"]["psnr"] == pytest.approx(-10 * np.log10(mse), abs=0.1)


def test_reconstruct_json_is_the_report(run, tmp_path):
    report = told(ok(run(f"{DISC} --no-figure --json --out", tmp_path)))
    assert names(tmp_path) == ["disc_reconstruction.png", "disc_report.json"]
    written = json.loads((tmp_path / "disc_report.json").read_text())
    assert report | {"history": written["history"]} == written


SMALL = {"block-cs": "--block 8", "slopes": "--kernel-side 5"}  # options that make a problem fit a tiny picture


@pytest.mark.parametrize("name", PROBLEMS)
def test_one_schema_for_all_problems(run, tmp_path, name):
    method = "d-ladmm" if name == "impulse" else "fista"
    command = f"reconstruct @images/colour.png --simulate --problem {name} {SMALL.get(name, '')} --method {method}"
    report = told(ok(run(f"{command} --json --out", tmp_path)))
    keys = set(told(ok(run(f"{DISC} --json --out", tmp_path / "lda"))))
    assert set(report) == keys
    assert (report["problem"], report["method"], report["size"]) == (name, method, list(SIZE))
    assert report["scores"]["reconstruction"]["psnr"] > 10
    written = json.loads((tmp_path / "colour_report.json").read_text())
    assert report | {"history": written["history"]} == written
    assert np.asarray(Image.open(report["files"]["reconstruction"])).shape == (*SIZE, 3)


def test_pictures_come_back_in_the_kind_of_the_input(run, place, tmp_path):
    pixels = io.read_image(place / "images" / "disc.png").pixels
    (tmp_path / "in").mkdir()
    Image.fromarray((65535 * pixels).astype(np.uint16)).save(tmp_path / "in" / "deep.png")
    Image.fromarray((255 * pixels).astype(np.uint8)).save(tmp_path / "in" / "plain.tif")
    np.save(tmp_path / "in" / "floats.npy", 40 * pixels)
    options = "--problem inpaint --simulate --rate 0.9 --iterations 50 --no-figure --json --out"
    found = json.loads(ok(run("reconstruct", tmp_path / "in", *options.split(), tmp_path / "out")))
    files = {Path(r["input"]).name: Path(r["files"]["reconstruction"]) for r in found}
    assert [files[n].suffix for n in ("deep.png", "plain.tif", "floats.npy")] == [".png", ".tif", ".npy"]
    assert np.asarray(Image.open(files["deep.png"])).max() > 256
    assert np.asarray(Image.open(files["plain.tif"])).dtype == np.uint8
    floats = np.load(files["floats.npy"])
    assert (floats.dtype, floats.shape) == (np.float32, SIZE)
    assert abs(floats - 40 * pixels).mean() < 2
    assert next(r for r in found if r["input"].endswith("floats.npy"))["scale"] == pytest.approx(32)


def test_complex_pictures_are_inpainted(run, tmp_path):
    x = np.add.outer(np.linspace(0, 0.5, 24), 1j * np.linspace(0, 0.5, 30)).astype(np.complex64)
    np.save(tmp_path / "x.npy", x)
    options = "--simulate --problem inpaint --rate 0.9 --iterations 100 --json --no-figure --out"
    report = told(ok(run(f"reconstruct {tmp_path / 'x.npy'}", *options.split(), tmp_path / "out")))
    found = np.load(report["files"]["reconstruction"])
    assert found.dtype == np.complex64
    assert abs(found - x).mean() < 0.02


def test_noise_is_in_the_unit_of_the_data(run, tmp_path):
    """A picture 100 times as bright, with 100 times the noise, is the same problem."""
    x = np.add.outer(np.linspace(0, 0.5, 24), np.linspace(0, 0.5, 24)).astype(np.float32)
    np.save(tmp_path / "unit.npy", x)
    np.save(tmp_path / "bright.npy", 100 * x)
    scores = {}
    for name, noise in (("unit", 0.1), ("bright", 10)):
        options = f"--simulate --problem inpaint --noise {noise} --iterations 20 --json --no-figure --out"
        report = told(ok(run(f"reconstruct {tmp_path / name}.npy", *options.split(), tmp_path / name)))
        assert report["noise"] == pytest.approx(noise)
        scores[name] = report["scores"]["reconstruction"]["psnr"]
    assert scores["unit"] == pytest.approx(scores["bright"], abs=0.05)


def test_seeds_draw_masks_and_noise(run, tmp_path):
    found = {}
    for k, seed in enumerate((1, 1, 2)):
        out = tmp_path / str(k)
        ok(run(f"simulate @images/disc.png --problem inpaint --noise 0.1 --seed {seed} --out", out))
        with np.load(out / "disc.npz") as data:
            found[k] = {name: data[name] for name in ("y", "fact.mask")}
    for name in ("y", "fact.mask"):
        np.testing.assert_array_equal(found[0][name], found[1][name])
        assert abs(found[0][name] - found[2][name]).max() > 0.01


def test_measured_inputs_are_not_scored(run, place, tmp_path):
    np.save(tmp_path / "mask.npy", np.random.default_rng(0).random(SIZE) < 0.8)
    options = ["--problem", "inpaint", "--mask", tmp_path / "mask.npy", "--iterations", "100", "--json", "--out"]
    report = told(ok(run("reconstruct @images/disc.png", *options, tmp_path / "out")))
    assert (report["simulated"], report["seed"], report["scores"]) == (False, None, None)
    text = ok(run("reconstruct @images/disc.png", *options[:-2], "--out", tmp_path / "again"))
    assert "PSNR" not in text
    x = io.read_image(report["files"]["reconstruction"]).pixels
    assert abs(x - io.read_image(place / "images" / "disc.png").pixels).mean() < 0.05


def test_rigorous_run_converges_and_says_so(run, tmp_path):
    text = ok(run(f"{DISC} --rigorous --tol 0.05 --out", tmp_path))
    assert "converged" in text
    assert "merit never increased" in text
    report = json.loads((tmp_path / "disc_report.json").read_text())
    certificate, history = report["certificate"], report["history"]
    assert certificate["converged"] is certificate["merit_never_increased"] is True
    assert 1e3 * certificate["eps"] < 0.05
    assert len(history["eps"]) == certificate["iterations"] + 1
    assert (np.diff(history["merit"][3:]) <= 0).all()
    assert len(history["quality"]["iteration"]) == certificate["iterations"] - 3
    assert history["quality"]["nmse_db"][-1] == pytest.approx(report["scores"]["reconstruction"]["nmse_db"], abs=1e-2)


def test_measurements_of_a_shipped_model_are_run_to_convergence_unless_a_method_is_named(run, tmp_path):
    ok(run("simulate @images/disc.png --model lda-cs-50 --out", tmp_path))
    psnr = {}
    for words in ("", "--method lda", "--no-rigorous"):
        out = ["--json", "--out", tmp_path / f"x{words}"]
        report = told(ok(run("reconstruct", tmp_path / "disc.npz", *words.split(), *out)))
        assert (report["method"], report["model"]) == ("lda", "lda-cs-50")
        assert ("on to convergence" in report["why"], report["certificate"]["converged"]) == (not words, not words)
        psnr[words] = report["scores"]["reconstruction"]["psnr"]
    assert psnr[""] > psnr["--method lda"] == psnr["--no-rigorous"]


def test_rigorous_run_may_reach_its_limit(run, tmp_path):
    text = ok(run(f"{DISC} --rigorous --iterations 2 --out", tmp_path))
    assert "iteration limit (5 iterations)" in text


def test_every_method_of_block_sensing_has_a_rigorous_mode(run, tmp_path):
    command = "reconstruct @images/disc.png --simulate --model @gd-net.safetensors --rigorous --tol 0.5 --json --out"
    report = told(ok(run(command, tmp_path)))
    assert report["method"] == "gd-net"
    assert report["certificate"]["converged"]


def test_blockwise_is_another_problem(run, tmp_path):
    psnr = {}
    for flag in ("--blockwise", "--no-blockwise"):
        report = told(ok(run(f"{DISC} --rigorous --tol 0.5 {flag} --json --out", tmp_path / flag)))
        assert report["certificate"]["converged"]
        psnr[flag] = report["scores"]["reconstruction"]["psnr"]
    assert abs(psnr["--blockwise"] - psnr["--no-blockwise"]) > 0.05


def test_what_is_assumed_is_said(run, place, tmp_path):
    pixels = io.read_image(place / "images" / "disc.png").pixels
    for name, changes in {"a": {"operator": None}, "b": {"operator": None, "size": None}, "c": {}}.items():
        first_version(tmp_path / f"{name}.npz", place / "tv.safetensors", pixels, **changes)
    text = ok(run(f"reconstruct {tmp_path} --model @tv.safetensors --out", tmp_path / "out"))
    a, b, c = text.splitlines()
    for line in (a, b):
        assert "assumed: made with the Gaussian matrix of seed 0; the file has no operator" in line
    assert ("whole blocks" in a, "whole blocks" in b, "[assumed" in c) == (False, True, False)
    report = json.loads((tmp_path / "out" / "a_report.json").read_text())
    assert report["notes"][0].startswith("assumed: made with")


def test_evaluate_prints_rows_and_their_mean(run, tmp_path):
    command = "evaluate --data @images --model @tv.safetensors --csv"
    text = ok(run(command, tmp_path / "new" / "scores.csv"))
    assert [line.split()[0] for line in text.splitlines() if line[0] != "-"] == ["image", "colour", "disc", "mean"]
    with open(tmp_path / "new" / "scores.csv", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["method"] != "start"]
    assert [r["image"] for r in rows] == ["colour", "disc"]
    assert (rows[1]["height"], rows[1]["width"]) == ("21", "30")
    found = json.loads(ok(run("evaluate --data @images --model @tv.safetensors --json")))
    (mean,) = [s for s in found["table"] if s["method"] != "start"]
    assert mean["psnr"] == pytest.approx(sum(float(r["psnr"]) for r in rows) / 2)
    assert f"{mean['psnr']:.2f}" in text.splitlines()[-1]


def test_evaluate_small_image_has_no_ssim(run, tmp_path):
    np.save(tmp_path / "small.npy", np.full((6, 20), 0.5))
    found = json.loads(ok(run("evaluate --model @tv.safetensors --json --data", tmp_path)))
    assert {row["ssim"] for row in found["table"]} == {None}


def test_evaluate_compares_methods_in_tables_of_a_paper(run, tmp_path):
    command = "evaluate --problem inpaint --data @images/disc.png --side 16 --table noise --seed 4294967295 --json"
    options = ["--methods", "fista:iterations=5,lam-factor=2", "ista:iterations=5", "--out", tmp_path / "out"]
    found = json.loads(ok(run(command, *options)))
    assert names(tmp_path / "out") == ["curves.png", "table.csv", "table.json"]
    assert [c["name"] for c in found["conditions"]] == ["50% noise 5"]
    assert found["methods"] == options[1:3]
    assert [row["method"] for row in found["images"]] == ["start", *options[1:3]]
    assert {(row["height"], row["width"]) for row in found["images"]} == {(16, 16)}
    assert json.loads((tmp_path / "out" / "table.json").read_text()) == found["table"]


def test_evaluate_draws_pictures_that_end_at_different_iterations(run, tmp_path):
    command = "evaluate --problem inpaint --data @images --noise 0.05 --methods prior:iterations=30,tol=0.1 --json"
    ok(run(command, "--out", tmp_path / "out"))
    assert (tmp_path / "out" / "curves.png").stat().st_size > 1000
    short, long = ([1, 2], [0.5, 1.0], [-4.0, -6.0]), ([1, 2, 3], [1.0, 2.0, 3.0], [-2.0, -4.0, -8.0])
    iterations, seconds, scores = evaluate.mean_curve([short, long])
    assert (iterations.tolist(), seconds.tolist()) == ([1, 2, 3], [0.75, 1.5, 2.0])
    assert scores.tolist() == [-3.0, -5.0, -7.0]


@pytest.mark.parametrize("problem", ["", "--problem inpaint --iterations 3"])
def test_demo_runs_on_a_real_image(run, tmp_path, problem):
    options = problem or "--model @tv.safetensors"
    text = ok(run(f"demo --image coins {options} --out", tmp_path))
    for word in ("PSNR", "SSIM", "time", "backend", "certificate", str(tmp_path / "coins_figure.png")):
        assert word in text
    assert (tmp_path / "coins_figure.png").stat().st_size > 10_000


def test_info_tells_what_is_used(run):
    found = json.loads(ok(run("info --json")))
    assert found["backends"] == fr.backends()
    assert list(found["models"]) == fr.pretrained()
    assert fr.__version__ in ok(run("info"))


def test_images_of_scikit_image_everywhere(run, tmp_path):
    small = "--model @tv.safetensors"
    for command in ("simulate skimage:cell --out", "reconstruct skimage:cell --simulate --no-figure --out"):
        assert "cell" in ok(run(f"{command} {tmp_path / command.split()[0]} {small}"))
    assert "cell" in ok(run(f"evaluate --data skimage:cell {small}"))
    assert "cell" in ok(run(f"demo --image skimage:cell --no-figure {small} --out", tmp_path / "demo"))


@pytest.fixture
def small_bench(monkeypatch):
    for name, value in {"SIDE": 32, "CHANNELS": 4, "LAYERS": 2, "PHASES": 2, "TRAIN_BATCH": 1}.items():
        monkeypatch.setattr(bench, name, value)


@pytest.mark.usefixtures("small_bench")
def test_bench_checks_and_times(run, tmp_path):
    found = json.loads(ok(run("bench --quick --rounds 1 --json --figure", tmp_path / "speed.png")))
    assert len(found["rows"]) == 8
    for row in found["rows"]:
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


@pytest.mark.parametrize("m", [16, 40])
def test_measurements_of_your_own_matrix(run, place, tmp_path, m):
    """An array y and a matrix, both from elsewhere."""
    phi = np.linalg.qr(np.random.default_rng(0).standard_normal((BLOCK**2, m)))[0].T.astype(np.float32)
    x = io.read_image(place / "images" / "disc.png").pixels[:16, :24]
    blocks = x.reshape(2, BLOCK, 3, BLOCK).transpose(0, 2, 1, 3).reshape(2, 3, -1)
    np.save(tmp_path / "phi.npy", phi)
    np.savez(tmp_path / "y.npz", y=(blocks @ phi.T).astype(np.float32), size=np.array(x.shape))
    options = ["--problem", "block-cs", "--phi", tmp_path / "phi.npy", "--block", BLOCK, "--method", "fista", "--json"]
    report = told(ok(run("reconstruct", tmp_path / "y.npz", *options, "--out", tmp_path / "out")))
    assert report["size"] == [16, 24]
    found = io.read_image(report["files"]["reconstruction"]).pixels
    assert np.abs(found - x).mean() < 0.15
