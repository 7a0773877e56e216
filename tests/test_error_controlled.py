"""Error-controlled iterations: whatever a module does, the objective falls; what it did stands in the report."""

import itertools

import pytest
import torch
from torch import nn
from utils import numbers
from zoo import scene

from fastrecon import masks
from fastrecon.operators import Blur, Fourier, Identity, Inpainting, Wavelet, gaussian_kernel
from fastrecon.solvers import FISTA, ErrorControlled
from fastrecon.solvers.correction import Correction
from fastrecon.terms import L1, TV, LeastSquares, Lp

KERNEL = gaussian_kernel(0.7, 5, torch.float64)
WAVELET = Wavelet("haar", 2)


def problem(dtype=torch.float64, kind="blur"):
    """A and y of two images."""
    x = scene(16, 2, torch.float64)
    mask = masks.variable_density((16, 16), 0.5, 1).double()
    a = {"blur": Blur(KERNEL), "k-space": Fourier(mask), "holes": Inpainting(mask), "noise": Identity()}[kind]
    y = a(x)
    y = y + 0.02 * numbers(*y.shape, dtype=y.dtype)
    return a.to(dtype), y.to(dtype.to_complex() if y.is_complex() else dtype)


class Wild(nn.Module):
    """Random weights with outputs of this size."""

    def __init__(self, size):
        super().__init__()
        self.size, self.calls = size, itertools.count()

    def forward(self, x):
        g = numbers(*x.shape, dtype=x.dtype, seed=next(self.calls))
        return self.size * g


def raising(x):
    raise RuntimeError("out of order")


def spoiling(x):
    return x.mul_(float("nan"))


HOSTILE = {
    "random": lambda: Wild(1.0),
    "small": lambda: Wild(0.01),
    "large": lambda: Wild(1e6),
    "huge": lambda: Wild(1e300),
    "infinite": lambda: lambda x: x / 0,
    "NaN": lambda: lambda x: x * float("nan"),
    "sign-flipped": lambda: lambda x: -x,
    "spoils its input": lambda: spoiling,
    "raises": lambda: raising,
    "other shape": lambda: lambda x: x[..., 1:],
    "other type": lambda: lambda x: x.to(torch.float16),
    "no tensor": lambda: lambda x: None,
    "zero": lambda: torch.zeros_like,
    "ever smaller": lambda: [lambda x, s=s: x + s * numbers(*x.shape, dtype=x.dtype) for s in (1, 0.1, 0.01, 0.001)],
    "now and then": lambda: [lambda x, k=k: -x if k % 3 else x * 0.9 for k in range(60)],
}  # fmt: skip


def objective(x, a, y, p, lam):
    """F of images [B, 1, H, W] in float64, anew."""
    c = WAVELET(x.to(torch.complex128 if x.is_complex() else torch.float64)).abs()
    wide = y.to(torch.complex128 if y.is_complex() else torch.float64)
    penalty = torch.where(c == 0, 0, c**p).flatten(1).sum(1)
    return (a(x.to(wide.dtype)) - wide).abs().square().flatten(1).sum(1) / 2 + lam * penalty


FIRST = [("blur", 0.0, "monotone", 0.1), ("k-space", 0.8, "descent", 0.5)]
OTHERS = [("blur", 0.8, "descent", None), ("holes", 1.0, "descent", [0.5, 0.1]), ("noise", 0.5, "monotone", None)]
SHORT = ("random", "NaN", "now and then")


@pytest.mark.parametrize(
    ("module", "kind", "p", "rule", "rho"),
    [(m, *c) for m in HOSTILE for c in FIRST] + [(m, *c) for m in SHORT for c in OTHERS],
)
def test_hostile_modules_cannot_raise_the_objective(module, kind, p, rule, rho):
    a, y = problem(kind=kind)
    seen = []
    solver = ErrorControlled(a, Lp(0.01, p, WAVELET), HOSTILE[module](), rule=rule, rho=rho)
    start = a.adjoint(y)
    x, report = solver(y, start, iterations=40, tol=0, history=True, callback=lambda k, s: seen.append(s.x))
    values = torch.stack([objective(x, a, y, p, 0.01) for x in (start, *seen)])
    assert (values.diff(dim=0) <= 1e-14 * values[:-1]).all()
    torch.testing.assert_close(report.objective, values[-1])
    torch.testing.assert_close(report.history["objective"], values)
    assert torch.equal(seen[-1], x)
    assert torch.equal(report.accepted + report.rejected, report.iterations)
    assert (report.relative_step < 3e-2).all()
    failing = module in ("huge", "infinite", "NaN", "spoils its input", "raises", "other shape", "other type",
                         "no tensor")  # fmt: skip
    if failing and module != "huge":  # 1e300 is a number
        assert (report.failed == 40).all()
    if failing:
        assert (report.accepted == 0).all()


@pytest.mark.parametrize("module", ["large", "NaN", "random", "sign-flipped", "now and then"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_hostile_modules_reach_the_minimiser_of_a_convex_objective(module, dtype):
    a, y = problem(dtype)
    best = FISTA(a @ WAVELET.T, 0.05)(y, iterations=500, tol=1e-7)[1]
    _, report = ErrorControlled(a, L1(0.05, WAVELET), HOSTILE[module]())(y, y, iterations=150, tol=1e-6)
    torch.testing.assert_close(report.objective, best.objective, rtol=1e-3, atol=0)


@pytest.mark.parametrize("mu", [None, 0.5])
def test_the_error_is_a_subgradient_and_within_its_bound(mu):
    """With r = lam |.|_1: d - grad f(u~) - mu (u~ - x) in lam sign(u~)."""
    a, y = problem()
    lam, s, before, asked = 0.02, 0.9, torch.zeros_like(y), []

    def module(x):
        asked.append(L1(lam).prox(x, 0.5))
        return asked[-1]

    solver = ErrorControlled(a, L1(lam), module, mu=mu, step=s, rho=1.0)
    x, report = solver(y, before, iterations=1, tol=0)
    assert (report.accepted == 1).all()
    weight, f = mu or 1 / s, LeastSquares(a, y)
    u = asked[0]
    new = L1(lam).prox(u - s * (f.grad(u) + weight * (u - before)), s)
    d = (weight - 1 / s) * (new - u) - f.grad(u) + f.grad(new)
    torch.testing.assert_close(d.flatten(1).norm(dim=1), report.error)
    inside = d - f.grad(new) - weight * (new - before)
    assert (inside.abs() <= lam + 1e-12).all()
    torch.testing.assert_close(inside[new != 0], lam * new[new != 0].sign())
    assert (report.error <= report.error_bound).all()
    torch.testing.assert_close(x, L1(lam).prox(new - s * f.grad(new), s))


def test_without_a_module_it_is_ista():
    a, y = problem()
    x, report = ErrorControlled(a, L1(0.05, WAVELET), rule="descent", step=0.9)(y, y, iterations=1, tol=0)
    f, prior = LeastSquares(a, y), L1(0.05, WAVELET)
    v = y if report.accepted[0] == 0 else prior.prox(y - 0.9 * f.grad(y), 0.9)
    torch.testing.assert_close(x, prior.prox(v - 0.9 * f.grad(v), 0.9))


def test_the_papers_rule_may_raise_the_objective():
    a, y = problem()
    prior = Lp(0.3, 0.0, WAVELET)
    start = a.adjoint(y)
    found = {}
    for rule in ("paper", "descent"):
        solver = ErrorControlled(a, prior, [lambda x, k=k: x + 0.05 * numbers(*x.shape, seed=k) for k in range(200)],
                                 rule=rule, mu=0.2, error=0.49)  # fmt: skip
        _, report = solver(y, start, iterations=40, tol=0, history=True)
        found[rule] = report.history["objective"].diff(dim=0).max()
    assert found["descent"] <= 0


@pytest.mark.parametrize("how", ["raises", "NaN", "batch", "grows"])
def test_one_image_of_a_batch_that_fails_does_not_touch_the_others(how):
    a, y = problem()
    good = lambda x: L1(0.02, WAVELET).prox(x, 1.0)  # noqa: E731
    bad = y[1].abs().sum()

    def module(x):
        second = torch.isclose(x.abs().sum((1, 2, 3)), bad, rtol=0.3)
        if how == "batch":
            if len(x) > 1:
                raise ValueError("one image at a time")
            return good(x)
        if not second.any():
            return good(x)
        if how == "raises":
            raise ValueError("not such images")
        out = good(x)
        out[second] = float("nan")
        return out if how == "NaN" else torch.cat((out, out[second]))

    y = torch.stack((20 * y[0], y[1]))
    x, report = ErrorControlled(a, L1(0.05, WAVELET), module)(y, y, iterations=10, tol=0)
    alone, own = ErrorControlled(a, L1(0.05, WAVELET), good)(y[:1].clone(), y[:1].clone(), iterations=10, tol=0)
    assert torch.equal(x[:1], alone)
    assert report.accepted[0] == own.accepted[0]
    assert report.failed.tolist() == ([0, 0] if how == "batch" else [0, 10])
    facts = report.to_dict(1)
    if how == "raises":
        assert "ValueError: not such images" in facts["reasons"]
    if how == "grows":
        assert any(r.startswith("expected images like (") for r in facts["reasons"])
    assert "reasons" not in report.to_dict(0)


def test_modules_are_told_strength_and_number():
    a, y = problem()
    seen = []

    class Denoiser(nn.Module):
        def forward(self, x, sigma):
            seen.append(sigma)
            return x

    def numbered(x, iteration=7):
        seen.append(iteration)
        return x

    ErrorControlled(a, L1(0.05), Denoiser(), strengths=[0.3, 0.1])(y, iterations=3, tol=0)
    ErrorControlled(a, L1(0.05), [numbered])(y, iterations=3, tol=0)
    ErrorControlled(a, L1(0.05), abs)(y, iterations=1, tol=0)
    assert seen == [0.3, 0.1, 0.1, 0, 1, 2]
    with pytest.raises(ValueError, match="strengths: expected numbers > 0: a module has to be told its sigma"):
        ErrorControlled(a, L1(0.05), Denoiser())


def test_image_has_the_bits_it_has_alone():
    a, y = problem(torch.float32)
    y = torch.stack([y[0], 30 * y[1]])
    module = lambda v: torch.where(v.abs().amax((1, 2, 3), True) > 5, -1, 1) * L1(0.01, WAVELET).prox(v, 0.5)  # noqa: E731
    solver = ErrorControlled(a, Lp(0.01, 0.5, WAVELET), module)
    x, report = solver(y, y, iterations=25, tol=1e-3)
    assert report.accepted[0] > report.accepted[1]
    for i in range(2):
        one, own = solver(y[i : i + 1].clone(), y[i : i + 1].clone(), iterations=25, tol=1e-3)
        assert torch.equal(one, x[i : i + 1])
        assert own.to_dict(0) == report.to_dict(i)


def test_other_priors_and_the_end_of_an_iteration():
    a, y = problem()
    _, report = ErrorControlled(a, TV(0.02), lambda x: TV(0.01).prox(x, 1.0))(y, y, iterations=500, tol=1e-5)
    assert report.converged.all()
    assert (report.iterations < 500).all()
    assert (report.relative_step < 1e-4).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a, y: ErrorControlled(3, L1(1.0)), "ErrorControlled: fidelity: expected a LeastSquares or its"),
        (lambda a, y: ErrorControlled(a, LeastSquares), "ErrorControlled: prior: expected a term with a proximal map"),
        (lambda a, y: ErrorControlled(a, L1(1.0), []), "ErrorControlled: modules: expected a function of images"),
        (lambda a, y: ErrorControlled(a, L1(1.0), 3), "ErrorControlled: modules: expected a function of images"),
        (lambda a, y: ErrorControlled(a, L1(1.0), abs, rule="no"), "ErrorControlled: rule: expected one of"),
        (lambda a, y: ErrorControlled(a, L1(1.0), abs, rho=0), "ErrorControlled: rho: expected a number > 0"),
        (lambda a, y: ErrorControlled(a, L1(1.0), abs, error=0.5), "ErrorControlled: error: expected a number in"),
        (lambda a, y: ErrorControlled(a, L1(1.0), abs, step=9)(y), "ErrorControlled: step: expected a number below"),
        (lambda a, y: ErrorControlled(a, L1(1.0), Ranged())(300 * y), r"x0: expected images about on \[0, 1\]"),
    ],
)
def test_says_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make(*problem())


class Ranged(nn.Module):
    """For images on [0, 1]."""

    range = (0, 1)

    def forward(self, x):
        return x


@pytest.mark.parametrize("mu", [0.05, 0.5, 2.0])
def test_what_the_error_bound_accepts_lies_within_half_its_way_of_the_proximal_point(mu):
    """Of convex F, whatever was proposed: p = argmin F + mu |. - x|^2 / 2, |u~ - p| <= |d| / mu < |u~ - x| / 2."""
    a, y = problem()
    prior, x = L1(0.05, WAVELET), torch.zeros_like(y)
    c, f = Correction(LeastSquares(a, y), prior, 0.9, mu, 0.45), LeastSquares(a, y)
    p = x
    for _ in range(400):
        p = prior.prox(p - (f.grad(p) + mu * (p - x)) / (1 + mu), 1 / (1 + mu))
    taken = 0
    for k, far in enumerate((0.0, 0.01, 0.1, 0.3, 1.0)):
        u = p + far * (p - x).norm() / 16 * numbers(*x.shape, seed=k)
        found = c.candidate(x, u)
        good = c.accepted(found, torch.full_like(found.objective, float("inf")), "paper")
        off, way = ((t).flatten(1).norm(dim=1) for t in (found.x - p, found.x - x))
        assert (off <= found.error / mu + 1e-6).all()
        assert (off[good] < way[good] / 2 + 1e-6).all()
        taken += int(good.sum())
    assert 2 <= taken < 10
