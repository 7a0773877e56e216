"""Smoothing methods: what they minimise, edges that stay, texture that goes."""

import pytest
import torch

from fastrecon.operators import Identity
from fastrecon.solvers.methods import METHODS, Inverse
from fastrecon.solvers.smoothing import edge_weights
from fastrecon.terms import GroupL0

CLASSICAL = ("l0", "lp", "wls", "guided")


def step(h=32, w=40):
    x = torch.full((1, 3, h, w), 0.2)
    x[..., 8:24, 10:30] = torch.tensor([0.8, 0.5, 0.3]).view(1, 3, 1, 1)
    return x


def textured(sigma=0.03):
    x = step()
    return x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), x


def run(name, y, watch=None, **options):
    return METHODS[name].ready(**options)(Inverse(y, Identity(), start=y, problem="smooth"), watch)


def test_group_l0_by_brute_force():
    v = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    term = GroupL0(1.5)
    found = term.prox(v, 2.0)
    kept = (found != 0).any(1)
    assert 0 < kept.double().mean() < 1
    here = 3.0 * kept.double() + (found - v).square().sum(1) / 2
    best = torch.minimum(torch.full_like(here, 3.0), v.square().sum(1) / 2)  # keep the vector, or drop it
    torch.testing.assert_close(here, best)
    torch.testing.assert_close(term.value(found), 1.5 * kept.double().flatten(1).sum(1))
    assert term.value(torch.zeros(1, 2, 3, 3)).item() == 0


@pytest.mark.parametrize("name", CLASSICAL)
def test_texture_goes_and_edges_stay(name):
    y, _ = textured()
    seen = []
    found = run(name, y, lambda done, total, image, what="": seen.append(image().shape))
    assert seen[-1] == y.shape
    before, after = (t[..., 13:19, 15:25].std((-2, -1)).max().item() for t in (y, found.x))
    assert after < 0.7 * before, (before, after)
    edge = (found.x[0, 0, 16, 10] - found.x[0, 0, 16, 9]).item()
    assert edge > 0.3
    assert len(found.report) == 1


def test_l0_leaves_flat_parts():
    y, _ = textured()
    x = run("l0", y).x
    flat = (x[..., 1:] - x[..., :-1]).abs().amax(1)[0, 10:22, 12:27]
    assert flat.max() < 3e-3


def test_wls_solves_its_equations():
    y, _ = textured()
    found = run("wls", y, tol=1e-6, iterations=500)
    w = edge_weights(y, 1.2, 1e-2)
    x = found.x.double().requires_grad_()
    down, right = x.roll(-1, -2) - x, x.roll(-1, -1) - x
    objective = (x - y.double()).square().sum() / 2
    objective = objective + 0.1 / 2 * ((w[:, :1] * down.square()).sum() + (w[:, 1:] * right.square()).sum())
    objective.backward()
    assert x.grad.norm() < 1e-4
    assert found.report.objective.item() == pytest.approx(objective.item(), rel=1e-5)
    assert bool(found.report.converged.all())


@pytest.mark.parametrize("name", CLASSICAL)
def test_batches_are_of_single_pictures(name):
    y, _ = textured()
    both = torch.cat([y, y.flip(-1) ** 2])
    for k in range(2):
        torch.testing.assert_close(run(name, both).x[k], run(name, both[k : k + 1]).x[0], atol=1e-5, rtol=0)
