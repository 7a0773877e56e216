"""Error-controlled iterations and other methods on operators of the caller's: as good as by the name of the problem."""

import numpy as np
import pytest
import torch
from skimage import data

import fastrecon as fr
from fastrecon import masks, zoo
from fastrecon.metrics import psnr
from fastrecon.operators import (
    BlockSensing,
    Blur,
    Crop,
    Fourier,
    Identity,
    Inpainting,
    Radon,
    gaussian_kernel,
    random_phi,
)
from fastrecon.solvers.linear import smooth
from fastrecon.solvers.methods import Inverse

SIZE = (96, 96)
OPERATORS = {
    "denoise": (Identity(), 0.1, 27.0),
    "inpaint": (Inpainting(masks.uniform(SIZE, 0.5)), 0.02, 28.0),
    "mri": (Fourier(masks.radial(SIZE, 0.3)), 0.01, 29.0),
    "deblur": (Blur(gaussian_kernel(1.0, 7)), 0.01, 28.0),
    "block-cs": (BlockSensing(random_phi(300, 1024).float(), 32), 0.01, 26.0),
}


def picture() -> torch.Tensor:
    return torch.from_numpy(data.camera()[64:160, 192:288].astype(np.float32) / 255)[None, None]


@pytest.mark.parametrize("name", OPERATORS)
def test_its_settings_follow_from_the_operator(name):
    operator, sigma, least = OPERATORS[name]
    x = picture()
    y = operator(x)
    y = y + sigma * zoo.numbers(*y.shape, dtype=y.dtype, seed=1) * (y != 0)
    result = fr.reconstruct(y, operator, "error-controlled", noise=sigma, size=SIZE)
    found = result.x.real if result.x.is_complex() else result.x
    assert psnr(found.clamp(0, 1), x).item() > least


def test_a_window_is_known_by_what_lies_behind_it():
    operator = Crop(SIZE, 4, 4, (88, 88)) @ Blur(gaussian_kernel(1.0, 7))
    x = picture()
    found = fr.reconstruct(operator(x), operator, "error-controlled", noise=0.005, size=SIZE).x
    inner = (..., slice(8, 88), slice(8, 88))
    assert psnr(found[inner].clamp(0, 1), x[inner]).item() > 30


def test_scans_start_at_the_scale_of_their_images():
    scan, x = Radon(SIZE, 40), picture()
    y = scan(x)
    start = smooth(Inverse(y, scan, SIZE, 0.0))
    assert psnr(start, x).item() > psnr(torch.zeros_like(x), x).item() + 8
    assert psnr(fr.reconstruct(y, scan, "dct", noise=0.01).x, x).item() > 26
    nothing = smooth(Inverse(torch.zeros_like(y), scan, SIZE, 0.0))
    assert torch.equal(nothing, torch.zeros_like(nothing))
