"""Error-controlled iterations as a model and a method: files, hostile modules, the command line's choice of modules."""

import numpy as np
import pytest
import torch
from torch import nn
from utils import numbers
from zoo import scene

from fastrecon import masks, models
from fastrecon.metrics import psnr
from fastrecon.models import ErrorControlledModel
from fastrecon.models.error_controlled import Settings, balanced, changed, posed, run
from fastrecon.models.error_controlled_method import ErrorControlledOptions, chosen
from fastrecon.modules import TVDenoiser
from fastrecon.networks import ResidualCNN
from fastrecon.operators import Blur, Fourier, Identity, Inpainting, gaussian_kernel
from fastrecon.reconstruction import reconstruct

SETTINGS = Settings(iterations=8, tol=0.0)
NOISE = 0.02


def problem(kind, side=(24, 20)):
    """A, measurements and true images."""
    x = scene(32, 2, torch.float32)[..., : side[0], : side[1]].contiguous()
    mask = masks.variable_density(side, 0.4, 1)
    a = {"blur": Blur(gaussian_kernel(1.0, 7)), "k-space": Fourier(mask), "holes": Inpainting(mask)}[kind]
    y = a(x)
    return a, y + NOISE * numbers(*y.shape, dtype=y.dtype), x


HOSTILE = {
    "random": lambda x: x + numbers(*x.shape, dtype=x.dtype),
    "huge": lambda x: 1e30 * x,
    "NaN": lambda x: x * float("nan"),
    "sign-flipped": lambda x: -x,
    "raises": lambda x: [][0],
}


def objective(x, a, y, s, lam):
    """F anew, of images filled up as the method does."""
    q = posed(a.double(), y.to(torch.complex128 if y.is_complex() else torch.float64), x, lam, s)
    return q.fidelity.value(q.x) + q.prior.value(q.x)


@pytest.mark.parametrize("kind", ["blur", "k-space", "holes"])
@pytest.mark.parametrize("module", HOSTILE)
def test_hostile_modules_cannot_raise_the_objective(module, kind):
    a, y, _ = problem(kind, (24, 24))  # whole sizes: the picture is all that is minimised over
    start, seen = a.adjoint(y), []
    x, report = run(HOSTILE[module], SETTINGS, y, a, start, NOISE, norm=1.0, callback=lambda k, x: seen.append(x()))
    lam = SETTINGS.lam * NOISE
    wide = torch.complex128 if y.is_complex() else torch.float64
    values = torch.stack([objective(v.to(wide), a, y, SETTINGS, lam) for v in seen])
    assert (values.diff(dim=0) <= 2e-6 * values[:-1]).all()
    torch.testing.assert_close(report.objective, values[-1], rtol=1e-4, atol=0)
    assert (report.history["objective"].diff(dim=0) <= 0).all()
    assert (report.objective <= objective(start.to(wide), a, y, SETTINGS, lam)).all()
    assert torch.isfinite(torch.view_as_real(x) if x.is_complex() else x).all()
    if module in ("NaN", "raises"):
        assert (report.failed == SETTINGS.iterations - 1).all()
    if module == "raises":
        assert report.reasons == ("IndexError: list index out of range",)


@pytest.mark.parametrize("kind", ["blur", "k-space", "holes"])
def test_a_denoiser_helps(kind):
    a, y, x = problem(kind)
    found, report = run(TVDenoiser(), Settings(iterations=16), y, a, a.adjoint(y), NOISE, norm=1.0)
    without, _ = run(None, Settings(iterations=16), y, a, a.adjoint(y), NOISE, norm=1.0)
    one, other = (psnr(v.real if v.is_complex() else v, x) for v in (found, without))
    assert (one > other + 0.5).all()
    assert (report.accepted > 0).all()


def small(problem="deblur"):
    """An untrained model."""
    torch.manual_seed(0)
    unit = ResidualCNN(3, 4, levels=True, folded=True).eval()
    facts = {"settings": {"lr": 1.0}, "command": "none", "hours": 0, "processes": 1, "facts": {"PSNR": "low"}}
    return ErrorControlledModel(unit, problem, SETTINGS, {"name": "small", "training": facts}).eval()


def test_the_noise_that_data_leave_to_a_module():
    y = scene(32, 2, torch.float32)
    strengths = [8.0, 3.0, 1.0]
    found = balanced(posed(Identity(), y, y, 0.1, SETTINGS), strengths, 0.5, 1.0)
    rho = torch.stack(found)[:, 0].float()
    assert rho[0] < 0.01  # there is not so much noise as this strength is to be left with
    assert rho[2].item() == pytest.approx(1 / 0.5 - 1, rel=0.15)  # 1 / (1 + rho) of all noise is left
    kernels = torch.stack([gaussian_kernel(s, 9)[None] for s in (0.7, 2.0)])
    both = balanced(posed(Blur(kernels), y, y, 0.1, SETTINGS), strengths, 0.78, 1.0)
    each = [balanced(posed(Blur(k[0]), y[:1], y[:1], 0.1, SETTINGS), strengths, 0.78, 1.0) for k in kernels]
    for k, rho in enumerate(both):
        torch.testing.assert_close(rho, torch.cat([e[k] for e in each]), rtol=1e-5, atol=0)
    assert (both[0] < both[2]).all()  # the stronger the module, the more data are trusted
    given = Settings(left=0.78)
    assert changed(given, {"pull": 2.0}).left is None


def test_file_and_card(tmp_path):
    a, y, _ = problem("blur")
    model = small()
    model.save(tmp_path / "small.safetensors")
    again = models.load(tmp_path / "small.safetensors")
    assert again.settings == model.settings
    x, report = model(y, operator=a, noise=NOISE)
    same, _ = again(y, operator=a, noise=NOISE)
    assert torch.equal(x, same)
    alone, own = model(y[:1].clone(), operator=a, noise=NOISE)
    assert torch.equal(alone, x[:1])
    assert own.to_dict(0) == report.to_dict(0)
    assert "# small" in model.card()
    assert "PSNR" in model.card()
    found = model(y.numpy(), operator=a)
    assert isinstance(found.x, np.ndarray)
    with pytest.raises(ValueError, match="error-controlled: options: expected some of p, lam"):
        model(y, operator=a, nothing=1)
    with pytest.raises(ValueError, match="error-controlled: operator: expected a LinearOperator"):
        model(y)


def test_complex_measurements():
    a, y, x = problem("k-space")
    found, _ = small("mri")(y, operator=a, noise=NOISE, iterations=2)
    assert found.is_complex()
    assert found.shape == x.shape


def test_modules_by_name(tmp_path):
    small().save(tmp_path / "small.safetensors")
    torch.save({f"{i}.weight": w for i, w in enumerate((numbers(2, 1, 3, 3), numbers(1, 2, 3, 3)))}, tmp_path / "a.pth")
    options = {"none": None, "tv": TVDenoiser, "padnet-image": nn.Module, str(tmp_path / "a.pth"): nn.Module,
               str(tmp_path / "small.safetensors"): nn.Module, "cnn": nn.Module}  # fmt: skip
    for name, kind in options.items():
        one = chosen(ErrorControlledOptions(module=name), "deblur")
        assert one.module is None if kind is None else isinstance(one.module, kind)
    own = chosen(ErrorControlledOptions(model=str(tmp_path / "small.safetensors")), "deblur")
    assert own.settings == SETTINGS
    with pytest.raises(ValueError, match="--module: expected a model with a network for noise of any level"):
        chosen(ErrorControlledOptions(module="lda-cs-25"), "deblur")
    with pytest.raises(FileNotFoundError):
        chosen(ErrorControlledOptions(module="nowhere.pth"), "deblur")


def test_as_a_method():
    a, y, x = problem("blur")
    found = reconstruct(
        y, a, method="error-controlled", noise=NOISE, module="tv", iterations=12, rule="descent", check_step=0.5
    )
    assert (psnr(found.x, x) > psnr(y, x)).all()
    assert (found.report.iterations <= 11).all()
