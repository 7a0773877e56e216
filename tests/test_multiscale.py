"""A regulariser of several scales: its derivatives, its parts, independence of images, files, training."""

from pathlib import Path

import pytest
import torch

import fastrecon as fr
from fastrecon import zoo
from fastrecon.models import PriorModel
from fastrecon.operators import Identity
from fastrecon.terms import FeatureNorm, MultiScale
from fastrecon.terms.multiscale import halved, halved_adjoint
from fastrecon.train.recipes.prior import Config, Prior
from fastrecon.train.world import World

SIZES = [(8, 8), (7, 10), (10, 7), (5, 3), (1, 6), (2, 1), (1, 1)]
SIGMAS, LAMS = torch.tensor([0.05, 0.2]), torch.tensor([0.01, 0.1])


def term(count=3, eps=0.05) -> MultiScale:
    torch.manual_seed(4)
    return MultiScale([FeatureNorm(4, 2, eps=eps, delta=0.1) for _ in range(count)])


def images(size, count=2, seed=0):
    return zoo.numbers(count, 1, *size, dtype=torch.float64, seed=seed)


@pytest.mark.parametrize("size", SIZES)
def test_halving_has_its_adjoint_and_keeps_what_is_constant(size):
    x = images(size).requires_grad_(True)
    small = halved(x)
    assert small.shape[-2:] == tuple((s + 1) // 2 for s in size)
    g = zoo.numbers(*small.shape, dtype=torch.float64, seed=1)
    (expected,) = torch.autograd.grad(small, x, g)
    torch.testing.assert_close(halved_adjoint(g, size), expected, rtol=1e-14, atol=1e-14)
    assert torch.equal(halved(torch.ones(1, 1, *size)), torch.ones(1, 1, *small.shape[-2:]))


def test_halving_is_the_binomial_filter_between_samples():
    x = torch.zeros(1, 1, 1, 8)
    x[..., 3] = 8
    assert halved(x)[0, 0, 0].tolist() == [0.0, 3.0, 1.0, 0.0]


@pytest.mark.parametrize("size", SIZES)
def test_value_and_gradient_belong_together(size):
    r, x = term().double(), images(size).requires_grad_(True)
    value, grad = r.value_and_grad(x, 0.05)
    (expected,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(grad, expected)
    found = r.evaluate(x.detach())
    assert torch.equal(found.value, r.value(x.detach()))
    assert torch.equal(found.grad, r.grad(x.detach()))


def test_it_is_the_sum_of_its_scales():
    r, x = term().double(), images((12, 9))
    parts = [one.value(seen) for one, seen in zip(r.terms(), (x, halved(x), halved(halved(x))), strict=True)]
    torch.testing.assert_close(r.value(x), sum(parts))
    gap = r.nonsmooth_value(x) - r.value(x)  # of each feature at most half the radius
    assert (gap > 0).all()
    assert (gap <= 0.05 / 2 * sum(seen[0].numel() for seen in r.seen(x))).all()
    one = MultiScale(r.terms()[:1])
    assert torch.equal(one.grad(x), r.finest.grad(x))


def test_no_image_depends_on_the_others():
    r, x = term(), images((13, 10), 3).float()
    value, grad = r.value_and_grad(x, 0.05)
    for k in range(3):
        alone, slope = r.value_and_grad(x[k : k + 1], 0.05)
        assert torch.equal(alone[0], value[k])
        assert torch.equal(slope[0], grad[k])


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match="MultiScale: scales: expected a list of FeatureNorm"):
        MultiScale([])
    with pytest.raises(ValueError, match="MultiScale: scales: expected terms with one eps"):
        MultiScale([FeatureNorm(2, 2, eps=0.1), FeatureNorm(2, 2)])
    with pytest.raises(ValueError, match=r"MultiScale: eps: expected a radius > 0"):
        term(eps=None).evaluate(images((4, 4)))


def test_a_file_holds_every_scale(tmp_path):
    model = PriorModel(term(), SIGMAS, LAMS, {"name": "wide"})
    model.save(tmp_path / "wide.safetensors")
    again = fr.load(tmp_path / "wide.safetensors")
    assert isinstance(again, PriorModel)
    assert isinstance(again.regulariser, MultiScale)
    assert again.hyperparameters()["scales"] == 3
    y = zoo.scenes(2, 25, 18) + 0.1 * zoo.numbers(2, 1, 25, 18, seed=1)
    for m in (model, again):
        found = m(y, Identity(), noise=0.1)
        assert found.report.converged.all()
    assert torch.equal(found.x, model(y, Identity(), noise=0.1).x)
    assert again.feature_norms(y).shape == (2, 25, 18)


def test_training_adds_coarser_scales_to_a_prior(tmp_path):
    first = PriorModel(term(1).finest, SIGMAS, LAMS, {"name": "first", "training": {"command": "", "settings": {}}})
    first.save(tmp_path / "first.safetensors")
    folder = tmp_path / "photos"
    folder.mkdir()
    scenes = zoo.scenes(2, 40, 40)
    for k in range(2):
        fr.io.write_image(folder / f"{k}.png", scenes[k, 0].numpy())
    settings = {"init": str(tmp_path / "first.safetensors"), "batch": 2, "patch": 16, "precision": "float32"}
    config = Config([str(folder)], sigmas=(0.05, 0.2), focus=0.1, scales=3, validation=0.0, **settings)
    objective = Prior(config, World(), Path(tmp_path))
    r = objective.module.regulariser
    assert isinstance(r, MultiScale)
    for one in r.terms():
        assert torch.equal(one.weights[0], first.regulariser.weights[0])
    shares = [(one.weights[-1].norm() / first.regulariser.weights[-1].norm()).item() for one in r.terms()]
    assert shares == pytest.approx([1, 0.1, 0.01], rel=1e-5)
    objective.loss().backward()
    assert all(bool(w.grad.any()) for one in r.terms() for w in one.weights)
    again = Prior(config, World(), Path(tmp_path), fresh=False)
    again.load_state_dict(objective.state_dict())
    assert isinstance(again.module.regulariser, MultiScale)
    path = tmp_path / "three.safetensors"
    objective.module.model({"name": "three", "training": {"command": "", "settings": {}}}).save(path)
    fewer = Config([str(folder)], init=str(path), scales=2, patch=16)
    with pytest.raises(ValueError, match="--scales: expected at least the 3 of --init"):
        Prior(fewer, World(), Path(tmp_path))
