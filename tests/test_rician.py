"""Rician noise: its law, and images whose objective falls whatever the module does."""

import json
import math

import numpy as np
import pytest
import torch
from commands import ok
from utils import numbers
from zoo import scene

from fastrecon import masks
from fastrecon.metrics import psnr
from fastrecon.models.error_controlled import SETTINGS, Settings, posed, run
from fastrecon.models.error_controlled_rician import BLOCK, KAPPA, run_rician
from fastrecon.modules import TVDenoiser
from fastrecon.operators import Fourier, Identity
from fastrecon.problems.base import add_rician
from fastrecon.solvers.automatic import automatic
from fastrecon.solvers.methods import Inverse
from fastrecon.terms import rice

SIGMA = 0.1
SHORT = Settings(iterations=6, tol=0.0)
HOSTILE = {
    "random": lambda x: x + numbers(*x.shape, dtype=x.dtype),
    "huge": lambda x: 1e30 * x,
    "NaN": lambda x: x * float("nan"),
    "sign-flipped": lambda x: -x,
    "raises": lambda x: [][0],
    "good": TVDenoiser(),
}


def problem(kind, side=24):
    """A, y, the true images."""
    x = scene(32, 2, torch.float32)[..., :side, :side].contiguous()
    x = torch.where(x < 0.4, torch.zeros_like(x), x)  # air
    u = add_rician(x, SIGMA, 3)
    a = Identity() if kind == "whole" else Fourier(masks.gaussian((side, side), 0.5, 1))
    return a, a(u), x


def test_the_law():
    """l is -sigma^2 log of the density in the plane, the square touches it from above, and the mean is the mean."""
    u, x = torch.rand(2, 1, 50, 1, dtype=torch.float64), torch.rand(2, 1, 50, 1, dtype=torch.float64)
    t = u * x / SIGMA**2
    direct = ((u.square() + x.square()) / 2 - SIGMA**2 * torch.special.i0(t).log()).flatten(1).sum(1)
    torch.testing.assert_close(rice.misfit(u, x, SIGMA), direct)
    touch = rice.touching(u, x, SIGMA)
    for z in (x, x + 0.2, 0.3 * x, -x):
        above = ((z - touch).square() - (x - touch).square()).flatten(1).sum(1) / 2
        assert (rice.misfit(u, z, SIGMA) - direct <= above + 1e-12).all()
    z = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(rice.misfit(u, z, SIGMA).sum(), z)
    torch.testing.assert_close(slope, x - touch)
    level = torch.tensor([0.0, 0.05, 0.2, 0.9], dtype=torch.float64).view(4, 1, 1, 1)
    drawn = add_rician(level.expand(4, 1, 400, 400).contiguous(), SIGMA, 0).mean((1, 2, 3))
    torch.testing.assert_close(rice.mean(level, SIGMA).flatten(), drawn, rtol=5e-3, atol=0)
    torch.testing.assert_close(rice.from_mean(rice.mean(level, SIGMA), SIGMA), level, rtol=1e-5, atol=1e-4)
    assert rice.from_mean(torch.tensor([0.1]), SIGMA).item() == 0
    assert rice.mean(torch.zeros(1), SIGMA).item() == pytest.approx(SIGMA * math.sqrt(math.pi / 2))


@pytest.mark.parametrize("kind", ["whole", "k-space"])
@pytest.mark.parametrize("module", HOSTILE)
def test_no_module_raises_the_objective(module, kind):
    a, y, _ = problem(kind)
    x, report = run_rician(HOSTILE[module], SHORT, y, a, a.adjoint(y), SIGMA, norm=1.0)
    values = report.history["objective"]
    assert (values.diff(dim=0) <= 0).all()
    assert (values[-1] == report.objective).all()
    assert torch.isfinite(x).all()
    assert torch.equal(report.accepted + report.rejected, report.iterations)
    if kind == "whole":  # F by hand
        q = posed(a, y, x, BLOCK.lam * SIGMA, BLOCK)
        t = y.double() * x.double().abs() / SIGMA**2
        law = (y.double() - x.double().abs()).square() / 2 - SIGMA**2 * torch.special.i0e(t).log()
        torch.testing.assert_close(report.objective, law.flatten(1).sum(1) + q.prior.value(x), rtol=1e-5, atol=1e-6)
    if module in ("NaN", "raises"):
        assert (report.accepted == 0).all()
        assert (report.failed > 0).all()


@pytest.mark.parametrize("kind", ["whole", "k-space"])
def test_the_law_helps(kind):
    a, y, x = problem(kind)
    start = a.adjoint(y)
    settings = SETTINGS["denoise" if kind == "whole" else "mri"]
    found, _ = run_rician(TVDenoiser(), settings, y, a, start, SIGMA, norm=1.0)
    gaussian, _ = run(TVDenoiser(), settings, y, a, start, SIGMA, norm=1.0)
    gaussian = gaussian.real if gaussian.is_complex() else gaussian
    assert (psnr(found, x) > psnr(gaussian, x) + 1).all()
    assert KAPPA < 1
    assert (found[x == 0].mean() < 0.75 * gaussian[x == 0].mean()).all()  # air is dark again


def test_it_is_the_method_for_such_noise():
    a, y, _ = problem("whole")
    inverse = Inverse(y, a, noise=SIGMA, start=y, problem="denoise", facts={"rician": SIGMA})
    assert automatic(inverse).method == "error-controlled"
    assert "Rician" in automatic(inverse).why


def test_on_the_command_line(run, tmp_path):
    np.save(tmp_path / "x.npy", scene(32, 1, torch.float32)[0, 0].numpy())
    for problem, more in (("denoise", ""), ("mri", "--rate 0.5 --sampling gaussian ")):
        command = f"reconstruct {tmp_path}/x.npy --problem {problem} --simulate --rician {more}"
        quick = "--method error-controlled --module tv --iterations 4"
        told = ok(run(f"{command} --noise 0.1 {quick} --out {tmp_path}/{problem} --json"))
        assert json.loads(told)[0]["certificate"]["accepted"] > 0
        status, _, error = run(f"{command} --noise 0 --out {tmp_path}/none")
        assert status == 2
        assert "--noise: expected a number > 0 with --rician" in error
