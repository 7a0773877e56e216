"""SGP's networks and the direct U-Net as models: measurements and their operator in, images out."""

import numpy as np
import pytest
import torch

import fastrecon as fr
from fastrecon import masks
from fastrecon.models import DirectModel, StepModel
from fastrecon.models.sgp import LAM
from fastrecon.networks.unet import DirectNet, StepNet
from fastrecon.operators import Blur, Fourier, Inpainting, Radon, Wavelet, gaussian_kernel

SIZE = (40, 48)


def scene(count=2, size=SIZE):
    v, h = torch.linspace(0, 1, size[0])[:, None], torch.linspace(0, 1, size[1])
    return torch.stack([((3 * v + (k + 1) * h).sin().abs() + (v > h + 0.2 * k)) / 2 for k in range(count)])[:, None]


def mask(size=SIZE, count=2):
    return torch.stack([masks.uniform(size, 0.5, k) for k in range(count)])[:, None]


def step(problem="inpaint", complex_input=False, variant="step"):
    torch.manual_seed(0)
    return StepModel(StepNet(variant, complex_input, width=2, iterations=3), problem, {"name": "small"}).eval()


def direct(problem="inpaint"):
    torch.manual_seed(0)
    net = DirectNet(width=2, norm="none")
    torch.nn.init.normal_(net.head.weight, std=0.05)
    return DirectModel(net, problem, {"name": "small"}).eval()


@pytest.mark.parametrize("name", ["sgp-step-inpaint", "sgp-diag-inpaint"])
def test_images_of_any_size_are_restored(name):
    model, x = fr.load(name), scene(size=(45, 51))
    a = Inpainting(mask((45, 51)))
    found = model(a(x), operator=a)
    assert found.x.shape == x.shape
    assert (fr.metrics.psnr(found.x, x) > fr.metrics.psnr(a(x), x) + 5).all()
    assert found.report.iterations.tolist() == [20, 20]
    assert not found.x.requires_grad


def test_it_is_sgp_in_wavelet_coefficients():
    model, x = fr.load("sgp-diag-fourier"), scene()
    a = Fourier(mask())
    y = a(x)
    found = model(y, operator=a, iterations=4, history=True)
    wavelet = Wavelet("sym4", 3, SIZE)
    solver = fr.solvers.SGP(a @ wavelet.T, LAM["mri"], 1.0, model.network)
    c, report = solver(y, iterations=4, history=True)
    assert found.x.is_complex()
    assert torch.equal(found.x, wavelet.adjoint(c))
    assert found.report.to_json() == report.to_json()
    assert torch.equal(found.report.history["objective"], report.history["objective"])


def test_start_weight_and_bound_are_the_callers():
    model, x = step(), scene()
    a = Inpainting(mask())
    y = a(x)
    wavelet = Wavelet("sym4", 3, SIZE)
    c, _ = fr.solvers.SGP(a @ wavelet.T, 0.02, 1.5, model.network)(y, wavelet(x), iterations=3)
    assert torch.equal(model(y, operator=a, x0=x, iterations=3, lam=0.02, lipschitz=1.5).x, wavelet.adjoint(c))


@pytest.mark.parametrize("kind", ["blur", "scan", "mask"])
def test_the_weight_follows_the_scale_of_the_operator(kind):
    """A times 2 and y times 2 is the same problem, if lam is 4 times as large."""
    x = scene()
    if kind == "blur":
        k = gaussian_kernel(1.5, 7).float()
        a, larger = Blur(k), Blur(2 * k)
    elif kind == "scan":
        a, larger = Radon(SIZE, 20), Radon(SIZE, 20, pixel=2.0)
    else:
        a, larger = Inpainting(mask()), Inpainting(2 * mask())
    model = step({"blur": "deblur", "scan": "ct", "mask": "inpaint"}[kind])
    first = model(a(x), operator=a, x0=0 * x, iterations=5)
    second = model(larger(x), operator=larger, x0=0 * x, iterations=5)
    torch.testing.assert_close(second.x, first.x, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(second.report.objective, 4 * first.report.objective, rtol=1e-3, atol=0)


def test_a_scan_starts_from_its_back_projection():
    a, x = Radon(SIZE, 30), scene()
    y = a(x)
    assert torch.equal(
        step("ct")(y, operator=a, iterations=2).x, step("ct")(y, operator=a, x0=a.fbp(y, "hann"), iterations=2).x
    )
    torch.testing.assert_close(DirectModel(DirectNet(width=2), "ct").eval()(y, operator=a).x, a.fbp(y, "hann"))


@pytest.mark.parametrize("size", [SIZE, (13, 21), (5, 3)], ids=str)
def test_a_direct_network_of_any_size(size):
    model, x = direct(), scene(size=size)
    a = Inpainting(mask(size))
    y = a(x)
    found, report = model(y, operator=a)
    assert found.shape == x.shape
    torch.testing.assert_close(report.misfit, (a(found) - y).double().flatten(1).norm(dim=1))
    torch.testing.assert_close(report.relative_misfit, report.misfit / y.double().flatten(1).norm(dim=1))
    assert report.status == ["trained phases only"] * 2
    assert not report.converged.any()
    if size == SIZE:
        with torch.no_grad():
            assert torch.equal(found, model.network(y))
    k = Fourier(mask(size))
    assert direct("mri")(k(x), operator=k).x.shape == x.shape


@pytest.mark.parametrize("model", [step(), step(variant="diag"), direct()], ids=lambda m: m.method)
def test_saved_and_loaded_it_answers_the_same(model, tmp_path):
    a = Inpainting(mask())
    y = a(scene())
    model.save(tmp_path / "m.safetensors")
    again = fr.load(tmp_path / "m.safetensors")
    assert (type(again), again.method, again.problem) == (type(model), model.method, model.problem)
    assert again.meta == model.meta
    assert torch.equal(again(y, operator=a).x, model(y, operator=a).x)


@pytest.mark.parametrize("model", [step(), direct()], ids=lambda m: m.method)
def test_arrays_and_the_engine(model):
    a = Inpainting(mask())
    y = a(scene())
    expected = model(y, operator=a)
    found = model(y.double().numpy(), operator=a)  # computed in the model's precision
    assert isinstance(found.x, np.ndarray)
    assert np.array_equal(found.x, expected.x.numpy())
    by_engine = fr.Engine(model, max_batch=1)(y, operator=a)  # its masks belong to the images: the batch stays whole
    assert torch.equal(by_engine.x, expected.x)
    assert by_engine.report.to_json() == expected.report.to_json()
    one = Inpainting(mask()[:1])
    assert torch.equal(model(y[:1], operator=one).x, expected.x[:1])
    empty = model(y[:0], operator=Inpainting(mask()[0, 0]))
    assert empty.x.shape == (0, 1, *SIZE)
    assert len(empty.report) == 0


@pytest.mark.parametrize("make", [step, direct])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operator": None}, "operator: expected a LinearOperator, from images to y, got NoneType"),
        ({"operator": torch.nn.Identity()}, "operator: expected a LinearOperator, from images to y, got Identity"),
        ({"y": torch.zeros(2, 1, *SIZE, dtype=torch.int64)}, "y: expected real or complex measurements"),
        (
            {"y": torch.full((2, 1, *SIZE), torch.nan)},
            "y: expected finite measurements, got 1920 NaN or Inf in image 0",
        ),
        ({"y": torch.zeros(2, 1, *SIZE, device="meta")}, "y: expected a tensor on cpu, got one on meta"),
        ({"operator": Inpainting(mask((8, 8)))}, "Inpainting: y: expected"),
        ({"x0": torch.zeros(2, 1, 8, 8)}, "expected"),
    ],
)
def test_says_what_is_wrong(make, change, message):
    arguments = {"y": torch.zeros(2, 1, *SIZE), "operator": Inpainting(mask())} | change
    with pytest.raises(ValueError, match=message):
        make()(arguments.pop("y"), **arguments)


def test_the_kind_of_numbers_is_that_of_the_training():
    a = Fourier(mask())
    with pytest.raises(ValueError, match=r"StepModel: y: expected real measurements \[B, \.\.\.\], got .* complex64"):
        step()(a(scene()), operator=a)
    with pytest.raises(ValueError, match="StepModel: y: expected complex measurements"):
        step("mri", complex_input=True)(scene(), operator=a)
    with pytest.raises(ValueError, match="StepModel: precision: expected float32, got 'tf32'"):
        fr.Engine(step(), "tf32")
