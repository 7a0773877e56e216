"""Ridge regularisers: derivative, bounds of curvature, states of others, the same solver and files."""

import math

import pytest
import torch

import fastrecon as fr
from fastrecon import zoo
from fastrecon.models import PriorModel
from fastrecon.operators import Identity
from fastrecon.terms import RidgePrior

SIZE = (19, 17)
SHAPES = ((2, 1, 3, 3), (3, 2, 5, 5), (6, 3, 3, 3))


def state(fitted=False) -> dict[str, torch.Tensor]:
    weights = [zoo.numbers(*s, seed=k) for k, s in enumerate(SHAPES)]
    own = {f"filters.{k}.weight": w for k, w in enumerate(weights)}
    own["filters.0.parametrizations.weight.original"] = own.pop("filters.0.weight") + 0.3
    own |= {"scaling": math.log(20) + 0.1 * zoo.numbers(1, 6, 1, 1), "beta": torch.tensor(3.0)}
    if not fitted:
        return own
    return {f"regularizer.{k}": v for k, v in own.items()} | {"alpha": torch.tensor(0.4), "scale": torch.tensor(-0.2)}


def ridge(rho=1.0, dtype=torch.float64) -> RidgePrior:
    return RidgePrior.from_state(state(), rho).to(dtype)


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_the_gradient_is_that_of_the_value(rho):
    r, x = ridge(rho), zoo.scenes(2, *SIZE, dtype=torch.float64).requires_grad_()
    (g,) = torch.autograd.grad(r.value(x).sum(), x)
    torch.testing.assert_close(r.grad(x), g)
    both = r.evaluate(x.detach())
    torch.testing.assert_close(both.value, r.value(x.detach()))
    torch.testing.assert_close(both.grad, g)


def test_the_norm_of_the_filters_is_one():
    w = ridge()
    assert float(w.filters[0].detach().sum((1, 2, 3)).abs().max()) < 1e-6  # their means were taken out
    x = zoo.numbers(1, 1, 96, 96, dtype=torch.float64)
    for _ in range(300):
        x = x / x.norm()
        t = w.responses(x)
        (x,) = torch.autograd.grad((w.responses(p := x.clone().requires_grad_()) * t.detach()).sum(), p)
    assert 0.97 < float(x.detach().norm()) ** 0.5 < 1.02  # zeros beyond the edges make it another by little


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_curvature_keeps_its_bounds(rho):
    r = ridge(rho)
    low, high = r.curvature
    assert low == -rho
    for seed in range(5):
        x, d = (zoo.numbers(1, 1, *SIZE, dtype=torch.float64, seed=seed + k) for k in (0, 100))
        d = 0.01 * d / d.norm()
        with torch.no_grad():
            slope = ((r.grad(0.05 * x + d) - r.grad(0.05 * x)) * d).sum() / d.square().sum()
        assert low - 0.05 <= float(slope) <= high * 1.05


def test_fitted_numbers_are_part_of_it():
    plain, fitted, x = ridge(), RidgePrior.from_state(state(fitted=True)).double(), zoo.scenes(2, *SIZE).double()
    expected = math.exp(0.4 + 0.4) * plain.value(math.exp(-0.2) * x)
    torch.testing.assert_close(fitted.value(x), expected, rtol=1e-6, atol=0)


def test_other_states_are_told():
    with pytest.raises(ValueError, match="RidgePrior: state: expected scaling, beta"):
        RidgePrior.from_state({"mu_": torch.tensor(1.0)})
    with pytest.raises(ValueError, match="RidgePrior: filters: expected kernels of a chain"):
        RidgePrior([torch.ones(2, 1, 3, 3), torch.ones(2, 1, 3, 3)], torch.zeros(2), 1.0)
    with pytest.raises(ValueError, match=r"RidgePrior: filters: expected finite kernels"):
        RidgePrior([torch.zeros(2, 1, 3, 3)], torch.zeros(2), 1.0)


def test_one_solver_and_one_file_for_all_priors(tmp_path):
    m = PriorModel(ridge(dtype=torch.float32), torch.tensor([0.1]), torch.tensor([0.8]), {"name": "ridge"})
    path = str(tmp_path / "ridge.safetensors")
    m.save(path)
    y = zoo.scenes(2, *SIZE) + 0.1 * zoo.numbers(2, 1, *SIZE)
    x, report = fr.reconstruct(y, Identity(), prior=path, noise=0.1)
    assert report.status == ["converged"] * 2
    assert torch.equal(x, m(y, Identity(), noise=0.1).x)
    alone = m(y[1:], Identity(), noise=0.1).x
    assert torch.equal(alone[0], x[1])
    # phi is strongly convex, and any other start leads to the same image
    other = m(y, Identity(), noise=0.1, start=torch.zeros_like(y), tol=1e-5).x
    torch.testing.assert_close(other, m(y, Identity(), noise=0.1, tol=1e-5).x, rtol=0, atol=1e-3)
