"""The regulariser that rigorous mode of LDA for MRI minimises: its objective, its files, its training."""

from typing import Any

import numpy as np
import pytest
import torch

import fastrecon as fr
from fastrecon import masks, zoo
from fastrecon.cli.main import main
from fastrecon.models import DescentModel, PriorModel
from fastrecon.operators import Fourier, Identity
from fastrecon.solvers import LDA
from fastrecon.solvers.minimiser import Minimiser
from fastrecon.terms.feature_norm import FeatureNorm
from fastrecon.train.recipes.lda_mri_minimiser import Config, LdaMriMinimiser
from fastrecon.train.world import World

SIZE = (16, 20)
TINY = {
    "rate": 0.5, "steps": 6, "batch": 2, "patch": 16, "warmup": 1, "validation": 0.3, "validate_every": 3,
    "precision": "float32",
}  # fmt: skip


def prior() -> PriorModel:
    torch.manual_seed(2)
    r = FeatureNorm(4, 2, delta=0.1, eps=0.02)
    knots = torch.tensor([0.02, 0.1], dtype=torch.float64)
    return PriorModel(r, knots, torch.tensor([0.01, 0.05], dtype=torch.float64), {"name": "small"})


def model() -> DescentModel:
    torch.manual_seed(4)
    net = LDA(Identity(), phases=2, layers=2, tau=0.02, channels=3, complex_features=True)
    r = prior().regulariser
    assert isinstance(r, FeatureNorm)
    net.minimiser = Minimiser.of(r, 0.02, 1.5, sigma=1.0)
    return DescentModel(net, {"name": "small"})


def minimiser(m: Any) -> Minimiser:
    found = m.solver.minimiser
    assert isinstance(found, Minimiser)
    return found


def measured():
    a = Fourier(masks.radial(SIZE, 0.4))
    x = torch.polar(zoo.scenes(2, *SIZE), zoo.scenes(2, *SIZE).flip(-1))
    return a, x, a(x)


def test_rigorous_mode_is_stationary_for_the_sum_over_real_and_imaginary_part():
    m, (a, _, y) = model(), measured()
    x, report = m(y, a, rigorous=True, tol=1e-2)
    assert report.status == ["converged"] * 2
    white = report.scale.view(-1, 1, 1, 1)
    seen, data = (x.to(torch.complex128) / white), (y / white).to(torch.complex128)
    parts = torch.view_as_real(seen).movedim(-1, 1).flatten(0, 2)[:, None].requires_grad_()  # re, im of each image
    r = minimiser(m)
    eps = float(report.eps[0]) / r.weight
    values = r.weight * r.regulariser.double().value_and_grad(parts, eps)[0].view(2, 2).sum(1)
    at = torch.view_as_complex(parts.view(2, 2, *SIZE).movedim(1, -1).contiguous())[:, None]
    phi = (a.double()(at) - data).abs().square().flatten(1).sum(1) / 2 + values
    torch.testing.assert_close(report.phi_eps, phi.detach(), rtol=1e-6, atol=0)
    slope = torch.autograd.grad(phi.sum(), parts)[0].view(2, -1).norm(dim=1)
    assert (slope <= 0.9 * report.eps + 1e-6).all()  # sigma gamma eps, the image rounded to float32
    merit = report.history["merit"][2:]
    assert (merit.diff(dim=0) <= 1e-9 * merit[:-1].abs()).all()
    torch.testing.assert_close(report.merit, report.phi_eps + 16 * 20 * report.eps)


def test_a_file_holds_it(tmp_path):
    own, (a, _, y) = model(), measured()
    own.save(tmp_path / "m.safetensors")
    again = fr.load(tmp_path / "m.safetensors")
    few = {"rigorous": True, "iterations": 4}
    for options in ({}, few):
        x = own(y, a, **options).x
        assert torch.equal(again(y, a, **options).x, x)
        assert torch.equal(own(y[1:], a.take(torch.tensor([1])), **options).x[0], x[1])
    assert minimiser(again).hyperparameters() == minimiser(own).hyperparameters()


@pytest.fixture
def files(tmp_path):
    """Slices, a model of two phases and a prior."""
    turned = torch.polar(zoo.scenes(6, 20, 26), zoo.scenes(6, 20, 26).flip(-1))[:, 0].numpy()
    np.savez(tmp_path / "slices.npz", slices=turned)
    prior().save(tmp_path / "prior.safetensors")
    argv = [
        "train",
        "lda-mri",
        "--data",
        str(tmp_path / "slices.npz"),
        "--out",
        str(tmp_path / "phases"),
        "--rate",
        "0.5",
    ]
    small = "--phases 2 --channels 4 --layers 2 --steps 2 --batch 1 --patch 16 --validation 0.3"
    argv += small.split()
    assert main([*argv, "--threads", "1", "--device", "cpu", "--name", "phases"]) == 0
    return tmp_path


def settings(files) -> dict:
    model = str(files / "phases" / "model.safetensors")
    return {"model": model, "init": str(files / "prior.safetensors")} | TINY


def test_training_leaves_the_phases_and_its_model_reconstructs(files):
    words = [w for k, v in settings(files).items() for w in (f"--{k.replace('_', '-')}", str(v))]
    out = files / "run"
    argv = ["train", "lda-mri-minimiser", "--data", str(files / "slices.npz"), "--out", str(out), *words]
    argv += ["--anchor", "0.01"]
    assert main([*argv, "--threads", "1", "--device", "cpu"]) == 0
    before, after = fr.load(files / "phases" / "model.safetensors"), fr.load(out / "model.safetensors")
    a, _, y = measured()
    assert torch.equal(before(y, a).x, after(y, a).x)
    assert minimiser(after).weight == pytest.approx(0.01 * (1e-3 / 0.02) ** 2 / 4)
    anchor = minimiser(after).anchor
    assert anchor is not None
    assert anchor.item() == pytest.approx(0.01)
    page = (out / "model.md").read_text()
    assert "## Rigorous mode" in page
    assert "fastrecon train lda-mri-minimiser" in page


def test_its_derivative_is_that_of_the_solved_problem(files):
    """The loss at kernels a little further along a direction, solved anew, against its derivative."""
    # the floor: what rounding leaves outside the null space of A is not to be blown up by its inverse
    exact = {"iterations": 600, "tol": 1e-6, "products": 40, "floor": 3e-5, "patch": 8}
    config = Config([str(files / "slices.npz")], **settings(files) | exact)

    def objective(direction=(), h: float = 0.0) -> LdaMriMinimiser:
        found = LdaMriMinimiser(config, World(), files)
        with torch.no_grad():
            for w, d in zip(found.minimiser.regulariser.weights, direction, strict=False):
                w.add_(h * d)
        return found

    one = objective()
    one.loss().backward()
    weights = list(one.minimiser.regulariser.weights)
    torch.manual_seed(0)
    direction = [torch.randn_like(w) * w.detach() for w in weights]
    slope = sum(float((w.grad * d).sum()) for w, d in zip(weights, direction, strict=True))
    up, down = (float(objective(direction, t).loss().detach()) for t in (0.01, -0.01))
    assert slope == pytest.approx((up - down) / 0.02, rel=0.1)
    assert abs(slope) > 1


def test_training_goes_on_to_the_same_bits(files):
    config = Config([str(files / "slices.npz")], **settings(files))
    one, two = (LdaMriMinimiser(config, World(), files) for _ in range(2))
    one.loss()
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.loss(), two.loss())
