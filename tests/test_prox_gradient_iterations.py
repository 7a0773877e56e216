"""Many iterations of ISTA and FISTA in one call: the bits of single steps, and what the solvers make of it."""

from itertools import accumulate

import pytest
import torch
from torch.library import opcheck
from utils import REAL, compiles, interpreted, numbers

from fastrecon import registry
from fastrecon.networks.step_schedule import StepSchedule
from fastrecon.operators import Blur, Fourier, Inpainting, Wavelet, gaussian_kernel
from fastrecon.ops import transforms
from fastrecon.ops.layout import spread_over
from fastrecon.ops.prox_gradient_iterations import prox_gradient_iterations_
from fastrecon.ops.wavelets import lowpass
from fastrecon.solvers import FISTA, ISTA, ScheduledFISTA
from fastrecon.solvers.lasso import detail_weights

SOLVERS = [(ISTA, "fixed"), (ISTA, "backtracking"), (FISTA, "fixed"), (FISTA, "backtracking")]
SHAPES = [(1, 1, 32, 40), (3, 1, 24, 24), (2, 3, 21, 30), (2, 1, 37, 24)]  # some filled up to multiples of 8
COUNT = 25


class Stepwise(Inpainting):
    """A subclass, which might do anything: solvers call it."""


def problem(shape, dtype, device="cpu", kind=Inpainting, wavelet="sym4", level=3):
    """An operator with a mask for each image, of weights up to 2, and measurements."""
    b, _, h, w = shape
    mask = numbers(b, 1, h, w, dtype=dtype, device=device).abs().clamp_max(2) * (numbers(b, 1, h, w, seed=1) > 0)
    y = numbers(*shape, dtype=dtype, device=device, seed=2).cumsum(2).cumsum(3) / 20
    a = kind(mask) @ Wavelet(wavelet, level, (h, w)).T
    return a, a.outer(y)


class StepwiseFourier(Fourier):
    """The same of k-space."""


class StepwiseBlur(Blur):
    """The same of blurred images."""


def transformed(kind, shape, dtype):
    """The operators of a kind, for calls of many iterations and for single steps, and measurements of both."""
    b, _, h, w = shape
    mask = numbers(b, 1, h, w, dtype=dtype).abs().clamp_max(2) * (numbers(b, 1, h, w, seed=1) > 0)
    maps = numbers(b, 3, h, w, dtype=dtype.to_complex(), seed=4) / 2
    made = {
        "masked, complex": lambda twin: (Stepwise if twin else Inpainting)(mask),
        "one coil": lambda twin: (StepwiseFourier if twin else Fourier)(mask),
        "centred": lambda twin: (StepwiseFourier if twin else Fourier)(mask, True),
        "coils": lambda twin: (StepwiseFourier if twin else Fourier)(mask, False, maps),
        "centred coils": lambda twin: (StepwiseFourier if twin else Fourier)(mask, "both", maps),
        "blur": lambda twin: (StepwiseBlur if twin else Blur)(gaussian_kernel(1.0, 7, dtype)),
        "blur, zero": lambda twin: (StepwiseBlur if twin else Blur)(gaussian_kernel(1.0, 7, dtype), "zero"),
    }
    real = kind.startswith("blur")
    x = numbers(*shape, dtype=dtype if real else dtype.to_complex(), seed=2).cumsum(2).cumsum(3) / 20
    both = [made[kind](twin) @ Wavelet("sym4", 3, (h, w)).T for twin in (False, True)]
    return both, both[0].outer(x)


KINDS = ["masked, complex", "one coil", "centred", "coils", "centred coils", "blur", "blur, zero"]
METHODS = {
    "fista": lambda a, lam: FISTA(a, lam, 6.0),
    "fista backtracking": lambda a, lam: FISTA(a, lam, 0.7, "backtracking"),
    "ista": lambda a, lam: ISTA(a, lam, 6.0),
    "scheduled": lambda a, lam: ScheduledFISTA(a, lam, 6.0, StepSchedule(7)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_transforms_give_what_single_steps_give(kind, method):
    """To the bit, where there are compiled transforms: both use them."""
    registered = registry.extension()
    exact = (
        registered is not None
        and registered.build_info()["isa"] != "baseline"
        and transforms.plan((16, 16), torch.float32)
    )
    for shape, dtype in (((2, 1, 21, 24), torch.float32), ((1, 1, 16, 19), torch.float64)):
        operators, y = transformed(kind, shape, dtype)
        runs = [METHODS[method](a, 0.05)(y, iterations=12, history=True) for a in operators]
        (x, report), (found, other) = runs
        loose = 1e-4 if dtype == torch.float32 else 1e-10
        torch.testing.assert_close(found, x, rtol=0 if exact else loose, atol=0 if exact else loose)
        torch.testing.assert_close(other.objective, report.objective, rtol=0 if exact else loose, atol=0)
        for name, values in report.history.items():
            torch.testing.assert_close(other.history[name], values, rtol=1e-9 if exact else loose, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_masks_with_a_schedule_and_states_that_last(method):
    a, y = problem((2, 1, 21, 24), torch.float32)
    solver, seen = METHODS[method](a, torch.tensor([0.05, 0.1])), []
    x, _ = solver(y, iterations=12, callback=lambda k, s: seen.append((s, s.x.clone())))
    assert all(torch.equal(s.x, then) for s, then in seen)
    assert torch.equal(solver(y, iterations=12)[0], x)
    narrowed = solver(y * torch.tensor([1.0, 1e-3]).view(2, 1, 1, 1), iterations=40, tol=1e-2, check_every=5)[1]
    assert narrowed.iterations.max() <= 40


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_definition_of_transforms(kind):
    """The kernels against the definition in float64, a schedule included."""
    (a, _), y = transformed(kind, (2, 1, 13, 16), torch.float64)
    for method in ("fista", "scheduled"):
        solver = METHODS[method](a, 0.05)
        expected = solver(y, iterations=5)[0]
        with registry.using("reference"):
            found = METHODS[method](a, 0.05)(y, iterations=5)[0]
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_without_a_library_of_transforms_steps_are_single(monkeypatch):
    (a, _), y = transformed("coils", (2, 1, 13, 16), torch.float64)
    expected = FISTA(a, 0.05, 6.0)(y, iterations=5)[0]
    monkeypatch.setattr(transforms, "library", lambda: None)
    monkeypatch.setattr(transforms, "ours_are_faster", lambda *_: False)
    transforms.plan.cache_clear()
    try:
        found = FISTA(a, 0.05, 6.0)(y, iterations=5)[0]
    finally:
        transforms.plan.cache_clear()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def weights(kind, b, size, dtype):
    """A number, one for each image, or one for each coefficient."""
    each = torch.linspace(0.01, 0.1, b, dtype=dtype)
    return {"number": 0.05, "image": each, "coefficient": detail_weights(size, 3, 0.05).to(dtype)}[kind]


def arguments(solver, a, y, count, wavelet="sym4", level=3):
    """Those of the op, from the solver's start."""
    s = solver.start(a.apply_adjoint(y), y)
    fista, none = solver.__class__ is FISTA, s.x.new_empty(0)
    state = [s.x.clone(), s.x.clone() if fista else none, s.residual.clone(), s.residual.clone() if fista else none]
    table = torch.stack((s.step, torch.ones_like(s.step), s.objective, s.move), 1)
    lam = spread_over(solver.lam, s.x, "", "")
    mask = a.outer.mask
    return [*state, y, mask, lam, table, lowpass(wavelet), level, count, fista, solver.rule == "backtracking"]


def stepped(solver, a, y, count):
    """The state after every iteration, one call each."""
    states = [solver.start(a.apply_adjoint(y), y)]
    for k in range(count):
        states.append(solver.step(states[-1], k))
    return states


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("method", "rule"), SOLVERS)
@torch.no_grad()
def test_bits_of_single_steps(method, rule, shape, dtype):
    if registry.extension() is None or registry.extension().build_info()["isa"] == "baseline":
        pytest.skip("torch extrapolates with fused multiply-adds, which this instruction set lacks")
    a, y = problem(shape, dtype)
    kind = ("number", "image", "coefficient")[shape[0] % 3]
    size = a.apply_adjoint(y).shape[2:]
    solver = method(a, weights(kind, shape[0], tuple(size), dtype), 4.0 if rule == "fixed" else 0.7, rule)
    inputs = arguments(solver, a, y, COUNT)
    trace = prox_gradient_iterations_(*inputs)
    states = stepped(solver, a, y, COUNT)
    s = states[-1]
    expected = [s.x, s.residual, s.objective, s.move, s.step]
    table = inputs[7]
    found = [inputs[0], inputs[2], table[:, 2], table[:, 3], table[:, 0]]
    if method is FISTA:
        expected += [s.v, s.residual_v, s.theta]
        found += [inputs[1], inputs[3], table[:, 1]]
    expected += [torch.stack([t.objective for t in states[1:]], 1), torch.stack([t.move for t in states[1:]], 1)]
    for f, e in zip([*found, *trace.unbind(2)], expected, strict=True):
        torch.testing.assert_close(f, e, rtol=0, atol=0)
    if rule == "backtracking":
        assert (s.step < states[0].step).all()  # some steps were refused


@pytest.mark.parametrize(("method", "rule"), SOLVERS)
@torch.no_grad()
def test_definition(method, rule, backend, device):
    """Every implementation against the definition in float64."""
    a, y = problem((2, 2, 21, 24), torch.float64, device)
    solver = method(a, 0.05, 4.0 if rule == "fixed" else 0.7, rule)
    inputs, exact = (arguments(solver, a, y, 6) for _ in range(2))
    trace = prox_gradient_iterations_(*inputs)
    expected = registry.implementation("prox_gradient_iterations_", "reference")(*exact)
    for f, e in zip((*inputs[:4], inputs[7], trace), (*exact[:4], exact[7], expected), strict=True):
        torch.testing.assert_close(f, e, rtol=1e-10, atol=1e-12)


@interpreted
@torch.no_grad()
def test_triton_makes_the_same(backend, device):
    a, y = problem((2, 1, 13, 16), torch.float64, device, level=2)
    inputs, exact = (arguments(FISTA(a, 0.05, 0.7, "backtracking"), a, y, 3, level=2) for _ in range(2))
    trace = prox_gradient_iterations_(*inputs)
    expected = registry.implementation("prox_gradient_iterations_", "reference")(*exact)
    for f, e in zip((*inputs[:4], inputs[7], trace), (*exact[:4], exact[7], expected), strict=True):
        torch.testing.assert_close(f, e, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("wavelet", ["haar", "sym4", "db3"])
@torch.no_grad()
def test_other_wavelets(wavelet):
    a, y = problem((1, 1, 16, 16), torch.float64, wavelet=wavelet, level=2)
    inputs, exact = (arguments(FISTA(a, 0.05, 4.0), a, y, 5, wavelet, 2) for _ in range(2))
    prox_gradient_iterations_(*inputs)
    registry.implementation("prox_gradient_iterations_", "reference")(*exact)
    torch.testing.assert_close(inputs[0], exact[0], rtol=1e-11, atol=1e-13)


@torch.no_grad()
def test_calls_add_up_to_one_call():
    a, y = problem((2, 1, 24, 24), torch.float32)
    whole, parts = (arguments(FISTA(a, 0.05, 4.0), a, y, 12) for _ in range(2))
    trace = prox_gradient_iterations_(*whole)
    traces = [prox_gradient_iterations_(*parts[:10], count, *parts[11:]) for count in (1, 4, 7)]
    torch.testing.assert_close(torch.cat(traces, 1), trace, rtol=0, atol=0)
    for i in (0, 1, 2, 3, 7):
        torch.testing.assert_close(parts[i], whole[i], rtol=0, atol=0)


@torch.no_grad()
def test_none_and_empty():
    a, y = problem((2, 1, 24, 24), torch.float32)
    inputs = arguments(FISTA(a, 0.05, 4.0), a, y, 0)
    before = inputs[0].clone()
    assert prox_gradient_iterations_(*inputs).shape == (2, 0, 2)
    assert torch.equal(inputs[0], before)
    x, report = FISTA(a.take(torch.tensor([], dtype=torch.int64)), 0.05, 4.0)(y[:0], iterations=3)
    assert x.shape == (0, 1, 24, 24)
    assert len(report.objective) == 0


@pytest.mark.parametrize("tol", [0.0, 3e-3])
@pytest.mark.parametrize(("method", "rule"), SOLVERS)
def test_solvers_give_what_single_steps_give(method, rule, tol):
    """Images, report and history, images that leave early included; and the given start stays as it is."""
    runs = []
    for kind in (Stepwise, Inpainting):
        a, y = problem((4, 1, 21, 24), torch.float64, kind=kind)
        y = y * torch.tensor([1.0, 30.0, 0.1, 5.0], dtype=y.dtype).view(-1, 1, 1, 1)
        x0 = a.apply_adjoint(y)
        kept = x0.clone()
        solver = method(a, torch.linspace(0.01, 0.3, 4, dtype=y.dtype), 4.0, rule)
        runs.append(solver(y, x0, iterations=57, tol=tol, check_every=5, history=True))
        assert torch.equal(x0, kept)
    (x, report), (found, other) = runs
    same = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(found, x, **same)
    torch.testing.assert_close(other.objective, report.objective, **same)
    assert torch.equal(other.iterations, report.iterations)
    assert torch.equal(other.converged, report.converged)
    assert tol == 0 or len(other.iterations.unique()) > 1
    for name, values in report.history.items():
        assert values.shape == (other.iterations.max() + 1, 4)
        torch.testing.assert_close(other.history[name], values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("method", "rule"), SOLVERS)
def test_callback_sees_states_that_last(method, rule):
    a, y = problem((2, 1, 24, 24), torch.float32)
    solver, seen = method(a, 0.05, 4.0, rule), []
    x, _ = solver(y, iterations=12, callback=lambda k, s: seen.append((k, s, s.x.clone())))
    assert [k for k, _, _ in seen] == list(range(1, 13))
    assert all(torch.equal(s.x, then) for _, s, then in seen)
    assert torch.equal(seen[-1][1].x, x)
    assert torch.equal(solver(y, iterations=12)[0], x)


@pytest.mark.parametrize("threads", [1, 2])
def test_image_has_the_same_bits_in_any_batch(threads):
    a, y = problem((5, 1, 40, 48), torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x, _ = FISTA(a, 0.05, 4.0)(y, iterations=20)
        for i in range(5):
            alone, _ = FISTA(a.take(torch.tensor([i])), 0.05, 4.0)(y[i : i + 1], iterations=20)
            assert torch.equal(alone[0], x[i])
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(registry.extension() is None, reason="the definition makes copies")
@pytest.mark.parametrize("method", [FISTA, ISTA])
def test_four_arrays_of_the_batch_are_enough(method):
    """x, v and their residuals are the state of FISTA; as much goes into the start and into certificates."""
    a = Inpainting(numbers(64, 64).gt(0).float()) @ Wavelet("sym4", 3).T
    y = a(numbers(16, 1, 64, 64, dtype=torch.float32))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        method(a, 0.01)(y, iterations=3)
    results = seen.profiler.kineto_results  # type: ignore[union-attr]
    taken = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    peak = max(accumulate(size for _, size in taken))
    assert 4 * y.nbytes <= peak < 4.5 * y.nbytes


@compiles
@torch.no_grad()
def test_registration():
    a, y = problem((2, 1, 16, 16), torch.float64, level=1)
    for method in (ISTA, FISTA):
        inputs = arguments(method(a, 0.05, 4.0), a, y, 2, level=1)
        inputs[8] = list(inputs[8])
        opcheck(torch.ops.fastrecon.prox_gradient_iterations_, tuple(inputs))
