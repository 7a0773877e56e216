"""Error-controlled iterations for photographs: any module, and F by hand."""

import pytest
import torch

from fastrecon.models.error_controlled_photographs import BETA, LAM, SPARSE, formulated
from fastrecon.networks import SquaresCNN
from fastrecon.operators import Gradient, Wavelet
from fastrecon.operators.colour_slopes import ColourSlopes
from fastrecon.operators.layers import Layers
from fastrecon.solvers.error_controlled import ErrorControlled
from fastrecon.solvers.methods import METHODS, Inverse
from fastrecon.terms import L1, GroupL0
from fastrecon.terms.parts import Parts

PROBLEMS = tuple(LAM)


def pictures(problem, count=2, h=24, w=32):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, 1 if problem == "low-light" else 3, h // 8, w // 8, generator=generator)
    x = x.repeat_interleave(8, 2).repeat_interleave(8, 3)
    return (x + 0.03 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def by_hand(problem, x, y, lam):
    """F [B] of the unknowns, in float64, by other code."""
    x, y = x.double(), y.double()
    if problem == "derain":
        b, r = x[:, :3], x[:, 3:]
        wavelet = Wavelet("sym4", 3)(b).abs().pow(0.8).flatten(1).sum(1)
        return (b + r - y).square().flatten(1).sum(1) / 2 + lam * wavelet + SPARSE * lam * r.abs().flatten(1).sum(1)
    residual = (ColourSlopes(BETA[problem]).double()(x) - y).square().flatten(1).sum(1) / 2
    if problem == "smooth":
        return residual + lam * (x.abs().amax(1) > 0).double().flatten(1).sum(1)
    return residual + lam * x.abs().pow(0.8).flatten(1).sum(1)


class Raises:
    def __call__(self, x):
        raise RuntimeError("broken")


ADVERSARIAL = {
    "random": lambda x: torch.rand(x.shape, generator=torch.Generator().manual_seed(1)),
    "huge": lambda x: 1e20 * x,
    "nan": lambda x: x * float("nan"),
    "flipped": lambda x: -x,
    "shape": lambda x: x[..., :-1],
    "raises": Raises(),
}


def left(problem, x, y, lam):
    """The length [B] of the smallest subgradient of F, in float64, by other code: 0 where x is stationary."""
    x, y = x.double(), y.double()
    if problem == "derain":
        c, r = Wavelet("sym4", 3)(x[:, :3]).requires_grad_(), x[:, 3:].clone().requires_grad_()
        misfit = (Wavelet("sym4", 3).adjoint(c) + r - y).square().sum() / 2
        by_c, by_r = torch.autograd.grad(misfit, (c, r))
        c, r, weight = c.detach(), r.detach(), SPARSE * lam
        # what is 0 is so up to the rounding of the transform, and may have any slope
        of_c = torch.where(c.abs() < 1e-6, 0, by_c + 0.8 * lam * c.abs().clamp_min(1e-6).pow(-0.2) * c.sign())
        of_r = torch.where(r == 0, (by_r.abs() - weight).clamp_min(0), by_r + weight * r.sign())
        return torch.cat((of_c, of_r), 1).flatten(1).norm(dim=1)
    x.requires_grad_()
    (g,) = torch.autograd.grad((ColourSlopes(BETA[problem]).double()(x) - y).square().sum() / 2, x)
    x = x.detach()
    if problem == "low-light":
        g = g + 0.8 * lam * x.abs().clamp_min(1e-12).pow(-0.2) * x.sign()
        return torch.where(x == 0, 0, g).flatten(1).norm(dim=1)
    return torch.where(x.abs().amax(1, keepdim=True) == 0, 0, g).flatten(1).norm(dim=1)


# Weight, and what is left of the first subgradients after 30 iterations. Rain weighs tens of times as much as usual:
# along B + R = y F falls by its weight alone, and with the usual one the way takes thousands of them.
END = {"derain": (0.03, 0.2), "low-light": (LAM["low-light"], 0.1), "smooth": (LAM["smooth"], 0.1)}


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_no_module_raises_the_objective_nor_keeps_it_from_a_stationary_point(problem, name, monkeypatch):
    monkeypatch.setitem(BETA, "smooth", 1.0)  # 100, the usual one, takes hundreds of iterations
    y = pictures(problem, h=16, w=16)
    lam, share = END[problem]
    f = formulated(problem, y, lam)
    seen = [f.start]
    solver = ErrorControlled(f.operator, f.prior, f.lifted(ADVERSARIAL[name]), rule="monotone", mu=1e-3)
    x, report = solver(f.y, f.start, 30, 0.0, callback=lambda k, s: seen.append(s.x))
    values = torch.stack([by_hand(problem, t, f.y, lam) for t in seen])
    assert bool((values[1:] <= values[:-1] * (1 + 1e-5) + 1e-6).all()), values
    torch.testing.assert_close(report.objective, values[-1], rtol=1e-4, atol=1e-6)
    assert bool((report.rejected >= 28).all())
    if name in ("nan", "shape", "raises"):
        assert bool((report.failed == 30).all())
    *first, last = (left(problem, t, f.y, lam) for t in (*seen[:2], x))  # slopes of the picture itself minimise f
    assert bool((last <= share * torch.maximum(*first)).all()), (first, last)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_good_module_is_taken(problem):
    y = pictures(problem, 1)
    runs = {"derain": "two-layer", "smooth": "l0", "low-light": "lp"}
    found = METHODS["error-controlled"].ready(module=runs[problem], iterations=4)(
        Inverse(y, Layers(1), start=y, problem=problem), lambda *_, **__: None
    )
    assert found.x.shape == y.shape
    history = found.report.history["objective"][:, 0]
    assert bool((history[1:] <= history[:-1]).all())
    assert found.report.accepted.item() >= (0 if problem == "derain" else 1)
    if problem != "derain":
        assert found.report.objective.item() < 0.8 * history[0].item()


def test_colour_slopes():
    y = torch.rand(2, 3, 8, 10, dtype=torch.float64)
    a, d = ColourSlopes(4.0).double(), Gradient()
    g = torch.randn(2, 6, 8, 10, dtype=torch.float64)
    x = a.image(g, y)

    def energy(x, g):
        return ((x - y).square().sum() + 4.0 * (d.forward(x) - g).square().sum()) / 2

    for _ in range(3):
        assert energy(x + 1e-3 * torch.randn_like(x), g) > energy(x, g)
    h = torch.randn_like(g)
    differences = [
        (a.forward(t) - a.measured(y)).square().sum() / 2 - energy(a.image(t, y), t) for t in (g, h)
    ]  # a constant
    torch.testing.assert_close(*differences, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close((a.forward(g) * h).sum(), (g * a.apply_adjoint(h)).sum())
    assert a.forward(g).norm() <= a.norm() * g.norm() * (1 + 1e-9)


def test_layers_and_parts():
    a = Layers(2)
    x, y = torch.randn(2, 6, 4, 5), torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(a(x), x[:, :3] + x[:, 3:])
    torch.testing.assert_close((a(x) * y).sum(), (x * a.adjoint(y)).sum(), rtol=1e-4, atol=1e-4)
    assert a.norm() == pytest.approx(2**0.5)
    term = Parts([L1(0.1), GroupL0(0.2)])
    torch.testing.assert_close(term.value(x), L1(0.1).value(x[:, :3]) + GroupL0(0.2).value(x[:, 3:]))
    torch.testing.assert_close(term.prox(x, 2.0)[:, 3:], GroupL0(0.2).prox(x[:, 3:], 2.0))
    with pytest.raises(ValueError, match="Parts: x"):
        term.value(x[:, :5])
    with pytest.raises(ValueError, match="Layers: x"):
        a.forward(x[:, :5])


def test_squares_cnn_folds_and_fits_any_size():
    torch.manual_seed(0)
    net = SquaresCNN(4, 8, 3, (1, 2, 2, 1))
    net(torch.rand(2, 3, 16, 16))
    net.eval()
    v = torch.rand(2, 3, 15, 17)
    g = net(v)
    assert g.shape == v.shape
    torch.testing.assert_close(net.folded()(v), g, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="SquaresCNN: v"):
        net(v[:, :2])


def test_wrong_options():
    with pytest.raises(ValueError, match="rule"):
        METHODS["error-controlled"].ready(rule="no")
    with pytest.raises(ValueError, match="problem"):
        formulated("mri", torch.zeros(1, 1, 8, 8))
