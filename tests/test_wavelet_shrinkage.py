"""Proximal gradient descent with wavelets on zero boundaries: the kernel, its definition, and bits."""

from dataclasses import replace

import pytest
import torch
from utils import numbers

from fastrecon import registry
from fastrecon.ops import wavelet_modes as modes
from fastrecon.ops.image_operator import BLUR, MASK
from fastrecon.ops.soft_threshold import soft_threshold
from fastrecon.ops.wavelet_shrinkage import Affine, Shrinkage, iterated, shrunk, usable
from fastrecon.ops.wavelet_transform import dwt2
from fastrecon.ops.wavelets import lowpass

SHAPES = [(1, 1, 32, 40), (3, 2, 21, 24), (2, 1, 6, 5)]
MOMENTUM = [0.0, 0.3, 0.5, 0.6]


def parts(shape, dtype, transform, wavelet="db8", level=3):
    """x, v, u of v, and S, for each image of its own."""
    b, _, h, w = shape
    x, v, shift = (numbers(*shape, dtype=dtype, seed=k) for k in range(3))
    factors = numbers(b, 1, h, w, dtype=dtype, seed=3)
    power = torch.fft.rfft2(factors).abs().square() / (h * w)  # as of a blur: those of one wave are the same
    factors = factors.sigmoid() if transform == MASK else 1 - power.clamp_max(1.5)
    taps = tuple(lowpass(wavelet))
    return x, v, Affine(transform, factors, shift), Shrinkage(torch.linspace(0.05, 0.3, b, dtype=dtype), taps, level)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("wavelet", ["haar", "sym4", "db8"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_shrinks_the_details_of_each_level(shape, wavelet, dtype):
    """As transform, threshold and inverse one after the other, the approximation as it is."""
    x, _, _, s = parts(shape, dtype, MASK, wavelet)
    first, *details = modes.decompose(x, wavelet, 3, "zero")
    tau = s.tau.view(-1, 1, 1, 1)
    expected = modes.recompose([first, *(tuple(soft_threshold(d, tau) for d in ds) for ds in details)], wavelet, "zero")
    found = shrunk(x, s)
    tight = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, expected[..., : shape[2], : shape[3]], rtol=tight, atol=tight)
    with registry.using("reference"):
        torch.testing.assert_close(shrunk(x, s), found, rtol=tight, atol=tight)


@pytest.mark.parametrize("transform", [MASK, BLUR])
@pytest.mark.parametrize("momentum", [None, MOMENTUM])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_iterations_are_the_definition(shape, momentum, transform):
    for dtype, tight in ((torch.float32, 1e-4), (torch.float64, 1e-11)):
        x, v, a, s = parts(shape, dtype, transform)
        kept = x.clone(), v.clone()
        found = iterated(x, v, a, s, 4, momentum)
        assert torch.equal(x, kept[0])
        assert torch.equal(v, kept[1])
        with registry.using("reference"):
            expected = iterated(x, v, a, s, 4, momentum)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=tight, atol=tight)


@pytest.mark.parametrize("transform", [MASK, BLUR])
def test_bits_are_those_of_single_calls_and_single_images(transform):
    x, v, a, s = parts((3, 2, 36, 48), torch.float32, transform)
    whole = iterated(x, v, a, s, 4, MOMENTUM)
    steps = x, v
    for m in MOMENTUM:
        steps = iterated(*steps, a, s, 1, [m])
    for one, other in zip(steps, whole, strict=True):
        assert torch.equal(one, other)
    if not usable(x, transform):
        return
    for i in range(3):
        k = slice(i, i + 1)
        alone = Affine(transform, a.factors[k], a.shift[k]), replace(s, tau=s.tau[k])
        for one, other in zip(iterated(x[k], v[k], *alone, 4, MOMENTUM), whole, strict=True):
            assert torch.equal(one[0], other[i])


def test_views_infinities_and_other_threads():
    x, v, a, s = parts((1, 1, 96, 96), torch.float32, MASK)
    expected = iterated(x, v, a, s, 4, MOMENTUM)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for one, other in zip(iterated(x.mT.contiguous().mT, v, a, s, 4, MOMENTUM), expected, strict=True):
            assert torch.equal(one, other)
    finally:
        torch.set_num_threads(before)
    x[0, 0, 3, 4] = torch.nan
    assert shrunk(x, s).isnan().any()
    assert shrunk(x[:0], replace(s, tau=s.tau[:0])).shape == (0, 1, 96, 96)


def test_one_level_is_a_proximal_map():
    """Where the transform of all levels is one of an orthonormal basis in extended space: it never expands."""
    x, v, _, s = parts((2, 1, 20, 28), torch.float64, MASK)
    apart = (shrunk(x, s) - shrunk(v, s)).flatten(1).norm(dim=1)
    assert (apart <= (x - v).flatten(1).norm(dim=1)).all()
    small = numbers(1, 1, 16, 16, dtype=torch.float64)
    assert dwt2(small, "db8", 2, "zero").square().sum() == pytest.approx(small.square().sum().item())
