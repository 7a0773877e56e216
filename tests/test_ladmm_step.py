"""The half steps of ADMM: every kernel against eager PyTorch in float64, and the properties of the map."""

import numpy as np
import pytest
import torch
from torch.library import opcheck
from utils import REAL, assert_compiles, awkward_views, compare, compiles, interpreted, numbers, outputs_and_grads

from fastrecon.ops import ladmm_shrink, ladmm_step, soft_threshold
from fastrecon.ops.ladmm_step import UPDATES

SHAPES = [(1, 3, 1), (5, 7, 3), (3, 257, 20), (67, 33, 40), (1, 600, 5), (130, 2, 9), (14, 40, 1100)]  # N, M, D


def soft(v, tau):
    """As people write it."""
    return v.sign() * (v.abs() - tau).clamp_min(0)


def eager_shrink(z, arg, w, tau):
    return soft(z - arg @ w, tau)


def eager(z, a, x, e, dual, beta, w, tau, beta_next, update):
    """One line per formula of the paper."""
    q = z @ a.T
    if update == "general":
        e = soft(e - w * (dual + beta * (q + e - x)), tau)
    if update == "residual":
        e = soft(x - q - w * dual, tau)
    dual = dual + beta * (q + e - x)
    return q, e, dual, dual + beta_next * (q + e - x)


def random(shapes, dtype, device):
    return [numbers(*s, dtype=dtype, device=device, seed=k).requires_grad_() for k, s in enumerate(shapes)]


def parameters(count, columns, dtype, device):
    rows = [numbers(columns, dtype=dtype, device=device, seed=10 + k).abs().add(0.1) for k in range(count)]
    return [r.requires_grad_() for r in rows]


UNUSED = {"general": (), "residual": (3,), "given": (6, 7)}  # positions of arguments that an update does not read


def problem(shape, dtype, device, update="general"):
    n, m, d = shape
    found = *random([(n, d), (m, d), *[(n, m)] * 3], dtype, device), *parameters(4, m, dtype, device)
    return tuple(t.detach() if k in UNUSED[update] else t for k, t in enumerate(found))


def shrink_problem(shape, dtype, device):
    n, m, d = shape
    return *random([(n, d), (n, m), (m, d)], dtype, device), *parameters(1, d, dtype, device)


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("update", UPDATES)
def test_as_accurate_as_eager(update, shape, dtype, device, backend):
    compare(ladmm_step, eager, *problem(shape, dtype, device, update), update)


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shrink_as_accurate_as_eager(shape, dtype, device, backend):
    compare(ladmm_shrink, eager_shrink, *shrink_problem(shape, dtype, device))


@interpreted
@pytest.mark.parametrize("shape", SHAPES[1:4], ids=str)
@pytest.mark.parametrize("update", UPDATES)
def test_triton_kernel(update, shape, device, backend):
    compare(ladmm_step, eager, *problem(shape, torch.float32, device, update), update)
    compare(ladmm_shrink, eager_shrink, *shrink_problem(shape, torch.float32, device))


@pytest.mark.parametrize("update", UPDATES)
def test_gradients(update, device, backend):
    inputs = problem((4, 5, 3), torch.float64, device, update)
    assert torch.autograd.gradcheck(lambda *t: ladmm_step(*t, update), inputs)
    assert torch.autograd.gradcheck(lambda *t: ladmm_step(*t, update)[1:], inputs)  # q not used outside
    fixed = [t.detach() if k in (1, 2) else t for k, t in enumerate(inputs)]  # nor dictionary and data learned
    assert torch.autograd.gradcheck(lambda *t: ladmm_step(*t, update)[3], fixed)  # nor e+ used, directly
    assert torch.autograd.gradcheck(ladmm_shrink, shrink_problem((4, 5, 3), torch.float64, device))


def test_parameters_may_be_numbers_or_scalars(device, backend):
    z, a, x, e, dual = problem((4, 5, 3), torch.float64, device)[:5]
    scalars = [torch.tensor(t, dtype=torch.float64, device=device, requires_grad=True) for t in (0.7, 0.5, 0.3, 0.9)]
    rows = [s.detach().expand(5).clone().requires_grad_() for s in scalars]
    one, each = (outputs_and_grads(ladmm_step, z, a, x, e, dual, *p, "general") for p in (scalars, rows))
    for k, (u, v) in enumerate(zip(one, each, strict=True)):
        torch.testing.assert_close(u, v if k < 9 else v.sum())
    for u, v in zip(ladmm_step(z, a, x, e, dual, 0.7, 0.5, 0.3, 0.9), each, strict=False):
        torch.testing.assert_close(u, v, rtol=0, atol=0)


def test_second_derivative_is_refused(device):
    z, arg, w, _ = shrink_problem((3, 4, 4), torch.float64, device)
    (d_z,) = torch.autograd.grad(ladmm_shrink(z, arg, w, 0.3).square().sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d_z.sum().backward()


def iterations(state, x, a, w1, l1, rows, count, update):
    """The state z, e, dual, A z after `count` iterations by the op that runs them all."""
    z, e, dual, q = (t.clone() for t in state)
    arg = dual + rows[1][0] * (q + e - x)
    code = UPDATES.index(update)
    torch.ops.fastrecon.ladmm_iterations_(x, a, z, e, dual, q, arg, w1, l1, *rows, count, code)
    return z, e, dual, q


def half_steps(state, x, a, w1, l1, rows, count, update):
    """The same, one half step after the other."""
    z, e, dual, q = state
    arg = dual + rows[1][0] * (q + e - x)
    for k in range(count):
        w, tau1, beta, w2, tau2 = (p[min(k, len(p) - 1)] for p in (w1, *rows))
        z = ladmm_shrink(z, arg, w / l1, tau1)
        beta_next = rows[1][min(k + 1, len(rows[1]) - 1)]
        q, e, dual, arg = ladmm_step(z, a, x, e, dual, beta, w2, tau2, beta_next, update)
    return z, e, dual, q


def iterations_problem(shape, count, dtype, device):
    """A state and the rest of the arguments; `count` is 1 for weights that all iterations share."""
    _, m, d = shape
    z, a, x, e, dual, *_ = (t.detach() for t in problem(shape, dtype, device))
    w1 = [a + 0.1 * numbers(m, d, dtype=dtype, device=device, seed=k) for k in range(count)]
    sizes = (d, m, m, m)
    rows = [0.1 + 0.2 * numbers(count, k, dtype=dtype, device=device, seed=9 + k).abs() for k in sizes]
    return (z, e, dual, z @ a.T), x, a, w1, 3.0 * m**0.5, rows


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("update", ["general", "residual"])
@pytest.mark.parametrize(("shape", "shared"), [((37, 65, 18), False), ((2, 33, 50), True), ((260, 70, 40), False)])
def test_iterations_are_half_steps(shape, shared, update, dtype, device, backend):
    inputs = iterations_problem(shape, 1 if shared else 4, dtype, device)
    found, expected = (f(*inputs, 4, update) for f in (iterations, half_steps))
    for u, v in zip(found, expected, strict=True):
        # the vendor's products may round differently for memory that begins elsewhere
        assert torch.equal(u, v) if backend == "cpu" else (u - v).norm() <= 1e-5 * v.norm()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_iterations_have_the_same_bits_in_any_batch_and_on_any_threads(threads, backend):
    if backend != "cpu":
        pytest.skip("the vendor's products may round differently")
    state, x, *rest = iterations_problem((200, 64, 48), 3, torch.float32, "cpu")
    expected = iterations(state, x, *rest, 3, "residual")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = iterations(state, x, *rest, 3, "residual")
        alone = iterations([t[150:151] for t in state], x[150:151], *rest, 3, "residual")
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(u, v) for u, v in zip(found, expected, strict=True))
    assert all(torch.equal(u[0], v[150]) for u, v in zip(alone, expected, strict=True))


def test_shrink_is_soft_thresholding(device, backend):
    z, p = (numbers(9, 40, dtype=torch.float32, device=device, seed=k) for k in range(2))
    tau = parameters(1, 40, torch.float32, device)[0].detach()
    identity = torch.eye(40, device=device)
    torch.testing.assert_close(ladmm_shrink(z, p, identity, tau), soft_threshold(z - p, tau), rtol=0, atol=0)


def test_updates_of_e_agree_where_the_step_is_exact(device, backend):
    """With w = 1 / beta the linearised step minimises the augmented Lagrangian in e."""
    z, a, x, e, dual, beta, *_ = (t.detach() for t in problem((8, 12, 5), torch.float64, device))
    inverse = 1 / beta
    found = [ladmm_step(z, a, x, e, dual, beta, inverse, inverse, beta, u) for u in ("general", "residual")]
    for u, v in zip(*found, strict=True):
        torch.testing.assert_close(u, v)
    after = found[0][1]
    slope = dual + beta * (z @ a.T + after - x)  # of the smooth part: minus a subgradient of |e| there
    assert (slope[after == 0].abs() <= 1 + 1e-12).all()
    torch.testing.assert_close(slope[after != 0], -after[after != 0].sign())


def test_any_memory_layout(device, backend):
    inputs = [t.detach() for t in problem((5, 9, 7), torch.float32, device)]
    expected = ladmm_step(*inputs)
    for position, t in enumerate(inputs):
        for name, view in awkward_views(t).items():
            for u, v in zip(ladmm_step(*inputs[:position], view, *inputs[position + 1 :]), expected, strict=True):
                # the vendor's products may round differently for another layout
                assert torch.equal(u, v) if backend == "cpu" else torch.allclose(u, v, rtol=1e-5), (position, name)
    state, x, a, w1, l1, rows = iterations_problem((5, 9, 7), 2, torch.float32, device)
    expected = iterations(state, x, a, w1, l1, rows, 2, "general")
    (x, a), w1, rows = ([awkward_views(t)["strided"] for t in some] for some in ((x, a), w1, rows))
    for u, v in zip(iterations(state, x, a, w1, l1, rows, 2, "general"), expected, strict=True):
        torch.testing.assert_close(u, v)


@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (3, 2, 0)], ids=str)
def test_empty(shape, device, backend):
    n, m, d = shape
    found = outputs_and_grads(ladmm_step, *problem(shape, torch.float32, device), "general")
    sizes = [(n, m)] * 4 + [(n, d), (m, d)] + [(n, m)] * 3 + [(m,)] * 4
    assert [t.shape for t in found] == [torch.Size(s) for s in sizes]
    found = outputs_and_grads(ladmm_shrink, *shrink_problem(shape, torch.float32, device))
    assert [t.shape for t in found] == [torch.Size(s) for s in [(n, d)] * 2 + [(n, m), (m, d), (d,)]]
    assert found[3].eq(0).all()


def test_special_values(device, backend):
    nan, inf = float("nan"), float("inf")
    z = torch.tensor([[0.0, nan, inf, -inf, 2.0**-149, -3.0]], device=device)
    tau = torch.tensor([0.0, 1, 1, 1, 0, inf], device=device)
    found = ladmm_shrink(z, torch.zeros(1, 4, device=device), torch.zeros(4, 6, device=device), tau)
    expected = torch.tensor([[0.0, nan, inf, -inf, 2.0**-149, 0.0]], device=device)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_a_sample_has_the_same_bits_in_any_batch(device, backend):
    if backend != "cpu":
        pytest.skip("the vendor's products may round differently for another number of rows")
    z, a, x, e, dual, *rest = problem((70, 211, 90), torch.float32, device)
    together = ladmm_step(z, a, x, e, dual, *rest)
    shrunk = ladmm_shrink(z, dual, a, 0.1)
    grads = torch.autograd.grad(sum(t.square().sum() for t in (*together, shrunk)), (z, x, e, dual))
    for i in (0, 33, 69):
        one = [t[i : i + 1] for t in (z, x, e, dual)]
        alone = ladmm_step(one[0], a, *one[1:], *rest)
        lone = ladmm_shrink(one[0], one[3], a, 0.1)
        own = torch.autograd.grad(sum(t.square().sum() for t in (*alone, lone)), (z, x, e, dual))
        assert all(torch.equal(u[0], v[i]) for u, v in zip((*alone, lone), (*together, shrunk), strict=True))
        assert all(torch.equal(u[i], v[i]) for u, v in zip(own, grads, strict=True))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_bits(threads, backend):
    if backend != "cpu":
        pytest.skip("the vendor's products may round differently on another number of threads")
    z, a, x, e, dual, *rest = (t.detach() for t in problem((300, 130, 170), torch.float32, "cpu"))
    expected = ladmm_step(z, a, x, e, dual, *rest)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = ladmm_step(z, a, x, e, dual, *rest)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(u, v) for u, v in zip(found, expected, strict=True))


def test_arrays_in_arrays_out():
    rng = np.random.default_rng(0)
    z, a, x, e, dual = (rng.standard_normal(s) for s in ((3, 2), (4, 2), (3, 4), (3, 4), (3, 4)))
    found = ladmm_step(z, a, x, e, dual, 1.0, 1.0, 0.5, 1.0, "residual")
    assert all(isinstance(t, np.ndarray) for t in found)
    v = x - z @ a.T - dual
    np.testing.assert_allclose(found[1], np.sign(v) * np.maximum(np.abs(v) - 0.5, 0))


def test_half_precision_goes_to_the_definition(device):
    z = torch.tensor([[2.0, -0.25]], dtype=torch.float16, device=device)
    found = ladmm_shrink(z, torch.zeros_like(z), torch.eye(2, dtype=torch.float16, device=device), 0.5)
    assert torch.equal(found, torch.tensor([[1.5, 0.0]], dtype=torch.float16, device=device))


def matrix(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


DATA = [matrix(2, 3)] * 3


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((matrix(3), matrix(3, 1), *DATA, 1.0), r"z: expected a real matrix \[N, D\], got \(3,\)"),
        ((matrix(2, 1), matrix(3, 2), *DATA, 1.0), r"a: expected \(3, 1\) float32 on cpu, got \(3, 2\)"),
        ((matrix(5, 1), matrix(3, 1), *DATA, 1.0), r"x: expected \(5, M\) float32 on cpu, got \(2, 3\)"),
        ((matrix(2, 1), matrix(3, 1), DATA[0], matrix(3, 2), DATA[0], 1.0), r"e: expected \(2, 3\) .* got \(3, 2\)"),
        ((matrix(2, 1).double(), matrix(3, 1), *DATA, 1.0), "x: .* float64 on cpu, got .*float32"),
        ((matrix(2, 1), matrix(3, 1), *DATA, torch.ones(2)), r"beta: expected a number or shape \(3,\), got \(2,\)"),
        ((matrix(2, 1), matrix(3, 1), *DATA, torch.ones(3).double()), "beta: expected float32 on cpu, got .*float64"),
    ],
)
def test_says_what_is_wrong(inputs, message):
    with pytest.raises(ValueError, match=f"ladmm_step: {message}"):
        ladmm_step(*inputs, 1.0, 1.0, 1.0)


def test_unknown_update_is_named():
    with pytest.raises(ValueError, match="update: expected one of general, residual, given, got 'exact'"):
        ladmm_step(matrix(2, 1), matrix(3, 1), *DATA, 1.0, 1.0, 1.0, 1.0, "exact")


@compiles
def test_registration_and_compilation(device):
    z, a, x, e, dual, *rest = (t.detach() for t in problem((4, 5, 3), torch.float64, device))
    tau = rest[2][:3]
    opcheck(torch.ops.fastrecon.ladmm_shrink_fwd, (z, x, a, tau))
    opcheck(torch.ops.fastrecon.ladmm_shrink_bwd, (z, z, x, a))
    state, data, atoms, w1, l1, rows = iterations_problem((4, 5, 3), 2, torch.float64, device)
    arguments = (data, atoms, *(t.clone() for t in (*state, data)), w1, l1, *rows, 2, 0)
    opcheck(torch.ops.fastrecon.ladmm_iterations_, arguments)
    for code, update in enumerate(UPDATES):
        opcheck(torch.ops.fastrecon.ladmm_step_fwd, (z, a, x, e, dual, *rest, code))
        for outside, learned in ((e, True), (e[:0], False)):
            inputs = (outside, outside, dual, x, z, a, x, x, e, dual, x, *rest, code, learned, learned)
            opcheck(torch.ops.fastrecon.ladmm_step_bwd, inputs)
        assert_compiles(lambda *t, u=update: ladmm_step(*t, u), *problem((4, 5, 3), torch.float32, device, update))
