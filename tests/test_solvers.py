"""What all solvers stand on: states, the loop, the safeguard; and every first-order solver on every kind of problem."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from zoo import METHODS, kkt, scene

from fastrecon import masks
from fastrecon.operators import Blur, Fourier, Inpainting, Radon, Wavelet, gaussian_kernel
from fastrecon.solvers import FISTA, LDA, AGDNet, GDNet
from fastrecon.solvers.base import iterate, put, take, where, with_parts
from fastrecon.solvers.safeguard import choose


@dataclass(frozen=True)
class Part:
    value: Tensor
    unknown: Tensor | None = None


@dataclass(frozen=True)
class State:
    x: Tensor
    part: Part


def state(*x: float) -> State:
    values = torch.tensor(x)
    return State(values[:, None].expand(-1, 2).clone(), Part(values.clone()))


def same(s: State, *x: float) -> bool:
    expected = state(*x)
    return torch.equal(s.x, expected.x) and torch.equal(s.part.value, expected.part.value) and s.part.unknown is None


def test_parts_of_states():
    s = state(1, 2, 3)
    assert same(take(s, torch.tensor([2, 0])), 3, 1)
    assert same(put(s, torch.tensor([2, 0]), state(30, 10)), 10, 2, 30)
    assert same(where(torch.tensor([True, False, True]), s, state(4, 5, 6)), 1, 5, 3)
    assert same(s, 1, 2, 3)


def halved(s: State, k: int) -> State:
    return State(s.x / 2, Part(s.part.value / 2))


def small(s: State) -> Tensor:
    return s.part.value < 1


def test_images_that_are_done_leave():
    sizes, seen = [], []

    def step(s: State, k: int) -> State:
        sizes.append(len(s.x))
        return halved(s, k)

    found = iterate(
        step, state(8, 0.5, 3, 100), 5, done=small, row=lambda s: {"v": s.part.value},
        callback=lambda k, s: seen.append((k, s.part.value.tolist())),
    )  # fmt: skip
    assert same(found.state, 0.5, 0.5, 0.75, 3.125)
    assert found.count.tolist() == [4, 0, 2, 5]
    assert found.done.tolist() == [True, True, True, False]
    assert sizes == [3, 3, 2, 2, 1]
    assert found.history is not None
    assert found.history["v"].tolist() == [[8, 0.5, 3, 100], *(v for _, v in seen)]
    assert [k for k, _ in seen] == [1, 2, 3, 4, 5]
    assert seen[3][1] == [0.5, 0.5, 0.75, 6.25]


def test_what_belongs_to_an_image_follows_it():
    factors = torch.tensor([2.0, 4.0, 10.0])

    def step_of(own: Tensor):
        return lambda s, k: State(s.x / own[:, None], Part(s.part.value / own))

    found = iterate(step_of(factors), state(8, 8, 8), 9, done=small, narrow=lambda which: step_of(factors[which]))
    assert found.count.tolist() == [4, 2, 1]
    torch.testing.assert_close(found.state.part.value, torch.tensor([0.5, 0.5, 0.8]))


@pytest.mark.parametrize(("check_every", "counts"), [(1, [4, 2]), (3, [6, 3]), (5, [5, 5]), (100, [8, 8])])
def test_looks_are_as_rare_as_wanted(check_every, counts):
    assert iterate(halved, state(8, 3), 8, done=small, check_every=check_every).count.tolist() == counts


def test_steps_of_many_iterations_end_at_the_limit():
    made = []
    found = iterate(lambda s, k: made.append(k) or s, state(8), 25, done=small, check_every=10, stride=10)
    assert made == [0, 10, 20]
    assert found.count.tolist() == [25]


def test_an_empty_batch_ends_at_once():
    assert iterate(halved, state(), 5, done=small).count.shape == (0,)


def test_parts_of_a_module_are_exchanged_in_a_copy():
    a = Inpainting(torch.ones(4, 4))
    solver = FISTA(a, torch.full((4, 4), 0.1))
    other = with_parts(solver, operator=Inpainting(torch.zeros(4, 4)), lam=torch.tensor(0.2))
    assert solver.operator is a
    assert torch.equal(solver.lam, torch.full((4, 4), 0.1))
    assert torch.equal(other.lam, torch.tensor(0.2))


def test_a_fallback_is_computed_where_it_is_needed():
    asked = []
    fallback = lambda: asked.append(1) or torch.zeros(2)  # noqa: E731
    candidate = torch.ones(2)
    assert choose(torch.tensor([True, True]), candidate, fallback) is candidate
    assert not asked
    assert choose(torch.tensor([True, False]), candidate, fallback).tolist() == [1, 0]
    assert choose(torch.tensor([float("nan"), 0.0]) <= 1, candidate, fallback).tolist() == [0, 1]


def own_masks(side: int) -> Tensor:
    return torch.stack([masks.uniform((side, side), rate, s) for s, rate in enumerate((0.9, 0.4, 0.6))])[:, None]


OPERATORS = {
    "inpainting": lambda: Inpainting(own_masks(16)),
    "fourier": lambda: Fourier(own_masks(16)),
    "blur": lambda: Blur(torch.stack([gaussian_kernel(w, 5, torch.float64) for w in (0.4, 0.6, 0.5)])[:, None]),
    "radon": lambda: Radon((16, 16), 12).double(),
}


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("method", METHODS)
def test_every_solver_reaches_the_minimiser_of_every_problem(method, kind):
    a, x = OPERATORS[kind](), scene(16, 3)
    y = a(x.to(torch.complex128) if kind == "fourier" else x)
    scale = float(a.norm((1, 1, 16, 16))) ** 2
    lam = torch.tensor([0.1, 0.3, 0.2], dtype=torch.float64) * scale
    a = a @ Wavelet("haar", 2).T
    found, report = METHODS[method](a, lam)(y, iterations=20_000, tol=1e-7, check_every=5)
    assert report.converged.all()
    for i in (0, 2):
        one = METHODS[method](a.take(torch.tensor([i])), lam[i].item())
        assert kkt(found[i : i + 1], one.operator, y[i : i + 1], lam[i].item()) < 1e-3
        alone, its = one(y[i : i + 1], iterations=20_000, tol=1e-7, check_every=5)
        torch.testing.assert_close(alone, found[i : i + 1], rtol=0, atol=1e-9)
        assert its.iterations[0] == report.iterations[i]


@pytest.mark.parametrize("kind", ["inpainting", "blur"])
def test_descent_to_the_end_with_operators_of_each_image(kind):
    a, x = OPERATORS[kind](), scene(16, 3)
    torch.manual_seed(0)
    net = LDA(a, phases=2, channels=3, layers=2, eps0=0.1, sigma=10.0).double()
    y = a(x)
    found, report = net.solve(y, x.flip(0), tol=0.3, iterations=500, callback=lambda k, s: None)
    assert report.converged.all()
    assert len(set(report.iterations.tolist())) > 1
    for i in range(3):
        alone, its = net.take(torch.tensor([i])).solve(y[i : i + 1], x.flip(0)[i : i + 1], tol=0.3, iterations=500)
        torch.testing.assert_close(alone, found[i : i + 1], rtol=0, atol=1e-9)
        assert its.iterations[0] == report.iterations[i]


@pytest.mark.parametrize("steps", ["barzilai-borwein", "grow"])
@pytest.mark.parametrize("kind", [LDA, GDNet, AGDNet])
def test_descent_converges_with_any_weights(kind, steps):
    """Complex images: real and imaginary part are channels of the regulariser, m counts pixels."""
    torch.manual_seed(2)
    net = kind(Fourier(own_masks(8)), phases=3, channels=3, layers=2, in_channels=2, eps0=0.05, sigma=20.0).double()
    with torch.no_grad():
        for name, p in net.named_parameters():  # steps and momenta that nobody would learn
            p.mul_(0.3) if "weights" in name else p.add_(torch.randn_like(p))
    x = torch.complex(scene(8, 3), scene(8, 3).flip(0))
    y = net.fidelity.operator(x)
    found, report = net.solve(y, net.fidelity.operator.adjoint(y), iterations=1000, tol=0.05, steps=steps)
    assert found.is_complex()
    assert report.converged.all()
    assert ((20 * report.eps < 0.05) & (report.grad_norm < 0.9 * 20 * report.eps)).all()
    assert (report.history["merit"][net.phases :].diff(dim=0) <= 0).all()
    value = net.fidelity.value(found, y) + net.regulariser.value(found, report.eps)
    torch.testing.assert_close(report.phi_eps, value, rtol=1e-12, atol=0)
    torch.testing.assert_close(report.merit, value + 8 * 8 * report.eps / 2, rtol=1e-12, atol=0)
    assert (report.took_u > 0).any() == (kind is not GDNet)
