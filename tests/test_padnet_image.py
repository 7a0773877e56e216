"""Deconvolution of photographs as people use it: methods by name, colour, free boundaries, kernels, the table."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

from commands import ok

import fastrecon as fr
from fastrecon import io
from fastrecon.cli.tables.padnet_image import _aligned, _kernels
from fastrecon.metrics import psnr
from fastrecon.operators import Blur, Gradient, motion_kernel
from fastrecon.problems import PROBLEMS
from fastrecon.problems.base import add_noise
from fastrecon.solvers import HQS
from fastrecon.solvers.hqs import continuation
from fastrecon.solvers.methods import METHODS, Inverse
from fastrecon.terms import Lp


def written(path, pixels):
    """A picture in a file."""
    pytest.importorskip("PIL.Image").fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def blurred():
    """A, y, x of a part of a photograph."""
    data = pytest.importorskip("skimage.data")
    x = torch.from_numpy(data.camera()[100:164, 180:244]).float()[None, None] / 255
    a = Blur(motion_kernel(11, 3))
    return a, add_noise(a(x), 0.01, 0), x


def found(method, blurred, **options):
    a, y, x = blurred
    seen = []
    inverse = Inverse(y, a, (64, 64), 0.01, y, 1.0, "deblur")
    result = METHODS[method].ready(**options)(inverse, lambda done, total, x: seen.append((done, total)))
    assert seen[-1][0] == len(seen) <= seen[-1][1]
    return psnr(result.x.clamp(0, 1), x).item(), result.report


def test_both_variants_are_better_than_hyper_laplacian(blurred):
    classical, _ = found("hyper-laplacian", blurred)
    explicit, report = found("padnet", blurred)
    implicit, _ = found("padnet", blurred, variant="implicit")
    assert explicit > classical + 0.5
    assert implicit > classical + 0.5
    values = report.history["objective"]
    assert (values.diff(dim=0) <= 1e-6 * values[:-1]).all()


def test_a_blur_of_the_callers(blurred):
    a, y, x = blurred
    classical = psnr(fr.reconstruct(y, a, "hyper-laplacian", noise=0.01).x.clamp(0, 1), x)
    for variant in ("explicit", "implicit"):
        result = fr.reconstruct(y, a, "padnet", noise=0.01, variant=variant)
        assert psnr(result.x.clamp(0, 1), x) > classical + 0.5
    with pytest.raises(ValueError, match=r"padnet: y: expected grey pictures \[B, 1, H, W\]"):
        fr.reconstruct(y.expand(1, 3, 64, 64), a, "padnet", noise=0.01)
    with pytest.raises(ValueError, match="padnet: operator: expected a Blur, got Inpainting"):
        fr.reconstruct(y, fr.operators.Inpainting(torch.ones(1, 1, 64, 64)), "padnet", noise=0.01)


def test_hyper_laplacian_is_the_published_iteration(blurred):
    a, y, x = blurred
    solver = HQS(a, (Lp(1 / 2000, 2 / 3), Gradient()), [beta / 2000 for beta in continuation()])
    exact, _ = solver(y, y, iterations=solver.planned, tol=0.0)
    assert found("hyper-laplacian", blurred)[0] == pytest.approx(psnr(exact.clamp(0, 1), x).item(), abs=1e-3)
    assert found("hyper-laplacian", blurred, w="2000")[0] == pytest.approx(psnr(exact.clamp(0, 1), x).item(), abs=1e-3)
    for wrong in ("0", "-1", "much"):
        with pytest.raises(ValueError, match=r"^hyper-laplacian: --w: expected auto or a number > 0, got "):
            METHODS["hyper-laplacian"].ready(w=wrong)


def test_colour_with_a_free_boundary(run, tmp_path):
    data = pytest.importorskip("skimage.data")
    x = data.astronaut()[:72, 100:180]
    written(tmp_path / "photo.png", x)
    np.save(tmp_path / "k.npy", motion_kernel(7, 1).numpy())
    command = f"reconstruct {tmp_path}/photo.png --problem deblur --kernel {tmp_path}/k.npy --method padnet"
    told = json.loads(ok(run(f"{command} --variant implicit --iterations 2 --noise 0.01 --json --out {tmp_path}/o")))
    assert told[0]["channels"] == 3
    assert io.read_picture(tmp_path / "o" / "photo_reconstruction.png").pixels.shape == x.shape


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (np.ones((40, 40)), "one no larger than the 32x32 picture, got 41x41"),
        (-np.ones((3, 3)), "a kernel of sum > 0, got sum -9"),
        (np.full((3, 3), np.nan), "finite kernel"),
    ],
    ids=["large", "negative", "NaN"],
)
def test_kernels_that_make_no_sense(fails, tmp_path, kernel, words):
    written(tmp_path / "photo.png", np.full((32, 32), 90, np.uint8))
    np.save(tmp_path / "k.npy", kernel)
    for method in ("padnet", "hyper-laplacian"):
        fails(
            f"reconstruct {tmp_path}/photo.png --problem deblur --kernel {tmp_path}/k.npy --method {method} --out",
            tmp_path / "o", words=(words,),
        )  # fmt: skip


def test_even_and_other_kernels_are_told(tmp_path):
    np.save(tmp_path / "k.npy", np.array([[3.0, 1], [1, -1]]))
    problem = PROBLEMS["deblur"]
    written(tmp_path / "photo.png", np.full((32, 32), 90, np.uint8))
    m = problem.read(tmp_path / "photo.png", problem.Options(kernel=str(tmp_path / "k.npy"), noise=0.01))
    told = " ".join(m.notes)
    assert "negative numbers" in told
    assert "divided by its sum 4" in told
    assert "even kernel 2x2" in told
    assert torch.isfinite(METHODS["padnet"].ready(variant="implicit", iterations=2)(problem.inverse(m)).x).all()


def test_table(run, tmp_path):
    """Simulated and real lines; a photograph that is beside its sharp picture is scored where it fits."""
    data = pytest.importorskip("skimage.data")
    x = data.camera()[100:180, 180:260]
    folder = tmp_path / "real"
    folder.mkdir()
    written(folder / "a.png", x)
    written(folder / "a_k.png", np.roll(x, (2, -1), (0, 1)))
    np.savez(folder / "kernels.npz", k=np.ones((1, 1)))
    told = json.loads(ok(run(
        f"reproduce padnet-table2 --data {folder}/a.png --real {folder} --kernels {folder}/kernels.npz --methods"
        f" hyper-laplacian --json --out {tmp_path}/t"
    )))  # fmt: skip
    assert told["failed"] == []
    (real,) = [r for r in told["rows"] if (r["blur"], r["method"]) == ("real", "hyper-laplacian")]
    assert (real["down"], real["right"]) == (2, -1)
    assert real["psnr"] > 30
    assert {r["blur"] for r in told["rows"]} == {"paper, Levin", "paper, Sun", "real", "simulated"}
    assert list(_kernels([f"{folder}/kernels.npz"])) == ["kernels.npz:k"]
    assert [k.shape[0] for k in _kernels([]).values()] == [13, 19, 25, 31]
    assert _aligned(x / 255, x / 255, [1, 1])["psnr"] == pytest.approx(200)


def test_photographs_are_scored_between_pixels():
    """A picture moved by quarters of a pixel is as good as the sharp one, in grey and in colour."""
    rows, columns = np.meshgrid(np.arange(60), np.arange(64), indexing="ij")

    def waves(i: float, j: float) -> np.ndarray:
        r, c = rows - i, columns - j
        return 0.5 + 0.2 * np.sin(0.5 * r) * np.cos(0.7 * c) + 0.2 * np.sin(0.31 * r + 0.13 * c)

    moved, still = waves(1.25, -2.5), waves(0, 0)
    for found, truth in ((moved, still), (np.stack([moved] * 3, -1), np.stack([still] * 3, -1))):
        told = _aligned(found, truth, [3, 3])
        assert (told["down"], told["right"]) == (1.25, -2.5)
        assert told["psnr"] > 50
