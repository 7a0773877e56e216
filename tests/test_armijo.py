"""The Armijo ladder: every implementation, the rule against a search that evaluates F anew, its failure in print."""

import numpy as np
import pytest
import torch
from torch.library import opcheck
from utils import COMPLEX, REAL, awkward_views, interpreted, numbers

from fastrecon.ops import armijo, prox_gradient_step
from fastrecon.ops.armijo import armijo_ref


def problem(shape, dtype, device="cpu", scale=1.0):
    """A random quadratic |A x - y|^2 / 2 with |A|^2 about 1 and a direction that is `scale` proximal steps long."""
    n = shape[1]
    a = numbers(n, n, dtype=dtype, device=device, seed=1) / (2 * n**0.5)
    x, y = (numbers(*shape, dtype=dtype, device=device, seed=s) for s in (2, 3))
    grad = (x @ a.mT - y) @ a.conj()
    z = prox_gradient_step(x, grad, 1.0, 0.1)[0] * scale
    return x, z, grad, 0.1, (z @ a.mT).abs().double().square().sum(1), a, y


def objective(x, a, y, lam):
    wide = torch.complex128 if x.is_complex() else torch.float64
    x, a, y = (t.to(wide) for t in (x, a, y))
    return (x @ a.mT - y).abs().square().sum(1) / 2 + lam * x.abs().sum(1)


def by_evaluation(x, z, grad, lam, a, y, beta, eta, trials):
    """F anew at every trial, in float64, one image at a time."""
    wide = torch.complex128 if x.is_complex() else torch.float64
    x, z, grad = (t.to(wide) for t in (x, z, grad))
    delta = (grad.conj() * z).real.sum(1) + lam * ((x + z).abs() - x.abs()).sum(1)
    start, found = objective(x, a, y, lam), []
    for i in range(len(x)):
        for j in range(trials):
            step = eta**j
            change = objective(x + step * z, a, y, lam)[i] - start[i]
            if change <= beta * step * delta[i]:
                break
        found.append((step, change.item(), delta[i].item(), bool(change <= beta * step * delta[i])))
    return found


@pytest.mark.parametrize("scale", [1.0, 5.0, 300.0, -1.0], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(3, 40), (2, 300), (1, 1)], ids=str)
def test_takes_the_step_of_a_plain_search(shape, dtype, scale, device, backend):
    x, z, grad, lam, curvature, a, y = problem(shape, dtype, device, scale)
    s = armijo(x, z, grad, lam, curvature, trials=12)
    for i, (step, change, delta, accepted) in enumerate(by_evaluation(x, z, grad, lam, a, y, 1e-4, 0.5, 12)):
        assert (s.gamma[i].item(), s.accepted[i].item()) == (step, accepted)
        assert s.change[i].item() == pytest.approx(change, rel=1e-9, abs=1e-12)
        assert s.delta[i].item() == pytest.approx(delta, rel=1e-9, abs=1e-12)
    assert s.accepted.all() == (scale > 0)
    if scale > 1 and shape[1] > 1:
        assert (s.gamma < 1).all()
    torch.testing.assert_close(s.square, z.abs().square().sum(1))


def check(x, z, grad, lam, curvature, slack, *rest):
    """Against the definition: sums in float64 on both sides, so decisions are the same."""
    mine = armijo(x, z, grad, lam, curvature, slack, beta=rest[0], eta=rest[1], trials=rest[2], rule=rest[3])
    strength = torch.full((1, 1), lam, dtype=x.real.dtype, device=x.device)
    flat = (t.flatten(1) for t in (x, z, grad))
    gamma, sums, accepted = armijo_ref(
        *flat, strength, curvature, slack.double(), rest[0], rest[1], rest[2], rest[3] == "composite"
    )
    assert torch.equal(mine.gamma, gamma)
    assert torch.equal(mine.accepted, accepted)
    for k, name in enumerate(("change", "delta", "slope", "square")):
        torch.testing.assert_close(getattr(mine, name), sums[:, k], rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("rule", ["composite", "paper"])
@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (4, 1031)], ids=str)
def test_agrees_with_the_definition(shape, dtype, rule, device, backend):
    x, z, grad = (numbers(*shape, dtype=dtype, device=device, seed=s) for s in (0, 1, 2))
    z = z - 0.5 * grad  # a descent direction, mostly
    curvature = numbers(shape[0], device=device).abs() * 30 * shape[1]
    check(x, z, grad, 0.3, curvature, torch.zeros(shape[0], device=device), 1e-3, 0.6, 15, rule)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)
def test_every_rung_can_be_the_one(dtype, device, backend):
    trials = 20
    grad = numbers(trials + 1, 70, dtype=dtype, device=device, seed=1)
    square = grad.abs().double().square().sum(1)
    rungs = torch.arange(trials + 1, device=device, dtype=torch.float64)
    # f(x - gamma grad) - f(x) = (gamma^2 c / 2 - gamma) |grad|^2, accepted from gamma (1 + small) = 2^-j on
    found = armijo(grad * 0.3, -grad, grad, 0.0, 1.99 * square * 2**rungs, trials=trials)
    assert found.gamma.tolist() == [2.0 ** -min(j, trials - 1) for j in range(trials + 1)]
    assert found.accepted.tolist() == [True] * trials + [False]
    change = (found.gamma.square() * 1.99 * 2**rungs / 2 - found.gamma) * square
    assert torch.allclose(found.change, change, rtol=1e-5)


@interpreted
@pytest.mark.parametrize("rule", ["composite", "paper"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_triton_kernel(dtype, rule, device, backend):
    x, z, grad = (numbers(3, 1031, dtype=dtype, device=device, seed=s) for s in (0, 1, 2))
    curvature = torch.tensor([1.0, 3e4, 1e9], dtype=torch.float64, device=device)
    check(x, z - 0.5 * grad, grad, 0.3, curvature, torch.zeros(3, device=device), 1e-3, 0.6, 15, rule)


def test_paper_rule_never_accepts_where_the_proximal_step_climbs_in_f(device, backend):
    """A = 1, y = 1, lam = 0.5, x = 0.6: the step goes to the minimiser 0.5, yet <grad f, z> > 0 there."""
    x, y, lam = torch.tensor([[0.6]], dtype=torch.float64, device=device), 1.0, 0.5
    grad = x - y
    z, slope, square, _ = prox_gradient_step(x, grad, 1.0, lam)
    assert z.item() == pytest.approx(-0.1)
    assert slope.item() == pytest.approx(0.04)
    paper = armijo(x, z, grad, lam, square, rule="paper", trials=50)
    assert not paper.accepted.item()
    assert paper.gamma.item() == 0.5**49
    composite = armijo(x, z, grad, lam, square)
    assert composite.accepted.item()
    assert composite.gamma.item() == 1.0
    assert composite.change.item() == pytest.approx(-0.005)


def test_paper_rule_accepts_what_climbs_in_F(device, backend):
    """A = 1, y = 1, lam = 2, x = 0, z = 1: f falls by 1/2, the l1 term rises by 2."""
    x, z = torch.zeros(1, 1, device=device), torch.ones(1, 1, device=device)
    one = torch.ones(1, device=device)
    s = armijo(x, z, x - 1, 2.0, one, rule="paper")
    assert s.accepted.item()
    assert s.change.item() == pytest.approx(1.5)
    assert not armijo(x, z, x - 1, 2.0, one).accepted.item()


def test_weights_and_slack(device, backend):
    x, z, grad = (numbers(2, 1, 4, 6, device=device, seed=s) for s in (0, 1, 2))
    curvature, lam = torch.ones(2, device=device), numbers(4, 6, device=device).abs()
    s = armijo(x, z, grad, lam, curvature)
    expected = (grad * z).sum((1, 2, 3)) + (lam * ((x + z).abs() - x.abs())).sum((1, 2, 3))
    torch.testing.assert_close(s.delta, expected)
    uphill = armijo(x, 3 * grad, grad, lam, curvature)
    assert not uphill.accepted.any()
    slack = torch.tensor([1e9, 0.0], device=device)
    assert armijo(x, 3 * grad, grad, lam, curvature, slack=slack).accepted.tolist() == [True, False]


def test_nan_is_never_accepted(device, backend):
    x, grad = torch.ones(2, 3, device=device), torch.ones(2, 3, device=device)
    z = -grad.clone()
    z[0, 1] = float("nan")
    s = armijo(x, z, grad, 0.1, torch.ones(2, device=device))
    assert s.accepted.tolist() == [False, True]
    assert s.change.isnan().tolist() == [True, False]


def test_image_has_the_same_bits_in_any_batch_and_layout(device, backend):
    x, z, grad = (numbers(4, 700, dtype=torch.float32, device=device, seed=s) for s in (0, 1, 2))
    curvature = torch.tensor([1.0, 1e4, 1e6, 5.0], device=device)
    together = armijo(x, z - grad, grad, 0.2, curvature)
    for i in range(4):
        one = slice(i, i + 1)
        alone = armijo(x[one], z[one] - grad[one], grad[one], 0.2, curvature[one])
        assert all(torch.equal(a, b[one]) for a, b in zip(alone, together, strict=True))
    for name, view in awkward_views(x).items():
        other = armijo(view, z - grad, grad, 0.2, curvature)
        assert all(torch.equal(a, b) for a, b in zip(other, together, strict=True)), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"z": torch.zeros(2, 4)}, r"armijo: z: expected \(2, 3\) float32 on cpu, got"),
        ({"curvature": torch.zeros(3)}, r"armijo: curvature: expected real \(2,\) on cpu, got"),
        ({"beta": 1.0}, r"armijo: beta: expected a number in \(0, 1\), got 1.0"),
        ({"eta": 0.0}, "armijo: eta: expected a number in"),
        ({"trials": 65}, r"armijo: trials: expected an integer in \[1, 64\], got 65"),
        ({"rule": "wolfe"}, "armijo: rule: expected composite or paper, got 'wolfe'"),
        ({"x": torch.zeros(2, 3, requires_grad=True)}, "armijo: .* no gradients asked for"),
    ],
)
def test_says_what_is_wrong(options, message):
    zero = torch.zeros(2, 3)
    defaults = {"x": zero, "z": zero, "grad": zero, "lam": 0.1, "curvature": torch.zeros(2)}
    with pytest.raises(ValueError, match=message):
        armijo(**(defaults | options))


def test_arrays_come_back_by_name():
    x, z, grad, lam, curvature, *_ = problem((2, 5), torch.float64)
    expected = armijo(x, z, grad, lam, curvature)
    found = armijo(x.numpy(), z.numpy(), grad.numpy(), lam, curvature.numpy())
    assert found._fields == expected._fields
    np.testing.assert_array_equal(found.gamma, expected.gamma)


def test_registration(device):
    x = numbers(2, 5, device=device)
    one = torch.ones(2, dtype=torch.float64, device=device)
    opcheck(torch.ops.fastrecon.armijo, (x, -x, x, one[:1, None], one, 0 * one, 1e-4, 0.5, 5, True))
