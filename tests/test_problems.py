"""What all problems share: simulated measurements, their files, starts, scores."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fastrecon import io
from fastrecon.problems import PROBLEMS, Measurement, file
from fastrecon.problems import wavelet_l1 as paper
from fastrecon.problems.base import add_noise, quality

NAMES = ("block-cs", "inpaint", "mri", "deblur", "ct", "impulse", "denoise")
NOISY = ("block-cs", "inpaint", "mri", "deblur", "ct", "denoise")
PAPER = ("inpaint", "mri", "deblur", "ct")
SIZES = {"even": (40, 48), "odd": (41, 35), "colour": (37, 44, 3)}


def picture(shape=(40, 48), kind="smooth"):
    """A picture on [0, 1]: waves of a few periods, with edges."""
    rows, columns = (np.linspace(0, 1, n, dtype=np.float32) for n in shape[:2])
    a = 0.5 + 0.3 * np.sin(9 * rows)[:, None] * np.cos(7 * columns) + 0.2 * ((rows > 0.5)[:, None] ^ (columns > 0.3))
    if len(shape) == 3:
        a = np.stack([a, a[::-1], 1 - a], -1)
    a = a.clip(0, 1).astype(np.float32)
    if kind == "complex":
        a = (a * np.exp(2j * rows[:, None])).astype(np.complex64)
        return io.Picture(a, Path("picture.npy"), io.Form(".npy", "complex64"), white=None)
    return io.Picture(np.ascontiguousarray(a), Path("picture.png"), io.Form())


def simulated(name, shape=(40, 48), seed=3, kind="smooth", **options):
    problem, small = PROBLEMS[name], {"block": 8} if name == "block-cs" else {}
    return problem.simulate(picture(shape, kind), problem.Options(**(small | options)), seed)


def test_all_are_here():
    assert set(NAMES) <= set(PROBLEMS)
    for name in NAMES:
        problem = PROBLEMS[name]
        assert problem.name == name
        assert problem.summary
        assert problem.methods
        assert problem.compared()
        assert [c.name for c in problem.conditions("default")] == ["default"]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_a_file_holds_all_that_makes_the_operator(name, size, suffix, tmp_path):
    problem, m = PROBLEMS[name], simulated(name, SIZES[size])
    path = tmp_path / f"m{suffix}"
    file.write(path, m)
    assert file.problem_of(path) == name
    again = file.measured(problem, path, problem.Options())
    for one, other in ((m.y, again.y), (m.truth, again.truth)):
        assert torch.equal(one, other)
    assert (again.size, again.window, again.scale, again.noise) == (m.size, m.window, m.scale, m.noise)
    assert (again.form.suffix, again.form.dtype, again.notes) == (m.form.suffix, m.form.dtype, m.notes)
    assert torch.equal(problem.operator(again)(m.truth), problem.operator(m)(m.truth))
    assert torch.equal(problem.start(again), problem.start(m))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_another_problem_is_refused(name, tmp_path):
    other = "impulse" if name != "impulse" else "inpaint"
    file.write(tmp_path / "m.npz", simulated(other))
    with pytest.raises(ValueError, match=rf"m.npz: expected measurements of {name}, got those of {other}"):
        file.measured(PROBLEMS[name], tmp_path / "m.npz", PROBLEMS[name].Options())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_start_and_scores(name, size):
    problem, m = PROBLEMS[name], simulated(name, SIZES[size])
    start = problem.start(m)
    assert start.shape == (len(m.y), 1, *m.size)
    scores = problem.scores(start, m)
    assert set(scores) == {"psnr", "ssim", "relative_error", "nmse_db"}
    assert 5 < scores["psnr"] < 80
    assert problem.scores(m.truth, m)["psnr"] > 120
    pixels = problem.pixels(m.truth, m)
    assert pixels.shape == picture(SIZES[size]).pixels.shape
    np.testing.assert_allclose(pixels, picture(SIZES[size]).pixels, atol=1e-6)
    assert problem.describe(m).startswith(f"{pixels.shape[0]} x {pixels.shape[1]} pixels")
    assert problem.scores(start, Measurement(name, m.y, m.size, m.facts)) is None


@pytest.mark.parametrize("size", ["even", "odd"])
@pytest.mark.parametrize("name", NAMES)
def test_the_operator_made_them(name, size):
    problem, m = PROBLEMS[name], simulated(name, SIZES[size])
    a = problem.operator(m)
    if name not in ("impulse", "denoise"):  # what makes their measurements is no operator
        torch.testing.assert_close(a(m.truth), m.y)
    assert a.adjoint_test((1, 1, *m.size)) < 1e-5
    if problem.norm is not None:
        assert a.norm((1, 1, *m.size), tol=1e-4) <= problem.norm * 1.0001


@pytest.mark.parametrize("name", NOISY)
def test_noise_has_the_deviation_asked_for(name):
    m, clean = (simulated(name, (160, 160), noise=level) for level in (0.05, 0.0))
    assert m.noise == 0.05
    left = (m.y - clean.y)[clean.y != 0] if name in ("inpaint", "mri") else m.y - clean.y
    left = torch.view_as_real(left) if left.is_complex() else left
    assert left.std().item() == pytest.approx(0.05, rel=0.1 if name != "block-cs" else 0.2)
    assert torch.equal(m.y, simulated(name, (160, 160), noise=0.05).y)
    assert not torch.equal(m.y, simulated(name, (160, 160), noise=0.05, seed=4).y)


@pytest.mark.parametrize("rate", [{}, {"noise": 5.0}], ids=["clean", "noisy"])
@pytest.mark.parametrize("name", PAPER)
def test_simulated_as_in_the_paper(name, rate):
    """The tables of Lee & Chun rest on them: masks, noise and operators are those of the networks' training."""
    image = picture().pixels
    m = simulated(name, **{k: v / paper.SCALE for k, v in rate.items()})
    p = paper.instance(name, torch.from_numpy(image)[None, None], seed=3, **rate)
    torch.testing.assert_close(m.y, p.y, rtol=0, atol=2e-7)
    if p.mask is not None:
        assert torch.equal(m.tensor("mask"), p.mask)
    x = torch.rand(1, 1, *m.size)
    torch.testing.assert_close(PROBLEMS[name].operator(m)(x), p.image_operator(x), rtol=0, atol=1e-6)
    start = PROBLEMS[name].start(m)
    start = start.real if start.is_complex() else start
    torch.testing.assert_close(start, p.image(p.start()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("table", ["rates", "noise", "lam", "all"])
@pytest.mark.parametrize("name", PAPER)
def test_tables_of_the_paper(name, table):
    problem = PROBLEMS[name]
    conditions = problem.conditions(table)
    for condition in conditions:
        problem.Options(**condition.simulate)
    if table == "rates":
        names = {"deblur": ["noiseless"], "ct": ["144 views", "72 views"]}
        assert [c.name for c in conditions] == names.get(name, ["30%", "50%", "70%"])
    with pytest.raises(ValueError, match="table: expected one of"):
        problem.conditions("figures")


def test_scores_of_complex_pictures_are_those_of_magnitudes():
    truth = torch.rand(1, 1, 16, 16) * torch.exp(2j * torch.rand(1, 1, 16, 16))
    turned = quality(truth * 1j, truth)
    assert turned["psnr"] > 100
    assert turned["relative_error"] < 1e-6
    assert turned["nmse_db"] == pytest.approx(10 * np.log10(2), abs=1e-4)
    real = quality(truth.abs() + 0.3j, truth.abs())
    assert real["psnr"] > 100


def test_noise_is_the_same_for_real_and_imaginary_parts():
    y = add_noise(torch.zeros(1, 1, 200, 200, dtype=torch.complex64), 0.3, 0)
    assert y.real.std().item() == pytest.approx(0.3, rel=0.02)
    assert y.imag.std().item() == pytest.approx(0.3, rel=0.02)
