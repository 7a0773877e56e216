"""Sinograms as people have them: angles, axes, geometries, units, counts, and what is refused."""

import math

import numpy as np
import pytest
import torch

from fastrecon import io
from fastrecon.operators import Radon
from fastrecon.problems import PROBLEMS
from fastrecon.problems.scan import Scan, axis_of

CT = PROBLEMS["ct"]
SIDE, VIEWS, DETECTORS = 40, 60, 58
FAN = {"geometry": "fan", "source_distance": 90.0, "detector_distance": 45.0}


def image(side=SIDE):
    """A smooth object on [0, 1], off the middle, within the circle that fits in."""
    t = np.arange(side) - (side - 1) / 2
    a = np.exp(-((t[:, None] + 4) ** 2 + (t - 5) ** 2) / 30) + 0.5 * np.exp(
        -((t[:, None] - 8) ** 2 + (t + 6) ** 2) / 20
    )
    return torch.from_numpy(a).float()[None, None]


def sinogram(views=VIEWS, detectors=DETECTORS, side=SIDE, **geometry):
    """[views, detectors]."""
    return Radon((side, side), views, detectors, **geometry)(image(side))[0, 0].numpy()


def measured(folder, y, name="s.npy", **options):
    """What the problem reads of a sinogram in a file."""
    if name.endswith(".npy"):
        np.save(folder / name, y)
    else:
        pytest.importorskip("tifffile").imwrite(folder / name, y)
    return CT.read(folder / name, CT.Options(**options))


def back(m):
    """The filtered back-projection on the scale of the data."""
    return CT.pixels(CT.start(m), m)


def distance(x, truth=None):
    truth = image().numpy()[0, 0] if truth is None else truth
    return np.linalg.norm(x - truth) / np.linalg.norm(truth)


def angles(folder, unit, name="angles.npy"):
    a = np.arange(VIEWS) * ((180 if unit == "deg" else math.pi) / VIEWS)
    np.save(folder / name, a) if name.endswith(".npy") else np.savetxt(folder / name, a)
    return str(folder / name)


@pytest.mark.parametrize("name", ["s.npy", "s.tif"])
@pytest.mark.parametrize("turn", [False, True], ids=["views_first", "detectors_first"])
def test_a_sinogram_on_either_side(name, turn, tmp_path):
    y = sinogram()
    m = measured(tmp_path, y.T if turn else y, name, angles=f"0:180:{VIEWS}", size=SIDE)
    assert distance(back(m)) < 0.05
    assert 0.8 < CT.start(m).max() < 1.3
    assert (m.form.suffix, m.form.dtype) == (name[1:], "float32")
    assert CT.operator(m).norm() == pytest.approx(1, abs=1e-5)
    assert any(note.startswith("detectors first") for note in m.notes) == turn


@pytest.mark.parametrize("unit", ["deg", "rad"])
@pytest.mark.parametrize("name", ["angles.npy", "angles.txt"])
def test_angles_of_a_file(name, unit, tmp_path):
    m = measured(tmp_path, sinogram(), angles=angles(tmp_path, unit, name), size=SIDE)
    assert distance(back(m)) < 0.05
    assert any(f"taken as {'degrees' if unit == 'deg' else 'radians'}" in note for note in m.notes)


def test_angles_beside_the_sinogram(tmp_path):
    np.savez(tmp_path / "s.npz", sinogram=sinogram(), angles=np.linspace(0, 180, VIEWS, endpoint=False))
    assert distance(back(CT.read(tmp_path / "s.npz", CT.Options(size=SIDE)))) < 0.05


@pytest.mark.parametrize("text", [str(VIEWS), f"0:180:{VIEWS}", f"0:180:{VIEWS}deg", f"0:{math.pi}:{VIEWS}rad"])
def test_ways_to_say_the_angles(text, tmp_path):
    m = measured(tmp_path, sinogram(), angles=text, size=SIDE)
    expected = torch.arange(VIEWS, dtype=torch.float64) * (math.pi / VIEWS)
    torch.testing.assert_close(m.tensor("angles"), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "ct: --angles: expected a file, start:stop:count, or the number of views, got none"),
        ({"angles": "61"}, "ct: --angles: expected 60 or 58 of them for a sinogram of 60 x 58, got 61"),
        ({"angles": "58", "axes": "views"}, r"one for each of 60 views, got 58 angles \(transposed\? --axes\)"),
        ({"angles": "0:3.14:60deg"}, r"expected angles in degrees, got a span of 3.14: radians\?"),
        ({"angles": "0:180:60rad"}, r"expected angles in radians within 4 turns, got a span of 180: degrees\?"),
        ({"angles": "0:10:60"}, "expected the unit of the angles, deg or rad"),
        ({"angles": "0"}, r"ct: --angles: expected a number of views in \[1, 100000\], got 0"),
        ({"angles": "nowhere.txt"}, "nowhere.txt: no such file"),
        ({"angles": "60", "flat": "nowhere.npy"}, "nowhere.npy: no such file"),
        ({"angles": "60", "geometry": "fan", "source_distance": 9.0}, "source_distance: expected more than"),
        ({"angles": "58", "geometry": "skimage", "size": 45}, "ct: --size: expected 60, or one that scikit-image sees"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_sinogram(options, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        measured(tmp_path, sinogram(), **options)


def test_as_many_detectors_as_views_need_a_word(tmp_path):
    y = sinogram(VIEWS, VIEWS)
    with pytest.raises(ValueError, match=r"ct: --axes: expected --axes views or --axes detectors, .*, got 60 x 60"):
        measured(tmp_path, y, angles="60")
    for axes in ("views", "detectors"):
        m = measured(tmp_path, y if axes == "views" else y.T, angles="60", axes=axes, size=SIDE)
        assert distance(back(m)) < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source_distance": 9.0}, "ct: --source-distance: expected it with --geometry fan only"),
        ({"curved": True}, "ct: --curved: expected it with --geometry fan only"),
        ({"geometry": "fan"}, "ct: --source-distance: expected a length for --geometry fan, got none"),
        ({"geometry": "skimage", "pitch": 2.0}, "ct: --geometry: expected no --axis and no --pitch with skimage"),
        ({"axis": "middle"}, "ct: --axis: expected a number, or auto, got middle"),
        ({"dark": "3"}, "ct: --flat: expected it with --dark, got none"),
        ({"geometry": "cone"}, "ct: --geometry: expected one of parallel, fan, skimage"),
        ({"pixel": 0.0}, "ct: --pixel: expected a number in"),
        ({"noise": -1.0}, "ct: --noise: expected a number in"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_each_other(options, message):
    with pytest.raises(ValueError, match=message):
        CT.Options(**options)


def test_lengths_have_the_unit_of_the_pixel(tmp_path):
    millimetres = 0.7
    y = sinogram(pixel=millimetres)  # in the unit of attenuation per mm
    m = measured(tmp_path, y, angles="60", pitch=millimetres, size=SIDE)
    assert distance(back(m)) < 0.05
    assert any(note.startswith("picture: attenuation per unit of length, pixels of 0.7;") for note in m.notes)
    coarse = sinogram(pixel=millimetres, spacing=1.3 * millimetres)
    m = measured(tmp_path, coarse, angles="60", pitch=1.3 * millimetres, pixel=millimetres, size=SIDE)
    assert distance(back(m)) < 0.06
    assert measured(tmp_path, coarse, angles="60", pitch=1.3 * millimetres, pixel=millimetres).size == (75, 75)


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize("unit", [1.0, 0.4])
def test_fans(curved, unit, tmp_path):
    place = {k: v if k == "geometry" else v * unit for k, v in FAN.items()}
    y = sinogram(80, 62, **place, pixel=unit, curved=curved)
    options = {"pixel": unit} if unit != 1 else {}
    m = measured(tmp_path, y, angles="80", **place, **options, curved=curved, size=SIDE)
    assert distance(back(m)) < 0.06
    assert any(note.startswith("fan beams, 80 views over 355.5 degrees") for note in m.notes)


def test_the_axis_of_rotation(tmp_path):
    y = sinogram(offset=-2.5)
    axis = (DETECTORS - 1) / 2 + 2.5
    plain = measured(tmp_path, y, angles="60", size=SIDE)
    assert f"the axis is taken at detector 28.5, the centres of mass say {axis:.2f}: --axis auto?" in plain.notes
    for said in (str(axis), "auto"):
        m = measured(tmp_path, y, angles="60", axis=said, size=SIDE)
        assert distance(back(m)) < 0.05 < 0.2 < distance(back(plain))
    assert axis_of(y, m.tensor("angles").numpy()) == pytest.approx(axis, abs=0.05)
    noise = np.abs(np.random.default_rng(0).standard_normal((60, 58)))
    assert axis_of(noise[:4], np.linspace(0, 3, 4)) is None
    with pytest.raises(ValueError, match="ct: --axis: expected centres of mass on a sine"):
        measured(
            tmp_path,
            noise.astype(np.float32) * np.linspace(0.1, 2, 60)[:, None] ** 2 * np.eye(60, 58),
            angles="60",
            axis="auto",
        )


@pytest.mark.parametrize("side", [40, 41])
@pytest.mark.parametrize("circle", [True, False])
def test_sinograms_of_scikit_image(side, circle, tmp_path):
    transform = pytest.importorskip("skimage.transform")
    t = np.arange(side) - side // 2
    inside = np.hypot(t[:, None], t) < side // 2 - 1
    x = image(side).numpy()[0, 0] * inside
    theta = np.arange(0, 180, 3.0)
    y = transform.radon(x, theta, circle=circle).astype(np.float32)
    m = measured(tmp_path, y, geometry="skimage", **({} if circle else {"size": side}))
    reference = transform.iradon(y, theta, side, filter_name="hann", circle=circle)
    assert distance(back(m) * inside, x) < 1.05 * distance(reference * inside, x)


@pytest.mark.parametrize("turn", [False, True])
def test_counts_of_photons(turn, tmp_path):
    y = 0.02 * sinogram()
    rng = np.random.default_rng(0)
    flat = 50_000 * (1 + 0.2 * np.sin(np.arange(DETECTORS)))
    counts = (rng.poisson(flat * np.exp(-y)) + 100).astype(np.uint16)
    np.save(tmp_path / "flat.npy", flat.astype(np.float32) + 100)
    np.save(
        tmp_path / "whole.npy", np.broadcast_to(flat + 100, y.shape).T if turn else np.broadcast_to(flat + 100, y.shape)
    )
    for fields in ({"flat": "flat.npy"}, {"flat": "whole.npy"}):
        options = {"flat": str(tmp_path / fields["flat"]), "dark": "100"}
        m = measured(tmp_path, counts.T if turn else counts, "c.tif", angles="60", size=SIDE, **options)
        assert distance(back(m) / 0.02) < 0.08


def test_counts_that_are_wrong(tmp_path):
    counts = np.random.default_rng(0).poisson(5000 * np.exp(-0.05 * sinogram())).astype(np.uint16)
    with pytest.raises(ValueError, match=r"the largest numbers there \(counts\? --flat\)"):
        measured(tmp_path, counts, angles="60")
    with pytest.raises(ValueError, match=r"line integrals >= 0 but for noise, got a mean of -.* \(--flat too low\?\)"):
        measured(tmp_path, counts, angles="60", flat="500")
    with pytest.raises(ValueError, match="ct: flat: expected counts above those of dark"):
        measured(tmp_path, counts, angles="60", flat="5000", dark="6000")
    counts[:, :30] = 0
    with pytest.raises(ValueError, match="ct: expected counts > 0"):
        measured(tmp_path, counts, angles="60", flat="5000")


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.ones((60, 58), np.complex64), "expected real numbers"),
        (np.full((60, 58), np.nan, np.float32), "expected finite numbers"),
        (np.zeros((60, 58), np.float32), "ct: sinogram: expected line integrals that are not all 0"),
        (-sinogram(), "ct: sinogram: expected line integrals"),
        (np.ones((2, 60, 58), np.float32), r"expected an array \[rows, columns\]"),
    ],
    ids=["complex", "nan", "zeros", "negative", "three"],
)
def test_other_arrays_are_refused(y, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        measured(tmp_path, y, angles="60")


def test_noise_and_views_that_are_missing(tmp_path):
    y = sinogram() + 0.2 * np.random.default_rng(0).standard_normal((60, 58)).astype(np.float32)
    m = measured(tmp_path, y, angles="60", size=SIDE)
    told = float(next(note for note in m.notes if note.startswith("noise estimated: ")).partition(": ")[2].split()[0])
    assert told == pytest.approx(0.2, rel=0.2)
    given = measured(tmp_path, y, angles="60", size=SIDE, noise=0.2)
    assert given.noise == pytest.approx(m.noise * 0.2 / told, rel=0.01)
    few = measured(tmp_path, y[:40], angles="0:120:40", size=SIDE)
    assert "no views over 63 degrees" in few.notes


def test_a_simulated_scan_takes_no_options_of_measured_ones():
    picture = io.Picture(image().numpy()[0, 0], "x.npy", io.Form(), white=1)
    for name, value in {"axis": "auto", "size": 40, "axes": "views", "flat": "9"}.items():
        with pytest.raises(ValueError, match=f"ct: --{name}: expected it with measured sinograms only"):
            CT.simulate(picture, CT.Options(**{name: value}))
    m = CT.simulate(picture, CT.Options(angles="50", **FAN))
    assert distance(CT.pixels(CT.start(m), m)) < 0.1
    assert CT.operator(m).norm() == pytest.approx(1, abs=1e-5)
    complex_one = io.Picture(1j * picture.pixels, "x.npy", io.Form(), white=None)
    with pytest.raises(ValueError, match="ct: picture: expected a real one"):
        CT.simulate(complex_one, CT.Options())


@pytest.mark.parametrize("place", [{}, FAN, {**FAN, "curved": True}], ids=["parallel", "flat", "curved"])
def test_beyond_what_all_views_see_the_start_is_0(place):
    """A pixel is within the circle if every one of many views sees it."""
    a = Radon((31, 31), 90, 25, **place)
    hit = torch.stack(
        [Radon((31, 31), [t], 25, a.spacing, **place).adjoint(torch.ones(1, 1, 1, 25))[0, 0] for t in a.angles.tolist()]
    )
    seen = Scan.like(a).seen()
    assert not seen.all()
    assert bool((hit > 0)[:, seen].all())
    assert (seen ^ (hit > 0).all(0)).float().mean() < 0.05  # pixels at the edge
    assert Scan.like(Radon((31, 20), 90, **place)).seen().all()
