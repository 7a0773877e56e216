"""Every op under all of PyTorch's transforms: tangents, torch.func, one graph for any size of the batch."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from utils import compiles, numbers

from fastrecon import ops

C = torch.complex128
RAYS = ops.parallel_rays((6, 5), torch.linspace(0, 3, 4), 7, 1.0)
MASK = numbers(4, 5)
GRADS = numbers(2, 6), numbers(2, 6, seed=1)


class Case(NamedTuple):
    """`function` of the tensors `make(B)`, of which the first `batched` have B rows."""

    function: Callable
    make: Callable[[int], tuple[Tensor, ...]]
    batched: int = 1


def positive(*shape: int, seed: int = 0) -> Tensor:
    return numbers(*shape, seed=seed).abs() / 3 + 0.05


def kernels(layers: int) -> list[Tensor]:
    return [numbers(4, 4 if k else 1, 3, 3, seed=k + 3) / 3 for k in range(layers)]


def shrunk(x: Tensor, grad: Tensor, eps: Tensor) -> Tensor:
    return ops.shrink_eps(x, grad, eps, 2.0, 0.9)[2]


def features(x: Tensor, eps: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    return ops.feature_gradient(x, weights, eps, 0.1)


def step(update: str) -> Case:
    def make(b: int) -> tuple[Tensor, ...]:
        samples = numbers(b, 5), *(numbers(b, 3, seed=k) for k in (2, 3, 4))
        return *samples, numbers(3, 5, seed=1), *(positive(3, seed=k) for k in range(5, 9))

    return Case(lambda z, x, e, dual, a, *p: ops.ladmm_step(z, a, x, e, dual, *p, update), make, 4)


CASES = {
    "soft_threshold": Case(ops.soft_threshold, lambda b: (numbers(b, 4), positive(4))),
    "soft_threshold complex": Case(ops.soft_threshold, lambda b: (numbers(b, 4, dtype=C), positive(b, 1)), 2),
    "group_soft_threshold": Case(ops.group_soft_threshold, lambda b: (numbers(b, 3, 4), positive(b)), 2),
    "group_soft_threshold complex": Case(
        ops.group_soft_threshold, lambda b: (numbers(b, 3, 4, dtype=C), positive(b)), 2
    ),
    "prox_lp": Case(lambda x, lam: ops.prox_lp(x, lam, 0.5), lambda b: (numbers(b, 4), positive(4))),
    "prox_lp complex": Case(lambda x, lam: ops.prox_lp(x, lam, 0.5), lambda b: (numbers(b, 4, dtype=C), positive(4))),
    "smoothed_l21": Case(ops.smoothed_l21, lambda b: (numbers(b, 3, 4), 4 * positive(b)), 2),
    "block_product": Case(ops.block_product, lambda b: (numbers(b, 3, 4), numbers(4, 5))),
    "dwt2": Case(lambda x: ops.dwt2(x, level=2), lambda b: (numbers(b, 1, 8, 4),)),
    "idwt2": Case(lambda x: ops.idwt2(x, level=2), lambda b: (numbers(b, 1, 8, 4, dtype=C),)),
    "radon": Case(lambda x: ops.radon(x, RAYS), lambda b: (numbers(b, 1, 6, 5),)),
    "radon_adjoint": Case(lambda y: ops.radon_adjoint(y, RAYS), lambda b: (numbers(b, 1, 4, 7),)),
    "fourier_consistency": Case(
        lambda k, y: ops.fourier_consistency(k, MASK, y),
        lambda b: (numbers(b, 1, 4, 5, dtype=C), numbers(b, 1, 4, 5, dtype=C, seed=1)),
        2,
    ),
    "prox_gradient_step": Case(
        lambda x, grad, step, lam: ops.prox_gradient_step(x, grad, step, lam)[0],
        lambda b: (numbers(b, 6), numbers(b, 6, seed=1), positive(b), positive(1, 6)),
        3,
    ),
    "rbf_unit": Case(
        lambda v, k, w: ops.rbf_unit(v, k, w, spacing=0.5, sigma=0.5),
        lambda b: (numbers(b, 1, 5, 4), numbers(2, 1, 3, 3, seed=1) / 3, numbers(2, 5, seed=2)),
    ),
    "select_descent": Case(
        lambda u, v, p, q: ops.select_descent(u, v, p.detach(), q.detach())[0],
        lambda b: (numbers(b, 6), numbers(b, 6, seed=1), numbers(b, seed=2), numbers(b, seed=3)),
        4,
    ),
    "shrink_eps": Case(
        lambda f, r, eps: ops.shrink_eps(f.detach(), r.detach(), eps, 2.0, 0.9)[2],
        lambda b: (numbers(b, 6), numbers(b, 6, seed=1), 9 * positive(b)),
        3,
    ),
    "ladmm_shrink": Case(
        ops.ladmm_shrink, lambda b: (numbers(b, 5), numbers(b, 3, seed=1), numbers(3, 5, seed=2), positive(5)), 2
    ),
    **{f"ladmm_step {update}": step(update) for update in ("general", "residual", "given")},
    **{
        f"feature_gradient {layers}": Case(
            features, lambda b, layers=layers: (numbers(b, 1, 5, 4), positive(b), *kernels(layers)), 2
        )
        for layers in (1, 2, 3)
    },
    "feature_value": Case(
        lambda x, eps, *w: ops.feature_value(x, w, eps, 0.1),
        lambda b: (numbers(b, 1, 5, 4), positive(b), *kernels(2)),
        2,
    ),
}
DECISIONS = {  # without derivatives
    "armijo": Case(
        lambda x, z, grad, curvature: ops.armijo(x, z, grad, 0.1, curvature),
        lambda b: (numbers(b, 6), *(numbers(b, 6, seed=k) for k in (1, 2)), positive(b)),
        4,
    ),
    "prox_tv": Case(lambda y, lam: ops.prox_tv(y, lam, iterations=12), lambda b: (numbers(b, 1, 4, 5), positive(b)), 2),
    "squares": Case(ops.squares, lambda b: (numbers(b, 6), numbers(b, 6, seed=1)), 2),
}
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def outputs(y: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (y,) if isinstance(y, Tensor) else tuple(y)


def inner(a: tuple[Tensor, ...], b: tuple[Tensor | None, ...]) -> Tensor:
    return sum(
        (torch.vdot(p.flatten(), q.flatten()).real for p, q in zip(a, b, strict=True) if q is not None),
        MASK.new_zeros(()),
    )


def directions(x: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
    return tuple(numbers(*t.shape, dtype=t.dtype, seed=seed + k) for k, t in enumerate(x))


def test_no_op_is_missing():
    made = {"Rays", "fan_rays", "parallel_rays"}  # of numbers, before anything is computed
    assert {name.partition(" ")[0] for name in CASES | DECISIONS} == set(ops.__all__) - made


@compiles
@every
def test_tangents_are_the_transpose_of_the_gradients(case):
    """<v, J u> = <J^T v, u>, J^T by the kernels; and J u by finite differences."""

    def function(*x: Tensor) -> tuple[Tensor, ...]:
        return outputs(case.function(*x))

    x = case.make(2)
    u = directions(x, 50)
    y, tangents = torch.func.jvp(function, x, u)[:2]
    assert all(t.abs().max() > 0 for t in tangents)
    leaves = [t.clone().requires_grad_() for t in x]
    reverse = function(*leaves)
    for mine, kernel in zip(y, reverse, strict=True):
        torch.testing.assert_close(mine, kernel.detach())
    v = directions(y, 90)
    gradients = torch.autograd.grad(reverse, leaves, v, allow_unused=True)
    torch.testing.assert_close(inner(v, tangents), inner(u, gradients))
    h = 1e-6
    ahead, behind = (function(*(t + s * d for t, d in zip(x, u, strict=True))) for s in (h, -h))
    for t, a, b in zip(tangents, ahead, behind, strict=True):
        torch.testing.assert_close(t, (a - b) / (2 * h), rtol=1e-6, atol=1e-6)
    with forward_ad.dual_level():
        dual = function(*(forward_ad.make_dual(t, d) for t, d in zip(x, u, strict=True)))
        for t, found in zip(tangents, dual, strict=True):
            torch.testing.assert_close(forward_ad.unpack_dual(found).tangent, t)


@compiles
@every
def test_transforms_of_torch_func(case):
    def loss(*x: Tensor) -> Tensor:
        return sum((t.abs().square().sum() for t in outputs(case.function(*x))), MASK.new_zeros(()))

    x = case.make(2)
    leaves = [t.clone().requires_grad_() for t in x]
    expected = torch.autograd.grad(loss(*leaves), leaves, allow_unused=True)
    found = torch.func.grad(loss, tuple(range(len(x))))(*x)
    for mine, gradient in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if gradient is None else gradient)
    several = tuple(torch.stack((t, 1.5 * t)) for t in x)
    stacked = outputs(torch.func.vmap(case.function)(*several))
    for k in range(2):
        for mine, one in zip(stacked, outputs(case.function(*(t[k] for t in several))), strict=True):
            torch.testing.assert_close(mine[k], one)
    if not any(t.is_complex() for t in x):
        forth, back = (outputs(jacobian(case.function)(*x)) for jacobian in (torch.func.jacfwd, torch.func.jacrev))
        for a, b in zip(forth, back, strict=True):
            torch.testing.assert_close(a, b)


@compiles
def test_second_derivatives_of_torch_func():
    x, w = numbers(1, 1, 4, 3), kernels(2)

    def value(x: Tensor) -> Tensor:
        return ops.feature_value(x, w, 0.3, 0.1).sum()

    hessian = torch.func.hessian(value)(x).view(12, 12)
    jacobian = torch.func.jacfwd(lambda x: ops.feature_gradient(x, w, 0.3, 0.1)[1])(x).view(12, 12)
    torch.testing.assert_close(hessian, jacobian)
    torch.testing.assert_close(jacobian, jacobian.T)


@compiles
def test_tangents_at_kinks_are_those_of_the_gradients():
    x = torch.tensor([1.0, -2.0, 0.05, 0.1, 0.0])
    assert torch.equal(torch.func.jacfwd(lambda x: ops.soft_threshold(x, 0.1))(x), torch.diag((x.abs() > 0.1).float()))
    zero, one = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    for function in (
        lambda g: ops.group_soft_threshold(g, 0.0),
        lambda g: ops.prox_lp(g, 0.1, 0.5),
        lambda g: ops.soft_threshold(g.to(torch.complex64), 0.0).real,
    ):
        assert torch.equal(torch.func.jvp(function, (zero,), (one,))[1], zero)
        assert torch.equal(torch.func.grad(lambda g, f=function: f(g).sum())(zero), zero)
    value, dual = torch.func.jvp(lambda g: ops.smoothed_l21(g, 0.5), (zero,), (one,))[1]
    assert torch.equal(value, torch.zeros(2))
    assert torch.equal(dual, 2 * one)


@compiles
def test_tangents_under_compile():
    x, u = numbers(3, 4), numbers(3, 4, seed=1)

    def tangent(x: Tensor, u: Tensor) -> Tensor:
        return torch.func.jvp(lambda x: ops.soft_threshold(x, 0.1), (x,), (u,))[1]

    compiled = torch.compile(tangent, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, u), tangent(x, u))


@compiles
@pytest.mark.parametrize("name", DECISIONS)
def test_decisions_refuse_tangents(name):
    function, make, _ = DECISIONS[name]
    x = make(2)
    with pytest.raises(ValueError, match=f"{name}: .*expected no gradients.*got requires_grad or tangents"):
        torch.func.jvp(lambda x0: function(x0, *x[1:]), x[:1], x[:1])
    with torch.no_grad(), pytest.raises(ValueError, match=f"{name}: .*expected no gradients"):
        torch.func.jvp(lambda x1: function(x[0], x1, *x[2:]), x[1:2], x[1:2])
    stacked = torch.func.vmap(function)(*(torch.stack((t, 2 * t)) for t in x))
    for mine, one in zip(outputs(stacked), outputs(function(*(2 * t for t in x))), strict=True):
        torch.testing.assert_close(mine[1], one)


@compiles
def test_masks_refuse_tangents():
    k = numbers(1, 1, 4, 5, dtype=C)
    with pytest.raises(ValueError, match=r"fourier_consistency: mask: expected .*got requires_grad or a tangent"):
        torch.func.jvp(lambda mask: ops.fourier_consistency(k, mask, k), (MASK,), (MASK,))


class Module(nn.Module):
    def __init__(self, function: Callable):
        super().__init__()
        self.function = function

    def forward(self, *x: Tensor) -> tuple[Tensor, ...]:
        return outputs(self.function(*x))


@compiles
@pytest.mark.parametrize("case", (CASES | DECISIONS).values(), ids=CASES | DECISIONS)
def test_exports_with_any_batch(case):
    batch = torch.export.Dim("B")
    x, other = case.make(3), case.make(5)
    shapes = tuple({0: batch} if k < case.batched else None for k in range(len(x)))
    exported = torch.export.export(Module(case.function), x, dynamic_shapes={"x": shapes}).module()
    for t in (x, other):
        for mine, expected in zip(exported(*t), outputs(case.function(*t)), strict=True):
            assert torch.equal(mine, expected)


SIZES = {  # a shape, and another that differs in the last two dimensions
    "soft_threshold": (lambda x: ops.soft_threshold(x, 0.1), (2, 3, 4), (2, 5, 7)),
    "group_soft_threshold": (lambda x: ops.group_soft_threshold(x, 0.1), (2, 3, 4, 5), (2, 3, 5, 7)),
    "prox_lp": (lambda x: ops.prox_lp(x, 0.1, 0.5), (2, 3, 4), (2, 5, 7)),
    "smoothed_l21": (lambda x: ops.smoothed_l21(x, 0.1), (2, 3, 4, 5), (2, 3, 5, 7)),
    "feature_gradient": (lambda x: ops.feature_gradient(x, kernels(2), 0.1, 0.1), (2, 1, 4, 5), (2, 1, 5, 7)),
    "feature_value": (lambda x: ops.feature_value(x, kernels(2), 0.1, 0.1), (2, 1, 4, 5), (2, 1, 5, 7)),
    "prox_gradient_step": (lambda x: ops.prox_gradient_step(x, x, 0.5, 0.1), (2, 1, 4, 5), (2, 1, 5, 7)),
    "squares": (ops.squares, (2, 1, 4, 5), (2, 1, 5, 7)),
}


@compiles
@pytest.mark.parametrize("name", SIZES)
def test_exports_with_any_size(name):
    function, shape, another = SIZES[name]
    height, width = torch.export.Dim("H"), torch.export.Dim("W")
    spec = {"x": ({len(shape) - 2: height, len(shape) - 1: width},)}
    exported = torch.export.export(Module(function), (numbers(*shape),), dynamic_shapes=spec).module()
    x = numbers(*another)
    for mine, expected in zip(exported(x), outputs(function(x)), strict=True):
        assert torch.equal(mine, expected)


@compiles
@every
def test_compiles_with_any_batch(case):
    """One graph of function and derivative, whatever the batch."""

    def run(function: Callable, x: tuple[Tensor, ...]) -> list[Tensor]:
        leaves = [t.requires_grad_() for t in x]
        y = outputs(function(*leaves))
        loss = sum((t.abs().square().sum() for t in y), MASK.new_zeros(()))
        return [*y, *(g for g in torch.autograd.grad(loss, leaves, allow_unused=True) if g is not None)]

    torch._dynamo.reset()
    compiled = torch.compile(case.function, fullgraph=True, dynamic=True, backend="aot_eager")
    for b in (3, 5):
        for mine, expected in zip(run(compiled, case.make(b)), run(case.function, case.make(b)), strict=True):
            assert torch.equal(mine, expected)
