"""Lower problems of a prior's training: projections, starts, and derivatives of what was completed."""

import pytest
import torch

from fastrecon import zoo
from fastrecon.train.bilevel import hessian_at, minimise, outer, ritz
from fastrecon.train.lower import completing, denoising, filled, gradient_of

SIZE = (8, 9)


def lower(count: int = 2, size: tuple[int, int] = SIZE):
    clean = zoo.scenes(count, *size).double()
    return completing(clean, [0.5, 0.4, 0.6][:count], [3, 4, 5][:count])


def smoothness(theta: torch.Tensor):
    """theta_0 |D x|^2 / 2 + theta_1 |x|^2 / 2 and its gradient."""

    def prior(x):
        down, right = x.diff(dim=-2), x.diff(dim=-1)
        value = theta[0] * (down.square().flatten(1).sum(1) + right.square().flatten(1).sum(1)) / 2
        grad = -torch.nn.functional.pad(down, (0, 0, 1, 1)).diff(dim=-2)
        grad = grad - torch.nn.functional.pad(right, (1, 1)).diff(dim=-1)
        return value + theta[1] * x.square().flatten(1).sum(1) / 2, theta[0] * grad + theta[1] * x

    return prior


def test_what_is_free_is_an_orthogonal_projection():
    found = lower(3)
    u, v = (zoo.numbers(3, 1, *SIZE, seed=k).double() for k in (1, 2))
    torch.testing.assert_close(found.free(found.free(u)), found.free(u))
    torch.testing.assert_close((found.free(u) * v).sum(), (u * found.free(v)).sum())
    ranks = [torch.linalg.matrix_rank(matrix).item() for matrix in matrices(found)]
    assert ranks[0] == 72 - 36
    assert ranks[2] == 72 - 43
    assert 0 < ranks[1] <= 72 - round(0.4 * 72 * 0.7)  # of frequencies about that many are known, or their mirrors


def matrices(found) -> list[torch.Tensor]:
    n = SIZE[0] * SIZE[1]
    rows = []
    for k in range(n):
        unit = torch.zeros(len(found.clean), n, dtype=torch.float64)
        unit[:, k] = 1
        rows.append(found.free(unit.reshape(len(unit), 1, *SIZE)).flatten(1))
    return list(torch.stack(rows, 2))


def test_the_start_agrees_with_what_was_measured():
    found = lower(3)
    change = found.start - found.clean
    assert change.abs().max() > 0.05
    torch.testing.assert_close(found.free(change), change)


def test_the_minimiser_is_that_of_the_linear_equations():
    found, theta = lower(), torch.tensor([1.0, 0.05], dtype=torch.float64)
    prior = smoothness(theta)
    end = minimise(found.phi(prior), found.start, 2000, 1e-9)
    torch.testing.assert_close(end.x - found.clean, found.free(end.x - found.clean))
    for k, free in enumerate(matrices(found)):
        values, basis = torch.linalg.eigh(free)
        basis = basis[:, values > 0.5]
        one = torch.eye(len(free), dtype=torch.float64).reshape(-1, 1, *SIZE)
        hessian = prior(one)[1].flatten(1)
        z = torch.linalg.solve(basis.T @ hessian @ basis, -basis.T @ hessian @ found.start[k].flatten())
        expected = found.start[k].flatten() + basis @ z
        torch.testing.assert_close(end.x[k].flatten(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("which", [0, 1])
def test_the_derivative_is_that_of_differences(which):
    def loss(theta):
        x = minimise(found.phi(smoothness(theta)), found.start, 3000, 1e-10).x
        return x, (x - found.clean).square().sum() / 2

    found, theta, h = lower(), torch.tensor([1.0, 0.05], dtype=torch.float64), 1e-4
    x, _ = loss(theta)
    step = h * torch.eye(2, dtype=torch.float64)[which]
    expected = (loss(theta + step)[1] - loss(theta - step)[1]) / (2 * h)
    learned = theta.clone().requires_grad_()
    p = ritz(hessian_at(gradient_of(found.phi(smoothness(theta))), x), x - found.clean, 40).solve(1e-4)
    total = outer(gradient_of(smoothness(learned)), x, p).sum()
    (slopes,) = torch.autograd.grad(total, learned)
    torch.testing.assert_close(slopes[which], expected, rtol=1e-4, atol=0)


def test_denoising_weighs_by_the_noise_and_starts_from_it():
    clean, noisy = zoo.scenes(2, 8, 8), zoo.scenes(2, 8, 8) + 0.1
    found = denoising(clean, noisy, torch.tensor([0.1, 0.2]), 0.1)
    assert found.start is noisy
    assert found.weight.tolist() == pytest.approx([1, 0.5**1.3])
    value, grad = found.phi(lambda x: (x.flatten(1).sum(1), torch.ones_like(x)))(clean)
    torch.testing.assert_close(grad, clean - noisy + 1)
    torch.testing.assert_close(value, (clean.sum((1, 2, 3)) + 0.005 * 64).double(), rtol=1e-5, atol=0)


def test_holes_are_filled_from_around_them():
    kept = torch.zeros(1, 1, 6, 7)
    kept[..., 0, 0] = 1
    one = torch.full((1, 1, 6, 7), 0.5)
    assert torch.equal(filled(one, kept), one)
    kept[..., 0, 6] = 1
    x = torch.zeros(1, 1, 6, 7)
    x[..., 0, 6] = 1
    found = filled(x, kept)
    assert bool((found[..., 1:] >= found[..., :-1]).all())
    assert torch.equal(found * kept, x)
