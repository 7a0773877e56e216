"""LDA for MRI: any scale, mask and coils, files, commands; its training on real and complex slices, resumed."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import fastrecon as fr
from fastrecon import io, masks, zoo
from fastrecon.cli.main import main
from fastrecon.models import DescentModel
from fastrecon.operators import Fourier, Identity
from fastrecon.solvers import LDA
from fastrecon.train.objective import Score
from fastrecon.train.recipes.beginning import copy_network
from fastrecon.train.recipes.lda_mri import Config, LdaMri
from fastrecon.train.world import World

SIZE = (16, 20)
TINY = {
    "rate": 0.5, "phases": 2, "channels": 4, "layers": 2, "steps": 8, "batch": 2, "patch": 16, "warmup": 1,
    "validation": 0.3, "validate_every": 4,
}  # fmt: skip


def model(**options) -> DescentModel:
    torch.manual_seed(4)
    net = LDA(Identity(), phases=2, layers=2, tau=0.02, **({"channels": 3, "complex_features": True} | options))
    return DescentModel(net, {"name": "small"})


def measured(count=2, coils=0):
    mask = masks.radial(SIZE, 0.4)
    maps = None
    if coils:
        maps = zoo.numbers(1, coils, *SIZE, dtype=torch.complex64, seed=3)
        maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    a = Fourier(mask, sensitivities=maps)
    x = torch.polar(zoo.scenes(count, *SIZE), zoo.scenes(count, *SIZE).flip(-1))
    return a, x, a(x)


KINDS = [
    {},
    {"complex_features": False, "in_channels": 2, "channels": 6},
    {"complex_features": False, "separate": True},
]


@pytest.mark.parametrize("options", KINDS)
def test_a_file_holds_the_model(tmp_path, options):
    own, (a, _, y) = model(**options), measured()
    own.save(tmp_path / "m.safetensors")
    again = fr.load(tmp_path / "m.safetensors")
    assert isinstance(again, DescentModel)
    x, report = own(y, a)
    assert torch.equal(again(y, a).x, x)
    assert report.status == ["trained phases only"] * 2
    for k in range(2):
        assert torch.equal(own(y[k : k + 1], a).x[0], x[k])


@pytest.mark.parametrize("coils", [0, 3])
def test_units_change_nothing(coils):
    m, (a, _, y) = model(), measured(coils=coils)
    x, report = m(y, a)
    assert x.shape == (2, 1, *SIZE)
    assert x.is_complex()
    factor = 1024.0  # exact in binary
    again, same = m(factor * y, a)
    assert torch.equal(again, factor * x)
    assert torch.equal(same.scale, factor * report.scale)
    assert torch.equal(same.phi_eps, report.phi_eps)


@pytest.mark.parametrize("options", KINDS)
def test_the_certificate_is_of_data_divided_by_its_scale(options):
    m, (a, _, y) = model(**options), measured()
    x, report = m(y, a)
    white = report.scale.view(-1, 1, 1, 1)
    seen, data = (x / white).to(torch.complex128), (y / white).to(torch.complex128)
    net = m.for_operator(a).double()
    value = net.fidelity.value(seen, data) + net.regulariser.value(seen, report.eps)
    torch.testing.assert_close(report.phi_eps, value, rtol=1e-5, atol=1e-6)
    norms = (2 if "separate" in options else 1) * math.prod(SIZE)
    torch.testing.assert_close(report.merit - report.phi_eps, norms / 2 * report.eps, rtol=1e-5, atol=1e-6)
    assert ((report.phi_eps <= report.phi) & (report.phi <= report.merit)).all()


@pytest.mark.parametrize("options", KINDS)
def test_rigorous_mode_converges(options):
    m, (a, _, y) = model(sigma=10.0, **options), measured()
    found = m(y, a, rigorous=True, tol=1e-2)
    assert found.report.converged.all()
    merit = found.report.history["merit"][2:]
    assert (merit.diff(dim=0) <= 1e-9 * merit[:-1].abs()).all()


def test_what_does_not_fit_is_told():
    m, (a, _, y) = model(), measured()
    with pytest.raises(ValueError, match="lda: y: expected complex measurements"):
        m(y.real, a)
    with pytest.raises(ValueError, match="lda: operator: expected a LinearOperator, got NoneType"):
        m(y)
    with pytest.raises(ValueError, match="lda: scale: expected"):
        m(y, a, scale=0.0)
    with pytest.raises(ValueError, match="solver: expected a network of one complex channel, got one of 0"):
        DescentModel(LDA(Identity(), phases=1, channels=2, layers=2))
    nothing = torch.zeros_like(y)
    x, report = m(nothing, a)
    assert torch.isfinite(x.abs()).all()
    assert report.scale.tolist() == [1.0, 1.0]


def test_complex_kernels_begin_as_real_ones():
    torch.manual_seed(5)
    real, ours = (
        LDA(Identity(), phases=k, channels=3, layers=2, complex_features=c) for k, c in ((1, False), (2, True))
    )
    copy_network(real, ours)
    _, x, _ = measured()
    parts = [real.regulariser.feature_norms(part) for part in (x.real, x.imag)]
    torch.testing.assert_close(ours.regulariser.feature_norms(x), torch.hypot(*parts))
    torch.testing.assert_close(ours.tau, real.tau.expand(2))


@pytest.fixture
def slices(tmp_path) -> Path:
    """Six slices in a file, three of them complex."""
    real = zoo.scenes(3, 24, 24)[:, 0].numpy()
    turned = torch.polar(zoo.scenes(3, 20, 26), zoo.scenes(3, 20, 26).flip(-1))[:, 0].numpy()
    np.savez(tmp_path / "slices.npz", real=200 * real, turned=turned, ids=np.arange(6))
    return tmp_path / "slices.npz"


def test_slices_of_a_file(slices, tmp_path):
    found = io.read_slices(slices)
    assert [f.shape for f in found] == [(24, 24)] * 3 + [(20, 26)] * 3
    assert [f.dtype.kind for f in found] == ["f"] * 3 + ["c"] * 3
    np.save(tmp_path / "one.npy", np.ones((2, 3)))
    assert io.read_slices(tmp_path / "one.npy")[0].dtype == np.float32
    np.savez(tmp_path / "none.npz", ids=np.arange(6))
    with pytest.raises(ValueError, match=r"none\.npz: expected arrays \[H, W\] or \[N, H, W\], got ids"):
        io.read_slices(tmp_path / "none.npz")
    np.save(tmp_path / "bad.npy", np.array([[np.nan]]))
    with pytest.raises(ValueError, match=r"bad\.npy: the array: expected finite pixels"):
        io.read_slices(tmp_path / "bad.npy")


def words(changes: dict) -> list[str]:
    return [w for k, v in changes.items() for w in (f"--{k.replace('_', '-')}", str(v))]


@pytest.mark.parametrize("features", ["complex", "real", "separate"])
def test_training_learns_and_its_model_reconstructs(slices, tmp_path, features):
    run = tmp_path / "run"
    argv = ["train", "lda-mri", "--data", str(slices), "--out", str(run), "--threads", "1", "--device", "cpu"]
    more = {"steps": 60, "lr": 0.005, "features": features, "validate_every": 20}
    other = ["--loss", "log", "--relative"] if features == "separate" else []
    assert main([*argv, *words(TINY | more), *other]) == 0
    found = fr.load(run / "model.safetensors")
    assert isinstance(found, DescentModel)
    assert (
        f"{TINY['channels']} {'complex' if features == 'complex' else 'real'} channels"
        in (run / "lda-mri-50.md").read_text()
    )
    rows = [r.split(",") for r in (run / "log.csv").read_text().splitlines()]
    scores = [float(r[rows[0].index("validation_psnr")]) for r in rows[1:] if r[rows[0].index("validation_psnr")]]
    assert scores[-1] > scores[0]
    picture = tmp_path / "scene.png"
    io.write_image(picture, zoo.scenes(1, 32, 32)[0, 0].numpy())
    command = ["reconstruct", str(picture), "--problem", "mri", "--simulate", "--method", "lda", "--device", "cpu"]
    command += ["--model", str(run / "model.safetensors"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert main([*command[:-1], str(tmp_path / "more"), "--rigorous", "--tol", "1", "--iterations", "50"]) == 0


def test_training_goes_on_to_the_same_bits(slices, tmp_path):
    config = Config([str(slices)], **TINY)
    one, two = (LdaMri(config, World(), tmp_path) for _ in range(2))
    one.begin_step(0)
    one.loss()
    two.load_state_dict(one.state_dict())
    two.begin_step(0)
    assert torch.equal(one.loss(), two.loss())
    again = LdaMri(config, World(), tmp_path)
    whole = again.batch_of(World())
    for rank in range(2):
        other = LdaMri(config, World(), tmp_path)
        part = other.batch_of(World(rank=rank, size=2))
        for a, b in zip(part[1:], whole[1:], strict=True):
            assert torch.equal(a, b[rank::2])


def test_masks_of_files_sample_their_share_of_the_crops(slices, tmp_path, capsys):
    given = masks.cartesian((16, 16), 0.5, 3, centre=0.25)  # of no seed that is drawn below
    np.save(tmp_path / "m.npy", np.fft.fftshift(given.numpy()))  # with the zero frequency in the middle
    both = TINY | {"mask": [str(tmp_path / "m.npy")], "mask_share": 0.5, "batch": 64}
    seen = LdaMri(Config([str(slices)], **both), World(), tmp_path).batch_of(World())[0].mask[:, 0]
    found = [bool((m == given).all()) for m in seen]
    assert 16 < sum(found) < 48
    others = seen[~torch.tensor(found)]
    assert (others.mean((1, 2)) < 0.7).all()
    whole = LdaMri(Config([str(slices)], **both | {"mask_share": 1.0}), World(), tmp_path).batch_of(World())[0]
    assert (whole.mask == given).all()
    np.save(tmp_path / "m.npy", np.ones((8, 8)))
    argv = ["train", "lda-mri", "--data", str(slices), "--out", str(tmp_path / "run")]
    assert main([*argv, *words(TINY), "--mask", str(tmp_path / "m.npy")]) == 2
    assert "m.npy" in capsys.readouterr().err


def test_a_run_of_learned_steps_alone_ends_with_a_weight_that_takes_them(slices, tmp_path, monkeypatch):
    run = LdaMri(Config([str(slices)], **TINY | {"select_from": 1.0, "features": "separate"}), World(), tmp_path)
    assert run.validate() == run.quality(run.module, select=False)
    a, y = run.measured(run.held[0], torch.Generator().manual_seed(0))
    learned, seen = run.module(y, a, select=False).x, run.module.solver.regulariser.weights[-1]

    def quality(model, **options):
        c = float((model.solver.regulariser.weights[-1] / seen).median())
        return Score("psnr", 30.0 if options or c > 7.9 else 25.0)

    monkeypatch.setattr(run, "quality", quality)
    c, weighed = run.weighed()
    assert c == 32
    torch.testing.assert_close(weighed(y, a, select=False).x, learned)
    monkeypatch.setattr(run, "quality", lambda model, **options: Score("psnr", 30.0 if options else 29.9))
    assert run.weighed()[0] == 4  # no weight takes all of them: the least does
    monkeypatch.setattr(run, "quality", quality)
    run.export({"hours": 0.1, "processes": 1, "steps": 8})
    assert torch.equal(fr.load(tmp_path / "model.safetensors")(y, a).x, weighed(y, a).x)


def test_a_model_of_another_problem_is_told(tmp_path, capsys):
    model().save(tmp_path / "m.safetensors")
    io.write_image(tmp_path / "p.png", zoo.scenes(1, 33, 33)[0, 0].numpy())
    argv = ["reconstruct", str(tmp_path / "p.png"), "--simulate", "--out", str(tmp_path / "o"), "--method", "lda"]
    assert main([*argv, "--problem", "block-cs", "--model", str(tmp_path / "m.safetensors")]) == 2
    assert "expected a model for block-cs, got one for mri" in capsys.readouterr().err


@pytest.mark.parametrize(("rate", "nearest"), [(0.1, 10), (0.3, 30)])
def test_without_a_name_the_shipped_model_of_the_nearest_share_is_taken(tmp_path, capsys, rate, nearest):
    argv = ["reconstruct", "skimage:phantom", "--simulate", "--out", str(tmp_path), "--method", "lda", "--no-figure"]
    assert main([*argv, "--problem", "mri", "--sampling", "radial", "--rate", str(rate), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["model"] == f"lda-mri-{nearest}"
    assert found["scores"]["reconstruction"]["psnr"] > found["scores"]["start"]["psnr"] + 5


@pytest.mark.parametrize("rate", [10, 20, 30])
def test_shipped_models_lose_nothing_by_converging(rate):
    data = pytest.importorskip("skimage.data")
    x = torch.from_numpy(data.shepp_logan_phantom()[100:300:2, 100:300:2]).to(torch.complex64)[None, None]
    a = Fourier(masks.radial((100, 100), rate / 100))
    m = fr.load(f"lda-mri-{rate}")
    phases, converged = m(a(x), a), m(a(x), a, rigorous=True, history=False)
    assert converged.report.status == ["converged"]
    assert (fr.metrics.psnr(converged.x.abs(), x.abs()) > fr.metrics.psnr(phases.x.abs(), x.abs()) - 0.3).all()
