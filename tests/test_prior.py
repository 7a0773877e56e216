"""The learned prior as people meet it: files, weights from the noise, any operator, bad input."""

import numpy as np
import pytest
import torch
from skimage import data

import fastrecon as fr
from fastrecon import zoo
from fastrecon.models import PriorModel
from fastrecon.models.prior import expected_iterations
from fastrecon.operators import Blur, Fourier, Identity, Inpainting, Radon, gaussian_kernel
from fastrecon.solvers import SmoothDescent
from fastrecon.terms import FeatureNorm, SparsePatches
from fastrecon.train.recipes.prior import Config, Prior
from fastrecon.train.world import World

SIZE = (24, 20)
SIGMAS, LAMS = torch.tensor([0.02, 0.1, 0.2]), torch.tensor([0.004, 0.05, 0.3])


def model(**meta) -> PriorModel:
    torch.manual_seed(3)
    return PriorModel(FeatureNorm(8, 2, eps=0.05, delta=0.1), SIGMAS, LAMS, {"name": "small"} | meta)


@pytest.fixture
def path(tmp_path):
    model().save(tmp_path / "small.safetensors")
    return str(tmp_path / "small.safetensors")


def noisy(a, sigma, count=2):
    y = a(zoo.scenes(count, *SIZE))
    return y + sigma * zoo.numbers(*y.shape, dtype=y.dtype, seed=1)


def test_a_file_holds_the_model(path):
    own, found = model(fits={"ct": [0.1, -0.2]}), fr.load(path)
    assert isinstance(found, PriorModel)
    y = noisy(Identity(), 0.1)
    x, report = found(y, Identity(), noise=0.1)
    again, same = own(y, Identity(), noise=0.1)
    assert torch.equal(x, again)
    assert report.to_json() == same.to_json()
    assert report.status == ["converged"] * 2
    own.save(path)
    assert fr.load(path).fits == {"ct": (0.1, -0.2)}


def test_the_weight_follows_the_noise():
    m = model()
    torch.testing.assert_close(m.lam(SIGMAS.double()), LAMS.double())
    torch.testing.assert_close(m.lam(torch.tensor([0.01, 0.4])), torch.tensor([0.001, 1.2]).double())
    middle = m.lam(torch.tensor([(0.02 * 0.1) ** 0.5]))
    torch.testing.assert_close(middle, torch.tensor([(0.004 * 0.05) ** 0.5]).double())


def test_noise_far_from_the_training_is_told():
    m = model()
    y = noisy(Identity(), 0.1)
    for sigma, far in ((0.1, False), (0.011, False), (0.009, True), (0.41, True), (0.0, False)):
        report = m(y, Identity(), noise=sigma).report
        assert report.beyond_training.tolist() == [far] * 2
        assert report.status == ["converged"] * 2


def test_each_image_may_have_its_own_noise():
    m = model()
    y, sigma = noisy(Identity(), 0.1), torch.tensor([0.0, 0.15])
    x, report = m(y, Identity(), noise=sigma)
    assert report.noise.tolist() == pytest.approx([0.001, 0.15])
    for k in range(2):
        alone = m(y[k : k + 1], Identity(), noise=float(sigma[k]))
        assert torch.equal(alone.x[0], x[k])
    both = m(torch.cat([y[:1], 255 * y[1:]]), Identity(), noise=torch.tensor([0.1, 25.5]))
    assert both.report.scale.tolist() == [1.0, 255.0]
    torch.testing.assert_close(both.x[0], m(y, Identity(), noise=0.1).x[0])


def test_masks_and_noise_of_their_own():
    """Some of a batch start from sparse patches, some do not: each as it does alone."""
    m, masks = model(), torch.cat([zoo.some(3, 1, *SIZE), torch.ones(1, 1, *SIZE)])
    y = masks * (zoo.scenes(4, *SIZE) + 0.02 * zoo.numbers(4, 1, *SIZE))
    sigma = torch.tensor([0.0, 0.02, 0.1, 0.02])
    x = m(y, Inpainting(masks), noise=sigma).x
    for k in range(4):
        alone = m(y[k : k + 1], Inpainting(masks[k : k + 1]), noise=float(sigma[k]))
        assert torch.equal(alone.x[0], x[k])


def test_large_holes_are_filled_in_from_either_start_and_sooner_from_its_own():
    truth = torch.from_numpy(data.camera()[100:164, 180:244]).float()[None, None] / 255
    mask = torch.ones(64, 64)
    mask[24:40, 24:40] = 0
    y, a = mask * truth, Inpainting(mask)
    x, report = fr.reconstruct(y, a, prior="natural", noise=0)
    other, worse = fr.reconstruct(y, a, prior="natural", noise=0, start=y)
    assert report.status == worse.status == ["converged"]
    torch.testing.assert_close(report.objective, worse.objective, rtol=0.02, atol=0)
    assert all(fr.metrics.psnr(found, truth) > 35 for found in (x, other))
    assert report.iterations < worse.iterations


def test_a_start_that_is_given_is_taken(path):
    mask = zoo.some(*SIZE)
    y = mask * noisy(Identity(), 0.05)
    x = fr.reconstruct(y, Inpainting(mask), prior=path, noise=0.05, tol=1e-4).x
    again, report = fr.reconstruct(y, Inpainting(mask), prior=path, noise=0.05, start=x)
    assert report.iterations.tolist() == [0, 0]
    assert torch.equal(again, x)


@pytest.mark.parametrize(
    "a",
    [Inpainting(zoo.some(*SIZE)), Blur(gaussian_kernel(1.5, 5)), Radon(SIZE, 9), Fourier(zoo.some(*SIZE, share=0.7))],
    ids=lambda a: type(a).__name__,
)
@pytest.mark.parametrize("factor", [1.0, 200.0])
def test_units_change_nothing(path, a, factor):
    """y and A in other units: the same image; images on another scale: that image."""
    sigma = 0.05 * a.norm((1, 1, *SIZE))
    y = noisy(a, sigma)
    x, report = fr.reconstruct(y, a, prior=path, noise=sigma, tol=1e-4)
    assert report.status == ["converged"] * 2
    triple = (lambda t: factor * a(t), lambda t: factor * a.adjoint(t, SIZE), (1, *SIZE))
    if not y.is_complex():
        norm = factor * a.norm((1, 1, *SIZE), tol=1e-2)
        same = fr.reconstruct(factor * y, triple, prior=path, noise=factor * sigma, norm=norm, tol=1e-4)
        # of two functions all frequencies of a ring are taken for alike
        torch.testing.assert_close(same.report.weight / factor**2, report.weight, rtol=0.2, atol=0)
        torch.testing.assert_close(same.report.objective / factor**2, report.objective, rtol=0.1, atol=0)
        assert same.report.scale.tolist() == [1.0] * 2
    m = fr.load(path)
    other = m(factor * y, a, noise=factor * sigma, scale=factor, tol=1e-4)
    torch.testing.assert_close(other.x / factor, x, rtol=0, atol=2e-3)


def test_data_on_another_scale(path):
    y = noisy(Identity(), 0.05)
    x = fr.reconstruct(y, Identity(), prior=path, noise=0.05).x
    other = fr.reconstruct(255 * y, Identity(), prior=path, noise=0.05 * 255)
    assert other.report.scale.tolist() == [255.0] * 2
    torch.testing.assert_close(other.x / 255, x, rtol=0, atol=1e-3)
    odd = fr.reconstruct(1e-3 * y, Identity(), prior=path, noise=0.05e-3)
    assert 1e-4 < odd.report.scale[0] < 1e-2
    assert (odd.x / 1e-3 - x).abs().max() < 0.2


def test_complex_and_colour_are_images_each(path):
    m = fr.load(path)
    y = noisy(Identity(), 0.1, 4)
    x = m(y, Identity(), noise=0.1, tol=1e-5).x
    both = m(torch.complex(y[:1], y[1:2]), Identity(), noise=0.1, tol=1e-5).x
    torch.testing.assert_close(torch.view_as_real(both)[0, 0].movedim(-1, 0), x[:2, 0], rtol=0, atol=1e-4)
    colour = m(y[:3].movedim(0, 1), Identity(), noise=0.1, tol=1e-5).x
    torch.testing.assert_close(colour[0], x[:3, 0], rtol=0, atol=1e-4)


def test_no_noise_fills_holes_and_keeps_what_is_known(path):
    mask = zoo.some(*SIZE, share=0.6)
    truth = zoo.scenes(1, *SIZE)
    x, report = fr.reconstruct(mask * truth, Inpainting(mask), prior=path, noise=0)
    assert report.status == ["converged"]
    assert report.noise.tolist() == pytest.approx([1e-3])
    assert (mask * (x - truth)).abs().max() < 5e-3
    assert fr.metrics.psnr(x, truth) > fr.metrics.psnr(mask * truth, truth) + 3
    assert bool((report.history["objective"].diff(dim=0) <= 0).all())


def test_the_best_image_is_where_the_report_says(path):
    """The objective in the report is that of the term that the model gives, and lower than elsewhere."""
    m = fr.load(path)
    y = noisy(Identity(), 0.1)
    x, report = m(y, Identity(), noise=0.1)
    solver = SmoothDescent(Identity(), m.double().term(report.weight))
    torch.testing.assert_close(solver.at(x, y).objective, report.objective, rtol=1e-5, atol=1e-6)
    for other in (y, x + 0.01 * zoo.numbers(*x.shape), torch.zeros_like(x)):
        assert bool((solver.at(other, y).objective > report.objective).all())


def test_fitted_contrast(path):
    m = model(fits={"ct": [0.3, 0.5]})
    x = zoo.scenes(2, *SIZE)
    weight = torch.ones(2)
    value = m.term(weight, problem="ct").value(x)
    expected = np.exp(0.3) / np.exp(1.0) * m.regulariser.value(float(np.exp(0.5)) * x).double()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(m.term(weight).value(x), m.regulariser.value(x).double())


def with_patches() -> PriorModel:
    r = FeatureNorm(8, 2, eps=0.05, delta=0.1)
    return PriorModel(r, SIGMAS, LAMS, {"name": "two"}, SparsePatches(0.02), LAMS / 100)


def test_a_second_term_has_weights_of_its_own(tmp_path):
    m, a = with_patches(), Identity()
    m.save(tmp_path / "two.safetensors")
    again = fr.load(tmp_path / "two.safetensors")
    y = noisy(a, 0.1)
    (x, report), (same, _) = m(y, a, noise=0.1), again(y, a, noise=0.1)
    assert torch.equal(x, same)
    assert report.status == ["converged"] * 2
    torch.testing.assert_close(report.weight, torch.full((2,), 0.05).double())
    torch.testing.assert_close(report.patch_weight, torch.full((2,), 0.0005).double())
    solver = SmoothDescent(a, again.double().term(report.weight, report.patch_weight))
    torch.testing.assert_close(solver.at(x, y).objective, report.objective, rtol=1e-5, atol=1e-6)
    alone = PriorModel(m.regulariser.float(), SIGMAS, LAMS)
    assert not torch.allclose(alone(y, a, noise=0.1).x, x, atol=1e-4)
    assert alone(y, a, noise=0.1).report.patch_weight is None
    with pytest.raises(ValueError, match="prior: patch_weight: expected a weight"):
        m.term(report.weight)
    with pytest.raises(ValueError, match="PriorModel: patch_lams: expected weights where there are patches"):
        PriorModel(m.regulariser, SIGMAS, LAMS, patches=SparsePatches())


def test_training_learns_a_second_term(tmp_path):
    with_patches().save(tmp_path / "two.safetensors")
    folder = tmp_path / "photos"
    folder.mkdir()
    for k, scene in enumerate(zoo.scenes(2, 40, 40)):
        fr.io.write_image(folder / f"{k}.png", scene[0].numpy())
    settings = {"sigmas": (0.05, 0.2), "missing": 0.5, "batch": 4, "patch": 16, "precision": "float32"}
    config = Config([str(folder)], init=str(tmp_path / "two.safetensors"), validation=0.0, **settings)
    objective = Prior(config, World(), tmp_path)
    learned = objective.module
    expected = with_patches().lam(torch.tensor(config.sigmas), LAMS / 100).float()
    torch.testing.assert_close(learned.model({}).patch_lams, expected, rtol=1e-4, atol=0)
    objective.loss().backward()
    assert learned.log_patch_lam.grad.abs().sum() > 0
    assert float(learned.model({}).patches.radius) == pytest.approx(0.02)
    again = Prior(config, World(), tmp_path, fresh=False)
    again.load_state_dict(objective.state_dict())
    assert torch.equal(again.module.log_patch_lam, learned.log_patch_lam)
    fresh = Config([str(folder)], channels=4, layers=2, patches=0.25, validation=0.0, **settings)
    torch.testing.assert_close(Prior(fresh, World(), tmp_path).module.model({}).patch_lams, torch.full((2,), 0.25))


@pytest.mark.parametrize(
    "start",
    [[1.0], torch.zeros(1, 1, *SIZE), torch.zeros(2, 1, 3, 3), torch.full((2, 1, *SIZE), float("nan"))],
    ids=["a list", "of one image", "of another size", "NaN"],
)
def test_a_start_that_does_not_fit_is_told(path, start):
    with pytest.raises(ValueError, match=r"reconstruct: start: expected finite images \[2, ..., 24, 20\], got"):
        fr.reconstruct(noisy(Identity(), 0.1), Identity(), prior=path, noise=0.1, start=start)


@pytest.mark.parametrize(
    ("k", "reached", "expected"),
    [(20, 0.1, 60), (30, 0.01, 45), (5, 0.999, 1000), (7, 1.5, 1000), (7, float("nan"), 1000), (40, 1e-3, 40)],
)
def test_how_long_it_will_take(k, reached, expected):
    assert expected_iterations(k, reached, 1e-3, 1000) == expected


def test_progress_tells_what_is_expected():
    seen = []
    y = noisy(Identity(), 0.1)
    _, report = model().compute(y, Identity(), 0.1, callback=lambda k, of, x: seen.append((k, of, x.shape)))
    assert [k for k, _, _ in seen] == list(range(1, int(report.iterations.max()) + 1))
    assert all(k <= of <= 1000 and shape == y.shape for k, of, shape in seen)
    assert seen[-1][1] < 2 * seen[-1][0]


def test_noise_that_drowns_everything(path):
    x, report = fr.reconstruct(noisy(Identity(), 0.1), Identity(), prior=path, noise=1e30)
    assert report.noise.tolist() == [10.0] * 2
    assert report.beyond_training.tolist() == [True] * 2
    assert report.status == ["converged"] * 2
    assert bool(torch.isfinite(x).all())


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf"), "much", torch.tensor([0.1, -0.1])], ids=str)
def test_wrong_noise_is_told(path, noise):
    with pytest.raises(ValueError, match="noise: expected"):
        fr.load(path)(noisy(Identity(), 0.1), Identity(), noise=noise)


def test_what_is_missing_is_told(path):
    y = noisy(Identity(), 0.1)
    with pytest.raises(ValueError, match="prior: noise: expected the standard deviation of the noise of y"):
        fr.reconstruct(y, Identity(), prior=path)
    with pytest.raises(ValueError, match="prior: operator: expected a LinearOperator"):
        fr.load(path)(y, noise=0.1)
    with pytest.raises(ValueError, match="NaN or Inf in image 1"):
        fr.reconstruct(torch.stack([y[0], y[1] * float("nan")]), Identity(), prior=path, noise=0.1)
    with pytest.raises(ValueError, match="load: name: expected one of"):
        fr.reconstruct(y, Identity(), prior="unheard-of", noise=0.1)
    with pytest.raises(ValueError, match="reconstruct: method: expected auto or prior"):
        fr.reconstruct(y, Identity(), "fista", prior=path, noise=0.1)
    with pytest.raises(ValueError, match="expected a model of prior, got lda-cs-10"):
        fr.reconstruct(y, Identity(), prior="lda-cs-10", noise=0.1)
    with pytest.raises(ValueError, match="PriorModel: sigmas: expected increasing"):
        PriorModel(FeatureNorm(4, 2, eps=0.1), torch.tensor([0.1, 0.1]), torch.ones(2))
    with pytest.raises(ValueError, match="PriorModel: regulariser: expected a smooth term"):
        PriorModel(FeatureNorm(4, 2), torch.tensor([0.1]), torch.ones(1))


@pytest.mark.parametrize(
    "y", [torch.full((1, 1, 16, 16), 0.4), torch.zeros(1, 1, 8, 8), torch.ones(2, 1, 1, 1)], ids=str
)
@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_images_without_content(path, y, sigma):
    x, report = fr.reconstruct(y, Identity(), prior=path, noise=sigma)
    assert bool(torch.isfinite(x).all())
    assert report.status == ["converged"] * len(y)


def test_arrays_of_others_and_precision(path):
    y = noisy(Identity(), 0.1).double().numpy()
    assert isinstance(fr.reconstruct(y, Identity(), prior=path, noise=0.1).x, np.ndarray)
    mask = zoo.some(*SIZE).double()
    x = fr.reconstruct(mask * torch.from_numpy(y), Inpainting(mask), prior=path, noise=0.1).x
    assert bool(torch.isfinite(x).all())


def test_an_operator_that_measures_nothing(path):
    x, report = fr.reconstruct(torch.zeros(1, 1, *SIZE), Inpainting(torch.zeros(*SIZE)), prior=path, noise=0.1)
    assert bool(torch.isfinite(x).all())
    assert len(report) == 1
