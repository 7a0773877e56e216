"""Inputs read ahead and results written behind: in their order, so many and no more, and nothing computed is lost."""

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fastrecon.cli import batch
from fastrecon.cli.main import main
from fastrecon.cli.stages import Item, Stages, one_stage

ITEMS = [Item(Path(f"{k}.png"), Path(f"out/{k}")) for k in range(8)]


class Work:
    """Stages that count how many are where; some inputs fail."""

    def __init__(self, fails: str = "", slow: str = "", interrupted: str = ""):
        self.fails, self.slow, self.interrupted = fails, slow, interrupted
        self.lock, self.read_now, self.made_now, self.most = threading.Lock(), 0, 0, [0, 0]
        self.written: list[str] = []
        self.threads: set[str] = set()

    def stages(self) -> Stages[str, str]:
        return Stages(self.read, self.compute, self.write)

    def _at(self, item: Item, stage: str) -> None:
        name = f"{stage}{item.path.stem}"
        self.threads.add(threading.current_thread().name)
        if name in self.slow.split():
            time.sleep(0.05)
        if name in self.fails.split():
            raise ValueError(f"no {name}")
        if name == self.interrupted:
            raise KeyboardInterrupt

    def read(self, item: Item) -> str:
        with self.lock:
            self.read_now += 1
            self.most[0] = max(self.most[0], self.read_now)
        self._at(item, "r")
        return item.path.stem

    def compute(self, item: Item, source: str, progress: object) -> str:
        self._at(item, "c")
        with self.lock:
            self.read_now -= 1
            self.made_now += 1
            self.most[1] = max(self.most[1], self.made_now)
        return source

    def write(self, item: Item, made: str) -> str:
        self._at(item, "w")
        with self.lock:
            self.made_now -= 1
            self.written.append(made)
        return made


@pytest.mark.parametrize("jobs", [0, 1, 3])
def test_order_and_bounds(jobs, capsys):
    usual, work = sys.getswitchinterval(), Work(fails="r2 c4 w5", slow="w0 r3 w6 c1")
    outcome = batch.each(work.stages(), ITEMS, lambda report: f"-> {report}", jobs)
    assert outcome.results == ["0", "1", "3", "6", "7"]
    assert capsys.readouterr().out.split()[1::2] == outcome.results
    assert [(p.stem, str(e)) for p, e in outcome.failed] == [("2", "no r2"), ("4", "no c4"), ("5", "no w5")]
    assert sorted(work.written) == outcome.results
    assert work.most[0] <= jobs + 3  # and those that failed
    assert work.most[1] <= jobs + 2
    assert {name.partition("_")[0] for name in work.threads} == (
        {"MainThread", "read", "write"} if jobs else {"MainThread"}
    )
    assert sys.getswitchinterval() == usual


@pytest.mark.parametrize("jobs", [0, 2])
def test_what_was_computed_before_an_interruption_is_written(jobs):
    work = Work(slow="w2 w3", interrupted="c4")
    outcome = batch.each(work.stages(), ITEMS, jobs=jobs)
    assert isinstance(outcome.ended, KeyboardInterrupt)
    assert outcome.results == ["0", "1", "2", "3"] == sorted(work.written)
    with pytest.raises(KeyboardInterrupt):
        outcome.end()


def test_an_interruption_before_anything_is_done():
    with pytest.raises(KeyboardInterrupt):
        batch.each(Work(interrupted="c0").stages(), ITEMS, jobs=2)


def test_one_input_has_no_threads_and_its_own_error():
    work = Work(fails="r0")
    with pytest.raises(ValueError, match=r"0\.png: no r0"):
        batch.each(work.stages(), ITEMS[:1], jobs=4)
    assert work.threads == {"MainThread"}


def test_one_stage():
    outcome = batch.each(one_stage(lambda item, progress: item.path.stem), ITEMS, jobs=2)
    assert outcome.results == [item.path.stem for item in ITEMS]


def contents(folder: Path) -> dict[str, object]:
    """Files by name, reports without what the clock said."""
    found: dict[str, object] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix != ".json":
            found[path.name] = path.read_bytes()
            continue
        report = json.loads(path.read_text())
        report.pop("seconds"), report["history"].get("quality", {}).pop("seconds", None), report.pop("files")
        found[path.name] = report
    return found


def test_jobs_change_no_bit(tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for k in range(5):
        np.save(tmp_path / "in" / f"{k}.npy", rng.random((16 + k, 20)).astype("f4"))
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    found, rows = {}, {}
    for jobs in ("0", "1", "3"):
        out = tmp_path / jobs
        words = ["reconstruct", str(tmp_path / "in"), "--simulate", "--problem", "inpaint", "--method", "fista"]
        assert main([*words, "--iterations", "3", "--no-figure", "--json", "--jobs", jobs, "--out", str(out)]) == 2
        rows[jobs] = [(row["input"], "error" in row) for row in json.loads(capsys.readouterr().out)]
        found[jobs] = contents(out)
    assert found["0"] == found["1"] == found["3"]
    assert len(found["0"]) == 10
    assert rows["0"] == rows["1"] == rows["3"]
