"""Problems of photographs: rain, low light, smoothing; what is measured, written, scored; bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fastrecon import io
from fastrecon.cli.main import main
from fastrecon.problems import PROBLEMS, file
from fastrecon.solvers.methods import METHODS

NAMES = ("derain", "low-light", "smooth")
MAPS = {"derain": "streaks", "low-light": "illumination", "smooth": "texture"}


def pixels(h=37, w=50, colours=3):
    generator = np.random.default_rng(0)
    a = generator.uniform(0.1, 0.8, (-(-h // 6), -(-w // 6), 3)).repeat(6, 0).repeat(6, 1)[:h, :w].astype(np.float32)
    return a if colours == 3 else np.ascontiguousarray(a[..., 0])


def picture(a):
    return io.Picture(a, Path("p.png"), io.Form())


def simulated(name, a=None, **options):
    p = PROBLEMS[name]
    return p.simulate(picture(pixels() if a is None else a), p.Options(**options), seed=2)


@pytest.mark.parametrize("colours", [3, 1])
@pytest.mark.parametrize("name", NAMES)
def test_simulated_and_scored(name, colours):
    p, a = PROBLEMS[name], pixels(colours=colours)
    m = simulated(name, a)
    assert p.scores(m.truth, m)["psnr"] > 100
    assert ("grey" if colours == 1 else "3 channels") in p.describe(m)
    np.testing.assert_allclose(p.pixels(m.truth, m), a, atol=1e-6)
    assert p.pixels(p.start(m), m).shape == a.shape
    found = METHODS[p.methods[0]].ready()(p.inverse(m))
    assert found.x.shape == m.y.shape
    scores = p.scores(found.x, m)
    assert scores["psnr"] > p.scores(p.start(m), m)["psnr"]
    maps = p.maps_of(found.x, m)
    assert tuple(maps) == p.maps
    assert all(v.shape == a.shape[:2] and v.min() >= 0 and v.max() <= 1 for v in maps.values())
    again = simulated(name, a)
    assert torch.equal(again.y, m.y)


@pytest.mark.parametrize("name", NAMES)
def test_files_come_back(name, tmp_path):
    p, m = PROBLEMS[name], simulated(name)
    path = tmp_path / "m.npz"
    file.write(path, m)
    again = file.measured(p, path, p.Options())
    assert torch.equal(again.y, m.y)
    x = METHODS[p.methods[0]].ready()(p.inverse(again)).x
    assert p.scores(x, again) == p.scores(METHODS[p.methods[0]].ready()(p.inverse(m)).x, m)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_runs_with_every_colour(name):
    p = PROBLEMS[name]
    for a in (pixels(), pixels(colours=1)):
        m = simulated(name, a)
        for method in p.compared():
            options = dict(lam="0.05") if ":" in method else {}
            x = METHODS[method.partition(":")[0]].ready(**options)(p.inverse(m)).x
            assert x.shape == m.y.shape
            assert bool(torch.isfinite(x).all())


@pytest.mark.parametrize("name", NAMES)
def test_reconstruct_a_photograph(name, tmp_path):
    a = (255 * pixels()).astype(np.uint8)
    io.write_picture(tmp_path / "photo", a / np.float32(255), io.Form())
    main(["reconstruct", str(tmp_path / "photo.png"), "--problem", name, "--out", str(tmp_path / "done")])
    report = json.loads((tmp_path / "done/photo_report.json").read_text())
    assert report["problem"] == name
    assert report["channels"] == 3
    assert (tmp_path / f"done/photo_{MAPS[name]}.png").is_file()
    assert (tmp_path / "done/photo_figure.png").is_file()
    assert io.read_picture(tmp_path / "done/photo_reconstruction.png").pixels.shape == a.shape


def test_light_is_given_back():
    m = simulated("low-light", exponent=1.0, dark=0.2)
    p = PROBLEMS["low-light"]
    h, w = m.size
    light = torch.ones(1, 1, h, w)
    light[..., :50] = 0.2 * 4 ** torch.linspace(0, 1, 50)
    found = p.pixels(light, m)
    np.testing.assert_allclose(found, pixels(), atol=1e-5)
    floor = p.pixels(torch.zeros_like(light), m)
    np.testing.assert_allclose(floor, np.clip(p.pixels(p.start(m), m) / 0.05, 0, 1), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_bad_photographs(name):
    p = PROBLEMS[name]
    with pytest.raises(ValueError, match=f"{name}: photograph: expected real"):
        simulated(name, pixels(colours=1).astype(np.complex64))
    with pytest.raises(ValueError, match=f"{name}: photograph: expected pixels >= 0"):
        simulated(name, pixels() - 0.5)
    with pytest.raises(ValueError, match=f"{name}: photograph: expected at least"):
        simulated(name, pixels(1, 9))
    with pytest.raises(ValueError, match="expected"):
        p.Options(**{"rain": "wet"} if name == "derain" else {"grain": -1} if name == "smooth" else {"floor": 0})


def test_black():
    with pytest.raises(ValueError, match="black"):
        simulated("low-light", np.zeros((20, 20, 3), np.float32))
