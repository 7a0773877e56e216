"""Tables of rain, low light and smoothing, on pictures of some pixels."""

import json

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from commands import ok

from fastrecon import io
from fastrecon.cli.tables.photographs import REFERENCES, no_reference, pairs, smoothness

PROBLEM = {"ol-fig3": "derain", "ol-fig4": "low-light", "ol-fig5": "smooth"}


def photograph(seed, h=40, w=48):
    a = np.random.default_rng(seed).uniform(0.1, 0.8, (h // 8, w // 8, 3))
    return a.repeat(8, 0).repeat(8, 1).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set").mkdir()
    clean = photograph(0)
    rain = clean.copy()
    rain[:, ::7] = np.minimum(rain[:, ::7] + 0.2, 1)
    for name, a in {"1_clean": clean, "1_rain": rain, "other": photograph(1)}.items():
        io.write_picture(tmp_path / "set" / name, a, io.Form())
    return tmp_path / "set"


def test_pairs(folder):
    found = [(a.stem, b and b.stem) for a, b in pairs(sorted(folder.iterdir()))]
    assert found == [("1_rain", "1_clean"), ("other", None)]


@pytest.mark.parametrize(
    ("table", "methods", "column"),
    [
        ("ol-fig3", "two-layer:iterations=4 error-controlled:module=two-layer", "psnr"),
        ("ol-fig4", "wls error-controlled", "entropy"),
        ("ol-fig5", "l0 error-controlled", "objective"),
    ],
)
def test_every_table(run, folder, tmp_path, table, methods, column):
    text = ok(run(f"reproduce {table} --data {folder} --limit 2 --methods {methods} --pictures --out {tmp_path}/t"))
    rows = [json.loads(line) for line in (tmp_path / "t/rows.jsonl").read_text().splitlines()]
    assert methods.split()[0] in text
    assert all(np.isfinite(row[column]) for row in rows)
    assert {row["method"] for row in rows} == {"input", *methods.split(), *REFERENCES[PROBLEM[table]]}
    lines = {row["rain"] for row in rows} if table == "ol-fig3" else {}
    assert not lines or lines == {"set", "light rain", "heavy rain"}
    for row in rows:
        if "picture" in row:
            assert (tmp_path / "t" / row["picture"]).is_file()
    if table == "ol-fig5":
        ours = [row for row in rows if row["image"] == "1_clean" and row["method"] in methods.split()]
        assert all(row["flat"] > 0.5 and row["edges"] > 0.5 for row in ours)


def test_scores():
    import torch

    flat, noise = np.full((64, 64), 0.5), np.random.default_rng(0).uniform(0, 1, (64, 64))
    assert no_reference(flat)["entropy"] == 0
    assert 5 < no_reference(noise)["entropy"] <= 8
    y = torch.zeros(1, 3, 8, 8)
    y[..., 4:] = 0.5
    same = smoothness(y, y)
    assert same["edges"] == pytest.approx(1)
    assert same["flat"] == pytest.approx(6 / 7)
    assert same["objective"] == pytest.approx(0.01 / 7)
    assert smoothness(y.mean() + 0 * y, y)["edges"] == pytest.approx(0)
