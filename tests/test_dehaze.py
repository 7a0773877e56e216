"""Haze: the model, what is measured, the methods without training, bad input."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fastrecon import io
from fastrecon.operators import Kirsch
from fastrecon.problems import PROBLEMS, file
from fastrecon.solvers import haze
from fastrecon.solvers.haze_methods import context
from fastrecon.solvers.hqs import continuation
from fastrecon.solvers.methods import METHODS

DEHAZE = PROBLEMS["dehaze"]
CLASSICAL = ("contextual", "dark-channel")


def scene(h=48, w=64, colours=3):
    """Blocks of colours, each with something dark in it."""
    generator = np.random.default_rng(0)
    blocks = generator.uniform(0.09, 0.9, (-(-h // 8), -(-w // 8), 3)).repeat(8, 0).repeat(8, 1)[:h, :w]
    blocks[::4, ::4] = 0.09
    a = blocks.astype(np.float32)
    return a if colours == 3 else np.ascontiguousarray(a[..., 0])


def picture(pixels):
    return io.Picture(pixels, Path("p.png"), io.Form())


def simulated(pixels=None, **options):
    return DEHAZE.simulate(picture(scene() if pixels is None else pixels), DEHAZE.Options(**options))


def read(path, pixels, **options):
    np.save(path / "hazy.npy", pixels)
    return DEHAZE.read(path / "hazy.npy", DEHAZE.Options(**options))


def solved(m, method, **options):
    return METHODS[method].ready(**options)(DEHAZE.inverse(m))


def test_compass_filters():
    d = Kirsch()
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1
    y = d(x)
    torch.testing.assert_close(y.square().sum((-2, -1)), torch.ones(1, 8))  # of norm 1
    torch.testing.assert_close(y.sum((-2, -1)), torch.zeros(1, 8), rtol=0, atol=1e-6)  # constants have none
    ring = (3 * 25 + 5 * 9) ** 0.5
    torch.testing.assert_close(y[0, 0, 1:4, 1:4].flip(0, 1) * ring, torch.tensor([[5.0, 5, 5], [-3, 0, -3], [-3] * 3]))
    torch.testing.assert_close(y[0, 2], y[0, 0].rot90(-1))


@pytest.mark.parametrize("colours", [3, 1])
def test_the_scene_comes_back_from_the_true_transmission(colours):
    truth = scene(colours=colours)
    m = simulated(truth, light="0.85", scattering=2.0)
    t = torch.exp(-2.0 * torch.linspace(1, 0, 48)[:, None].expand(48, 64))[None, None]
    np.testing.assert_allclose(DEHAZE.pixels(t, m), truth, atol=1e-5)
    assert DEHAZE.scores(t, m)["psnr"] > 100
    assert DEHAZE.scores(m.truth, m)["psnr"] > 100
    np.testing.assert_allclose(DEHAZE.pixels(m.truth, m), truth, atol=1e-6)
    assert (m.y <= t + 1e-5).float().mean() > 0.9  # a lower bound, but where closing filled it up
    np.testing.assert_allclose(DEHAZE.maps_of(t, m)["transmission"], t[0, 0].numpy())
    hazy = DEHAZE.pixels(DEHAZE.start(m), m)
    np.testing.assert_allclose(hazy, m.tensor("photograph")[0].movedim(0, -1).numpy().squeeze(), atol=1e-6)


def test_floor_and_exponent():
    photograph, light = torch.full((1, 3, 1, 2), 0.5), torch.full((1, 3, 1, 1), 0.8)
    t = torch.tensor([[[[0.05, 0.5]]]])
    found = haze.radiance(photograph, t, light, 0.2, 0.85)[0, 0, 0]
    torch.testing.assert_close(found, torch.tensor([0.8 - 0.3 / 0.2**0.85, 0.8 - 0.3 / 0.5**0.85]))


def test_light_is_found_where_haze_is_thick():
    m = simulated(scattering=8.0, air=0.9)
    torch.testing.assert_close(m.tensor("light").flatten(), torch.full((3,), 0.9), rtol=0, atol=0.01)
    assert any(note.startswith("light of the air estimated: ") for note in m.notes)
    told = simulated(light="0.8,0.9,1").tensor("light").flatten()
    torch.testing.assert_close(told, torch.tensor([0.8, 0.9, 1.0]))


@pytest.mark.parametrize("method", CLASSICAL)
def test_haze_is_removed(method):
    m = simulated(scattering=1.5, light="0.85")
    found = solved(m, method)
    assert found.x.shape == m.y.shape
    hazy, clear = (DEHAZE.scores(x, m)["psnr"] for x in (DEHAZE.start(m), found.x))
    assert clear > hazy + 4
    assert len(found.report) == 1


def test_contextual_lowers_its_objective():
    m, lam = simulated(light="0.85"), 2.0
    w = context(m.tensor("photograph"), 0.5)
    assert w.min() >= 0
    assert w.max() <= 1
    assert not w[..., 0, :].any()

    def energy(t):
        return lam / 2 * (t - m.y).square().sum() + (w * Kirsch()(t)).abs().sum()

    found = solved(m, "contextual")
    assert energy(found.x) < 0.5 * energy(m.y)
    assert found.report.iterations.item() == len(continuation()) == 7
    assert found.report.objective.item() == pytest.approx(energy(found.x).item() / lam, rel=1e-4)


def test_dark_channel_of_known_haze():
    t = torch.full((1, 1, 40, 40), 0.4)
    radiance = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    radiance[..., ::5, ::5] = 0  # something dark in every window
    light = torch.full((1, 3, 1, 1), 0.9)
    found = haze.dark_channel(haze.hazy(radiance, t, light), light, 1.0)
    torch.testing.assert_close(found, t)


def test_files_hold_all_of_it(tmp_path):
    m = simulated(scene(41, 37))
    for suffix in (".npz", ".safetensors"):
        file.write(tmp_path / f"m{suffix}", m)
        again = file.measured(DEHAZE, tmp_path / f"m{suffix}", DEHAZE.Options())
        assert torch.equal(again.y, m.y)
        assert DEHAZE.scores(again.y, again) == DEHAZE.scores(m.y, m)
        assert DEHAZE.pixels(again.y, again).shape == (41, 37, 3)
    assert DEHAZE.describe(m).startswith("41 x 37 pixels, 3 channels, light 0.")
    assert DEHAZE.scores(m.y, replace(m, truth=None)) is None


def test_depth_of_a_file(tmp_path):
    depth = np.random.default_rng(0).uniform(0, 3, (48, 64)).astype(np.float32)
    np.save(tmp_path / "d.npy", depth)
    m = simulated(light="0.85", depth=str(tmp_path / "d.npy"), floor=0.01)
    t = torch.from_numpy(np.exp(-depth / depth.max()))[None, None]
    assert DEHAZE.scores(t, m)["psnr"] > 100
    np.save(tmp_path / "d.npy", depth[:5])
    with pytest.raises(ValueError, match="dehaze: --depth: expected 48x64 pixels, as the picture, got 5x64"):
        simulated(depth=str(tmp_path / "d.npy"))
    np.save(tmp_path / "d.npy", 0 * depth)
    with pytest.raises(ValueError, match="dehaze: --depth: expected finite numbers >= 0, some of them above 0"):
        simulated(depth=str(tmp_path / "d.npy"))


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (np.zeros((32, 32, 3), np.float32), {}, "photograph: expected pixels that differ, got one colour everywhere"),
        (scene(14, 40), {}, "photograph: expected at least 15x15 pixels, got 14x40"),
        (scene(1, 1), {}, "photograph: expected at least 15x15 pixels, got 1x1"),
        (scene() - 1, {}, "photograph: expected pixels >= 0, got -0.9"),
        (scene() * np.float32([1, 1, 0]), {}, "light of the air: expected above 0.0784 of white .*, 0$"),
        (scene(), {"light": "0.01"}, "light of the air: expected above 0.0784 of white"),
        (scene(colours=1), {"light": "0.8,0.8,0.8"}, "--light: expected one number for a grey photograph"),
        (scene() + 1j, {}, "photograph: expected real pixels, got complex ones"),
    ],
)  # fmt: skip
def test_photographs_that_are_none(tmp_path, pixels, options, message):
    if np.iscomplexobj(pixels):
        pixels = pixels[..., 0].astype(np.complex64)
    with pytest.raises(ValueError, match=f"^dehaze: {message}"):
        read(tmp_path, pixels, **options)


def test_a_channel_that_says_nothing_and_grey_are_told(tmp_path):
    a = scene()
    a[..., 1] = 0.5
    m = read(tmp_path, a)
    assert "green is the same everywhere: it tells nothing of the haze" in m.notes
    grey = read(tmp_path, scene(colours=1))
    assert any(note.startswith("grey: ") for note in grey.notes)
    for method in CLASSICAL:
        assert torch.isfinite(solved(m, method).x).all()
        assert DEHAZE.pixels(solved(grey, method).x, grey).shape == (48, 64)


@pytest.mark.parametrize("light", ["", "dark", "0", "-1", "nan", "2", "0.5,0.5", "0.1,0.2,inf"])
def test_lights_that_are_none(light):
    with pytest.raises(ValueError, match="dehaze: --light: expected auto, a number in"):
        DEHAZE.Options(light=light)


@pytest.mark.parametrize("method", CLASSICAL)
def test_methods_are_for_haze_alone(method):
    assert not METHODS[method].solves("denoise")
    with pytest.raises(ValueError, match=f"{method}: problem: expected measurements of dehaze"):
        METHODS[method].ready()(PROBLEMS["denoise"].inverse(PROBLEMS["denoise"].simulate(
            picture(scene()), PROBLEMS["denoise"].Options())))  # fmt: skip


def test_strengths_of_a_table():
    assert [c.simulate["scattering"] for c in DEHAZE.conditions("scattering")] == [0.5, 1.0, 1.5]
    with pytest.raises(ValueError, match="table"):
        DEHAZE.conditions("noise")


def test_the_shipped_unit_beats_what_is_not_trained():
    data, psnr = pytest.importorskip("skimage.data"), {}
    pictures = [getattr(data, name)()[:, :400].astype(np.float32) / 255 for name in ("coffee", "chelsea", "astronaut")]
    for name in ("padnet", *CLASSICAL):
        measured = [simulated(pixels) for pixels in pictures]
        psnr[name] = np.mean([DEHAZE.scores(solved(m, name).x, m)["psnr"] for m in measured])
    assert psnr["padnet"] > psnr["dark-channel"] > psnr["contextual"]
