import math

import numpy as np
import pytest
import torch

pytest.importorskip("skimage")

from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from fastrecon.metrics import nmse_db, psnr, relative_error, ssim


def pair(shape=(3, 1, 40, 33), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    ref = torch.rand(shape, generator=generator, dtype=dtype)
    noise = torch.randn(shape, generator=generator, dtype=dtype)
    return ref + torch.tensor([0.01, 0.1, 0.3], dtype=dtype).view(-1, 1, 1, 1) * noise, ref


@pytest.mark.parametrize("peak", [1.0, 255.0])
def test_psnr_is_scikit_images(peak):
    x, ref = pair()
    expected = [peak_signal_noise_ratio(r, e, data_range=peak) for r, e in zip(ref.numpy(), x.numpy(), strict=True)]
    assert psnr(x, ref, peak).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("data_range", [1.0, 255.0])
@pytest.mark.parametrize("window", ["uniform", "gaussian"])
def test_ssim_is_scikit_images(window, data_range, dtype):
    x, ref = pair(dtype=dtype)
    x, ref = x * data_range, ref * data_range
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False} if window == "gaussian" else {}
    expected = [
        structural_similarity(r[0].double().numpy(), e[0].double().numpy(), data_range=data_range, **options)
        for r, e in zip(ref, x, strict=True)
    ]
    assert ssim(x, ref, data_range, window).tolist() == pytest.approx(expected, rel=1e-10)


def test_ssim_of_channels_is_their_mean():
    x, ref = pair((3, 2, 20, 30))
    separate = torch.stack([ssim(x[:, c : c + 1], ref[:, c : c + 1]) for c in range(2)])
    torch.testing.assert_close(ssim(x, ref), separate.mean(0))


def test_errors_relative_to_the_reference():
    x, ref = pair()
    ratio = [float(np.linalg.norm((e - r).numpy()) / np.linalg.norm(r.numpy())) for e, r in zip(x, ref, strict=True)]
    assert relative_error(x, ref).tolist() == pytest.approx(ratio)
    assert nmse_db(x, ref).tolist() == pytest.approx([20 * math.log10(q) for q in ratio])


def test_complex_images():
    x, ref = (torch.complex(t, 2 * t) for t in pair())
    torch.testing.assert_close(relative_error(x, ref), relative_error(*pair()))
    torch.testing.assert_close(nmse_db(x, ref), nmse_db(*pair()))


def test_identical_images():
    x, _ = pair()
    assert ssim(x, x).tolist() == pytest.approx([1, 1, 1])
    assert psnr(x, x).tolist() == [math.inf] * 3


def test_arrays_are_answered_in_kind():
    x, ref = (t.numpy() for t in pair())
    for metric in (psnr, ssim, nmse_db, relative_error):
        assert isinstance(metric(x, ref), np.ndarray)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: psnr(x, x[:1]), r"psnr: ref: expected \(3, 1, 40, 33\) .* got \(1, 1, 40, 33\)"),
        (lambda x: psnr(x, x, 0), "psnr: peak: expected a number > 0"),
        (lambda x: ssim(x[..., :6], x[..., :6]), "ssim: x: expected at least 7x7 pixels"),
        (lambda x: ssim(x, x, window="box"), "ssim: window: expected uniform or gaussian, got 'box'"),
        (lambda x: ssim(x[0], x[0]), r"ssim: x: expected real images \[B, C, H, W\]"),
    ],
)
def test_wrong_input_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong(pair()[0])


def test_every_size():
    """Ratios and differences whose squares vanish or overflow."""
    x, ref = pair()
    for c in (2.0**600, 2.0**-600):
        for metric, options in ((nmse_db, ()), (relative_error, ()), (psnr, (c,)), (ssim, (c,))):
            near = metric(x, ref, *(1.0 for _ in options))
            torch.testing.assert_close(metric(c * x, c * ref, *options), near, rtol=1e-12, atol=0)
