"""The family of PADNet: files, both variants on images and slopes, colour, what does not fit."""

import pytest
import torch
from utils import numbers
from zoo import scene

from fastrecon import load
from fastrecon.certificates import CorrectedReport, MisfitReport
from fastrecon.models.padnet import LOOSE, PADNetModel, Settings
from fastrecon.networks import ResidualCNN
from fastrecon.operators import Blur, BlurredSlopes, Crop, Gradient, Identity, gaussian_kernel
from fastrecon.solvers.base import column
from fastrecon.terms import LeastSquares

KERNEL = gaussian_kernel(1.0, 5, torch.float64)


def model(levels=True, channels=1, rows=1, **settings):
    """Small networks, untrained."""
    torch.manual_seed(0)
    unit = ResidualCNN(3, 4, channels, levels=levels).folded()
    other = ResidualCNN(2, 3, channels, levels=levels).folded()
    settings = {"slopes": True, "iterations": 6, "tol": 0.0} | settings
    found = PADNetModel([[unit, other], [unit]][:rows], "deblur", Settings(**settings), {"name": "small"})
    return found.double().eval()


def problem(count=2, side=16):
    a = Blur(KERNEL)
    return a, a(scene(side, count, torch.float64)) + 0.01 * numbers(count, 1, side, side)


@pytest.mark.parametrize("variant", ["explicit", "implicit"])
def test_a_saved_model_gives_the_same_bits(tmp_path, variant):
    first, path = model(rows=2, variant=variant), tmp_path / "m.safetensors"
    a, y = problem()
    first.save(path)
    again = load(path)
    assert isinstance(again, PADNetModel)
    assert again.settings == first.settings
    assert again.order == [[0, 1], [0]]
    assert torch.equal(again(y, operator=a, noise=0.01).x, first(y, operator=a, noise=0.01).x)


@pytest.mark.parametrize("slopes", [True, False])
def test_explicit_objective_never_rises(slopes):
    a, y = problem()
    x, report = model(slopes=slopes, variant="explicit").compute(y, a, 0.01, start=y)
    assert isinstance(report, CorrectedReport)
    assert x.shape == y.shape
    values = report.history["objective"]
    assert values.shape == (7, 2)
    assert (values.diff(dim=0) <= 1e-12 * values[:-1]).all()


def test_objective_of_slopes_is_that_of_the_image():
    """min over x of |K x - y|^2 / 2 + beta |D x - g|^2 / 2, its minimiser, and its gradient beta (g - D x)."""
    a, y = problem(side=9)
    reduced, g, beta = BlurredSlopes(a, 0.3), numbers(2, 2, 9, 9), 0.3
    x, d = reduced.image(g, y), Gradient()
    f, whole = LeastSquares(reduced, reduced.measured(y)), LeastSquares(a, y)

    def value(x, g):
        return whole.value(x) + beta * (d(x) - g).square().flatten(1).sum(1) / 2

    other = numbers(2, 2, 9, 9, seed=1)
    change = value(reduced.image(other, y), other) - value(x, g)
    torch.testing.assert_close(f.value(other) - f.value(g), change)
    torch.testing.assert_close(f.grad(g), beta * (g - d(x)))
    torch.testing.assert_close(whole.grad(x) + beta * d.apply_adjoint(d(x) - g), torch.zeros_like(x))
    p = f.prox(g, 0.7)
    torch.testing.assert_close(0.7 * f.grad(p) + p, g)


def test_images_that_are_done_leave_the_others_as_they_were():
    a, y = problem(3)
    own = Blur(torch.stack([KERNEL[None], KERNEL.flip(0)[None], KERNEL[None]]))
    y[1] = y[1].mean()  # nothing to do
    for variant in ("explicit", "implicit"):
        m = model(variant=variant, tol=3e-2, iterations=5)
        whole, report = m.compute(y, own, 0.01, start=y)
        for k in range(3):
            alone, one = m.compute(y[k : k + 1], a, 0.01, start=y[k : k + 1])
            torch.testing.assert_close(whole[k : k + 1], alone)
            assert one.converged[0] == report.converged[k]


def test_channels_are_images():
    y = numbers(1, 3, 12, 12)
    found, report = model(variant="implicit").compute(y, Identity(), 0.01)
    assert isinstance(report, MisfitReport)
    for c in range(3):
        alone, _ = model(variant="implicit").compute(y[:, c : c + 1], Identity(), 0.01)
        torch.testing.assert_close(found[:, c : c + 1], alone)


def test_units_without_levels_take_the_settings_of_the_solver():
    a, y = problem()
    m = model(levels=False, variant="implicit", rho=2.0, growth=1.0, mu=1e-9, iterations=1, most=1)
    x, _ = m.compute(y, a, start=y)
    u = LeastSquares(a, y).prox(y, 1 / (2 + 1e-9))
    torch.testing.assert_close(x, u - 2**-0.5 * m.rows[0][0](u))


def test_strengths_fall_to_the_noise():
    """With pull c, alpha G is the residual itself: v+ = u - G(u, level), rho = (c noise / level)^2."""
    a, y = problem()
    m = model(variant="implicit", strengths=(0.2, 2.0), pull=2.0, iterations=1, most=1)
    x, _ = m.compute(y, a, 0.01, start=y)
    u = LeastSquares(a, y).prox(y, 1 / ((0.02 / 0.2) ** 2 + LOOSE))
    torch.testing.assert_close(x, u - m.rows[0][0](u, 0.2), rtol=1e-6, atol=1e-6)


def test_explicit_starts_where_implicit_ends():
    a, y = problem()
    seen, m = [], model(variant="explicit", warm=3, iterations=4)
    first, _ = m.compute(y, a, 0.01, start=y, variant="implicit")
    x, report = m.compute(y, a, 0.01, start=y, callback=lambda k, x: seen.append((k, x())))
    assert [k for k, _ in seen] == list(range(1, 8))
    assert (m.planned(), m.planned(variant="implicit"), m.planned(variant="implicit", iterations=5)) == (7, 3, 5)
    torch.testing.assert_close(seen[2][1], first)
    torch.testing.assert_close(seen[-1][1], x)
    assert (report.iterations == 4).all()
    g, f = Gradient()(first), LeastSquares(BlurredSlopes(a, m.settings.beta))
    value = f.value(g, f.operator.measured(y)) + m.settings.lam * g.abs().pow(m.settings.p).flatten(1).sum(1)
    torch.testing.assert_close(report.history["objective"][0], value, rtol=1e-6, atol=1e-9)


def test_units_in_bfloat16_propose_about_the_same():
    a, y = problem()
    m = model(variant="explicit")
    x = m.compute(y, a, 0.01, start=y)[0]
    m.set_precision("bfloat16")
    torch.testing.assert_close(m.compute(y, a, 0.01, start=y)[0], x, rtol=0, atol=0.01)
    with pytest.raises(ValueError, match="padnet: precision: expected float32 or bfloat16, got 'half'"):
        m.set_precision("half")


def test_clip_bounds_what_a_unit_moves():
    a, y = problem()
    settings = {"variant": "implicit", "iterations": 1, "most": 1}
    (x, _), (z, _) = (model(clip=clip, **settings).compute(y, a, 0.01, start=y) for clip in (None, 1e-5))
    rho = (0.02 / 0.2) ** 2
    size = (z - LeastSquares(a, y).prox(y, 1 / (rho + LOOSE))).square().mean((1, 2, 3)).sqrt()
    assert (size <= rho**-0.5 * 1e-5 * (1 + 1e-6)).all()
    assert not torch.equal(x, z)


def test_a_free_boundary_is_one_of_known_surroundings():
    """What stands beyond the window comes from an estimate; within it the photograph is as it was."""
    whole = scene(24, 1, torch.float64)
    a = Crop((24, 24), 4, 4, (16, 16)) @ Blur(KERNEL)
    y = a(whole)
    for variant in ("explicit", "implicit"):
        x, _ = model(variant=variant).compute(y, a, 0.01)
        assert x.shape == whole.shape
        assert torch.isfinite(x).all()
    m = model(variant="implicit")
    assert m.compute(y, a, 0.01, start=column(torch.ones(1), whole) * whole)[0].shape == whole.shape


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, a, y: m.compute(y, None), "padnet: operator: expected a LinearOperator, got NoneType"),
        (lambda m, a, y: m.compute(y, a, speed=2), "padnet: options: expected some of variant, .*, got 'speed'"),
        (lambda m, a, y: m.compute(y, a, variant="both"), "padnet: variant: expected explicit or implicit, got 'both'"),
        (lambda m, a, y: m.compute(y, a, noise=-1), "padnet: noise: expected a number >= 0, got -1"),
        (lambda m, a, y: m(y * float("nan"), operator=a), "padnet: y: expected finite measurements"),
        (lambda m, a, y: m(y.to(torch.complex128), operator=a), "padnet: y: expected real measurements"),
        (lambda m, a, y: m.compute(y, Identity(), variant="explicit"), "padnet: operator: expected a Blur"),
        (lambda m, a, y: PADNetModel([[]], "deblur"), "PADNetModel: rows: expected lists of units, of .*cnn"),
        (lambda m, a, y: PADNetModel([[torch.nn.ReLU()]], "deblur"), "PADNetModel: rows: expected lists of units"),
    ],
)
def test_what_does_not_fit(call, message):
    a, y = problem()
    with pytest.raises(ValueError, match=message):
        call(model(), a, y)
