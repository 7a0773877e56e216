"""ISTA, FISTA and SGP on problems whose minimisers are known or certified: descent, convergence, counts."""

import math

import pytest
import torch
from torch import nn
from zoo import METHODS, bold, kkt, scene

from fastrecon import masks
from fastrecon.certificates import CONVERGED, ITERATION_LIMIT, NOT_FINITE
from fastrecon.operators import Blur, Fourier, Inpainting, LinearOperator, Wavelet, gaussian_kernel
from fastrecon.ops import dwt2, prox_gradient_step
from fastrecon.solvers import FISTA, ISTA, SGP, detail_weights


class Counting(LinearOperator):
    """Counts applications."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.complex_input, self.forwards, self.adjoints = inner, inner.complex_input, 0, 0

    def forward(self, x):
        self.forwards += 1
        return self.inner(x)

    def apply_adjoint(self, y, size=None):
        self.adjoints += 1
        return self.inner.adjoint(y, size)

    def _norm(self):
        return self.inner._norm()


def problem(kind="inpainting", side=32, dtype=torch.float64):
    """Operator on coefficients, measurements, lam."""
    x, w = scene(side, 2, dtype), Wavelet("sym4", 2).T
    if kind == "inpainting":
        a = Inpainting(torch.stack([masks.uniform((side, side), 0.5, s) for s in (0, 1)])[:, None]) @ w
        return a, a.outer(x), 0.02
    if kind == "fourier":
        a = Fourier(torch.stack([masks.variable_density((side, side), 0.4, s) for s in (0, 1)])[:, None]) @ w
        return a, a.outer(x.to(dtype.to_complex())), 0.02
    a = Blur(gaussian_kernel(0.6, 5, dtype)) @ w
    return a, a.outer(x), 0.01


@pytest.mark.parametrize("kind", ["inpainting", "fourier", "blur"])
@pytest.mark.parametrize("method", METHODS)
def test_reaches_the_minimiser(method, kind):
    a, y, lam = problem(kind)
    x, report = METHODS[method](a, lam)(y, iterations=6000, tol=1e-9, check_every=20)
    assert report.status == [CONVERGED] * 2
    assert kkt(x, a, y, lam) < 1e-5
    best, _ = FISTA(a, lam)(y, iterations=6000, tol=1e-11, check_every=20)
    torch.testing.assert_close(report.objective, FISTA(a, lam).objective(best, y), rtol=1e-9, atol=0)
    assert (report.relative_step < 1e-8).all()


@pytest.mark.parametrize("kind", ["inpainting", "fourier", "blur"])
@pytest.mark.parametrize("method", [m for m in METHODS if not m.startswith("fista")])
def test_the_objective_never_increases(method, kind):
    a, y, lam = problem(kind)
    solver, seen = METHODS[method](a, lam), []
    _, report = solver(y, iterations=150, history=True, callback=lambda k, s: seen.append(solver.objective(s.x, y)))
    exact = torch.stack(seen)
    assert (exact.diff(dim=0) <= 1e-13 * exact[:-1]).all()
    torch.testing.assert_close(report.history["objective"][1:], exact, rtol=1e-11, atol=0)  # carried along, not drifted
    assert (report.history["objective"].diff(dim=0) <= 1e-13 * exact).all()


class Adversary(nn.Module):
    """Answers anything in [1e-2, 1e2], anew in every iteration, for every coefficient or for every image."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.generator = kind, torch.Generator().manual_seed(0)

    def forward(self, x, grad):
        shape = (len(x),) if self.kind == "step" else x.shape
        u = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        if self.kind == "nan":
            return torch.where(u < 0.1, float("nan"), 1e9 * u)
        return 10 ** (4 * u - 2) if self.kind != "extreme" else torch.where(u < 0.5, 1e-2, 1e2)


@pytest.mark.parametrize("kind", ["step", "diagonal", "extreme", "nan"])
@pytest.mark.parametrize("task", ["inpainting", "fourier"])
def test_any_network_reaches_the_minimiser(kind, task):
    a, y, lam = problem(task)
    solver = SGP(a, lam, network=Adversary(kind))
    x, report = solver(y, iterations=8000, tol=1e-9, check_every=20, history=True)
    best, _ = FISTA(a, lam)(y, iterations=6000, tol=1e-11, check_every=20)
    assert report.status == [CONVERGED] * 2
    torch.testing.assert_close(report.objective, solver.objective(best, y), rtol=1e-8, atol=0)
    assert kkt(x, a, y, lam) < 1e-5
    f = report.history["objective"]
    assert (f.diff(dim=0) <= 1e-13 * f[:-1]).all()


def test_the_printed_rule_stops_at_its_cap_and_falls_back():
    """On f alone (the paper's eq. (5)) it may refuse every step, and did for ever in print; here x+ = x + z2 then."""
    a, y, lam = problem()
    best, _ = FISTA(a, 20 * lam)(y, iterations=3000, tol=1e-10, check_every=20)
    for network in (None, Adversary("extreme")):
        solver = SGP(a, 20 * lam, network=network, rule="paper", trials=8)
        x, report = solver(y, best, iterations=200, history=True)  # at the minimiser f alone has no descent to offer
        assert torch.isfinite(report.history["objective"]).all()
        assert (report.objective <= (1 + 1e-6) * solver.objective(best, y)).all()
        torch.testing.assert_close(report.history["objective"][-1], solver.objective(x, y), rtol=1e-9, atol=0)


@pytest.mark.parametrize("task", ["inpainting", "fourier"])
def test_unit_metric_and_full_weight_is_ista(task):
    a, y, lam = problem(task)
    plain, _ = ISTA(a, lam)(y, iterations=40)
    torch.testing.assert_close(SGP(a, lam)(y, iterations=40)[0], plain, rtol=0, atol=1e-13)
    # with d = t and gamma1 = 1 both steps of z1 are steps of ISTA: an iteration is two of them
    one = SGP(a, lam, network=lambda x, g: torch.ones(len(x)))
    x, report = one(y, iterations=20)
    torch.testing.assert_close(x, plain, rtol=0, atol=1e-12)
    assert report.network_iterations.tolist() == [20, 20]


@pytest.mark.parametrize("rule", ["fixed", "backtracking"])
def test_rounding_does_not_grow_with_the_iterations(rule):
    """In single precision too FISTA ends at the minimiser, and knows its objective."""
    a, y, lam = problem(dtype=torch.float32)
    solver = FISTA(a, lam / 100, 1.0, rule)
    _, report = solver(y, iterations=3000, history=True)
    torch.testing.assert_close(report.history["objective"][-1], report.objective, rtol=1e-6, atol=0)
    wide, y, _ = problem()
    best = FISTA(wide, lam / 100, 1.0)(y, iterations=3000)[1].objective
    torch.testing.assert_close(report.objective, best, rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "sgp-network"])
def test_one_application_of_each_per_iteration(method):
    a, y, lam = problem()
    counting = Counting(a)
    solver = METHODS[method](counting, lam)
    x0 = a.adjoint(y)
    _, report = solver(y, x0, iterations=7)
    assert (counting.forwards, counting.adjoints) == (7 + 2, 7 + 1)  # and the start, and the certificate
    assert report.operator_calls.tolist() == [9, 9]
    assert report.adjoint_calls.tolist() == [8, 8]


def test_two_applications_with_a_network():
    a, y, lam = problem()
    counting = Counting(a)
    _, report = SGP(counting, lam, network=bold)(y, iterations=7)
    assert (counting.forwards, counting.adjoints) == (2 * 7 + 2, 2 * 7 + 2)
    assert report.operator_calls.tolist() == [16, 16]
    assert report.adjoint_calls.tolist() == [16, 16]


def test_fista_is_faster_than_ista_and_a_network_than_both():
    a, y, lam = problem()
    end = [METHODS[m](a, lam)(y, iterations=15)[1].objective for m in ("ista", "fista", "sgp-network")]
    assert (end[1] < end[0]).all()
    assert (end[2] < end[0]).all()


def test_backtracking_finds_its_step_from_any_guess():
    a, y, lam = problem("blur")
    for guess in (1e-3, 1.0, 30.0):
        _, report = ISTA(a, lam, lipschitz=guess, rule="backtracking")(y, iterations=300, history=True)
        f = report.history["objective"]
        assert (f.diff(dim=0) <= 1e-13 * f[:-1]).all()
        assert (f[-1] < f[0]).all()


def test_weights_of_coefficients_and_of_images():
    a, y, lam = problem()
    weights = detail_weights((32, 32), 2, lam)
    assert weights[:8, :8].sum() == 0
    assert weights.count_nonzero() == 32 * 32 - 64
    x, _ = FISTA(a, weights.double())(y, iterations=4000, tol=1e-10)
    g = a.adjoint(a(x) - y)
    assert g[..., :8, :8].abs().max() < 1e-7  # the approximation is not shrunk
    two, _ = ISTA(a, torch.tensor([lam, 2 * lam]).double())(y, iterations=20)
    torch.testing.assert_close(two[1], ISTA(a, 2 * lam)(y, iterations=20)[0][1])


@pytest.mark.parametrize("method", METHODS)
def test_image_has_the_same_bits_in_any_batch(method):
    x = scene(32, 3, torch.float32)
    a = Inpainting(masks.uniform((32, 32), 0.5)) @ Wavelet("sym4", 2).T
    y = a.outer(x)
    together, report = METHODS[method](a, 0.02)(y, iterations=60, tol=1e-3)
    for i in range(3):
        alone, own = METHODS[method](a, 0.02)(y[i : i + 1], iterations=60, tol=1e-3)
        assert torch.equal(alone, together[i : i + 1])
        assert own.to_dict(0) == report.to_dict(i)


def test_report():
    a, y, lam = problem()
    x, report = FISTA(a, lam)(y, iterations=25, tol=1e-12, history=True)
    assert report.status == [ITERATION_LIMIT] * 2
    assert not report.converged.any()
    assert report.iterations.tolist() == [25, 25]
    z = prox_gradient_step(x, a.adjoint(a(x) - y), 1.0, lam)[0]
    torch.testing.assert_close(report.step_norm, z.flatten(1).norm(dim=1))
    torch.testing.assert_close(report.objective, FISTA(a, lam).objective(x, y))
    assert report.history["objective"].shape == (26, 2)
    assert set(report.to_dict(1)) >= {"objective", "step_norm", "iterations", "operator_calls", "converged", "status"}
    assert "ITERATION" not in report.to_json()


def test_what_is_not_finite_is_said():
    a, y, lam = problem()
    y[1, 0, 3, 3] = float("nan")
    _, report = ISTA(a, lam)(y, iterations=5, tol=1e-2)
    assert report.status[1] == NOT_FINITE
    assert not report.converged[1]
    assert math.isfinite(report.objective[0])


def test_start_at_the_solution_stays_there():
    x = dwt2(scene(), "haar", 1)
    a = Wavelet("haar", 1).T
    solution = torch.sign(x) * (x.abs() - 0.1).clamp_min(0)  # A orthonormal: one shrinkage solves it
    for method in METHODS:
        found, report = METHODS[method](a, 0.1)(a(x), solution, iterations=20, tol=1e-12)
        assert report.converged.all(), method
        torch.testing.assert_close(found, solution, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, y: ISTA(a, -1.0), "ISTA: lam: expected a number >= 0, got -1.0"),
        (lambda a, y: FISTA(a, 1.0, rule="greedy"), "FISTA: rule: expected fixed or backtracking, got 'greedy'"),
        (lambda a, y: FISTA(a, 1.0, lipschitz=0.0), "FISTA: lipschitz: expected a number > 0"),
        (lambda a, y: SGP(a, 1.0, beta=0.9), r"SGP: beta: expected a number in \(0, 0.5\]"),
        (lambda a, y: SGP(a, 1.0, rule="wolfe"), "SGP: rule: expected composite or paper"),
        (lambda a, y: ISTA(a, 1.0)(y, iterations=-1), "ISTA: iterations: expected an integer >= 0"),
        (lambda a, y: ISTA(a, 1.0)(y, y[:1]), "ISTA: x0: expected a batch of 2 images"),
        (lambda a, y: SGP(a, 1.0, network=lambda x, g: x * 1j)(y, iterations=1), "SGP: network: expected real step"),
    ],
)
def test_says_what_is_wrong(call, message):
    a, y, _ = problem()
    with pytest.raises(ValueError, match=message):
        call(a, y)


def test_objective_of_many_pixels_has_the_same_bits_in_a_batch():
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # which share the sum of one long row, and the rows of many
    try:
        solver, x = ISTA(Inpainting(torch.ones(1, 1)), 0.3), torch.randn(3, 1, 200, 201, dtype=torch.float64)
        assert torch.equal(solver.l1(x)[1:2], solver.l1(x[1:2]))
    finally:
        torch.set_num_threads(before)


WRONG = [  # of SGP: its own, and those of every Lasso
    ("lam", -1.0, "a number >= 0"), ("lam", math.nan, "a number >= 0"), ("lam", True, "a number >= 0, got True"),
    ("lam", None, "a number >= 0"), ("lam", torch.tensor(1), "a number or a real tensor"),
    ("lipschitz", 0.0, "a number > 0"), ("lipschitz", math.inf, "a number > 0"), ("lipschitz", "1", "a number > 0"),
    ("operator", 3, "a LinearOperator, got int"), ("network", 3, "a function or None, got 3"),
    ("alpha", 0, "a number > 0"), ("alpha", math.inf, "a number > 0"), ("beta", 0.6, r"a number in \(0, 0.5\]"),
    ("beta", "x", "a number in"), ("eta1", 1, r"a number in \(0, 1\)"), ("eta2", math.nan, "a number in"),
    ("gamma1", 1.5, r"a number in \(0, 1\]"), ("trials", 0, "an integer in"), ("trials", 2.5, "an integer in"),
    ("trials", True, "an integer in"), ("network_iterations", -1, "an integer >= 0"), ("limits", 3, "two numbers > 0"),
    ("limits", (1, math.inf), "a finite number"), ("limits", (0, 2), "two numbers > 0"),
    ("bonettini", "no", "True or False"), ("rule", 3, "composite or paper"),
]  # fmt: skip


@pytest.mark.parametrize(("argument", "value", "expected"), WRONG, ids=str)
def test_refuses_numbers_out_of_range(argument, value, expected):
    arguments = {"operator": Inpainting(torch.ones(4, 4)), "lam": 0.1} | {argument: value}
    with pytest.raises(ValueError, match=f"SGP: {argument}: expected {expected}"):
        SGP(**arguments)


@pytest.mark.parametrize(
    "options",
    [{"iterations": -1}, {"iterations": 2.0}, {"iterations": True}, {"tol": -1.0}, {"tol": math.nan}, {"tol": "0"},
     {"check_every": 0}, {"history": 1}, {"callback": 3}, {"x0": 3}, {"x0": torch.ones(2, 1, 4, 4)}],
    ids=str,
)  # fmt: skip
def test_refuses_options_out_of_range(options):
    with pytest.raises(ValueError, match=f"FISTA: {next(iter(options))}: expected"):
        FISTA(Inpainting(torch.ones(4, 4)), 0.1)(torch.ones(1, 1, 4, 4), **options)


@pytest.mark.parametrize("y", [3, None, torch.ones(1, 1, 1, 4)], ids=str)
def test_refuses_measurements_that_are_none(y):
    with pytest.raises(ValueError, match="ISTA: y: expected"):
        ISTA(Inpainting(torch.ones(4, 4)), 0.1)(y, torch.ones(1, 1, 4, 4))


@pytest.mark.parametrize(
    "answer",
    [torch.ones(3), torch.ones(2, 1, 3, 4), torch.ones(1, 2, 1, 4, 4), torch.ones(()), torch.ones(2).long(),
     torch.ones(2, dtype=torch.complex64), 1.0, None, [1.0, 1.0]],
    ids=str,
)  # fmt: skip
def test_refuses_what_a_network_must_not_answer(answer):
    solver = SGP(Inpainting(torch.ones(4, 4)), 0.1, network=lambda x, g: answer)
    with pytest.raises(ValueError, match=r"SGP: network: expected real step sizes \(2,\) or broadcastable to"):
        solver(torch.ones(2, 1, 4, 4), iterations=1)


def test_network_that_answers_nan_takes_the_safe_step():
    a, y = Inpainting(torch.ones(4, 4)), torch.rand(2, 1, 4, 4)
    nan, one = (SGP(a, 0.1, network=lambda x, g, v=v: torch.full((len(x),), v)) for v in (math.nan, 1.0))
    assert torch.equal(nan(y, iterations=5)[0], one(y, iterations=5)[0])


@pytest.mark.parametrize("method", [ISTA, FISTA, SGP])
def test_an_empty_batch_gives_an_empty_result(method):
    y = torch.empty(0, 1, 8, 8)
    x, report = method(Inpainting(torch.ones(8, 8)), 0.1, 1.0)(y, iterations=3)
    assert x.shape == y.shape
    assert report.objective.shape == (0,)


def test_weights_are_the_solvers_own():
    y, lam = torch.rand(1, 1, 8, 8), torch.full((1, 1, 8, 8), 0.1)
    solver = FISTA(Inpainting(torch.ones(8, 8)), lam, 1.0)
    before = solver(y, iterations=3)[0]
    lam.zero_()
    assert torch.equal(solver(y, iterations=3)[0], before)


def test_bounds_of_the_norm_cost_no_calls_and_hold():
    """Multi-coil Fourier and a blur with a boundary of zeros, whose norms have no closed form."""
    torch.manual_seed(0)
    maps = torch.randn(3, 12, 16, dtype=torch.complex128) / 2
    a = Fourier(masks.uniform((12, 16), 0.6, 0).double(), sensitivities=maps)
    blur = Blur(torch.randn(3, 5, dtype=torch.float64), boundary="zero")
    for operator, kind in ((a, torch.complex128), (blur, torch.float64)):
        bound = float(operator.bound((1, 1, 12, 16)))
        norm = operator.norm((1, 1, 12, 16), tol=1e-9)
        assert norm <= bound <= 1.5 * norm
        calls, forward = [], operator.forward
        operator.forward = lambda x, f=forward, calls=calls: calls.append(1) or f(x)
        y = forward(torch.randn(1, 1, 12, 16, dtype=kind))
        _, report = FISTA(operator, 0.1)(y, iterations=7)
        assert report.operator_calls.tolist() == [len(calls)] == [9]


def test_calls_for_an_unknown_norm_are_counted():
    class Scaled(LinearOperator):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x * torch.linspace(0, 2, x.shape[-1], dtype=x.dtype)

        def apply_adjoint(self, y, size=None):
            return y * torch.linspace(0, 2, y.shape[-1], dtype=y.dtype)

    a = Scaled()
    _, report = ISTA(a, 0.1)(torch.randn(1, 1, 4, 8, dtype=torch.float64), iterations=5)
    assert a.calls > 20
    assert report.operator_calls.tolist() == [a.calls]
