"""What ADMM does between its products: every kernel against eager PyTorch in float64, and the properties of the map."""

import numpy as np
import pytest
import torch
from torch.library import opcheck
from utils import REAL, assert_compiles, awkward_views, compare, compiles, interpreted, numbers, outputs_and_grads

from fastrecon.ops import ladmm_shrink, ladmm_step, soft_threshold
from fastrecon.ops.ladmm_step import UPDATES

SHAPES = [(1, 1), (5, 7), (3, 257), (67, 33), (1, 600), (130, 2)]


def soft(v, tau):
    """As people write it."""
    return v.sign() * (v.abs() - tau).clamp_min(0)


def eager_shrink(z, p, tau):
    return soft(z - p, tau)


def eager(q, x, e, dual, beta, w, tau, beta_next, update):
    """One line per formula of the paper."""
    if update == "general":
        e = soft(e - w * (dual + beta * (q + e - x)), tau)
    if update == "residual":
        e = soft(x - q - w * dual, tau)
    dual = dual + beta * (q + e - x)
    return e, dual, dual + beta_next * (q + e - x)


def matrices(count, shape, dtype, device):
    return [numbers(*shape, dtype=dtype, device=device, seed=k).requires_grad_() for k in range(count)]


def parameters(count, columns, dtype, device):
    rows = [numbers(columns, dtype=dtype, device=device, seed=10 + k).abs().add(0.1) for k in range(count)]
    return [r.requires_grad_() for r in rows]


UNUSED = {"general": (), "residual": (2,), "given": (5, 6)}  # positions of arguments that an update does not read


def problem(shape, dtype, device, update="general"):
    found = *matrices(4, shape, dtype, device), *parameters(4, shape[1], dtype, device)
    return tuple(t.detach() if k in UNUSED[update] else t for k, t in enumerate(found))


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("update", UPDATES)
def test_as_accurate_as_eager(update, shape, dtype, device, backend):
    compare(ladmm_step, eager, *problem(shape, dtype, device, update), update)


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shrink_as_accurate_as_eager(shape, dtype, device, backend):
    z, p = matrices(2, shape, dtype, device)
    compare(ladmm_shrink, eager_shrink, z, p, *parameters(1, shape[1], dtype, device))


@interpreted
@pytest.mark.parametrize("shape", SHAPES[1:4], ids=str)
@pytest.mark.parametrize("update", UPDATES)
def test_triton_kernel(update, shape, device, backend):
    compare(ladmm_step, eager, *problem(shape, torch.float32, device, update), update)
    z, p = matrices(2, shape, torch.float32, device)
    compare(ladmm_shrink, eager_shrink, z, p, *parameters(1, shape[1], torch.float32, device))


@pytest.mark.parametrize("update", UPDATES)
def test_gradients(update, device, backend):
    inputs = problem((4, 5), torch.float64, device, update)
    assert torch.autograd.gradcheck(lambda *t: ladmm_step(*t, update), inputs)
    z, p = matrices(2, (4, 5), torch.float64, device)
    assert torch.autograd.gradcheck(ladmm_shrink, (z, p, *parameters(1, 5, torch.float64, device)))


def test_parameters_may_be_numbers_or_scalars(device, backend):
    q, x, e, dual = matrices(4, (4, 5), torch.float64, device)
    scalars = [torch.tensor(t, dtype=torch.float64, device=device, requires_grad=True) for t in (0.7, 0.5, 0.3, 0.9)]
    rows = [s.detach().expand(5).clone().requires_grad_() for s in scalars]
    one, each = (outputs_and_grads(ladmm_step, q, x, e, dual, *p, "general") for p in (scalars, rows))
    for k, (a, b) in enumerate(zip(one, each, strict=True)):
        torch.testing.assert_close(a, b if k < 7 else b.sum())
    for a, b in zip(ladmm_step(q, x, e, dual, 0.7, 0.5, 0.3, 0.9), each, strict=False):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_second_derivative_is_refused(device):
    z, p = matrices(2, (3, 4), torch.float64, device)
    (d_z,) = torch.autograd.grad(ladmm_shrink(z, p, 0.3).square().sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d_z.sum().backward()


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("update", UPDATES)
def test_in_place_has_the_same_bits(update, dtype, device, backend):
    q, x, e, dual, *rest = (t.detach() for t in problem((37, 65), dtype, device))
    expected = [t.clone() for t in ladmm_step(q, x, e, dual, *rest, update)]
    own = e.clone(), dual.clone(), torch.full_like(q, torch.nan)
    found = ladmm_step(q, x, own[0], own[1], *rest, update, arg=own[2])
    for t, mine, target in zip(expected, found, own, strict=True):
        assert mine is target
        assert torch.equal(mine, t)
    z = ladmm_shrink(q, x, rest[2])
    again = q.clone()
    assert ladmm_shrink(again, x, rest[2], inplace=True) is again
    assert torch.equal(again, z)


def test_shrink_is_soft_thresholding(device, backend):
    z, p = (t.detach() for t in matrices(2, (9, 40), torch.float32, device))
    tau = parameters(1, 40, torch.float32, device)[0].detach()
    torch.testing.assert_close(ladmm_shrink(z, p, tau), soft_threshold(z - p, tau), rtol=0, atol=0)


def test_updates_of_e_agree_where_the_step_is_exact(device, backend):
    """With w = 1 / beta the linearised step minimises the augmented Lagrangian in e."""
    q, x, e, dual = (t.detach() for t in matrices(4, (8, 12), torch.float64, device))
    beta = parameters(1, 12, torch.float64, device)[0].detach()
    found = [ladmm_step(q, x, e, dual, beta, 1 / beta, 1 / beta, beta, update) for update in ("general", "residual")]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
    after = found[0][0]
    slope = dual + beta * (q + after - x)  # of the smooth part: minus a subgradient of |e| there
    assert (slope[after == 0].abs() <= 1 + 1e-12).all()
    torch.testing.assert_close(slope[after != 0], -after[after != 0].sign())


def test_any_memory_layout(device, backend):
    q, x, e, dual, *rest = (t.detach() for t in problem((5, 9), torch.float32, device))
    expected = ladmm_step(q, x, e, dual, *rest)
    for position, t in enumerate((q, x, e, dual, *rest)):
        for name, view in awkward_views(t).items():
            inputs = [q, x, e, dual, *rest]
            inputs[position] = view
            for a, b in zip(ladmm_step(*inputs), expected, strict=True):
                assert torch.equal(a, b), (position, name)
    strided = awkward_views(e)["strided"]
    ladmm_step(q, x, strided, dual.clone(), *rest, arg=torch.empty_like(q))
    torch.testing.assert_close(strided, expected[0])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)], ids=str)
def test_empty(shape, device, backend):
    found = outputs_and_grads(ladmm_step, *problem(shape, torch.float32, device), "general")
    assert [t.shape for t in found] == [torch.Size(shape)] * 7 + [torch.Size(shape[1:])] * 4
    assert all(t.eq(0).all() for t in found)


def test_special_values(device, backend):
    nan, inf = float("nan"), float("inf")
    z = torch.tensor([[0.0, nan, inf, -inf, 2.0**-149, -3.0]], device=device)
    found = ladmm_shrink(z, torch.zeros_like(z), torch.tensor([0.0, 1, 1, 1, 0, inf], device=device))
    expected = torch.tensor([[0.0, nan, inf, -inf, 2.0**-149, 0.0]], device=device)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_a_sample_has_the_same_bits_in_any_batch(device, backend):
    q, x, e, dual, *rest = problem((70, 211), torch.float32, device)
    together = ladmm_step(q, x, e, dual, *rest)
    grads = torch.autograd.grad(sum(t.square().sum() for t in together), (q, x, e, dual))
    for i in (0, 33, 69):
        alone = ladmm_step(*(t[i : i + 1] for t in (q, x, e, dual)), *rest)
        own = torch.autograd.grad(sum(t.square().sum() for t in alone), (q, x, e, dual))
        assert all(torch.equal(a[0], b[i]) for a, b in zip(alone, together, strict=True))
        assert all(torch.equal(a[i], b[i]) for a, b in zip(own, grads, strict=True))


def test_arrays_in_arrays_out():
    q, x, e, dual = (np.random.default_rng(k).standard_normal((3, 4)) for k in range(4))
    found = ladmm_step(q, x, e, dual, 1.0, 1.0, 0.5, 1.0, "residual")
    assert all(isinstance(t, np.ndarray) for t in found)
    np.testing.assert_allclose(found[0], np.sign(x - q - dual) * np.maximum(np.abs(x - q - dual) - 0.5, 0))


def test_half_precision_goes_to_the_definition(device):
    z = torch.tensor([[2.0, -0.25]], dtype=torch.float16, device=device)
    assert torch.equal(ladmm_shrink(z, 0 * z, 0.5), torch.tensor([[1.5, 0.0]], dtype=torch.float16, device=device))


def matrix(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((matrix(3), matrix(3), matrix(3), matrix(3), 1.0), r"q: expected a real matrix \[N, M\], got \(3,\)"),
        ((matrix(2, 3), matrix(3, 2), matrix(2, 3), matrix(2, 3), 1.0), r"x: expected \(2, 3\) .*, got \(3, 2\)"),
        ((matrix(2, 3), *[matrix(2, 3)] * 2, matrix(2, 3, dtype=torch.float64), 1.0), "dual: .* got .*float64"),
        ((*[matrix(2, 3)] * 4, torch.ones(2)), r"beta: expected a number or shape \(3,\), got \(2,\)"),
        ((*[matrix(2, 3)] * 4, torch.ones(3).double()), "beta: expected float32 on cpu, got .*float64"),
    ],
)
def test_says_what_is_wrong(inputs, message):
    with pytest.raises(ValueError, match=f"ladmm_step: {message}"):
        ladmm_step(*inputs, 1.0, 1.0, 1.0)


def test_unknown_update_is_named():
    with pytest.raises(ValueError, match="update: expected one of general, residual, given, got 'exact'"):
        ladmm_step(*[matrix(2, 3)] * 4, 1.0, 1.0, 1.0, 1.0, "exact")


@compiles
def test_registration_and_compilation(device):
    q, x, e, dual, *rest = (t.detach() for t in problem((4, 5), torch.float64, device))
    opcheck(torch.ops.fastrecon.ladmm_shrink_fwd, (q, x, rest[0]))
    opcheck(torch.ops.fastrecon.ladmm_shrink_bwd, (q, x))
    opcheck(torch.ops.fastrecon.ladmm_shrink_, (q.clone(), x, rest[0]))
    for code, update in enumerate(UPDATES):
        opcheck(torch.ops.fastrecon.ladmm_step_fwd, (q, x, e, dual, *rest, code))
        opcheck(torch.ops.fastrecon.ladmm_step_bwd, (e, dual, q, q, x, e, dual, x, rest[0], rest[1], rest[3], code))
        opcheck(torch.ops.fastrecon.ladmm_step_, (q, x, e.clone(), dual.clone(), q.clone(), *rest, code))
        assert_compiles(lambda *t, u=update: ladmm_step(*t, u), *problem((4, 5), torch.float32, device, update))
