"""ADMM and half-quadratic splitting: minimisers of others, dense references, certificates, hostile kernels."""

import pytest
import torch
from utils import numbers
from zoo import scene

from fastrecon import masks
from fastrecon.certificates import CONVERGED, NOT_FINITE
from fastrecon.operators import Blur, Crop, Fourier, Gradient, Inpainting, Radon, Wavelet, gaussian_kernel
from fastrecon.ops import prox_lp
from fastrecon.solvers import ADMM, FISTA, HQS
from fastrecon.solvers.hqs import continuation
from fastrecon.terms import L1, GroupL21, LeastSquares, Lp, Term

DOUBLE = torch.float64
BLUR = Blur(gaussian_kernel(0.8, 5, DOUBLE))


def problem(kind, side=16):
    """A and y of two images."""
    x = scene(side, 2, DOUBLE)
    if kind == "sampling":
        m = torch.stack([masks.variable_density((side, side), 0.5, s) for s in (0, 1)])[:, None]
        return (a := Fourier(m)), a(x.to(torch.complex128)) + 0.01 * numbers(2, 1, side, side, dtype=torch.complex128)
    if kind == "mask":
        a = Inpainting(torch.stack([masks.uniform((side, side), 0.6, s) for s in (0, 1)])[:, None])
    elif kind == "window":
        a = Crop((side, side), 2, 3, (10, 11)) @ BLUR
    elif kind == "scan":
        a = Radon((side, side), 12, spacing=1.0)
    else:
        a = BLUR
    y = a(x)
    return a, y + 0.01 * numbers(*y.shape)


KINDS = ["blur", "mask", "sampling", "window"]


@pytest.mark.parametrize("kind", ["blur", "sampling"])
def test_admm_finds_the_minimiser_that_fista_finds(kind):
    a, y = problem(kind)
    wavelet, lam = Wavelet("haar", 2), 0.02
    c, best = FISTA(a @ wavelet.T, lam)(y, iterations=1000, tol=1e-8, check_every=20)
    for prior in ((L1(lam), wavelet), L1(lam, wavelet)):
        x, report = ADMM(a, prior, penalty=0.1)(y, iterations=300, tol=1e-7, check_every=10)
        assert report.status == [CONVERGED] * 2
        torch.testing.assert_close(report.objective, best.objective, rtol=1e-5, atol=0)
        torch.testing.assert_close(x, wavelet.adjoint(c), rtol=0, atol=1e-3)


def test_a_fidelity_that_is_split_has_the_same_minimum():
    """As FISTA's, and as that of conjugate gradients in every iteration."""
    a, y = problem("window")
    wavelet = Wavelet("haar", 2)
    _, best = FISTA(a @ wavelet.T, 0.02)(y, iterations=300)
    for splits, iterations in ((True, 120), (False, 40)):
        solver = ADMM(a, L1(0.02, wavelet), penalty=0.1)
        solver.splits_fidelity = splits
        _, report = solver(y, iterations=iterations)
        torch.testing.assert_close(report.objective, best.objective, rtol=1e-2, atol=0)


@pytest.mark.parametrize("kind", [*KINDS, "scan"])
def test_certificates_can_be_made_anew(kind):
    """w rho is in the subdifferential of lam |.|_21 at z; the residuals are what they say, in every iteration."""
    a, y = problem(kind)
    lam, d, states = 0.01, Gradient(), []
    solver = ADMM(a, (GroupL21(lam), d), penalty=0.1)
    x, report = solver(y, iterations=60, tol=0, history=True, callback=lambda k, s: states.append(s))
    split = len(states[-1].z) == 2
    for s in (states[20], states[-1]):
        w, z = (t[-1] for t in (s.w, s.z))
        w = w * s.penalty.view(-1, 1, 1, 1)
        length, slope = (t.abs().square().sum(1).sqrt() for t in (w, z))
        if s is states[-1]:  # after a change of the penalty w is rounded
            assert (length <= lam * (1 + 1e-9)).all()
            torch.testing.assert_close((w.conj() * z).real.sum(1), lam * slope)  # w = lam z / |z| where z is not 0
        if not split:
            residual = LeastSquares(a, y).grad(s.x) + d.adjoint(w)
            exact = residual.flatten(1).norm(dim=1)
            assert (exact <= s.dual * (1 + 1e-6) + 1e-9).all()  # with what conjugate gradients left, a bound
            if kind != "scan":
                torch.testing.assert_close(exact, s.dual, rtol=0.02, atol=1e-9)
            torch.testing.assert_close((d(s.x) - z).flatten(1).norm(dim=1), s.primal, rtol=1e-9, atol=1e-12)
    s = states[-1]
    if not split:
        torch.testing.assert_close(residual.flatten(1).norm(dim=1), report.dual_residual, rtol=1e-9, atol=1e-12)
    if kind != "scan":
        torch.testing.assert_close(report.dual_residual, s.dual, rtol=0.02, atol=1e-9)
    torch.testing.assert_close(report.primal_residual, s.primal)
    torch.testing.assert_close(report.history["objective"][-1], report.objective)
    torch.testing.assert_close(report.objective, LeastSquares(a).value(x, y) + GroupL21(lam).value(d(x)))
    assert (report.relative_dual < 0.1).all()
    worse = x + 0.01 * numbers(*x.shape, dtype=x.dtype)
    assert (solver.objective(worse, y) > report.objective).all()


def test_a_minimum_without_measurements():
    """min |x - v|_1 + lam |x|^2 / 2 by two proximal maps, of no operator."""
    v = numbers(2, 1, 3, 4)
    x, report = ADMM(None, [L1(0.5), Square(v)])(None, v, iterations=300, tol=1e-10)
    torch.testing.assert_close(x, torch.sign(v) * (v.abs() - 0.5).clamp_min(0), rtol=0, atol=1e-8)
    assert report.converged.all()


class Square(Term):
    """|x - v|^2 / 2."""

    proximable = True

    def __init__(self, v):
        super().__init__()
        self.v = v

    def value(self, x):
        return (x - self.v).square().flatten(1).sum(1) / 2

    def prox(self, v, weight):
        w = weight.view(-1, 1, 1, 1)
        return (v + w * self.v) / (1 + w)

    def take(self, which):
        return Square(self.v[which])


@pytest.mark.parametrize("make", [
    lambda a, p: ADMM(a, p, 0.1), lambda a, p: HQS(a, p, [0.01, 0.1, 0.3])
], ids=["admm", "hqs"])  # fmt: skip
@pytest.mark.parametrize("kind", [*KINDS, "scan"])
def test_image_has_the_bits_it_has_alone(make, kind):
    a, y = problem(kind)
    y = torch.stack([y[0], 20 * y[1]])  # which other penalties suit
    priors = (GroupL21(0.02), Gradient())
    x, report = make(a, priors)(y, iterations=12, tol=1e-2)
    for i in range(2):
        one, own = make(a.take(torch.tensor([i])), priors)(y[i : i + 1].clone(), iterations=12, tol=1e-2)
        assert torch.equal(one, x[i : i + 1])
        assert own.to_dict(0) == report.to_dict(i)


@pytest.mark.parametrize("p", [0.0, 2 / 3, 0.8, 1.0])
def test_hqs_is_the_published_iteration(p):
    """Krishnan & Fergus with dense matrices, on the scale of their weights."""
    a, y = problem("blur", 8)
    lam, schedule = 5e-3, continuation()
    assert schedule == pytest.approx([8 ** (k / 2) for k in range(6)] + [256.0])
    x, _ = HQS(a, (Lp(lam, p), Gradient()), [lam * beta for beta in schedule], inner=2)(y, y, iterations=14)
    eye = torch.eye(64, dtype=DOUBLE).view(64, 1, 8, 8)
    k, d = a(eye).flatten(1).T, Gradient()(eye).flatten(1).T
    expected = y.flatten(1).T
    for beta in schedule:
        for _ in range(2):
            z = prox_lp(d @ expected, 1 / beta, p)
            expected = torch.linalg.solve(k.T @ k / lam + beta * d.T @ d, k.T @ y.flatten(1).T / lam + beta * d.T @ z)
    torch.testing.assert_close(x.flatten(1).T, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", [*KINDS, "scan"])
def test_hqs_decreases_what_it_minimises(kind):
    a, y = problem(kind)
    prior, beta, seen = Lp(0.01, 0.5), 0.3, []

    def note(k, s):
        coupling = (Gradient()(s.x) - s.z[0]).abs().square().flatten(1).sum(1)
        seen.append(LeastSquares(a).value(s.x, y) + prior.value(s.z[0]) + beta / 2 * coupling)

    HQS(a, (prior, Gradient()), [beta])(y, iterations=10, tol=0, callback=note)
    assert (torch.stack(seen).diff(dim=0) <= 1e-12).all()


def test_hqs_ends_where_it_says():
    a, y = problem("blur")
    solver = HQS(a, (Lp(0.01, 0.8), Gradient()), [0.01, 0.1, 1.0], inner=3)
    assert solver.planned == 9
    _, report = solver(y, iterations=9)
    assert report.penalty.tolist() == [1.0, 1.0]
    assert not report.converged.any()
    assert report.status[0].startswith("end of the iterations")


@pytest.mark.parametrize("kernel", [
    torch.tensor([[0.0, 0, 0], [1, -1, 0], [0, 0, 0]]),  # sum 0: the mean is lost
    -gaussian_kernel(1.0, 5), 40 * gaussian_kernel(1.0, 5), torch.zeros(3, 3), numbers(7, 7, dtype=torch.float32),
], ids=["sum 0", "negative", "large", "zero", "any"])  # fmt: skip
@pytest.mark.parametrize("method", ["admm", "hqs"])
def test_any_kernel_is_survived(method, kernel):
    a, x = Blur(kernel), scene(16, 2, torch.float32)
    priors = (Lp(0.01, 0.8), Gradient())
    solver = ADMM(a, priors, 0.1) if method == "admm" else HQS(a, priors, [0.01, 0.1, 1.0])
    found, report = solver(a(x), iterations=30)
    assert torch.isfinite(found).all()
    assert NOT_FINITE not in list(report.status)
    assert (report.objective <= solver.objective(torch.zeros_like(x), a(x)) * (1 + 1e-5) + 1e-9).all()


def test_constant_images_stay():
    y = torch.full((1, 1, 8, 8), 0.3, dtype=DOUBLE)
    for p in (0.0, 0.5, 1.0):
        for solver in (ADMM(BLUR, (Lp(0.1, p), Gradient())), HQS(BLUR, (Lp(0.1, p), Gradient()), [0.1, 1.0])):
            x, _ = solver(y)
            torch.testing.assert_close(x, y)


def test_numbers_that_are_none_do_not_spread():
    a, y = problem("blur")
    clean, _ = ADMM(a, (GroupL21(0.02), Gradient()), 0.1)(y[:1].clone(), iterations=30, tol=0)
    y = torch.stack([y[0], y[1] * float("nan")])
    x, report = ADMM(a, (GroupL21(0.02), Gradient()), 0.1)(y, iterations=30, tol=0)
    assert torch.equal(x[:1], clean)
    assert report.status[1] == NOT_FINITE


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ADMM("blur", GroupL21(1.0)), "ADMM: operator: expected a LinearOperator or None, got str"),
        (lambda: ADMM(BLUR, []), "ADMM: priors: expected at least one, got none"),
        (lambda: ADMM(BLUR, LeastSquares), "ADMM: priors: expected terms"),
        (lambda: ADMM(BLUR, Lp(1.0, 0.5), penalty=0.0), "ADMM: penalty: expected a number > 0, got 0.0"),
        (lambda: ADMM(BLUR, Lp(1.0, 0.5), relaxation=2.0), "ADMM: relaxation: expected a number in"),
        (lambda: HQS(BLUR, Lp(1.0, 0.5), []), "HQS: penalties: expected numbers > 0 that never decrease"),
        (lambda: HQS(BLUR, Lp(1.0, 0.5), [2.0, 1.0]), "HQS: penalties: expected numbers > 0 that never decrease"),
        (lambda: Lp(1.0, 1.5), r"Lp: p: expected a number in \[0, 1\], got 1.5"),
        (lambda: continuation(growth=1.0), "continuation: growth: expected a number > 1, got 1.0"),
        (lambda: ADMM(BLUR, Lp(1.0, 0.5))(torch.ones(1, 1, 4, 4)), "Blur: .*: expected an image at least as large"),
        (lambda: ADMM(BLUR, Lp(1.0, 0.5))(None), "ADMM: y: expected measurements"),
        (lambda: ADMM(None, Lp(1.0, 0.5))(None), "ADMM: x0: expected a start"),
        (
            lambda: ADMM(BLUR, Lp(1.0, 0.5))(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 9)),
            "ADMM: y: expected measurem",
        ),
    ],
)
def test_says_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()
