"""dwt2, idwt2 and Wavelet with PyWavelets' other boundaries and wavelets: its numbers, exact adjoints, derivatives."""

import warnings
from importlib import resources

import numpy as np
import pytest
import pywt
import torch
from utils import numbers

from fastrecon.adapters import pywt as ours
from fastrecon.operators import Wavelet
from fastrecon.ops import dwt2, idwt2
from fastrecon.ops import wavelet_modes as modes

WAVELETS = ["haar", "db2", "db3", "sym4", "db8", "coif1", "bior2.2", "rbio3.1", "dmey"]
SIZES = [(32, 48), (33, 47), (17, 16)]

deep = pytest.mark.filterwarnings("ignore:Level value:UserWarning")  # PyWavelets', of more levels than it likes


def flat(coefficients):
    return [coefficients[0], *(band for bands in coefficients[1:] for band in bands)]


@deep
@pytest.mark.parametrize("mode", modes.MODES)
@pytest.mark.parametrize("wavelet", WAVELETS)
def test_numbers_of_pywavelets(wavelet, mode):
    for size in SIZES:
        for level in (0, 1, 3):
            x = numbers(2, *size)
            theirs = pywt.wavedec2(x.numpy(), wavelet, mode, level)
            mine = ours.wavedec2(x, wavelet, mode, level)
            for a, b in zip(flat(theirs), flat(mine), strict=True):
                np.testing.assert_allclose(b.numpy(), a, atol=1e-10)
            back = ours.waverec2(mine, wavelet, mode)
            np.testing.assert_allclose(back.numpy(), pywt.waverec2(theirs, wavelet, mode), atol=1e-10)


@deep
@pytest.mark.parametrize("mode", [m for m in modes.MODES if m != "periodization"])
@pytest.mark.parametrize("wavelet", ["db3", "sym4", "bior2.2"])
def test_one_array_and_its_adjoint(wavelet, mode):
    for size in SIZES:
        x = numbers(2, 1, *size)
        c = dwt2(x, wavelet, 2, mode)
        theirs = pywt.coeffs_to_array(pywt.wavedec2(x.numpy(), wavelet, mode, 2), axes=(-2, -1))[0]
        np.testing.assert_allclose(c.numpy(), theirs, atol=1e-10)
        torch.testing.assert_close(idwt2(c, wavelet, 2, mode, size=size), x)
        w = Wavelet(wavelet, 2, size=size, mode=mode)
        assert w.adjoint_test(x.shape) < 1e-14
        torch.testing.assert_close(w(x), c)


def test_zero_keeps_norms():
    x = numbers(1, 1, 31, 40)
    w = Wavelet("db8", 3, size=(31, 40), mode="zero")
    assert w.isometry
    assert w.norm() == 1
    torch.testing.assert_close(w(x).norm(), x.norm())
    torch.testing.assert_close(w.T(w(x)), x)
    assert not Wavelet("bior2.2", 3, mode="zero").isometry


@pytest.mark.parametrize("mode", ["zero", "symmetric", "periodic"])
@pytest.mark.parametrize("wavelet", ["db2", "bior2.2"])
def test_derivatives(wavelet, mode):
    x = numbers(1, 1, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dwt2(x, wavelet, 1, mode), x)
    c = dwt2(x.detach(), wavelet, 1, mode).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: idwt2(c, wavelet, 1, mode, size=(3, 4)), c)


def test_complex_and_arrays():
    x = numbers(1, 2, 16, 13, dtype=torch.complex128)
    c = dwt2(x, "db3", 2, "symmetric")
    torch.testing.assert_close(c.real, dwt2(x.real.contiguous(), "db3", 2, "symmetric"))
    assert isinstance(dwt2(x.numpy(), "db3", 2, "symmetric"), np.ndarray)


def test_arguments_of_pywavelets():
    x = np.random.default_rng(0).random((3, 33, 40))
    for mode in ("per", "sym", pywt.Modes.zero):
        theirs, mine = (lib.wavedec2(x, pywt.Wavelet("db3"), mode, axes=(0, 2)) for lib in (pywt, ours))
        for a, b in zip(flat(theirs), flat(mine), strict=True):
            assert type(b) is np.ndarray
            np.testing.assert_allclose(b, a, atol=1e-12)
    a, b = pywt.dwt2(x, "haar"), ours.dwt2(x, "haar")
    np.testing.assert_allclose(b[0], a[0], atol=1e-12)
    np.testing.assert_allclose(ours.idwt2(b, "haar"), pywt.idwt2(a, "haar"), atol=1e-12)
    assert ours.dwt2(np.arange(16).reshape(4, 4), "haar")[0].dtype == np.float64


MATLAB = {"zero": "zpd", "constant": "sp0", "symmetric": "sym", "reflect": "symw", "periodic": "ppd",
          "periodization": "per"}  # fmt: skip


def test_numbers_of_matlab():
    """PyWavelets comes with one level of MATLAB's for its own filters: an outer product has those of its factors."""
    path = resources.files(pywt) / "tests" / "data" / "dwt_matlabR2012a_result.npz"
    if not path.is_file():
        pytest.skip("this PyWavelets comes without its reference data")
    results, random, worst = np.load(str(path)), np.random.RandomState(1234), 0.0
    names = [name for family in ("db", "sym", "coif", "bior", "rbio") for name in pywt.wavelist(family)]
    for wavelet in names:
        length = pywt.Wavelet(wavelet).dec_len
        for n in (length, length + 1):
            data = random.randn(n)
            for mode, name in MATLAB.items():
                a, d = (np.atleast_1d(results[f"{name}_{wavelet}_{n}_{k}_pywtCoeffs"]) for k in ("ma", "md"))
                ca, (ch, cv, cd) = ours.dwt2(np.outer(data, data), wavelet, mode)
                for found, rows, columns in ((ca, a, a), (ch, d, a), (cv, a, d), (cd, d, d)):
                    worst = max(worst, float(np.abs(found - np.outer(rows.ravel(), columns.ravel())).max()))
    assert worst < 1e-10  # 2e-14, in truth; PyWavelets grants itself 1e-10 along one axis


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: dwt2(torch.zeros(1, 1, 8, 8), "sym4", 1, "smooth"), "dwt2: mode: expected one of periodization, zero"),
        (lambda: dwt2(torch.zeros(1, 1, 8, 8), "none", 1, "zero"), "dwt2: wavelet: expected a discrete wavelet"),
        (lambda: dwt2(torch.zeros(8, 8), "sym4", 1, "zero"), "dwt2: x: expected real or complex images"),
        (lambda: dwt2(torch.zeros(1, 1, 8, 8), "sym4", -1, "zero"), "dwt2: level: expected an integer in"),
        (lambda: dwt2(torch.zeros(1, 1, 8, 8), "bior2.2", 1), "dwt2: wavelet: expected an orthonormal wavelet"),
        (lambda: idwt2(torch.zeros(1, 1, 8, 8), "sym4", 1, "zero"), r"idwt2: size: expected \(H, W\)"),
        (lambda: idwt2(torch.zeros(1, 1, 8, 8), "sym4", 1, "zero", (8, 8)), "idwt2: c: expected coefficients"),
        (lambda: Wavelet(mode="zero").T(torch.zeros(1, 1, 8, 8)), r"Wavelet: size: expected \(H, W\)"),
        (lambda: ours.wavedec2(torch.zeros(8), "haar"), "wavedec2: axes: expected two axes"),
        (lambda: ours.wavedec2(torch.zeros(8, 8), "haar", "smooth"), "wavedec2: mode: expected one of"),
        (lambda: ours.waverec2([torch.zeros(4, 4), None], "haar"), "waverec2: coeffs: expected"),
    ],
)
def test_bad_input(call, words):
    with warnings.catch_warnings(), pytest.raises(ValueError, match=words):
        call()
