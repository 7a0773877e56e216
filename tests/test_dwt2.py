"""The wavelet transform: PyWavelets' coefficients, orthonormality, derivatives, every implementation."""

import sys

import numpy as np
import pytest
import torch
from torch.library import opcheck
from utils import COMPLEX, REAL, assert_compiles, awkward_views, compare, compiles, interpreted, numbers

pytest.importorskip("pywt")

import pywt

from fastrecon.ops import dwt2, idwt2
from fastrecon.ops.dwt2 import dwt2_ref, idwt2_ref
from fastrecon.ops.wavelets import TABLE, lowpass

CASES = [  # shape, wavelet, level
    ((2, 3, 32, 40), "sym4", 3),
    ((1, 1, 2, 2), "haar", 1),
    ((9, 1, 8, 24), "sym4", 3),  # many planes: one task each
    ((1, 2, 8, 16), "db8", 3),  # filters longer than the signal go round and round
    ((1, 1, 12, 20), "coif3", 2),
    ((2, 1, 4, 144), "db2", 2),
    ((1, 1, 6, 10), "db3", 1),
    ((1, 1, 128, 34), "sym5", 1),  # several strips of rows
]


def pywavelets(x, wavelet, level):
    def one(plane):
        with pytest.warns() if _too_deep(plane.shape, wavelet, level) else _quiet():
            return pywt.coeffs_to_array(pywt.wavedec2(plane, wavelet, "periodization", level))[0]

    return torch.from_numpy(np.stack([np.stack([one(p) for p in image]) for image in x.numpy()]))


def _too_deep(shape, wavelet, level):
    return level > min(pywt.dwt_max_level(n, wavelet) for n in shape)


class _quiet:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def eager(x, wavelet, level, back=False):
    """The definition on planes, as the judge in the same dtype and in float64."""
    transform = idwt2_ref if back else dwt2_ref
    return transform(x.flatten(0, 1), lowpass(wavelet), level).view(x.shape)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gives_the_coefficients_of_pywavelets(case, backend):
    shape, wavelet, level = case
    x = numbers(*shape)
    torch.testing.assert_close(dwt2(x, wavelet, level), pywavelets(x, wavelet, level), rtol=0, atol=2e-14)
    z = torch.complex(x, x.flip(-1))
    torch.testing.assert_close(dwt2(z, wavelet, level).imag, dwt2(x.flip(-1), wavelet, level), rtol=0, atol=2e-14)


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_as_accurate_as_eager(case, dtype, device, backend):
    shape, wavelet, level = case
    x = numbers(*shape, dtype=dtype, device=device).requires_grad_()
    compare(lambda x: dwt2(x, wavelet, level), lambda x: eager(x, wavelet, level), x)
    compare(lambda x: idwt2(x, wavelet, level), lambda x: eager(x, wavelet, level, True), x)


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("case", CASES[:5], ids=str)
def test_triton_kernel(case, dtype, device, backend):
    shape, wavelet, level = case
    x = numbers(*shape, dtype=dtype, device=device)
    compare(lambda x: dwt2(x, wavelet, level), lambda x: eager(x, wavelet, level), x)
    compare(lambda x: idwt2(x, wavelet, level), lambda x: eager(x, wavelet, level, True), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_is_orthonormal(case, dtype, device, backend):
    shape, wavelet, level = case
    x, c = (numbers(*shape, dtype=dtype, device=device, seed=s) for s in (0, 1))
    tables = 1e-10 if wavelet.startswith("sym") else 1e-13  # PyWavelets gives the sym filters to 11 digits
    torch.testing.assert_close(idwt2(dwt2(x, wavelet, level), wavelet, level), x, rtol=0, atol=tables)
    left, right = (dwt2(x, wavelet, level).conj() * c).sum(), (x.conj() * idwt2(c, wavelet, level)).sum()
    assert abs(left - right) < 1e-12 * abs(left)  # the pair is matched to rounding, whatever the tables say


@pytest.mark.parametrize("name", TABLE)
def test_filters_that_need_no_library_are_those_of_the_library(name):
    assert lowpass(name) == tuple(pywt.Wavelet(name).dec_lo[::-1])


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pywt", None)
    with pytest.raises(ModuleNotFoundError, match="wavelet 'coif9': expected PyWavelets to be installed"):
        lowpass("coif9")


def test_every_orthonormal_wavelet_is_accepted_and_no_other():
    accepted = {"haar"} | {f"db{k}" for k in range(1, 39)} | {f"sym{k}" for k in range(2, 21)}
    accepted |= {f"coif{k}" for k in range(1, 18)}
    for name in pywt.wavelist(kind="discrete"):
        if name in accepted:
            x = numbers(1, 1, 8, 8)
            torch.testing.assert_close(dwt2(x, name, 1), pywavelets(x, name, 1), rtol=0, atol=1e-13)
        else:
            with pytest.raises(ValueError, match="expected an orthonormal wavelet"):
                lowpass(name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_gradients_of_both_orders(dtype, device, backend):
    x = numbers(1, 2, 4, 8, dtype=dtype, device=device).requires_grad_()
    for function in (dwt2, idwt2):
        assert torch.autograd.gradcheck(lambda x, f=function: f(x, "db2", 2), x)
        assert torch.autograd.gradgradcheck(lambda x, f=function: f(x, "db2", 2).square(), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_any_memory_layout(dtype, device, backend):
    x = numbers(2, 2, 8, 16, dtype=dtype, device=device)
    for name, view in awkward_views(x).items():
        assert torch.equal(dwt2(view), dwt2(x)), name
        assert torch.equal(idwt2(view), idwt2(x)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_image_has_the_same_bits_in_any_batch(dtype, device, backend):
    x = numbers(11, 1, 144, 72, dtype=dtype, device=device)
    c = dwt2(x)
    back = idwt2(c)
    for some in (slice(3, 4), slice(2, 6)):  # few planes are shared out by rows, many by planes
        assert torch.equal(dwt2(x[some]), c[some])
        assert torch.equal(idwt2(c[some]), back[some])


def test_special_values_stay_where_they_are(device, backend):
    x = torch.zeros(2, 1, 32, 32, device=device)
    x[0, 0, 5, 6] = float("nan")
    c = dwt2(x, "db2", 2)
    assert c[0].isnan().any()
    assert not c[1].isnan().any()


def test_level_0_and_empty_batches(device, backend):
    x = numbers(2, 1, 5, 7, device=device)
    assert torch.equal(dwt2(x, level=0), x)
    assert dwt2(x[:0, :, :4, :4], "haar", 2).shape == (0, 1, 4, 4)


def test_arrays_in_arrays_out():
    x = np.random.default_rng(0).random((1, 1, 16, 8))
    c = dwt2(x)
    assert isinstance(c, np.ndarray)
    np.testing.assert_allclose(idwt2(c), x, atol=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: dwt2(x, level=4), "dwt2: x: expected height and width divisible by 16 for 4 levels, got 24x16"),
        (lambda x: idwt2(x, level=-1), "idwt2: level: expected an integer >= 0, got -1"),
        (lambda x: dwt2(x[0]), r"dwt2: x: expected images \[B, C, H, W\], got \(1, 24, 16\)"),
        (lambda x: dwt2(x.long()), "dwt2: x: expected a real or complex tensor"),
        (lambda x: dwt2(x, "bior2.2"), "dwt2: wavelet: expected an orthonormal wavelet .*, got 'bior2.2'"),
        (lambda x: dwt2(x, "sym99"), "dwt2: wavelet: expected an orthonormal wavelet .*, got 'sym99'"),
    ],
)
def test_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(1, 1, 24, 16))


@compiles
def test_registration_and_compilation(device):
    x = numbers(2, 1, 8, 8, device=device)
    opcheck(torch.ops.fastrecon.dwt2, (x.flatten(0, 1), list(lowpass("db2")), 2))
    opcheck(torch.ops.fastrecon.idwt2, (x.flatten(0, 1), list(lowpass("db2")), 2))
    assert_compiles(lambda x: idwt2(dwt2(x).square()), x.requires_grad_())
