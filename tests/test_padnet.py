"""PADNet: whatever its units do, the objective falls and the limit is stationary; certificates made anew."""

import pytest
import torch
from torch import nn
from utils import numbers
from zoo import scene

from fastrecon.certificates import NOT_FINITE
from fastrecon.operators import Blur, Fourier, Inpainting, Wavelet, gaussian_kernel
from fastrecon.solvers import FISTA, PADNet
from fastrecon.terms import L1, LeastSquares, Lp

BLUR = Blur(gaussian_kernel(0.7, 5, torch.float64))


class Wild(nn.Module):
    """Random weights with outputs of this size, or NaN."""

    def __init__(self, size, seed=0):
        super().__init__()
        self.weight, self.size = numbers(1, 1, 3, 3, seed=seed), size

    def forward(self, v):
        g = torch.nn.functional.conv2d(v, self.weight.to(v), padding=1).sin()
        return self.size * g / g.flatten(1).norm(dim=1).clamp_min(1e-9).view(-1, 1, 1, 1)


class Switching:
    """Now useful, now hostile."""

    def __init__(self):
        self.calls = 0

    def __call__(self, v):
        self.calls += 1
        return v - L1(0.01).prox(v, 0.5) if self.calls % 3 else v * float("nan")


HOSTILE = {
    "large": lambda: Wild(1e6), "huge": lambda: Wild(1e300),
    "NaN": lambda: Wild(float("nan")), "small": lambda: Wild(1),
    "several": lambda: [[Wild(1e6), Wild(0.1, 1)], [Wild(3.0, 2)]], "switching": Switching,
}  # fmt: skip


def problem(dtype=torch.float64):
    """A and y of two images."""
    y = BLUR(scene(16, 2, torch.float64)) + 0.02 * numbers(2, 1, 16, 16)
    return Blur(BLUR.kernel.to(dtype)), y.to(dtype)


@pytest.mark.parametrize(
    ("p", "dtype"), [(0.0, torch.float64), (0.8, torch.float64), (0.8, torch.float32), (1.0, torch.float64)], ids=str
)
@pytest.mark.parametrize("units", HOSTILE)
def test_hostile_units_cannot_raise_the_objective(units, p, dtype):
    a, y = problem(dtype)
    prior, seen = Lp(0.01, p), []
    solver = PADNet(a, prior, HOSTILE[units](), most=2)
    x, report = solver(y, y, iterations=25, tol=0, callback=lambda k, s: seen.append(s.x))
    f = LeastSquares(Blur(a.kernel.double()), y.double())

    def objective(x):
        x = x.double()
        return f.value(x) + 0.01 * torch.where(x == 0, 0, x.abs() ** p).flatten(1).sum(1)

    values = torch.stack([objective(x) for x in (y, *seen)])
    rounding = 1e-14 if dtype == torch.float64 else 2e-6
    assert (values.diff(dim=0) <= rounding * values[:-1]).all()
    torch.testing.assert_close(report.objective, values[-1], rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0)
    assert torch.equal(seen[-1], x)
    assert (report.relative_step < 2e-2).all()


@pytest.mark.parametrize("units", ["large", "NaN", "small", "several"])
def test_hostile_units_reach_the_minimiser_of_a_convex_objective(units):
    a, y = problem()
    wavelet = Wavelet("haar", 2)
    best = FISTA(a @ wavelet.T, 0.05)(y, iterations=500, tol=1e-7)[1]
    _, report = PADNet(a, L1(0.05, wavelet), HOSTILE[units](), most=1)(y, y, iterations=100, tol=1e-6)
    torch.testing.assert_close(report.objective, best.objective, rtol=1e-3, atol=0)


@pytest.mark.parametrize("mu", [None, 0.5])
def test_the_error_is_a_subgradient_and_within_its_bound(mu):
    """With r = lam |.|_1: e - grad f(x+) - mu (x+ - x) in lam sign(x+)."""
    a, y = problem()
    lam, states = 0.02, []
    solver = PADNet(a, L1(lam), lambda v: v - L1(lam).prox(v, 0.5), mu=mu, step=0.9)
    before = torch.zeros_like(y)
    x, report = solver(y, before, iterations=1, tol=0, history=True, callback=lambda k, s: states.append(s))
    assert (report.accepted == 1).all()
    weight, f, s = mu or 1 / 0.9, LeastSquares(a, y), 0.9
    v = states[-1].v
    e = (weight - 1 / s) * (x - v) - f.grad(v) + f.grad(x)
    torch.testing.assert_close(e.flatten(1).norm(dim=1), report.error)
    inside = e - f.grad(x) - weight * (x - before)
    assert (inside.abs() <= lam + 1e-12).all()
    torch.testing.assert_close(inside[x != 0], lam * x[x != 0].sign())
    assert (report.error <= report.error_bound).all()
    torch.testing.assert_close(report.error_bound, 0.45 * weight * (x - before).flatten(1).norm(dim=1))
    assert torch.equal(report.history["units"][-1], report.units)


@pytest.mark.parametrize(("reach", "taken"), [(1, True), (2, True), (4, True), (8, True), (64, False)])
def test_a_proposal_or_part_of_it_that_ends_below_a_gradient_step_is_taken(reach, taken):
    """A unit that points at the minimiser, but goes `reach` times as far: beyond the bound of the error, yet lower."""
    a, y = problem()
    lam, s = 0.02, 0.9
    lowest = FISTA(a, lam)(y, y, iterations=1000)[0]
    solver = PADNet(a, L1(lam), lambda v: v - y - reach * (lowest - y), mu=1e-3, step=s, most=1)
    x, report = solver(y, y, iterations=1, tol=0)
    step = L1(lam).prox(y - s * LeastSquares(a, y).grad(y), s)
    assert report.accepted.tolist() == [taken] * 2
    assert (solver.objective(x, y) <= solver.objective(step, y)).all()
    if taken:
        assert (report.error > report.error_bound).all()
        assert (solver.objective(x, y) - solver.objective(lowest, y) < 1e-3 * solver.objective(y, y)).all()
    else:
        assert torch.equal(x, step)


def test_the_papers_rule_takes_what_comes_last():
    a, y = problem()
    literal = PADNet(a, Lp(0.01, 0.5), Wild(1e6), rule="paper", most=2)
    _, report = literal(y, y, iterations=1, tol=0)
    assert report.units.tolist() == [2, 2]
    assert report.accepted.tolist() == [1, 1]
    assert (report.error > report.error_bound).all()
    assert (report.objective > literal.objective(y, y)).all()
    _, lost = PADNet(a, Lp(0.01, 0.5), Wild(float("nan")), rule="paper")(y, y, iterations=2)
    assert list(lost.status) == [NOT_FINITE] * 2


def test_clipped_units_move_by_no_more_than_their_share():
    a, y = problem()
    states = []
    PADNet(a, None, [Wild(1e6), Wild(5.0)], clip=0.3, rho=4.0)(
        y, y, iterations=1, tol=0, callback=lambda k, s: states.append(s)
    )
    u = LeastSquares(a, y).prox(y, 1 / (4 + 1 / (0.99 / BLUR.norm() ** 2)))
    s = states[0]
    assert ((s.v - u).flatten(1).norm(dim=1) <= 2 * 0.3 / 2 + 1e-12).all()
    torch.testing.assert_close(s.dual, u - s.v)


def test_implicit_is_plug_and_play():
    """With the units of a proximal map, v - prox(v), the unit step of rho = 1 is ADMM's: here to the l1 solution."""
    a, y = problem()
    unit = lambda v: v - L1(0.05).prox(v, 1.0)  # noqa: E731
    x, report = PADNet(a, None, unit, growth=1.0, most=1, mu=1e-9)(y, y, iterations=150, tol=0)
    best = FISTA(a, 0.05)
    torch.testing.assert_close(best.objective(x, y), best(y, iterations=500)[1].objective, rtol=1e-3, atol=0)
    torch.testing.assert_close(report.misfit, (a(x) - y).flatten(1).norm(dim=1))


@pytest.mark.parametrize("kind", ["mask", "sampling"])
def test_other_operators(kind):
    m = (numbers(16, 16) > -0.3).double()
    x = scene(16, 2, torch.float64)
    a = Inpainting(m) if kind == "mask" else Fourier(m)
    y = a(x)
    found, report = PADNet(a, L1(0.01, Wavelet("haar", 2)), lambda v: 0.2 * (v - v.roll(1, -1)), most=2)(
        y, iterations=100
    )
    assert found.is_complex() == y.is_complex()
    assert (report.objective < PADNet(a, L1(0.01, Wavelet("haar", 2)), abs).objective(a.adjoint(y), y)).all()


def test_image_has_the_bits_it_has_alone():
    a, y = problem(torch.float32)
    y = torch.stack([y[0], 30 * y[1]])
    unit = lambda v: torch.where(v.abs().amax((1, 2, 3), True) > 5, 1e6, 1) * (v - L1(0.01).prox(v, 0.5))  # noqa: E731
    x, report = PADNet(a, Lp(0.01, 0.5), unit)(y, y, iterations=25)
    assert report.accepted[0] > report.accepted[1]
    for i in range(2):
        one, own = PADNet(a, Lp(0.01, 0.5), unit)(y[i : i + 1].clone(), y[i : i + 1].clone(), iterations=25)
        assert torch.equal(one, x[i : i + 1])
        assert own.to_dict(0) == report.to_dict(i)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PADNet(3, None, abs), "PADNet: operator: expected a LinearOperator, got int"),
        (lambda: PADNet(BLUR, LeastSquares, abs), "PADNet: prior: expected a term with a proximal map, or None"),
        (lambda: PADNet(BLUR, None, []), "PADNet: units: expected a function of images"),
        (lambda: PADNet(BLUR, None, [[], [abs]]), "PADNet: units: expected a function of images"),
        (lambda: PADNet(BLUR, None, abs, rule="no"), "PADNet: rule: expected descent or paper"),
        (lambda: PADNet(BLUR, None, abs, error=0.5), "PADNet: error: expected a number in"),
        (lambda: PADNet(BLUR, L1(1.0), abs, step=2.0)(torch.ones(1, 1, 8, 8)), "PADNet: step: expected a number below"),
        (lambda: PADNet(BLUR, L1(1.0), lambda v: v[:, 0])(torch.ones(1, 1, 8, 8)), "PADNet: units: expected outputs"),
    ],
)
def test_says_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()
