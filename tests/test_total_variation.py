"""The term TV and the method "tv": objective and certificates, monotone descent, the same bits in any batch."""

import json

import numpy as np
import pytest
import torch
from utils import numbers

import fastrecon as fr
from fastrecon.metrics import psnr
from fastrecon.operators import Blur, Fourier, Identity, Inpainting, gaussian_kernel
from fastrecon.ops import prox_tv
from fastrecon.ops.prox_tv import differences
from fastrecon.solvers import TVFista
from fastrecon.solvers.total_variation import FAINT
from fastrecon.terms import TV

MASK = (torch.rand(32, 28, generator=torch.Generator().manual_seed(1)) < 0.6).float()
MASK[0, 0] = 1  # the mean, as of frequencies
OPERATORS = {
    "inpaint": lambda: Inpainting(MASK),
    "mri": lambda: Fourier(MASK),
    "deblur": lambda: Blur(gaussian_kernel(1.0, 5)),
    "denoise": Identity,
}


def plateaus(count=1, dtype=torch.float32):
    """Images [count, 1, 32, 28] of a few grey levels, each another."""
    r, c = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 28), indexing="ij")
    x = [0.2 + 0.5 * (r > 0.3 + 0.1 * k) + 0.2 * ((r - 0.5) ** 2 + (c - 0.5) ** 2 < 0.1) for k in range(count)]
    return torch.stack(x)[:, None].to(dtype)


def measured(kind, count=1, dtype=torch.float32, sigma=0.02):
    a = OPERATORS[kind]()
    y = a(plateaus(count, dtype))
    return a, y + sigma * numbers(*y.shape, dtype=y.dtype)


@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("joint", [True, False])
def test_value_and_proximal_map(isotropic, joint):
    x = numbers(2, 3, 7, 6)
    d = differences(x)
    over = [-3] if isotropic else []
    size = torch.linalg.vector_norm(d, dim=tuple(([1] if joint else []) + over)) if joint or over else d.abs()
    weight = torch.tensor([0.3, 2.0], dtype=torch.float64)
    term = TV(weight, isotropic, joint)
    torch.testing.assert_close(term.value(x), weight * size.flatten(1).sum(1))
    one = prox_tv(x[1:], 0.5 * 2.0, isotropic, joint=joint, tol=1e-5)
    assert torch.equal(term.prox(x, 0.5)[1:], one.x)
    assert torch.equal(term.take(torch.tensor([1])).prox(x[1:], 0.5), one.x)
    found = term.solve(x, 0.5)
    again = term.solve(x, 0.5, found.dual)
    assert (found.gap <= 1e-5 * found.objective).all()
    assert (again.iterations == 0).all()


def test_term_says_what_is_wrong():
    for weight in (-1.0, torch.ones(1, 1, 4, 4), "much", torch.ones(2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="TV: weight: expected"):
            TV(weight)
    with pytest.raises(NotImplementedError, match=r"TV\.grad: this term has none"):
        TV(1.0).grad(plateaus())
    with pytest.raises(ValueError, match="prox_tv: y: expected real or complex images"):
        TV(1.0).value(torch.zeros(3, 4))


@pytest.mark.parametrize("kind", OPERATORS)
def test_objective_never_increases_and_the_certificate_holds(kind):
    a, y = measured(kind)
    solver = TVFista(a, 0.01, 1.0)
    x, report = solver(y, iterations=60, history=True)
    objective = report.history["objective"][:, 0]
    assert (objective.diff() <= 0).all()
    torch.testing.assert_close(
        report.objective, (a(x) - y).abs().square().sum().double().view(1) / 2 + TV(0.01).value(x)
    )
    exact = prox_tv(x - a.adjoint(a(x) - y, x.shape[-2:]), 0.01, tol=1e-6, iterations=5000).x  # L = 1
    assert (exact - x).abs().square().sum().sqrt() <= report.step_norm[0] * 1.01 + 1e-5
    assert report.step_norm[0] < 0.02
    longer = solver(y, x, iterations=400)[1].objective
    assert (report.objective - longer) / longer < 1e-3


def test_tolerance_is_reached_and_said():
    a, y = measured("inpaint")
    _, report = TVFista(a, 0.01, 1.0)(y, iterations=300, tol=1e-3, check_every=1)
    assert report.status[0] == "converged"
    assert report.relative_step[0] <= 2e-3
    assert report.to_dict(0)["gap"] is None  # of another operator nobody knows it
    assert report.prox_gap[0] >= 0
    assert report.iterations[0] < 300
    a, y = measured("denoise")
    _, report = TVFista(a, 0.02)(y, iterations=10, tol=1e-4, check_every=1)
    assert report.status[0] == "converged"
    assert report.gap[0] <= 1e-4 * report.objective[0]
    assert report.iterations[0] == 1
    _, report = TVFista(a, 0.02)(y, iterations=2)
    assert report.status[0] == "iteration limit"
    assert report.to_dict(0)["gap"] == report.to_dict(0)["prox_gap"]


def test_a_unitary_operator_needs_one_proximal_map():
    a, y = measured("denoise", 2)
    lam = torch.tensor([0.02, 0.05])
    x, report = TVFista(a, lam)(y, iterations=1)
    found = prox_tv(y, lam, tol=1e-4, iterations=3000)
    torch.testing.assert_close(x, found.x, rtol=0, atol=1e-6)
    torch.testing.assert_close(report.gap, found.gap, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(report.step_norm, (2 * report.gap).sqrt(), rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("tol", [0.0, 2e-3])
def test_an_image_has_the_bits_it_has_alone(tol):
    a, y = measured("inpaint", 3)
    lam = torch.tensor([0.003, 0.01, 0.03])
    whole = TVFista(a, lam, 1.0)(y, iterations=25, tol=tol, check_every=1)
    for i in range(3):
        alone = TVFista(a, lam[i : i + 1], 1.0)(y[i : i + 1], iterations=25, tol=tol, check_every=1)
        assert torch.equal(alone[0][0], whole[0][i])
        assert alone[1].iterations[0] == whole[1].iterations[i]
        assert alone[1].prox_gap[0] == whole[1].prox_gap[i]


def test_pictures_are_better_than_those_they_start_from():
    truth = plateaus()
    for kind in OPERATORS:
        a, y = measured(kind, sigma=0.05)
        found = fr.reconstruct(y, a, method="tv", noise=0.05, norm=1.0)
        x = found.x.real if found.x.is_complex() else found.x
        start = a.adjoint(y, truth.shape[-2:])
        start = start.real if start.is_complex() else start
        assert psnr(x, truth) > psnr(start, truth) + (0.5 if kind == "deblur" else 5)


def test_weights_are_given_or_found():
    y = plateaus() + 0.1 * numbers(1, 1, 32, 28, dtype=torch.float32)
    found = {
        lam: fr.reconstruct(y, Identity(), method="tv", noise=0.1, lam=lam, lam_factor=factor).x
        for lam, factor in (("auto", 1.0), ("0", 1.0), ("0.05", 2.0))
    }
    assert torch.equal(found["0"], y)
    torch.testing.assert_close(found["0.05"], prox_tv(y, 0.1).x, rtol=0, atol=5e-3)
    unknown = fr.reconstruct(y, Identity(), method="tv")
    torch.testing.assert_close(unknown.x, prox_tv(y, 1.35 * FAINT**1.25).x, rtol=0, atol=1e-3)
    for lam in ("-1", "much", "nan", "inf"):
        with pytest.raises(ValueError, match="tv: --lam: expected auto or a number >= 0"):
            fr.reconstruct(y, Identity(), method="tv", lam=lam)


def test_photographs_on_the_command_line(run, tmp_path):
    x = plateaus()[0, 0].numpy()
    np.save(tmp_path / "noisy.npy", x + 0.1 * np.random.default_rng(0).normal(size=x.shape).astype(np.float32))
    argv = f"reconstruct {tmp_path}/noisy.npy --problem denoise --method tv --json --no-figure --out {tmp_path}/out"
    status, out, _ = run(argv)
    assert status == 0
    (report,) = json.loads(out)
    certificate = report["certificate"]
    assert (report["method"], certificate["status"]) == ("tv", "converged")
    assert certificate["gap"] <= 1e-4 * certificate["objective"]
    found = np.load(report["files"]["reconstruction"])
    assert np.abs(found - x).mean() < 0.04
