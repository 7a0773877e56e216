"""Tables of trained methods: quoted beside measured, what the budget trains, what is taken, counts of the papers."""

import argparse
import json

import pytest

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

import torch
from commands import ok

from fastrecon import io, zoo
from fastrecon.cli.tables import TABLES, Table, dladmm, lda, lda_mri, register, sgp
from fastrecon.cli.tables.trained import Wanted, add_arguments, cells, finished, quoted
from fastrecon.operators import Identity
from fastrecon.solvers import LDA, ISTANet
from fastrecon.train import checkpoint

TINY = {
    "ratio": 50, "block": 8, "patch": 16, "phases": 1, "stages": "1:1", "channels": 2, "layers": 1, "batch": 2,
    "start_blocks": 100, "validation": 0.5,
}  # fmt: skip
SMALL = "--data skimage:camera --side 40 --train skimage:coins skimage:page --device cpu --threads 1 --out"
QUOTED = {"10%": {"LDA": {"psnr": 27.42, "parameters": 27_967}}}


@pytest.fixture
def tiny():
    wanted = Wanted("tiny", "lda", "lda-cs", TINY)

    def units(args: argparse.Namespace):
        return [
            *quoted(QUOTED, "ratio", "method"),
            *cells(args, {"50%": {"LDA": wanted}}, "block-cs", "ratio", "method", {}),
        ]

    yield register(Table("tiny", "tiny", add_arguments, units, ("ratio", "method", "psnr"), "Tiny."))
    del TABLES["tiny"]


def told(answer):
    """The document of a command whose trainings speak on stderr."""
    status, out, err = answer
    assert status == 0
    assert "trained: " in err
    return json.loads(out)


def test_the_budget_trains_what_is_missing_once(run, fails, tiny, tmp_path):
    without = json.loads(ok(run(f"reproduce tiny {SMALL} {tmp_path}/none --budget 0 --json")))
    assert [row["source"] for row in without["rows"]] == ["quoted"]
    found = told(run(f"reproduce tiny {SMALL} {tmp_path}/a --budget 0.002 --json"))
    assert found["failed"] == []
    here = [row for row in found["rows"] if row["source"] == "measured"]
    assert {row["ratio"] for row in found["rows"]} == {"10%, paper", "50%, here"}
    assert here[0]["parameters"] == 9 * 2 + 2 + 1
    folder = tmp_path / "a" / "runs" / "tiny"
    assert finished(folder)
    before = (folder / "log.csv").read_text()
    text = ok(run(f"reproduce tiny {SMALL} {tmp_path}/b --runs {tmp_path}/a/runs --budget 0"))
    assert "50%, here" in text
    assert (folder / "log.csv").read_text() == before
    model = folder / "model.safetensors"
    taken = json.loads(ok(run(f"reproduce tiny {SMALL} {tmp_path}/c --take tiny={model} --budget 0 --json")))
    assert [row["psnr"] for row in taken["rows"] if row["source"] == "measured"] == [here[0]["psnr"]]
    words = ("--take: expected NAME=FILE with one of tiny",)
    fails(f"reproduce tiny {SMALL} {tmp_path}/d --take other={model}", words=words)


def test_a_run_that_was_cut_short_goes_on(run, tiny, tmp_path, monkeypatch):
    from fastrecon.train.loop import Trainer

    update, calls = Trainer.update, []

    def stopping(self):
        calls.append(1)
        update(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        if len(calls) == 1:
            self.save()

    monkeypatch.setattr(Trainer, "update", stopping)
    command = f"reproduce tiny {SMALL} {tmp_path}/a --budget 0.01 --json"
    assert run(command)[0] == 130
    assert not finished(tmp_path / "a" / "runs" / "tiny")
    monkeypatch.setattr(Trainer, "update", update)
    found = told(run(command))
    assert [row["source"] for row in found["rows"]] == ["quoted", "measured"]


def test_trainings_take_settings(run, fails, tiny, tmp_path):
    settings = "--settings steps=3 validate-every=2 lda-cs.validate_every=1 phases=7 relative=true"
    (tmp_path / "photos").mkdir()
    for k in range(2):
        io.write_image(tmp_path / "photos" / f"{k}.png", zoo.scenes(1, 40, 40)[0, 0].numpy())
    found = told(run(f"reproduce tiny {SMALL} {tmp_path}/a --train {tmp_path}/photos --budget 0 {settings} --json"))
    assert [row["steps"] for row in found["rows"] if row["source"] == "measured"] == [3]
    state = checkpoint.latest(tmp_path / "a" / "runs" / "tiny")[0]
    assert state["settings"]["validate_every"] == 1
    assert state["settings"]["relative"] is True
    assert state["settings"]["phases"] == 1  # the table's own stay
    assert state["settings"]["data"] == [f"{tmp_path}/photos"]
    fails(f"reproduce tiny {SMALL} {tmp_path}/b --settings step=3", words=("--settings: expected options of lda-cs",))
    fails(f"reproduce tiny {SMALL} {tmp_path}/b --settings steps", words=("expected NAME=VALUE, got 'steps'",))


def count(**settings) -> int:
    return sum(p.numel() for p in LDA(Identity(), **settings).parameters())


def test_learned_numbers_are_those_of_the_papers():
    assert count(phases=15) == lda.TABLE1["LDA"][-1] == lda.TABLE2["LDA"][-1] == 27_967
    for table, setting in ((lda.TABLE4, "channels"), (lda.TABLE5, "layers")):
        for value, (_, known, _) in table.items():
            assert count(phases=lda.PHASES, **{setting: value}) == known
    assert count(phases=11, complex_features=True) == lda_mri.TABLE3["LDA"][-1] == 55_895
    nets = {"ISTA-Net+": ISTANet(Identity()), "ISTA-Net+, shared": ISTANet(Identity(), shared=True)}
    for name, net in nets.items():
        assert sum(p.numel() for p in net.parameters()) == lda.TABLE1[name][-1]


def test_shipped_models_beside_the_quoted_numbers(run, tmp_path):
    small = "--data skimage:camera --side 33 --device cpu --threads 1 --budget 0 --json --out"
    rows = json.loads(ok(run(f"reproduce lda-table1 {small} {tmp_path}/1")))["rows"]
    assert len([r for r in rows if r["source"] == "quoted"]) == 3 * len(lda.TABLE1) - 1
    assert {r["parameters"] for r in rows if r["source"] == "measured"} == {27_937 + 2 * lda.SHIPPED}
    rows = json.loads(ok(run(f"reproduce lda-fig9 {small} {tmp_path}/9")))["rows"]
    assert (tmp_path / "9" / rows[0]["figure"]).exists()
    rows = json.loads(ok(run(f"reproduce lda-fig7 {small} {tmp_path}/7 --iterations 8")))["rows"]
    assert len(rows[0]["psnrs"]) == len(rows[0]["merit"])
    merit = torch.tensor(rows[0]["merit"])[lda.SHIPPED :]  # from the phases on
    assert (merit.diff() <= 1e-9 * merit[:-1].abs()).all()


def test_tables_of_sgp_and_dladmm(run, tmp_path):
    small = "--data skimage:camera --side 32 --device cpu --threads 1 --budget 0 --json --out"
    rows = json.loads(ok(run(f"reproduce sgp-table3 {small} {tmp_path}/3")))["rows"]
    assert {r["method"] for r in rows if r["source"] == "measured"} == {"FISTA, 100", "step, 20", "diag, 20"}
    assert {r["method"] for r in rows if r["source"] == "quoted"} == set(sgp.TABLE3)
    rows = json.loads(ok(run(f"reproduce sgp-fig5 {small} {tmp_path}/5")))["rows"]
    assert len(rows[0]["curve"]["nmse_db"]) == 100
    assert (tmp_path / "5" / "table.png").exists()
    rows = json.loads(ok(run(f"reproduce dladmm-table {small} {tmp_path}/d")))["rows"]
    assert len([r for r in rows if r["source"] == "quoted"]) == len(dladmm.TABLE) * len(dladmm.IMAGES)
    measured = {r["method"]: r["psnr"] for r in rows if r["source"] == "measured"}
    assert measured["D-LADMM, shipped"] > measured["noisy"] + 10
