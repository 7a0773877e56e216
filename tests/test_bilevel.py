"""Derivatives at minimisers: against differences of converged losses, dense Hessians and closed forms."""

import pytest
import torch
from torch import Tensor

from fastrecon.terms import FeatureNorm
from fastrecon.train.bilevel import Found, bend, hessian_at, minimise, outer, ritz

SIDE, EPS = 8, 0.3


def network(seed: int = 0) -> FeatureNorm:
    torch.manual_seed(seed)
    return FeatureNorm(4, 2, 1, delta=0.3).double()


def lower(r: FeatureNorm, y: Tensor, lam: float = 0.3):
    """|x - y|^2 / 2 + lam r(x), a function of x, differentiable in the weights."""

    def phi(x: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = r.value_and_grad(x, EPS)
        return (x - y).square().flatten(1).sum(1) / 2 + lam * value, x - y + lam * grad

    return phi


def pictures(count: int = 3) -> Tensor:
    return torch.rand(count, 1, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def converged(r: FeatureNorm, y: Tensor, tol: float = 1e-11) -> Found:
    return minimise(lower(r, y), y, 3000, tol)


def dense(r: FeatureNorm, x: Tensor, y: Tensor) -> Tensor:
    """Hessians [B, N, N] by autograd."""

    def grad(flat: Tensor) -> Tensor:
        return lower(r, y[:1])(flat.view(1, 1, SIDE, SIDE))[1].flatten()

    return torch.stack([torch.autograd.functional.jacobian(grad, image.flatten()) for image in x])


class TestMinimise:
    def test_every_image_ends_where_the_gradient_is_nearly_zero(self):
        r, y = network(), pictures()
        found = minimise(lower(r, y), y, 500, 1e-6)
        assert (found.relative <= 1e-6).all()
        first, last = (lower(r, y)(x)[1].flatten(1).norm(dim=1) for x in (y, found.x))
        torch.testing.assert_close(found.relative, last / first)

    def test_a_quadratic_has_its_closed_form(self):
        y, d = pictures(), 1 + 9 * pictures(1)
        found = minimise(lambda x: ((d * x * x / 2 - y * x).flatten(1).sum(1), d * x - y), y, 1000, 1e-12)
        torch.testing.assert_close(found.x, y / d, rtol=1e-9, atol=1e-9)

    def test_no_more_iterations_than_allowed(self):
        y = pictures()
        assert minimise(lower(network(), y), y, 3, 1e-12).iterations == 3


class TestRitz:
    def test_all_steps_find_all_eigenvalues_and_solve(self):
        torch.manual_seed(2)
        a = torch.randn(2, 6, 6, dtype=torch.float64)
        h = a @ a.mT + 0.5 * torch.eye(6, dtype=torch.float64)
        b = torch.randn(2, 6, dtype=torch.float64)
        found = ritz(lambda v: (h @ v[..., None])[..., 0], b, 6)
        torch.testing.assert_close(found.values, torch.linalg.eigvalsh(h))
        torch.testing.assert_close(found.solve(1e-9), torch.linalg.solve(h, b))
        for place in (0, -1):
            v = found.vector(place)
            torch.testing.assert_close((h @ v[..., None])[..., 0], found.values[:, place, None] * v)

    def test_a_floor_bounds_the_answer_of_an_indefinite_matrix(self):
        h = torch.diag(torch.tensor([-1.0, 1e-9, 1.0, 2.0], dtype=torch.float64))
        b = torch.ones(1, 4, dtype=torch.float64)
        found = ritz(lambda v: v @ h, b, 4).solve(0.1)
        torch.testing.assert_close(found, torch.tensor([[10.0, 10.0, 1.0, 0.5]], dtype=torch.float64))

    def test_differences_of_gradients_are_the_hessian(self):
        r, y = network(), pictures(1)
        x = converged(r, y).x
        v = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            got = hessian_at(lambda x: lower(r, y)(x)[1], x)(v)
        want = (dense(r, x, y)[0] @ v.flatten()).view_as(v)
        torch.testing.assert_close(got, want, rtol=2e-3, atol=2e-3)


class TestOuter:
    def test_the_derivative_is_that_of_the_converged_loss(self):
        r, y, truth = network(), pictures(), pictures() * 0.5

        def loss() -> Tensor:
            return (converged(r, y).x - truth).square().sum() / 2

        x = converged(r, y).x
        h = torch.stack([dense(r, x[k : k + 1], y)[0] for k in range(len(x))])
        p = torch.linalg.solve(h, (x - truth).flatten(1)).view_as(x)
        surrogate = outer(lambda x: lower(r, y)(x)[1], x, p).sum()
        got = torch.autograd.grad(surrogate, list(r.weights))
        for weight, grad in zip(r.weights, got, strict=True):
            direction = torch.randn(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(4))
            with torch.no_grad():
                weight += 1e-5 * direction
                above = loss()
                weight -= 2e-5 * direction
                below = loss()
                weight += 1e-5 * direction
            torch.testing.assert_close((grad * direction).sum(), (above - below) / 2e-5, rtol=1e-4, atol=1e-7)

    def test_ritz_steps_come_near_that_direction(self):
        r, y = network(), pictures(1)
        x = converged(r, y).x
        error = x - pictures(1) * 0.5
        exact = torch.linalg.solve(dense(r, x, y)[0], error.flatten())
        with torch.no_grad():
            found = ritz(hessian_at(lambda x: lower(r, y)(x)[1], x), error, 12).solve(1e-3).flatten()
        assert (found - exact).norm() < 0.02 * exact.norm()


class TestBend:
    @pytest.fixture
    def at(self):
        r, y = network(), pictures(1)
        x = converged(r, y).x
        start = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            return r, y, x, ritz(hessian_at(lambda x: lower(r, y)(x)[1], x), start, 8)

    def test_nothing_within_the_bounds(self, at):
        r, y, x, found = at
        low, high = bend(lambda x: lower(r, y)(x)[1], x, found, 0.0, 1e3)
        assert low.item() == high.item() == 0

    @pytest.mark.parametrize("which", [0, 1])
    def test_a_step_against_the_derivative_moves_the_curvature_back(self, at, which):
        r, y, x, found = at
        lowest, highest = found.values[0, 0].item(), found.values[0, -1].item()
        grad = lambda x: lower(r, y)(x)[1]  # noqa: E731
        penalty = bend(grad, x, found, lowest + 0.2, highest - 0.2)[which].sum()
        assert penalty.item() == pytest.approx(0.04)
        slopes = torch.autograd.grad(penalty, list(r.weights))
        v = found.vector((0, -1)[which])

        def quotient() -> float:
            with torch.no_grad():
                return ((hessian_at(grad, x)(v)) * v).sum().item()

        before = quotient()
        with torch.no_grad():
            for weight, slope in zip(r.weights, slopes, strict=True):
                weight -= 1e-3 * slope
        assert quotient() > before if which == 0 else quotient() < before
