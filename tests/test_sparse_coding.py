"""D-LADMM as a model: any image in, files that load to the same answers, errors that name the argument."""

import json

import numpy as np
import pytest
import torch
from zoo import small_coder, smooth

import fastrecon as fr
from fastrecon.models.sparse_coding import PatchDenoiser, SparseCoder
from fastrecon.noise import salt_and_pepper
from fastrecon.solvers import DLADMM


def noisy(x, share=0.1):
    return salt_and_pepper(x, share, torch.Generator().manual_seed(0))


def test_noise_replaces_the_share_that_was_asked_for():
    x = torch.full((200, 200), 0.4)
    y = noisy(x, 0.2)
    assert torch.equal(y, noisy(x, 0.2))
    assert set(y.unique().tolist()) == {0.0, x[0, 0].item(), 1.0}
    for value in (0, 1):
        assert (y == value).float().mean().item() == pytest.approx(0.1, abs=0.01)
    with pytest.raises(ValueError, match=r"salt_and_pepper: share: expected a number in \[0, 1\], got 1.5"):
        noisy(x, 1.5)


@pytest.mark.parametrize("size", [(16, 24), (30, 41), (3, 2)], ids=str)
def test_patches_and_back(size):
    net, x = small_coder(), torch.rand(2, 1, *size)
    patches = net.to_patches(x)
    assert patches.shape == (2 * -(-size[0] // 4) * -(-size[1] // 4), 16)
    assert torch.equal(net.to_image(patches, size), x)
    assert torch.equal(patches[0].view(4, 4)[: size[0], : size[1]], x[0, 0, :4, :4])


def test_removes_salt_and_pepper_in_rigorous_mode():
    x = smooth()
    y = noisy(x)
    found = small_coder()(y, rigorous=True, tol=1e-3)
    assert found.report.status == ["converged"]
    assert found.report.gap[0] <= 1e-3 * found.report.objective[0] * 1.01 + 1e-3 * 88
    assert fr.metrics.psnr(found.x, x) > fr.metrics.psnr(y, x) + 6


def test_certificate_of_an_image_adds_up_over_its_patches():
    net, y = small_coder(), noisy(torch.cat([smooth(), 1 - smooth()]))
    together = net(y)
    assert len(together.report) == 2
    s, report = net.solver(net.to_patches(y[:1]))
    torch.testing.assert_close(together.report.objective[0], report.objective.sum())
    torch.testing.assert_close(together.report.gap[0], report.gap.sum())
    torch.testing.assert_close(together.x[:1], net.to_image(s.az, (30, 41)))


@pytest.mark.parametrize("options", [{}, {"per_row": True}, {"e_update": "general"}], ids=str)
@pytest.mark.parametrize("kind", [SparseCoder, PatchDenoiser])
def test_saved_and_loaded_it_answers_the_same(kind, options, tmp_path):
    net = small_coder(kind, **options)
    y = noisy(smooth()) if kind is PatchDenoiser else torch.randn(5, 16)
    path = tmp_path / "small.safetensors"
    net.save(path)
    again = fr.load(path)
    assert type(again) is kind
    assert again.meta == net.meta
    assert torch.equal(again(y).x, net(y).x)
    net.save(path, half=True)
    half = fr.load(path)
    assert half.operator.atoms.dtype == torch.float32
    torch.testing.assert_close(half(y).x, net(y).x, rtol=0, atol=5e-3)


def test_arrays_in_arrays_out():
    y = noisy(smooth()).numpy()
    found = small_coder()(y)
    assert isinstance(found.x, np.ndarray)
    np.testing.assert_array_equal(found.x, small_coder()(torch.from_numpy(y)).x.numpy())


def test_a_file_with_missing_weights_is_told(tmp_path):
    from safetensors.torch import load_file, save_file

    path = tmp_path / "small.safetensors"
    net = small_coder()
    net.save(path)
    tensors = load_file(path)
    del tensors["raw_beta"]
    settings = {"hyperparameters": net.hyperparameters(), "task": "salt-and-pepper"}
    meta = net.meta | settings | {"format": 1, "method": "d-ladmm"}
    save_file(tensors, path, {"fastrecon": json.dumps(meta)})
    with pytest.raises(ValueError, match=r"expected a complete model.*raw_beta"):
        fr.load(path)


@pytest.mark.parametrize(
    ("kind", "y", "message"),
    [
        (PatchDenoiser, torch.zeros(30, 40), r"restore: y: expected real \[B, 1, H, W\], got \(30, 40\)"),
        (PatchDenoiser, torch.zeros(1, 3, 8, 8), r"restore: y: expected images \[B, 1, H, W\]"),
        (PatchDenoiser, torch.zeros(1, 1, 8, 8, dtype=torch.int64), "restore: y: expected real"),
        (PatchDenoiser, torch.full((1, 1, 8, 8), torch.nan), "expected finite values, got 64 NaN or Inf in sample 0"),
        (SparseCoder, torch.zeros(3, 15), r"DLADMM: x: expected samples \[N, 16\] float32 on cpu, got \(3, 15\)"),
    ],
)
def test_says_what_is_wrong(kind, y, message):
    with pytest.raises(ValueError, match=message):
        small_coder(kind)(y)


def test_needs_square_patches():
    with pytest.raises(ValueError, match="expected a dictionary of square patches, got 15 pixels"):
        PatchDenoiser(DLADMM(torch.eye(15), layers=1), {})


def test_shipped_model_denoises_a_photograph():
    from skimage import data

    x = torch.from_numpy(data.camera()).float()[None, None, :200, :331] / 255
    y = noisy(x)
    found = fr.load("dladmm-saltpepper")(y)
    assert found.x.shape == x.shape
    assert fr.metrics.psnr(found.x.clamp(0, 1), x) > fr.metrics.psnr(y, x) + 15
    assert found.report.iterations.tolist() == [15]


@pytest.mark.parametrize("kind", [SparseCoder, PatchDenoiser])
def test_empty_batch(kind):
    m = small_coder(kind)
    y = torch.empty(0, 1, 13, 9) if kind is PatchDenoiser else torch.empty(0, m.operator.atoms.shape[0])
    for rigorous in (False, True):
        x, report = m(y, rigorous=rigorous)
        assert x.shape == (y.shape if kind is PatchDenoiser else (0, m.operator.atoms.shape[1]))
        assert len(report) == 0
