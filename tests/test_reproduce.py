"""`fastrecon reproduce`: rows, tables, going on where it stopped, what it refuses."""

import csv
import json

import pytest

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

from commands import names, ok

from fastrecon import io
from fastrecon.cli.tables import TABLES, Table, Unit, haze, register
from fastrecon.cli.tables.base import kept, markdown
from fastrecon.cli.tables.picture import CASES
from fastrecon.problems import PROBLEMS

SMALL = "reproduce picture --data skimage:camera skimage:coins --side 24 --out"


def test_a_table_of_real_pictures_and_going_on(run, tmp_path):
    text = ok(run(f"{SMALL} {tmp_path} --limit 1 --rows denoise --methods auto"))
    assert "| denoise 0.1 |" in text
    assert "skimage NLM" in text
    assert names(tmp_path) == ["rows.jsonl", "table.csv", "table.json", "table.md", "table.png"]
    before = (tmp_path / "rows.jsonl").read_text()
    assert len(before.splitlines()) == 8  # two lines, auto and three one-liners
    text = ok(run(f"{SMALL} {tmp_path} --rows denoise --methods auto tikhonov"))
    assert "8 of 20 rows are there already" in text
    after = (tmp_path / "rows.jsonl").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 20
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["taken"] for row in rows if row["method"] == "auto"} == {"prior"}
    assert all("noise" in row["why"] for row in rows if row["method"] == "auto")
    (found,) = [m for m in json.loads((tmp_path / "table.json").read_text())
                if (m["problem"], m["method"]) == ("denoise 0.1", "auto")]  # fmt: skip
    assert found["images"] == 2
    psnr = [float(r["psnr"]) for r in rows if (r["problem"], r["method"]) == ("denoise 0.1", "auto")]
    assert found["psnr"] == pytest.approx(sum(psnr) / 2)


def test_every_line_of_the_picture_table_is_measured(run, tmp_path):
    found = json.loads(ok(run(f"{SMALL} {tmp_path} --limit 1 --methods auto --json")))
    assert found["failed"] == []
    assert {row["problem"] for row in found["rows"]} == set(CASES)
    for name, case in CASES.items():
        assert PROBLEMS[case.problem]
        assert len([row for row in found["rows"] if row["problem"] == name]) >= 2
    taken = {row["problem"]: row["taken"] for row in found["rows"] if row["method"] == "auto"}
    assert taken["deblur"] == "tikhonov"
    assert taken["deblur, noise 2/255"] == "prior"


def test_what_is_refused(fails, run, tmp_path):
    fails("reproduce pictures --out", tmp_path / "a", words=("invalid choice", "picture"))
    fails(f"{SMALL} {tmp_path}/a --rows nothing", words=("--rows: expected texts",))
    fails(f"{SMALL} {tmp_path}/a --methods magic", words=("--methods: expected some of auto",))
    fails(f"{SMALL} {tmp_path}/a --limit 0", words=("--limit: expected an integer from 1", "got '0'"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "table.md").write_text("mine")
    fails(f"{SMALL} {tmp_path}/b", words=("table.md", "give --overwrite"))
    assert (tmp_path / "b" / "table.md").read_text() == "mine"


def test_a_table_from_outside(run, fails, tmp_path):
    calls = []

    def measure(k):
        calls.append(k)
        if k == 2:
            raise ValueError("no such image")
        return {"psnr": 20.0 + k}

    def units(args):
        return [Unit({"problem": "p", "method": "m", "image": str(k)}, lambda k=k: measure(k)) for k in range(3)]

    register(Table("mine", "a table", lambda parser: None, units, ("problem", "method", "psnr"), "Mine"))
    try:
        status, out, err = run("reproduce mine --out", tmp_path)
        assert (status, calls) == (0, [0, 1, 2])
        assert "**20.50**" in out
        assert "no such image" in err
        run("reproduce mine --out", tmp_path)
        assert calls == [0, 1, 2, 2]
        run("reproduce mine --overwrite --out", tmp_path)
        assert calls == [0, 1, 2, 2, 0, 1, 2]
        fails(f"{SMALL} {tmp_path}", words=("--out: expected a folder for the table picture, got one of mine",))
    finally:
        del TABLES["mine"]


def test_rows_cut_short_are_measured_again(tmp_path):
    (tmp_path / "r").write_text('{"a": 1}\n{"a": 2')
    assert kept(tmp_path / "r") == [{"a": 1}]
    (tmp_path / "r").write_text('nothing\n{"a": 2}\n')
    with pytest.raises(ValueError, match="line 1"):
        kept(tmp_path / "r")


def test_markdown_says_where_images_are_missing():
    rows = [{"p": "a", "m": "x", "v": 1.0}, {"p": "a", "m": "x", "v": 3.0}, {"p": "a", "m": "y", "v": 9.0}]
    text = markdown(rows, ("p", "m", "v"), "Head")
    assert "| a | **2.00** | 9.00 (1) |" in text
    assert "Means over 2 images." in text
    assert "**" not in markdown(rows, ("p", "m", "v"), "Counts", less=None)  # of which none is best


def test_haze_beside_the_numbers_of_the_paper(run, tmp_path):
    real = str(io.bundled("chelsea"))
    command = f"reproduce padnet-table3 --data skimage:coffee --real {real} --methods dark-channel:radius=4 --out"
    found = json.loads(ok(run(f"{command} {tmp_path} --json")))
    assert found["failed"] == []
    lines = {row["haze"]: row for row in found["rows"]}
    assert set(lines) == {*haze.CASES, haze.PAPER_LINE, haze.REAL_LINE}
    for case in haze.CASES:
        assert lines[case]["psnr"] > lines[case]["hazy_psnr"] - 10
        assert lines[case]["processor_seconds"] > 0
    picture = lines[haze.REAL_LINE]["picture"]
    assert {picture, picture.replace(".png", "_transmission.png")} <= set(names(tmp_path))
    text = (tmp_path / "table.md").read_text()
    assert "| paper, its images | " in text
    assert "SSIM of the scene." in text
    assert "**28.47**" in text
    assert "**2.74**" in text  # less is better


@pytest.mark.parametrize("name", TABLES)
def test_every_table_has_help(run, name):
    assert "--data" in ok(run(f"reproduce {name} --help"))
