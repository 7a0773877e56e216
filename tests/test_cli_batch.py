"""Commands over many inputs: one bad one stops no other, results that exist, runs that end early, what is printed."""

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

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

from commands import names, ok

from fastrecon import io
from fastrecon.cli import main as cli
from fastrecon.cli import output
from fastrecon.problems import file

LIGHT = "--no-figure --out"
COMMANDS = {
    "simulate": ("simulate @ --model @tv.safetensors --out", "{}.npz"),
    "block-cs": (f"reconstruct @ --simulate --model @tv.safetensors {LIGHT}", "{}_report.json"),
    "impulse": (f"reconstruct @ --problem impulse {LIGHT}", "{}_report.json"),
    "inpaint": (f"reconstruct @ --simulate --problem inpaint --iterations 2 {LIGHT}", "{}_report.json"),
}
SCORES = {
    "block-cs": "evaluate --model @tv.safetensors --data @",
    "impulse": "evaluate --problem impulse --methods d-ladmm --data @",
    "inpaint": "evaluate --problem inpaint --methods fista:iterations=2 --table noise --side 16 --data @",
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


@pytest.mark.parametrize("name", COMMANDS)
def test_one_bad_input_stops_no_other(run, several, tmp_path, name):
    command, made = COMMANDS[name]
    status, out, err = run(command.replace("@ ", f"{several} "), tmp_path / "out")
    assert status == 2
    assert out.count("->") == 2
    assert err.startswith("fastrecon: 1 of 3 inputs failed, 2 done: ")
    assert "b.png: expected" in err
    assert err.count("\n") == 1
    assert {made.format("a"), made.format("c")} <= set(names(tmp_path / "out"))
    assert not [n for n in names(tmp_path / "out") if n.startswith(("b", "."))]


def test_one_bad_file_of_measurements_stops_no_other(run, several, tmp_path):
    status, _, _ = run(f"simulate {several} --model @tv.safetensors --out", tmp_path / "y")
    assert status == 2
    for name in ("0.npz", "b.npz"):  # the first does not tell the problem
        (tmp_path / "y" / name).write_bytes(b"PK and no more")
    status, out, err = run(f"reconstruct {tmp_path / 'y'} {LIGHT}", tmp_path / "out")
    assert (status, out.count("->")) == (2, 2)
    assert "2 of 4 inputs failed, 2 done" in err


@pytest.mark.parametrize("name", SCORES)
def test_one_bad_image_costs_only_its_row(run, several, tmp_path, name):
    command = SCORES[name].replace("--data @", f"--data {several}")
    status, out, err = run(f"{command} {several / 'missing.png'} --json --csv", tmp_path / "t.csv")
    found = json.loads(out)
    assert status == 2
    assert list(dict.fromkeys(row["image"] for row in found["images"])) == ["a", "c"]
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
    command = f"reconstruct {several} --simulate --model @tv.safetensors --json {LIGHT}"
    status, out, _ = run(command, tmp_path / "out")
    assert status == 2
    assert ["error" in row for row in json.loads(out)] == [False, False, True]


def test_what_exists_is_kept_replaced_or_skipped(run, fails, several, tmp_path):
    (several / "b.png").unlink()
    out = tmp_path / "out"
    command = f"reconstruct {several} --simulate --model @tv.safetensors {LIGHT} {out}"
    ok(run(command))
    made = [f"{stem}_{kind}" for stem in "ac" for kind in ("reconstruction.npy", "report.json")]
    assert names(out) == made
    mark = (out / made[0]).stat().st_mtime_ns
    fails(command, words=(made[0], "and 3 more", "--overwrite or --skip-existing"))
    (out / "c_report.json").unlink()  # written last: c was not finished
    text = ok(run(f"{command} --skip-existing"))
    assert "1 of 2 inputs skipped" in text
    assert text.count("->") == 1
    assert (out / made[0]).stat().st_mtime_ns == mark
    (skipped,) = [r for r in json.loads(ok(run(f"{command} --skip-existing --json"))) if r["input"].endswith("a.npy")]
    assert skipped["skipped"] is True
    ok(run(f"{command} --overwrite"))
    assert (out / made[0]).stat().st_mtime_ns > mark
    fails(f"{command} --overwrite --skip-existing", words=("--skip-existing", "not allowed"))


@pytest.mark.parametrize(
    ("command", "made"),
    [
        ("simulate @images/disc.png --model @tv.safetensors --out {}", "disc.npz"),
        ("demo --image coins --model @tv.safetensors --out {}", "coins_figure.png"),
        ("demo --image coins --model @tv.safetensors --bits 32 --out {}", "coins_reconstruction.tif"),
        ("reconstruct @images/disc.png --simulate --model @tv.safetensors --features --out {}", "disc_features.png"),
        ("reconstruct @images/disc.png --problem impulse --out {}", "disc_figure.png"),
        ("reconstruct @images/disc.png --simulate --problem inpaint --out {}", "disc_reconstruction.png"),
        ("reconstruct @images/disc.png --simulate --problem inpaint --bits 32 --out {}", "disc_reconstruction.tif"),
        ("evaluate --data @images --model @tv.safetensors --csv {}/t.csv", "t.csv"),
        ("evaluate --data @images --problem impulse --csv {}/t.csv", "t.csv"),
        ("evaluate --data @images --problem inpaint --out {}", "curves.png"),
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
    "command",
    [
        "simulate {} --problem impulse --out {}",
        "reconstruct {} --problem impulse --out {}",
        "evaluate --problem ct --data {} --out {}",
    ],
)
def test_results_do_not_go_among_the_inputs(fails, several, tmp_path, command):
    (tmp_path / "link").symlink_to(several)
    for out in (several, tmp_path / "link", f"{several}/../in"):
        fails(command.format(several, out), words=("--out", "another folder"))
    assert names(several) == ["a.npy", "b.png", "c.npy"]


def test_two_inputs_one_output(fails, place, tmp_path):
    image, out = place / "images" / "disc.png", tmp_path / "out"
    command = "reconstruct --simulate --model @tv.safetensors --out"
    fails(command, out, image, image, words=("different names", "disc"))
    assert names(tmp_path) == []


def test_an_output_never_replaces_an_input(fails, tmp_path):
    image = tmp_path / "a.png"
    io.write_image(image, np.full((40, 40), 0.5))
    before = image.read_bytes()
    command = f"evaluate --problem impulse --data {image} --overwrite --csv"
    fails(command, image, words=("a.png", "another file than the input"))
    assert image.read_bytes() == before


# What a run leaves when it ends early


def test_interruption(run, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(output.Job, "compute", interrupted)
    status, out, err = run("reconstruct @images --simulate --model @tv.safetensors --out", tmp_path)
    assert (status, out, err) == (130, "", "fastrecon: interrupted\n")
    assert names(tmp_path) == []


def test_interruption_loses_nothing_done(run, several, tmp_path, monkeypatch):
    (several / "b.png").unlink()
    usual, calls = io.read_picture, []

    def interrupted(path):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return usual(path)

    monkeypatch.setattr(io, "read_picture", interrupted)
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
@pytest.mark.parametrize("command", ["simulate skimage:coins", "reconstruct skimage:coins --simulate --no-figure"])
def test_full_disk(fails, tmp_path, command):
    fails(f"{command} --model @tv.safetensors --out", tmp_path / "out", words=("coins", "too large"))
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

    monkeypatch.setattr(file, "write", full)
    status, _, err = run(f"simulate {several} --model @tv.safetensors --out", tmp_path / "out")
    assert status == 2
    assert err.count("No space left") == 1
    assert "a.npy" in err


# What is said, and where it goes


class Stream(StringIO):
    """A stdout that fails."""

    def __init__(self, fault: OSError):
        super().__init__()
        self.fault = fault

    def write(self, text: str) -> int:
        raise self.fault


@pytest.mark.parametrize(("fault", "status"), [(BrokenPipeError(), 0), (OSError(errno.ENOSPC, "No space left"), 2)])
def test_printing_costs_no_results(capsys, place, tmp_path, monkeypatch, fault, status):
    monkeypatch.setattr(sys, "stdout", Stream(fault))
    argv = ["reconstruct", f"{place}/images", "--simulate", "--model", f"{place}/tv.safetensors", *LIGHT.split()]
    assert cli.main([*argv, str(tmp_path)]) == status
    assert len(names(tmp_path)) == 4
    err = capsys.readouterr().err
    assert err == "" if status == 0 else "stdout: No space left" in err


def test_ascii_alone(place, monkeypatch):
    raw = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(raw, encoding="ascii"))
    command = SCORES["inpaint"].replace("--table", "ista:iterations=2 --table").replace("@", f"{place}/images")
    assert cli.main(command.split()) == 0
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
        text = ok(run(f"reconstruct {y} {LIGHT}", y / "done"))
        assert text.count("\n") == 1
    found = json.loads(ok(run(f"evaluate --model @tv.safetensors --json --data {tmp_path / 'in'}")))["images"]
    assert found[-1]["psnr"] > 20
    ok(run(f"evaluate --model @tv.safetensors --csv {tmp_path / 't.csv'} --data {tmp_path / 'in'}"))


@pytest.mark.skipif(os.name == "nt", reason="pipes break otherwise there")
def test_reader_that_leaves():
    command = [sys.executable, "-m", "fastrecon", "info"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
