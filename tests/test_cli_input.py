"""The command line with bad input: one line that names the cause, status 2, nothing written."""

import os

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

from commands import SIZE, first_version, names, ok
from safetensors.torch import save_file

import fastrecon as fr
from fastrecon import io
from fastrecon.cli import info

SIMULATED = "reconstruct @images/disc.png --simulate"


def empty(folder) -> bool:
    """Whether nothing was written."""
    return not folder.exists() or names(folder) == []


@pytest.fixture
def pixels(place):
    """The disc."""
    return io.read_image(place / "images" / "disc.png").pixels


def test_measurements_for_another_model(run, fails, tmp_path, place, pixels):
    ok(run("simulate @images/disc.png --model @tv.safetensors --out", tmp_path / "y"))
    (tmp_path / "old").mkdir()
    first_version(tmp_path / "old" / "disc.npz", place / "tv.safetensors", pixels)
    out = tmp_path / "out"
    for y in (tmp_path / "y", tmp_path / "old"):
        fails(
            "reconstruct --model @other-ratio.safetensors --out", out, y,
            words=("disc.npz", "expected 16 measurements per block (ratio 25%)", "got 32"),
        )  # fmt: skip
        for model in ("other-phi", "own-phi"):
            words = ("disc.npz", "sampling matrix", "another", "tv.safetensors")
            fails(f"reconstruct --model @{model}.safetensors --out", out, y, words=words)
    fails(f"reconstruct {tmp_path}/old --phi-seed 3 --out", out, words=("disc.npz", "operator", "--phi-seed"))
    assert empty(out)


def test_options_that_a_file_says_itself(run, fails, tmp_path):
    ok(run("simulate @images/disc.png --model @tv.safetensors --out", tmp_path / "y"))
    ok(run("simulate @images/disc.png --problem inpaint --out", tmp_path / "m"))
    out = tmp_path / "out"
    fails("reconstruct --noise 0.1 --out", out, tmp_path / "y", words=("--noise", "disc.npz", "simulate"))
    fails("reconstruct --mask x.png --out", out, tmp_path / "m", words=("--mask", "disc.npz", "simulate"))
    assert empty(out)


def test_measurements_of_another_problem(run, fails, tmp_path):
    ok(run("simulate @images/disc.png --problem inpaint --out", tmp_path / "y"))
    words = ("disc.npz", "measurements of mri", "those of inpaint")
    fails("reconstruct --problem mri --out", tmp_path / "out", tmp_path / "y", words=words)
    assert empty(tmp_path / "out")


def test_divergence_is_not_written_as_an_image(fails, place, tmp_path):
    model = fr.load(place / "tv.safetensors")
    with torch.no_grad():
        model.solver.raw_alpha.fill_(1e30)
    model.save(tmp_path / "wild.safetensors")
    fails(f"{SIMULATED} --out", tmp_path / "out", "--model", tmp_path / "wild.safetensors", words=("diverged",))
    assert empty(tmp_path / "out")


BAD_FILES = {
    "missing.png": (lambda p: None, "no such file"),
    "nan.npy": (lambda p: np.save(p, np.array([[0.5, np.nan]])), "NaN"),
    "empty.png": (lambda p: p.touch(), "0 bytes"),
    "corrupt.png": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n and no more"), "damaged"),
    "folder": (lambda p: p.mkdir(), "found none"),
    "objects.npy": (lambda p: np.save(p, np.array([[{}]]), allow_pickle=True), "objects.npy"),
    "pipe.png": (os.mkfifo, "pipe"),
}
BAD_MEASUREMENTS = {
    "missing.npz": (lambda p: None, "no such file"),
    "nan.npz": (lambda p: np.savez(p, y=np.full((1, 1, 32), np.nan)), "NaN"),
    "corrupt.npz": (lambda p: p.write_bytes(b"PK and no more"), "damaged"),
    "corrupt.safetensors": (lambda p: p.write_bytes(b"\xff" * 20), "damaged"),
    "picture.png": (lambda p: io.write_image(p, np.full((8, 8), 0.5)), "--simulate"),
    "folder": (lambda p: p.mkdir(), "found none"),
}
COMMANDS = (
    "simulate --model @tv.safetensors", "reconstruct --simulate --model @tv.safetensors",
    "reconstruct --problem impulse", "reconstruct --simulate --problem mri",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_picture(fails, tmp_path, command, name):
    make, word = BAD_FILES[name]
    make(tmp_path / name)
    fails(f"{command} --out", tmp_path / "out", tmp_path / name, words=(name, word))
    assert empty(tmp_path / "out")


@pytest.mark.parametrize("name", BAD_MEASUREMENTS)
def test_bad_measurements(fails, tmp_path, name):
    make, word = BAD_MEASUREMENTS[name]
    make(tmp_path / name)
    fails("reconstruct --model @tv.safetensors --out", tmp_path / "out", tmp_path / name, words=(name, word))
    assert empty(tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y": np.full((3, 4, 32), 3e38, np.float32)}, ("diverged", "3e+38")),
        ({"y": np.zeros((3, 4, 31), np.float32)}, ("operator", "31 numbers a block")),
        ({"operator": "1 two"}, ("operator", "1 two")),
        ({"operator": np.zeros((2, 2))}, ("operator",)),
        ({"model": np.arange(3)}, ("model: expected",)),
        ({"model": " "}, ("--model", "another")),
        ({"model": "no-such"}, ("no-such", "--model")),
        ({"size": np.array([3, -1])}, ("size", "-1")),
        ({"size": np.array([21, 33])}, ("size", "(21, 33)")),
    ],
)
def test_odd_measurements_name_their_file(fails, place, pixels, tmp_path, changes, words):
    first_version(tmp_path / "odd.npz", place / "tv.safetensors", pixels, **changes)
    model = "" if "model" in changes else f"--model {place}/tv.safetensors"
    fails(f"reconstruct {model} --out", tmp_path / "out", tmp_path / "odd.npz", words=("odd.npz", *words))
    assert empty(tmp_path / "out")


# Problems whose files and options do not fit each other


def array(a) -> object:
    """Writes an array."""
    return lambda p: np.save(p, a)


RANDOM = np.random.default_rng(0).random
MISFITS = {
    "no mask": ("--problem inpaint @images/disc.png", {}, ("disc.png", "--mask", "every pixel is known")),
    "mask of another size": (
        "--problem inpaint @images/disc.png --mask #m.npy", {"m.npy": array(np.ones((4, 4)))}, ("disc.png", "m.npy")
    ),
    "mask inverted": (
        "--problem inpaint @images/disc.png --mask #m.npy", {"m.npy": array(np.zeros(SIZE))}, ("disc.png", "mask")
    ),
    "missing mask": ("--problem inpaint @images/disc.png --mask #m.npy", {}, ("m.npy", "no such file")),
    "no kernel": ("--problem deblur @images/disc.png", {}, ("disc.png", "--kernel", "a file")),
    "kernel too large": (
        "--problem deblur @images/disc.png --kernel #k.npy", {"k.npy": array(np.ones((41, 41)))}, ("41x41", "21x30")
    ),
    "kernel of zeros": (
        "--problem deblur @images/disc.png --kernel #k.npy", {"k.npy": array(np.zeros((3, 3)))}, ("k.npy",)
    ),
    "no angles": ("--problem ct #s.npy", {"s.npy": array(RANDOM((8, 12)))}, ("s.npy", "--angles")),
    "views and angles": (
        "--problem ct #s.npy --angles 0:180:9", {"s.npy": array(RANDOM((8, 12)))}, ("s.npy", "--angles", "9", "8 x 12")
    ),
    "complex sinogram": (
        "--problem ct #s.npy --angles 8", {"s.npy": array(RANDOM((8, 12)) + 1j)}, ("s.npy", "real")
    ),
    "no k-space": ("--problem mri @images/disc.png", {}, ("disc.png", "--simulate")),
    "k-space of zeros": ("--problem mri #k.npy", {"k.npy": array(np.zeros((16, 16), complex))}, ("k.npy", "0")),
    "real k-space": ("--problem mri #k.npy", {"k.npy": array(RANDOM((16, 16)))}, ("k.npy", "complex")),
    "complex photograph": ("--problem deblur --kernel #k.npy #p.npy", {
        "k.npy": array(np.ones((3, 3)) / 9), "p.npy": array(RANDOM((16, 16)) + 1j)}, ("p.npy",)),
    "matrix too large": (
        "--problem block-cs --simulate @images/disc.png --block 1024 --method fista", {}, ("disc.png", "--block")
    ),
    "image too large": (
        "--problem ct #s.npy --angles 8 --size 100000", {"s.npy": array(RANDOM((8, 12)))}, ("s.npy", "--size")
    ),
    "pixels too small": ("--problem ct #s.npy --angles 8 --pitch 1e9 --pixel 1e-9", {
        "s.npy": array(RANDOM((8, 12)))}, ("s.npy", "--size", "--pixel")),
    "no matrix": ("--problem block-cs #y.npz --phi #phi.npy --block 8", {
        "y.npz": lambda p: np.savez(p, y=np.zeros((1, 1, 4), np.float32))}, ("phi.npy", "no such file")),
    "another matrix": ("--problem block-cs #y.npz --phi #phi.npy --block 8 --method fista", {
        "phi.npy": array(np.eye(5, 64)), "y.npz": lambda p: np.savez(p, y=np.zeros((1, 1, 4), np.float32))},
        ("y.npz", "expected 5 measurements per block", "4")),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit(fails, tmp_path, name):
    command, files, words = MISFITS[name]
    for file_name, make in files.items():
        make(tmp_path / file_name)
    fails(f"reconstruct {command.replace('#', f'{tmp_path}/')} --out", tmp_path / "out", words=words)
    assert empty(tmp_path / "out")


# Models


@pytest.mark.parametrize(
    "text", ["[]", "3", "null", "{", '"x"', "[" * 100_000, '{"format": 1}', '{"format": 1, "method": []}',
             '{"format": 1, "method": "lda"}', '{"format": 1, "method": "lda", "phi_seed": "x", "phi_sample": 1}'],
    ids=lambda t: t[:40],
)  # fmt: skip
def test_odd_metadata_names_the_file(fails, tmp_path, text):
    save_file({"q": torch.zeros(4, 2)}, tmp_path / "odd.safetensors", {"fastrecon": text})
    fails("evaluate --data @images --model", tmp_path / "odd.safetensors", words=("odd.safetensors",))


def test_unknown_model(fails, tmp_path):
    known = ", ".join(fr.pretrained()[:8])  # the line ends somewhere
    out = tmp_path / "out"
    fails("reconstruct @images --simulate --model lda-cs-26 --out", out, words=("lda-cs-26", "one of", known))
    fails("demo --ratio 26 --out", out, words=("lda-cs-26", "one of", known))
    assert names(tmp_path) == []


@pytest.mark.parametrize("keep", [0, 4, 1000, -10])
def test_damaged_weights(fails, place, tmp_path, keep):
    (tmp_path / "bad.safetensors").write_bytes((place / "tv.safetensors").read_bytes()[:keep])
    fails("evaluate --data @images --model", tmp_path / "bad.safetensors", words=("bad.safetensors",))


def test_measurements_are_no_model(run, fails, tmp_path):
    ok(run("simulate @images/disc.png --model @tv.safetensors --format safetensors --out", tmp_path))
    fails("evaluate --data @images --model", tmp_path / "disc.safetensors", words=("disc.safetensors", "measurement"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--problem inpaint --model lda-cs-25", ("--model: expected a model for inpaint, got one for block-cs",)),
        ("--model lda-cs-25 --method fista", ("--method: expected lda, that of --model, got 'fista'",)),
        ("--problem impulse --method lda", ("--method: expected one of", "for impulse", "'lda'")),
        ("--problem deblur --method sgp-step", ("sgp-step", "--model", "a model of sgp-step for deblur")),
        ("--problem inpaint --method unet --model missing.safetensors", ("missing.safetensors", "no such file")),
        ("--method fista", ("--problem", "one of", "inpaint")),
    ],
)
def test_models_and_methods_of_other_problems(fails, tmp_path, options, words):
    fails(f"{SIMULATED} {options} --out", tmp_path / "out", words=words)
    assert empty(tmp_path / "out")


# Where results go


@pytest.mark.parametrize("command", ["simulate @images", "reconstruct @images --simulate", "demo"])
def test_output_folder_not_writable(fails, tmp_path, command):
    (tmp_path / "file").touch()
    fails(f"{command} --model @tv.safetensors --out", tmp_path / "file" / "x", words=("writable output folder", "file"))


def test_output_file_is_a_folder(fails, tmp_path):
    fails("evaluate --data @images --model @tv.safetensors --csv", tmp_path, words=("a folder",))
    fails("bench --figure", tmp_path, words=("a folder",))


# The command line itself

BAD_ARGUMENTS = [
    ("", ("COMMAND",)),
    ("polish", ("polish", "demo")),
    ("simulate @images --problem impulse", ("--out", "fastrecon simulate --help")),
    (f"{SIMULATED} --out x", ("--problem", "one of", "--model")),
    ("evaluate --data @images", ("--problem", "one of", "--model")),
    ("evaluate --data @images --problem inpaint --table figures", ("table", "figures", "rates")),
    ("evaluate --data @images --problem inpaint --methods nobody", ("method", "nobody", "fista")),
    ("evaluate --data @images --problem inpaint --methods fista:steps=3", ("--methods", "steps=3", "iterations")),
    ("evaluate --data @images --problem inpaint --methods fista:tol=x", ("--methods", "tol=x", "a number in [0, 1]")),
    ("evaluate --data @images --model @tv.safetensors --device tpu", ("--device", "tpu", "cpu")),
    ("evaluate --data @images --model @tv.safetensors --device cuda:97", ("--device", "cuda:97", "cpu")),
    ("evaluate --data @images --problem ct --device cuda:\u00b2", ("--device", "cuda:\u00b2", "cpu")),
    (f"{SIMULATED} --out x --problem ct --device cuda:{'9' * 5000}", ("--device", "cpu")),
    (f"simulate @images --out x --format {'z' * 5000}", ("--format", "zzz")),
    (f"{SIMULATED} --out x --problem {'z' * 5000}", ("--problem", "zzz")),
    (f"{SIMULATED} --out x --problem ct --method {'z' * 5000}", ("--method", "zzz")),
    ("demo --image nobody --model @tv.safetensors --out x", ("--image", "nobody", "camera")),
    ("reconstruct @images --problem impulse --seed 3 --out x", ("--seed", "--simulate")),
    ("reconstruct @images --problem inpaint --rate 0.5 --out x", ("--rate", "--simulate")),
    (f"{SIMULATED} --prob inpaint --out x", ("unrecognized", "--prob")),
    (f"{SIMULATED} --problem ct --source-distance 3 --out x", ("--source-distance", "--geometry fan")),
    (f"{SIMULATED} --problem ct --angles 0 --out x", ("--angles",)),
    (f"{SIMULATED} --problem inpaint --wavelet sinc --out x", ("wavelet", "sinc")),
    (f"{SIMULATED} --problem inpaint --lam much --out x", ("--lam", "much")),
    (f"{SIMULATED} --problem block-cs --size 3 --out x", ("--size", "HEIGHTxWIDTH", "3")),
    ("train", ("RECIPE",)),
]
FORMER = [
    ("reconstruct @images --task cs --out x", "--task: expected --problem block-cs, its name now"),
    ("evaluate --data @images --task saltpepper", "--task: expected --problem impulse, its name now"),
    ("reconstruct @images --problem fourier --out x", "--problem: expected mri, its name now, got fourier"),
    ("reconstruct @images --max-iterations 3 --out x", "--max-iterations: expected --iterations, its name now"),
    ("reconstruct @images --problem ct --views 3 --out x", "--views: expected --angles, its name now"),
    ("evaluate --data @images --networks x", "--networks: expected --methods, its name now"),
]


@pytest.mark.parametrize(("command", "words"), BAD_ARGUMENTS, ids=lambda v: v[:60] if isinstance(v, str) else "")
def test_bad_arguments(fails, command, words):
    assert len(fails(command, words=words)) < 1000


@pytest.mark.parametrize(("command", "said"), FORMER)
def test_former_names_are_told(fails, command, said):
    fails(command, words=(said,))


def test_the_last_of_an_option_given_twice_counts(run, tmp_path):
    command = f"{SIMULATED} --problem ct --problem inpaint --method ista --method=fista --no-figure --out"
    assert "fista" in ok(run(command, tmp_path / "out"))


def test_values_of_options_are_no_inputs(run, tmp_path):
    """A folder with measurements of another problem, named by --out, does not choose the problem."""
    ok(run("simulate @images/disc.png --problem inpaint --out", tmp_path / "m"))
    ok(run("simulate @images/disc.png --model @tv.safetensors --out", tmp_path / "y"))
    text = ok(run(f"reconstruct --json --no-figure --out {tmp_path / 'm'} --overwrite {tmp_path / 'y'}"))
    assert '"problem": "block-cs"' in text


def test_unknown_backend(fails, monkeypatch):
    monkeypatch.setenv("FASTRECON_BACKEND", "abacus")
    fails("info", words=("FASTRECON_BACKEND", "abacus", "reference"))


@pytest.mark.parametrize("command", ["simulate --problem impulse --out x", "reconstruct --problem impulse --out x"])
def test_empty_inputs(fails, command):
    fails(command, "", words=("expected a name, got ''",))


# Errors from inside


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


def test_debug_shows_where(run, monkeypatch):
    monkeypatch.setenv("FASTRECON_DEBUG", "1")
    with pytest.raises(ValueError, match="no-such-model"):
        run("evaluate --data @images --model no-such-model")
