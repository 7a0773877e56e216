"""What a training run survives: hostile options and names, two at once, damaged files, NaN, kills."""

import csv
import dataclasses
import io
import json
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fastrecon as fr
from fastrecon.cli.main import main
from fastrecon.models.sparse_coding import SparseCoder
from fastrecon.train import checkpoint, commandline, progress
from fastrecon.train.claim import HOLDER, LOCK, Claim
from fastrecon.train.export import mend, write_pair
from fastrecon.train.log import Log, line
from fastrecon.train.loop import CHECKPOINT, PREVIOUS
from fastrecon.train.objective import Score
from fastrecon.train.progress import Progress, duration
from fastrecon.train.recipes import dladmm, lda_cs, sgp
from fastrecon.train.recipes.synthetic import Synthetic
from fastrecon.train.world import World

SMALL = {
    "problem": "sparse-coding", "rows": 12, "columns": 6, "samples": 32, "test-samples": 8, "batch": 8, "layers": 2,
    "steps": 12, "validate-every": 4,
}  # fmt: skip
CONFIGS = {"lda-cs": lda_cs.Config, "dladmm": dladmm.Config, "sgp": sgp.Config}


@pytest.fixture(autouse=True)
def _without_figure(monkeypatch):
    """The figure at the end takes a second and is tested elsewhere."""
    monkeypatch.setattr(Synthetic, "finish", lambda self: None)


def train(out: Path, *extra: str, resume: bool = False, **changes) -> int:
    words = [] if resume else [w for k, v in (SMALL | changes).items() for w in (f"--{k.replace('_', '-')}", str(v))]
    return main(["train", "dladmm", "--out", str(out), *words, *(["--resume"] if resume else []), *extra])


def said(capsys) -> str:
    """What the command wrote on standard error last: one line."""
    return capsys.readouterr().err.splitlines()[-1]


def rows(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "log.csv").read_text().splitlines()))


def settings(kind: str, **changes):
    needed = {"lda-cs": {"data": ["x"]}, "dladmm": {"problem": "sparse-coding"}, "sgp": {"data": ["x"]}}[kind]
    return CONFIGS[kind](**(needed | changes))


def numbers(kind: str) -> list[dataclasses.Field]:
    return [f for f in dataclasses.fields(CONFIGS[kind]) if f.metadata.get("type") in (int, float)]


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_number_has_a_range_that_is_checked_and_told(kind, capsys):
    assert main(["train", kind, "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for field in numbers(kind):
        within, several = field.metadata["within"], "nargs" in field.metadata
        assert f"in {within.text}" in told
        flag = "--" + field.name.replace("_", "-")
        for value in (math.nan, math.inf, -math.inf, -1, 1e300, 10**23, "3", None, True):
            with pytest.raises(ValueError, match=f"^train: {flag}: expected .*, got ") as error:
                settings(kind, **{field.name: [value] if several else value})
            assert "\n" not in str(error.value)
    settings(kind)  # the defaults lie in their ranges
    for name, preset in lda_cs.PRESETS.items():
        assert kind != "lda-cs" or settings(kind, **preset), name


def test_groups_of_a_unet_are_whole():
    for width in (1, 4, 8, 12, 64):
        sgp.Config(["x"], method="unet", width=width)
    for width in (11, 28):
        with pytest.raises(ValueError, match=r"^train: --width: expected a multiple of 8"):
            sgp.Config(["x"], method="unet", width=width)
        sgp.Config(["x"], method="sgp", width=width)  # has none


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr", "inf"], "train: --lr: expected a number in (0, 1000], got inf"),
        (["--lr", "nan"], "train: --lr: expected a number in (0, 1000], got nan"),
        (["--lr", "0"], "train: --lr: expected a number in (0, 1000], got 0.0"),
        (["--lr", "1e300"], "train: --lr: expected a number in (0, 1000], got 1e+300"),
        (["--seed", "100000000000000000000000"], "train: --seed: expected an integer in [0, 2147483647], got 1000"),
        (["--threads", "99999999999"], "argument --threads: expected an integer in [1, 1024], got 99999999999"),
        (["--threads", "0"], "argument --threads: expected an integer in [1, 1024], got 0"),
        (["--out", ""], "train: --out: expected the name of a folder, got ''"),
        (["--device", "cuda:²"], "train: --device: expected cpu, cuda, cuda:N or auto, got 'cuda:²'"),
        (["--data", ""], "train: --data: expected names of folders or files"),
    ],
    ids=lambda v: " ".join(v)[:20] if isinstance(v, list) else "",
)
def test_hostile_options_are_one_line_and_leave_nothing(words, message, tmp_path, capsys):
    assert train(tmp_path / "a" / "b", *words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    "name", ["../../evil", "/tmp/evil", "a/b", "..", ".hidden", "a b", "a\nb", "a\x00", "-x", "ö", "x" * 101, "$a"]
)
def test_a_name_is_one_safe_part_of_a_path(kind, name):
    with pytest.raises(ValueError, match=r"^train: --name: expected letters, digits and") as error:
        settings(kind, name=name)
    assert "\n" not in str(error.value)
    assert settings(kind, name="My-model_2.5").name == "My-model_2.5"


def test_a_name_in_a_checkpoint_is_checked_too(tmp_path, capsys):
    assert train(tmp_path) == 0
    state = checkpoint.load(tmp_path / CHECKPOINT)
    state["settings"]["name"] = "../evil"
    checkpoint.save(tmp_path / CHECKPOINT, state)
    assert train(tmp_path, resume=True) == 2
    line = said(capsys)
    assert CHECKPOINT in line
    assert "--name: expected letters" in line


def test_two_runs_in_one_folder(tmp_path, capsys):
    first = Claim(tmp_path)
    first.take()
    assert train(tmp_path) == 2
    line = said(capsys)
    assert "--out: expected a folder that no other run uses" in line
    assert f"process {os.getpid()}, since 20" in line
    assert {p.name for p in tmp_path.iterdir()} == {LOCK, HOLDER}  # of the first
    (tmp_path / HOLDER).write_text("[")  # what it says is a help, not the lock
    assert train(tmp_path) == 2
    assert "another process is training in" in said(capsys)
    first.release()
    assert train(tmp_path) == 0
    assert not (tmp_path / HOLDER).exists()


def test_a_killed_run_holds_no_lock_and_loses_nothing(tmp_path):
    """kill -9 at any moment: the run goes on from its checkpoint to the same bits."""
    assert train(tmp_path / "whole", steps=60) == 0
    words = [w for k, v in (SMALL | {"steps": 60}).items() for w in (f"--{k}", str(v))]
    slow = (
        "import sys, time; from fastrecon.train.recipes.synthetic import Synthetic; loss = Synthetic.loss\n"
        "Synthetic.loss = lambda self: (time.sleep(0.02), loss(self))[1]\n"
        "from fastrecon.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", slow, "train", "dladmm", "--out", str(tmp_path / "cut"), *words]
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        end = time.monotonic() + 250
        while not (tmp_path / "cut" / PREVIOUS).exists() and time.monotonic() < end:
            assert run.poll() is None
            time.sleep(0.01)
        with pytest.raises(ValueError, match=f"process {run.pid}, since"):
            Claim(tmp_path / "cut").take()
    finally:
        run.kill()
        run.wait()
    stale = tmp_path / "cut" / f".{CHECKPOINT}.123.tmp"
    stale.write_bytes(b"half")
    with (tmp_path / "cut" / "log.csv").open("a") as file:
        file.write("5,K=2,0.0")
    assert train(tmp_path / "cut", resume=True) == 0
    assert not stale.exists()
    whole, cut = (checkpoint.load(tmp_path / name / CHECKPOINT)["task"]["module"] for name in ("whole", "cut"))
    assert all(torch.equal(whole[k], cut[k]) for k in whole)
    assert [r["loss"] for r in rows(tmp_path / "cut")] == [r["loss"] for r in rows(tmp_path / "whole")]


def test_every_flipped_byte_of_a_checkpoint_is_found(tmp_path):
    path = tmp_path / CHECKPOINT
    checkpoint.save(path, {"a": torch.arange(5.0), "b": {"sha256": '"sha256":"'}})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"expected a whole 'fastrecon checkpoint 2' in .*, got "):
            checkpoint.load(path)
    for end in range(0, len(whole), 11):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="expected a whole"):
            checkpoint.load(path)
    path.write_bytes(whole)
    assert checkpoint.load(path)["b"] == {"sha256": '"sha256":"'}


def test_a_checkpoint_without_a_checksum_is_still_read(tmp_path):
    from safetensors.torch import save

    tree = json.dumps({"dict": [["a", {"tensor": "/a"}]]})
    data = save({"/a": torch.ones(2)}, metadata={"format": checkpoint.OLDER, "tree": tree})
    (tmp_path / CHECKPOINT).write_bytes(data)
    assert torch.equal(checkpoint.load(tmp_path / CHECKPOINT)["a"], torch.ones(2))


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(damage, tmp_path, capsys):
    assert train(tmp_path / "whole") == 0
    assert train(tmp_path / "hurt") == 0
    path = tmp_path / "hurt" / CHECKPOINT
    whole = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(whole[:-8] + b"\1" * 8 if damage == "flip" else whole[:500])
    assert checkpoint.load(tmp_path / "hurt" / PREVIOUS)["step"] == 8
    before = (tmp_path / "hurt" / PREVIOUS).read_bytes()
    capsys.readouterr()
    assert train(tmp_path / "hurt", resume=True) == 0
    err = capsys.readouterr().err
    assert f"{str(path)!r}" in err
    assert f"continues from {PREVIOUS}, step 8" in err
    assert (tmp_path / "hurt" / checkpoint.DAMAGED).exists() is (damage != "gone")
    assert (tmp_path / "hurt" / PREVIOUS).read_bytes() == before  # the good one stayed until there was another
    a, b = (checkpoint.load(tmp_path / name / CHECKPOINT)["task"]["module"] for name in ("whole", "hurt"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_what_a_checkpoint_lacks_is_one_line_that_names_it(tmp_path, capsys):
    assert train(tmp_path) == 0
    path = tmp_path / CHECKPOINT
    (tmp_path / PREVIOUS).unlink()
    whole = checkpoint.load(path)
    first = next(iter(whole["task"]["module"]))
    headless = {k: v for k, v in whole["task"]["module"].items() if k != first}
    wrong = {
        **{f"the key {key!r}": {k: v for k, v in whole.items() if k != key} for key in whole if key not in
           ("kind", "exported", "changes")},
        "the key 'step' of a run's checkpoint, got str": whole | {"step": "8"},
        "no key 'module'": whole | {"task": {"generator": whole["task"]["generator"]}},
        first: whole | {"task": whole["task"] | {"module": headless}},
        "unexpected keyword argument 'colour'": whole | {"settings": whole["settings"] | {"colour": 1}},
        "--lr: expected a number": whole | {"settings": whole["settings"] | {"lr": math.inf}},
        "expected a run of train dladmm, got one of train sgp": whole | {"kind": "sgp"},
    }  # fmt: skip
    for message, state in wrong.items():
        checkpoint.save(path, state)
        assert train(tmp_path, resume=True) == 2
        line = said(capsys)
        assert message in line
        assert CHECKPOINT in line


def test_a_run_of_another_kind_is_not_continued_or_overwritten(tmp_path, capsys):
    assert train(tmp_path) == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file() and p.name != HOLDER}
    assert main(["train", "sgp", "--out", str(tmp_path), "--resume"]) == 2
    assert "--out: expected a run of train sgp, got one of train dladmm" in said(capsys)
    for name in (None, CHECKPOINT, PREVIOUS):
        if name:
            (tmp_path / name).unlink()
            del before[name]
        assert main(["train", "sgp", "--data", "x", "--out", str(tmp_path)]) == 2
        assert "--out: expected a new folder, or --resume to continue" in said(capsys)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file() and p.name != HOLDER} == before


def validations(monkeypatch, values) -> None:
    found = iter(values)
    monkeypatch.setattr(Synthetic, "validate", lambda self: Score("nmse", next(found), higher_is_better=False))


def test_nan_is_never_the_best(tmp_path, monkeypatch, capsys):
    validations(monkeypatch, [math.nan, -3.0, math.nan])
    assert train(tmp_path) == 0
    assert fr.load(tmp_path / "model.safetensors").meta["training"]["validation_nmse"] == -3
    assert fr.load(tmp_path / "model.safetensors").meta["training"]["steps"] == 8
    assert "validation NMSE nan dB: not kept" in capsys.readouterr().err
    assert [r["validation_nmse"] for r in rows(tmp_path)] == ["nan", "-3.0", "nan"]
    assert checkpoint.load(tmp_path / CHECKPOINT)["best"] == 3


def test_nothing_but_nan_writes_no_model(tmp_path, monkeypatch, capsys):
    validations(monkeypatch, [math.nan] * 3)
    assert train(tmp_path) == 2
    assert "validation: expected a finite nmse, got NaN each time: no model is written" in said(capsys)
    assert not (tmp_path / "model.safetensors").exists()
    assert not list(tmp_path.glob("*.md"))
    assert train(tmp_path, resume=True) == 2  # still none


def test_less_nmse_is_better(tmp_path, monkeypatch):
    validations(monkeypatch, [-2.0, -5.0, -4.0])
    assert train(tmp_path) == 0
    assert fr.load(tmp_path / "model.safetensors").meta["training"]["steps"] == 8


@pytest.mark.parametrize(("stage", "start"), [("K=3", "K=3, loss"), ("", "loss")])
def test_a_row_for_people_names_the_stage_where_there_is_one(stage, start):
    assert line({"stage": stage, "loss": 0.5}).startswith(start)


@pytest.mark.parametrize("what", ["loss", "parameter"])
def test_a_run_that_diverges_goes_on_with_a_lower_rate(what, tmp_path, monkeypatch, capsys):
    loss, calls = Synthetic.loss, iter(range(1, 10**6))

    def diverging(self):
        value, call = loss(self), next(calls)
        if call == 7 and what == "parameter":
            value = value + (next(self.module.parameters()).sum() - 1e30).square().sqrt() * math.inf * 0
        return value * (math.inf if call == 7 and what == "loss" else 1)

    with monkeypatch.context() as patch:
        patch.setattr(Synthetic, "loss", diverging)
        assert train(tmp_path) == 2
    line = said(capsys)
    assert (
        f"before step 8: {tmp_path / CHECKPOINT} is from before: go on with --resume and a lower --lr than 0.03" in line
    )
    assert checkpoint.load(tmp_path / CHECKPOINT)["step"] == 4
    assert train(tmp_path, "--lr", "0.01", resume=True) == 0
    assert "continues after step 4 of 12; --lr 0.01 instead of 0.03" in capsys.readouterr().err
    changes = ["--lr 0.01 instead of 0.03 from step 4"]
    assert checkpoint.load(tmp_path / CHECKPOINT)["changes"] == changes
    assert changes[0] in (tmp_path / "dladmm-sparse-coding.md").read_text()
    assert float(rows(tmp_path)[-1]["rate"]) < 0.01


def test_a_run_that_diverges_before_the_first_checkpoint_starts_again(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(Synthetic, "loss", lambda self: next(self.module.parameters()).sum() * math.nan)
        assert train(tmp_path) == 2
    assert "the loss became nan before step 4: there is no checkpoint yet: use a lower --lr than 0.03" in said(capsys)
    assert train(tmp_path) == 0


def test_an_interrupt_saves_no_parameters_that_are_nan(tmp_path, monkeypatch, capsys):
    loss, calls = Synthetic.loss, iter(range(1, 10**6))

    def interrupted(self):
        call = next(calls)
        if call == 6:
            signal.raise_signal(signal.SIGINT)
        return loss(self) * (math.nan if call == 6 else 1)

    monkeypatch.setattr(Synthetic, "loss", interrupted)
    assert train(tmp_path) == 2
    assert "a parameter became NaN or Inf before step 6" in said(capsys)
    assert checkpoint.load(tmp_path / CHECKPOINT)["step"] == 4


def test_a_full_disk_names_the_file_and_keeps_the_last_checkpoint(tmp_path, monkeypatch, capsys):
    assert train(tmp_path, steps=4) == 0
    whole = (tmp_path / CHECKPOINT).read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"train: .*{CHECKPOINT}: cannot be written \(No space left on device\)"):
        checkpoint.save(tmp_path / CHECKPOINT, {"a": 1}, tmp_path / PREVIOUS)
    assert (tmp_path / CHECKPOINT).read_bytes() == whole
    assert not [p for p in tmp_path.iterdir() if p.name.endswith("tmp")]


def test_no_moment_without_a_checkpoint(tmp_path, monkeypatch):
    """The name is never free, not even between the two renames; without hard links there is the one before."""
    path, before = tmp_path / CHECKPOINT, tmp_path / PREVIOUS
    checkpoint.save(path, {"n": 1}, before)
    replace, seen = os.replace, []

    def watched(a, b):
        replace(a, b)
        seen.append(checkpoint.latest(tmp_path)[0]["n"])

    monkeypatch.setattr(os, "replace", watched)
    checkpoint.save(path, {"n": 2}, before)
    assert (seen, checkpoint.load(before)["n"]) == ([1, 2], 1)
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links here")))
    checkpoint.save(path, {"n": 3}, before)
    assert (seen, checkpoint.load(before)["n"]) == ([1, 2, 2, 3], 2)


def test_a_log_with_torn_rows_is_mended(tmp_path):
    log = Log(tmp_path, 0)
    for k in (10, 20, 30):
        log.write({"step": k, "stage": "K=2", "rate": 0.1, "loss": 0.5, "psnr": 3.0, "seconds": 1.25})
    path = tmp_path / "log.csv"
    whole = path.read_bytes()
    for torn in (b"", b"30,K=2,0.1,0.5,3.0,,1.2", b"4", b"\0\0\0", b"x,y\r\n", b"\xff\xfe\r\n", b'5,"'):
        path.write_bytes(whole + torn)
        Log(tmp_path, 20)
        assert path.read_bytes() == whole[: whole.index(b"30,")], torn
    path.write_bytes(b"")
    Log(tmp_path, 20)
    assert path.read_bytes() == whole[: whole.index(b"10,")]


def test_logs_of_minus_an_nmse_are_continued_under_its_name(tmp_path):
    (tmp_path / "log.csv").write_text(
        "step,stage,rate,loss,psnr,validation_psnr,seconds\r\n10,K=2,0.1,0.5,,,1\r\n20,K=2,0.1,0.5,,7.5,2\r\n"
    )
    Log(tmp_path, 20).write({"step": 30, "validation_nmse": -8.0}, Score("nmse", -8.0, higher_is_better=False))
    assert [r["validation_nmse"] for r in rows(tmp_path)] == ["", "-7.5", "-8.0"]


def test_weights_and_card_are_a_pair(tmp_path, monkeypatch):
    assert train(tmp_path / "new") == 0
    weights, card = tmp_path / "new/model.safetensors", tmp_path / "new/dladmm-sparse-coding.md"
    whole = card.read_bytes()
    stamp = card.stat().st_mtime_ns
    assert mend(weights, card)
    assert card.stat().st_mtime_ns == stamp  # it is right: not touched
    card.write_text("of other weights")  # a crash between the two
    assert train(tmp_path / "new", resume=True) == 0
    assert card.read_bytes() == whole
    kept = weights.read_bytes()

    def full(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SparseCoder, "save", full)
    config = dladmm.Config("sparse-coding", rows=12, columns=6, samples=8, test_samples=4)
    task = Synthetic(config, World(), tmp_path / "new")
    with pytest.raises(OSError, match="No space"):
        task.export({"steps": 1, "validation_nmse": 1.0, "hours": 0, "processes": 1})
    assert (weights.read_bytes(), card.read_bytes()) == (kept, whole)
    assert not [p for p in (tmp_path / "new").iterdir() if p.name.endswith("tmp")]


def test_the_command_of_a_card_can_be_pasted_whatever_the_folder_is_called(tmp_path):
    folder = tmp_path / os.fsdecode(b"my $images \xff")
    text = commandline.command(settings("lda-cs", data=[str(folder)]), "lda-cs", ("ratio",))
    assert shlex.split(text) == ["fastrecon", "train", "lda-cs", "--data", folder.name, "--ratio", "25"]
    write_pair(tmp_path / "w", lambda path: path.write_text("weights"), tmp_path / "card.md", text)
    assert "my $images \\udcff" in (tmp_path / "card.md").read_text()


def test_a_model_that_is_gone_is_written_again(tmp_path):
    assert train(tmp_path) == 0
    state = checkpoint.load(tmp_path / PREVIOUS)
    for path in (tmp_path / "model.safetensors", tmp_path / CHECKPOINT, tmp_path / PREVIOUS):
        path.unlink()
    checkpoint.save(tmp_path / CHECKPOINT, state | {"best": 1e6})
    assert train(tmp_path, resume=True) == 0
    assert fr.load(tmp_path / "model.safetensors").meta["training"]["steps"] == 12


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch):
    now, spoken = [0.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", spoken)
    with Progress(100, "training", 20) as p:
        for k in range(80):
            now[0] += 7.0
            p.note(f"loss {k}")
            p.advance()
    lines = spoken.getvalue().splitlines()
    assert lines[0] == "training: step 20 of 100"
    assert lines[1] == "training: step 25 of 100, loss 4, about 8 min 45 s left"
    assert len(lines) == 1 + 15  # every fifth step, but not the last
    assert [duration(s) for s in (7.2, 125, 7500)] == ["7 s", "2 min 05 s", "2 h 05 min"]


def test_nobody_listening_is_no_reason_to_stop(monkeypatch):
    class Gone(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    for stream in (Gone(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        with Progress(2, "training") as p:
            p.say("a line")
            p.advance(2)


def test_training_says_at_once_what_it_does(tmp_path, capsys):
    assert train(tmp_path) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "training: step 0 of 12"
    assert lines[2].startswith("step 4/12: K=2, loss ")
    assert "validation NMSE" in lines[2]
    assert lines[2].endswith("left")


def test_an_error_in_one_process_ends_all(tmp_path):
    """The others wait in a sum, the one that failed must not wait for them; nobody but they themselves ends them.

    None of the group's threads is left: one that releases a tensor while the interpreter ends aborts the process.
    """
    script = (
        "import glob, sys; from fastrecon.train import checkpoint\n"
        "def full(*_): raise OSError(28, 'No space left on device')\n"
        "checkpoint.save = full\n"
        "from fastrecon.cli.main import main; code = main(sys.argv[1:])\n"
        "names = [open(path).read().strip() for path in glob.glob('/proc/self/task/*/comm')]\n"
        "sys.exit(' '.join(['left:', *names]) if any('gloo' in name for name in names) else code)"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["train", "dladmm", "--device", "cpu", "--out", str(tmp_path)]
    words += [w for k, v in SMALL.items() for w in (f"--{k}", str(v))]
    shared = os.environ | {
        "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)
    }  # fmt: skip
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, *words], stderr=subprocess.PIPE, text=True,
            env=shared | {"RANK": str(k), "LOCAL_RANK": str(k)},
        )
        for k in range(2)
    ]  # fmt: skip
    try:
        told = [run.communicate(timeout=250)[1] for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert [run.returncode for run in runs] == [2, 2], told
    assert "No space left on device" in told[0].splitlines()[-1]
    assert told[1].splitlines()[-1].startswith("fastrecon: ")
