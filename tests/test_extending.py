"""Additions from outside: the texts of docs/extending.md run as they stand, as commands and from Python."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import fastrecon as fr
from fastrecon import io
from fastrecon.cli import main as cli
from fastrecon.models.base import MODELS
from fastrecon.problems import PROBLEMS
from fastrecon.problems.base import quality
from fastrecon.solvers.methods import METHODS

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "extending.md").read_text()


@pytest.fixture
def parts():
    """The solver and the problem of the text, registered as modules from outside would be."""
    registries: tuple[dict, ...] = (METHODS, MODELS, PROBLEMS)
    before = [dict(registry) for registry in registries]
    names = {"__name__": "outside"}
    for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(code, "extending.md", "exec"), names)
    yield names
    for registry, kept in zip(registries, before, strict=True):
        registry.clear()
        registry.update(kept)


@pytest.fixture
def photo(tmp_path):
    x = np.add.outer(np.linspace(0, 0.5, 24), np.linspace(0, 0.5, 32)).astype(np.float32)
    np.save(tmp_path / "photo.npy", x)
    return tmp_path / "photo.npy"


@pytest.mark.usefixtures("parts")
def test_a_problem_and_a_solver_from_outside_are_commands(capsys, photo, tmp_path):
    argv = ["reconstruct", str(photo), "--problem", "dim", "--share", "0.25", "--simulate", "--method", "landweber"]
    assert cli.main([*argv, "--iterations", "400", "--json", "--no-figure", "--out", str(tmp_path / "out")]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert (report["problem"], report["method"]) == ("dim", "landweber")
    assert report["problem_options"] == {"share": 0.25}
    assert report["scores"]["start"]["psnr"] < 20
    assert report["scores"]["reconstruction"]["relative_error"] < 1e-4
    x = io.read_image(report["files"]["reconstruction"]).pixels
    np.testing.assert_allclose(x, np.load(photo), atol=1e-3)


@pytest.mark.usefixtures("parts")
def test_what_was_measured_is_read_and_not_scored(capsys, photo, tmp_path):
    argv = ["reconstruct", str(photo), "--problem", "dim", "--share", "0.5", "--method", "landweber", "--json"]
    assert cli.main([*argv, "--no-figure", "--out", str(tmp_path / "out")]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert (report["simulated"], report["scores"]) == (False, None)
    x = io.read_image(report["files"]["reconstruction"]).pixels
    np.testing.assert_allclose(x, 2 * np.load(photo), atol=1e-3)


@pytest.mark.usefixtures("parts")
def test_its_options_are_its_own(capsys, photo, tmp_path):
    for words in (["--problem", "dim", "--mask", "m.png"], ["--problem", "inpaint", "--share", "0.5"]):
        assert cli.main(["reconstruct", str(photo), *words, "--out", str(tmp_path / "out")]) == 2
        assert "unrecognized arguments" in capsys.readouterr().err
    assert cli.main(["reconstruct", "--problem", "dim", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--share" in text
    assert "--mask MASK" not in text


@pytest.mark.usefixtures("parts")
def test_simulated_files_and_comparisons_follow(capsys, photo, tmp_path):
    assert cli.main(["simulate", str(photo), "--problem", "dim", "--out", str(tmp_path / "y")]) == 0
    assert cli.main(["reconstruct", str(tmp_path / "y"), "--no-figure", "--out", str(tmp_path / "out")]) == 0
    assert "PSNR" in capsys.readouterr().out
    argv = ["evaluate", "--problem", "dim", "--data", str(photo), "--methods", "fista:iterations=5"]
    assert cli.main([*argv, "landweber:iterations=5"]) == 0
    assert "landweber:iterations=5" in capsys.readouterr().out


@pytest.mark.usefixtures("parts")
def test_a_method_from_outside_serves_the_one_line_of_python():
    a = fr.operators.Inpainting(torch.full((8, 8), 0.5))
    x = torch.rand(2, 1, 8, 8)
    found = fr.reconstruct(a(x), a, method="landweber", iterations=200)
    assert quality(found.x[:1], x[:1])["psnr"] > 60
    with pytest.raises(ValueError, match="landweber: options: expected some of iterations, got 'steps'"):
        fr.reconstruct(a(x), a, method="landweber", steps=2)


def test_a_model_from_outside_is_loaded_and_chosen_by_its_file(parts, capsys, photo, tmp_path):
    parts["Gain"](2.0, {"name": "twice"}).save(tmp_path / "gain.safetensors")
    model = fr.load(tmp_path / "gain.safetensors")
    assert (model.problem, model.method, model.name) == ("dim", "gain", "twice")
    argv = ["reconstruct", str(photo), "--model", str(tmp_path / "gain.safetensors"), "--simulate", "--json"]
    assert cli.main([*argv, "--no-figure", "--out", str(tmp_path / "out")]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert (report["problem"], report["method"]) == ("dim", "gain")
    assert report["scores"]["reconstruction"]["relative_error"] < 1e-6
    assert report["certificate"]["misfit"] < 1e-6
    assert cli.main(["reconstruct", str(photo), "--problem", "dim", "--method", "gain", "--out", str(tmp_path)]) == 2
    assert "gain: --model: expected a model of gain for dim, got none" in capsys.readouterr().err
