"""LADMM: reaches the optimum of the linear programme, with a certificate that never lies."""

import math

import pytest
import torch
from utils import numbers
from zoo import LAM, dictionary, general_b, samples

from fastrecon.operators import Dictionary
from fastrecon.solvers import DLADMM, LADMM
from fastrecon.solvers.ladmm import Splitting, distance


def optimum(x, a, b):
    """min lam |z|_1 + |e|_1 subject to x = a z + b e by HiGHS, one sample at a time."""
    cost = torch.cat([torch.full((2 * a.shape[1],), LAM), torch.ones(2 * b.shape[1])]).numpy()
    rows = torch.cat([a, -a, b, -b], 1).numpy()
    linprog = pytest.importorskip("scipy.optimize").linprog
    found = [linprog(cost, A_eq=rows, b_eq=one.numpy(), bounds=(0, None), method="highs") for one in x]
    assert all(f.status == 0 for f in found)
    return torch.tensor([f.fun for f in found], dtype=torch.float64)


@pytest.mark.parametrize(("e_update", "with_b"), [("general", False), ("residual", False), ("general", True)])
def test_reaches_the_optimum_of_the_linear_programme(e_update, with_b):
    a = dictionary()
    b = general_b() if with_b else None
    x = samples(a, b=b)
    best = optimum(x, a, torch.eye(30, dtype=torch.float64) if b is None else b)
    _, report = LADMM(a, LAM, b, e_update=e_update).solve(x, tol=1e-7, iterations=5000)
    assert report.status == ["converged"] * 4
    torch.testing.assert_close(report.objective, best, rtol=1e-6, atol=0)
    assert (report.primal_residual < 1e-6).all()
    assert (report.gap <= 1e-7 * best.clamp_min(1) * (1 + 1e-6)).all()
    assert len(set(report.iterations.tolist())) > 1  # each sample stops by itself


def test_other_penalties_have_the_same_optimum():
    a = dictionary()
    x = samples(a)
    found = [LADMM(a, LAM, beta=beta).solve(x, tol=1e-7)[1].objective for beta in (0.3, 3.0)]
    torch.testing.assert_close(*found, rtol=1e-6, atol=0)


@pytest.mark.parametrize("with_b", [False, True])
def test_gap_bounds_the_distance_to_the_optimum_from_anywhere(with_b):
    a = dictionary()
    b = general_b() if with_b else None
    solver, x = LADMM(a, LAM, b), samples(a, 50, b=b)
    best = optimum(x, a, torch.eye(30, dtype=torch.float64) if b is None else b)
    p = 36 if with_b else 30
    for scale in (0.0, 0.1, 3.0):
        z, e, dual = (scale * numbers(50, k, seed=k) for k in (12, p, 31))
        dual = dual[:, :30]
        s = Splitting(z, e, dual, z @ a.T, e if b is None else e @ b.T)
        found = solver.values(s, x)
        assert (found["gap"] >= found["feasible"] - best - 1e-9).all()
        assert (found["feasible"] >= best - 1e-9).all()
    few = samples(a, b=b)
    found = solver.values(solver.solve(few, tol=1e-7, iterations=5000)[0], few)
    assert (found["gap"] <= 1e-7 * found["feasible"].clamp_min(1)).all()  # and it closes


def test_certificate_can_be_recomputed():
    a = dictionary()
    x = samples(a, 3)
    s, report = LADMM(a, LAM)(x, 40)
    torch.testing.assert_close(report.objective, LAM * s.z.abs().sum(1) + s.e.abs().sum(1))
    torch.testing.assert_close(report.primal_residual, (s.z @ a.T + s.e - x).norm(dim=1))
    scale = torch.stack([s.dual.abs().amax(1), (s.dual @ a).abs().amax(1) / LAM]).amax(0).clamp_min(1)
    primal = LAM * s.z.abs().sum(1) + (x - s.z @ a.T).abs().sum(1)
    torch.testing.assert_close(report.gap, primal + (s.dual * x).sum(1) / scale)
    assert report.iterations.tolist() == [40] * 3
    assert report.accepted.tolist() == [0] * 3
    assert set(report.to_dict(0)) == {
        "objective", "primal_residual", "gap", "accepted", "iterations", "converged", "status"
    }  # fmt: skip


def test_step_is_the_formula():
    a, x = dictionary(), samples(dictionary())
    solver = LADMM(a, LAM, beta=0.7)
    z, e, dual = (numbers(4, k, seed=k) for k in (12, 30, 31))
    dual = dual[:, :30].contiguous()
    found = solver.step(Splitting(z, e, dual, z @ a.T, e), x)

    def soft(v, t):
        return v.sign() * (v.abs() - t).clamp_min(0)

    z = soft(z - (dual + 0.7 * (z @ a.T + e - x)) @ a / solver.l1, LAM / solver.l1)
    e = soft(e - (dual + 0.7 * (z @ a.T + e - x)) / solver.l2, 1 / solver.l2)
    dual = dual + 0.7 * (z @ a.T + e - x)
    for mine, expected in ((found.z, z), (found.e, e), (found.dual, dual), (found.az, z @ a.T)):
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("with_b", [False, True])
def test_all_ways_to_run_agree(with_b):
    a = dictionary()
    b = general_b() if with_b else None
    solver, x = LADMM(a, LAM, b), samples(a, b=b)
    s = solver.start(x)
    for _ in range(12):
        s = solver.step(s, x)
    for history in (False, True):
        found, report = solver(x, 12, history=history)
        for name in ("z", "e", "dual", "az", "be"):
            torch.testing.assert_close(getattr(found, name), getattr(s, name))
    assert report.history["gap"].shape == (12, 4)
    torch.testing.assert_close(report.history["gap"][-1], report.gap)


def test_a_sample_does_not_depend_on_its_batch():
    a = dictionary()
    solver, x = LADMM(a, LAM), samples(a, 5)
    together, report = solver.solve(x, tol=1e-6)
    for i in range(5):
        alone, own = solver.solve(x[i : i + 1], tol=1e-6)
        torch.testing.assert_close(alone.z[0], together.z[i])
        assert own.iterations[0] == report.iterations[i]


def test_fixed_point_is_where_a_step_stays():
    a = dictionary()
    solver, x = LADMM(a, LAM), samples(a)
    s, _ = solver.solve(x, tol=1e-10, iterations=5000)
    start = solver.start(x)
    assert (distance(s, solver.step(s, x)) < 1e-6 * distance(start, solver.step(start, x))).all()


def test_without_right_inverse_the_gap_is_not_known():
    a = dictionary()
    b = general_b()[:, :3]
    _, report = LADMM(a, LAM, b)(samples(a), 5)
    assert report.gap.isinf().all()
    assert not report.converged.any()
    assert report.to_dict(0)["gap"] is None


def test_not_finite_data_is_told():
    a = dictionary()
    x = samples(a)
    x[1, 0] = float("nan")
    _, report = LADMM(a, LAM).solve(x, tol=1e-3)
    assert [s == "the iterate is not finite" for s in report.status] == [False, True, False, False]
    assert report.converged.tolist() == [True, False, True, True]


def test_report_of_an_image_from_its_patches():
    a = dictionary()
    _, report = LADMM(a, LAM)(samples(a, 6), 20, history=True)
    image = report.merged(3)
    torch.testing.assert_close(image.gap, report.gap.view(2, 3).sum(1))
    torch.testing.assert_close(image.primal_residual, report.primal_residual.view(2, 3).norm(dim=1))
    assert image.iterations.tolist() == [20, 20]
    assert image.history["objective"].shape == (20, 2)
    assert image.to("cpu").status == image.status


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lam": 0.0}, "LADMM: lam: expected a number > 0, got 0.0"),
        ({"beta": -1.0}, "LADMM: beta: expected a number > 0"),
        ({"l1": 0.1}, r"LADMM: l1: expected at least beta \|A\|\^2"),
        ({"l2": 0.1}, r"LADMM: l2: expected at least beta \|B\|\^2 = 1"),
        ({"l2": 2.0, "e_update": "residual"}, "l2: expected beta = 1 for the residual update"),
        ({"e_update": "exact"}, "e_update: expected one of general, residual, got 'exact'"),
        ({"b": torch.zeros(31, 3, dtype=torch.float64)}, "b: expected a matrix of 30 rows"),
        ({"b": torch.ones(30, 3, dtype=torch.float64), "e_update": "residual"}, "expected general for a general B"),
    ],
)
def test_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        LADMM(dictionary(), **arguments)


@pytest.mark.parametrize("kind", [LADMM, DLADMM])
@pytest.mark.parametrize("x", [torch.zeros(30), torch.zeros(2, 29).double(), torch.zeros(2, 30)], ids=["1d", "m", "f"])
def test_data_must_fit(kind, x):
    with pytest.raises(ValueError, match=rf"{kind.__name__}: x: expected samples \[N, 30\] float64 on cpu"):
        kind(Dictionary(dictionary()))(x)


@pytest.mark.parametrize(
    "arguments",
    [{"a": torch.zeros(4, 6)}, {"a": torch.full((4, 6), math.nan)}, {"a": torch.full((4, 6), math.inf)},
     {"b": torch.zeros(4, 5)}, {"lam": 0}, {"lam": math.nan}, {"lam": True}, {"lam": "x"}, {"beta": math.inf},
     {"l1": -1}, {"l2": math.nan}],
    ids=lambda a: f"{next(iter(a))}",
)  # fmt: skip
def test_refuses_what_is_out_of_range(arguments):
    name = next(iter(arguments))
    with pytest.raises(ValueError, match=f"LADMM: {name}: expected "):
        LADMM(**{"a": torch.eye(4, 6)} | arguments)


@pytest.mark.parametrize(
    ("call", "options"),
    [("solve", {"iterations": -5}), ("solve", {"iterations": 1.5}), ("solve", {"tol": 0}),
     ("solve", {"tol": math.nan}), ("solve", {"callback": 3}), ("forward", {"iterations": 0}),
     ("forward", {"iterations": True}), ("forward", {"tol": -1}), ("forward", {"history": 2})],
    ids=str,
)  # fmt: skip
def test_refuses_options_out_of_range(call, options):
    with pytest.raises(ValueError, match=f"LADMM: {next(iter(options))}: expected "):
        getattr(LADMM(torch.eye(4, 6)), call)(torch.ones(2, 4), **options)


def test_solve_of_no_iterations_is_the_start():
    s, report = LADMM(torch.eye(4, 6)).solve(torch.ones(2, 4), iterations=0)
    assert not s.z.any()
    assert report.status == ["iteration limit"] * 2


def test_status_of_a_sample_that_is_not_finite():
    x = torch.ones(3, 4)
    x[1, 2] = math.nan
    for report in (LADMM(torch.eye(4, 6)).solve(x)[1], LADMM(torch.eye(4, 6))(x)[1]):
        assert [s == "the iterate is not finite" for s in report.status] == [False, True, False]
