import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from zoo import BLOCK, M, images, small_model

import fastrecon
from fastrecon import load, pretrained
from fastrecon.certificates import MisfitReport, Status
from fastrecon.metrics import psnr
from fastrecon.models import BlockSensingModel
from fastrecon.models import base as models
from fastrecon.operators import BlockSensing, Inpainting, random_phi
from fastrecon.ops.feature_gradient import bfloat16_here
from fastrecon.registry import backends
from fastrecon.solvers import LDA, AGDNet, GDNet
from fastrecon.terms.feature_norm import FeatureNorm

COMPILED = backends()["feature_gradient_fwd"]["cpu"].startswith("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    """Images of a few pixels gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_start_fits_the_measurements():
    r, x = small_model(), images()
    y = r.operator(x)
    torch.testing.assert_close(r.operator(r.start(y)), y, rtol=0, atol=1e-5)  # A Q = I
    torch.testing.assert_close(r.start(y)[1, 0, 5:10, :5].flatten(), r.q @ y[1, 1, 0])


def test_reconstruction_is_the_solver_from_the_start():
    r, x = small_model(), images()
    y = r.operator(x)
    result = r(y, size=(13, 9))
    with torch.no_grad():
        torch.testing.assert_close(result.x, r.solver(y, r.start(y)[..., :13, :9].contiguous())[0])
    assert r(y).x.shape == (2, 1, 15, 10)
    assert not result.x.requires_grad
    assert len(result.report) == 2


def test_blockwise_treats_every_block_as_an_image():
    r, x = small_model(blockwise=True), images()
    y = r.operator(x)
    result = r(y, size=(13, 9), history=True)
    parts = []
    for i in range(2):
        for j in range(3):
            for k in range(2):
                block = y[i : i + 1, j : j + 1, k : k + 1]
                with torch.no_grad():
                    parts.append(r.solver(block, r.start(block)))
    for n, (part, _) in enumerate(parts[6:]):
        top, left = BLOCK * (n // 2), BLOCK * (n % 2)
        torch.testing.assert_close(r(y).x[1:, :, top : top + BLOCK, left : left + BLOCK], part)
    of_image = [p.to_dict(0) for _, p in parts[6:]]
    joined = result.report.to_dict(1)
    for key in ("phi", "phi_eps", "merit", "iterations", "took_u", "reductions"):
        assert joined[key] == pytest.approx(sum(p[key] for p in of_image), rel=1e-5)
    assert joined["grad_norm"] == pytest.approx(sum(p["grad_norm"] ** 2 for p in of_image) ** 0.5, rel=1e-5)
    assert joined["eps"] == max(p["eps"] for p in of_image)
    assert joined["status"] == "trained phases only"
    assert result.report.history["merit"].shape == (3, 2)


def test_rigorous_mode_passes_options_on():
    r, x = small_model(), images(1)
    result = r(r.operator(x), size=(13, 9), rigorous=True, tol=0.1, iterations=2000)
    assert result.report.status == ["converged"]
    assert result.report.iterations.item() > 2


@pytest.mark.parametrize("kind", [GDNet, AGDNet])
def test_every_method_has_a_rigorous_mode(kind):
    r = small_model(kind)
    result = r(r.operator(images()), size=(13, 9), rigorous=True, tol=0.1, iterations=2000)
    assert result.report.converged.all()
    assert (result.report.history["merit"][r.solver.phases :].diff(dim=0) <= 0).all()


@pytest.mark.skipif(not COMPILED, reason="bits are promised with the compiled kernels")
@pytest.mark.parametrize("blockwise", [False, True])
def test_image_has_the_same_bits_alone_and_in_any_batch(blockwise):
    r = small_model(blockwise=blockwise)
    y = r.operator(images(4))
    x = r(y, size=(13, 9)).x
    assert torch.equal(r(y[2:3], size=(13, 9)).x, x[2:3])
    assert torch.equal(r(y[[3, 0]], size=(13, 9)).x, x[[3, 0]])


def test_arrays_are_answered_in_kind():
    r = small_model()
    y = r.operator(images())
    x = r(y.numpy().astype(np.float64), size=(13, 9)).x
    assert isinstance(x, np.ndarray)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, r(y, size=(13, 9)).x.numpy())


@pytest.mark.parametrize("kind", [LDA, GDNet, AGDNet])
@pytest.mark.parametrize("from_seed", [True, False])
def test_saved_model_gives_the_same_bits(tmp_path, kind, from_seed):
    r = small_model(
        kind, blockwise=from_seed, meta={"phi_seed": 3, "training": {"psnr": 30.1}} if from_seed else {"phi_seed": 4}
    )
    y, path = r.operator(images()), tmp_path / "m.safetensors"
    r.save(path)
    again = load(path)
    assert torch.equal(again(y).x, r(y).x)
    assert again.meta == r.meta
    assert again.blockwise == r.blockwise
    assert again.solver.hyperparameters() == r.solver.hyperparameters()
    assert not again.training
    assert ("phi" in load_file(path)) != from_seed  # a matrix that its seed makes is not stored
    again.save(path)
    assert torch.equal(load(str(path))(y).x, r(y).x)


def test_shipped_models_load_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_shipped", lambda: tmp_path)
    assert pretrained() == []
    with pytest.raises(
        ValueError, match=r"load: name: expected one of \(none shipped\) or a .safetensors file, got 'small'"
    ):
        load("small")
    small_model().save(tmp_path / "small.safetensors")
    small_model(seed=1).save(tmp_path / "other.safetensors")
    assert pretrained() == ["other", "small"]
    y = small_model().operator(images())
    assert torch.equal(load("small")(y).x, small_model()(y).x)
    with pytest.raises(ValueError, match=r"expected one of other, small or a \.safetensors file, got 'lda-cs-26'"):
        load("lda-cs-26")


def test_every_shipped_model_fits_its_name():
    for name in fastrecon.pretrained():
        r = load(name)
        assert r.meta["name"] == name
        if not isinstance(r, BlockSensingModel):
            continue
        eye = torch.eye(r.q.shape[1])
        atol = 1e-4 if "phi_seed" in r.meta else 0.2  # A Q = I, unless both are learned
        torch.testing.assert_close(r.operator.phi @ r.q, eye, rtol=0, atol=atol)


def test_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    small_model().save(path)
    before = path.read_bytes()

    class Unsavable:
        pass

    broken = small_model(meta={"training": Unsavable()})
    with pytest.raises(TypeError):
        broken.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def damage_empty(path):
    path.write_bytes(b"")


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def damage_text(path):
    path.write_text("not a model at all, but long enough to have a header")


def damage_foreign(path):
    save_file(load_file(path), path)


def damage_format(path):
    save_file(load_file(path), path, {"fastrecon": json.dumps({"format": 99})})


def rewrite(path, tensors=None, **changes):
    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()["fastrecon"])
    meta = {k: v for k, v in (meta | changes).items() if v is not None}
    save_file(load_file(path) if tensors is None else tensors, path, {"fastrecon": json.dumps(meta)})


def change(path, part, **changes):
    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()["fastrecon"])
    rewrite(path, **{part: meta[part] | changes})


def damage_missing_tensor(path):
    rewrite(path, {k: v for k, v in load_file(path).items() if k != "raw_tau"})


def damage_shape(path):
    change(path, "hyperparameters", channels=5)


def damage_method(path):
    rewrite(path, method="magic")


def damage_matrix(path):
    change(path, "operator", phi_seed=4)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_empty, r"the file is empty \(0 bytes\)"),
        (damage_truncate, "expected a model file, got a damaged or foreign one"),
        (damage_text, "expected a model file, got a damaged or foreign one"),
        (damage_foreign, "expected a model file, got a safetensors file of another program"),
        (damage_format, "expected format 1 or 2, got 99"),
        (damage_missing_tensor, r"expected a complete model, got a damaged file .*missing: \['raw_tau'\]"),
        (damage_shape, "expected a complete model, got a damaged file"),
        (damage_method, "method: expected one of .*lda, .*, got 'magic'"),
        (damage_matrix, "the sampling matrix of seed 4 comes out differently"),
    ],
)
def test_damaged_file_is_one_clear_line(tmp_path, damage, message):
    path = tmp_path / "m.safetensors"
    small_model().save(path)
    damage(path)
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda y: y[..., :7],
            r"reconstruct: y: expected 10 measurements per block \(ratio 40%\), got 7 \(28% of the 25 pixels\)",
        ),
        (lambda y: y[0], r"reconstruct: y: expected real measurements \[B, rows, cols, 10\], got \(3, 2, 10\)"),
        (
            lambda y: y.index_fill(0, torch.tensor([1]), float("nan")),
            "expected finite measurements, got 60 NaN or Inf in image 1",
        ),
        (lambda y: y / 0, "expected finite measurements, got .* in image 0"),
        (lambda y: y.to("meta"), "reconstruct: y: expected a tensor on cpu, got one on meta"),
        (lambda y: y[:, :1], r"size: expected \(H, W\) of an image of 1x2 blocks of 5x5, got \(13, 9\)"),
    ],
)
def test_wrong_measurements_are_named(change, message):
    r = small_model()
    with pytest.raises(ValueError, match=message):
        r(change(r.operator(images())), size=(13, 9))


def test_parts_that_do_not_belong_together_are_refused():
    a, b = small_model(), small_model()
    with pytest.raises(ValueError, match="BlockSensingModel: operator: expected the operator of the solver"):
        BlockSensingModel(a.operator, b.solver, a.q, {})
    with pytest.raises(ValueError, match=r"BlockSensingModel: q: expected a matrix \(25, 10\), got \(10, 25\)"):
        BlockSensingModel(a.operator, a.solver, a.q.T, {})


def test_copy_of_a_model_file_keeps_working(tmp_path):
    small_model().save(tmp_path / "a.safetensors")
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert load(tmp_path / "b.safetensors").meta["name"] == "small"


@pytest.mark.parametrize(("precision", "allowed"), [("direct", 0.01), ("bfloat16", 0.01)])
def test_precision_of_the_steps_hardly_moves_the_result(precision, allowed):
    r = load("lda-cs-25")
    data = pytest.importorskip("skimage.data")
    x = torch.from_numpy(data.camera()[100:199, 180:279]).float()[None, None] / 255
    y = r.operator(x)
    exact, report = r(y, size=(99, 99))
    r.set_precision(precision)
    rough, changed = r(y, size=(99, 99))
    assert not torch.equal(rough, exact) or not COMPILED or (precision == "bfloat16" and not bfloat16_here())
    assert abs(psnr(rough, x) - psnr(exact, x)).item() < allowed
    assert torch.equal(changed.converged, report.converged)


def test_unknown_precision_is_told():
    with pytest.raises(ValueError, match="precision: expected one of float32, bfloat16, direct, tf32, got 'float16'"):
        FeatureNorm(precision="float16")


@pytest.mark.parametrize("blockwise", [False, True])
def test_empty_batch(blockwise):
    r = small_model(blockwise=blockwise)
    for run in (r, fastrecon.Engine(r)):
        for options in ({"history": True}, {"rigorous": True, "iterations": 2}):
            x, report = run(torch.empty(0, 3, 2, M), size=(13, 9), **options)
            assert x.shape == (0, 1, 13, 9)
            assert len(report) == 0
            assert report.phi.shape == report.iterations.shape == (0,)
            assert list(report.status) == []
    assert r(np.empty((0, 3, 2, M), np.float32)).x.shape == (0, 1, 15, 10)
    with pytest.raises(ValueError, match="reconstruct: y: expected at least one block an image, got"):
        r(torch.empty(1, 0, 2, M))


@pytest.mark.parametrize("y", [[[1.0]], None, "y.npz", 3.5], ids=str)
def test_what_is_no_array_is_refused(y):
    for run, name in ((small_model(), "BlockSensingModel"), (fastrecon.Engine(small_model()), "Engine")):
        with pytest.raises(ValueError, match=f"^{name}: y: expected a tensor or an array, got "):
            run(y)
    with pytest.raises(ValueError, match=r"^BlockSensingModel: y: expected an array without a mask"):
        small_model()(np.ma.masked_array(np.ones((1, 3, 2, M), np.float32)))
    if not isinstance(y, str):
        with pytest.raises(ValueError, match=r"^load: name: expected a name or a path, got "):
            load(y)


@pytest.mark.parametrize("option", [{"rigorous": "no"}, {"size": (13.5, 9)}, {"size": "ab"}], ids=str)
def test_options_of_another_kind_are_refused(option):
    r = small_model()
    with pytest.raises(ValueError, match=f"^reconstruct: {next(iter(option))}: expected "):
        r(r.operator(images()), **option)


@models.register("brighter")
class Brighter(models.Model):
    """A family that lives outside the package."""

    method, problem = "brighter", "inpaint"

    def __init__(self, gain, meta=None):
        super().__init__(meta)
        self.gain, self.operator = torch.nn.Parameter(torch.tensor(gain)), None

    def check(self, y, anywhere=False):
        if y.ndim != 4:
            raise ValueError("brighter: y: expected images")

    @torch.no_grad()
    def compute(self, y, operator=None, **options):
        x = self.gain * operator.adjoint(y)
        none = torch.zeros(len(y))
        status = Status("as told", none.bool(), none == 0)
        return x, MisfitReport(none, none, none.bool(), status)

    def hyperparameters(self):
        return {"gain": self.gain.item()}

    @classmethod
    def from_file(cls, head, tensors):
        model = cls(head.hyperparameters["gain"], head.meta)
        model.load_state_dict(tensors)
        return model


def test_a_family_from_outside(tmp_path):
    path, a = tmp_path / "mine.safetensors", Inpainting(torch.ones(8, 8))
    Brighter(2.0, {"name": "mine", "note": "ours"}).save(path)
    model = load(path)
    assert isinstance(model, Brighter)
    assert (model.name, model.meta) == ("mine", {"name": "mine", "note": "ours"})
    y = torch.rand(3, 1, 8, 8)
    for run in (model, fastrecon.Engine(model)):
        assert torch.equal(run(y, operator=a).x, 2 * y)
        assert len(run(y[:0].numpy(), operator=a).x) == 0
    with pytest.raises(ValueError, match="Brighter: precision: expected float32, got 'bfloat16'"):
        fastrecon.Engine(model, "bfloat16")
    with pytest.raises(NotImplementedError, match="Brighter has no card"):
        model.card()


def test_every_shipped_model_tells_what_it_is():
    for name in pretrained():
        model = load(name)
        assert isinstance(model, models.Model)
        assert models.family_of(model.method, model.problem, name) in type(model).__mro__
        known = ("block-cs", "ct", "deblur", "dehaze", "derain", "impulse", "inpaint", "mri", "slopes", "smooth")
        assert model.problem in (*known, "")  # "": any linear operator
        assert f'fr.load("{name}")' in model.card()
    options = load("lda-cs-10").problem_options()
    assert options == {"ratio": 10, "phi_seed": 0, "block": 33}


def test_another_sampling_matrix_is_refused():
    r = small_model()
    y = r.operator(images())
    again = BlockSensing(random_phi(M, BLOCK**2, seed=3).float(), BLOCK)
    assert torch.equal(r(y, operator=again).x, r(y).x)
    for other in (BlockSensing(random_phi(M, BLOCK**2, seed=4).float(), BLOCK), Inpainting(torch.ones(5, 5))):
        with pytest.raises(ValueError, match="reconstruct: operator: expected the model's own sampling matrix"):
            r(y, operator=other)
