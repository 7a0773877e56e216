"""k-space as people have it: conventions, masks, coils, noise, and what is refused."""

import sys

import numpy as np
import pytest
import torch

from fastrecon import io, masks
from fastrecon.io import KSpace, write_kspace
from fastrecon.problems import PROBLEMS, coils
from fastrecon.problems.mri import CENTRES
from fastrecon.solvers.methods import METHODS

MRI = PROBLEMS["mri"]
AXES = (-2, -1)
ASKED = pytest.mark.parametrize("name", CENTRES)


def image(size=(48, 40)):
    """A complex object in the middle of its image."""
    rows, columns = (np.linspace(-1, 1, n) for n in size)
    r = np.hypot(rows[:, None] / 0.7, columns / 0.6)
    inside = np.clip(8 * (1 - r), 0, 1) * (0.6 + 0.3 * np.cos(5 * rows)[:, None] * np.sin(4 * columns))
    return (inside * np.exp(1j * (rows[:, None] + 0.5 * columns))).astype(np.complex64)


def kspace(x, name):
    """Of images [..., H, W] by a convention."""
    in_kspace, in_image = CENTRES[name]
    y = np.fft.fft2(np.fft.ifftshift(x, AXES) if in_image else x, norm="ortho")
    return (np.fft.fftshift(y, AXES) if in_kspace else y).astype(np.complex64)


def sampling(size, name, rate=0.6):
    return masks.cartesian(size, rate, centre=0.25, centred=CENTRES[name][0]).numpy()


def sensitivities(size, count=4):
    rows, columns = (np.linspace(0, 1, n) for n in size)
    places = [(0.1, 0.1), (0.9, 0.1), (0.1, 0.9), (0.9, 0.9)][:count]
    found = [np.exp(-((rows[:, None] - a) ** 2 + (columns - b) ** 2) + 1j * (a + 2 * b)) for a, b in places]
    return np.stack(found).astype(np.complex64)


def measured(folder, y, mask=None, **options):
    """What the problem reads of samples in k.npy; their mask in mask.npy if there is one."""
    np.save(folder / "k.npy", y)
    if mask is not None:
        np.save(folder / "mask.npy", mask)
        options["mask"] = str(folder / "mask.npy")
    return MRI.read(folder / "k.npy", MRI.Options(**options))


def solved(m, iterations=60):
    return MRI.pixels(METHODS["fista"].ready(iterations=iterations)(MRI.inverse(m)).x, m)


def distance(x, truth):
    return np.linalg.norm(x - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize("size", [(48, 40), (45, 39)], ids=str)
@ASKED
def test_conventions_are_found_out(name, size, tmp_path):
    x = image(size)
    mask = sampling(size, name)
    m = measured(tmp_path, 700 * kspace(x, name) * mask)
    assert f"centre: {name} (by the data)" in m.notes
    assert any(note.startswith("mask inferred from exact zeros: ") for note in m.notes)
    assert 0.5 < MRI.start(m).abs().max() <= 1.001
    found = solved(m)
    assert found.dtype == np.complex64
    assert distance(found, 700 * x) < 0.1


@ASKED
def test_conventions_that_are_asked_for(name, tmp_path):
    y = kspace(image(), name)
    m = measured(tmp_path, y, centre=name)
    assert distance(solved(m), image()) < 0.03
    for other, (in_kspace, _) in CENTRES.items():
        if in_kspace != CENTRES[name][0]:
            with pytest.raises(ValueError, match=rf"mri: --centre: expected .* for such k-space, got {other}, and"):
                measured(tmp_path, y, centre=other)
        elif other != name:
            assert any(
                note.endswith(f"is --centre {other} right?") for note in measured(tmp_path, y, centre=other).notes
            )


def test_samples_that_tell_no_convention_are_asked_for_it(tmp_path):
    y = np.ones((32, 32), np.complex64)
    with pytest.raises(ValueError, match=r"--centre: expected one of none, kspace, image, both to be given"):
        measured(tmp_path, y)
    assert measured(tmp_path, y, centre="both").size == (32, 32)


@pytest.mark.parametrize("suffix", [".npz", ".cfl", ".npy"])
def test_kinds_of_files(suffix, tmp_path):
    x, mask = image(), sampling((48, 40), "both")
    path = tmp_path / f"k{suffix}"
    write_kspace(path, KSpace((kspace(x, "both") * mask)[None], mask > 0, centred=True))
    m = MRI.read(path, MRI.Options())
    assert distance(solved(m), x) < 0.1
    assert m.form.suffix == (".cfl" if suffix == ".cfl" else ".npy")
    written = io.write_picture(tmp_path / "x", MRI.pixels(MRI.start(m), m), m.form)
    assert written.exists()


def test_hdf5(tmp_path):
    pytest.importorskip("h5py")
    x, mask = image(), sampling((48, 40), "both")
    write_kspace(tmp_path / "k.h5", KSpace((kspace(x, "both") * mask)[None], mask > 0, centred=True))
    m = MRI.read(tmp_path / "k.h5", MRI.Options())
    assert "mask of the file" in m.notes
    assert distance(solved(m), x) < 0.1
    assert m.form.suffix == ".h5"


def test_a_mask_that_is_given(tmp_path):
    x = image()
    y, mask = kspace(x, "both"), sampling((48, 40), "both")
    there = y * mask
    for samples in (there, y):  # as they were measured; some of all
        m = measured(tmp_path, samples, mask)
        assert torch.equal(m.tensor("mask")[0, 0], torch.from_numpy(np.fft.ifftshift(mask)))
        assert bool((m.y[m.tensor("mask").expand_as(m.y) == 0] == 0).all())
    assert torch.equal(measured(tmp_path, there, mask[0]).tensor("mask"), m.tensor("mask"))  # a row for all


@pytest.mark.parametrize("whole", [False, True])
def test_a_mask_of_the_other_convention_is_turned(whole, tmp_path):
    y, mask = kspace(image(), "none"), sampling((48, 40), "none")
    m = measured(tmp_path, y if whole else y * mask, np.fft.fftshift(mask))
    assert torch.equal(m.tensor("mask")[0, 0], torch.from_numpy(mask))
    assert any(note.startswith("mask turned by half its size") for note in m.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: masks.cartesian((48, 40), 0.6, 7, centre=0.25, centred=True).numpy(), "samples outside it$"),
        (lambda mask: 1 - mask, r"outside it \(is it inverted\?\)$"),
        (lambda mask: mask[:40], "mask.npy: expected a mask of 48 x 40, got shape"),
        (lambda mask: mask.T, r"got shape \(40, 48\): transposed\?"),
        (lambda mask: 0.3 * mask, "expected a mask of 0 and 1"),
        (lambda mask: 0 * mask, "expected a mask with at least one 1"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(change, message, tmp_path):
    mask = sampling((48, 40), "both")
    with pytest.raises(ValueError, match=message):
        measured(tmp_path, kspace(image(), "both") * mask, change(mask))


def test_zeros_under_a_mask_are_told(tmp_path):
    y, mask = kspace(image(), "both"), sampling((48, 40), "both")
    y[:6] = 0  # partial Fourier, filled up
    assert any(
        "of what the mask calls samples are exactly 0" in note for note in measured(tmp_path, y * mask, mask).notes
    )


def test_noise_comes_from_the_outermost_samples(tmp_path):
    rng = np.random.default_rng(0)
    y = 1000 * kspace(image((96, 96)), "both")
    y = y + 5 * (rng.standard_normal(y.shape) + 1j * rng.standard_normal(y.shape))
    m = measured(tmp_path, y.astype(np.complex64))
    assert m.noise * 1000 * (m.scale / 1000) == pytest.approx(5, rel=0.15)
    given = measured(tmp_path, y.astype(np.complex64), noise=7.0)
    assert given.noise * given.scale == pytest.approx(7)
    low = masks.radius(y.shape) < 0.5
    few = measured(tmp_path, (y * low).astype(np.complex64))
    assert few.noise is None
    assert "noise not known: too few of the outermost frequencies were sampled" in few.notes


def test_several_coils_with_their_sensitivities(tmp_path):
    x, s = image(), sensitivities((48, 40))
    mask = sampling((48, 40), "both", 0.4)
    np.save(tmp_path / "maps.npy", 3 * s)
    m = measured(tmp_path, kspace(3 * s * x, "both") * mask, maps=str(tmp_path / "maps.npy"))
    assert m.y.shape == (1, 4, 48, 40)
    assert MRI.operator(m).norm((1, 1, 48, 40)) <= 1.0001
    assert distance(solved(m, 100), x) < 0.1
    np.savez(tmp_path / "k.npz", kspace=kspace(s * x, "both") * mask, maps=s)
    assert distance(solved(MRI.read(tmp_path / "k.npz", MRI.Options()), 100), x) < 0.1


def test_sensitivities_that_do_not_fit_are_refused(tmp_path):
    y = kspace(sensitivities((48, 40)) * image(), "both")
    for wrong, message in (
        (np.ones((3, 48, 40), np.complex64), r"maps: expected maps of \(4, 48, 40\)"),
        (np.zeros((4, 48, 40), np.complex64), "mri: --maps: expected sensitivities that are not all 0"),
    ):
        np.save(tmp_path / "maps.npy", wrong)
        with pytest.raises(ValueError, match=message):
            measured(tmp_path, y, maps=str(tmp_path / "maps.npy"))


def test_coils_without_sensitivities(tmp_path, monkeypatch):
    x, s = image(), sensitivities((48, 40))
    y = kspace(s * x, "both")
    with monkeypatch.context() as m:
        m.setitem(sys.modules, "sigpy.mri.app", None)
        with pytest.raises(ValueError, match=r"mri: --maps: expected coil sensitivities .* \(pip install sigpy\), got"):
            measured(tmp_path, y)
    with pytest.raises(ValueError, match="or 8x8 low frequencies without gaps to estimate them from, got none, and"):
        measured(tmp_path, y * masks.cartesian((48, 40), 0.4, centre=0.1, centred=True).numpy())
    found = {}

    class Calibration:  # of SigPy: takes centred k-space, answers in the centred image
        def __init__(self, ksp, calib_width, show_pbar):
            found.update(ksp=ksp, width=calib_width)

        def run(self):
            return s / np.sqrt((np.abs(s) ** 2).sum(0))

    for name in ("sigpy", "sigpy.mri"):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    app = type(sys)("sigpy.mri.app")
    app.EspiritCalib = Calibration
    monkeypatch.setitem(sys.modules, "sigpy.mri.app", app)
    for name in CENTRES:
        m = measured(tmp_path, kspace(s * x, name))
        assert found["width"] == 24
        np.testing.assert_allclose(found["ksp"] / np.abs(found["ksp"]).max(), y / np.abs(y).max(), atol=1e-5)
        assert distance(solved(m, 100), x * np.sqrt((np.abs(s) ** 2).sum(0))) < 0.03
        assert any(note == "coil sensitivities by ESPIRiT from 24x24 samples" for note in m.notes)


def test_calibration_finds_the_square():
    mask = np.zeros((32, 30), bool)
    mask[11:22, 10:20] = True
    assert coils.calibration(np.fft.ifftshift(mask)) == 10
    assert coils.calibration(np.ones((32, 20), bool)) == 20


def test_the_middle_that_the_file_wants(tmp_path):
    pytest.importorskip("h5py")
    import h5py

    x = image((64, 40))
    with h5py.File(tmp_path / "k.h5", "w") as file:
        file["kspace"] = kspace(x, "both")[None]
        file["reconstruction_esc"] = np.zeros((1, 32, 36), np.float32)
    m = MRI.read(tmp_path / "k.h5", MRI.Options())
    assert "cropped to 32x36, as the file says" in m.notes
    np.testing.assert_allclose(MRI.pixels(MRI.start(m), m), x[16:48, 2:38], atol=1e-5)


def test_slices(tmp_path):
    x = np.stack([image(), image()[::-1]])[:, None]
    y = kspace(x, "both")
    with pytest.raises(ValueError, match="expected slice to be one of 0 to 1, got none chosen of 2 slices"):
        measured(tmp_path, y)
    m = measured(tmp_path, y, slice=1)
    np.testing.assert_allclose(MRI.pixels(MRI.start(m), m), x[1, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.ones((8, 8), np.float32), "expected complex numbers"),
        (np.full((8, 8), np.nan, np.complex64), "expected finite k-space"),
        (np.zeros((8, 8), np.complex64), "expected k-space, got zeros alone"),
        (np.ones((2, 2, 2, 8, 8), np.complex64), "expected"),
    ],
)
def test_other_files_are_refused(y, message, tmp_path):
    with pytest.raises(ValueError, match=f"k.npy: .*{message}"):
        measured(tmp_path, y)


def test_simulated_of_a_complex_picture():
    picture = io.Picture(4 * image((41, 40)), "x.npy", io.Form(".npy", "complex64"), white=None)
    m = MRI.simulate(picture, MRI.Options(rate=0.7))
    assert m.truth.is_complex()
    assert m.truth.abs().max() == pytest.approx(1)
    scores = MRI.scores(MRI.start(m), m)
    assert scores["nmse_db"] < -10
    np.testing.assert_allclose(MRI.pixels(m.truth, m), picture.pixels, atol=1e-5)


def test_a_mask_for_what_is_simulated(tmp_path):
    picture = io.Picture(np.abs(image()), "x.npy", io.Form(), white=1)
    mask = sampling((48, 40), "kspace")
    np.save(tmp_path / "mask.npy", mask)
    m = MRI.simulate(picture, MRI.Options(mask=str(tmp_path / "mask.npy")))
    assert torch.equal(m.tensor("mask")[0, 0], torch.from_numpy(np.fft.ifftshift(mask)))
    for name, value in {"centre": "both", "maps": "maps.npy", "slice": 0}.items():
        with pytest.raises(ValueError, match=f"mri: --{name}: expected it with measured k-space only"):
            MRI.simulate(picture, MRI.Options(**{name: value}))
