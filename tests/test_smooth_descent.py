"""Quasi-Newton descent: monotone, certificates true, images on their own, rounding told."""

import pytest
import torch

from fastrecon import zoo
from fastrecon.certificates import ITERATION_LIMIT, STALLED
from fastrecon.operators import Blur, Callables, Fourier, Identity, Inpainting, LinearOperator, Radon, gaussian_kernel
from fastrecon.solvers import SmoothDescent
from fastrecon.terms import FeatureNorm, Scaled
from fastrecon.terms.base import Evaluation, Term

SIZE = (24, 20)


def regulariser(dtype=torch.float32) -> FeatureNorm:
    torch.manual_seed(3)
    return FeatureNorm(8, 2, eps=0.05, delta=0.1).to(dtype)


def term(weight=0.05, dtype=torch.float32) -> Scaled:
    return Scaled(regulariser(dtype), weight)


def pair() -> LinearOperator:
    return Callables(lambda x: (x - x.roll(1, -1)).float(), lambda y: (y - y.roll(-1, -1)).float(), (1, *SIZE))


OPERATORS = {
    "identity": Identity,
    "mask": lambda: Inpainting(zoo.some(*SIZE)),
    "blur": lambda: Blur(gaussian_kernel(1.5, 5)),
    "scan": lambda: Radon(SIZE, 7),
    "pair": pair,
    "fourier": lambda: Fourier(zoo.some(*SIZE)),
}


def measured(a: LinearOperator, count=3) -> tuple[torch.Tensor, torch.Tensor]:
    y = a(zoo.scenes(count, *SIZE))
    y = y + 0.05 * zoo.numbers(*y.shape, dtype=y.dtype, seed=1)
    x0 = a.adjoint(y, SIZE)
    return y, x0


def gradient(a: LinearOperator, y, x, weight) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """phi, its gradient and that of r at x by autograd in float64, with no part of the solver."""
    wide = torch.complex128 if x.is_complex() else torch.float64
    x, r = x.to(wide).requires_grad_(), regulariser(torch.float64)
    images = torch.cat((x.real, x.imag), 0) if x.is_complex() else x
    prior = weight * r.value(images)
    prior = prior.view(-1, len(x)).sum(0)
    image = a(x)
    f = (image - y.to(image.dtype)).abs().square().flatten(1).sum(1) / 2
    (g,), (p,) = (torch.autograd.grad(t.sum(), x, retain_graph=True) for t in (f + prior, prior))
    return (f + prior).detach(), g, p


@pytest.mark.parametrize("name", OPERATORS)
def test_converges_and_the_certificate_is_true(name):
    a = OPERATORS[name]()
    y, x0 = measured(a)
    weight = 20.0 if name == "scan" else 0.05  # in the unit of |A|^2
    x, report = SmoothDescent(a, term(weight)).solve(y, x0)
    assert x.dtype == x0.dtype
    assert report.status == ["converged"] * 3
    assert bool(report.converged.all())
    assert bool((report.history["objective"].diff(dim=0) <= 0).all())
    wide = a if name == "pair" else OPERATORS[name]().double()
    phi, g, p = gradient(wide, y, x, weight)
    norm, size = g.flatten(1).norm(dim=1), p.flatten(1).norm(dim=1)
    assert bool((norm <= 1.0001e-3 * size).all())
    torch.testing.assert_close(report.objective, phi, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(report.grad_norm, norm, rtol=1e-2, atol=1e-6)
    rounding = 1e-5 * report.history["objective"][0]  # changes are summed up from there
    assert bool(((report.history["objective"][-1] - phi).abs() <= rounding).all())


def test_an_image_alone_has_the_bits_that_it_has_in_a_batch():
    mask = zoo.some(3, 1, *SIZE)
    y = mask * (zoo.scenes(3, *SIZE) + 0.05 * zoo.numbers(3, 1, *SIZE))
    weight = torch.tensor([0.02, 0.05, 0.2])
    x, report = SmoothDescent(Inpainting(mask), Scaled(regulariser(), weight)).solve(y, y)
    assert len(set(report.iterations.tolist())) > 1  # images left early
    for k in range(3):
        one = slice(k, k + 1)
        alone, own = SmoothDescent(Inpainting(mask[one]), Scaled(regulariser(), weight[one])).solve(y[one], y[one])
        assert torch.equal(alone[0], x[k])
        assert own.to_dict(0) == report.to_dict(k)


def test_what_float32_cannot_reach_goes_on_in_float64():
    a = Identity()
    y, x0 = measured(a)
    solver = SmoothDescent(a, Scaled(regulariser(), 1.0))
    x, report = solver.solve(y, x0, tol=2e-7)
    _, single = solver.solve(y, x0, tol=2e-7, finish=False)
    assert bool((report.relative_gradient < single.relative_gradient).any())
    assert bool((report.history["objective"].diff(dim=0) <= 0).all())
    _, g, p = gradient(a, y, x, 1.0)
    torch.testing.assert_close(report.relative_gradient, g.flatten(1).norm(dim=1) / p.flatten(1).norm(dim=1))


def test_rounding_of_the_image_is_seen_before_the_end():
    """Of a weak r the pull of the data is of the size that rounding of x changes: no image passes and fails after."""
    mask = zoo.some(*SIZE, share=0.6)
    y, a = mask * zoo.scenes(3, *SIZE), Inpainting(mask)
    for weight in (1e-4, 1e-5):
        report = SmoothDescent(a, term(weight)).solve(y, y, finish=False)[1]
        assert report.status == ["converged"] * 3


def test_rounding_of_the_result_is_told():
    y, x0 = measured(Identity())
    _, report = SmoothDescent(Identity(), term()).solve(y, x0, tol=1e-12)
    assert report.status == [STALLED] * 3
    assert not bool(report.converged.any())


def test_the_iteration_limit_is_told():
    y, x0 = measured(Identity())
    x, report = SmoothDescent(Identity(), term()).solve(y, x0, iterations=2)
    assert report.status == [ITERATION_LIMIT] * 3
    assert report.iterations.tolist() == [2, 2, 2]
    _, g, _ = gradient(Identity(), y, x, 0.05)
    torch.testing.assert_close(report.grad_norm, g.flatten(1).norm(dim=1))
    x, report = SmoothDescent(Identity(), term()).solve(y, x0, iterations=0)
    assert torch.equal(x, x0)
    assert report.iterations.tolist() == [0, 0, 0]


def test_float64_stays_float64_and_the_callback_sees_every_iteration():
    y, x0 = (t.double() for t in measured(Identity()))
    seen = []
    x, report = SmoothDescent(Identity(), term(dtype=torch.float64)).solve(
        y, x0, tol=1e-9, callback=lambda k, s: seen.append((k, s.x.shape))
    )
    assert x.dtype == torch.float64
    assert report.status == ["converged"] * 3
    assert [k for k, _ in seen] == list(range(1, int(report.iterations.max()) + 1))
    assert {shape for _, shape in seen} == {x.shape}


class Wavy(Term):
    """sum cos(3 x): bounded, of both curvatures."""

    smooth = True

    def value(self, x):
        return (3 * x.double()).cos().flatten(1).sum(1)

    def grad(self, x):
        return -3 * (3 * x).sin()


def test_negative_curvature():
    y = zoo.scenes(3, *SIZE)
    a = Inpainting(zoo.some(*SIZE))
    x, report = SmoothDescent(a, Wavy()).solve(a(y), 0.3 * y)
    assert report.status == ["converged"] * 3
    assert bool((report.history["objective"].diff(dim=0) <= 0).all())
    assert isinstance(Wavy().evaluate(x), Evaluation)


def test_wrong_arguments_are_told():
    with pytest.raises(ValueError, match="SmoothDescent: term: expected a smooth term"):
        SmoothDescent(Identity(), FeatureNorm(4, 2))
    with pytest.raises(ValueError, match="SmoothDescent: operator: expected a LinearOperator"):
        SmoothDescent(lambda x: x, term())
    y, x0 = measured(Identity())
    solver = SmoothDescent(Identity(), term())
    for wrong, name in (({"tol": 0}, "tol"), ({"iterations": -1}, "iterations"), ({"history": 1}, "history")):
        with pytest.raises(ValueError, match=f"SmoothDescent: {name}: expected"):
            solver.solve(y, x0, **wrong)
    with pytest.raises(ValueError, match="SmoothDescent: x0: expected a batch of 3"):
        solver.solve(y, x0[:1])
    with pytest.raises(ValueError, match="LeastSquares: y: expected"):
        solver.solve(y[..., :5], x0)
