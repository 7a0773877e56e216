"""Modules of error-controlled iterations: they clean, part by part where images are complex; other people's files."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from utils import numbers
from zoo import scene

from fastrecon.metrics import psnr
from fastrecon.modules import Bank, Cleaned, GuidedFilter, TVDenoiser, WaveletDenoiser, by_parts, checkpoints, falling
from fastrecon.networks import ResidualCNN

CLASSICAL = {"wavelet": WaveletDenoiser, "tv": TVDenoiser, "guided": GuidedFilter}


@pytest.mark.parametrize("name", CLASSICAL)
def test_classical_denoisers_clean(name):
    x = scene(64, 2, torch.float32)
    for sigma in (0.03, 0.1):
        y = x + sigma * numbers(*x.shape, dtype=torch.float32)
        found = CLASSICAL[name]()(y, sigma)
        assert (psnr(found, x) > psnr(y, x) + 2).all()
        assert torch.equal(CLASSICAL[name]()(y[:1].clone(), sigma), found[:1])


@pytest.mark.parametrize("name", [*CLASSICAL, "cnn"])
def test_complex_images_and_channels(name):
    torch.manual_seed(0)
    module = CLASSICAL[name]() if name in CLASSICAL else Cleaned(ResidualCNN(3, 4, levels=True).eval())
    y = (numbers(2, 2, 16, 16, dtype=torch.complex64) / 3).requires_grad_(False)
    with torch.no_grad():
        found = module(y, 0.1)
        assert found.shape == y.shape
        assert found.dtype == y.dtype
        if name in ("guided", "cnn"):
            parts = [module(y.real[:, c : c + 1].contiguous(), 0.1) for c in (0, 1)]
            torch.testing.assert_close(found.real.contiguous(), torch.cat(parts, 1))


def test_by_parts_says_what_does_not_fit():
    with pytest.raises(ValueError, match="modules: x: expected images with a multiple of 3 channels"):
        by_parts(lambda x: x, numbers(1, 2, 4, 4), 3)


def test_bank_and_strengths():
    bank = Bank({0.1: lambda x: x + 1, 0.02: lambda x: x + 2})
    assert bank(torch.zeros(1), 0.09) == 1
    assert bank(torch.zeros(1), 1e-9) == 2
    assert falling(0.4, 0.1, 3) == pytest.approx([0.4, 0.2, 0.1])
    assert falling(0.1, 0.4, 2) == [0.1, 0.1]
    with pytest.raises(ValueError, match="Bank: members: expected denoisers"):
        Bank({})


def smoothing(takes=1, gives=1, subtract=True, norm=False):
    """Tensors of a stack that takes an image apart by +-ReLU, smooths it, and answers it or the noise."""
    mean = torch.full((3, 3), 1 / 9)
    first = torch.zeros(2 * gives, takes, 3, 3)
    last = torch.zeros(gives, 2 * gives, 3, 3)
    for c in range(gives):
        first[2 * c, c, 1, 1], first[2 * c + 1, c, 1, 1] = 1, -1
        kernel = -mean if subtract else mean.clone()
        if subtract:
            kernel[1, 1] += 1
        last[c, 2 * c], last[c, 2 * c + 1] = kernel, -kernel
    found = {"a.0.weight": first, "a.0.bias": torch.zeros(2 * gives)}
    if norm:
        found |= {f"a.1.{n}": torch.full((2 * gives,), v) for n, v in
                  (("weight", 2.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 4.0 - 1e-5))}  # fmt: skip
        found["a.1.num_batches_tracked"] = torch.tensor(3)
    return found | {"a.2.weight": last}


@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors"])
@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize(("takes", "gives"), [(1, 1), (2, 1), (5, 4)])
def test_other_peoples_files(suffix, subtract, takes, gives, tmp_path):
    tensors, path = smoothing(takes, gives, subtract, norm=gives == 1), tmp_path / f"net{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": tensors}, path)
    elif suffix == ".npz":
        np.savez(path, **{k: v.numpy() for k, v in tensors.items()})
    else:
        save_file(tensors, path)
    stack = checkpoints.read(path)
    assert stack.subtracts == subtract
    x = torch.linspace(0, 1, 15).view(1, 1, 1, -1).expand(2, 1, 15, 15).contiguous()
    y = x + 0.1 * numbers(*x.shape, dtype=torch.float32)
    inner = (..., slice(2, -2), slice(2, -2))
    assert (psnr(stack(y, 0.1)[inner], x[inner]) > psnr(y[inner], x[inner]) + 3).all()
    assert stack.channels == 1


def test_files_that_are_no_denoisers(tmp_path):
    path = tmp_path / "net.npz"
    np.savez(path, weight=np.zeros((3, 3), np.float32))
    with pytest.raises(ValueError, match=r"checkpoint: .*net.npz: expected a stack of convolutions alone"):
        checkpoints.read(path)
    np.savez(path, w0=np.zeros((4, 1, 3, 3), np.float32), w1=np.zeros((1, 5, 3, 3), np.float32))
    with pytest.raises(ValueError, match="checkpoint: weights: expected one with 4 inputs to follow"):
        checkpoints.read(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"checkpoint: .*net.npz: expected weights, got"):
        checkpoints.read(path)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match=r"expected one of .pth, .pt, .npz, .safetensors, got .txt"):
        checkpoints.read(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError):
        checkpoints.read(tmp_path / "none.pth")
