"""Pictures by tiles: the numbers are those of the whole picture, and files are read and written by rows."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

import fastrecon as fr
from fastrecon.cli.main import main
from fastrecon.io import read_picture
from fastrecon.io.pieces import pieces, written
from fastrecon.ops.feature_gradient import feature_gradient
from fastrecon.ops.feature_tile import feature_tile, margin
from fastrecon.registry import using
from fastrecon.solvers import LDA
from fastrecon.solvers.planes import Kept, Plane
from fastrecon.solvers.tiled import TiledLDA

SIDE = 8  # of the blocks of most tests


@pytest.fixture(autouse=True)
def one_thread():
    """Several divide an untiled image otherwise."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


def network(phases=3, **options) -> LDA:
    torch.manual_seed(0)
    operator = fr.operators.BlockSensing(fr.operators.random_phi(20, SIDE * SIDE).float(), SIDE)
    return LDA(operator, phases, channels=5, layers=3, **options).eval()


def image(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(1, 1, height, width, generator=generator)


def kept(folder: Path, key: int = 0) -> Kept:
    return Kept(folder / ".kept", {"key": key})


@pytest.mark.parametrize("options", [{}, {"sigma": 1e9}, {"tau": 3.0}])
def test_a_call_that_was_broken_off_goes_on(tmp_path, options):
    net, size = network(phases=4, **options), (48, 29)
    y, q = net.fidelity.operator(image(*size)), net.fidelity.operator.phi.T.contiguous()
    rows = Plane(tmp_path, tuple(y[0].shape))
    rows.write(0, y[0])
    usual = TiledLDA(net, 16, tmp_path)
    expected, report = usual(rows, usual.start(rows, q, size))
    calls: list[float] = []

    def breaks(done):
        calls.append(done)
        if len(calls) in (2, 7, 22, 40):  # in the middle of a phase, wherever
            raise KeyboardInterrupt

    for _ in range(5):
        with contextlib.suppress(KeyboardInterrupt), kept(tmp_path) as place:
            solver = TiledLDA(net, 16, tmp_path, place)
            x0 = None if "standing" in place.state else solver.start(rows, q, size)
            x, found = solver(rows, x0, breaks)
    assert calls[-1] == 4
    assert torch.equal(x.read(0, size[0]), expected.read(0, size[0]))
    for name in ("took_u", "reductions", "eps", "phi", "merit", "grad_norm"):
        assert torch.equal(getattr(found, name), getattr(report, name)), name
    assert not list(tmp_path.iterdir())


def test_the_state_of_another_computation_is_dropped(tmp_path):
    with contextlib.suppress(KeyError), kept(tmp_path) as place:
        place.keep(a=1)
        raise KeyError
    with contextlib.suppress(KeyError), kept(tmp_path) as place:
        assert place.state == {"a": 1}
        with pytest.raises(ValueError, match="expected no other run at work there"):
            kept(tmp_path).__enter__()
        raise KeyError
    with kept(tmp_path, 1) as place:
        assert place.state == {}
    assert not list(tmp_path.iterdir())


def tiled(net: LDA, y: torch.Tensor, x0: torch.Tensor, tile: int, folder: Path):
    planes = [Plane(folder, tuple(t.shape)) for t in (y[0], x0[0, 0])]
    for plane, t in zip(planes, (y[0], x0[0, 0]), strict=True):
        plane.write(0, t)
    x, report = TiledLDA(net, tile, folder)(*planes)
    return x.read(0, x0.shape[-2]), report


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("layers", [2, 4])
def test_a_tile_has_the_bits_of_the_whole_image(precision, layers):
    torch.manual_seed(0)
    x, eps = image(160, 148), torch.tensor([0.02])
    weights = [0.2 * torch.randn(32, 32 if k else 1, 3, 3) for k in range(layers)]
    value, grad = feature_gradient(x, weights, eps, precision=precision)
    around, total = margin(layers), 0.0
    for top in range(0, 160, 64):
        for left in range(0, 148, 52):
            bottom, right = min(top + 64, 160), min(left + 52, 148)
            first, before = max(top - around, 0), max(left - around, 0)
            tile = x[..., first : bottom + around, before : right + around]
            inside = slice(top - first, bottom - first), slice(left - before, right - before)
            part, g = feature_tile(tile, weights, eps, inside, 0.01, False, precision)
            alone = feature_tile(tile, weights, eps, inside, 0.01, False, precision, gradient=False)[0]
            assert torch.equal(g, grad[..., top:bottom, left:right])
            assert torch.equal(alone, part)
            total += part
    assert torch.equal(total.float(), value)


@pytest.mark.parametrize("options", [{}, {"sigma": 1e9}, {"eps_mode": "schedule"}, {"eps_mode": "batch"}, {"tau": 3.0}])
@pytest.mark.parametrize(("height", "width"), [(64, 40), (83, 61), (5, 3)])
def test_the_image_is_that_of_lda_to_the_bit(tmp_path, options, height, width):
    net = network(**options)
    y = net.fidelity.operator(image(height, width))
    x0 = net.fidelity.operator.apply_adjoint(y, (height, width))
    with torch.no_grad():
        expected, report = net(y, x0)
    for tile in (8, 24):
        x, found = tiled(net, y, x0, tile, tmp_path)
        assert torch.equal(x, expected[0, 0])
        for name in ("took_u", "reductions", "iterations", "eps"):
            assert torch.equal(getattr(found, name), getattr(report, name)), name
        for name in ("phi", "phi_eps", "merit", "grad_norm"):
            torch.testing.assert_close(getattr(found, name), getattr(report, name), rtol=1e-7, atol=0)
    assert not list(tmp_path.iterdir())  # scratch files have no names


def test_both_branches_are_taken_in_these_tests():
    y = network().fidelity.operator(image(64, 40))
    counts = set()
    for tau in (0.1, 3.0):
        net = network(tau=tau)
        counts.add(net(y, net.fidelity.operator.apply_adjoint(y, (64, 40)))[1].took_u.item())
    assert len(counts) == 2


def test_more_threads_change_nothing(tmp_path):
    net = network()
    y = net.fidelity.operator(image(80, 61))
    x0 = net.fidelity.operator.apply_adjoint(y, (80, 61))
    one = tiled(net, y, x0, 16, tmp_path)[0]
    torch.set_num_threads(3)
    assert torch.equal(tiled(net, y, x0, 16, tmp_path)[0], one)
    assert torch.get_num_threads() == 3


def test_the_definition_serves_where_no_kernel_is(tmp_path):
    net = network(phases=1)
    y = net.fidelity.operator(image(40, 33))
    x0 = net.fidelity.operator.apply_adjoint(y, (40, 33))
    with using("reference"), torch.no_grad():
        torch.testing.assert_close(tiled(net, y, x0, 16, tmp_path)[0], net(y, x0)[0][0, 0])


@pytest.mark.parametrize("other", [{"safeguard": True}, {"in_channels": 2}])
def test_other_solvers_are_refused(tmp_path, other):
    with pytest.raises(ValueError, match="TiledLDA: solver: expected LDA of block sensing"):
        TiledLDA(network(**other), 8, tmp_path)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("dtype", "how"),
    [
        ("float32", {}), ("uint8", {}), ("uint16", {"byteorder": ">"}), ("float32", {"tile": (32, 16)}),
        ("uint16", {"compression": "zlib", "predictor": True, "rowsperstrip": 7}), ("float64", {"rowsperstrip": 9}),
        ("uint8", {"tile": (16, 48), "compression": "zlib"}),
    ],
)  # fmt: skip
def test_rows_of_tiff_are_those_of_the_picture(tmp_path, dtype, how):
    a = np.random.default_rng(0).random((75, 61))
    full = np.iinfo(dtype).max if dtype.startswith("u") else 1
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, (a * full).astype(dtype), photometric="minisblack", metadata=None, **how)
    with pieces(path) as found:
        rows = np.concatenate([found.read(k, min(k + 20, 75)) for k in range(0, 75, 20)])
        assert found.scale(20) == 1
    assert np.array_equal(rows, read_picture(path).pixels)


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".zarr"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_what_is_written_by_rows_is_read_again(tmp_path, suffix, dtype):
    if suffix == ".zarr":
        pytest.importorskip("zarr")
    a = np.random.default_rng(0).random((75, 61)).astype("f4").T.copy().T  # columns first: what is written is rows
    path = tmp_path / f"a{suffix}"
    with written(path, a.shape, dtype) as put:
        for k in range(0, 75, 20):
            put(k, a[k : k + 20])
    with pieces(path) as found:
        assert (found.shape, found.dtype.name) == (a.shape, dtype)
        assert np.abs(found.read(0, 75) - a).max() <= {"uint8": 0.502 / 255, "uint16": 0.502 / 65535}.get(dtype, 0)
        assert np.array_equal(found.read(31, 42), found.read(0, 75)[31:42])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_picture_that_fails_half_way_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="finite pixels"), written(tmp_path / "a.tif", (4, 4), "uint8") as put:
        put(0, np.full((2, 4), np.nan))
    assert not list(tmp_path.iterdir())


def test_a_scale_of_their_own(tmp_path):
    np.save(tmp_path / "a.npy", np.float32([[-3, 700], [2, 1]]))
    with pieces(tmp_path / "a.npy") as found:
        assert found.scale(1) == 700


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.png", lambda p: p.write_bytes(b"x"), "other kinds are not read by rows"),
        ("a.tif", lambda p: p.write_bytes(b"x" * 99), "damaged or unknown"),
        ("a.tif", lambda p: tifffile.imwrite(p, np.zeros((9, 9, 3), "u1"), photometric="rgb"), "one grey channel"),
        ("a.tif", lambda p: tifffile.imwrite(p, np.zeros((9, 9), "i2")), "8 or 16 bits"),
        ("a.npy", lambda p: np.save(p, np.zeros((9, 9), "c8")), "numbers of uint8"),
        ("a.npy", lambda p: np.save(p, np.zeros(9)), r"an array \[H, W\]"),
        ("a.zarr", lambda p: p.mkdir(), "no such file"),
    ],
)
def test_other_files_are_refused(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises((ValueError, FileNotFoundError), match=message), pieces(tmp_path / name):
        pass


def test_a_file_cut_off_is_told(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((64, 64), "f4"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"a\.npy"), pieces(path):
        pass


# ---------------------------------------------------------------- the command


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_the_command_writes_the_same_picture(tmp_path):
    picture, model = tmp_path / "a.tif", tmp_path / "m.safetensors"
    tifffile.imwrite(picture, image(70, 81)[0, 0].numpy(), photometric="minisblack", metadata=None)
    shipped = fr.load("lda-cs-10")
    for name in ("raw_alpha", "raw_tau"):
        setattr(shipped.solver, name, torch.nn.Parameter(getattr(shipped.solver, name)[:2].detach().clone()))
    shipped.save(model)
    both = "reconstruct", picture, "--model", model, "--simulate"
    assert run(*both, "--no-figure", "--out", tmp_path / "whole") == 0
    assert run(*both, "--tile", 33, "--resumable", "--out", tmp_path / "tiles") == 0
    assert {p.name for p in (tmp_path / "tiles").iterdir()} == {"a_reconstruction.tif", "a_report.json"}
    whole, tiles = (tmp_path / k / "a_reconstruction.tif" for k in ("whole", "tiles"))
    assert np.array_equal(read_picture(whole).pixels, read_picture(tiles).pixels)
    a, b = (json.loads((tmp_path / k / "a_report.json").read_text()) for k in ("whole", "tiles"))
    assert b["tile"] == 132
    assert b["scores"]["reconstruction"]["psnr"] == pytest.approx(a["scores"]["reconstruction"]["psnr"])
    assert b["certificate"]["phi"] == pytest.approx(a["certificate"]["phi"])
    # measurements in a file, without their picture
    y = tmp_path / "y.npy"
    np.save(y, shipped.operator(image(70, 81))[0].numpy())
    given = "reconstruct", y, "--model", model, "--problem", "block-cs", "--size", "70x81", "--tile", 33
    assert run(*given, "--bits", 32, "--out", tmp_path / "given") == 0
    found = np.load(tmp_path / "given" / "y_reconstruction.npy")
    assert np.array_equal(found, read_picture(whole).pixels)


def test_impulse_noise_by_tiles(tmp_path):
    picture = tmp_path / "a.tif"
    tifffile.imwrite(picture, (255 * image(70, 81)[0, 0].numpy()).astype("u1"), photometric="minisblack", metadata=None)
    both = "reconstruct", picture, "--model", "dladmm-saltpepper", "--problem", "impulse"
    assert run(*both, "--no-figure", "--out", tmp_path / "whole") == 0
    assert run(*both, "--tile", 20, "--out", tmp_path / "tiles") == 0
    whole, tiles = (tmp_path / k / "a_reconstruction.tif" for k in ("whole", "tiles"))
    assert np.array_equal(read_picture(whole).pixels, read_picture(tiles).pixels)
    a, b = (json.loads((tmp_path / k / "a_report.json").read_text()) for k in ("whole", "tiles"))
    assert b["certificate"]["objective"] == pytest.approx(a["certificate"]["objective"])
    assert {p.name for p in (tmp_path / "tiles").iterdir()} == {"a_reconstruction.tif", "a_report.json"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--problem", "inpaint"),
            "--tile: expected a --model of LDA for block-cs, or of D-LADMM for impulse, with it, got none",
        ),
        (("--model", "lda-cs-10", "--rigorous"), "--rigorous: expected none with --tile"),
        (("--model", "lda-cs-10", "--noise", "0.1"), "--noise: expected none with --tile"),
        (("--model", "prior-natural", "--problem", "inpaint"), "or of D-LADMM for impulse, with it, got one of prior"),
        (("--model", "dladmm-saltpepper"), "--simulate: expected none with --tile and impulse noise"),
    ],
)
def test_what_is_not_made_by_tiles_is_told(tmp_path, capsys, words, message):
    np.save(tmp_path / "a.npy", np.zeros((40, 40), "f4"))
    command = "reconstruct", tmp_path / "a.npy", "--simulate", "--tile", 64, "--out", tmp_path / "out"
    assert run(*command, *words) == 2
    assert message in capsys.readouterr().err
